//! Initial weights for training from scratch.

use crate::graph::{Graph, Head, Op};
use crate::model::{Tensor, Weights};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Objects that an image of [`PRIOR_SIDE`] pixels is taken to hold before anything is learned.
const PRIOR_OBJECTS: f64 = 5.0;
/// Side of that image.
const PRIOR_SIDE: f64 = 640.0;
/// First distance of a box's sides from the cell, strides.
const DISTANCE: f32 = 2.0;
/// Part of the names of the one-to-one branch's tensors, where those of the other have a dot.
const ONE2ONE: &str = ".one2one_";

/// Fresh weights of a graph: kernels uniform within `1 / sqrt(fan in)` (He et al., 2015, with the leaky slope that
/// makes it so), normalisations at identity, biases zero. The class biases of a detect head give every cell the
/// probability of an object that a typical image has, and its box biases are 1, so that the first steps are not spent
/// on pushing thousands of empty cells down; where a box output is a distance itself, it starts at 2 strides. Both branches
/// of an end-to-end head start as equals. The same seed gives the same weights.
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
    let both = matches!(graph.head, Head::EndToEnd { one2many: true, .. });
    let of_branch = (if both { graph.outputs.len() / 2 } else { graph.outputs.len() }).max(1);
    for (id, conv) in graph.convs() {
        let shape = conv.weight_shape();
        weights.insert(conv.weight.clone(), uniform(&shape, shape[1..].iter().product()));
        if let Some(bias) = &conv.bias {
            let output = graph.outputs.iter().position(|o| *o == id).map(|output| output % of_branch);
            let value = output.map_or(0.0, |output| output_bias(&graph.head, output));
            weights.insert(bias.clone(), Tensor::filled([conv.c_out], value));
        }
        if let Some(norm) = &conv.norm {
            for (key, value) in norm.keys().into_iter().zip([1.0, 0.0, 0.0, 1.0]) {
                weights.insert(key, Tensor::filled([conv.c_out], value));
            }
        }
    }
    if both {
        let usual = |key: &String| weights.get(&key.replacen(ONE2ONE, ".", 1)).cloned();
        let equals =
            weights.keys().filter(|key| key.contains(ONE2ONE)).filter_map(|key| Some((key.clone(), usual(key)?)));
        let equals: Vec<(String, Tensor)> = equals.collect();
        weights.extend(equals);
    }
    weights
}

fn output_bias(head: &Head, output: usize) -> f32 {
    match head.boxes() {
        Some(boxes) if output < 2 * boxes.strides.len() => {
            if output.is_multiple_of(2) {
                return if boxes.reg_max == 1 { DISTANCE } else { 1.0 };
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
    use crate::zoo::Task;
    use crate::zoo::yolo11::{Scale, detect};
    use crate::zoo::yolo26::network;

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
    fn both_branches_start_as_equals() {
        let scale = Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
        let weights = init(&network(scale, Task::Detect, 3).unwrap(), 1);
        for key in weights.keys().filter(|key| key.contains(ONE2ONE)) {
            assert_eq!(weights[key], weights[&key.replace(ONE2ONE, ".")], "{key}");
        }
        for branch in ["", "one2one_"] {
            assert_eq!(weights[&format!("model.23.{branch}cv2.1.2.bias")].data(), [2.0; 4]);
            assert!(weights[&format!("model.23.{branch}cv3.2.2.bias")].data()[0] < -4.0);
        }
    }

    #[test]
    fn every_tensor_of_every_operator_is_made() {
        let graph = detect(Scale::of('n').unwrap(), 3).unwrap();
        assert_eq!(init(&graph, 0).len(), graph.params().len());
    }
}
