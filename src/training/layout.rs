//! Where parameters lie on the device, and how kernels are stored there: `[c_out][tap][c_in]`, so that neighbouring
//! threads read neighbouring values in every product.

use crate::graph::Graph;
use crate::model::{Tensor, Weights};
use std::collections::{BTreeMap, HashSet};

/// The parts of a run of parameters, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Trained, with weight decay.
    Kernels,
    /// Scales of normalisations that shall become sparse.
    Sparse,
    /// Other biases, scales and shifts.
    Vectors,
    /// Not trained: what gets no gradient, and running statistics.
    Fixed,
}

/// A run of parameters.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// By key: first value, and the shape in PyTorch's order.
    places: BTreeMap<String, (usize, Vec<usize>)>,
    /// First values of all parts, and the number of all values.
    bounds: [usize; 5],
}

impl Layout {
    /// All parameters of a graph: `trained` says of a node and a key whether that is trained; scales stand apart where they
    /// shall become `sparse`.
    pub fn new(graph: &Graph, trained: &dyn Fn(usize, &str) -> bool, sparse: bool) -> Self {
        let scales: HashSet<String> = match sparse {
            true => graph.convs().filter_map(|(_, conv)| Some(conv.norm.as_ref()?.keys()[0].clone())).collect(),
            false => HashSet::new(),
        };
        // A tensor of two nodes is trained if one of them is.
        let mut parts: BTreeMap<String, (Part, Vec<usize>)> = BTreeMap::new();
        let mut order = Vec::new();
        for (number, node) in graph.nodes.iter().enumerate() {
            for param in node.op.params() {
                let part = match param.trainable && trained(number, &param.key) {
                    false => Part::Fixed,
                    true if param.shape.len() > 1 => Part::Kernels,
                    true if scales.contains(&param.key) => Part::Sparse,
                    true => Part::Vectors,
                };
                let known = parts.entry(param.key.clone()).or_insert_with(|| {
                    order.push(param.key.clone());
                    (part, param.shape)
                });
                known.0 = known.0.min(part);
            }
        }
        order.sort_by_key(|key| parts[key].0);
        let (mut places, mut bounds, mut len) = (BTreeMap::new(), [0; 5], 0);
        for key in order {
            let Some((part, shape)) = parts.remove(&key) else { continue };
            let own = shape.iter().product::<usize>();
            places.insert(key, (len, shape));
            len += own;
            bounds[part as usize + 1..].fill(len);
        }
        Self { places, bounds }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.bounds[4]
    }

    /// Values that are trained, which come first.
    pub fn trained(&self) -> usize {
        self.bounds[Part::Fixed as usize]
    }

    /// Whether a parameter is trained.
    pub fn is_trained(&self, key: &str) -> bool {
        self.places.get(key).is_some_and(|(at, _)| *at < self.trained())
    }

    /// First value and number of values of a part.
    pub fn part(&self, part: Part) -> (usize, usize) {
        let at = part as usize;
        (self.bounds[at], self.bounds[at + 1] - self.bounds[at])
    }

    /// The first value of a parameter; 0 for one that the graph does not have.
    pub fn at(&self, key: &str) -> usize {
        self.places.get(key).map_or(0, |(at, _)| *at)
    }

    /// The values of weights as they lie on the device; what they lack is 0.
    pub fn pack(&self, weights: &Weights) -> Vec<f32> {
        let mut packed = vec![0.0; self.len()];
        for key in self.places.keys() {
            if let Some((at, values)) = weights.get(key).and_then(|tensor| self.packed(key, tensor)) {
                packed[at..at + values.len()].copy_from_slice(&values);
            }
        }
        packed
    }

    /// The first value of a parameter, and its values as they lie on the device; none where it is not that of the graph.
    pub fn packed(&self, key: &str, tensor: &Tensor) -> Option<(usize, Vec<f32>)> {
        let (at, shape) = self.places.get(key).filter(|(_, shape)| tensor.shape() == &shape[..])?;
        let mut values = vec![0.0; tensor.data().len()];
        permute(shape, |from, to| values[to] = tensor.data()[from]);
        Some((*at, values))
    }

    /// Weights from the values on the device, of all parameters or, given so many values, of those before that.
    pub fn unpack(&self, packed: &[f32]) -> Weights {
        let mut weights = Weights::new();
        for (key, (at, shape)) in &self.places {
            let len = shape.iter().product::<usize>();
            let Some(source) = packed.get(*at..*at + len) else { continue };
            let mut data = vec![0.0; len];
            permute(shape, |from, to| data[from] = source[to]);
            weights.insert(key.clone(), Tensor::new(&shape[..], data));
        }
        weights
    }
}

/// Calls `f` with the positions of every value in PyTorch's order, and on the device.
fn permute(shape: &[usize], mut f: impl FnMut(usize, usize)) {
    let (rows, depth, taps) = match *shape {
        [rows, depth, high, wide] => (rows, depth, high * wide),
        _ => (1, 1, shape.iter().product()),
    };
    for row in 0..rows {
        for channel in 0..depth {
            for tap in 0..taps {
                f((row * depth + channel) * taps + tap, (row * taps + tap) * depth + channel);
            }
        }
    }
}
