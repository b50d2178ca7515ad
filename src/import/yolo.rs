//! A YOLO11 detector from its tensors and, where a checkpoint has them, its modules.
//!
//! Tensor names and shapes give every width and depth. What they do not tell is taken from the modules and held
//! against the graph: activations, heads, normalisation, strides, residuals, wiring. A module that computes something
//! else than the graph is an error, never a silently different network.

use super::archive::Archive;
use super::checkpoint::Checkpoint;
use super::error::Fault;
use crate::graph::{Activation, Graph, Op};
use crate::model::{Info, Model, Weights};
use crate::zoo::yolo11::{self, HEAD, REG_MAX, STRIDES, Shapes};
use std::collections::BTreeMap;

/// Class and inputs of every top-level layer. `-1` is the layer before.
const LAYERS: [(&str, &[i64]); HEAD + 1] = [
    ("Conv", &[-1]),
    ("Conv", &[-1]),
    ("C3k2", &[-1]),
    ("Conv", &[-1]),
    ("C3k2", &[-1]),
    ("Conv", &[-1]),
    ("C3k2", &[-1]),
    ("Conv", &[-1]),
    ("C3k2", &[-1]),
    ("SPPF", &[-1]),
    ("C2PSA", &[-1]),
    ("Upsample", &[-1]),
    ("Concat", &[-1, 6]),
    ("C3k2", &[-1]),
    ("Upsample", &[-1]),
    ("Concat", &[-1, 4]),
    ("C3k2", &[-1]),
    ("Conv", &[-1]),
    ("Concat", &[-1, 13]),
    ("C3k2", &[-1]),
    ("Conv", &[-1]),
    ("Concat", &[-1, 10]),
    ("C3k2", &[-1]),
    ("Detect", &[16, 19, 22]),
];

/// The model of tensors alone.
///
/// # Errors
/// If they are not those of a YOLO11 detector.
pub fn from_tensors(weights: Weights) -> Result<Model, Fault> {
    refuse_other_tasks(&weights)?;
    refuse_other_bins(&weights)?;
    let shapes = Shapes { tensors: shapes_of(&weights), ..Shapes::default() };
    let graph = yolo11::from_shapes(&shapes)?;
    Ok(Model::new(graph, weights, Info::default())?)
}

/// The model of a checkpoint.
///
/// # Errors
/// If it is not a YOLO11 detector, or its modules compute something that the graph does not say.
pub fn from_checkpoint(found: &Checkpoint, archive: &mut Archive) -> Result<Model, Fault> {
    let has_modules = !found.modules.is_empty();
    if has_modules {
        check_kind(found)?;
        check_layers(found)?;
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
    refuse_other_tasks(&weights)?;
    refuse_other_bins(&weights)?;
    check_strides(found, archive)?;

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
            _ => {}
        }
    }
    let mut graph = yolo11::from_shapes(&shapes)?;
    adopt(found, &mut graph)?;
    check_modules(found, &graph)?;
    let nc = graph.classes();
    let info = Info { names: found.names(nc), imgsz: found.imgsz(), provenance: provenance(found) };
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

fn check_kind(found: &Checkpoint) -> Result<(), Fault> {
    let class = found.class("").unwrap_or("an unnamed class");
    let task = match class {
        "DetectionModel" => found.task().unwrap_or("detect"),
        "SegmentationModel" => "segment",
        "PoseModel" => "pose",
        "OBBModel" => "obb",
        "ClassificationModel" => "classify",
        other => return Err(unsupported(format!("a network of class `{other}`"))),
    };
    if task == "detect" { Ok(()) } else { Err(unsupported(format!("the task `{task}`"))) }
}

fn check_layers(found: &Checkpoint) -> Result<(), Fault> {
    let architecture = found.architecture().map(|name| format!("`{}`: ", name.chars().take(60).collect::<String>()));
    let architecture = architecture.unwrap_or_default();
    for (layer, (class, inputs)) in LAYERS.iter().enumerate() {
        let path = format!("model.{layer}");
        let Some(is) = found.class(&path) else {
            return Err(unsupported(format!("a network without layer {layer} ({architecture}YOLO11 has 24 layers)")));
        };
        if is != *class {
            return Err(unsupported(format!(
                "{architecture}layer {layer} is `{is}`, in YOLO11 `{class}`; this network"
            )));
        }
        let wired = found.numbers(&path, "f");
        if wired.as_ref().is_some_and(|f| f != inputs) {
            return Err(unsupported(format!(
                "{architecture}layer {layer} reads {wired:?}, in YOLO11 {inputs:?}; this wiring"
            )));
        }
    }
    if found.class(&format!("model.{}", HEAD + 1)).is_some() {
        return Err(unsupported(format!("{architecture}a network of more than 24 layers")));
    }
    Ok(())
}

fn refuse_other_tasks(weights: &Weights) -> Result<(), Fault> {
    let has = |prefix: &str| weights.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix));
    let task = if has("model.23.proto.") {
        "the task `segment`"
    } else if has("model.23.cv4.") {
        "the task `pose` or `obb`"
    } else if has("model.10.linear.") || has("model.9.linear.") {
        "the task `classify`"
    } else if has("model.23.one2one_cv2.") {
        "an end-to-end head (without NMS)"
    } else if has("model.22.cv3.") || has("model.22.dfl.") {
        "YOLOv8"
    } else if has("model.24.m.") {
        "YOLOv5"
    } else if has("model.21.cv3.") {
        "YOLO12"
    } else {
        return Ok(());
    };
    Err(unsupported(task))
}

/// The distribution kernel must count the bins: 0, 1, 2, ….
fn refuse_other_bins(weights: &Weights) -> Result<(), Fault> {
    let key = format!("model.{HEAD}.dfl.conv.weight");
    let Some(bins) = weights.get(&key) else { return Ok(()) };
    let counts = bins.data().iter().enumerate().all(|(i, bin)| *bin == i as f32);
    if bins.data().len() == REG_MAX && counts {
        return Ok(());
    }
    Err(Fault::checkpoint(format!("tensor `{key}`"), format!("is not the {REG_MAX} numbers 0, 1, 2, …")))
}

fn check_strides(found: &Checkpoint, archive: &mut Archive) -> Result<(), Fault> {
    let path = format!("model.{HEAD}");
    for owner in ["", path.as_str()] {
        let Some(view) = found.view(owner, "stride") else { continue };
        let Some(strides) = archive.tensor("stride", view)? else { continue };
        if !strides.data().iter().zip(STRIDES).all(|(found, stride)| *found == stride as f32)
            || strides.data().len() != STRIDES.len()
        {
            return Err(unsupported(format!("strides {:?} (YOLO11 has {STRIDES:?}); this head", strides.data())));
        }
    }
    Ok(())
}

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
fn adopt(found: &Checkpoint, graph: &mut Graph) -> Result<(), Fault> {
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::Conv(conv) => {
                let Some(norm) = &mut conv.norm else { continue };
                if let Some(eps) = found.number(&norm.prefix, "eps") {
                    norm.eps = eps as f32;
                }
            }
            Op::Attention(attention) | Op::Values(attention) => {
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
    Ok(graph.check().map_err(crate::zoo::ZooError::from)?)
}

/// An attribute that is there must have the value of the graph.
fn expect(found: &Checkpoint, path: &str, name: &str, expected: f64) -> Result<(), Fault> {
    match found.number(path, name) {
        Some(value) if value != expected => {
            Err(unsupported(format!("`{name}` = {value} of `{path}`, where YOLO11 has {expected},")))
        }
        _ => Ok(()),
    }
}

/// Holds the modules against the graph.
fn check_modules(found: &Checkpoint, graph: &Graph) -> Result<(), Fault> {
    for (_, conv) in graph.convs() {
        let path = conv.weight.strip_suffix(".weight").unwrap_or(&conv.weight);
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
        let expected = ["Conv2d", if conv.norm.is_some() { "BatchNorm2d" } else { "" }];
        let norm = conv.norm.as_ref().and_then(|norm| found.class(&norm.prefix)).unwrap_or("");
        for (is, expected) in [found.class(path).unwrap_or(""), norm].into_iter().zip(expected) {
            if is != expected {
                return Err(unsupported(format!("`{path}` made of `{is}` instead of `{expected}`")));
            }
        }
    }
    for path in found.modules.keys() {
        match found.class(path) {
            // A residual that the graph has and the module has not, or the other way round.
            Some("Bottleneck" | "PSABlock") if found.flag(path, "add") == Some(false) => {
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
            Some("Detect") => {
                expect(found, path, "reg_max", REG_MAX as f64)?;
                expect(found, path, "nc", graph.classes() as f64)?;
                if found.flag(path, "end2end").or(found.flag(path, "_end2end")) == Some(true) {
                    return Err(unsupported("an end-to-end head (without NMS)"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
