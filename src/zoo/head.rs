//! The heads of the YOLO family: boxes and classes per level, what a task adds, and the second branch of end-to-end heads.

use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::shapes::Shapes;
use crate::graph::{Graph, Head, NodeId};
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

/// Which generation of heads.
#[derive(Clone, Copy)]
pub(super) struct Generation {
    /// Number of the layer.
    pub layer: usize,
    /// The class branch is the dense one of YOLOv8, not the depthwise one of YOLO11.
    pub dense_classes: bool,
    /// Bins of the box distribution; 1 for the plain distances of YOLO26, whose task branches also differ.
    pub reg_max: usize,
    pub branches: Branches,
    /// Published width inside the mask prototypes.
    pub prototypes: usize,
}

impl Generation {
    /// A head with one branch and a distribution of [`REG_MAX`] bins.
    pub fn plain(layer: usize, dense_classes: bool) -> Self {
        Self { layer, dense_classes, reg_max: REG_MAX, branches: Branches::One2Many, prototypes: 0 }
    }
}

/// The branches of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branches {
    /// The usual one.
    One2Many,
    /// The end-to-end one, where the other was left out.
    One2One,
    Both,
}

impl Branches {
    /// Prefixes of the tensor names.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::One2Many => &[""],
            Self::One2One => &["one2one_"],
            Self::Both => &["", "one2one_"],
        }
    }

    /// Those that the tensors of a head have.
    pub fn of_shapes(shapes: &Shapes, layer: usize) -> Self {
        let has = |prefix: &str| shapes.has(&format!("model.{layer}.{prefix}cv3"), false);
        match (has(""), has("one2one_")) {
            (true, true) => Self::Both,
            (false, true) => Self::One2One,
            _ => Self::One2Many,
        }
    }

    fn wrap(self, branch: Head) -> Head {
        match self {
            Self::One2Many => branch,
            Self::One2One | Self::Both => Head::EndToEnd { one2many: self == Self::Both, branch: Box::new(branch) },
        }
    }
}

/// Task and number of classes that the tensors of a box head tell.
///
/// # Errors
/// If the class branch is missing.
pub(super) fn of_shapes(shapes: &Shapes, layer: usize) -> Result<(Task, usize), ZooError> {
    let prefix = Branches::of_shapes(shapes, layer).prefixes()[0];
    let name = |part: &str| format!("model.{layer}.{prefix}{part}");
    let nc = shapes.kernel(&name("cv3.0.2.weight"))?[0];
    let points = name("cv4_kpts.0.weight");
    let extra = if shapes.tensor(&points, false) { points } else { name("cv4.0.2.weight") };
    let task = if shapes.has(&format!("model.{layer}.proto"), false) {
        Task::Segment { masks: shapes.kernel(&extra)?[0] }
    } else if shapes.has(&name("cv4"), false) {
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

/// Appends the head and closes the graph.
pub(super) fn finish(
    mut net: Net,
    generation: Generation,
    levels: &[NodeId],
    (task, nc): (Task, usize),
) -> Result<Graph, ZooError> {
    let (reg_max, strides) = (generation.reg_max, STRIDES.to_vec());
    let head = match task {
        Task::Detect | Task::Classify => Head::Detect { nc, reg_max, strides },
        Task::Segment { masks } => Head::Segment { nc, reg_max, strides, masks },
        Task::Pose { keypoints, dims } => Head::Pose { nc, reg_max, strides, keypoints, dims },
        Task::Obb => Head::Obb { nc, reg_max, strides },
    };
    let mut outputs = Vec::new();
    let mut prototypes = None;
    for prefix in generation.branches.prefixes() {
        let branch = Branch { generation, prefix };
        outputs.extend(branch.boxes(&mut net, levels, nc)?);
        outputs.extend(branch.extras(&mut net, levels, task, head.extra())?);
        if let Task::Segment { masks } = task {
            // Both branches weight the same prototypes.
            let shared = match prototypes {
                Some(shared) => shared,
                None => self::prototypes(&mut net, generation, levels, masks)?,
            };
            prototypes = Some(shared);
            outputs.push(shared);
        }
    }
    Ok(net.graph.finish(outputs, generation.branches.wrap(head))?)
}

/// One branch of a head.
#[derive(Clone, Copy)]
struct Branch {
    generation: Generation,
    prefix: &'static str,
}

impl Branch {
    fn name(&self, part: &str) -> String {
        format!("model.{}.{}{part}", self.generation.layer, self.prefix)
    }

    /// Boxes and classes, level after level.
    fn boxes(&self, net: &mut Net, levels: &[NodeId], nc: usize) -> Result<Vec<NodeId>, ZooError> {
        let (finest, sides) = (net.channels(levels[0]), 4 * self.generation.reg_max);
        let box_width = (finest / 4).max(sides).max(16);
        let class_width = finest.max(nc.min(100));
        let mut outputs = Vec::new();
        for (i, level) in levels.iter().enumerate() {
            let name = |branch: &str, part: &str| self.name(&format!("{branch}.{i}.{part}"));
            let mut x = *level;
            for part in ["0", "1"] {
                x = net.conv(&name("cv2", part), x, box_width, ConvArgs::k(3))?;
            }
            outputs.push(net.predict(&name("cv2", "2"), x, sides));

            let mut x = *level;
            for part in ["0", "1"] {
                if self.generation.dense_classes {
                    x = net.conv(&name("cv3", part), x, class_width, ConvArgs::k(3))?;
                } else {
                    x = net.conv(&name("cv3", &format!("{part}.0")), x, 0, ConvArgs::depthwise(3))?;
                    x = net.conv(&name("cv3", &format!("{part}.1")), x, class_width, ConvArgs::k(1))?;
                }
            }
            outputs.push(net.predict(&name("cv3", "2"), x, nc));
        }
        Ok(outputs)
    }

    /// The `rows` that a task adds per cell, level after level.
    fn extras(&self, net: &mut Net, levels: &[NodeId], task: Task, rows: usize) -> Result<Vec<NodeId>, ZooError> {
        if rows == 0 {
            return Ok(Vec::new());
        }
        // YOLO26 predicts how certain keypoints are from the same features, in training alone.
        let apart = self.generation.reg_max == 1 && matches!(task, Task::Pose { .. });
        let inner = match task {
            Task::Pose { keypoints, .. } if apart => rows + 2 * keypoints,
            _ => rows,
        };
        let width = (net.channels(levels[0]) / 4).max(inner);
        let mut outputs = Vec::new();
        for (i, level) in levels.iter().enumerate() {
            let mut x = *level;
            for part in [0, 1] {
                x = net.conv(&self.name(&format!("cv4.{i}.{part}")), x, width, ConvArgs::k(3))?;
            }
            let last = if apart { format!("cv4_kpts.{i}") } else { format!("cv4.{i}.2") };
            outputs.push(net.predict(&self.name(&last), x, rows));
        }
        Ok(outputs)
    }
}

/// Mask prototypes at twice the finest level's resolution: from that level, in YOLO26 from all three.
fn prototypes(net: &mut Net, generation: Generation, levels: &[NodeId], masks: usize) -> Result<NodeId, ZooError> {
    let name = |part: &str| format!("model.{}.proto.{part}", generation.layer);
    let mut x = levels[0];
    if generation.reg_max == 1 {
        for (i, level) in levels.iter().skip(1).enumerate() {
            let width = net.channels(levels[0]);
            let refined = net.conv(&name(&format!("feat_refine.{i}")), *level, width, ConvArgs::k(1))?;
            let refined = net.enlarge(name(&format!("feat_refine.{i}.up")), refined, 2 << i);
            x = net.add(name(&format!("feat_refine.{i}.add")), x, refined);
        }
        x = net.conv(&name("feat_fuse"), x, generation.prototypes, ConvArgs::k(3))?;
    }
    let x = net.conv(&name("cv1"), x, generation.prototypes, ConvArgs::k(3))?;
    let width = net.channels(x);
    let x = net.conv_transpose(&name("upsample"), x, width);
    let x = net.conv(&name("cv2"), x, width, ConvArgs::k(3))?;
    net.conv(&name("cv3"), x, masks, ConvArgs::k(1))
}

/// Appends the classifier of a layer and closes the graph.
pub(super) fn classify(mut net: Net, layer: usize, x: NodeId, nc: usize) -> Result<Graph, ZooError> {
    let x = net.conv(&format!("model.{layer}.conv"), x, 1280, ConvArgs::k(1))?;
    let x = net.average(format!("model.{layer}.pool"), x);
    let logits = net.predict(&format!("model.{layer}.linear"), x, nc);
    Ok(net.graph.finish(vec![logits], Head::Classify { nc })?)
}

/// Every tensor of an ultralytics state dict of a graph of the YOLO family, but those for training alone: running
/// counters, the constant distribution kernel, fully connected kernels as `[out, in]`, factors of channels as `[c]`.
pub fn state_dict(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    let flat = |key: &str, shape: Vec<usize>| match shape[..] {
        [out, input, 1, 1] if key.ends_with(".linear.weight") => vec![out, input],
        [channels, 1, 1, 1] if key.ends_with(".gamma") => vec![channels],
        _ => shape,
    };
    let params = graph.params().into_iter();
    let mut all: BTreeMap<String, Vec<usize>> = params.map(|p| (p.key.clone(), flat(&p.key, p.shape))).collect();
    for (_, conv) in graph.convs() {
        all.extend(conv.norm.iter().map(|norm| (format!("{}.num_batches_tracked", norm.prefix), vec![])));
    }
    let bins = graph.head.boxes().map_or(1, |boxes| boxes.reg_max);
    let layer = graph.outputs.first().and_then(|id| graph.node(*id).name.split('.').nth(1));
    if let (Some(layer), true) = (layer, bins > 1) {
        all.insert(format!("model.{layer}.dfl.conv.weight"), vec![1, bins, 1, 1]);
    }
    all
}
