//! Repairs a pruned network by layer-wise reconstruction, before any training.
//!
//! The original and the pruned network run side by side over calibration images, layer after layer. At
//! every convolution the pruned one is refitted so that its output is as close as possible to what the original
//! computed there: ridge regression toward the pruned weights, with an intercept that is added to the
//! batch normalisation or the bias. Later layers see the repaired outputs of earlier ones, so errors do not
//! add up unseen. After He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017).
//!
//! [`Method::BatchNorm`] re-estimates batch-norm statistics instead, a cheaper repair for comparison. [`Method::Merge`]
//! needs no images at all.

mod error;
mod inputs;
mod merge;
mod moments;
mod on_cpu;
mod on_gpu;
mod pass;
mod positions;
mod samples;
mod shared;
mod walk;

pub use error::{PassError, RepairError};
pub use inputs::Inputs;
pub use moments::{Covariance, Fit, Moments};
pub use pass::Pass;
pub use walk::Walk;

use crate::engine::Device;
use crate::graph::{Conv, NodeId, Op};
use crate::group::Groups;
use crate::model::{Model, Tensor};
use crate::ranks::{Ranks, Share};
use crate::surgery::Selection;
use pass::Original;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a pruned network is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// No repair.
    None,
    /// Removed channels are merged into similar ones that are kept; needs no images.
    Merge,
    /// Re-estimation of batch-norm means and variances.
    BatchNorm,
    /// Sequential least-squares reconstruction.
    #[default]
    LeastSquares,
    /// The same over the weights that are not zero; zeros are kept. Where a row has too many weights for a system of
    /// its own, statistics are re-estimated instead.
    Sparse,
}

impl Method {
    /// Every method for pruned networks with the name users type.
    pub const ALL: [(&'static str, Self); 4] =
        [("none", Self::None), ("merge", Self::Merge), ("bn", Self::BatchNorm), ("lsq", Self::LeastSquares)];

    /// The method of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, method)| *method)
    }

    /// The name users type.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, method)| *method == self).map_or("sparse", |(name, _)| *name)
    }
}

/// The most weights of a row that sparse repair solves for.
const MAX_SPARSE_ROW: usize = 1536;

/// Images to repair with, and the settings of the repair.
#[derive(Clone)]
pub struct Calibration<'a> {
    /// Letterboxed images, `[3, height, width]` each, RGB 0 to 1.
    pub images: &'a [Vec<f32>],
    /// Rows of every image.
    pub height: usize,
    /// Columns of every image.
    pub width: usize,
    /// Ridge of one-layer refits while importance is measured, as a share of the inputs' mean variance. The repair
    /// itself chooses its ridges.
    pub ridge: f64,
    /// Seed of the choice of positions.
    pub seed: u64,
    /// How much the original's outputs depend on its layers; without it all positions have the same weight.
    pub sensitivity: Option<&'a Sensitivity>,
    /// The ranks that share the images: each runs networks on its own, and all have the result, the same bits on one, two
    /// and four ranks.
    pub ranks: Ranks,
    /// What runs the networks whose second moments are needed, and adds these up.
    pub device: Device,
}

/// How much the outputs of a network depend on the outputs of its convolutions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensitivity {
    /// By node number: for every image one value per position, with a mean of one over all images.
    pub positions: BTreeMap<u32, Vec<Vec<f32>>>,
    /// By node number: one value per channel, comparable between layers.
    pub channels: BTreeMap<u32, Vec<f64>>,
}

impl Calibration<'_> {
    /// Which of the images are this rank's.
    pub fn share(&self) -> Share {
        Share::new(&self.ranks, self.images.len())
    }

    /// The weights of the positions of a node, for every image.
    pub fn position_weights(&self, id: NodeId) -> Option<&[Vec<f32>]> {
        self.sensitivity?.positions.get(&id.0).map(Vec::as_slice)
    }
}

/// The pruned model, repaired toward the original that it was pruned from.
///
/// ```
/// use secateurs::engine::Device;
/// use secateurs::group::groups;
/// use secateurs::ranks::Ranks;
/// use secateurs::repair::{Calibration, Method, repair};
/// use secateurs::surgery::{Selection, cut};
/// # let demo = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors"));
/// # let model = secateurs::model::from_bytes(std::path::Path::new("demo.safetensors"), demo)?;
///
/// let groups = groups(&model.graph);
/// let widths: Vec<usize> = groups.groups.iter().map(|group| group.width() / 2).collect();
/// let selection = Selection::first(&groups, &widths);
/// let pruned = cut(&model, &groups, &selection)?;
/// // Real use takes a few dozen images; the network has to see what it will see.
/// let image = |i: usize| (0..3 * 64 * 64).map(|at| ((at * (i + 7)) % 251) as f32 / 250.0).collect();
/// let images: Vec<Vec<f32>> = (0..2).map(image).collect();
/// let calibration = Calibration {
///     images: &images,
///     height: 64,
///     width: 64,
///     ridge: 1e-3,
///     seed: 0,
///     sensitivity: None,
///     ranks: Ranks::default(),
///     device: Device::Cpu,
/// };
/// let repaired = repair(&model, &groups, &selection, &pruned, Method::BatchNorm, &calibration, &mut |_, _| {})?;
/// assert_eq!(repaired.graph, pruned.graph);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If there are no images, a layer cannot be run, its equations cannot be solved, or a rank cannot be reached.
pub fn repair(
    original: &Model,
    groups: &Groups,
    selection: &Selection,
    cut: &Model,
    method: Method,
    calibration: &Calibration,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Model, RepairError> {
    if method == Method::None {
        return Ok(cut.clone());
    }
    if method == Method::Merge {
        let mut merged = cut.clone();
        merge::merge(original, groups, selection, &mut merged);
        return Ok(merged);
    }
    if calibration.images.is_empty() {
        return Err(RepairError::NoImages);
    }
    let mut repaired = cut.clone();
    let mut pass = Pass::new(&[&original.graph, &cut.graph], calibration)?;
    let total = original.graph.nodes.len();
    // Layers that were removed with a whole group have no partner; the others keep their order.
    for id in original.graph.ids() {
        pass.step(0, original, id)?;
        let partner = cut.graph.find(&original.graph.node(id).name);
        if let Some(mine) = partner {
            if let (Op::Conv(conv), Op::Conv(smaller)) = (&original.graph.node(id).op, &cut.graph.node(mine).op) {
                let rows = kept_rows(groups, selection, id);
                let kernel = original.tensor(&conv.weight).select(0, &rows);
                let (bias, input) =
                    (conv.bias.as_ref().map(|key| original.tensor(key)), original.graph.node(id).inputs[0]);
                let of_original = Original { id, conv, input, kernel: &kernel, bias, rows: &rows };
                let moments = pass.moments(of_original, &cut.graph, (mine, smaller))?;
                refit(&mut repaired, smaller, &moments, (method, calibration), &original.graph.node(id).name)?;
            }
            pass.step(1, &repaired, mine)?;
        }
        progress(id.index() + 1, total);
    }
    Ok(repaired)
}

/// Refits a layer of a model by a method that needs moments.
fn refit(
    model: &mut Model,
    conv: &Conv,
    moments: &Moments,
    (method, calibration): (Method, &Calibration),
    layer: &str,
) -> Result<(), RepairError> {
    let kernel = model.tensor(&conv.weight);
    let small = kernel.data().len() / kernel.shape()[0].max(1) <= MAX_SPARSE_ROW;
    if method == Method::Sparse && small {
        let fit = moments.fit_nonzero(kernel, calibration.ridge);
        apply(model, conv, &fit);
    } else if matches!(method, Method::BatchNorm | Method::Sparse) {
        moments.restate(model, conv);
    } else {
        let fit = moments.fit(kernel, &calibration.ranks)?;
        apply(model, conv, &fit.ok_or_else(|| RepairError::Singular { layer: layer.to_owned() })?);
    }
    Ok(())
}

/// Which output channels of a node are kept.
fn kept_rows(groups: &Groups, selection: &Selection, id: NodeId) -> Vec<usize> {
    let mut kept: Vec<bool> = groups.group_of.iter().map(Option::is_none).collect();
    for (group, keep) in groups.groups.iter().zip(&selection.0) {
        keep.iter().for_each(|position| kept[group.atoms[*position].index()] = true);
    }
    let channels = &groups.channels[id.index()];
    (0..channels.len()).filter(|c| kept[channels[*c].index()]).collect()
}

/// Writes a fit into a model: the kernel, and the intercept into the running mean or the bias.
pub fn apply(model: &mut Model, conv: &Conv, fit: &Fit) {
    model.weights.insert(conv.weight.clone(), Tensor::new(conv.weight_shape(), fit.kernel.clone()));
    let (key, sign) = match (&conv.norm, &conv.bias) {
        (Some(norm), _) => (norm.keys()[2].clone(), -1.0),
        (None, Some(bias)) => (bias.clone(), 1.0),
        (None, None) => return,
    };
    if let Some(shift) = model.weights.get_mut(&key) {
        shift.data_mut().iter_mut().zip(&fit.intercept).for_each(|(s, i)| *s += sign * i);
    }
}
