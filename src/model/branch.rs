//! A model with one branch of its end-to-end head, and what it is smaller by.

use super::{Model, ModelError};
use crate::graph::{Branch, Graph};
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a model loses with the other branch of its end-to-end head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Trained values.
    pub params: usize,
    /// Trained values of the model with both.
    pub of_params: usize,
    /// Multiply-accumulates per image.
    pub macs: usize,
    /// Multiply-accumulates of the model with both.
    pub of_macs: usize,
    /// Bytes of the weights in f32.
    pub bytes: usize,
}

impl Removed {
    /// Between a model with both branches and the same with one, for images of a size.
    ///
    /// # Errors
    /// If a graph cannot take images of that size.
    pub fn between(both: &Model, alone: &Model, ImageSize { height, width }: ImageSize) -> Result<Self, ModelError> {
        let [before, after] = [both.graph.cost(height, width)?, alone.graph.cost(height, width)?];
        Ok(Self {
            params: before.params.saturating_sub(after.params),
            of_params: before.params,
            macs: before.macs.saturating_sub(after.macs),
            of_macs: before.macs,
            bytes: both.weight_bytes().saturating_sub(alone.weight_bytes()),
        })
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { params, of_params, macs, of_macs, bytes } = *self;
        let million = |macs: usize| macs as f64 / 1e6;
        let mib = bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{params} of {of_params} parameters, {:.1} of {:.1} million MACs and {mib:.2} MiB of weights less",
            million(macs),
            million(of_macs)
        )
    }
}

impl Model {
    /// The model with one branch of its end-to-end head, and without what only the other one needs.
    ///
    /// # Errors
    /// If the model has no such branch.
    pub fn with_branch(&self, branch: Branch) -> Result<Self, ModelError> {
        self.on_graph(self.graph.with_branch(branch)?)
    }

    /// The model as it is deployed: see [`Graph::deployed`].
    ///
    /// # Errors
    /// If the model has no such branch.
    pub fn deployed(&self, asked: Option<Branch>) -> Result<Self, ModelError> {
        self.on_graph(self.graph.deployed(asked)?)
    }

    /// A part of its graph, with the tensors that this needs.
    fn on_graph(&self, graph: Graph) -> Result<Self, ModelError> {
        let keys: Vec<String> = graph.params().into_iter().map(|p| p.key).collect();
        let weights = keys.into_iter().filter_map(|key| Some((key.clone(), self.weights.get(&key)?.clone())));
        Self::new(graph, weights.collect(), self.info.clone())
    }
}
