//! A model: a graph with the values of its tensors, and the one-file format they travel in.

mod branch;
mod file;
mod fold;
mod int8;
mod sparse;
mod tensor;

pub use branch::Removed;
pub use file::{FORMAT_VERSION, FileError, MAX_FILE, from_bytes, is_own_format, load, save, tensors, to_bytes};
pub use fold::fold;
pub use tensor::{Tensor, Weights};

use crate::graph::{Dtype, Graph, GraphError};
use crate::size::ImageSize;
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
    /// Size of the image the model was trained for.
    #[serde(default)]
    pub imgsz: Option<ImageSize>,
    /// What is done to an image `[3, H, W]` of values 0 to 1 before the network sees it; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalise: Option<Normalise>,
    /// By name of an int8 layer the least and the greatest value of its quantized input. Empty for f32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranges: BTreeMap<String, [f32; 2]>,
    /// Where the model came from and what was done to it: free keys and values.
    #[serde(default)]
    pub provenance: BTreeMap<String, String>,
}

/// Every channel less its mean, divided by its deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalise {
    /// Mean of red, green and blue.
    pub mean: [f32; 3],
    /// Deviation of red, green and blue.
    pub deviation: [f32; 3],
}

impl Normalise {
    /// What the published classifiers were trained with on ImageNet.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

    /// Normalises an image `[3, H, W]`.
    pub fn apply(&self, image: &mut [f32]) {
        let area = (image.len() / 3).max(1);
        for (plane, (mean, deviation)) in image.chunks_mut(area).zip(self.mean.iter().zip(self.deviation)) {
            plane.iter_mut().for_each(|v| *v = (*v - mean) / deviation);
        }
    }
}

impl Info {
    /// The name of a class, or its number.
    pub fn class_name(&self, class: usize) -> String {
        self.names.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }
}

/// Weights that do not fit their graph, or ranges that do not.
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
    /// An int8 layer has no usable range.
    #[error("layer `{layer}` has the input range {found:?}, expected two finite numbers in ascending order")]
    Range {
        /// Name of the layer.
        layer: String,
        /// Its range, if there is one.
        found: Option<[f32; 2]>,
    },
}

impl Model {
    /// Puts a graph and its tensors together; tensors that the graph does not need are dropped.
    ///
    /// # Errors
    /// If the graph contradicts itself, a tensor is missing, of another shape or not finite, or an int8 layer has no
    /// range.
    pub fn new(graph: Graph, mut weights: Weights, info: Info) -> Result<Self, ModelError> {
        graph.check()?;
        let mut kept = Weights::default();
        for param in graph.params() {
            let shape = |tensor: &Tensor| ModelError::Shape {
                key: param.key.clone(),
                found: tensor.shape().to_vec(),
                expected: param.shape.clone(),
            };
            let Some(tensor) = weights.remove(&param.key) else {
                match kept.get(&param.key) {
                    Some(tensor) if tensor.shape() == param.shape => continue,
                    // Two layers of different sizes name the same tensor.
                    Some(tensor) => return Err(shape(tensor)),
                    None => return Err(ModelError::Missing { key: param.key, expected: param.shape }),
                }
            };
            if tensor.shape() != param.shape {
                return Err(shape(&tensor));
            }
            if let Some(position) = tensor.data().iter().position(|v| !v.is_finite()) {
                return Err(ModelError::NotFinite { value: tensor.data()[position], key: param.key, position });
            }
            kept.insert(param.key, tensor);
        }
        for node in graph.convs_in(Dtype::Int8).map(|(id, _)| graph.node(id)) {
            let found = info.ranges.get(&node.name).copied();
            if !found.is_some_and(|[low, high]| low <= high && low.is_finite() && high.is_finite()) {
                return Err(ModelError::Range { layer: node.name.clone(), found });
            }
        }
        Ok(Self { graph, weights: kept, info })
    }

    /// The model in f32, with the values that it has.
    pub fn into_f32(mut self) -> Self {
        self.graph.dtype = Dtype::F32;
        self.graph.exceptions.clear();
        self.info.ranges.clear();
        self
    }

    /// The range that the input of an int8 layer is quantized to; 0 to 1 for a layer without a range.
    pub fn range(&self, layer: &str) -> [f32; 2] {
        self.info.ranges.get(layer).copied().unwrap_or([0.0, 1.0])
    }

    /// The tensor of a key that the graph lists.
    ///
    /// # Panics
    /// If the graph does not list the key; [`Model::new`] made sure that all listed keys exist.
    pub fn tensor(&self, key: &str) -> &Tensor {
        &self.weights[key]
    }

    /// Trained values that are zero.
    pub fn zeros(&self) -> usize {
        let trained = self.graph.params().into_iter().filter(|p| p.trainable);
        trained.map(|p| self.tensor(&p.key).data().iter().filter(|v| **v == 0.0).count()).sum()
    }

    /// Bytes of all tensors in f32.
    pub fn weight_bytes(&self) -> usize {
        self.weights.values().map(|t| 4 * t.data().len()).sum()
    }
}
