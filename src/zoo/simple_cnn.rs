//! A small classifier of small grey pictures, made for MNIST: two convolutions with pooling, then two layers that are
//! fully connected, written as convolutions over the whole input.

use super::ZooError;
use crate::graph::{Activation, Builder, Conv, Graph, Head, Norm, Op};

/// Side of the pictures, pixels.
pub const SIDE: usize = 28;

/// The graph for `nc` classes: 1 -> 32 -> 64 channels at 28 and 14 pixels, 128 hidden values.
///
/// # Errors
/// If `nc` is 0.
pub fn simple_cnn(nc: usize) -> Result<Graph, ZooError> {
    let conv = |name: &str, [c_in, c_out]: [usize; 2], kernel: usize, padding: usize| Conv {
        weight: format!("{name}.conv.weight"),
        bias: None,
        norm: Some(Norm { prefix: format!("{name}.bn"), eps: 1e-5 }),
        c_in,
        c_out,
        kernel,
        stride: 1,
        padding,
        groups: 1,
        act: Activation::Relu,
    };
    let pool = Op::MaxPool { kernel: 2, stride: 2, padding: 0 };
    let last = Conv {
        weight: "fc2.weight".into(),
        bias: Some("fc2.bias".into()),
        norm: None,
        act: Activation::Identity,
        ..conv("fc2", [128, nc], 1, 0)
    };
    let layers = [
        ("conv1", Op::Conv(conv("conv1", [1, 32], 3, 1))),
        ("pool1", pool.clone()),
        ("conv2", Op::Conv(conv("conv2", [32, 64], 3, 1))),
        ("pool2", pool),
        ("fc1", Op::Conv(conv("fc1", [64, 128], SIDE / 4, 0))),
        ("fc2", Op::Conv(last)),
    ];
    let mut graph = Builder::default();
    let mut x = graph.push("images", Op::Input { channels: 1 }, &[]);
    for (name, op) in layers {
        x = graph.push(name, op, &[x]);
    }
    Ok(graph.finish(vec![x], Head::Classify { nc })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_one_answer_for_a_picture() {
        let graph = simple_cnn(10).unwrap();
        let shapes = graph.shapes(SIDE, SIDE).unwrap();
        let last = shapes[graph.outputs[0].index()];
        assert_eq!((last.c, last.h, last.w), (10, 1, 1));
        let dense = 32 * 9 + 64 * 32 * 9 + 128 * 64 * 49 + 10 * 128 + 10;
        assert_eq!(graph.cost(SIDE, SIDE).unwrap().params, dense + 2 * (32 + 64 + 128));
        assert!(simple_cnn(0).is_err());
    }
}
