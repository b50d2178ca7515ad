//! Checkpoints of others become a [`crate::model::Model`].
//!
//! [`load`] decides by the content of a file, not by its name: an ultralytics checkpoint (`.pt`), safetensors with the
//! names of an ultralytics state dict, or our own model file. A checkpoint is a pickle in a zip archive; both readers
//! treat the file as hostile. Nothing of it is ever run (`pickle` says how), and what a network computes is taken from
//! its modules, or refused.
//!
//! Knows YOLO11 and YOLOv8 of any width and depth, fused or not, for all five tasks. Older pickles (before PyTorch
//! 1.6), TorchScript and other families are named and refused.

mod archive;
mod checkpoint;
mod error;
mod family;
mod pickle;
mod yolo;

pub use error::{Fault, ImportError};

use crate::files;
use crate::model::{self, MAX_FILE, Model};
use archive::Archive;
use checkpoint::Checkpoint;
use std::path::Path;

/// Reads a model from a checkpoint, from safetensors, or from our own file.
///
/// # Errors
/// If the file cannot be read, is damaged or hostile, or holds a network that is not supported.
pub fn load(path: &Path) -> Result<Model, ImportError> {
    let bytes = files::read(path, MAX_FILE).map_err(|e| ImportError { path: path.into(), fault: e.into() })?;
    from_bytes(path, &bytes)
}

/// A model from the bytes of a file; `path` names it in errors and in the model's provenance.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Model, ImportError> {
    let mut model = read(path, bytes).map_err(|fault| ImportError { path: path.into(), fault })?;
    if let Some(name) = path.file_name() {
        model.info.provenance.entry("source".into()).or_insert_with(|| name.to_string_lossy().into_owned());
    }
    Ok(model)
}

fn read(path: &Path, bytes: &[u8]) -> Result<Model, Fault> {
    match bytes {
        [b'P', b'K', ..] => {
            let mut archive = Archive::open(bytes)?;
            let (heap, root) = pickle::parse(&archive.pickle()?)?;
            yolo::from_checkpoint(&Checkpoint::find(&heap, root)?, &mut archive)
        }
        // The header's length, then its JSON.
        [_, _, _, _, _, _, _, _, b'{', ..] if model::is_own_format(bytes) => Ok(model::from_bytes(path, bytes)?),
        [_, _, _, _, _, _, _, _, b'{', ..] => yolo::from_tensors(model::tensors(path, bytes)?),
        _ => Err(Fault::Unrecognised { found: describe(bytes).into() }),
    }
}

fn describe(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "an empty file",
        [0x80, 1..=5, ..] => "a bare pickle (PyTorch before 1.6)",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file",
        [0x08, ..] => "perhaps an ONNX file",
        [b'G', b'G', b'U', b'F', ..] => "a GGUF file",
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => "a Git LFS pointer, not the file itself",
        [b'<', ..] => "a web page or an XML file",
        _ => "an unknown kind of file",
    }
}
