//! A network as another runtime reads it: an ONNX file, and the key of the engine that is built of it.

use super::failure::RuntimeError;
use crate::emit::onnx;
use crate::graph::{Dtype, Graph, Head};
use crate::model::Model;
use crate::size::ImageSize;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// An exported network; its file goes with it.
pub struct Network {
    /// What is exported.
    pub(super) graph: Graph,
    pub(super) dtype: Dtype,
    /// Channels, height and width of the input.
    pub(super) shape: [usize; 3],
    /// SHA-256 of all that an engine is built from, hexadecimal digits.
    pub(super) key: String,
    pub(super) onnx: PathBuf,
    pub(super) flags: Vec<String>,
}

impl Network {
    /// Exports a model for images of a size into a folder, to be built with flags. `built_by` says what else an
    /// engine depends on: version and GPU.
    pub(super) fn new(
        model: &Model,
        ImageSize { height, width }: ImageSize,
        runtime: &'static str,
        flags: Vec<String>,
        built_by: &str,
        folder: &Path,
    ) -> Result<Self, RuntimeError> {
        let bytes = onnx::export(model, height, width).map_err(|source| RuntimeError::Export { runtime, source })?;
        let mut hash = Sha256::new();
        for part in [runtime.as_bytes(), b" ", built_by.as_bytes(), b"\0", flags.join("\0").as_bytes(), b"\0", &bytes] {
            hash.update(part);
        }
        let key: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let onnx = folder.join(format!("{key}.onnx"));
        fs::write(&onnx, &bytes).map_err(|source| RuntimeError::File { path: onnx.clone(), source })?;
        let shape = [model.graph.input_channels(), height, width];
        Ok(Self { graph: model.graph.clone(), dtype: model.graph.dtype, shape, key, onnx, flags })
    }

    /// The head whose outputs the file gives: that of the branch that is deployed.
    pub fn head(&self) -> Head {
        self.graph.deployed(None).map_or_else(|_| self.graph.head.clone(), |graph| graph.head)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.onnx);
    }
}
