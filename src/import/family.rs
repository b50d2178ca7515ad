//! Recognises the family of a network by its tensor names and shapes, and builds its graph.
//!
//! Nothing is guessed: the head's layer and a tensor or two choose a family, its builder names the first tensor that is
//! missing, and [`Family::check_all`] the first one that the family has not.

use super::error::{Fault, shown};
use crate::graph::Graph;
use crate::model::Normalise;
use crate::zoo::{
    Shapes, Unknown, ZooError, mobilenet, resnet, state_dict, vgg, yolo11, yolo12, yolo26, yolov5, yolov6, yolov8,
    yolov9, yolov10,
};
use std::collections::BTreeMap;

/// Shapes of tensors by name.
pub(super) type Sizes = BTreeMap<String, Vec<usize>>;

/// A family of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Yolo26,
    Yolo12,
    Yolo11,
    Yolov10,
    Yolov9,
    Yolov9e,
    Yolov8,
    Yolov6,
    Yolov5u,
    ResNet,
    Vgg,
    MobileNetV4,
}

impl Family {
    /// Those with ultralytics' names; of two that are equally like a network the later one is meant.
    pub const YOLO: [Self; 9] = [
        Self::Yolov6,
        Self::Yolov5u,
        Self::Yolov9e,
        Self::Yolov9,
        Self::Yolov10,
        Self::Yolo12,
        Self::Yolov8,
        Self::Yolo26,
        Self::Yolo11,
    ];

    /// The family that tensors belong to.
    ///
    /// # Errors
    /// Names the network if it is one that is known and not supported.
    pub fn of(sizes: &Sizes) -> Result<Self, Fault> {
        if let Some(name) = foreign(sizes) {
            return Err(Fault::unsupported(name));
        }
        let has = |prefix: &str| has(sizes, prefix);
        if let Some(head) = box_head(sizes) {
            return Self::of_head(sizes, head);
        }
        match () {
            () if has("model.10.linear.") => Ok(Self::Yolo11),
            () if has("model.9.linear.") => Ok(Self::Yolov8),
            () if has("layer1.0.conv1.") => Ok(Self::ResNet),
            () if has("pre_logits.fc1.") => Ok(Self::Vgg),
            () if has("conv_stem.") && has("blocks.0.0.") => Ok(Self::MobileNetV4),
            () => Err(Fault::Names { found: some(sizes) }),
        }
    }

    /// The family of a network whose boxes come from this layer.
    fn of_head(sizes: &Sizes, head: usize) -> Result<Self, Fault> {
        let has = |prefix: &str| has(sizes, prefix);
        let part = |part: &str| {
            let key = |branch: &str| format!("model.{head}.{branch}{part}");
            sizes.get(&key("")).or_else(|| sizes.get(&key("one2one_")))
        };
        if part("cv3.3.2.bias").is_some() {
            return Err(Fault::unsupported("a head with more than three levels (P2 or P6)"));
        }
        let plain = part("cv2.0.2.weight").is_some_and(|boxes| boxes.first() == Some(&4));
        match head {
            21 if has("model.6.m.0.0.attn.") => Ok(Self::Yolo12),
            22 if has("model.9.cv5.") => Ok(Self::Yolov9),
            22 => Ok(Self::Yolov8),
            23 if has("model.10.attn.") => Ok(Self::Yolov10),
            23 if plain => Ok(Self::Yolo26),
            23 => Ok(Self::Yolo11),
            24 => Ok(Self::Yolov5u),
            28 if has("model.11.weight") => Ok(Self::Yolov6),
            28 => Err(Fault::unsupported("YOLOv3")),
            42 if has("model.10.conv.") => Ok(Self::Yolov9e),
            _ => Err(Fault::unsupported(format!("a network whose boxes come from layer {head}"))),
        }
    }

    /// Its name, as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yolo26 => "YOLO26",
            Self::Yolo12 => "YOLO12",
            Self::Yolo11 => "YOLO11",
            Self::Yolov10 => "YOLOv10",
            Self::Yolov9 | Self::Yolov9e => "YOLOv9",
            Self::Yolov8 => "YOLOv8",
            Self::Yolov6 => "YOLOv6",
            Self::Yolov5u => "YOLOv5u",
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
            Self::Yolo26 => yolo26::from_shapes(shapes),
            Self::Yolo12 => yolo12::from_shapes(shapes),
            Self::Yolo11 => yolo11::from_shapes(shapes),
            Self::Yolov10 => yolov10::from_shapes(shapes),
            Self::Yolov9 | Self::Yolov9e => yolov9::from_shapes(shapes),
            Self::Yolov8 => yolov8::from_shapes(shapes),
            Self::Yolov6 => yolov6::from_shapes(shapes),
            Self::Yolov5u => yolov5::from_shapes(shapes),
            Self::ResNet => resnet::from_shapes(shapes),
            Self::Vgg => vgg::from_shapes(shapes),
            Self::MobileNetV4 => mobilenet::from_shapes(shapes),
        };
        graph.map_err(|error| self.fault(error))
    }

    /// Refuses a tensor that no layer of the family's graph has: the network is another one.
    ///
    /// # Errors
    /// Names the first such tensor.
    pub fn check_all<'a>(self, graph: &Graph, mut keys: impl Iterator<Item = &'a String>) -> Result<(), Fault> {
        let known = state_dict(graph);
        let counter = |key: &str| key.ends_with(".num_batches_tracked");
        match keys.find(|key| !known.contains_key(*key) && !counter(key)) {
            Some(key) => Err(Fault::Surplus { family: self.name(), key: shown(key) }),
            None => Ok(()),
        }
    }

    /// The image side its published weights were trained at, where the family has only one.
    pub fn imgsz(self) -> Option<usize> {
        match self {
            Self::ResNet | Self::Vgg | Self::MobileNetV4 => Some(224),
            _ => None,
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

fn has(sizes: &Sizes, prefix: &str) -> bool {
    sizes.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix))
}

/// The layer of the head that finds boxes.
fn box_head(sizes: &Sizes) -> Option<usize> {
    let layer = |key: &String| {
        let (layer, part) = key.strip_prefix("model.")?.split_once('.')?;
        let part = part.strip_prefix("one2one_").unwrap_or(part);
        if part == "cv3.0.2.bias" { layer.parse().ok() } else { None }
    };
    sizes.keys().filter_map(layer).max()
}

/// The name of a network that is known and not supported.
fn foreign(sizes: &Sizes) -> Option<&'static str> {
    let inside = |part: &str| sizes.keys().any(|key| key.contains(part));
    [
        ("RT-DETR", inside(".dec_bbox_head.") || inside(".enc_score_head.")),
        ("YOLOE", inside(".reprta.") || inside(".savpe.")),
        ("YOLO-World", inside(".attn.gl.") || inside(".logit_scale")),
        ("YOLOv7", has(sizes, "model.105.m.") || has(sizes, "model.77.m.")),
        ("the anchor-based YOLOv5", has(sizes, "model.24.m.") || has(sizes, "model.33.m.")),
        ("Segment Anything", inside("image_encoder.") && inside("mask_decoder.")),
    ]
    .into_iter()
    .find_map(|(name, is)| is.then_some(name))
}

/// Tensors that only training has: what semantic masks, the certainty of keypoints and their distribution are learned
/// with.
pub(super) fn for_training(key: &str) -> bool {
    [".proto.semseg.", ".cv4_sigma.", ".one2one_cv4_sigma.", ".flow_model."].iter().any(|part| key.contains(part))
}

/// The shape that a tensor has in a graph: fully connected kernels `[out, in]` and factors of channels `[c]` are kernels of
/// convolutions.
pub(super) fn as_kernel(key: &str, shape: Vec<usize>) -> Vec<usize> {
    match shape[..] {
        [out, input] => vec![out, input, 1, 1],
        [channels] if key.ends_with(".gamma") => vec![channels, 1, 1, 1],
        _ => shape,
    }
}

/// A network as the names and shapes of its tensors show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Identified {
    /// Name of its family, as users know it.
    pub family: &'static str,
    /// What it computes.
    pub graph: Graph,
}

/// The network that tensors with these names and shapes are of, under ultralytics' or timm's names.
///
/// # Errors
/// If no family has exactly these tensors: names the network where it is known, else the first tensor that is missing,
/// has another shape, or belongs to no layer.
pub fn identify(tensors: &BTreeMap<String, Vec<usize>>) -> Result<Identified, Fault> {
    let used = tensors.iter().filter(|(key, _)| !for_training(key));
    let sizes: Sizes = used.map(|(key, shape)| (key.clone(), as_kernel(key, shape.clone()))).collect();
    let family = Family::of(&sizes)?;
    let shapes = Shapes { tensors: sizes.clone(), ..Shapes::default() };
    let graph = family.graph(&shapes)?;
    family.check_all(&graph, sizes.keys())?;
    for param in graph.params() {
        let found = sizes.get(&param.key);
        if found != Some(&param.shape) {
            let problem = match found {
                Some(shape) => format!("has shape {shape:?}, expected {:?}", param.shape),
                None => "is missing".into(),
            };
            return Err(family.fault(Unknown { key: param.key, problem }.into()));
        }
    }
    Ok(Identified { family: family.name(), graph })
}

/// A few of the tensors' names, for a message.
fn some(sizes: &Sizes) -> String {
    let count = sizes.len();
    let spread = sizes.keys().step_by((count / 4).max(1)).take(4).map(|name| format!("`{}`", shown(name)));
    match spread.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "there are none".into(),
        names if count > 4 => format!("{names} and {} more", count - 4),
        names => names,
    }
}
