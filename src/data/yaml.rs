//! `data.yaml`: where the images are and what the classes are called.

use super::DataError;
use crate::files;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The largest description or image list that is read, bytes.
const MAX_TEXT: u64 = 64 << 20;

/// The most images of a split, and the deepest folder.
const MAX_IMAGES: usize = 10_000_000;
const MAX_DEPTH: usize = 16;

/// The keys we read; others, `download` among them, are ignored.
#[derive(Deserialize)]
struct Raw {
    path: Option<String>,
    train: Option<OneOrMany>,
    val: Option<OneOrMany>,
    test: Option<OneOrMany>,
    nc: Option<usize>,
    names: Option<Names>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Map(BTreeMap<usize, String>),
}

/// A checked description.
pub(super) struct Description {
    file: PathBuf,
    /// The folder that paths are relative to.
    pub root: PathBuf,
    splits: BTreeMap<&'static str, Vec<String>>,
    /// Class names in class order.
    pub names: Vec<String>,
}

/// Reads and checks a description.
pub(super) fn read(file: &Path) -> Result<Description, DataError> {
    let fail = |problem: String| DataError::Yaml { path: file.into(), problem };
    let text = files::read(file, MAX_TEXT).map_err(|source| DataError::Io { path: file.into(), source })?;
    let text = String::from_utf8(text).map_err(|_| fail("is not UTF-8 text".into()))?;
    let raw: Raw = serde_saphyr::from_str(&text).map_err(|e| fail(e.to_string()))?;
    let names = match (raw.names, raw.nc) {
        (Some(Names::List(names)), _) => names,
        (Some(Names::Map(map)), _) => {
            if let Some((position, (found, _))) =
                map.iter().enumerate().find(|(position, (found, _))| position != *found)
            {
                return Err(fail(format!(
                    "`names` has class {found} where class {position} was expected; they must run from 0 without gaps"
                )));
            }
            map.into_values().collect()
        }
        (None, Some(nc)) if nc <= 100_000 => (0..nc).map(|class| format!("class {class}")).collect(),
        (None, _) => return Err(fail("has neither `names` nor a sensible `nc`".into())),
    };
    if let Some(nc) = raw.nc.filter(|nc| *nc != names.len()) {
        return Err(fail(format!("`nc` is {nc}, but `names` has {} classes", names.len())));
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let root = raw.path.as_deref().map_or_else(|| folder.to_path_buf(), |path| folder.join(path));
    let list = |entry: Option<OneOrMany>| match entry {
        Some(OneOrMany::One(path)) => vec![path],
        Some(OneOrMany::Many(paths)) => paths,
        None => Vec::new(),
    };
    let splits = BTreeMap::from([("train", list(raw.train)), ("val", list(raw.val)), ("test", list(raw.test))]);
    Ok(Description { file: file.into(), root, splits, names })
}

impl Description {
    /// The images of a split, ordered by path.
    pub fn images(&self, split: &str) -> Result<Vec<PathBuf>, DataError> {
        let entries = self.splits.get(split).filter(|entries| !entries.is_empty());
        let entries = entries.ok_or_else(|| DataError::Yaml {
            path: self.file.clone(),
            problem: format!("has no `{split}:` entry; it names the folder or list of images"),
        })?;
        let mut images = BTreeSet::new();
        for entry in entries {
            let place = self.root.join(entry);
            let io = |source| DataError::Io { path: place.clone(), source };
            if place.is_dir() {
                walk(&place, 0, &mut images).map_err(io)?;
            } else if has_extension(&place, &["txt"]) {
                let text = files::read(&place, MAX_TEXT).map_err(io)?;
                let folder = place.parent().unwrap_or(Path::new("."));
                let lines = String::from_utf8_lossy(&text)
                    .lines()
                    .map(str::trim)
                    .filter(|l| !l.is_empty())
                    .map(str::to_owned)
                    .collect::<Vec<_>>();
                images.extend(lines.iter().take(MAX_IMAGES).map(|line| folder.join(line)).filter(|p| is_image(p)));
            } else {
                let missing = std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    format!("is neither a folder nor a .txt list (`{split}: {entry}` in {})", self.file.display()),
                );
                return Err(io(missing));
            }
        }
        if images.is_empty() {
            let looked =
                entries.iter().map(|entry| self.root.join(entry).display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(DataError::Empty { path: self.file.clone(), split: split.into(), looked });
        }
        Ok(images.into_iter().collect())
    }
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

fn is_image(path: &Path) -> bool {
    has_extension(path, &["jpg", "jpeg", "png"])
}

fn walk(folder: &Path, depth: usize, images: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // The depth bound also ends loops of links.
        if path.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, images)?;
        } else if is_image(&path) && images.len() < MAX_IMAGES {
            images.insert(path);
        }
    }
    Ok(())
}
