//! Classified pictures in folders: `train/CLASS/*.jpg`, and beside `train` the other splits by the names that
//! ultralytics takes. The classes are the folders of `train`, ordered by name.

use super::yaml::aliases;
use super::{DataError, Dataset, Item, Label, places};
use std::path::{Path, PathBuf};

/// The most classes.
const MAX_CLASSES: usize = 100_000;

/// Whether a folder holds such a set: it has a folder `train` with a folder in it.
pub(super) fn is_here(folder: &Path) -> bool {
    classes(&folder.join("train")).is_ok_and(|classes| !classes.is_empty())
}

/// The folders of classes in that of a split, ordered by name.
fn classes(split: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let io = |source| DataError::Io { path: split.into(), source };
    let mut classes = Vec::new();
    for entry in std::fs::read_dir(split).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') {
            classes.push((name, path));
        }
        if classes.len() > MAX_CLASSES {
            return Err(io(std::io::Error::other(format!("has more than {MAX_CLASSES} folders"))));
        }
    }
    classes.sort();
    Ok(classes)
}

/// The folder of a split; where there is none of `val`, that of `test` serves, and the other way round.
fn place(folder: &Path, split: &str, notes: &mut Vec<String>) -> Option<PathBuf> {
    let find = |split: &str| {
        let mut names = aliases(split);
        // In ultralytics' order.
        names.sort_by_key(|name| *name == "valid");
        names.into_iter().map(|name| folder.join(name)).find(|path| path.is_dir())
    };
    let other = match split {
        "val" => "test",
        "test" => "val",
        _ => return find(split),
    };
    find(split).or_else(|| {
        let found = find(other)?;
        notes.push(format!("there is no folder of `{split}`; `{other}` stands in for it ({})", found.display()));
        Some(found)
    })
}

/// One split of a set.
pub(super) fn open(folder: &Path, split: &str) -> Result<Dataset, DataError> {
    let mut notes = Vec::new();
    let known = classes(&folder.join("train"))?;
    let Some(place) = place(folder, split, &mut notes) else {
        let names = aliases(split).into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let problem = format!("has no folder of the split `{split}`; looked for {names} beside `train`");
        return Err(DataError::Idx { path: folder.into(), problem });
    };
    let names: Vec<String> = known.into_iter().map(|(name, _)| name).collect();
    let mut items = Vec::new();
    for (name, path) in classes(&place)? {
        let Ok(class) = names.binary_search(&name) else {
            let problem = format!("is no class of `train`, which has {} classes", names.len());
            return Err(DataError::Idx { path, problem });
        };
        let (images, left_out) = places::below(&path, split)?;
        notes.extend(left_out);
        let item = |image: PathBuf| Item { labels: vec![Label::whole(class)], ..Item::new(image.into()) };
        items.extend(images.into_iter().map(item));
    }
    if items.is_empty() {
        let looked = format!("the folders of classes in {}", place.display());
        return Err(DataError::Empty { path: folder.into(), split: split.into(), looked });
    }
    let empty = (0..names.len()).filter(|class| !items.iter().any(|item| item.class() == Some(*class)));
    let empty: Vec<&str> = empty.map(|class| names[class].as_str()).collect();
    if let Some(first) = empty.first() {
        notes.push(format!(
            "{} of {} classes have no picture in `{split}` (the first: {first})",
            empty.len(),
            names.len()
        ));
    }
    Ok(Dataset { names, items, notes, ..Dataset::default() })
}
