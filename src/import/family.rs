//! Recognises the family of a network by its tensor names, and builds its graph.

use super::error::{Fault, shown};
use crate::graph::Graph;
use crate::model::{Normalise, Weights};
use crate::zoo::{Shapes, ZooError, mobilenet, resnet, vgg, yolo11, yolov8};

/// A family of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Yolo11,
    Yolov8,
    ResNet,
    Vgg,
    MobileNetV4,
}

impl Family {
    /// The family that tensor names belong to.
    ///
    /// # Errors
    /// Names the network if it is one that is known and not supported.
    pub fn of(weights: &Weights) -> Result<Self, Fault> {
        let has =
            |prefix: &str| weights.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix));
        let unsupported = |found: &str| Err(Fault::Unsupported { found: found.into() });
        match () {
            () if has("model.23.one2one_cv2.") || has("model.22.one2one_cv2.") => {
                unsupported("an end-to-end head (without NMS)")
            }
            () if has("model.24.m.") => unsupported("YOLOv5"),
            () if has("model.21.cv3.") => unsupported("YOLO12"),
            () if has("model.22.cv3.") || has("model.22.dfl.") || has("model.9.linear.") => Ok(Self::Yolov8),
            () if has("model.0.conv.") || has("model.23.") => Ok(Self::Yolo11),
            () if has("layer1.0.conv1.") => Ok(Self::ResNet),
            () if has("pre_logits.fc1.") => Ok(Self::Vgg),
            () if has("conv_stem.") && has("blocks.0.0.") => Ok(Self::MobileNetV4),
            () => Err(Fault::Names { found: some(weights) }),
        }
    }

    /// Its name, as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yolo11 => "YOLO11",
            Self::Yolov8 => "YOLOv8",
            Self::ResNet => "ResNet",
            Self::Vgg => "VGG",
            Self::MobileNetV4 => "MobileNetV4",
        }
    }

    /// The graph that tensors of this family describe.
    ///
    /// # Errors
    /// Names the first tensor that is missing or has an impossible shape.
    pub fn graph(self, shapes: &Shapes) -> Result<Graph, Fault> {
        let graph = match self {
            Self::Yolo11 => yolo11::from_shapes(shapes),
            Self::Yolov8 => yolov8::from_shapes(shapes),
            Self::ResNet => resnet::from_shapes(shapes),
            Self::Vgg => vgg::from_shapes(shapes),
            Self::MobileNetV4 => mobilenet::from_shapes(shapes),
        };
        graph.map_err(|error| self.fault(error))
    }

    /// The image side its published weights were trained at, where the family has only one.
    pub fn imgsz(self) -> Option<usize> {
        match self {
            Self::Yolo11 | Self::Yolov8 => None,
            Self::ResNet | Self::Vgg | Self::MobileNetV4 => Some(224),
        }
    }

    /// What its published weights expect to be done to an image.
    pub fn normalise(self) -> Option<Normalise> {
        self.imgsz().map(|_| Normalise::IMAGENET)
    }

    /// A fault of its graph.
    pub fn fault(self, error: ZooError) -> Fault {
        Fault::Zoo { family: self.name(), error }
    }
}

/// A few of the tensors' names, for a message.
fn some(weights: &Weights) -> String {
    let count = weights.len();
    let spread = weights.keys().step_by((count / 4).max(1)).take(4).map(|name| format!("`{}`", shown(name)));
    match spread.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "there are none".into(),
        names if count > 4 => format!("{names} and {} more", count - 4),
        names => names,
    }
}
