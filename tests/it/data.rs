//! Datasets: the forms that are read, and what wrong ones say.

use crate::support;
use secateurs::data::{Dataset, Label};
use secateurs::vision::Image;
use std::fs;
use std::path::Path;

/// A folder with two labelled images and a background.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (image, labels) in [
        ("train/a", Some("0 .5 .5 .2 .2\n1 .1 .1 .2 .2\n")),
        ("train/deep/b", Some("1 .5 .5 .5 .5")),
        ("train/c", None),
    ] {
        let picture = folder.path().join(format!("images/{image}.png"));
        Image::new(4, 2, vec![7; 24]).save(&picture).unwrap();
        if let Some(labels) = labels {
            write(&format!("labels/{image}.txt"), labels);
        }
    }
    write("images/train/notes.md", "no image");
    write("list.txt", "./images/train/a.png\n\nimages/train/c.png\n");
    folder
}

fn open(folder: &Path, yaml: &str, split: &str) -> Result<Dataset, String> {
    let path = folder.join("data.yaml");
    fs::write(&path, yaml).unwrap();
    Dataset::open(&path, split).map_err(|e| e.to_string())
}

#[test]
fn every_form_of_description_is_read() {
    let folder = folder();
    let absolute = folder.path().display();
    let cases = [
        ("path: .\ntrain: images/train\nnames: [x, y]".to_owned(), 3),
        ("train: images/train\nnames: {0: x, 1: y}".to_owned(), 3),
        ("train: [images/train/deep, list.txt]\nnc: 2\nnames:\n  - x\n  - y\n".to_owned(), 3),
        (
            "train: list.txt\nnames: [x, y]\ndownload: |\n  import os; os.system('rm -rf /')\nanything: {a: [1]}"
                .to_owned(),
            2,
        ),
        (format!("path: {absolute}\ntrain: {absolute}/images/train\nval:\ntest: ''\nnames: [x, y]"), 3),
        ("path: ./\r\ntrain: ./images/train/\r\nnames: ['x', \"y\"]\r\n".to_owned(), 3),
        ("train: ../images/train\nnames: [x, y]".to_owned(), 3),
    ];
    for (yaml, images) in cases {
        let set = open(folder.path(), &yaml, "train").unwrap_or_else(|e| panic!("{yaml}: {e}"));
        assert_eq!(set.names, ["x", "y"], "{yaml}");
        assert_eq!(set.items.len(), images, "{yaml}");
        let labels = |name: &str| set.items.iter().find(|i| i.image.path().ends_with(name)).map(|i| i.labels.clone());
        if let Some(of_a) = labels("a.png") {
            assert_eq!(of_a[0], Label { class: 0, cx: 0.5, cy: 0.5, w: 0.2, h: 0.2 });
            assert_eq!(labels("c.png"), Some(vec![]), "an image without a file is a background");
        }
    }
}

#[test]
fn names_stay_as_they_are_written() {
    let folder = folder();
    let cases = ["[y, no]", "{0: y, 1: no}", "{0: 'y', 1: \"no\"}", "\n- y\n- no", "\n  '1': no\n  '0': y"];
    for names in cases {
        let set = open(folder.path(), &format!("train: images/train\nnames: {names}"), "train");
        assert_eq!(set.unwrap_or_else(|e| panic!("{names}: {e}")).names, ["y", "no"], "{names}");
    }
    let digits = open(folder.path(), "train: images/train\nnames: [0, 1]", "train").unwrap();
    assert_eq!(digits.names, ["0", "1"]);
}

#[test]
fn wrong_datasets_say_what_is_wrong() {
    let folder = folder();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::write(folder.path().join("holes.txt"), "images/train/a.png\nimages/train/gone.png\n").unwrap();
    let cases = [
        ("train: images/train\nnames: [x", "data.yaml"),
        ("[1, 2]", "data.yaml"),
        ("train: images/train", "names"),
        ("train: images/train\nnames: {0: x, 2: y}", "class 2 where class 1"),
        ("train: images/train\nnc: 3\nnames: [x, y]", "`nc` is 3"),
        ("val: images/train\nnames: [x, y]", "no `train:`"),
        ("train: images/trian\nnames: [x, y]", "images/trian"),
        ("train: list2.txt\nnames: [x, y]", "list2.txt"),
        ("train: holes.txt\nnames: [x, y]", "holes.txt:2: `images/train/gone.png`"),
        ("train: {a: b}\nnames: [x, y]", "a path or a list of paths"),
        ("train: images/train\nnames: 7", "a list of names"),
        ("train: empty\nnames: [x, y]", "no images; looked for .jpg, .jpeg, .png, .webp, .bmp, .tif and .tiff in"),
        ("path: elsewhere\ntrain: images/train\nnames: [x, y]", "elsewhere"),
        ("train: images/train\nnames: [x]", "labels/train/a.txt:2: class `1`"),
        ("train: images/train\nnames: []", "a.txt:1: class `0`"),
    ];
    for (yaml, expected) in cases {
        let error = open(folder.path(), yaml, "train").expect_err(yaml);
        assert!(error.contains(expected), "{yaml}: {error}");
        assert!(!error.contains('\n') || error.contains("cannot be used:\n  "), "{error}");
    }
    let missing = Dataset::open(Path::new("nowhere/data.yaml"), "val").unwrap_err().to_string();
    assert!(missing.contains("nowhere/data.yaml"), "{missing}");
    let directory = Dataset::open(folder.path(), "val").unwrap_err().to_string();
    assert!(directory.contains("folder"), "{directory}");
}

#[test]
fn wrong_labels_are_named_by_line() {
    let folder = folder();
    let cases = [
        ("0 .5 .5 .1 .1\n5 .5 .5 .1 .1", ":2: class `5`"),
        ("0 .5 .5 .1", ":1: 3 values"),
        ("0 .5 .5 nan .1", ":1: `nan`"),
        ("0 .5 .5 1e30 .1", ":1: `1e30`"),
        ("0 .5 .5 inf .1", ":1: `inf`"),
        ("\n\n0 .5 .5 .1 -.5", ":3: `-.5`"),
        ("0,.5,.5,.1,.1", ":1: has commas"),
        ("0.5 .5 .5 .1 .1", ":1: class `0.5`"),
        ("\u{0}\u{1}", ":1: class"),
    ];
    for (text, expected) in cases {
        fs::write(folder.path().join("labels/train/a.txt"), text).unwrap();
        let error = open(folder.path(), "train: images/train\nnames: [x, y]", "train").expect_err(text);
        assert!(error.contains("a.txt") && error.contains(expected), "{text}: {error}");
    }
    fs::write(folder.path().join("labels/train/a.txt"), "0 .5 .5 1.001 1\n0 .5 .5 1.001 1\n").unwrap();
    let set = open(folder.path(), "train: images/train\nnames: [x, y]", "train").unwrap();
    assert_eq!(
        set.items[0].labels,
        [Label { class: 0, cx: 0.5, cy: 0.5, w: 1.0, h: 1.0 }],
        "rounded out of the image, and twice"
    );
}

#[cfg(unix)]
#[test]
fn loops_of_links_end() {
    let folder = folder();
    std::os::unix::fs::symlink(folder.path().join("images/train"), folder.path().join("images/train/deep/again"))
        .unwrap();
    std::os::unix::fs::symlink(folder.path().join("images/train/c.png"), folder.path().join("images/train/link.png"))
        .unwrap();
    let set = open(folder.path(), "train: images/train\nnames: [x, y]", "train").unwrap();
    let mut names: Vec<_> = set.items.iter().map(|i| i.image.path().file_name().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["a.png", "b.png", "c.png", "link.png"], "no image counts twice");
}

#[test]
fn our_real_sets_open() {
    for (yaml, split, images, labels) in [
        ("coco-mini/data.yaml", "train", 184, 1529),
        ("coco-mini/data.yaml", "val", 50, 377),
        ("bccd/data.yaml", "train", 205, 2804),
        ("bccd/data.yaml", "val", 87, 1137),
    ] {
        let Some(path) = support::data(yaml) else { return };
        let set = Dataset::open(&path, split).unwrap();
        assert_eq!(
            (set.items.len(), set.items.iter().map(|i| i.labels.len()).sum::<usize>()),
            (images, labels),
            "{yaml} {split}"
        );
    }
}
