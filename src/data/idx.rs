//! The IDX files of MNIST and of sets in its form (LeCun, Cortes and Burges, "The MNIST database of handwritten
//! digits", 1998): grey pictures of one size and one class number each, plain or compressed by gzip.
//!
//! A file says in its header how much follows. That much is read, and not a byte more: a small file that unpacks to a
//! huge one is refused, and so is one that declares more pictures than its bytes can hold.

use super::picture::{GreySet, Picture};
use super::{DataError, Dataset, Item, Label};
use crate::files;
use flate2::read::GzDecoder;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes a file may unpack to.
const MAX_BYTES: usize = 1 << 30;

/// What a file may unpack to: this often its own size, and this many bytes more (numbers in order pack to nothing).
const MAX_RATIO: usize = 100;
const SLACK: usize = 64 << 20;

/// Pictures that a file of any size may declare; further ones need four bytes each.
const FREE_PICTURES: usize = 1000;

/// The largest side of a picture.
const MAX_SIDE: usize = 4096;

/// Whether a folder holds such a set.
pub(super) fn is_here(folder: &Path) -> bool {
    place(folder, "train", "images", 3).is_ok()
}

/// One split: `train`, or `val` and `test`, which are the same here.
pub(super) fn open(folder: &Path, split: &str) -> Result<Dataset, DataError> {
    let stem = match split {
        "train" => "train",
        "val" | "test" => "t10k",
        _ => {
            let problem = format!("has no split `{split}`; there are `train` and `val`");
            return Err(DataError::Idx { path: folder.into(), problem });
        }
    };
    let path = place(folder, stem, "images", 3)?;
    let ([count, height, width], pixels) = read::<3>(&path)?;
    if [height, width].iter().any(|side| !(1..=MAX_SIDE).contains(side)) || count == 0 {
        let problem =
            format!("holds {count} pictures of {width} x {height}, expected some with sides up to {MAX_SIDE}");
        return Err(DataError::Idx { path, problem });
    }
    let label_path = place(folder, stem, "labels", 1)?;
    let ([labelled], labels) = read::<1>(&label_path)?;
    if labelled != count {
        let problem = format!("holds {labelled} labels for the {count} pictures of {}", path.display());
        return Err(DataError::Idx { path: label_path, problem });
    }
    // What there is to learn decides how many classes there are.
    let learned = if stem == "train" { labels.clone() } else { read::<1>(&place(folder, "train", "labels", 1)?)?.1 };
    let classes = learned.iter().map(|label| usize::from(*label) + 1).max().unwrap_or(0);
    if let Some(at) = labels.iter().position(|label| usize::from(*label) >= classes) {
        let problem = format!("picture {at} has class {}, the training labels end at {}", labels[at], classes - 1);
        return Err(DataError::Idx { path: label_path, problem });
    }
    let set = Arc::new(GreySet { path, width, height, pixels });
    let item = |(number, label): (usize, &u8)| Item {
        labels: vec![Label::whole(usize::from(*label))],
        ..Item::new(Picture::Grey(set.clone(), number))
    };
    Ok(Dataset {
        names: (0..classes).map(|class| class.to_string()).collect(),
        items: labels.iter().enumerate().map(item).collect(),
        ..Dataset::default()
    })
}

/// The file of a part, under the names that are in use.
fn place(folder: &Path, stem: &str, part: &str, axes: usize) -> Result<PathBuf, DataError> {
    let names = ["-", "."].map(|dot| format!("{stem}-{part}{dot}idx{axes}-ubyte"));
    let names = names.iter().flat_map(|name| [format!("{name}.gz"), name.clone()]);
    names.map(|name| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let problem = format!(
            "the folder has no {stem}-{part}-idx{axes}-ubyte, plain or .gz; expected MNIST's files, or a YAML file"
        );
        DataError::Idx { path: folder.into(), problem }
    })
}

/// Sides and bytes of a file with `N` axes.
fn read<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>), DataError> {
    let io = |source: io::Error| DataError::Io { path: path.into(), source };
    let fail = |problem: String| DataError::Idx { path: path.into(), problem };
    let file = files::open(path).map_err(io)?;
    let present = file.metadata().map_err(io)?.len().min(usize::MAX as u64) as usize;
    let file = BufReader::new(file);
    let packed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let mut bytes: Box<dyn Read> = if packed { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let short = |e: io::Error| fail(format!("ends too early or is damaged: {e}"));
    let mut word = [0; 4];
    bytes.read_exact(&mut word).map_err(short)?;
    if word != [0, 0, 8, N as u8] {
        return Err(fail(format!("begins with {word:02x?}, expected [00, 00, 08, {N:02x}]: bytes with {N} axes")));
    }
    let mut sides = [0; N];
    for side in &mut sides {
        bytes.read_exact(&mut word).map_err(short)?;
        *side = u32::from_be_bytes(word) as usize;
    }
    let most = present.saturating_mul(MAX_RATIO).saturating_add(SLACK).min(MAX_BYTES);
    let len = sides.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).filter(|n| *n <= most);
    let len = len.ok_or_else(|| fail(format!("says it holds {sides:?} bytes, expected at most {most} in all")))?;
    if N > 1 && sides[0] > FREE_PICTURES + present / 4 {
        return Err(fail(format!("says it holds {} pictures, but has only {present} bytes", sides[0])));
    }
    let mut data = Vec::with_capacity(len + 1);
    bytes.take(len as u64 + 1).read_to_end(&mut data).map_err(short)?;
    if data.len() != len {
        let found = if data.len() > len { "more".to_owned() } else { data.len().to_string() };
        return Err(fail(format!("holds {found} bytes behind a header for {len}")));
    }
    Ok((sides, data))
}
