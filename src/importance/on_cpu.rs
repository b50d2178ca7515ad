//! Squares of gradients by what convolutions give, with the tensor backend on the CPU.

use super::batches::Batches;
use crate::backend::{Mode, Net};
use crate::graph::{NodeId, Op};
use crate::model::Model;
use crate::training::Squares;
use candle_core::{DType, Device, Result, Tensor, Var};

/// A network, and what its last forward pass left for the backward pass.
pub(super) struct OnCpu<'a> {
    net: Net,
    model: &'a Model,
    outputs: Vec<Tensor>,
    /// By convolution zeros that are added to what it gives: their gradient is that of its output.
    shifts: Vec<(NodeId, Var)>,
}

impl<'a> OnCpu<'a> {
    pub fn new(model: &'a Model) -> Result<Self> {
        let net = Net::new(model, &Device::Cpu)?.frozen();
        Ok(Self { net, model, outputs: Vec::new(), shifts: Vec::new() })
    }

    /// By output of the graph its values `[n, c, h, w]` for a part of some images.
    pub fn forward(&mut self, images: &Batches, part: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let Self { net, model, outputs, shifts } = self;
        let input = images.tensor(part, model.graph.input_channels())?;
        shifts.clear();
        *outputs = net.forward_with(&input, Mode::Eval, &mut |id, output| {
            if !matches!(model.graph.node(id).op, Op::Conv(_)) {
                return Ok(output);
            }
            let shift = Var::zeros(output.shape(), DType::F32, &Device::Cpu)?;
            let moved = (&output + shift.as_tensor())?;
            shifts.push((id, shift));
            Ok(moved)
        })?;
        outputs.iter().map(|output| output.flatten_all()?.to_vec1()).collect()
    }

    /// The squares by gradients of those outputs, in their order and layout.
    pub fn backward(&mut self, gradients: Vec<Vec<f32>>) -> Result<Vec<Squares>> {
        let mut total = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        for (output, gradient) in std::mem::take(&mut self.outputs).iter().zip(gradients) {
            total = (total + (output * Tensor::from_vec(gradient, output.shape(), &Device::Cpu)?)?.sum_all()?)?;
        }
        let store = total.backward()?;
        let mut found = Vec::new();
        for (node, shift) in std::mem::take(&mut self.shifts) {
            let Some(gradient) = store.get(shift.as_tensor()) else { continue };
            let squares = gradient.sqr()?;
            let positions = squares.sum(1)?.flatten_all()?.to_vec1()?;
            let channels = squares.sum((0, 2, 3))?.to_vec1()?;
            found.push(Squares { node, positions, channels });
        }
        Ok(found)
    }
}
