//! int8 with its accuracy under control: ranges chosen on held-back images, layers that stay out, and the commands.

use crate::cli::small_model;
use crate::forward::yolo;
use crate::support::data;
use assert_cmd::Command;
use prost::Message;
use secateurs::data::Dataset;
use secateurs::emit::onnx::proto::ModelProto;
use secateurs::emit::onnx::tensorrt::refused;
use secateurs::engine::Device;
use secateurs::eval::evaluate_model;
use secateurs::graph::{Activation, Dtype, Graph, Op};
use secateurs::model::{self, Model, Tensor};
use secateurs::pipeline::{Int8, Int8Options, MAX_DROP, to_int8};
use secateurs::quantise::{Kept, Limit, RangeMethod, control, ranges};
use secateurs::ranks::Ranks;
use secateurs::vision::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use tempfile::TempDir;

/// How much larger a scaled channel is.
const SCALE: f32 = 300.0;

fn change(model: &mut Model, key: &str, edit: impl Fn(usize, f32) -> f32) {
    let tensor = &model.weights[key];
    let (shape, values) = (tensor.shape().to_vec(), tensor.data().iter().enumerate());
    let changed = Tensor::new(shape, values.map(|(at, v)| edit(at, *v)).collect());
    model.weights.insert(key.to_owned(), changed);
}

/// A model made hard on purpose: in every third pair of convolutions, the channel between them that counts least is
/// scaled up by the first one and down again by the second. In f32 that changes little; the range of the second one's
/// input is all that one channel's. Names of the second ones.
fn scaled_channels(model: &Model) -> (Model, BTreeSet<String>) {
    let (mut hard, graph) = (model.clone(), &model.graph);
    let (consumers, mut altered, mut pairs) = (graph.consumers(), BTreeSet::new(), 0);
    let int8 = Graph { dtype: Dtype::Int8, ..graph.clone() };
    for (id, second) in int8.convs_in(Dtype::Int8) {
        let source = graph.node(id).inputs[0];
        let Op::Conv(first) = &graph.node(source).op else { continue };
        let Some(norm) = first.norm.as_ref().filter(|_| first.groups == 1 && first.act == Activation::Silu) else {
            continue;
        };
        if consumers[source.index()].len() > 1 {
            continue;
        }
        pairs += 1;
        if pairs % 3 != 0 {
            continue;
        }
        let window = second.kernel * second.kernel;
        let weights = model.tensor(&second.weight).data();
        let size = |c: usize| -> f32 {
            let own = (0..weights.len()).filter(|at| at / window % second.c_in == c);
            own.map(|at| weights[at].abs()).sum()
        };
        let least = (0..second.c_in).min_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap();
        let [gamma, beta, ..] = norm.keys();
        for key in [gamma, beta] {
            change(&mut hard, &key, |at, v| if at == least { v * SCALE } else { v });
        }
        let scaled = |at: usize, v: f32| if at / window % second.c_in == least { v / SCALE } else { v };
        change(&mut hard, &second.weight, scaled);
        altered.insert(graph.node(id).name.clone());
    }
    (hard, altered)
}

#[test]
fn accuracy_control_brings_a_model_with_scaled_channels_back() {
    let (Some(model), Some(yaml)) = (yolo("models/yolo11n-coco.safetensors"), data("coco-mini/data.yaml")) else {
        return;
    };
    let (hard, altered) = scaled_channels(&model);
    assert!(altered.len() >= 3, "{altered:?}");
    let (train, val) = (Dataset::open(&yaml, "train").unwrap(), Dataset::open(&yaml, "val").unwrap());
    let int8 = |max_drop: f64| -> Int8 {
        let methods = RangeMethod::ALL.map(|(_, method)| method);
        // The same time for every layer: what this machine measures would choose others in each run.
        let layers = hard.graph.convs_in(Dtype::F32).map(|(id, _)| hard.graph.node(id).name.clone());
        let lost_ms = layers.map(|layer| (layer, 1.0)).collect();
        let options = Int8Options {
            methods: &methods,
            symmetric: false,
            images: 32,
            max_drop,
            baseline: None,
            lost_ms,
            device: Device::Cpu,
            ranks: Ranks::default(),
        };
        to_int8(&hard, &train, 320.into(), &options, &()).unwrap()
    };
    let map = |model: &Model| evaluate_model(model, &val, 320, 2, &|_| {}).unwrap().map50_95;
    let (plain, controlled) = (int8(1.0), int8(MAX_DROP));
    assert!(plain.kept.is_empty());
    let [before, without, with] = [&hard, &plain.model, &controlled.model].map(map);
    let kept: Vec<&String> = controlled.kept.iter().map(|kept| &kept.layer).collect();
    eprintln!("mAP {before:.4} in f32, {without:.4} in int8, {with:.4} with {kept:?} of {altered:?} out of it");
    assert!(before - without >= 0.05, "{before} -> {without}");
    assert!(before - with <= 0.01, "{before} -> {with}, {kept:?}");
    assert!(kept.len() <= altered.len() + 4, "{kept:?}");
    assert!(kept.iter().any(|layer| altered.contains(*layer)), "{kept:?} of {altered:?}");
    // What comes back from the file is the same model.
    let back = model::from_bytes("a".as_ref(), &model::to_bytes(&controlled.model).unwrap()).unwrap();
    assert_eq!((back.graph, back.weights), (controlled.model.graph, controlled.model.weights));
}

/// Layers of which some cost accuracy; the accuracy is made of what is told of them.
#[test]
fn the_layers_left_out_are_those_that_cost_most_for_their_time() {
    let model = small_model();
    let images = [vec![0.5; 3 * 64 * 64]];
    let found = ranges(&model, &images, (64, 64), &mut |_, _| ()).unwrap();
    let layers: Vec<String> = found.keys().cloned().collect();
    assert!(layers.len() > 12);
    // The fifth costs as much as the second, but ten times the time; the third costs nothing.
    let costs = BTreeMap::from([(1, 0.02), (4, 0.02), (7, 0.01)]);
    let cost = |layer: &String| costs.get(&layers.iter().position(|l| l == layer).unwrap()).copied().unwrap_or(0.0);
    let sensitivities = || -> Result<Vec<Kept>, Infallible> {
        let kept = |(at, layer): (usize, &String)| Kept {
            layer: layer.clone(),
            dtype: Dtype::F32,
            divergence: cost(layer),
            lost_ms: if at == 4 { 10.0 } else { 1.0 },
        };
        Ok(layers.iter().enumerate().map(kept).collect())
    };
    let mut runs = 0;
    let mut left_out = |least: f64| -> BTreeSet<usize> {
        let mut accuracy = |model: &Model| -> Result<f64, Infallible> {
            runs += 1;
            let int8 = model.graph.convs_in(Dtype::Int8).map(|(id, _)| model.graph.node(id).name.clone());
            Ok(0.5 - int8.map(|layer| cost(&layer)).sum::<f64>())
        };
        let (int8, kept) = control(&model, &found, sensitivities, Limit { least, accuracy: &mut accuracy }).unwrap();
        let names: BTreeSet<String> = kept.iter().map(|kept| kept.layer.clone()).collect();
        assert_eq!(names, int8.graph.exceptions.keys().cloned().collect());
        assert!(int8.info.ranges.keys().all(|layer| !names.contains(layer)));
        names.iter().map(|layer| layers.iter().position(|l| l == layer).unwrap()).collect()
    };
    let cases: [(f64, &[usize]); 5] =
        [(0.44, &[]), (0.4501, &[1]), (0.469, &[1]), (0.479, &[1, 7]), (0.4999, &[1, 4, 7])];
    for (least, expected) in cases {
        assert_eq!(left_out(least), expected.iter().copied().collect(), "at least {least}");
    }
    // Out of reach: nothing is left in int8.
    assert_eq!(left_out(0.6).len(), layers.len());
    assert!(runs < 100, "{runs} measurements");
}

/// A folder with a small model and a dataset of a few images.
fn folder(labels: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    model::save(&small_model(), &path("small.safetensors")).unwrap();
    for at in 0..9usize {
        let image = Image::new(80, 50, (0..12_000).map(|i| ((i * (at + 1)) % 251) as u8).collect());
        image.save(&path(&format!("set/images/train/{at}.png"))).unwrap();
        if labels {
            fs::create_dir_all(path("set/labels/train")).unwrap();
            fs::write(path(&format!("set/labels/train/{at}.txt")), "1 0.5 0.5 0.2 0.4\n").unwrap();
        }
    }
    fs::write(path("data.yaml"), "path: set\ntrain: images/train\nval: images/train\nnames: [nut, bolt]\n").unwrap();
    folder
}

fn run(folder: &TempDir, line: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    let output = command.current_dir(folder.path()).args(line.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {text}");
    text
}

#[test]
fn quantise_and_export_write_what_tensorrt_takes() {
    for labels in [true, false] {
        let folder = folder(labels);
        for (flags, expected) in [("", "the best of 4"), ("--calibration entropy", "ranges by entropy")] {
            let line = format!("quantise --model small.safetensors --data data.yaml {flags} -o int8.safetensors");
            let said = run(&folder, &line);
            assert!(said.contains(expected), "{said}");
            assert_eq!(said.contains("without labels nothing is known of the accuracy"), !labels, "{said}");
        }
        let said = run(&folder, "export --model int8.safetensors --format onnx -o a.onnx");
        assert!(said.contains("TensorRT would refuse") && said.contains("--symmetric"), "{said}");
        let said = run(&folder, "export --model int8.safetensors --symmetric --format onnx -o b.onnx");
        assert!(!said.contains("warning"), "{said}");
        let file = ModelProto::decode(&fs::read(folder.path().join("b.onnx")).unwrap()[..]).unwrap();
        assert!(refused(&file).is_empty());
        let line = "quantise --model small.safetensors --data data.yaml --symmetric -o sym.safetensors";
        run(&folder, line);
        let said = run(&folder, "export --model sym.safetensors --format onnx -o c.onnx");
        assert!(!said.contains("warning"), "{said}");
        for name in ["a.cache", "b.cache", "c.cache"] {
            let cache = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(cache.starts_with("TRT-") && cache.contains("\nimages: 3c010204\n"), "{name}: {cache}");
        }
        run(&folder, "export --model small.safetensors --format onnx -o plain.onnx");
        assert!(!folder.path().join("plain.cache").exists());
    }
}
