//! Parameters and multiply-accumulates.

use super::{Conv, Graph, GraphError, Op, Shape};

/// Size and arithmetic of a graph at one input size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trained values (running statistics not counted, as is usual).
    pub params: usize,
    /// Multiply-accumulates per image; an attention counts both of its products.
    pub macs: usize,
}

/// Multiply-accumulates of a convolution whose output is `out`.
pub fn conv_macs(conv: &Conv, out: Shape) -> usize {
    conv.weight_shape().iter().product::<usize>() * out.area()
}

impl Graph {
    /// Multiply-accumulates of every node, given all shapes of [`Graph::shapes`].
    pub fn macs(&self, shapes: &[Shape]) -> Vec<usize> {
        let of = |(node, out): (&super::Node, &Shape)| match &node.op {
            Op::Conv(conv) => conv_macs(conv, *out),
            // Every output is made by one tap of every input channel.
            Op::ConvTranspose(conv) => conv.c_in * out.len(),
            Op::Attention(a) => a.heads * (a.key_dim + a.head_dim) * out.area() * (out.area() / a.areas.max(1)),
            Op::Input { .. }
            | Op::Activate { .. }
            | Op::MaxPool { .. }
            | Op::AvgPool { .. }
            | Op::Upsample { .. }
            | Op::Concat
            | Op::Slice { .. }
            | Op::Add
            | Op::AttentionValues(_)
            | Op::GlobalAvgPool => 0,
        };
        self.nodes.iter().zip(shapes).map(of).collect()
    }

    /// Parameters and multiply-accumulates for an input of `height` x `width`.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn cost(&self, height: usize, width: usize) -> Result<Cost, GraphError> {
        let shapes = self.shapes(height, width)?;
        let size = |p: super::Param| p.shape.iter().product::<usize>();
        Ok(Cost {
            params: self.params().into_iter().filter(|p| p.trainable).map(size).sum(),
            macs: self.macs(&shapes).iter().sum(),
        })
    }
}
