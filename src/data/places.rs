//! Finds what a description names: folders and lists of images, and COCO's annotations.

use super::compare::listed;
use super::yaml::{Description, aliases, first_there};
use super::{DataError, text};
use crate::detector::pictures::IMAGES;
use crate::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The largest image list that is read, bytes.
const MAX_TEXT: u64 = 64 << 20;

/// The most images of a split, and the deepest folder.
const MAX_IMAGES: usize = 10_000_000;
const MAX_DEPTH: usize = 16;

/// The endings of image files as messages name them: `.jpg, .jpeg and .png`.
pub(super) fn endings_read() -> String {
    let text = IMAGES.map(|ending| format!(".{ending}")).join(", ");
    text.rsplit_once(", ").map_or(text.clone(), |(others, last)| format!("{others} and {last}"))
}

/// The different endings that a note lists.
const MAX_ENDINGS: usize = 6;

/// Images, and what lies beside them.
#[derive(Default)]
struct Search {
    images: BTreeSet<PathBuf>,
    visited: BTreeSet<PathBuf>,
    /// Files that are no images, by ending. Labels may lie there too, and do not count.
    others: BTreeMap<String, usize>,
    /// Files and folders whose name begins with a dot.
    hidden: usize,
}

impl Description {
    /// The images of a split, ordered by path, and what the user should know about what was left out.
    pub fn images(&self, split: &str) -> Result<(Vec<PathBuf>, Vec<String>), DataError> {
        let entries = self.entries(split)?;
        let mut search = Search::default();
        for entry in entries {
            let place = first_there(self.places(entry));
            let io = |source| DataError::Io { path: place.clone(), source };
            if place.is_dir() {
                search.walk(&place, 0)?;
            } else if has_ending(&place, &["txt"]) && place.exists() {
                let bytes = files::read(&place, MAX_TEXT).map_err(io)?;
                self.list(&place, &text::decode(&place, &bytes)?, &mut search)?;
            } else {
                return Err(self.missing(split, entry));
            }
        }
        if search.images.is_empty() {
            let looked = entries.iter().map(|entry| first_there(self.places(entry)).display().to_string());
            let looked = looked.collect::<Vec<_>>().join(", ");
            return Err(DataError::Empty { path: self.file.clone(), split: split.into(), looked });
        }
        let notes = search.notes(split);
        Ok((search.images.into_iter().collect(), notes))
    }

    /// What the description says about a split.
    fn entries(&self, split: &str) -> Result<&[String], DataError> {
        if let Some(entries) = self.splits.get(split).filter(|entries| !entries.is_empty()) {
            return Ok(entries);
        }
        let there = self.splits.iter().filter(|(_, entries)| !entries.is_empty()).map(|(name, _)| format!("`{name}`"));
        let there = match there.collect::<Vec<_>>() {
            none if none.is_empty() => "it names no split at all".to_owned(),
            some => format!("it has {}", some.join(", ")),
        };
        let problem = format!("has no `{split}:` entry, which names the folder or list of images; {there}");
        Err(DataError::Yaml { path: self.file.clone(), problem })
    }

    /// Where an entry may be. Exporters write `../train/images` for a folder that lies beside the file.
    fn places(&self, entry: &str) -> [PathBuf; 2] {
        let beside = entry.strip_prefix("../").unwrap_or(entry);
        [self.root.join(entry), self.root.join(beside)]
    }

    /// An entry that is nowhere: what was tried, and why it may be wrong.
    fn missing(&self, split: &str, entry: &str) -> DataError {
        let [first, second] = self.places(entry);
        let tried = if first == second { vec![first.clone()] } else { vec![first.clone(), second.clone()] };
        let is = [first, second].iter().any(|place| place.exists());
        let what = if is { "is neither a folder nor a .txt list" } else { "is not there" };
        let mut problem = format!("`{split}: {entry}` {what}; tried {}", listed(&tried));
        if entry.contains('\\') {
            problem += "; folders are separated by `/`, not by `\\`";
        }
        if let Some((path, tried)) = &self.astray {
            problem += &format!("; `path: {path}` does not exist either (tried {})", listed(tried));
        }
        DataError::Yaml { path: self.file.clone(), problem }
    }

    /// The images of a list, one a line, relative to the list, the dataset or the working folder.
    fn list(&self, list: &Path, text: &str, search: &mut Search) -> Result<(), DataError> {
        let folder = list.parent().unwrap_or(Path::new("."));
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        for (number, line) in lines.take(MAX_IMAGES) {
            let fail = |problem| DataError::Line { path: list.into(), line: number + 1, problem };
            let relative = line.strip_prefix("./").unwrap_or(line);
            let places = [folder.join(relative), self.root.join(relative), relative.into()];
            let image = first_there(places.clone());
            if !is_image(&image) {
                return Err(fail(format!("`{line}`, expected an image file: {}", endings_read())));
            }
            if !image.is_file() {
                let mut tried = places.to_vec();
                tried.dedup();
                let hint = if line.contains('\\') { "; folders are separated by `/`, not by `\\`" } else { "" };
                return Err(fail(format!("`{line}`, expected an image file; tried {}{hint}", listed(&tried))));
            }
            if is_hidden(&image) {
                search.hidden += 1;
            } else {
                search.images.insert(image);
            }
        }
        Ok(())
    }

    /// The COCO annotations of a split that lie with the dataset: `annotations/instances_<split>.json`, or, as COCO
    /// itself names them, with the year (`instances_val2017.json`).
    pub fn annotations(&self, split: &str, notes: &mut Vec<String>) -> Result<Option<PathBuf>, DataError> {
        let folder = self.root.join("annotations");
        let stems = self.entries(split)?.iter().filter_map(|entry| Path::new(entry).file_stem()?.to_str());
        let years = |stem: &str| {
            let year = aliases(split).iter().find_map(|alias| stem.strip_prefix(alias));
            year.is_some_and(|year| year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()))
        };
        let own = aliases(split).into_iter().chain(stems.filter(|stem| years(stem)));
        let known = own.map(|stem| folder.join(format!("instances_{stem}.json"))).find(|path| path.is_file());
        if known.is_some() {
            return Ok(known);
        }
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(None) };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let of_a_year = |name: &String| {
            name.strip_prefix("instances_").and_then(|name| name.strip_suffix(".json")).is_some_and(years)
        };
        let mut found: Vec<String> = names.filter(of_a_year).collect();
        found.sort();
        match &found[..] {
            [] => Ok(None),
            [one] => {
                notes.push(format!("the objects of `{split}` are those of annotations/{one}"));
                Ok(Some(folder.join(one)))
            }
            several => {
                let several = several.join(", ");
                notes
                    .push(format!("of the annotations {several} none is used: which of them is for `{split}` is open"));
                Ok(None)
            }
        }
    }
}

/// The images below a folder, ordered by path, and what was left out.
pub(super) fn below(folder: &Path, split: &str) -> Result<(Vec<PathBuf>, Vec<String>), DataError> {
    let mut search = Search::default();
    search.walk(folder, 0)?;
    let notes = search.notes(split);
    Ok((search.images.into_iter().collect(), notes))
}

impl Search {
    /// Adds the images below a folder. A folder that links lead back to is entered once.
    fn walk(&mut self, folder: &Path, depth: usize) -> Result<(), DataError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| DataError::Io { path, source }
        };
        if depth > MAX_DEPTH || !self.visited.insert(folder.canonicalize().map_err(io(folder))?) {
            return Ok(());
        }
        let entries = std::fs::read_dir(folder).map_err(io(folder))?;
        let mut entries = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>().map_err(io(folder))?;
        // Whichever of two names of a folder is met first must not depend on the file system.
        entries.sort();
        for path in entries {
            if is_hidden(&path) {
                self.hidden += 1;
            } else if path.is_dir() {
                self.walk(&path, depth + 1)?;
            } else if is_image(&path) && self.images.len() < MAX_IMAGES {
                // A pipe or a dead link is refused here, not when it is opened.
                if !std::fs::metadata(&path).map_err(io(&path))?.is_file() {
                    let problem = std::io::Error::other("is a pipe, a socket or a device, expected an image file");
                    return Err(io(&path)(problem));
                }
                self.images.insert(path);
            } else if !has_ending(&path, &["txt"]) {
                let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
                *self.others.entry(ending.unwrap_or_default()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// What was left out.
    fn notes(&self, split: &str) -> Vec<String> {
        let mut notes = Vec::new();
        let mut endings: Vec<(&String, usize)> = self.others.iter().map(|(ending, count)| (ending, *count)).collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if !endings.is_empty() {
            let all: usize = endings.iter().map(|(_, count)| count).sum();
            let shown = endings.iter().take(MAX_ENDINGS).map(|(ending, count)| match ending.as_str() {
                "" => format!("{count} without an ending"),
                ending => format!("{count} .{ending}"),
            });
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = if endings.len() > MAX_ENDINGS { ", and others" } else { "" };
            notes.push(format!(
                "{all} files among the images of `{split}` are left out, as only {} are read: {shown}{more}",
                endings_read()
            ));
        }
        if self.hidden > 0 {
            notes.push(format!("{} hidden files or folders among the images of `{split}` are left out", self.hidden));
        }
        notes
    }
}

fn has_ending(path: &Path, known: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

fn is_image(path: &Path) -> bool {
    has_ending(path, &IMAGES)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
