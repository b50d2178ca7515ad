//! Gradients of the loss of every single image with respect to masks on the channels.
//!
//! A mask of ones is multiplied onto the output of every convolution. Its gradient for one image is
//! `sum over positions of activation * dL/d activation`: to first order, how much the loss falls when the
//! channel is removed. Masks of the convolutions that share a channel add up.

use super::batches::Batches;
use crate::backend::{Mode, Net, ops};
use crate::graph::{NodeId, Op};
use crate::group::{Group, Groups};
use crate::model::Model;
use candle_core::{DType, Device, Result, Tensor, Var};

/// Per-image gradients of the loss with respect to the mask of every atom.
#[derive(Clone, Debug, Default)]
pub struct MaskGradients {
    /// For every image one entry per atom.
    per_image: Vec<Vec<f64>>,
}

impl MaskGradients {
    /// One row per channel of the group, one entry per image.
    pub fn of_group(&self, group: &Group) -> Vec<Vec<f64>> {
        group.atoms.iter().map(|atom| self.per_image.iter().map(|image| image[atom.index()]).collect()).collect()
    }

    /// Mean absolute first-order change of the loss, one entry per channel of the group.
    pub fn taylor(&self, group: &Group) -> Vec<f64> {
        let images = self.per_image.len().max(1) as f64;
        self.of_group(group).iter().map(|row| row.iter().map(|g| g.abs()).sum::<f64>() / images).collect()
    }

    /// Mean squared first-order change of the loss, one entry per channel of the group: the diagonal of the Fisher
    /// information of its masks, times 1/2 (the second-order term of the loss).
    pub fn fisher(&self, group: &Group) -> Vec<f64> {
        let images = self.per_image.len().max(1) as f64;
        self.of_group(group).iter().map(|row| 0.5 * row.iter().map(|g| g * g).sum::<f64>() / images).collect()
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.per_image.len()
    }
}

/// Runs the images in batches through the network in evaluation mode and collects the gradients.
/// `loss_gradient(first_image, outputs)` answers, for a batch that starts at an image, the gradient of the sum
/// of the images' losses with respect to every output of the graph. `progress` gets how many of this rank's images are
/// done, and how many it has.
///
/// # Errors
/// Those of the tensor library and of `loss_gradient`; if a rank cannot be reached.
pub fn mask_gradients(
    model: &Model,
    groups: &Groups,
    images: &Batches,
    loss_gradient: &mut dyn FnMut(usize, &[Tensor]) -> Result<Vec<Tensor>>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<MaskGradients> {
    let net = Net::new(model, &Device::Cpu)?.frozen();
    let (atoms, all) = (groups.group_of.len(), images.own());
    let mut own: Vec<f64> = Vec::with_capacity(atoms * all);
    for (first, part) in images.iter() {
        let input = images.tensor(part, model.graph.input_channels())?;
        let mut masks: Vec<(NodeId, Var)> = Vec::new();
        let outputs = net.forward_with(&input, Mode::Eval, &mut |id, output| {
            let Op::Conv(conv) = &model.graph.node(id).op else { return Ok(output) };
            let mask = Var::ones((part.len(), conv.c_out, 1, 1), DType::F32, &Device::Cpu)?;
            let masked = ops::channel_scale(&output, mask.as_tensor())?;
            masks.push((id, mask));
            Ok(masked)
        })?;
        let seeds = loss_gradient(first, &outputs)?;
        let mut total = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        for (output, seed) in outputs.iter().zip(seeds) {
            total = (total + (output * seed)?.sum_all()?)?;
        }
        let store = total.backward()?;
        let mut rows = vec![vec![0.0; atoms]; part.len()];
        for (id, mask) in &masks {
            let Some(gradient) = store.get(mask.as_tensor()) else { continue };
            let values = gradient.flatten_from(1)?.to_vec2::<f32>()?;
            for (row, values) in rows.iter_mut().zip(values) {
                groups.channels[id.index()].iter().zip(values).for_each(|(atom, g)| row[atom.index()] += f64::from(g));
            }
        }
        own.extend(rows.into_iter().flatten());
        progress(own.len() / atoms.max(1), all);
    }
    let per_image = images.gather(own)?.chunks(atoms.max(1)).map(<[f64]>::to_vec).collect();
    Ok(MaskGradients { per_image })
}
