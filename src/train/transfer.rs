//! Transfer of a trained network to other data: rebuilt for the classes, keypoints and channels of the data, it keeps every
//! tensor whose shape stays the same; the others begin anew.

use super::init::init;
use crate::data::Dataset;
use crate::model::{Info, Model, ModelError, Tensor, Weights};
use crate::vision::LUMA;
use crate::zoo::{Purpose, rebuild};
use std::fmt;
use std::path::Path;

/// A network rebuilt for other data.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The network.
    pub model: Model,
    /// Tensors that were kept.
    pub kept: usize,
    /// Keys of the tensors that begin anew.
    pub new: Vec<String>,
    /// Keys of the kernels that were made from those for other channels of the image.
    pub adapted: Vec<String>,
}

/// What a dataset needs of a network.
pub fn purpose(data: &Dataset) -> Purpose {
    let keypoints = data.keypoints.as_ref().map(|shape| [shape.count, shape.dims]);
    Purpose { classes: data.names.len(), keypoints, channels: data.channels }
}

/// The model for the classes, keypoints and channels of a dataset. Kernels that read the image are made from those that
/// there were, so that they give the same for a grey picture: one for the brightness is the sum of those for red, green and
/// blue, and the other way round each colour gets its share.
///
/// # Errors
/// If no network of its kind serves the data.
pub fn transfer(model: &Model, data: &Dataset, seed: u64) -> Result<Transfer, ModelError> {
    let graph = rebuild(&model.graph, purpose(data))?;
    let (from, to) = (model.graph.input_channels(), graph.input_channels());
    let (mut kept, mut new, mut adapted) = (0, Vec::new(), Vec::new());
    let mut weights = Weights::new();
    for (key, fresh) in init(&graph, seed) {
        let before = model.weights.get(&key);
        let image =
            graph.convs().any(|(id, conv)| conv.weight == key && graph.node(id).inputs.iter().all(|i| i.0 == 0));
        let tensor = match before {
            Some(before) if before.shape() == fresh.shape() => {
                kept += 1;
                before.clone()
            }
            Some(before) if image && [from, to].iter().all(|n| [1, 3].contains(n)) => {
                adapted.push(key.clone());
                recoloured(before, to)
            }
            _ => {
                new.push(key.clone());
                fresh
            }
        };
        weights.insert(key, tensor);
    }
    let info = Info { names: data.names.clone(), ..model.info.clone() };
    Ok(Transfer { model: Model::new(graph, weights, info)?, kept, new, adapted })
}

/// A kernel `[out, in, k, k]` over one channel in place of three, or over three in place of one.
fn recoloured(kernel: &Tensor, channels: usize) -> Tensor {
    let mut shape = kernel.shape().to_vec();
    let (out, area) = (shape[0], shape[2..].iter().product::<usize>());
    let before = std::mem::replace(&mut shape[1], channels);
    let value = |at: usize| {
        let (o, c, p) = (at / (channels * area), at / area % channels, at % area);
        let from = |c: usize| kernel.data()[(o * before + c) * area + p];
        if channels == 1 { (0..before).map(from).sum() } else { from(0) * LUMA[c] }
    };
    Tensor::new(shape, (0..out * channels * area).map(value).collect())
}

impl Transfer {
    /// Whether the model was as the data need it: then nothing but the names of the classes is new.
    pub fn is_same(&self) -> bool {
        self.new.is_empty() && self.adapted.is_empty()
    }

    /// The modules whose tensors begin anew, each once: `model.23.cv3`, `fc`.
    fn modules(&self) -> Vec<String> {
        let module = |key: &String| {
            let parts: Vec<&str> = key.split('.').collect();
            let most = if parts[0] == "model" { 3 } else { 2 };
            parts[..most.min(parts.len().saturating_sub(1)).max(1)].join(".")
        };
        let mut modules: Vec<String> = self.new.iter().map(module).collect();
        modules.sort();
        modules.dedup();
        modules
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let all = self.kept + self.new.len() + self.adapted.len();
        write!(f, "{} of {all} tensors are kept", self.kept)?;
        if !self.adapted.is_empty() {
            let (what, channels) = (self.adapted.join(", "), self.model.graph.input_channels());
            write!(f, "; made over for {channels} channel{}: {what}", if channels == 1 { "" } else { "s" })?;
        }
        if !self.new.is_empty() {
            write!(f, "; {} are new, in {}", self.new.len(), self.modules().join(", "))?;
        }
        Ok(())
    }
}

/// The command line that trains a network for data which it does not fit, from its own weights.
pub fn command(model: &Path, data: &Path) -> String {
    let word = |path: &Path| {
        let text = path.to_string_lossy().into_owned();
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+:,".contains(c)) && !text.is_empty();
        if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
    };
    let mut output = model.file_stem().unwrap_or_default().to_os_string();
    output.push("-transfer.safetensors");
    format!("cargo xtask train --arch {} --data {} -o {}", word(model), word(data), word(Path::new(&output)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::KeypointShape;
    use crate::engine::{Engine, Options};
    use crate::graph::Graph;
    use crate::zoo::yolo11::Scale;
    use crate::zoo::{Task, resnet, yolo11, yolo26};

    const SCALE: Scale = Scale { depth: 0.25, width: 0.125, max_channels: 256, c3k_everywhere: false };

    fn model(graph: Graph) -> Model {
        let weights = init(&graph, 1);
        Model::new(graph, weights, Info { names: vec!["before".into()], ..Info::default() }).unwrap()
    }

    fn data(classes: usize) -> Dataset {
        Dataset { names: (0..classes).map(|i| format!("c{i}")).collect(), ..Dataset::default() }
    }

    #[test]
    fn all_but_the_class_branch_is_kept_and_told() {
        for network in [yolo11::network, yolo26::network] {
            let before = model(network(SCALE, Task::Detect, 80).unwrap());
            let found = transfer(&before, &data(3), 7).unwrap();
            assert_eq!((found.model.graph.classes(), &found.model.info.names), (3, &data(3).names));
            assert!(found.new.iter().all(|key| key.contains("cv3.")), "{:?}", found.new);
            assert_eq!(found.kept + found.new.len(), found.model.weights.len());
            for (key, tensor) in found.model.weights.iter().filter(|(key, _)| !found.new.contains(key)) {
                assert_eq!(tensor, before.tensor(key), "{key}");
            }
            let text = found.to_string();
            assert!(text.contains("tensors are kept; ") && text.contains("are new, in model.23.cv3"), "{text}");
            // New biases say how rare objects are, as those of a fresh network.
            assert!(found.model.tensor("model.23.cv3.0.2.bias").data().iter().all(|bias| *bias < -4.0));
            let same = transfer(&before, &data(80), 7).unwrap();
            assert!(same.is_same() && same.model.weights == before.weights);
        }
        let classifier = model(resnet::network(resnet::Depth::of(18).unwrap(), 10).unwrap());
        let found = transfer(&classifier, &data(4), 7).unwrap();
        assert_eq!(found.new, ["fc.bias", "fc.weight"]);
        assert!(found.to_string().ends_with("2 are new, in fc"), "{found}");
    }

    #[test]
    fn keypoints_of_the_data_get_their_branch() {
        let before = model(yolo26::network(SCALE, Task::Pose { keypoints: 17, dims: 3 }, 1).unwrap());
        let keypoints = Some(KeypointShape { count: 4, dims: 2, flip: None });
        let found = transfer(&before, &Dataset { keypoints, ..data(1) }, 7).unwrap();
        assert!(found.new.iter().all(|key| key.contains("cv4")) && !found.new.is_empty(), "{:?}", found.new);
        assert_eq!(found.model.graph.head.extra(), 8);
    }

    #[test]
    fn a_grey_network_gives_what_the_coloured_one_gave_for_grey_pictures() {
        let before = model(yolo11::network(SCALE, Task::Detect, 2).unwrap());
        let grey = transfer(&before, &Dataset { channels: Some(1), ..data(2) }, 7).unwrap();
        assert_eq!((grey.model.graph.input_channels(), grey.new.len(), grey.adapted.len()), (1, 0, 1));
        let back = transfer(&grey.model, &Dataset { channels: Some(3), ..data(2) }, 7).unwrap();
        assert_eq!(back.model.graph, before.graph);
        let picture: Vec<f32> = (0..64 * 64).map(|i| ((i * 37) % 101) as f32 / 100.0).collect();
        let run = |model: &Model, channels: usize| {
            let mut engine = Engine::new(model, 64, 64, &Options::default()).unwrap();
            engine.run(&picture.repeat(channels)).unwrap();
            engine.output(1).to_vec()
        };
        let wanted = run(&before, 3);
        for found in [run(&grey.model, 1), run(&back.model, 3)] {
            assert!(
                found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-3 * (1.0 + b.abs())),
                "{found:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn the_command_line_can_be_pasted() {
        let line = command(Path::new("a b/best.pt"), Path::new("/d/data.yaml"));
        assert_eq!(line, "cargo xtask train --arch 'a b/best.pt' --data /d/data.yaml -o best-transfer.safetensors");
    }
}
