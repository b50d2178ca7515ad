//! A network from its tensors and, where a checkpoint has them, its modules.
//!
//! Tensor names and shapes give family, task, and every width and depth. What they do not determine is taken from the
//! modules and compared with the graph: activations, heads, normalisation, strides, residuals, wiring. A module that
//! computes something else than the graph is an error, never a silently different network.

use super::archive::Archive;
use super::authors;
use super::checkpoint::Checkpoint;
use super::error::Fault;
use super::family::{Family, Sizes, as_kernel, for_training};
use super::modules;
use crate::graph::Graph;
use crate::model::{Info, Model, Weights};
use crate::size::ImageSize;
use crate::zoo::Shapes;
use crate::zoo::yolo11::REG_MAX;
use std::collections::BTreeMap;

/// The model of tensors alone.
///
/// # Errors
/// If they are not those of a network that is known.
pub fn from_tensors(weights: Weights) -> Result<Model, Fault> {
    let (family, weights) = known(usable(weights))?;
    let weights = prepared(family, weights, &|_| None)?;
    let shapes = Shapes { tensors: shapes_of(&weights), ..Shapes::default() };
    let graph = family.graph(&shapes)?;
    let info = Info { imgsz: family.imgsz().map(ImageSize::square), normalise: family.normalise(), ..Info::default() };
    whole(family, graph, weights, info)
}

/// The tensors that inference needs, in the shapes of the graph's.
fn usable(weights: Weights) -> Weights {
    let used = weights.into_iter().filter(|(key, _)| !for_training(key));
    used.map(|(key, tensor)| {
        let shape = as_kernel(&key, tensor.shape().to_vec());
        (key, tensor.reshape(shape))
    })
    .collect()
}

/// The tensors of a family under the names of its builder; `heads` tells the number of heads of an attention module.
fn prepared(family: Family, weights: Weights, heads: &dyn Fn(&str) -> Option<usize>) -> Result<Weights, Fault> {
    let weights = if family == Family::Yolo12 { authors::join(weights, heads)? } else { weights };
    refuse_other_bins(&weights)?;
    Ok(weights)
}

/// A model that has all tensors of its graph, and no others.
fn whole(family: Family, graph: Graph, weights: Weights, info: Info) -> Result<Model, Fault> {
    family.check_all(&graph, weights.keys())?;
    Ok(Model::new(graph, weights, info)?)
}

/// The family of tensors, under its own names: those who wrap a network put a prefix before all of them (`module.`,
/// `_orig_mod.`, `model.`), and who saves ultralytics' list of layers alone leaves `model.` out.
fn known(weights: Weights) -> Result<(Family, Weights), Fault> {
    let unknown = match Family::of(&shapes_of(&weights)) {
        Err(unknown @ Fault::Names { .. }) => unknown,
        found => return found.map(|family| (family, weights)),
    };
    let mut inner = weights;
    while let Some(length) = common(&inner) {
        inner = inner.into_iter().map(|(key, tensor)| (key[length..].to_owned(), tensor)).collect();
        match Family::of(&shapes_of(&inner)) {
            Err(Fault::Names { .. }) => {}
            found => return found.map(|family| (family, inner)),
        }
    }
    if inner.keys().all(|key| key.starts_with(|c: char| c.is_ascii_digit())) {
        inner = inner.into_iter().map(|(key, tensor)| (format!("model.{key}"), tensor)).collect();
    }
    match Family::of(&shapes_of(&inner)) {
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

/// The model of a checkpoint.
///
/// # Errors
/// If it is no network that is known, or its modules compute something that the graph does not say.
pub fn from_checkpoint(found: &Checkpoint, archive: &mut Archive) -> Result<Model, Fault> {
    let family = if found.modules.is_empty() { None } else { Some(modules::family(found)?) };
    let mut weights = Weights::new();
    for (name, view) in &found.tensors {
        if for_training(name) {
            continue;
        }
        if let Some(tensor) = archive.tensor(name, view)? {
            weights.insert(name.clone(), tensor);
        }
    }
    let Some(family) = family else { return from_tensors(weights) };
    let heads = |path: &str| found.number(path, "num_heads").filter(|n| (1.0..=1024.0).contains(n)).map(|n| n as usize);
    let weights = prepared(family, usable(weights), &heads)?;
    let mut shapes = Shapes { tensors: shapes_of(&weights), ..Shapes::default() };
    for path in found.modules.keys() {
        match found.class(path) {
            Some("Conv" | "DWConv") => {
                shapes.activations.insert(path.clone(), modules::activation(found, path)?);
            }
            Some("Attention" | "AAttn") => shapes.heads.extend(heads(path).map(|n| (path.clone(), n))),
            Some("Pose" | "Pose26") => {
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
        modules::check_strides(found, archive)?;
    }
    modules::adopt(found, family, &mut graph)?;
    modules::check(found, family, &graph)?;
    let nc = graph.classes();
    let info = Info {
        names: found.names(nc),
        imgsz: found.imgsz().map(ImageSize::square),
        provenance: provenance(found),
        ..Info::default()
    };
    found.check_bounds()?;
    whole(family, graph, weights, info)
}

fn shapes_of(weights: &Weights) -> Sizes {
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

/// The distribution kernel must count the bins: 0, 1, 2, ….
fn refuse_other_bins(weights: &Weights) -> Result<(), Fault> {
    let Some((key, bins)) = weights.iter().find(|(key, _)| key.ends_with(".dfl.conv.weight")) else { return Ok(()) };
    let counts = bins.data().iter().enumerate().all(|(i, bin)| *bin == i as f32);
    if bins.data().len() == REG_MAX && counts {
        return Ok(());
    }
    Err(Fault::checkpoint(format!("tensor `{key}`"), format!("is not the {REG_MAX} numbers 0, 1, 2, …")))
}
