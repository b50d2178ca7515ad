//! A network from its tensors and, where a checkpoint has them, its modules.
//!
//! Tensor names and shapes give family, task, and every width and depth. What they do not determine is taken from the
//! modules and compared with the graph: activations, heads, normalisation, strides, residuals, wiring. A module that
//! computes something else than the graph is an error, never a silently different network.

use super::archive::Archive;
use super::checkpoint::Checkpoint;
use super::error::Fault;
use super::family::Family;
use crate::graph::{Activation, Conv, Graph, Head, Op};
use crate::model::{Info, Model, Weights};
use crate::zoo::Shapes;
use crate::zoo::yolo11::{REG_MAX, STRIDES};
use std::collections::BTreeMap;

/// Class and inputs of a top-level layer. `-1` is the layer before.
type Layer = (&'static str, &'static [i64]);

const BEFORE: &[i64] = &[-1];

/// Layers of the backbones, which classifiers share.
const BACKBONE_11: [Layer; 9] = [
    ("Conv", BEFORE),
    ("Conv", BEFORE),
    ("C3k2", BEFORE),
    ("Conv", BEFORE),
    ("C3k2", BEFORE),
    ("Conv", BEFORE),
    ("C3k2", BEFORE),
    ("Conv", BEFORE),
    ("C3k2", BEFORE),
];
const BACKBONE_8: [Layer; 9] = [
    ("Conv", BEFORE),
    ("Conv", BEFORE),
    ("C2f", BEFORE),
    ("Conv", BEFORE),
    ("C2f", BEFORE),
    ("Conv", BEFORE),
    ("C2f", BEFORE),
    ("Conv", BEFORE),
    ("C2f", BEFORE),
];

/// Layers from the end of the backbone to the last before the head.
const NECK_11: [Layer; 14] = [
    ("SPPF", BEFORE),
    ("C2PSA", BEFORE),
    ("Upsample", BEFORE),
    ("Concat", &[-1, 6]),
    ("C3k2", BEFORE),
    ("Upsample", BEFORE),
    ("Concat", &[-1, 4]),
    ("C3k2", BEFORE),
    ("Conv", BEFORE),
    ("Concat", &[-1, 13]),
    ("C3k2", BEFORE),
    ("Conv", BEFORE),
    ("Concat", &[-1, 10]),
    ("C3k2", BEFORE),
];
const NECK_8: [Layer; 13] = [
    ("SPPF", BEFORE),
    ("Upsample", BEFORE),
    ("Concat", &[-1, 6]),
    ("C2f", BEFORE),
    ("Upsample", BEFORE),
    ("Concat", &[-1, 4]),
    ("C2f", BEFORE),
    ("Conv", BEFORE),
    ("Concat", &[-1, 12]),
    ("C2f", BEFORE),
    ("Conv", BEFORE),
    ("Concat", &[-1, 9]),
    ("C2f", BEFORE),
];

/// All top-level layers of a network of a family for a task.
fn layers(family: Family, task: &str) -> Vec<Layer> {
    let (backbone, neck, levels): (&[Layer], &[Layer], &[i64]) = match family {
        Family::Yolov8 => (&BACKBONE_8, &NECK_8, &[15, 18, 21]),
        _ => (&BACKBONE_11, &NECK_11, &[16, 19, 22]),
    };
    let head = match task {
        "segment" => "Segment",
        "pose" => "Pose",
        "obb" => "OBB",
        "classify" => {
            // YOLO11 classifies behind its attention.
            let attention: &[Layer] = if family == Family::Yolov8 { &[] } else { &neck[1..2] };
            return [backbone, attention, &[("Classify", BEFORE)]].concat();
        }
        _ => "Detect",
    };
    [backbone, neck, &[(head, levels)]].concat()
}

/// The model of tensors alone.
///
/// # Errors
/// If they are not those of a network that is known.
pub fn from_tensors(weights: Weights) -> Result<Model, Fault> {
    let (family, weights) = known(connected(weights))?;
    refuse_other_bins(&weights)?;
    let shapes = Shapes { tensors: shapes_of(&weights), ..Shapes::default() };
    let graph = family.graph(&shapes)?;
    Ok(Model::new(graph, weights, Info { imgsz: family.imgsz(), normalise: family.normalise(), ..Info::default() })?)
}

/// The family of tensors, under its own names: those who wrap a network put a prefix before all of them (`module.`,
/// `_orig_mod.`, `model.`), and who saves ultralytics' list of layers alone leaves `model.` out.
fn known(weights: Weights) -> Result<(Family, Weights), Fault> {
    let unknown = match Family::of(&weights) {
        Err(unknown @ Fault::Names { .. }) => unknown,
        found => return found.map(|family| (family, weights)),
    };
    let mut inner = weights;
    while let Some(length) = common(&inner) {
        inner = inner.into_iter().map(|(key, tensor)| (key[length..].to_owned(), tensor)).collect();
        match Family::of(&inner) {
            Err(Fault::Names { .. }) => {}
            found => return found.map(|family| (family, inner)),
        }
    }
    if inner.keys().all(|key| key.starts_with(|c: char| c.is_ascii_digit())) {
        inner = inner.into_iter().map(|(key, tensor)| (format!("model.{key}"), tensor)).collect();
    }
    match Family::of(&inner) {
        Err(Fault::Names { .. }) => Err(unknown),
        found => found.map(|family| (family, inner)),
    }
}

/// The length of the prefix and its dot that all names begin with, if they do. Names are sorted: comparing the first
/// and the last is enough.
fn common(weights: &Weights) -> Option<usize> {
    let (first, last) = (weights.keys().next()?, weights.keys().next_back()?);
    let length = first.find('.')? + 1;
    (first.len() > length && last.len() > length && last.starts_with(&first[..length])).then_some(length)
}

/// Kernels `[out, in]` of fully connected layers as those of 1x1 convolutions.
fn connected(weights: Weights) -> Weights {
    let convolution = |(key, tensor): (String, crate::model::Tensor)| match *tensor.shape() {
        [out, input] => (key, tensor.reshape([out, input, 1, 1])),
        _ => (key, tensor),
    };
    weights.into_iter().map(convolution).collect()
}

/// The model of a checkpoint.
///
/// # Errors
/// If it is no network that is known, or its modules compute something that the graph does not say.
pub fn from_checkpoint(found: &Checkpoint, archive: &mut Archive) -> Result<Model, Fault> {
    let has_modules = !found.modules.is_empty();
    if has_modules {
        let family = if found.class("model.2") == Some("C2f") { Family::Yolov8 } else { Family::Yolo11 };
        check_layers(found, family, check_kind(found)?)?;
    }
    let mut weights = Weights::new();
    for (name, view) in &found.tensors {
        if let Some(tensor) = archive.tensor(name, view)? {
            weights.insert(name.clone(), tensor);
        }
    }
    if !has_modules {
        return from_tensors(weights);
    }
    let weights = connected(weights);
    let family = Family::of(&weights)?;
    refuse_other_bins(&weights)?;

    let mut shapes = Shapes { tensors: shapes_of(&weights), ..Shapes::default() };
    for path in found.modules.keys() {
        match found.class(path) {
            Some("Conv" | "DWConv") => {
                shapes.activations.insert(path.clone(), activation(found, path)?);
            }
            Some("Attention") => {
                let heads = found.number(path, "num_heads").filter(|n| (1.0..=1024.0).contains(n));
                shapes.heads.extend(heads.map(|n| (path.clone(), n as usize)));
            }
            Some("Pose") => {
                let sizes = found.numbers(path, "kpt_shape").unwrap_or_default();
                if let [keypoints @ 1..=4096, dims @ 2..=3] = sizes[..] {
                    shapes.keypoints = Some([keypoints as usize, dims as usize]);
                }
            }
            _ => {}
        }
    }
    let mut graph = family.graph(&shapes)?;
    if graph.head.boxes().is_some() {
        check_strides(found, archive)?;
    }
    adopt(found, family, &mut graph)?;
    check_modules(found, family, &graph)?;
    let nc = graph.classes();
    let info = Info { names: found.names(nc), imgsz: found.imgsz(), provenance: provenance(found), ..Info::default() };
    found.check_bounds()?;
    Ok(Model::new(graph, weights, info)?)
}

fn shapes_of(weights: &Weights) -> BTreeMap<String, Vec<usize>> {
    weights.iter().map(|(key, tensor)| (key.clone(), tensor.shape().to_vec())).collect()
}

fn provenance(found: &Checkpoint) -> BTreeMap<String, String> {
    let notes = [
        ("source.ultralytics", found.note("version")),
        ("source.date", found.note("date")),
        ("source.license", found.note("license")),
        ("source.architecture", found.architecture()),
    ];
    notes.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.chars().take(200).collect()))).collect()
}

fn unsupported(found: impl Into<String>) -> Fault {
    Fault::Unsupported { found: found.into() }
}

/// The task of a network.
fn check_kind<'a>(found: &'a Checkpoint) -> Result<&'a str, Fault> {
    let class = found.class("").unwrap_or("an unnamed class");
    let task = match class {
        "DetectionModel" => found.task().unwrap_or("detect"),
        "SegmentationModel" => "segment",
        "PoseModel" => "pose",
        "OBBModel" => "obb",
        "ClassificationModel" => "classify",
        other => return Err(unsupported(format!("a network of class `{other}`"))),
    };
    match class {
        "DetectionModel" if task != "detect" => Err(unsupported(format!("the task `{task}`"))),
        _ => Ok(task),
    }
}

fn check_layers(found: &Checkpoint, family: Family, task: &str) -> Result<(), Fault> {
    let architecture = found.architecture().map(|name| format!("`{}`: ", name.chars().take(60).collect::<String>()));
    let architecture = architecture.unwrap_or_default();
    let (layers, name) = (layers(family, task), family.name());
    let count = layers.len();
    for (layer, (class, inputs)) in layers.into_iter().enumerate() {
        let path = format!("model.{layer}");
        let Some(is) = found.class(&path) else {
            return Err(unsupported(format!(
                "a network without layer {layer} ({architecture}{name} has {count} layers)"
            )));
        };
        if is != class {
            return Err(unsupported(format!(
                "{architecture}layer {layer} is `{is}`, in {name} `{class}`; this network"
            )));
        }
        if let Some(wired) = found.numbers(&path, "f").filter(|f| f != inputs) {
            return Err(unsupported(format!(
                "{architecture}layer {layer} reads {wired:?}, in {name} {inputs:?}; this wiring"
            )));
        }
    }
    if found.class(&format!("model.{count}")).is_some() {
        return Err(unsupported(format!("{architecture}a network of more than {count} layers")));
    }
    Ok(())
}

/// The distribution kernel must count the bins: 0, 1, 2, ….
fn refuse_other_bins(weights: &Weights) -> Result<(), Fault> {
    let Some((key, bins)) = weights.iter().find(|(key, _)| key.ends_with(".dfl.conv.weight")) else { return Ok(()) };
    let counts = bins.data().iter().enumerate().all(|(i, bin)| *bin == i as f32);
    if bins.data().len() == REG_MAX && counts {
        return Ok(());
    }
    Err(Fault::checkpoint(format!("tensor `{key}`"), format!("is not the {REG_MAX} numbers 0, 1, 2, …")))
}

fn check_strides(found: &Checkpoint, archive: &mut Archive) -> Result<(), Fault> {
    let head = found.modules.keys().find(|path| HEADS.contains(&found.class(path).unwrap_or("")));
    for owner in ["", head.map_or("", String::as_str)] {
        let Some(view) = found.view(owner, "stride") else { continue };
        let Some(strides) = archive.tensor("stride", view)? else { continue };
        if !strides.data().iter().zip(STRIDES).all(|(found, stride)| *found == stride as f32)
            || strides.data().len() != STRIDES.len()
        {
            let found = &strides.data()[..strides.data().len().min(8)];
            return Err(unsupported(format!("strides {found:?} (expected {STRIDES:?}); this head")));
        }
    }
    Ok(())
}

/// Classes of the heads that find boxes.
const HEADS: [&str; 4] = ["Detect", "Segment", "Pose", "OBB"];

fn activation(found: &Checkpoint, path: &str) -> Result<Activation, Fault> {
    let act = format!("{path}.act");
    match found.class(&act) {
        Some("SiLU") => Ok(Activation::Silu),
        Some("Identity") => Ok(Activation::Identity),
        Some("ReLU") => Ok(Activation::Relu),
        Some(other) => Err(unsupported(format!("the activation `{other}` of `{path}`"))),
        None => Err(Fault::checkpoint(path, "has no activation module `act`")),
    }
}

/// Takes over what only modules know: the normalisation's eps and the attention's scale.
fn adopt(found: &Checkpoint, family: Family, graph: &mut Graph) -> Result<(), Fault> {
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::Conv(conv) => {
                let Some(norm) = &mut conv.norm else { continue };
                if let Some(eps) = found.number(&norm.prefix, "eps") {
                    norm.eps = eps as f32;
                }
            }
            Op::Attention(attention) | Op::AttentionValues(attention) => {
                let Some(path) = node.name.rsplit_once('.').map(|(path, _)| path) else { continue };
                for (name, value) in [("key_dim", attention.key_dim), ("head_dim", attention.head_dim)] {
                    expect(found, path, name, value as f64)?;
                }
                if let Some(scale) = found.number(path, "scale") {
                    attention.scale = scale as f32;
                }
            }
            _ => {}
        }
    }
    // Eps and scale are now what the file says: in range?
    graph.check().map_err(|error| family.fault(error.into()))
}

/// An attribute that is there must have the value of the graph.
fn expect(found: &Checkpoint, path: &str, name: &str, expected: f64) -> Result<(), Fault> {
    match found.number(path, name) {
        Some(value) if value != expected => {
            Err(unsupported(format!("`{name}` = {value} of `{path}`, where {expected} is expected,")))
        }
        _ => Ok(()),
    }
}

/// Holds the modules against the graph.
fn check_modules(found: &Checkpoint, family: Family, graph: &Graph) -> Result<(), Fault> {
    for node in &graph.nodes {
        match &node.op {
            Op::Conv(conv) => check_conv(found, conv)?,
            Op::ConvTranspose(conv) => {
                let path = conv.weight.strip_suffix(".weight").unwrap_or(&conv.weight);
                check_class(found, path, "ConvTranspose2d")?;
                let factor = conv.factor as f64;
                let facts = [("kernel_size", factor), ("stride", factor), ("padding", 0.0), ("output_padding", 0.0)];
                facts.into_iter().try_for_each(|(name, value)| expect(found, path, name, value))?;
                [("groups", 1.0), ("dilation", 1.0)]
                    .into_iter()
                    .try_for_each(|(name, v)| expect(found, path, name, v))?;
            }
            _ => {}
        }
    }
    for path in found.modules.keys() {
        match found.class(path) {
            // A residual that the graph has and the module has not, or the other way round.
            Some("Bottleneck") => {
                let residual = graph.find(&format!("{path}.add")).is_some();
                if found.flag(path, "add").is_some_and(|add| add != residual) {
                    let which = if residual { "without its" } else { "with a" };
                    return Err(unsupported(format!("a block {which} residual (`{path}`)")));
                }
            }
            Some("PSABlock") if found.flag(path, "add") == Some(false) => {
                return Err(unsupported(format!("a block without its residual (`{path}`)")));
            }
            Some("SPPF") if found.flag(path, "add") == Some(true) => {
                return Err(unsupported(format!("an SPPF with a residual (`{path}`)")));
            }
            Some("SPPF") => expect(found, path, "n", 3.0)?,
            Some("MaxPool2d") => {
                for (name, value) in [("kernel_size", 5.0), ("stride", 1.0), ("padding", 2.0), ("dilation", 1.0)] {
                    expect(found, path, name, value)?;
                }
            }
            Some("Upsample") => {
                expect(found, path, "scale_factor", 2.0)?;
                if let Some(mode) = found.text(path, "mode").filter(|mode| *mode != "nearest") {
                    return Err(unsupported(format!("the interpolation `{mode}` of `{path}`")));
                }
            }
            Some("AdaptiveAvgPool2d") => expect(found, path, "output_size", 1.0)?,
            Some(class) if HEADS.contains(&class) => check_head(found, path, family, graph)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_class(found: &Checkpoint, path: &str, expected: &str) -> Result<(), Fault> {
    match found.class(path).unwrap_or("") {
        is if is == expected => Ok(()),
        is => Err(unsupported(format!("`{path}` made of `{is}` instead of `{expected}`"))),
    }
}

fn check_conv(found: &Checkpoint, conv: &Conv) -> Result<(), Fault> {
    let path = conv.weight.strip_suffix(".weight").unwrap_or(&conv.weight);
    if found.class(path) == Some("Linear") && (conv.kernel, conv.stride, conv.groups) == (1, 1, 1) {
        return Ok(());
    }
    let facts = [
        ("kernel_size", conv.kernel),
        ("stride", conv.stride),
        ("padding", conv.padding),
        ("groups", conv.groups),
        ("dilation", 1),
    ];
    for (name, value) in facts {
        if found.number(path, name).is_none() {
            return Err(Fault::checkpoint(path, format!("has no square `{name}`")));
        }
        expect(found, path, name, value as f64)?;
    }
    if let Some(mode) = found.text(path, "padding_mode").filter(|mode| *mode != "zeros") {
        return Err(unsupported(format!("the padding mode `{mode}` of `{path}`")));
    }
    check_class(found, path, "Conv2d")?;
    match &conv.norm {
        Some(norm) if found.class(&norm.prefix) != Some("BatchNorm2d") => {
            let is = found.class(&norm.prefix).unwrap_or("");
            Err(unsupported(format!("`{path}` made of `{is}` instead of `BatchNorm2d`")))
        }
        _ => Ok(()),
    }
}

fn check_head(found: &Checkpoint, path: &str, family: Family, graph: &Graph) -> Result<(), Fault> {
    expect(found, path, "reg_max", REG_MAX as f64)?;
    expect(found, path, "nc", graph.classes() as f64)?;
    match &graph.head {
        Head::Segment { masks, .. } => expect(found, path, "nm", *masks as f64)?,
        Head::Obb { .. } => expect(found, path, "ne", 1.0)?,
        Head::Pose { keypoints, dims, .. } => {
            let sizes = found.numbers(path, "kpt_shape").unwrap_or_default();
            if sizes != [*keypoints as i64, *dims as i64] {
                return Err(unsupported(format!("keypoints of shape {sizes:?} in a {} network", family.name())));
            }
        }
        Head::Detect { .. } | Head::Classify { .. } => {}
    }
    if found.flag(path, "end2end").or(found.flag(path, "_end2end")) == Some(true) {
        return Err(unsupported("an end-to-end head (without NMS)"));
    }
    Ok(())
}
