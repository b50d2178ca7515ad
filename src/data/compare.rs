//! Checks two splits for images in common, and a dataset and a model for the same classes.

use super::{Dataset, Item, Picture};
use crate::files;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// The largest image file that is compared, bytes.
const MAX_FILE: u64 = 256 << 20;

/// Says so where images of `val` are among those that are trained on, by content: figures on them flatter. Only files
/// of equal length are read.
pub fn overlap(train: &Dataset, val: &Dataset) -> Option<String> {
    let lengths: HashSet<u64> = train.items.par_iter().filter_map(length).collect();
    let alike: Vec<&Item> = val.items.par_iter().filter(|i| length(i).is_some_and(|n| lengths.contains(&n))).collect();
    let lengths: HashSet<u64> = alike.par_iter().copied().filter_map(length).collect();
    let candidates = train.items.par_iter().filter(|item| length(item).is_some_and(|n| lengths.contains(&n)));
    let known: HashMap<[u8; 32], &Item> = candidates.filter_map(|item| Some((content(item)?, item))).collect();
    let twin = |item: &&Item| content(item).and_then(|content| known.get(&content)).copied();
    let twins: Vec<(&Item, &Item)> = alike.par_iter().filter_map(|item| Some((*item, twin(item)?))).collect();
    let (first, twin) = twins.first()?;
    let (count, all) = (twins.len(), val.items.len());
    Some(format!(
        "{count} of {all} images of `val` are among those of `train` (the first: {} is {}): figures on them flatter",
        first.image.display(),
        twin.image.display()
    ))
}

/// Bytes of an item's picture.
fn length(item: &Item) -> Option<u64> {
    match &item.image {
        Picture::File(path) => std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len()),
        Picture::Grey(set, _) => Some((set.width * set.height) as u64),
    }
}

fn content(item: &Item) -> Option<[u8; 32]> {
    match &item.image {
        Picture::File(path) => files::read(path, MAX_FILE).ok().map(|bytes| Sha256::digest(bytes).into()),
        Picture::Grey(set, number) => {
            let len = set.width * set.height;
            set.pixels.get(number * len..(number + 1) * len).map(|pixels| Sha256::digest(pixels).into())
        }
    }
}

/// Says so where a model knows its classes by other names than the dataset, or in another order: then every figure of a
/// class is another class's. Classes that the model has no names for are not compared.
pub fn names_differ(model: &[String], data: &[String]) -> Option<String> {
    let unnamed = |(class, name): (usize, &String)| *name == format!("class {class}");
    if model.len() != data.len() || model.iter().enumerate().all(unnamed) {
        return None;
    }
    let pairs = model.iter().zip(data).enumerate().filter(|(class, (m, d))| m != d && !unnamed((*class, m)));
    let pairs: Vec<(usize, (&String, &String))> = pairs.collect();
    if pairs.is_empty() {
        return None;
    }
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let plain = |name: &str| name.to_lowercase().replace(['_', '-', ' '], "");
    let what = if sorted(model) == sorted(data) {
        "the same names in another order, so that every figure is another class's"
    } else if pairs.iter().all(|(_, (m, d))| plain(m) == plain(d)) {
        "names that are spelt differently"
    } else {
        "other names, so that figures may be those of other classes"
    };
    let shown = pairs.iter().take(4).map(|(class, (m, d))| format!("class {class} is `{m}` and `{d}`"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    let more = if pairs.len() > 4 { format!(" and {} more", pairs.len() - 4) } else { String::new() };
    Some(format!("model and dataset have {what}: {shown}{more}"))
}

/// Where a file may be, for messages.
pub(super) fn listed(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}
