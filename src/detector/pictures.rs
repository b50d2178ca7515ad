//! The images that a user names, and the file names of the images with drawn boxes.

use super::patterns;
use crate::files::{self, Inputs};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Endings of the names of image files; a folder stands for its files with these.
pub const IMAGES: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"];

/// Ends of the names of videos.
const VIDEOS: [&str; 10] = ["mp4", "avi", "mov", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "gif"];

/// The images that the arguments of a command line name.
#[derive(Debug, Default, PartialEq)]
pub struct Listed {
    /// Image files in order, and between them why an argument names none.
    pub images: Vec<Result<PathBuf, String>>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

impl Listed {
    /// The names by position; those of arguments that name no image are empty.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.images.iter().map(|image| image.as_deref().unwrap_or(Path::new("")))
    }
}

/// Lists the images of files, of folders (without those below), and of patterns such as `photos/*.jpg` that no shell
/// has expanded (with the feature `tools`). Names that begin with a dot are left out of folders and patterns.
pub fn list<P: AsRef<Path>>(words: &[P]) -> Listed {
    let mut listed = Listed::default();
    words.iter().for_each(|word| add(word.as_ref(), &mut listed));
    listed
}

fn add(word: &Path, listed: &mut Listed) {
    let text = word.to_string_lossy();
    let mut refuse = |why: &str| listed.images.push(Err(format!("{text}: {why}")));
    if word.is_dir() {
        return folder(word, listed);
    }
    if is_url(&text) {
        return refuse("is an address; nothing is downloaded here: fetch the image first, and name its file");
    }
    if has_end(word, &VIDEOS) {
        return refuse(
            "is a video, and images are read here: take its frames apart first, for example with \
             `ffmpeg -i VIDEO frame-%05d.png`, and name their folder",
        );
    }
    let is_pattern = text.contains(['*', '?', '[']) && fs::symlink_metadata(word).is_err();
    let Some(pattern) = word.to_str().filter(|_| is_pattern) else { return listed.images.push(Ok(word.into())) };
    match patterns::files(pattern) {
        Ok(files) => listed.images.extend(files.into_iter().map(Ok)),
        Err(why) => refuse(&why),
    }
}

/// Whether text begins like `https://`.
fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

fn folder(folder: &Path, listed: &mut Listed) {
    let text = folder.display();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return listed.images.push(Err(format!("{text}: {error}"))),
    };
    let visible = |entry: fs::DirEntry| {
        (!entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path().is_file()).then(|| entry.path())
    };
    let (mut images, others): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.flatten().filter_map(visible).partition(|path| has_end(path, &IMAGES));
    if images.is_empty() {
        let ends = IMAGES.map(|end| format!(".{end}")).join(", ");
        return listed.images.push(Err(format!("{text}: holds no image (a file that ends in {ends})")));
    }
    if !others.is_empty() {
        listed.notes.push(format!("{text}: {} files that are no images by their names are left out", others.len()));
    }
    images.sort();
    listed.images.extend(images.into_iter().map(Ok));
}

fn has_end(path: &Path, ends: &[&str]) -> bool {
    path.extension().is_some_and(|e| ends.iter().any(|end| e.eq_ignore_ascii_case(end)))
}

/// The names under which images with drawn boxes are saved in a folder: each its own, and none that of an image that is
/// read.
#[derive(Debug, Default)]
pub struct SaveNames {
    paths: Vec<PathBuf>,
    inputs: Inputs,
}

impl SaveNames {
    /// Names for images, which keep their own where they can: `b/x.jpg` becomes `x-2.jpg` beside the `x.jpg` of
    /// `a/x.jpg`, and what cannot be written in its own format becomes PNG.
    ///
    /// # Errors
    /// If the folder cannot be written to, or an image that is read would be replaced.
    pub fn new(folder: &Path, images: &[&Path]) -> io::Result<Self> {
        files::check_folder(folder)?;
        let inputs = Inputs::new(images);
        // File systems exist that take `x.jpg` and `X.JPG` for one.
        let key = |name: &Path| name.to_string_lossy().to_lowercase();
        let wanted: Vec<PathBuf> = images.iter().map(|image| wanted(image)).collect();
        let mut taken = BTreeSet::new();
        let first: Vec<bool> = wanted.iter().map(|name| taken.insert(key(name))).collect();
        let mut paths = Vec::with_capacity(images.len());
        for ((name, first), image) in wanted.into_iter().zip(first).zip(images) {
            let mut others = (2..).map(|number: usize| numbered(&name, number));
            let own = if first { None } else { others.find(|other| taken.insert(key(other))) };
            let path = folder.join(own.unwrap_or(name));
            if inputs.contains(&path) {
                let problem = format!(
                    "{} with its boxes would replace the image {}, which is read: name another folder",
                    image.display(),
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
            }
            paths.push(path);
        }
        Ok(Self { paths, inputs })
    }

    /// The path for an image, by its position.
    pub fn path(&self, position: usize) -> &Path {
        &self.paths[position]
    }

    /// What must not be replaced.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }
}

/// The image's own name, with an end that can be written. An argument that named no image gets a name that no file has.
fn wanted(image: &Path) -> PathBuf {
    if image.as_os_str().is_empty() {
        return PathBuf::new();
    }
    let name = PathBuf::from(image.file_name().unwrap_or("image.png".as_ref()));
    if has_end(&name, &["jpg", "jpeg", "png"]) { name } else { name.with_extension("png") }
}

/// `x-2.jpg` of `x.jpg`.
fn numbered(name: &Path, number: usize) -> PathBuf {
    let mut stem = name.file_stem().unwrap_or_default().to_owned();
    stem.push(format!("-{number}"));
    match name.extension() {
        Some(end) => PathBuf::from(stem).with_added_extension(end),
        None => stem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn folders_and_patterns_stand_for_their_images() {
        let folder =
            folder_with(&["p/b.JPG", "p/a.png", "p/.hidden.jpg", "p/notes.txt", "p/deep/c.jpg", "q/x.txt", "s[1].jpg"]);
        let root = folder.path();
        let of = |word: &str| {
            let listed = list(&[root.join(word)]);
            let short = |image: &Result<PathBuf, String>| match image {
                Ok(path) => path.strip_prefix(root).unwrap().display().to_string(),
                Err(why) => format!("! {}", why.rsplit_once(": ").unwrap().1),
            };
            (listed.images.iter().map(short).collect::<Vec<_>>(), listed.notes.len())
        };
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(of("p"), (names(&["p/a.png", "p/b.JPG"]), 1));
        assert_eq!(of("p/*"), (names(&["p/a.png", "p/b.JPG", "p/notes.txt"]), 0));
        assert_eq!(of("p/?.png"), (names(&["p/a.png"]), 0));
        assert_eq!(of("**/c.jpg"), (names(&["p/deep/c.jpg"]), 0));
        assert_eq!(of("s[1].jpg"), (names(&["s[1].jpg"]), 0), "a file of that very name");
        assert_eq!(of("p/*.gif2"), (names(&["! no file has a name like that"]), 0));
        assert!(of("q").0[0].starts_with("! holds no image"));
        assert_eq!(of("none.jpg"), (names(&["none.jpg"]), 0), "whoever opens it says what is wrong");
    }

    #[test]
    fn addresses_and_videos_get_a_sentence() {
        for (word, part) in [
            ("https://example.com/a.jpg", "is an address; nothing is downloaded"),
            ("rtsp://10.0.0.1/stream", "is an address"),
            ("street.MP4", "is a video"),
        ] {
            let listed = list(&[Path::new(word)]);
            assert!(listed.images[0].as_ref().unwrap_err().contains(part), "{listed:?}");
        }
    }

    #[test]
    fn every_image_is_saved_under_a_name_of_its_own() {
        let folder = folder_with(&["a/x.jpg", "b/x.jpg", "b/x-2.jpg", "b/X.JPG", "c/x.webp", "c/y"]);
        let images: Vec<PathBuf> =
            ["a/x.jpg", "b/x.jpg", "b/x-2.jpg", "b/X.JPG", "c/x.webp", "c/y"].map(|n| folder.path().join(n)).into();
        let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        let out = folder.path().join("out");
        let names = SaveNames::new(&out, &images).unwrap();
        let short: Vec<_> = (0..6).map(|at| names.path(at).strip_prefix(&out).unwrap().to_str().unwrap()).collect();
        assert_eq!(short, ["x.jpg", "x-3.jpg", "x-2.jpg", "X-4.JPG", "x.png", "y.png"]);
        assert!(!out.exists());
    }

    #[test]
    fn no_image_that_is_read_is_replaced() {
        let folder = folder_with(&["a/x.jpg", "b/y.jpg", "file"]);
        let (x, y) = (folder.path().join("a/x.jpg"), folder.path().join("b/y.jpg"));
        let error = SaveNames::new(&folder.path().join("b/../a"), &[&y, &x]).unwrap_err();
        assert!(error.to_string().contains("would replace the image"), "{error}");
        SaveNames::new(&folder.path().join("a"), &[&y]).unwrap();
        assert!(SaveNames::new(&folder.path().join("file"), &[&y]).is_err());
    }
}
