//! Datasets as users have them: what is left out, clipped or doubtful is said, and nothing of it changes figures silently.

use secateurs::data::{Dataset, Need, OpenOptions, names_differ, overlap};
use secateurs::vision::Image;
use std::fs;
use std::path::Path;

const NAMES: &str = "names: [x, y]\n";

/// A picture of noise: no two numbers give the same.
fn picture(seed: usize) -> Image {
    Image::new(32, 32, (0..3 * 32 * 32).map(|i| ((i * 31 + seed * 7919) % 253) as u8).collect())
}

fn write(folder: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// `data.yaml` with two images to train on, a and b, and two to judge by, c and d, all labelled.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (seed, name) in ["train/a", "train/b", "val/c", "val/d"].into_iter().enumerate() {
        write(folder.path(), &format!("images/{name}.jpg"), picture(seed).jpeg(90).unwrap());
        write(folder.path(), &format!("labels/{name}.txt"), format!("{} .5 .5 .2 .2\n", seed % 2));
    }
    write(folder.path(), "data.yaml", format!("train: images/train\nval: images/val\n{NAMES}"));
    folder
}

fn open(folder: &Path, split: &str) -> Result<Dataset, String> {
    Dataset::open(&folder.join("data.yaml"), split).map_err(|e| e.to_string())
}

fn described(folder: &Path, yaml: &str, split: &str) -> Result<Dataset, String> {
    write(folder, "data.yaml", yaml);
    open(folder, split)
}

fn files(set: &Dataset) -> Vec<String> {
    set.items.iter().map(|i| i.image.path().file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_split_without_labels_is_refused_and_single_ones_are_counted() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(open(path, "val").unwrap().notes, Vec::<String>::new());

    fs::remove_file(path.join("labels/val/c.txt")).unwrap();
    let set = open(path, "val").unwrap();
    let looked = path.join("labels/val/c.txt");
    let said = format!("1 of 2 images have no label file (the first looked for is {})", looked.display());
    assert_eq!((set.notes, set.items.len()), (vec![said], 2));

    write(path, "labels/val/d.txt", "\n");
    let error = open(path, "val").unwrap_err();
    assert!(error.contains("1 of the 2 images of `val` have no label file, those of the others are empty"), "{error}");
    write(path, "labels/val/c.txt", "");
    let error = open(path, "val").unwrap_err();
    assert!(error.contains("the label files of the 2 images of `val` have no object in them"), "{error}");

    fs::remove_dir_all(path.join("labels/val")).unwrap();
    let error = open(path, "val").unwrap_err();
    assert!(error.contains("none of the 2 images of `val` has a label file"), "{error}");
    assert!(error.contains(&looked.display().to_string()), "{error}");
    assert!(open(path, "train").is_ok(), "the other split has its labels");

    // Where only images are looked at, or COCO's annotations say what is there, none is needed.
    let options = OpenOptions { labels: Need::Ignored, ..OpenOptions::default() };
    let set = Dataset::open_with(&path.join("data.yaml"), "val", &options).unwrap();
    assert_eq!((set.items.len(), set.notes.len()), (2, 0));
    write(path, "annotations/instances_val.json", "{}");
    assert!(open(path, "val").is_ok());
}

#[test]
fn pictures_that_are_cut_off_are_refused_by_name_or_skipped_with_a_count() {
    let folder = folder();
    let bytes = fs::read(folder.path().join("images/val/c.jpg")).unwrap();
    write(folder.path(), "images/val/c.jpg", &bytes[..bytes.len() / 2]);
    let mut set = open(folder.path(), "val").unwrap();
    let error = set.items[0].image.load().unwrap_err().to_string();
    assert!(error.contains("images/val/c.jpg: is cut off"), "{error}");
    // Without decoding what is whole, a job finds it before anything else is done.
    let check = |name: &str| Image::check(&folder.path().join(name)).map_err(|e| e.to_string());
    assert_eq!(check("images/val/d.jpg"), Ok(()));
    assert!(check("images/val/c.jpg").unwrap_err().contains("c.jpg: is cut off"));
    picture(1).save(&folder.path().join("whole.png")).unwrap();
    let bytes = fs::read(folder.path().join("whole.png")).unwrap();
    write(folder.path(), "cut.png", &bytes[..bytes.len() - 30]);
    assert_eq!(check("whole.png"), Ok(()));
    assert!(check("cut.png").unwrap_err().contains("cut.png: not a readable image"));
    set.skip_unreadable().unwrap();
    assert_eq!(files(&set), ["d.jpg"]);
    assert!(
        set.notes[0].starts_with("1 of 2 images cannot be read and were left out; the first is "),
        "{:?}",
        set.notes
    );
    assert!(set.notes[0].contains("c.jpg: is cut off"), "{:?}", set.notes);
    write(folder.path(), "images/val/d.jpg", "no image");
    let mut set = open(folder.path(), "val").unwrap();
    assert!(set.skip_unreadable().unwrap_err().to_string().contains("none of 2 images can be read"));
}

#[test]
fn other_formats_are_read_and_what_is_not_read_is_counted_once() {
    let folder = folder();
    let image = picture(9);
    let pixels = image::RgbImage::from_raw(32, 32, image.data().to_vec()).unwrap();
    for ending in ["webp", "bmp", "tif", "TIFF", "png"] {
        let path = folder.path().join(format!("images/val/e_{ending}.{ending}"));
        pixels.save_with_format(&path, image::ImageFormat::from_extension(ending).unwrap()).unwrap();
        write(folder.path(), &format!("labels/val/e_{ending}.txt"), "0 .5 .5 .2 .2");
        assert!(Image::open(&path).unwrap() == image, "{ending}");
        // A file without its end is refused, whatever its kind.
        let bytes = fs::read(&path).unwrap();
        write(folder.path(), "cut", &bytes[..bytes.len() * 2 / 3]);
        assert!(Image::open(&folder.path().join("cut")).is_err(), "{ending}");
    }
    for name in ["f.gif", "g.gif", "h.heic", "notes", "c.txt"] {
        write(folder.path(), &format!("images/val/{name}"), "x");
    }
    for hidden in ["._c.jpg", ".ipynb_checkpoints/c-checkpoint.jpg", ".DS_Store"] {
        write(folder.path(), &format!("images/val/{hidden}"), "x");
    }
    let set = open(folder.path(), "val").unwrap();
    assert_eq!(files(&set), ["c.jpg", "d.jpg", "e_TIFF.TIFF", "e_bmp.bmp", "e_png.png", "e_tif.tif", "e_webp.webp"]);
    assert_eq!(set.items.iter().filter(|item| item.image.load().is_ok()).count(), 7);
    let [others, hidden] = &set.notes[..] else { panic!("{:?}", set.notes) };
    assert!(others.starts_with("4 files among the images of `val` are left out"), "{others}");
    assert!(others.ends_with(": 2 .gif, 1 without an ending, 1 .heic"), "{others}");
    assert!(hidden.starts_with("3 hidden files or folders"), "{hidden}");
}

#[test]
fn all_bad_label_lines_are_listed_and_harmless_ones_are_counted() {
    let folder = folder();
    let path = folder.path();
    write(path, "labels/val/c.txt", "0 .5 .5 0 .1\n0 .5 .5 1.004 .5\n1 .5 .5 .1 .1\n1 .5 .5 .1 .1\n");
    write(path, "labels/val/d.txt", "0 .2 .2 .4 .2 .3 .2\n");
    let set = open(path, "val").unwrap();
    assert_eq!(set.items.iter().map(|item| item.labels.len()).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(set.items[0].labels[0].w, 1.0);
    assert_eq!(
        set.notes,
        [
            "2 label lines with a box of no width or height were left out",
            "1 label lines with values a hair outside the image were clipped to it",
            "1 label lines that stand there twice count once",
        ]
    );
    write(path, "labels/val/c.txt", "0 .5 .5 .1 .1\n2 .5 .5 .1 .1\n0,.5,.5,.1,.1\n");
    write(path, "labels/val/d.txt", "0 nan .5 .1 .1\n".repeat(30));
    let error = open(path, "val").unwrap_err();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 22, "{error}");
    assert_eq!(lines[0], "32 label lines cannot be used:");
    assert!(lines[1].ends_with("labels/val/c.txt:2: class `2`, expected 0 to 1"), "{error}");
    assert!(lines[2].ends_with("labels/val/c.txt:3: has commas, expected spaces between the values"), "{error}");
    assert!(lines[3].ends_with("labels/val/d.txt:1: `nan`, expected a number from 0 to 1"), "{error}");
    assert_eq!(lines[21], "  and 12 more");
}

#[test]
fn marks_before_a_text_are_no_part_of_it() {
    let folder = folder();
    let path = folder.path();
    write(path, "labels/val/c.txt", "\u{feff}1 .5 .5 .2 .2\r\n0 .1 .1 .1 .1\r\n");
    write(path, "list.txt", "\u{feff}images/val/c.jpg\r\n./images/val/d.jpg\r\n");
    let set = described(path, &format!("\u{feff}val: list.txt\r\n{NAMES}"), "val").unwrap();
    assert_eq!(files(&set), ["c.jpg", "d.jpg"]);
    assert_eq!(set.items[0].labels.iter().map(|label| label.class).collect::<Vec<_>>(), [1, 0]);
    write(path, "labels/val/c.txt", [0xff, 0xfe, b'1', 0]);
    let error = open(path, "val").unwrap_err();
    assert!(error.ends_with("labels/val/c.txt: is UTF-16 text, expected UTF-8"), "{error}");
}

#[test]
fn names_that_mean_another_class_are_told() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let said = |model: &[&str], data: &[&str]| names_differ(&names(model), &names(data)).unwrap_or_default();
    let swapped = said(&["RBC", "WBC", "Platelets"], &["Platelets", "WBC", "RBC"]);
    assert_eq!(
        swapped,
        "model and dataset have the same names in another order, so that every figure is another class's: class 0 is \
         `RBC` and `Platelets`, class 2 is `Platelets` and `RBC`"
    );
    assert!(said(&["traffic light"], &["Traffic_Light"]).contains("spelt differently"));
    assert!(
        said(&["a", "b"], &["a", "c"]).contains("other names, so that figures may be those of other classes: class 1")
    );
    assert!(said(&["a", "b", "c", "d", "e", "f"], &["1", "2", "3", "4", "5", "6"]).ends_with(" and 2 more"));
    for (model, data) in [(&["a", "b"][..], &["a", "b"][..]), (&[], &["a"]), (&["class 0", "class 1"], &["a", "b"])] {
        assert_eq!(said(model, data), "", "{model:?}");
    }
}

#[test]
fn images_that_are_trained_on_and_judged_by_are_told() {
    let folder = folder();
    let path = folder.path();
    let warned = |yaml: &str| {
        let sets = ["train", "val"].map(|split| described(path, &format!("{yaml}\n{NAMES}"), split).unwrap());
        overlap(&sets[0], &sets[1])
    };
    assert_eq!(warned("train: images/train\nval: images/val"), None);
    let same = warned("train: images/train\nval: images/train").unwrap();
    assert!(same.starts_with("2 of 2 images of `val` are among those of `train`"), "{same}");
    // Another name, the same picture.
    fs::copy(path.join("images/train/b.jpg"), path.join("images/val/renamed.jpg")).unwrap();
    let copied = warned("train: images/train\nval: images/val").unwrap();
    assert!(copied.starts_with("1 of 3 images of `val`") && copied.contains("renamed.jpg"), "{copied}");
}

#[test]
fn splits_and_annotations_are_found_under_all_their_names() {
    let folder = folder();
    let path = folder.path();
    for key in ["val", "valid", "validation"] {
        let yaml = format!("train: images/train\n{key}: images/val\n{NAMES}");
        for split in ["val", "valid", "validation"] {
            assert_eq!(files(&described(path, &yaml, split).unwrap()), ["c.jpg", "d.jpg"], "{key} {split}");
        }
        let error = described(path, &yaml, "minival").unwrap_err();
        assert!(error.contains("no `minival:` entry") && error.ends_with("it has `train`, `val`"), "{error}");
    }
    let error = described(path, NAMES, "val").unwrap_err();
    assert!(error.ends_with("it names no split at all"), "{error}");

    let found = |path: &Path| {
        let set = open(path, "val").unwrap();
        (set.annotations.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()), set.notes)
    };
    described(path, &format!("val: images/val\n{NAMES}"), "val").unwrap();
    assert_eq!(found(path), (None, vec![]));
    write(path, "annotations/instances_train2017.json", "{}");
    write(path, "annotations/instances_val2017.json", "{}");
    let (name, notes) = found(path);
    assert_eq!(name.as_deref(), Some("instances_val2017.json"));
    assert_eq!(notes, ["the objects of `val` are those of annotations/instances_val2017.json"]);
    write(path, "annotations/instances_val2014.json", "{}");
    let (name, notes) = found(path);
    assert!(
        name.is_none() && notes[0].contains("instances_val2014.json, instances_val2017.json none is used"),
        "{notes:?}"
    );
    // The folder of the images says which year it is.
    fs::rename(path.join("images/val"), path.join("images/val2014")).unwrap();
    fs::rename(path.join("labels/val"), path.join("labels/val2014")).unwrap();
    described(path, &format!("val: images/val2014\n{NAMES}"), "val").unwrap();
    assert_eq!(found(path).0.as_deref(), Some("instances_val2014.json"));
    write(path, "annotations/instances_val.json", "{}");
    assert_eq!(found(path).0.as_deref(), Some("instances_val.json"));
    let options = OpenOptions { annotations: Some("mine.json".into()), ..OpenOptions::default() };
    let set = Dataset::open_with(&path.join("data.yaml"), "val", &options).unwrap();
    assert_eq!(set.annotations.as_deref(), Some(Path::new("mine.json")));
}

#[test]
fn wrong_places_say_what_was_tried() {
    let folder = folder();
    let path = folder.path();
    write(path, "lists/val.txt", "nowhere/e.jpg\n");
    write(path, "lists/good.txt", "../images/val/c.jpg\nimages/val/d.jpg\n");
    let shown = |place: &str| path.join(place).display().to_string();
    let astray = [
        "`path: elsewhere` does not exist either (tried ".to_owned(),
        format!("tried {}", shown("elsewhere/images/val")),
        shown("elsewhere"),
    ];
    let cases = [
        ("val: images/vall", vec![format!("`val: images/vall` is not there; tried {}", shown("images/vall"))]),
        ("val: ../elsewhere", vec![shown("../elsewhere"), shown("elsewhere")]),
        ("val: images\\val", vec!["; folders are separated by `/`, not by `\\`".into()]),
        ("val: images/val/c.jpg", vec!["is neither a folder nor a .txt list".into()]),
        ("path: elsewhere\nval: images/val", astray.to_vec()),
        ("val: lists/val.txt", vec!["val.txt:1: ".into(), shown("lists/nowhere/e.jpg"), shown("nowhere/e.jpg")]),
    ];
    for (yaml, expected) in cases {
        let error = described(path, &format!("{yaml}\n{NAMES}"), "val").unwrap_err();
        for part in expected {
            assert!(error.contains(&part), "{yaml}: {error}\nwithout {part}");
        }
    }
    let set = described(path, &format!("val: lists/good.txt\n{NAMES}"), "val").unwrap();
    assert_eq!(set.items.len(), 2, "relative to the list, and to the dataset");
}

#[test]
fn descriptions_are_refused_in_the_words_of_those_who_write_them() {
    let folder = folder();
    for (yaml, expected) in [
        (
            "val: images/val\nval: images/train\nnames: [x, y]",
            "line 2: `val` stands there a second time; keep one of them",
        ),
        (
            "val: images/val\nvalidation: images/val\nnames: [x, y]",
            "has both `val:` and `validation:`, which mean the same split; keep one of them",
        ),
        ("val: images/val\nnames: [x, ~]", "`names`: class 1 has no name (null)"),
        ("val: images/val\nnames: {0: x, 1: }", "`names`: class 1 has no name (null)"),
        ("val: [images/val, ~]\nnames: [x, y]", "line 1: has no value (null), expected a text"),
        ("", "is empty, expected the description of a dataset"),
        ("val: images/val\nnames: [x, y", "line "),
        ("val: images/val\nnames: {0: {a: b}}", "line 2"),
        ("just a text", "is not the description of a dataset"),
    ] {
        let error = described(folder.path(), yaml, "val").unwrap_err();
        assert!(error.contains(expected), "{yaml}: {error}");
        for word in ["Policy", "Option", "serde", "deserialize"] {
            assert!(!error.contains(word), "{yaml}: {error}");
        }
    }
    // What only looks like null, or like a truth value, is a name.
    let set = described(folder.path(), "val: images/val\nnames: ['null', off]", "val").unwrap();
    assert_eq!(set.names, ["null", "off"]);
}

#[test]
fn small_files_that_declare_very_much_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let header = |magic: u8, sides: &[u32]| {
        let sides = sides.iter().flat_map(|side| side.to_be_bytes());
        [0, 0, 8, magic].into_iter().chain(sides).collect::<Vec<u8>>()
    };
    let gz = |name: &str, head: Vec<u8>, zeros: usize| {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &[head, vec![0; zeros]].concat()).unwrap();
        packed.finish().unwrap();
    };
    let pictures = 20_000_000;
    gz("train-labels-idx1-ubyte.gz", header(1, &[pictures]), pictures as usize);
    gz("train-images-idx3-ubyte.gz", header(3, &[pictures, 1, 1]), pictures as usize);
    let error = Dataset::open(folder.path(), "train").unwrap_err().to_string();
    assert!(error.contains("says it holds 20000000 pictures, but has only"), "{error}");
    gz("train-images-idx3-ubyte.gz", header(3, &[100, 1000, 1000]), 1000);
    let error = Dataset::open(folder.path(), "train").unwrap_err().to_string();
    assert!(error.contains("says it holds [100, 1000, 1000] bytes, expected at most"), "{error}");
    // Labels in order pack to nothing, and are fine.
    gz("train-labels-idx1-ubyte.gz", header(1, &[500]), 500);
    gz("train-images-idx3-ubyte.gz", header(3, &[500, 28, 28]), 500 * 28 * 28);
    assert_eq!(Dataset::open(folder.path(), "train").unwrap().items.len(), 500);
}

#[cfg(unix)]
#[test]
fn pipes_among_images_and_labels_are_refused_and_not_waited_for() {
    let folder = folder();
    let pipe = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(folder.path().join(name)).status().unwrap();
        assert!(made.success());
    };
    pipe("images/val/e.png");
    let error = open(folder.path(), "val").unwrap_err();
    assert!(error.contains("e.png: is a pipe, a socket or a device"), "{error}");
    fs::remove_file(folder.path().join("images/val/e.png")).unwrap();
    fs::remove_file(folder.path().join("labels/val/d.txt")).unwrap();
    pipe("labels/val/d.txt");
    let error = open(folder.path(), "val").unwrap_err();
    assert!(error.contains("d.txt: is a pipe, a socket or a device"), "{error}");
    pipe("model");
    let error = secateurs::import::load(&folder.path().join("model")).unwrap_err().to_string();
    assert!(error.contains("model: is a pipe, a socket or a device"), "{error}");
}
