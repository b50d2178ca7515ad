//! Compiles a graph to steps over one arena and runs it.

pub mod reference;

use crate::graph::{Graph, GraphError, NodeId, Shape};
use crate::model::Model;
use std::time::Instant;
use thiserror::Error;

/// A network that cannot be run, or an input that does not fit it.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The graph contradicts itself or does not fit the image size.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The input has the wrong number of values.
    #[error("the input has {found} values, expected {expected} (channels x height x width)")]
    Input {
        /// Values given.
        found: usize,
        /// Values needed.
        expected: usize,
    },
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads that compute together; 0 means 1.
    pub threads: usize,
    /// Further nodes whose tensors [`Engine::kept`] gives. Nothing is fused across them.
    pub keep: Vec<NodeId>,
}

/// Bytes that an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Packed kernels and biases.
    pub weights: usize,
    /// Tensors between the layers.
    pub arena: usize,
    /// Input, outputs and working space of the kernels.
    pub scratch: usize,
}

impl Memory {
    /// All bytes.
    pub fn total(&self) -> usize {
        self.weights + self.arena + self.scratch
    }
}

/// Time that one node took in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// The node.
    pub node: NodeId,
    /// Wall-clock nanoseconds.
    pub nanos: u64,
}

/// A network made ready for one image size.
pub struct Engine {
    model: Model,
    shapes: Vec<Shape>,
    input: Vec<f32>,
    tensors: Vec<Vec<f32>>,
}

impl Engine {
    /// Makes a model ready for images of `height` x `width`.
    ///
    /// # Errors
    /// If the graph does not fit the size.
    pub fn new(model: &Model, height: usize, width: usize, options: &Options) -> Result<Self, EngineError> {
        let _ = options;
        let shapes = model.graph.shapes(height, width)?;
        let tensors = shapes.iter().map(|s| vec![0.0; s.len()]).collect();
        Ok(Self { model: model.clone(), input: vec![0.0; shapes[0].len()], shapes, tensors })
    }

    /// Runs on one image `[C, height, width]`, values 0..1.
    ///
    /// # Errors
    /// If the input has the wrong length.
    pub fn run(&mut self, input: &[f32]) -> Result<(), EngineError> {
        self.tensors = reference::run(&self.model, input, self.shapes[0].h, self.shapes[0].w)?;
        Ok(())
    }

    /// The input tensor, to be filled before [`Engine::run_in_place`].
    pub fn input_mut(&mut self) -> &mut [f32] {
        &mut self.input
    }

    /// Runs on what [`Engine::input_mut`] holds.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn run_in_place(&mut self) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let done = self.run(&input);
        self.input = input;
        done
    }

    /// Runs once and tells how long every step took.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn profile(&mut self, input: &[f32]) -> Result<Vec<StepTime>, EngineError> {
        let start = Instant::now();
        self.run(input)?;
        let nanos = start.elapsed().as_nanos() as u64;
        Ok(self.model.graph.ids().map(|node| StepTime { node, nanos: nanos / self.shapes.len() as u64 }).collect())
    }

    /// The graph's output `i`, `[C, h, w]`, of the last run.
    ///
    /// # Panics
    /// If the graph has no output `i`.
    pub fn output(&self, i: usize) -> &[f32] {
        &self.tensors[self.model.graph.outputs[i].index()]
    }

    /// The shape of the graph's output `i`.
    ///
    /// # Panics
    /// If the graph has no output `i`.
    pub fn output_shape(&self, i: usize) -> Shape {
        self.shapes[self.model.graph.outputs[i].index()]
    }

    /// The tensor `[C, h, w]` of a node that [`Options::keep`] names.
    ///
    /// # Panics
    /// If the options did not name the node.
    pub fn kept(&self, node: NodeId) -> &[f32] {
        &self.tensors[node.index()]
    }

    /// Bytes held.
    pub fn memory(&self) -> Memory {
        measure(&self.model.graph, &self.shapes)
    }
}

/// The bytes that an [`Engine`] of this graph will hold.
///
/// # Errors
/// As [`Engine::new`].
pub fn plan_memory(graph: &Graph, height: usize, width: usize, options: &Options) -> Result<Memory, EngineError> {
    let _ = options;
    Ok(measure(graph, &graph.shapes(height, width)?))
}

fn measure(graph: &Graph, shapes: &[Shape]) -> Memory {
    let params: usize = graph.params().iter().map(|p| p.shape.iter().product::<usize>()).sum();
    let tensors: usize = shapes.iter().map(Shape::len).sum();
    Memory { weights: 4 * params, arena: 4 * tensors, scratch: 4 * shapes[0].len() }
}
