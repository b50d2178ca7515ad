//! Runs a network layer by layer over many images, keeping only the tensors that are still needed.

use super::{Calibration, Inputs};
use crate::engine::{Engine, EngineError, Options};
use crate::graph::{Dtype, Graph, Head, Node, NodeId, Op};
use crate::model::{Info, Model};
use crate::ranks::Share;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The live tensors of a network that runs over all images of this rank at once, one layer after the other.
pub struct Walk {
    height: usize,
    width: usize,
    images: Vec<Vec<f32>>,
    /// Which of the calibration images these are.
    share: Share,
    /// By node: one tensor `[C, h, w]` per image, or nothing when not yet or no longer there.
    tensors: Vec<Vec<Vec<f32>>>,
    /// By node: the last node at whose step its tensors are there.
    last_use: Vec<NodeId>,
    shapes: Vec<crate::graph::Shape>,
}

impl Walk {
    /// At the start, before the first node.
    pub fn new(graph: &Graph, calibration: &Calibration) -> Self {
        let share = calibration.share();
        let consumers = graph.consumers();
        let last_use = graph.ids().map(|id| consumers[id.index()].last().copied().unwrap_or(id)).collect();
        Self {
            height: calibration.height,
            width: calibration.width,
            images: calibration.images[share.range()].to_vec(),
            share,
            tensors: vec![Vec::new(); graph.nodes.len()],
            last_use,
            shapes: Vec::new(),
        }
    }

    /// Keeps a node's tensors at least until the step after that of another one.
    pub fn hold(&mut self, id: NodeId, until: NodeId) {
        let last = &mut self.last_use[id.index()];
        *last = until.max(*last);
    }

    /// A node's tensors while they live: from its step until the step after that of its last reader.
    pub fn inputs(&self, id: NodeId) -> Inputs<'_> {
        let (height, width) = self.shapes.get(id.index()).map_or((0, 0), |s| (s.h, s.w));
        Inputs { images: &self.tensors[id.index()], share: &self.share, height, width }
    }

    /// Computes one node for every image. Nodes must come in order.
    ///
    /// # Errors
    /// If the layer cannot be run.
    pub fn step(&mut self, model: &Model, id: NodeId) -> Result<(), EngineError> {
        if self.shapes.is_empty() {
            self.shapes = model.graph.shapes(self.height, self.width)?;
        }
        for (tensors, last) in self.tensors.iter_mut().zip(&self.last_use) {
            if *last < id {
                *tensors = Vec::new();
            }
        }
        let node = model.graph.node(id);
        let out = match &node.op {
            Op::Input { .. } => std::mem::take(&mut self.images),
            Op::Concat => self.each(|image| {
                node.inputs.iter().flat_map(|i| self.tensors[i.index()][image].iter().copied()).collect()
            }),
            Op::Add => self.each(|image| {
                let [a, b] = [0, 1].map(|i| &self.tensors[node.inputs[i].index()][image]);
                a.iter().zip(b).map(|(x, y)| x + y).collect()
            }),
            Op::Slice { start, len } => {
                let area = self.shapes[id.index()].area();
                self.each(|image| {
                    self.tensors[node.inputs[0].index()][image][start * area..(start + len) * area].to_vec()
                })
            }
            _ => self.run(model, node)?,
        };
        self.tensors[id.index()] = out;
        Ok(())
    }

    fn count(&self) -> usize {
        self.tensors.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn each(&self, compute: impl Fn(usize) -> Vec<f32> + Send + Sync) -> Vec<Vec<f32>> {
        (0..self.count()).into_par_iter().map(compute).collect()
    }

    fn run(&self, model: &Model, node: &Node) -> Result<Vec<Vec<f32>>, EngineError> {
        let input = node.inputs[0];
        let Inputs { images, height, width, .. } = self.inputs(input);
        let single = single(model, node, self.shapes[input.index()].c);
        let share = images.len().div_ceil(rayon::current_num_threads().max(1)).max(1);
        let parts: Result<Vec<Vec<Vec<f32>>>, EngineError> = images
            .par_chunks(share)
            .map(|part| {
                let mut engine = Engine::new(&single, height, width, &Options { threads: 1, ..Options::default() })?;
                part.iter().map(|image| engine.run(image).map(|()| engine.output(0).to_vec())).collect()
            })
            .collect();
        Ok(parts?.into_iter().flatten().collect())
    }
}

/// A model of one layer.
fn single(model: &Model, node: &Node, c_in: usize) -> Model {
    let input = Node { name: "input".into(), op: Op::Input { channels: c_in }, inputs: vec![] };
    let layer = Node { name: node.name.clone(), op: node.op.clone(), inputs: vec![NodeId(0)] };
    let mut graph = Graph {
        nodes: vec![input, layer],
        outputs: vec![NodeId(1)],
        head: Head::Classify { nc: c_in },
        dtype: Dtype::F32,
        exceptions: BTreeMap::new(),
    };
    // The head only has to fit the layer.
    let nc = graph.channels().ok().and_then(|channels| channels.last().copied()).unwrap_or(c_in);
    graph.head = Head::Classify { nc };
    let weights = graph.params().into_iter().map(|p| (p.key.clone(), model.tensor(&p.key).clone())).collect();
    Model { graph, weights, info: Info::default() }
}
