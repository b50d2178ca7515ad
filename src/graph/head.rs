//! What the outputs of a graph mean.

use serde::{Deserialize, Serialize};

/// What the outputs of a graph mean, and what it takes to decode them.
///
/// All but the classifier find boxes: anchor-free heads whose first outputs come in pairs per level, finest level first:
/// boxes `[N, 4 * reg_max, h, w]`, class logits `[N, nc, h, w]`. The outputs of the task follow, level after level.
///
/// A box is left, top, right, bottom, each `reg_max` logits of a distribution (YOLOv8, YOLO11). With a `reg_max` of 1
/// (YOLO26) nothing is distributed: the head gives distances in strides, offsets of keypoints from the cell's centre in
/// strides, and angles in radians, as plain numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Head {
    /// Boxes only.
    Detect {
        /// Number of classes.
        nc: usize,
        /// Bins of the distance distribution per box side (distribution focal loss).
        reg_max: usize,
        /// Pixels per cell, one per level.
        strides: Vec<usize>,
    },
    /// Boxes with masks: then per level the coefficients `[N, masks, h, w]`, and last the prototypes
    /// `[N, masks, H, W]` at twice the finest level's resolution. A mask is the sum of the prototypes weighted with the
    /// coefficients, after a sigmoid (Bolya et al., "YOLACT", ICCV 2019).
    Segment {
        /// Number of classes.
        nc: usize,
        /// Bins per box side.
        reg_max: usize,
        /// Pixels per cell, one per level.
        strides: Vec<usize>,
        /// Number of prototypes.
        masks: usize,
    },
    /// Boxes with keypoints: then per level `[N, keypoints * dims, h, w]`.
    Pose {
        /// Number of classes.
        nc: usize,
        /// Bins per box side.
        reg_max: usize,
        /// Pixels per cell, one per level.
        strides: Vec<usize>,
        /// Keypoints per box.
        keypoints: usize,
        /// 2: x and y; 3: and the logit of being visible.
        dims: usize,
    },
    /// Rotated boxes: then per level the logit of the angle `[N, 1, h, w]`; the angle is `(sigmoid - 1/4) * pi`. With a
    /// `reg_max` of 1 the angle itself.
    Obb {
        /// Number of classes.
        nc: usize,
        /// Bins per box side.
        reg_max: usize,
        /// Pixels per cell, one per level.
        strides: Vec<usize>,
    },
    /// A head trained to answer for every object once, so that nothing is suppressed (Wang et al., "YOLOv10: Real-Time
    /// End-to-End Object Detection", NeurIPS 2024).
    EndToEnd {
        /// Whether the graph still has the other branch, which answers for an object several times and gives training
        /// its signal: then the outputs of both stand one after the other, those of the other branch first.
        one2many: bool,
        /// What the outputs of a branch mean.
        branch: Box<Head>,
    },
    /// A classifier with one output of logits `[N, nc, 1, 1]`.
    Classify {
        /// Number of classes.
        nc: usize,
    },
}

/// What all heads that find boxes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boxes<'a> {
    /// Number of classes.
    pub nc: usize,
    /// Bins per box side.
    pub reg_max: usize,
    /// Pixels per cell, one per level.
    pub strides: &'a [usize],
}

impl Head {
    /// The boxes of a head that finds any.
    pub fn boxes(&self) -> Option<Boxes<'_>> {
        match self {
            Self::Detect { nc, reg_max, strides }
            | Self::Segment { nc, reg_max, strides, .. }
            | Self::Pose { nc, reg_max, strides, .. }
            | Self::Obb { nc, reg_max, strides } => Some(Boxes { nc: *nc, reg_max: *reg_max, strides }),
            Self::EndToEnd { branch, .. } => branch.boxes(),
            Self::Classify { .. } => None,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Classify { nc } => *nc,
            _ => self.boxes().map_or(0, |boxes| boxes.nc),
        }
    }

    /// Rows per cell that a task adds to boxes and classes: mask coefficients, keypoint values, the angle.
    pub fn extra(&self) -> usize {
        match self {
            Self::Detect { .. } | Self::Classify { .. } => 0,
            Self::Segment { masks, .. } => *masks,
            Self::Pose { keypoints, dims, .. } => keypoints * dims,
            Self::Obb { .. } => 1,
            Self::EndToEnd { branch, .. } => branch.extra(),
        }
    }

    /// What the outputs of one branch mean: the head itself where there is only one.
    pub fn branch(&self) -> &Self {
        match self {
            Self::EndToEnd { branch, .. } => branch,
            _ => self,
        }
    }

    /// Whether its boxes are to be taken as they are: of the one-to-one branch alone.
    pub fn is_one2one(&self) -> bool {
        matches!(self, Self::EndToEnd { one2many: false, .. })
    }

    /// The name of the task, as ultralytics write it.
    pub fn task(&self) -> &'static str {
        match self {
            Self::Detect { .. } => "detect",
            Self::Segment { .. } => "segment",
            Self::Pose { .. } => "pose",
            Self::Obb { .. } => "obb",
            Self::EndToEnd { branch, .. } => branch.task(),
            Self::Classify { .. } => "classify",
        }
    }

    /// Channels of every output, in order.
    ///
    /// # Errors
    /// If the head's own sizes make no sense.
    pub(super) fn channels(&self) -> Result<Vec<usize>, String> {
        if let Self::EndToEnd { one2many, branch } = self {
            if matches!(**branch, Self::EndToEnd { .. } | Self::Classify { .. }) {
                return Err(format!("an end-to-end head cannot be one of `{}`", branch.task()));
            }
            let channels = branch.channels()?;
            return Ok(if *one2many { channels.repeat(2) } else { channels });
        }
        let Some(Boxes { nc, reg_max, strides }) = self.boxes() else { return Ok(vec![self.classes()]) };
        if strides.is_empty() || strides.len() > 8 || strides.iter().any(|s| *s == 0 || *s > 4096) {
            return Err("the head has no sensible strides".into());
        }
        if reg_max == 0 || reg_max > 1024 {
            return Err("the head has no sensible number of bins".into());
        }
        let sensible = match self {
            Self::Segment { masks, .. } => (1..=4096).contains(masks),
            Self::Pose { keypoints, dims, .. } => (1..=4096).contains(keypoints) && (2..=3).contains(dims),
            _ => true,
        };
        if !sensible {
            return Err("the head has no sensible number of masks or keypoints".into());
        }
        let mut channels: Vec<usize> = strides.iter().flat_map(|_| [4 * reg_max, nc]).collect();
        if self.extra() > 0 {
            channels.extend(strides.iter().map(|_| self.extra()));
        }
        if let Self::Segment { masks, .. } = self {
            channels.push(*masks);
        }
        Ok(channels)
    }
}
