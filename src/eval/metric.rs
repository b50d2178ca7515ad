//! What a split is judged by: the metric of a task, and its name.

use crate::graph::Head;
use serde::{Deserialize, Serialize};

/// Whose overlap decides whether an object is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Mean average precision of boxes.
    #[default]
    Boxes,
    /// Of masks.
    Masks,
    /// Of keypoints, by their similarity.
    Keypoints,
    /// Of rotated boxes, by probabilistic IoU.
    Rotated,
    /// Share of the pictures whose class is right.
    Accuracy,
}

impl Metric {
    /// The metric of a head's task.
    pub fn of(head: &Head) -> Self {
        match head.branch() {
            Head::Detect { .. } | Head::EndToEnd { .. } => Self::Boxes,
            Head::Segment { .. } => Self::Masks,
            Head::Pose { .. } => Self::Keypoints,
            Head::Obb { .. } => Self::Rotated,
            Head::Classify { .. } => Self::Accuracy,
        }
    }

    /// The metric of a task by the name that ultralytics gives it.
    pub(super) fn of_task(task: &str) -> Self {
        match task {
            "segment" => Self::Masks,
            "pose" => Self::Keypoints,
            "obb" => Self::Rotated,
            "classify" => Self::Accuracy,
            _ => Self::Boxes,
        }
    }

    /// What is judged, in words.
    pub fn judged(self) -> &'static str {
        match self {
            Self::Boxes => "boxes",
            Self::Masks => "masks",
            Self::Keypoints => "keypoints",
            Self::Rotated => "rotated boxes",
            Self::Accuracy => "pictures",
        }
    }

    /// The name of the figure that models are compared by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boxes => "mAP50-95",
            Self::Masks => "mask mAP50-95",
            Self::Keypoints => "keypoint mAP50-95",
            Self::Rotated => "rotated mAP50-95",
            Self::Accuracy => "accuracy",
        }
    }

    /// The name of the same figure at an overlap of 0.50.
    pub fn loose_name(self) -> &'static str {
        match self {
            Self::Boxes => "mAP50",
            Self::Masks => "mask mAP50",
            Self::Keypoints => "keypoint mAP50",
            Self::Rotated => "rotated mAP50",
            Self::Accuracy => "accuracy",
        }
    }

    /// Whether this is the metric of boxes.
    pub fn is_boxes(&self) -> bool {
        *self == Self::Boxes
    }
}
