//! End-to-end heads (YOLO26, YOLOv10): what a step trains, both branches learned at once, and the whole job on the branch
//! that is deployed.

use assert_cmd::Command;
use candle_core::{Device, Tensor as Candle};
use secateurs::backend::{Mode, Net};
use secateurs::data::{Dataset, Item, Label, LabelTask, OpenOptions, demo};
use secateurs::engine::{Engine, Options, plan_memory};
use secateurs::graph::{Activation, Branch, Builder, Conv, Graph, Head, NodeId, Op};
use secateurs::model::{self, Info, Model, Tensor};
use secateurs::train::loss::{self, HeadView, Shapes, Target};
use secateurs::train::optim::Rule;
use secateurs::train::{Augment, FitConfig, FitEvent, fit, init};
use secateurs::vision::{Image, NormalisedXywh};
use secateurs::zoo::{Task, yolo11, yolo26, yolov8, yolov10};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A narrow scale.
const SCALE: yolo11::Scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };

/// The weight of the one-to-many branch in a training of one epoch.
const WEIGHT: f64 = 0.8;

/// Side of the tiny network's images, and of its cells.
const SIDE: usize = 32;
const STRIDE: usize = 8;

/// One layer below a head with two branches of one level.
fn tiny() -> Model {
    let conv = |name: &str, c_in: usize, c_out: usize, kernel: usize, act| {
        Op::Conv(Conv {
            weight: format!("{name}.weight"),
            bias: Some(format!("{name}.bias")),
            norm: None,
            c_in,
            c_out,
            kernel,
            stride: kernel,
            padding: 0,
            groups: 1,
            act,
        })
    };
    let mut builder = Builder::default();
    let image = builder.push("images", Op::Input { channels: 3 }, &[]);
    let below = builder.push("below", conv("below", 3, 6, STRIDE, Activation::Silu), &[image]);
    let outputs: Vec<NodeId> = [("many.box", 4), ("many.class", 2), ("one.box", 4), ("one.class", 2)]
        .map(|(name, c_out)| builder.push(name, conv(name, 6, c_out, 1, Activation::Identity), &[below]))
        .into();
    let branch = Box::new(Head::Detect { nc: 2, reg_max: 1, strides: vec![STRIDE] });
    let graph = builder.finish(outputs, Head::EndToEnd { one2many: true, branch }).unwrap();
    let mut weights = init(&graph, 5);
    // Boxes of some size and scores of every kind, so that cells are assigned and every term has a gradient.
    for branch in ["many", "one"] {
        weights.insert(format!("{branch}.box.bias"), Tensor::new([4], vec![1.2, 0.9, 1.1, 1.4]));
        weights.insert(format!("{branch}.class.bias"), Tensor::new([2], vec![-0.5, 0.3]));
    }
    Model::new(graph, weights, Info::default()).unwrap()
}

/// Two pictures with three objects.
fn pictures(folder: &Path) -> (Dataset, Vec<f32>, Vec<Target>) {
    let boxes = [vec![(0, [0.4, 0.4, 0.5, 0.6]), (1, [0.75, 0.7, 0.4, 0.4])], vec![(1, [0.5, 0.5, 0.7, 0.5])]];
    let (mut items, mut values, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (number, objects) in boxes.into_iter().enumerate() {
        let pixels: Vec<u8> = (0..3 * SIDE * SIDE).map(|i| ((i * (91 + number) + i / 7) % 256) as u8).collect();
        values.extend((0..3).flat_map(|c| pixels.iter().skip(c).step_by(3).map(|v| f32::from(*v) / 255.0)));
        let path = folder.join(format!("{number}.png"));
        Image::new(SIDE, SIDE, pixels).save(&path).unwrap();
        let label =
            |(class, [cx, cy, w, h]): &(usize, [f32; 4])| Label { class: *class, cx: *cx, cy: *cy, w: *w, h: *h };
        items.push(Item { labels: objects.iter().map(label).collect(), ..Item::new(path.into()) });
        targets.extend(objects.iter().map(|(class, bbox)| Target {
            image: number,
            class: *class,
            bbox: NormalisedXywh(*bbox),
        }));
    }
    (Dataset { items, names: vec!["a".into(), "b".into()], ..Dataset::default() }, values, targets)
}

/// The outputs of a batch of two, as one list per output.
fn outputs(model: &Model, images: &[f32]) -> Vec<Vec<f32>> {
    let mut engine = Engine::new(model, SIDE, SIDE, &Options::default()).unwrap();
    let mut all = vec![Vec::new(); 4];
    for image in images.chunks_exact(3 * SIDE * SIDE) {
        engine.run(image).unwrap();
        all.iter_mut().enumerate().for_each(|(i, values)| values.extend_from_slice(engine.output(i)));
    }
    all
}

/// Which outputs train a tensor.
fn trains(key: &str) -> &'static [usize] {
    match () {
        () if key.starts_with("one.") => &[2, 3],
        // The one-to-one branch reads what the layers below give, and does not train them.
        () => &[0, 1],
    }
}

/// One step of plain gradient descent against finite differences of what it minimises: the gradient by the outputs is
/// that of the loss (whose values the reference files of `losses` judge), and the engine, not autograd, carries it down.
#[test]
fn a_step_trains_what_the_paper_says() {
    let folder = tempfile::tempdir().unwrap();
    let (model, (set, images, targets)) = (tiny(), pictures(folder.path()));
    let values = outputs(&model, &images);
    let channels = [4, 2, 4, 2];
    let cells = SIDE / STRIDE;
    // The engine gives image after image, and so does a batch.
    let views: Vec<HeadView> =
        values.iter().zip(channels).map(|(data, c)| HeadView { data, shape: [2, c, cells, cells] }).collect();
    let kind = loss::Branch::of(&model.graph.head).unwrap();
    let [many, one] = [0, 2].map(|first| loss::Outputs::of(&kind, &views[first..first + 2]).unwrap());
    let found = loss::end_to_end(&kind, [many, one], &targets, Shapes::Boxes, WEIGHT).unwrap();
    let wanted_loss = found.terms(WEIGHT).sum();
    let seeds: Vec<Vec<f32>> =
        found.one2many_grads.in_order().into_iter().chain(found.one2one_grads.in_order()).collect();
    assert!(seeds.iter().all(|seed| seed.iter().any(|g| g.abs() > 1e-3)), "every output has a gradient");

    let lr = 1e-3;
    let config = FitConfig {
        epochs: 1,
        batch: 2,
        imgsz: SIDE.into(),
        lr,
        warmup: 0.0,
        optimizer: Rule::Sgd { momentum: 0.0, nesterov: false },
        weight_decay: 0.0,
        ema_decay: 0.0,
        clip: 1e9,
        augment: Augment::NONE,
        threads: 1,
        ..FitConfig::default()
    };
    let mut reported = None;
    let trained = fit(&model, None, &set, &config, &secateurs::train::Device::Cpu, &mut |event| {
        if let FitEvent::Step { terms, .. } = event {
            reported = Some(terms.sum());
        }
    })
    .unwrap();
    assert!((reported.unwrap() - wanted_loss).abs() < 1e-4 * wanted_loss, "{reported:?}, expected {wanted_loss}");

    for key in model.weights.keys() {
        let (before, after) = (model.tensor(key).data(), trained.tensor(key).data());
        for seed in 0..3usize {
            let sign = |i: usize| if (i * 7 + seed * 5 + i / 3) % 4 < 2 { 1.0 } else { -1.0f32 };
            let along: f64 = before.iter().zip(after).enumerate().map(|(i, (b, a))| f64::from((b - a) * sign(i))).sum();
            let moved = |step: f32| -> f64 {
                let mut moved = model.clone();
                let values = moved.weights.get_mut(key).unwrap().data_mut();
                values.iter_mut().enumerate().for_each(|(i, v)| *v += step * sign(i));
                let values = outputs(&moved, &images);
                let product = |i: &usize| -> f64 {
                    values[*i].iter().zip(&seeds[*i]).map(|(v, g)| f64::from(*v) * f64::from(*g)).sum()
                };
                trains(key).iter().map(product).sum()
            };
            let step = 1e-2;
            let wanted = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let found = along / lr;
            assert!((found - wanted).abs() < 2e-2 * wanted.abs() + 2e-2, "{key}, {seed}: {found}, expected {wanted}");
        }
    }
}

/// The gradient stops at the branch, whatever operators it is made of, and prototypes belong to both.
#[test]
fn no_gradient_of_the_one_to_one_branch_passes_below_it() {
    for task in [Task::Detect, Task::Segment { masks: 8 }, Task::Pose { keypoints: 3, dims: 2 }, Task::Obb] {
        let graph = yolo26::network(SCALE, task, 2).unwrap();
        let weights = init(&graph, 1);
        let model = Model::new(graph, weights, Info::default()).unwrap();
        let net = Net::new(&model, &Device::Cpu).unwrap();
        let images = Candle::rand(0.0f32, 1.0, (1, 3, 64, 64), &Device::Cpu).unwrap();
        let outputs = net.forward(&images, Mode::Train).unwrap();
        let grads = |outputs: &[Candle]| {
            let sums = outputs.iter().map(|output| output.sqr().unwrap().sum_all().unwrap());
            sums.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap()
        };
        let half = outputs.len() / 2;
        let shared = usize::from(matches!(task, Task::Segment { .. }));
        let (many, one) = (grads(&outputs[..half]), grads(&outputs[half..outputs.len() - shared]));
        for (key, var) in net.params() {
            let own = key.contains(".one2one_");
            assert_eq!(one.get(var.as_tensor()).is_some(), own, "{task:?}: {key}");
            assert_eq!(many.get(var.as_tensor()).is_some(), !own, "{task:?}: {key}");
        }
    }
}

fn drawn(folder: &Path, task: LabelTask) -> Dataset {
    let (yaml, _) = demo::ensure_for(task, &folder.join(format!("{task:?}")), 16, 1).unwrap();
    Dataset::open_with(&yaml, "train", &OpenOptions { task, ..OpenOptions::default() }).unwrap()
}

#[test]
fn both_branches_of_every_task_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    let ten = yolov10::Scale::of('n').unwrap();
    let narrow = yolov8::Scale { width: 0.0625, ..ten.sizes };
    let networks = [
        (LabelTask::Detect, yolo26::network(SCALE, Task::Detect, 3).unwrap(), 40),
        (LabelTask::Detect, yolov10::detect(yolov10::Scale { sizes: narrow, ..ten }, 3).unwrap(), 1),
        (LabelTask::Segment, yolo26::network(SCALE, Task::Segment { masks: 8 }, 3).unwrap(), 1),
        (LabelTask::Pose, yolo26::network(SCALE, Task::Pose { keypoints: 4, dims: 3 }, 3).unwrap(), 1),
        (LabelTask::Obb, yolo26::network(SCALE, Task::Obb, 3).unwrap(), 1),
    ];
    for (task, graph, epochs) in networks {
        let set = drawn(folder.path(), task);
        let weights = init(&graph, 3);
        let model = Model::new(graph, weights, Info::default()).unwrap();
        let config = FitConfig { epochs, batch: 4, imgsz: 96.into(), lr: 4e-3, threads: 2, ..FitConfig::default() };
        let mut losses = Vec::new();
        let trained = fit(&model, Some(&model), &set, &config, &secateurs::train::Device::Cpu, &mut |event| {
            if let FitEvent::Epoch { terms, .. } = event {
                losses.push(terms.sum());
            }
        })
        .unwrap();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{task:?}: {losses:?}");
        // The loss also rises by what the one-to-one branch, whose share grows, has more of it.
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..losses.len().min(5)]), mean(&losses[losses.len().saturating_sub(5)..]));
        assert!(epochs == 1 || last < 0.95 * first, "{task:?}: {last} of {first}: {losses:?}");
        for key in model.weights.keys().filter(|key| key.ends_with(".conv.weight")) {
            assert_ne!(trained.tensor(key), model.tensor(key), "{task:?}: {key}");
        }
        // A branch alone is trained too, with the layers below it.
        for branch in [Branch::One2One, Branch::One2Many] {
            let alone = trained.with_branch(branch).unwrap();
            let config = FitConfig { epochs: 1, ..config.clone() };
            let again = fit(&alone, Some(&alone), &set, &config, &secateurs::train::Device::Cpu, &mut |_| {}).unwrap();
            assert_eq!(again.graph.branch(), branch);
            assert_ne!(again.tensor("model.0.conv.weight"), alone.tensor("model.0.conv.weight"), "{task:?} {branch:?}");
        }
    }
}

fn write(folder: &Path, name: &str, graph: &Graph) -> PathBuf {
    let weights = init(graph, 4);
    let views = weights.iter().map(|(key, tensor)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
        (key, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape().to_vec(), bytes).unwrap())
    });
    let file = folder.join(name);
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    file
}

fn worker(folder: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_secateurs")).current_dir(folder).args(words).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

/// A YOLO26-shaped network on drawn pictures, pruned by the branch that is deployed.
#[test]
fn a_yolo26_is_pruned_by_the_branch_that_ships() {
    let folder = tempfile::tempdir().unwrap();
    let graph = yolo26::network(SCALE, Task::Detect, 3).unwrap();
    write(folder.path(), "26.safetensors", &graph);
    write(folder.path(), "11.safetensors", &yolo11::network(SCALE, Task::Detect, 3).unwrap());
    demo::write(&folder.path().join("drawn"), 32, 8).unwrap();
    let params = |graph: &Graph| graph.cost(64, 64).unwrap().params;
    let options = Options { threads: 1, ..Options::default() };
    let bytes = |graph: &Graph| plan_memory(graph, 64, 64, &options).unwrap().total() as f64;
    std::fs::write(folder.path().join("many.toml"), "[model]\nhead = 'one2many'\n").unwrap();
    let cases: [(&str, Branch, &str, &[&str]); 4] = [
        ("a", Branch::One2One, "1", &[]),
        ("b", Branch::One2Many, "0", &["--head", "one2many"]),
        ("c", Branch::One2Many, "0", &["--profile", "many.toml"]),
        ("d", Branch::One2One, "0", &["--dtype", "int8"]),
    ];
    for (out, branch, epochs, flags) in cases {
        let alone = graph.with_branch(branch).unwrap();
        let limit = format!("{:.4}", 0.8 * bytes(&alone) / f64::from(1 << 20));
        let common = [
            "prune",
            "--model",
            "26.safetensors",
            "--data",
            "drawn/data.yaml",
            "--imgsz",
            "64",
            "--memory-mib",
            &limit,
            "--epochs",
            epochs,
            "--calibration-images",
            "32",
            "--out",
            out,
            "--cache",
            "cache",
        ];
        let (code, text) = worker(folder.path(), &[&common[..], flags].concat());
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("without the other branch"), "{text}");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(out).join(name)).unwrap();
        let report: Value = serde_json::from_str(&read("report.json")).unwrap();
        let removed = &report["head"]["removed"];
        assert_eq!(report["head"]["branch"], branch.name(), "{report}");
        assert_eq!(removed["params"], params(&graph) - params(&alone), "{report}");
        assert_eq!(report["uncut"]["params"], params(&alone), "the baseline has the same branch: {report}");
        assert!(removed["macs"].as_u64() > Some(0) && removed["bytes"].as_u64() > Some(0), "{report}");
        assert!(read("report.html").contains(&format!("{}; without the other branch", branch.name())));
        let source = match out {
            "a" | "d" => None,
            "b" => Some("# --head"),
            _ => Some("# many.toml"),
        };
        let profile = read("profile.toml");
        let line = profile.lines().find(|line| line.starts_with("head = "));
        assert_eq!(line.is_some_and(|line| source.is_some_and(|s| line.contains(s))), source.is_some(), "{profile}");
        let shipped = model::load(&folder.path().join(out).join("model.safetensors")).unwrap();
        assert_eq!((shipped.graph.branch(), shipped.graph.outputs.len()), (branch, 6));
        assert!(bytes(&shipped.graph) <= 0.801 * bytes(&alone));
        let other =
            |key: &String| key.contains(".one2one_") != (branch == Branch::One2One) && key.contains("model.23.");
        assert!(!shipped.weights.keys().any(other), "{out}");
    }
    let (code, text) = worker(
        folder.path(),
        &["prune", "--model", "11.safetensors", "--data", "drawn/data.yaml", "--memory-mib", "1", "--head", "one2one"],
    );
    assert!(code == 9 && text.contains("11.safetensors: layer `head`: it has no branch `one2one`"), "{code} {text}");
    // Without the flag a model with both answers by the one-to-one branch everywhere.
    let (code, text) = worker(folder.path(), &["bench", "--model", "26.safetensors", "--imgsz", "64", "--runs", "2"]);
    assert!(code == 0 && text.contains("--head one2one: without the other branch it has"), "{text}");
}
