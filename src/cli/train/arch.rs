//! The network that `train` starts from: one of the zoo by its name, or a model file.

use crate::cli::failure::Failure;
use crate::data::{Dataset, LabelTask, names_differ};
use crate::graph::{Graph, Head};
use crate::model::{Info, Model};
use crate::zoo::yolo11::{self, Scale};
use crate::zoo::{Task, published, rebuild, simple_cnn};
use crate::{import, train};
use std::path::Path;

/// The small classifier.
const SIMPLE: &str = "simple-cnn";

/// The networks that are known by name.
const NAMES: &str = "yolo26n, yolo11n, yolo11s, yolo11m, yolo11l, yolo11x, yolo11:DEPTH,WIDTH,MAX, yolov8n (each also with \
                     -seg, -pose, -obb or -cls behind it, and in their other scales), yolo12n, yolov10n, yolov9t, \
                     yolov6n, yolov5nu, simple-cnn";

/// Where a training starts.
pub(super) enum Arch {
    /// The small classifier.
    Simple,
    /// A YOLO11 of this scale; how its keypoints are shaped is for the data to say.
    Yolo11(Scale, Task),
    /// Another published network, as it is published.
    Published(Box<Graph>),
    /// A model.
    File(Box<Model>),
}

impl Arch {
    /// Reads a name, or the file that it names.
    pub fn read(arch: &str) -> Result<Self, Failure> {
        if arch == SIMPLE {
            return Ok(Self::Simple);
        }
        if let Some((scale, task)) = named(arch) {
            return Ok(Self::Yolo11(scale, task));
        }
        if let Some(graph) = published(arch, 80).map_err(Failure::input)? {
            return Ok(Self::Published(Box::new(graph)));
        }
        if !Path::new(arch).exists() {
            return Err(Failure::Usage(format!("--arch {arch}: neither a model file nor one of {NAMES}")));
        }
        Ok(Self::File(Box::new(import::load(Path::new(arch))?.into_f32())))
    }

    /// The labels that it is trained on.
    pub fn labels(&self) -> LabelTask {
        match self {
            Self::Simple => LabelTask::Classify,
            Self::Yolo11(_, task) => match task {
                Task::Segment { .. } => LabelTask::Segment,
                Task::Pose { .. } => LabelTask::Pose,
                Task::Obb => LabelTask::Obb,
                Task::Detect => LabelTask::Detect,
                Task::Classify => LabelTask::Classify,
            },
            Self::Published(graph) => LabelTask::named(graph.head.task()),
            Self::File(model) => LabelTask::named(model.graph.head.task()),
        }
    }

    /// The side of its input where nothing else says one, pixels.
    pub fn side(&self) -> usize {
        match self {
            Self::Simple => simple_cnn::SIDE,
            Self::Yolo11(_, Task::Classify) => 224,
            Self::Published(graph) if matches!(graph.head, Head::Classify { .. }) => 224,
            Self::File(model) if matches!(model.graph.head, Head::Classify { .. }) => 224,
            _ => 640,
        }
    }

    /// Fresh weights of a named network for the data, or the model of a file, rebuilt for the data where it has other
    /// classes, keypoints or channels. Both branches of an end-to-end head are kept: training needs them.
    pub fn start(self, arch: &str, data: &Dataset, seed: u64) -> Result<Start, Failure> {
        let classes = data.names.len();
        let graph = match self {
            Self::Simple => simple_cnn::simple_cnn(classes).map_err(Failure::input)?,
            Self::Yolo11(scale, task) => yolo11::network(scale, task, classes).map_err(Failure::input)?,
            Self::Published(graph) => *graph,
            Self::File(model) => return other(&model, arch, data, seed),
        };
        let graph = rebuild(&graph, train::purpose(data)).map_err(Failure::input)?;
        let weights = train::init(&graph, seed);
        let info = Info { names: data.names.clone(), ..Info::default() };
        let model = Model::new(graph, weights, info).map_err(Failure::internal)?;
        Ok(Start { model, renamed: None, told: None })
    }
}

/// The network to train.
pub(super) struct Start {
    pub model: Model,
    /// What its class names were, where the data have as many others.
    pub renamed: Option<String>,
    /// What was kept of it and what is new, where it was rebuilt for the data.
    pub told: Option<String>,
}

/// The model of a file for the data.
fn other(model: &Model, arch: &str, data: &Dataset, seed: u64) -> Result<Start, Failure> {
    if model.info.normalise.is_some() && data.channels == Some(1) {
        let problem = "normalises red, green and blue, and cannot become one for `channels: 1`";
        return Err(Failure::Input(format!("{arch} {problem}")));
    }
    let found = train::transfer(model, data, seed).map_err(|e| Failure::Input(format!("{arch}: {e}")))?;
    if found.is_same() {
        let renamed = names_differ(&model.info.names, &data.names);
        return Ok(Start { model: found.model, renamed, told: None });
    }
    let (from, to) = (model.graph.classes(), data.names.len());
    let classes = if from == to { String::new() } else { format!(" from {from} to {to} classes") };
    let told = Some(format!("transfer of {arch}{classes}: {found}"));
    Ok(Start { model: found.model, renamed: None, told })
}

/// Scale and task of a name.
fn named(arch: &str) -> Option<(Scale, Task)> {
    let rest = arch.strip_prefix("yolo11")?;
    let behind = |task: &Task| rest.strip_suffix(task.suffix()).map(|scale| (scale, *task));
    // Every name ends with nothing: that is tried last.
    let (scale, task) = Task::PUBLISHED.iter().rev().find_map(behind)?;
    let mut letters = scale.chars();
    let published = letters.next().filter(|_| letters.next().is_none()).and_then(Scale::of);
    let scale = published.or_else(|| {
        let mut parts = scale.strip_prefix(':')?.split(',');
        let (depth, width) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let max_channels = parts.next()?.parse().ok()?;
        let sensible = [depth, width].iter().all(|v: &f64| (0.01..=10.0).contains(v)) && max_channels <= 1 << 16;
        (sensible && parts.next().is_none()).then_some(Scale { depth, width, max_channels, c3k_everywhere: false })
    });
    Some((scale?, task))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_scale_and_task() {
        for (name, width, task) in [
            ("yolo11n", Some(0.25), "detect"),
            ("yolo11n-seg", Some(0.25), "segment"),
            ("yolo11s-pose", Some(0.5), "pose"),
            ("yolo11:0.5,0.125,256-obb", Some(0.125), "obb"),
            ("yolo11:0.5,0.125,256", Some(0.125), "detect"),
            ("yolo11n-cls", Some(0.25), "classify"),
            ("yolo11", None, ""),
            ("yolo11n-mask", None, ""),
            ("yolo11:0.5,0.125-obb", None, ""),
            ("yolo12n", None, ""),
        ] {
            let found = named(name);
            assert_eq!(found.map(|(scale, _)| scale.width), width, "{name}");
            if let Some((scale, kind)) = found {
                assert_eq!(yolo11::network(scale, kind, 2).unwrap().head.task(), task, "{name}");
            }
        }
    }
}
