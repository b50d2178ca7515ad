//! Errors of an import.

use crate::model::{FileError, ModelError};
use crate::zoo::ZooError;
use std::path::PathBuf;
use thiserror::Error;

/// What can be imported.
const SUPPORTED: &str = "supported are YOLO26, YOLO12, YOLO11, YOLOv10, YOLOv9, YOLOv8, YOLOv6 and YOLOv5u of any width and \
                         depth, ResNet, VGG and MobileNetV4";

/// The characters of a name that are shown.
const MAX_SHOWN: usize = 80;

/// A file that cannot be imported.
#[derive(Debug, Error)]
#[error("{}: {fault}", path.display())]
pub struct ImportError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

impl ImportError {
    /// What the user can do about it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        self.fault.help()
    }
}

/// What is wrong with a file: the place, what was found, what was expected.
#[derive(Debug, Error)]
pub enum Fault {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Neither a checkpoint nor safetensors.
    #[error("{found}; expected an ultralytics checkpoint (.pt) or a safetensors file")]
    Unrecognised {
        /// What the content looks like.
        found: String,
        /// What can be done about it.
        help: Option<&'static str>,
    },
    /// The zip archive around a checkpoint is broken or hostile.
    #[error("not a readable checkpoint archive: {0}")]
    Archive(String),
    /// The pickle inside a checkpoint is broken or hostile.
    #[error("data.pkl, byte {offset}: {problem}")]
    Pickle {
        /// Offset in `data.pkl`.
        offset: usize,
        /// What was found and what was expected.
        problem: String,
    },
    /// The pickle asks for a function or a class that no checkpoint needs.
    #[error(
        "data.pkl, byte {offset}: asks for `{global}`, which a checkpoint has no need of; refused, nothing was run"
    )]
    Refused {
        /// Offset in `data.pkl`.
        offset: usize,
        /// Module and name of what it asks for.
        global: String,
    },
    /// The pickle asks for a class of somebody's own program, or of a library that no network here comes from.
    #[error(
        "data.pkl, byte {offset}: asks for `{global}`, which belongs to no network that can be read; without its program \
         the object cannot be told, and nothing was run"
    )]
    Foreign {
        /// Offset in `data.pkl`.
        offset: usize,
        /// Module and name of what it asks for.
        global: String,
    },
    /// The checkpoint holds something else than a network we can read.
    #[error("{place}: {problem}")]
    Checkpoint {
        /// Where in the checkpoint.
        place: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A network that exists, but that this build does not import.
    #[error("{found} is not supported; {SUPPORTED}")]
    Unsupported {
        /// What it is.
        found: String,
    },
    /// A file in our own format, or plain safetensors, with something wrong.
    #[error("{0}")]
    File(String),
    /// The tensors' names are those of no network that is known.
    #[error("its tensors have the names of no known network ({found}); {SUPPORTED}")]
    Names {
        /// A few of the names.
        found: String,
    },
    /// The tensors are not those of the network that their names are of.
    #[error("not a {family} network: {error}")]
    Zoo {
        /// What the names are of.
        family: &'static str,
        /// What does not fit.
        error: ZooError,
    },
    /// The tensors are more than those of the network that their names are of.
    #[error("not a {family} network: no layer of one has the tensor `{key}`")]
    Surplus {
        /// What the other names are of.
        family: &'static str,
        /// The first tensor that does not fit.
        key: String,
    },
    /// Graph and tensors do not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Fault {
    pub(super) fn checkpoint(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Checkpoint { place: place.into(), problem: problem.into() }
    }

    /// A network that is known and not supported.
    pub(super) fn unsupported(found: impl Into<String>) -> Self {
        Self::Unsupported { found: found.into() }
    }

    fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused { .. } => Some(
                "unpickling this file in Python would run code of its author's choice: get the weights from a source \
                 you trust",
            ),
            Self::Archive(_) => Some("the file may be cut off: compare its size with the original and copy it again"),
            Self::Unrecognised { help, .. } => *help,
            Self::Foreign { .. } => Some(
                "save the tensors alone: in Python, with that program, torch.save(model.state_dict(), \"weights.pt\")",
            ),
            Self::File(_) => Some("the file may be cut off or damaged: compare its size with the original's"),
            Self::Zoo { .. } | Self::Surplus { .. } | Self::Names { .. } => {
                Some("tensor names must be those of a state dict: of ultralytics (`model.0.conv.weight`, …) or of timm")
            }
            Self::Unsupported { .. } => Some("train or fine-tune a `yolo11*.pt` or `yolov8*.pt` and prune that"),
            _ => None,
        }
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        // The path is said once, by `ImportError`.
        match error {
            FileError::Io { source, .. } => Self::Io(source),
            FileError::Format { problem, .. } => Self::File(problem),
            FileError::Model { source, .. } => Self::Model(source),
        }
    }
}

/// A name of the file as it may be shown: of a sensible length, and without control characters.
pub(super) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    if name.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
