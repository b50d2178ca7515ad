//! A model: a graph with the values of its tensors, and the one-file format they travel in.

mod file;
mod fold;
mod tensor;

pub use file::{FORMAT_VERSION, FileError, MAX_FILE, from_bytes, is_own_format, load, save, tensors, to_bytes};
pub use fold::fold;
pub use tensor::{Tensor, Weights};

use crate::graph::{Graph, GraphError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// A network with its weights and what a user needs to run it.
#[derive(Clone, Debug)]
pub struct Model {
    /// The structure.
    pub graph: Graph,
    /// The tensors that [`Graph::params`] lists, and no others.
    pub weights: Weights,
    /// Names, preprocessing, provenance.
    pub info: Info,
}

/// Facts about a model that are neither structure nor weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Class names in class order; may be shorter than the class count.
    #[serde(default)]
    pub names: Vec<String>,
    /// Side of the square image the model was trained for, pixels.
    #[serde(default)]
    pub imgsz: Option<usize>,
    /// Where the model came from and what was done to it: free keys and values.
    #[serde(default)]
    pub provenance: BTreeMap<String, String>,
}

impl Info {
    /// The name of a class, or its number.
    pub fn class_name(&self, class: usize) -> String {
        self.names.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }
}

/// Weights that do not fit their graph.
#[derive(Debug, Error, PartialEq)]
pub enum ModelError {
    /// The graph contradicts itself.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A tensor that the graph needs is not there.
    #[error("tensor `{key}` {expected:?} is missing")]
    Missing {
        /// Key of the tensor.
        key: String,
        /// Its expected shape.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the graph needs.
    #[error("tensor `{key}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Key of the tensor.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// What the graph needs.
        expected: Vec<usize>,
    },
    /// A tensor holds a value that is not a finite number.
    #[error("tensor `{key}` holds {value} at position {position}, expected finite numbers")]
    NotFinite {
        /// Key of the tensor.
        key: String,
        /// Offset in the flat tensor.
        position: usize,
        /// The value.
        value: f32,
    },
}

impl Model {
    /// Puts a graph and its tensors together; tensors that the graph does not need are dropped.
    ///
    /// # Errors
    /// If the graph contradicts itself, or a tensor is missing, of another shape or not finite.
    pub fn new(graph: Graph, mut weights: Weights, info: Info) -> Result<Self, ModelError> {
        graph.check()?;
        let mut kept = Weights::default();
        for param in graph.params() {
            let Some(tensor) = weights.remove(&param.key) else {
                if kept.contains_key(&param.key) {
                    continue;
                }
                return Err(ModelError::Missing { key: param.key, expected: param.shape });
            };
            if tensor.shape() != param.shape {
                return Err(ModelError::Shape {
                    key: param.key,
                    found: tensor.shape().to_vec(),
                    expected: param.shape,
                });
            }
            if let Some(position) = tensor.data().iter().position(|v| !v.is_finite()) {
                return Err(ModelError::NotFinite { value: tensor.data()[position], key: param.key, position });
            }
            kept.insert(param.key, tensor);
        }
        Ok(Self { graph, weights: kept, info })
    }

    /// The tensor of a key that the graph lists.
    ///
    /// # Panics
    /// If the graph does not list the key; [`Model::new`] made sure that all listed keys exist.
    pub fn tensor(&self, key: &str) -> &Tensor {
        &self.weights[key]
    }

    /// Bytes of all tensors in f32.
    pub fn weight_bytes(&self) -> usize {
        self.weights.values().map(|t| 4 * t.data().len()).sum()
    }
}
