//! The heads of the YOLO family: boxes and classes per level, and what a task adds.

use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::shapes::Shapes;
use crate::graph::{Graph, Head, NodeId, Op};
use std::collections::BTreeMap;

/// Bins of the box distribution per side.
pub const REG_MAX: usize = 16;

/// Pixels per cell of the three levels.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// What a network of the family is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Boxes.
    Detect,
    /// Boxes with masks made of this many prototypes (32 as published).
    Segment {
        /// Number of prototypes.
        masks: usize,
    },
    /// Boxes with keypoints (17 of 3 values as published).
    Pose {
        /// Keypoints per box.
        keypoints: usize,
        /// 2: x and y; 3: and visibility.
        dims: usize,
    },
    /// Rotated boxes.
    Obb,
    /// Classes of whole images.
    Classify,
}

impl Task {
    /// The published networks' tasks.
    pub const PUBLISHED: [Self; 5] =
        [Self::Detect, Self::Segment { masks: 32 }, Self::Pose { keypoints: 17, dims: 3 }, Self::Obb, Self::Classify];

    /// What normalisations add to the variance in networks of the family: classifiers keep PyTorch's default.
    pub(super) fn eps(self) -> f32 {
        if self == Self::Classify { 1e-5 } else { 1e-3 }
    }

    /// The suffix of published names, as in `yolo11n-seg`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Detect => "",
            Self::Segment { .. } => "-seg",
            Self::Pose { .. } => "-pose",
            Self::Obb => "-obb",
            Self::Classify => "-cls",
        }
    }
}

/// Which generation of heads: layer number, and whether the class branch is the dense one of YOLOv8.
#[derive(Clone, Copy)]
pub(super) struct Generation {
    pub layer: usize,
    pub dense_classes: bool,
}

/// Task and number of classes that the tensors of a box head tell.
///
/// # Errors
/// If the class branch is missing.
pub(super) fn of_shapes(shapes: &Shapes, layer: usize) -> Result<(Task, usize), ZooError> {
    let nc = shapes.kernel(&format!("model.{layer}.cv3.0.2.weight"))?[0];
    let extra = format!("model.{layer}.cv4.0.2.weight");
    let task = if shapes.has(&format!("model.{layer}.proto"), false) {
        Task::Segment { masks: shapes.kernel(&extra)?[0] }
    } else if shapes.has(&format!("model.{layer}.cv4"), false) {
        match (shapes.kernel(&extra)?[0], shapes.keypoints) {
            (1, _) => Task::Obb,
            (rows, Some([keypoints, dims])) if keypoints.checked_mul(dims) == Some(rows) => {
                Task::Pose { keypoints, dims }
            }
            (rows, _) if rows % 3 == 0 => Task::Pose { keypoints: rows / 3, dims: 3 },
            (rows, _) => Task::Pose { keypoints: rows / 2, dims: 2 },
        }
    } else {
        Task::Detect
    };
    Ok((task, nc))
}

/// Appends the head and closes the graph. `prototypes` is the published width inside the mask prototypes.
pub(super) fn finish(
    mut net: Net,
    generation: Generation,
    levels: &[NodeId],
    (task, nc): (Task, usize),
    prototypes: usize,
) -> Result<Graph, ZooError> {
    let layer = generation.layer;
    let mut outputs = boxes(&mut net, generation, levels, nc)?;
    let (reg_max, strides) = (REG_MAX, STRIDES.to_vec());
    let head = match task {
        Task::Detect | Task::Classify => Head::Detect { nc, reg_max, strides },
        Task::Segment { masks } => Head::Segment { nc, reg_max, strides, masks },
        Task::Pose { keypoints, dims } => Head::Pose { nc, reg_max, strides, keypoints, dims },
        Task::Obb => Head::Obb { nc, reg_max, strides },
    };
    if head.extra() > 0 {
        let width = (net.channels(levels[0]) / 4).max(head.extra());
        for (i, level) in levels.iter().enumerate() {
            let name = |part: usize| format!("model.{layer}.cv4.{i}.{part}");
            let x = net.conv(&name(0), *level, width, ConvArgs::k(3))?;
            let x = net.conv(&name(1), x, width, ConvArgs::k(3))?;
            outputs.push(net.predict(&name(2), x, head.extra()));
        }
    }
    if let Task::Segment { masks } = task {
        let name = |part: &str| format!("model.{layer}.proto.{part}");
        let x = net.conv(&name("cv1"), levels[0], prototypes, ConvArgs::k(3))?;
        let width = net.channels(x);
        let x = net.conv_transpose(&name("upsample"), x, width);
        let x = net.conv(&name("cv2"), x, width, ConvArgs::k(3))?;
        outputs.push(net.conv(&name("cv3"), x, masks, ConvArgs::k(1))?);
    }
    Ok(net.graph.finish(outputs, head)?)
}

/// Boxes and classes, level after level.
fn boxes(net: &mut Net, generation: Generation, levels: &[NodeId], nc: usize) -> Result<Vec<NodeId>, ZooError> {
    let finest = net.channels(levels[0]);
    let box_width = (finest / 4).max(4 * REG_MAX).max(16);
    let class_width = finest.max(nc.min(100));
    let mut outputs = Vec::new();
    for (i, level) in levels.iter().enumerate() {
        let name = |branch: &str, part: &str| format!("model.{}.{branch}.{i}.{part}", generation.layer);
        let mut x = *level;
        for part in ["0", "1"] {
            x = net.conv(&name("cv2", part), x, box_width, ConvArgs::k(3))?;
        }
        outputs.push(net.predict(&name("cv2", "2"), x, 4 * REG_MAX));

        let mut x = *level;
        for part in ["0", "1"] {
            if generation.dense_classes {
                x = net.conv(&name("cv3", part), x, class_width, ConvArgs::k(3))?;
            } else {
                let depthwise = ConvArgs { depthwise: true, ..ConvArgs::k(3) };
                x = net.conv(&name("cv3", &format!("{part}.0")), x, 0, depthwise)?;
                x = net.conv(&name("cv3", &format!("{part}.1")), x, class_width, ConvArgs::k(1))?;
            }
        }
        outputs.push(net.predict(&name("cv3", "2"), x, nc));
    }
    Ok(outputs)
}

/// Appends the classifier of a layer and closes the graph.
pub(super) fn classify(mut net: Net, layer: usize, x: NodeId, nc: usize) -> Result<Graph, ZooError> {
    let x = net.conv(&format!("model.{layer}.conv"), x, 1280, ConvArgs::k(1))?;
    let x = net.average(format!("model.{layer}.pool"), x);
    let logits = net.predict(&format!("model.{layer}.linear"), x, nc);
    Ok(net.graph.finish(vec![logits], Head::Classify { nc })?)
}

/// Every tensor of an ultralytics state dict of a graph whose last layer has this number: running counters, the
/// constant distribution kernel, and fully connected kernels as `[out, in]`.
pub(super) fn state_dict(graph: &Graph, layer: usize) -> BTreeMap<String, Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = graph.params().into_iter().map(|p| (p.key, p.shape)).collect();
    for node in &graph.nodes {
        if let Op::Conv(conv) = &node.op
            && let Some(norm) = &conv.norm
        {
            all.insert(format!("{}.num_batches_tracked", norm.prefix), vec![]);
        }
    }
    if let Some(linear) = all.get_mut(&format!("model.{layer}.linear.weight")) {
        linear.truncate(2);
    } else {
        all.insert(format!("model.{layer}.dfl.conv.weight"), vec![1, REG_MAX, 1, 1]);
    }
    all
}
