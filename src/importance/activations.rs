//! Mean absolute outputs of the convolutions over calibration images.

use crate::engine::EngineError;
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

/// Runs the calibration images through the network and takes the means.
///
/// # Errors
/// If a layer cannot be run.
pub fn activations(model: &Model, calibration: &Calibration) -> Result<Activations, EngineError> {
    let mut walk = Walk::new(&model.graph, calibration);
    let mut found = Activations::default();
    for id in model.graph.ids() {
        walk.step(model, id)?;
        let Op::Conv(conv) = &model.graph.node(id).op else { continue };
        let mut means = vec![0.0; conv.c_out];
        let tensors = walk.inputs(id);
        let area = tensors.height * tensors.width;
        for image in tensors.images {
            for (mean, plane) in means.iter_mut().zip(image.chunks(area.max(1))) {
                *mean += plane.iter().map(|v| f64::from(v.abs())).sum::<f64>();
            }
        }
        let count = (area * tensors.images.len()).max(1) as f64;
        means.iter_mut().for_each(|mean| *mean /= count);
        found.0.insert(id.0, means);
    }
    Ok(found)
}
