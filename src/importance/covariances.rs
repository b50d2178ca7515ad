//! Input covariances of the dense convolutions, over the calibration images.

use super::error::ImportanceError;
use crate::graph::Op;
use crate::model::Model;
use crate::repair::{Calibration, Covariance, Walk};
use std::collections::BTreeMap;

/// Input covariances (second moments of the inputs) of every dense convolution, by node number.
pub type Covariances = BTreeMap<u32, Covariance>;

/// Collects the input covariances over the calibration images, which the calibration's ranks share.
///
/// # Errors
/// If a layer cannot be run, or a rank cannot be reached.
pub fn covariances(model: &Model, calibration: &Calibration) -> Result<Covariances, ImportanceError> {
    let mut walk = Walk::new(&model.graph, calibration);
    let mut covariances = BTreeMap::new();
    for id in model.graph.ids() {
        let node = model.graph.node(id);
        if let Op::Conv(conv) = &node.op
            && !conv.is_depthwise()
        {
            let seed = calibration.seed ^ u64::from(id.0);
            let weights = calibration.position_weights(id);
            covariances.insert(id.0, Covariance::of(conv, walk.inputs(node.inputs[0]), seed, weights)?);
        }
        walk.step(model, id)?;
    }
    Ok(covariances)
}
