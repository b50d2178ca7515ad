//! Input covariances of the dense convolutions, over the calibration images.

use super::error::ImportanceError;
use crate::model::Model;
use crate::repair::{Calibration, Covariance, Pass};
use std::collections::BTreeMap;

/// Input covariances (second moments of the inputs) of every dense convolution, by node number.
pub type Covariances = BTreeMap<u32, Covariance>;

/// Collects the input covariances over the calibration images, which the calibration's ranks share.
///
/// # Errors
/// If a layer cannot be run, or a rank cannot be reached.
pub fn covariances(model: &Model, calibration: &Calibration) -> Result<Covariances, ImportanceError> {
    let mut pass = Pass::new(&[&model.graph], calibration)?;
    let mut covariances = BTreeMap::new();
    for id in model.graph.ids() {
        if let Some(covariance) = pass.covariance(&model.graph, id)? {
            covariances.insert(id.0, covariance);
        }
        pass.step(0, model, id)?;
    }
    Ok(covariances)
}
