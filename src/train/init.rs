//! Initial weights for training from scratch.

use crate::graph::{Graph, Head, Op};
use crate::model::{Tensor, Weights};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Objects that an image of [`PRIOR_SIDE`] pixels is taken to hold before anything is learned.
const PRIOR_OBJECTS: f64 = 5.0;
/// Side of that image.
const PRIOR_SIDE: f64 = 640.0;

/// Fresh weights of a graph: kernels uniform within `1 / sqrt(fan in)` (He et al., 2015, with the leaky slope that
/// makes it so), normalisations at identity, biases zero. The class biases of a detect head give every cell the
/// probability of an object that a typical image has, and its box biases are 1, so that the first steps are not spent
/// on pushing thousands of empty cells down. The same seed gives the same weights.
pub fn init(graph: &Graph, seed: u64) -> Weights {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut weights = Weights::new();
    let mut uniform = |shape: &[usize], fan_in: usize| {
        let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
        Tensor::new(shape, (0..shape.iter().product()).map(|_| rng.random_range(-bound..=bound)).collect())
    };
    for node in &graph.nodes {
        if let Op::ConvTranspose(conv) = &node.op {
            // Every output is made by one tap of every input channel.
            weights.insert(conv.weight.clone(), uniform(&conv.weight_shape(), conv.c_in));
            weights.extend(conv.bias.iter().map(|bias| (bias.clone(), Tensor::filled([conv.c_out], 0.0))));
        }
    }
    for (id, conv) in graph.convs() {
        let shape = conv.weight_shape();
        weights.insert(conv.weight.clone(), uniform(&shape, shape[1..].iter().product()));
        if let Some(bias) = &conv.bias {
            let output = graph.outputs.iter().position(|o| *o == id);
            let value = output.map_or(0.0, |output| output_bias(&graph.head, output));
            weights.insert(bias.clone(), Tensor::filled([conv.c_out], value));
        }
        if let Some(norm) = &conv.norm {
            for (key, value) in norm.keys().into_iter().zip([1.0, 0.0, 0.0, 1.0]) {
                weights.insert(key, Tensor::filled([conv.c_out], value));
            }
        }
    }
    weights
}

fn output_bias(head: &Head, output: usize) -> f32 {
    match head.boxes() {
        Some(boxes) if output < 2 * boxes.strides.len() => {
            if output.is_multiple_of(2) {
                return 1.0;
            }
            let cells = boxes.strides.get(output / 2).map_or(1.0, |s| (PRIOR_SIDE / *s as f64).powi(2));
            (PRIOR_OBJECTS / boxes.nc as f64 / cells).ln() as f32
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Info, Model};
    use crate::zoo::yolo11::{Scale, detect};

    #[test]
    fn fresh_weights_fit_their_graph_and_depend_on_the_seed_only() {
        let graph = detect(Scale::of('n').unwrap(), 3).unwrap();
        let weights = init(&graph, 1);
        assert_eq!(weights, init(&graph, 1));
        assert_ne!(weights, init(&graph, 2));
        let model = Model::new(graph, weights, Info::default()).unwrap();
        let bias = model.tensor("model.23.cv3.0.2.bias").data()[0];
        assert!((bias - (5.0f32 / 3.0 / 6400.0).ln()).abs() < 1e-5);
        assert!(model.tensor("model.0.conv.weight").data().iter().all(|v| v.abs() <= 1.0 / 27f32.sqrt()));
    }

    #[test]
    fn every_tensor_of_every_operator_is_made() {
        let graph = detect(Scale::of('n').unwrap(), 3).unwrap();
        assert_eq!(init(&graph, 0).len(), graph.params().len());
    }
}
