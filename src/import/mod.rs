//! Imports checkpoints of other frameworks as a [`crate::model::Model`].
//!
//! [`load`] decides by the content of a file, not by its name: an ultralytics checkpoint (`.pt`), safetensors with the
//! names of an ultralytics state dict, or our own model file. A checkpoint is a pickle in a zip archive; both readers
//! treat the file as hostile. Nothing of it is ever run (`pickle` says how), and what a network computes is taken from
//! its modules, or refused.
//!
//! Knows YOLO26, YOLO12, YOLO11, YOLOv10, YOLOv9, YOLOv8, YOLOv6 and YOLOv5u of any width and depth, fused or not, for
//! the tasks that the family has. Older pickles (before PyTorch 1.6), TorchScript and other families are named and
//! refused.

mod archive;
mod authors;
mod checkpoint;
mod error;
mod family;
mod layers;
mod modules;
mod pickle;
mod yolo;

pub use error::{Fault, ImportError};
pub use family::{Identified, identify};

use crate::files;
use crate::model::{self, MAX_FILE, Model, Weights};
use archive::Archive;
use checkpoint::Checkpoint;
use family::Family;
use std::path::Path;

/// Reads a model from a checkpoint (ultralytics `.pt`), from safetensors, or from our own file.
///
/// ```
/// # use secateurs::{import, model, zoo};
/// # let graph = zoo::simple_cnn::simple_cnn(10)?;
/// # let zeros = |shape: Vec<usize>| model::Tensor::new(shape.clone(), vec![0.0; shape.iter().product()]);
/// # let weights = graph.params().into_iter().map(|p| (p.key, zeros(p.shape))).collect();
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("best.safetensors");
/// # model::save(&model::Model::new(graph, weights, model::Info::default())?, &path)?;
/// let model = import::load(&path)?;
/// assert_eq!(model.graph.head.task(), "classify");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

/// The name of the family that tensor names belong to, as users know it (`YOLO11`); none of another's.
pub fn family(weights: &Weights) -> Option<&'static str> {
    let sizes = weights.iter().map(|(key, tensor)| (key.clone(), tensor.shape().to_vec())).collect();
    Family::of(&sizes).ok().map(Family::name)
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
        _ => {
            let (found, help) = describe(bytes);
            Err(Fault::Unrecognised { found: found.into(), help })
        }
    }
}

/// What a file is that cannot be read, and what can be done about it.
fn describe(bytes: &[u8]) -> (&'static str, Option<&'static str>) {
    const AGAIN: &str = "the download or the copy has failed: get the file again";
    const SOURCE: &str = "give the checkpoint that it was exported from (`best.pt`)";
    const REWRITE: &str = "rewrite it in Python: torch.save(torch.load(\"old.pt\", weights_only=False), \"new.pt\")";
    match bytes {
        [] => ("an empty file", Some(AGAIN)),
        [0x80, 1..=5, ..] => ("a bare pickle (PyTorch before 1.6)", Some(REWRITE)),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file", None),
        [0x08, ..] => ("perhaps an ONNX file", Some(SOURCE)),
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => ("a TensorFlow Lite file", Some(SOURCE)),
        [b'G', b'G', b'U', b'F', ..] => ("a GGUF file", None),
        [0x1f, 0x8b, ..] => ("a gzip archive", Some("unpack it first: gunzip FILE")),
        [0xff, 0xd8, ..] | [0x89, b'P', b'N', b'G', ..] => ("an image", None),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => {
            ("a Git LFS pointer, not the file itself", Some("`git lfs pull` in its repository gets the file itself"))
        }
        _ => match bytes.trim_ascii_start() {
            [b'<', ..] => (
                "a web page or an XML file",
                Some("where it was downloaded, that has saved an error page: look into it, and download again"),
            ),
            [b'{' | b'[', ..] => (
                "a JSON text",
                Some("where it was downloaded, that has saved an error: look into it, and download again"),
            ),
            all if all.len() < bytes.len() && all.is_empty() => ("a file of blanks", Some(AGAIN)),
            _ if bytes.iter().take(4096).all(|b| *b == 0) => ("a file of zeros", Some(AGAIN)),
            _ => ("an unknown kind of file", None),
        },
    }
}
