//! What the modules of a checkpoint say about its network, held against the graph: classes and wiring of the layers,
//! activations, normalisation, residuals, strides. What differs is refused, and named.

use super::archive::Archive;
use super::authors::module_of;
use super::checkpoint::Checkpoint;
use super::error::Fault;
use super::family::Family;
use super::layers::{foreign, layers, most_like};
use crate::graph::{Activation, Conv, Graph, Head, Op};
use crate::zoo::yolo11::STRIDES;

/// The family of a network, as its modules show it.
///
/// # Errors
/// If no family has its layers.
pub fn family(found: &Checkpoint) -> Result<Family, Fault> {
    let task = task(found)?;
    let class = |layer: usize| found.class(&format!("model.{layer}")).map(str::to_owned);
    if let Some(name) = (0..).map_while(class).find_map(|class| foreign(&class)) {
        return Err(unsupported(name));
    }
    let mut heads = found.modules.keys().filter(|path| HEADS.contains(&found.class(path).unwrap_or("")));
    let plain = heads.any(|path| found.number(path, "reg_max") == Some(1.0));
    let family = most_like(&class, plain, task);
    check_layers(found, family, task)?;
    Ok(family)
}

fn unsupported(found: impl Into<String>) -> Fault {
    Fault::unsupported(found)
}

/// The task of a network.
fn task<'a>(found: &'a Checkpoint) -> Result<&'a str, Fault> {
    let class = found.class("").unwrap_or("an unnamed class");
    let task = match class {
        "DetectionModel" | "YOLOv10DetectionModel" => found.task().unwrap_or("detect"),
        "SegmentationModel" => "segment",
        "PoseModel" => "pose",
        "OBBModel" => "obb",
        "ClassificationModel" => "classify",
        other => {
            return Err(match foreign(other) {
                Some(name) => unsupported(name),
                None => unsupported(format!("a network of class `{other}`")),
            });
        }
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
    for (layer, expected) in layers.into_iter().enumerate() {
        let path = format!("model.{layer}");
        let Some(is) = found.class(&path) else {
            return Err(unsupported(format!(
                "a network without layer {layer} ({architecture}{name} has {count} layers)"
            )));
        };
        if !expected.is(is) {
            let class = expected.classes.replace('|', "` or `");
            return Err(unsupported(format!(
                "{architecture}layer {layer} is `{is}`, in {name} `{class}`; this network"
            )));
        }
        let inputs = expected.inputs;
        if let Some(wired) = found.numbers(&path, "f").filter(|f| *f != inputs) {
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

/// Pixels per cell must be those of the builders.
///
/// # Errors
/// If they are not.
pub fn check_strides(found: &Checkpoint, archive: &mut Archive) -> Result<(), Fault> {
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
const HEADS: [&str; 8] = ["Detect", "Segment", "Pose", "OBB", "Segment26", "Pose26", "OBB26", "v10Detect"];

/// The activation of a module.
///
/// # Errors
/// If it has none, or one that is not known.
pub fn activation(found: &Checkpoint, path: &str) -> Result<Activation, Fault> {
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
///
/// # Errors
/// If an attention has other sizes than the graph's.
pub fn adopt(found: &Checkpoint, family: Family, graph: &mut Graph) -> Result<(), Fault> {
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::Conv(conv) => {
                let Some(norm) = &mut conv.norm else { continue };
                if let Some(eps) = found.number(&origin(found, &norm.prefix), "eps") {
                    norm.eps = eps as f32;
                }
            }
            Op::Attention(attention) | Op::AttentionValues(attention) => {
                let Some(path) = node.name.rsplit_once('.').map(|(path, _)| path) else { continue };
                let facts =
                    [("key_dim", attention.key_dim), ("head_dim", attention.head_dim), ("area", attention.areas)];
                for (name, value) in facts {
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
///
/// # Errors
/// Names the first that computes something else.
pub fn check(found: &Checkpoint, family: Family, graph: &Graph) -> Result<(), Fault> {
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
            Op::Activate { act } => {
                let path = node.name.strip_suffix(".act").unwrap_or(&node.name);
                if activation(found, path)? != *act {
                    return Err(unsupported(format!("the activation of `{path}`")));
                }
            }
            _ => {}
        }
    }
    found.modules.keys().try_for_each(|path| check_module(found, path, family, graph))
}

/// What a module has beside its convolutions.
fn check_module(found: &Checkpoint, path: &str, family: Family, graph: &Graph) -> Result<(), Fault> {
    match found.class(path) {
        Some("Bottleneck" | "RepBottleneck" | "CIB" | "SPPF") => {
            check_residual(found, path, graph)?;
            expect(found, path, "n", 3.0)?;
        }
        Some("PSABlock") if found.flag(path, "add") == Some(false) => {
            return Err(unsupported(format!("a block without its residual (`{path}`)")));
        }
        // Beside its two convolutions it could have the tensor itself.
        Some("RepConv") if found.class(&format!("{path}.bn")).is_some() => {
            return Err(unsupported(format!("a block with a third, direct branch (`{path}`)")));
        }
        Some("CBFuse") => {
            // All parts go to the level of the tensor that they are added to.
            let indices = found.numbers(path, "idx").unwrap_or_default();
            if indices.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(unsupported(format!("parts {indices:?} of `{path}`")));
            }
        }
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
    Ok(())
}

/// A residual that the graph has and the module has not, or the other way round, is refused.
fn check_residual(found: &Checkpoint, path: &str, graph: &Graph) -> Result<(), Fault> {
    let residual = graph.find(&format!("{path}.add")).is_some();
    if found.flag(path, "add").is_some_and(|add| add != residual) {
        let which = if residual { "without its" } else { "with a" };
        return Err(unsupported(format!("a block {which} residual (`{path}`)")));
    }
    Ok(())
}

/// The path of the module that a layer's tensors come from: not always that of the layer's own name.
fn origin(found: &Checkpoint, path: &str) -> String {
    let path = module_of(path);
    let joined = path.replace(".qkv.", ".qk.");
    if found.class(&path).is_none() && found.class(&joined).is_some() { joined } else { path }
}

fn check_class(found: &Checkpoint, path: &str, expected: &str) -> Result<(), Fault> {
    match found.class(path).unwrap_or("") {
        is if is == expected => Ok(()),
        is => Err(unsupported(format!("`{path}` made of `{is}` instead of `{expected}`"))),
    }
}

fn check_conv(found: &Checkpoint, conv: &Conv) -> Result<(), Fault> {
    let own = conv.weight.strip_suffix(".weight").unwrap_or(&conv.weight);
    // A factor for every channel is a parameter of its block, without a module.
    if own.ends_with(".gamma") {
        return Ok(());
    }
    let path = &*origin(found, own);
    if found.class(path) == Some("Linear") && (conv.kernel, conv.stride, conv.groups) == (1, 1, 1) {
        return Ok(());
    }
    let facts = [
        ("kernel_size", conv.kernel),
        ("stride", conv.stride),
        ("padding", conv.padding),
        // A group that is a convolution of its own here.
        ("groups", if own == path { conv.groups } else { found.number(path, "groups").map_or(1, |n| n as usize) }),
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
        Some(norm) if found.class(&origin(found, &norm.prefix)) != Some("BatchNorm2d") => {
            let is = found.class(&norm.prefix).unwrap_or("");
            Err(unsupported(format!("`{path}` made of `{is}` instead of `BatchNorm2d`")))
        }
        _ => Ok(()),
    }
}

fn check_head(found: &Checkpoint, path: &str, family: Family, graph: &Graph) -> Result<(), Fault> {
    let bins = graph.head.boxes().map_or(1, |boxes| boxes.reg_max);
    expect(found, path, "reg_max", bins as f64)?;
    expect(found, path, "nc", graph.classes() as f64)?;
    match graph.head.branch() {
        Head::Segment { masks, .. } => expect(found, path, "nm", *masks as f64)?,
        Head::Obb { .. } => expect(found, path, "ne", 1.0)?,
        Head::Pose { keypoints, dims, .. } => {
            let sizes = found.numbers(path, "kpt_shape").unwrap_or_default();
            if sizes != [*keypoints as i64, *dims as i64] {
                return Err(unsupported(format!("keypoints of shape {sizes:?} in a {} network", family.name())));
            }
        }
        Head::Detect { .. } | Head::Classify { .. } | Head::EndToEnd { .. } => {}
    }
    let end_to_end = matches!(graph.head, Head::EndToEnd { .. });
    if found.flag(path, "end2end").or(found.flag(path, "_end2end")) == Some(true) && !end_to_end {
        return Err(unsupported(format!("an end-to-end head without its own branch (`{path}`)")));
    }
    Ok(())
}
