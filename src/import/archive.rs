//! The zip archive that PyTorch writes: `<name>/data.pkl`, `<name>/data/<key>` per storage, `<name>/byteorder`.
//!
//! Declared sizes are not trusted: an entry is read up to its declared size, and the sums of all that is read and of
//! all that becomes tensors are bounded by the size of the archive.

use super::error::Fault;
use super::pickle::{Dtype, MAX_PICKLE, Storage, TensorView};
use crate::model::Tensor;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::Arc;
use zip::ZipArchive;

/// What may be unpacked beyond the archive's own size, bytes (weights do not compress well, zeros do).
const SLACK: u64 = 64 << 20;

/// How much larger than the archive its contents may be, up to this many bytes more.
const RATIO: u64 = 16;
const MAX_GROWTH: u64 = 512 << 20;

/// The least bytes of an entry in an archive's directory, and what it begins with.
const ENTRY_BYTES: usize = 46;
const ENTRY: &[u8] = b"PK\x01\x02";

/// The most entries of an archive.
const MAX_ENTRIES: usize = 200_000;

/// An open archive.
pub struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// Folder of all entries, with its slash.
    root: String,
    /// Bytes that may still be unpacked.
    unpack_left: u64,
    /// Elements that may still become tensors.
    elements_left: u64,
    storages: HashMap<Arc<str>, Vec<u8>>,
}

impl<'a> Archive<'a> {
    /// Opens an archive and finds its root.
    ///
    /// # Errors
    /// If it is no zip archive, or no checkpoint in one.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        // Counted before the reader makes room for each of them.
        let possible = bytes.len() / ENTRY_BYTES > MAX_ENTRIES;
        if possible && bytes.windows(ENTRY.len()).filter(|at| *at == ENTRY).count() > MAX_ENTRIES {
            return Err(Fault::Archive(format!("has more than {MAX_ENTRIES} entries")));
        }
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| Fault::Archive(e.to_string()))?;
        if zip.len() > MAX_ENTRIES {
            return Err(Fault::Archive(format!("has {} entries, the limit is {MAX_ENTRIES}", zip.len())));
        }
        let roots = zip.file_names().filter_map(|name| Some(name.ok()?.strip_suffix("data.pkl")?.to_owned()));
        let root = roots.filter(|r| r.is_empty() || r.ends_with('/')).min_by_key(|r| r.len());
        let Some(root) = root else {
            let found = "a zip archive without `data.pkl`".into();
            let help = Some("where the checkpoint lies inside the archive, unpack it first");
            return Err(Fault::Unrecognised { found, help });
        };
        if zip.index_for_name(&format!("{root}constants.pkl")).is_some() {
            let help =
                Some("give the checkpoint that it was exported from (`best.pt`): TorchScript has code for layers");
            return Err(Fault::Unrecognised { found: "a TorchScript archive".into(), help });
        }
        let size = bytes.len() as u64;
        let growth = size.saturating_mul(RATIO - 1).min(MAX_GROWTH);
        let unpack_left = size.saturating_add(growth).saturating_add(SLACK);
        // No element of a storage has less than two bytes.
        let mut archive = Self { zip, root, unpack_left, elements_left: unpack_left / 2, storages: HashMap::new() };
        if archive.zip.index_for_name(&format!("{}byteorder", archive.root)).is_some() {
            let order = archive.entry("byteorder", 64)?;
            if order.trim_ascii() != b"little" {
                let found = String::from_utf8_lossy(&order).into_owned();
                return Err(Fault::Archive(format!("byte order `{found}`, expected `little`")));
            }
        }
        Ok(archive)
    }

    /// The pickle.
    ///
    /// # Errors
    /// If it is damaged or too large.
    pub fn pickle(&mut self) -> Result<Vec<u8>, Fault> {
        self.entry("data.pkl", MAX_PICKLE as u64)
    }

    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let full = format!("{}{name}", self.root);
        let fail = |problem: String| Fault::Archive(format!("entry `{full}`: {problem}"));
        let entry = self.zip.by_name(&full).map_err(|e| fail(e.to_string()))?;
        let declared = entry.size();
        if declared > limit || declared > self.unpack_left {
            return Err(fail(format!("declares {declared} bytes, expected at most {}", limit.min(self.unpack_left))));
        }
        let mut found = Vec::new();
        entry.take(declared.saturating_add(1)).read_to_end(&mut found).map_err(|e| fail(e.to_string()))?;
        if found.len() as u64 != declared {
            return Err(fail(format!("declares {declared} bytes, but does not hold that many")));
        }
        self.unpack_left -= declared;
        Ok(found)
    }

    /// The elements of a view in f32, row-major; `None` for integers.
    ///
    /// # Errors
    /// If the view does not lie within its storage.
    pub fn tensor(&mut self, name: &str, view: &TensorView) -> Result<Option<Tensor>, Fault> {
        let fail = |problem: String| Fault::checkpoint(format!("tensor `{name}`"), problem);
        if let Dtype::Int(_) = view.storage.dtype {
            return Ok(None);
        }
        let shape: Option<Vec<usize>> = view.shape.iter().map(|n| usize::try_from(*n).ok()).collect();
        let count = view.shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        let (Some(shape), Some(count)) = (shape, count) else {
            return Err(fail(format!("sizes {:?} are too large", view.shape)));
        };
        if count > view.storage.len {
            return Err(fail(format!("has {count} elements, its storage has {}", view.storage.len)));
        }
        if count > self.elements_left {
            return Err(fail("has more elements, with the tensors before it, than the file can hold".into()));
        }
        // The last element that the strides reach, if there is any element.
        let reach = view.shape.iter().zip(&view.strides).try_fold(view.offset, |sum, (n, stride)| {
            n.saturating_sub(1).checked_mul(*stride).and_then(|far| sum.checked_add(far))
        });
        if count > 0 && reach.is_none_or(|last| last >= view.storage.len) {
            return Err(fail(format!(
                "offset {}, sizes {:?} and strides {:?} leave its storage of {} elements",
                view.offset, view.shape, view.strides, view.storage.len
            )));
        }
        self.elements_left -= count;
        let bytes = self.storage(name, &view.storage)?;
        let mut values = Vec::with_capacity(count as usize);
        if count > 0 {
            // All positions lie below the storage's length, whose bytes are in memory: no overflow.
            gather(view, &mut |at| values.push(element(view.storage.dtype, bytes, at as usize)));
        }
        Ok(Some(Tensor::new(shape, values)))
    }

    fn storage(&mut self, name: &str, storage: &Storage) -> Result<&[u8], Fault> {
        if !self.storages.contains_key(&storage.key) {
            let bytes = self.entry(&format!("data/{}", storage.key), u64::MAX)?;
            self.storages.insert(storage.key.clone(), bytes);
        }
        let bytes = &self.storages[&storage.key];
        let expected = storage.len.checked_mul(storage.dtype.size() as u64);
        if expected != Some(bytes.len() as u64) {
            return Err(Fault::checkpoint(
                format!("tensor `{name}`"),
                format!(
                    "its storage `data/{}` has {} bytes, expected {} elements of {} bytes",
                    storage.key,
                    bytes.len(),
                    storage.len,
                    storage.dtype.size()
                ),
            ));
        }
        Ok(bytes)
    }
}

/// Visits the storage positions of a view in row-major order.
fn gather(view: &TensorView, visit: &mut dyn FnMut(u64)) {
    let axes = view.shape.len();
    let mut index = vec![0u64; axes];
    let mut at = view.offset;
    loop {
        visit(at);
        let mut axis = axes;
        loop {
            let Some(previous) = axis.checked_sub(1) else { return };
            axis = previous;
            index[axis] += 1;
            if index[axis] < view.shape[axis] {
                at += view.strides[axis];
                break;
            }
            at -= view.strides[axis] * (view.shape[axis] - 1);
            index[axis] = 0;
        }
    }
}

fn element(dtype: Dtype, bytes: &[u8], at: usize) -> f32 {
    fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at * N..(at + 1) * N]);
        out
    }
    match dtype {
        Dtype::F64 => f64::from_le_bytes(part(bytes, at)) as f32,
        Dtype::F32 => f32::from_le_bytes(part(bytes, at)),
        Dtype::F16 => half::f16::from_le_bytes(part(bytes, at)).to_f32(),
        Dtype::BF16 => half::bf16::from_le_bytes(part(bytes, at)).to_f32(),
        Dtype::Int(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_views_are_gathered_in_row_major_order() {
        let view = |offset, shape: &[u64], strides: &[u64]| TensorView {
            storage: Storage { dtype: Dtype::F32, key: "0".into(), len: 12 },
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        for (case, expected) in [
            (view(0, &[2, 3], &[3, 1]), vec![0, 1, 2, 3, 4, 5]),
            (view(0, &[3, 2], &[1, 3]), vec![0, 3, 1, 4, 2, 5]),
            (view(4, &[2, 2], &[4, 2]), vec![4, 6, 8, 10]),
            (view(7, &[], &[]), vec![7]),
            (view(2, &[3], &[0]), vec![2, 2, 2]),
        ] {
            let mut found = Vec::new();
            gather(&case, &mut |at| found.push(at));
            assert_eq!(found, expected, "{case:?}");
        }
    }
}
