//! `data.yaml`: where the images are and what the classes are called.

use super::DataError;
use crate::files;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
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
    #[serde(default)]
    train: Texts,
    #[serde(default, alias = "validation")]
    val: Texts,
    #[serde(default)]
    test: Texts,
    nc: Option<usize>,
    names: Option<Names>,
}

/// A text or a list of them. Read by hand: behind `untagged`, a class called `y` or `no` would be taken for a boolean, and
/// one called `7` for a number.
#[derive(Default)]
struct Texts(Vec<String>);

/// Names as a list, or as a map from class numbers.
enum Names {
    List(Vec<String>),
    Map(BTreeMap<usize, String>),
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Texts;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.into()]))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Texts, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Texts)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list of names, or a map from class numbers to names")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Names, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Names::List)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Names, A::Error> {
                BTreeMap::deserialize(de::value::MapAccessDeserializer::new(map)).map(Names::Map)
            }
        }
        deserializer.deserialize_any(Reader)
    }
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
    // `path` means the folder beside the file or, as ultralytics has it, one below the working folder.
    let root = raw.path.map_or_else(|| folder.to_path_buf(), |path| first_there([folder.join(&path), path.into()]));
    let list = |texts: Texts| texts.0.into_iter().filter(|text| !text.is_empty()).collect();
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
        let mut visited = BTreeSet::new();
        for entry in entries {
            let place = self.place(entry);
            let io = |source| DataError::Io { path: place.clone(), source };
            if place.is_dir() {
                walk(&place, 0, &mut visited, &mut images).map_err(io)?;
            } else if has_extension(&place, &["txt"]) {
                let text = files::read(&place, MAX_TEXT).map_err(io)?;
                self.listed(&place, &String::from_utf8_lossy(&text), &mut images)?;
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
                entries.iter().map(|entry| self.place(entry).display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(DataError::Empty { path: self.file.clone(), split: split.into(), looked });
        }
        Ok(images.into_iter().collect())
    }

    /// Where an entry is. Exporters write `../train/images` for a folder that lies beside the file.
    fn place(&self, entry: &str) -> PathBuf {
        let beside = entry.strip_prefix("../").unwrap_or(entry);
        first_there([self.root.join(entry), self.root.join(beside)])
    }

    /// The images of a list, one a line, relative to the list, the dataset or the working folder.
    fn listed(&self, list: &Path, text: &str, images: &mut BTreeSet<PathBuf>) -> Result<(), DataError> {
        let folder = list.parent().unwrap_or(Path::new("."));
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        for (number, line) in lines.take(MAX_IMAGES) {
            let relative = line.strip_prefix("./").unwrap_or(line);
            let image = first_there([folder.join(relative), self.root.join(relative), relative.into()]);
            if !is_image(&image) || !image.is_file() {
                let problem =
                    format!("`{line}`, expected a .jpg, .jpeg or .png file; there is none at {}", image.display());
                return Err(DataError::Line { path: list.into(), line: number + 1, problem });
            }
            images.insert(image);
        }
        Ok(())
    }
}

/// The first of the places where something is, or the first of all.
fn first_there<const N: usize>(places: [PathBuf; N]) -> PathBuf {
    let found = places.iter().position(|place| place.exists()).unwrap_or(0);
    places.into_iter().nth(found).unwrap_or_default()
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

fn is_image(path: &Path) -> bool {
    has_extension(path, &["jpg", "jpeg", "png"])
}

/// Adds the images below a folder. A folder that links lead back to is entered once.
fn walk(
    folder: &Path,
    depth: usize,
    visited: &mut BTreeSet<PathBuf>,
    images: &mut BTreeSet<PathBuf>,
) -> std::io::Result<()> {
    if depth > MAX_DEPTH || !visited.insert(folder.canonicalize()?) {
        return Ok(());
    }
    let mut entries = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    // Whichever of two names of a folder is met first must not depend on the file system.
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, depth + 1, visited, images)?;
        } else if is_image(&path) && images.len() < MAX_IMAGES {
            images.insert(path);
        }
    }
    Ok(())
}
