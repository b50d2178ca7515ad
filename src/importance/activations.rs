//! Mean absolute outputs of the convolutions over calibration images.

use super::error::ImportanceError;
use crate::graph::Op;
use crate::group::{Group, Groups};
use crate::model::Model;
use crate::repair::{Calibration, Walk};
use std::collections::BTreeMap;

/// Mean absolute output of every channel, by node number of its convolution.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations(pub BTreeMap<u32, Vec<f64>>);

impl Activations {
    /// One score per position of the group: the mean over the convolutions that make the channel, each with a mean of
    /// one over its channels.
    pub(super) fn of_group(&self, groups: &Groups, group: &Group) -> Vec<f64> {
        let mut scores = vec![0.0; group.width()];
        for producer in &group.producers {
            let Some(means) = self.0.get(&producer.0) else { continue };
            let scale = means.len().max(1) as f64 / means.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            for (channel, atom) in groups.channels[producer.index()].iter().enumerate() {
                if let Ok(position) = group.atoms.binary_search(atom) {
                    scores[position] += means[channel] * scale;
                }
            }
        }
        scores
    }
}

/// Runs the calibration images, which the calibration's ranks share, through the network and takes the means.
///
/// # Errors
/// If a layer cannot be run, or a rank cannot be reached.
pub fn activations(model: &Model, calibration: &Calibration) -> Result<Activations, ImportanceError> {
    let mut walk = Walk::new(&model.graph, calibration);
    let mut found = Activations::default();
    for id in model.graph.ids() {
        walk.step(model, id)?;
        let Op::Conv(conv) = &model.graph.node(id).op else { continue };
        let tensors = walk.inputs(id);
        let area = tensors.height * tensors.width;
        let planes = tensors.images.iter().flat_map(|image| image.chunks(area.max(1)));
        let sums: Vec<f64> = planes.map(|plane| plane.iter().map(|v| f64::from(v.abs())).sum()).collect();
        // Added image after image, whichever rank has it.
        let mut means = vec![0.0; conv.c_out];
        for sums in calibration.ranks.gather(bytemuck::cast_slice(&sums))? {
            for image in bytemuck::pod_collect_to_vec::<u8, f64>(&sums).chunks(conv.c_out) {
                means.iter_mut().zip(image).for_each(|(mean, sum)| *mean += sum);
            }
        }
        let count = (area * calibration.images.len()).max(1) as f64;
        means.iter_mut().for_each(|mean| *mean /= count);
        found.0.insert(id.0, means);
    }
    Ok(found)
}
