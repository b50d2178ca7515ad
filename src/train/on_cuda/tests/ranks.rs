//! Ranks with a GPU each, on the emulated driver and the stand-in for NCCL: threads, and processes that a launcher would
//! start without MPI.

use super::super::*;
use crate::data::{Dataset, Item, Label};
use crate::engine::{open_cuda, open_nccl};
use crate::graph::{Activation, Builder, Conv, Graph, Head, Norm, Op};
use crate::kernels::cuda::emulated;
use crate::kernels::cuda::nccl::MEETING;
use crate::model::{self, Info};
use crate::ranks::{Launched, Ranks, Share, on_threads};
use crate::train::autograd::Autograd;
use crate::train::batch::Loader;
use crate::train::labels::Labels;
use crate::train::variation::Augment;
use crate::train::{FitEvent, fit, init};
use crate::vision::Image;
use crate::zoo::{Task, yolo11};
use std::env;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const SIDE: usize = 12;

/// A small classifier of grey pictures, with batch normalisation or without.
fn classifier(norms: bool) -> Model {
    let conv = |name: &str, [c_in, c_out]: [usize; 2], kernel: usize, padding: usize, norm: bool| Conv {
        weight: format!("{name}.weight"),
        bias: (!norm).then(|| format!("{name}.bias")),
        norm: norm.then(|| Norm { prefix: format!("{name}.bn"), eps: 1e-5 }),
        c_in,
        c_out,
        kernel,
        stride: 1,
        padding,
        groups: 1,
        act: if padding > 0 { Activation::Relu } else { Activation::Identity },
    };
    let pool = || Op::MaxPool { kernel: 2, stride: 2, padding: 0 };
    let layers = [
        ("one", Op::Conv(conv("one", [1, 4], 3, 1, norms))),
        ("pool1", pool()),
        ("two", Op::Conv(conv("two", [4, 8], 3, 1, norms))),
        ("pool2", pool()),
        ("last", Op::Conv(conv("last", [8, 3], SIDE / 4, 0, false))),
    ];
    let mut graph = Builder::default();
    let mut x = graph.push("images", Op::Input { channels: 1 }, &[]);
    for (name, op) in layers {
        x = graph.push(name, op, &[x]);
    }
    of(graph.finish(vec![x], Head::Classify { nc: 3 }).unwrap())
}

fn of(graph: Graph) -> Model {
    let weights = init(&graph, 3);
    Model::new(graph, weights, Info::default()).unwrap()
}

/// A small detector, with batch normalisation or without.
fn detector(norms: bool) -> Model {
    let scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let mut graph = yolo11::network(scale, Task::Detect, 3).unwrap();
    for node in graph.nodes.iter_mut().filter(|_| !norms) {
        if let Op::Conv(conv) = &mut node.op {
            conv.bias = conv.norm.take().map(|norm| format!("{}.bias", norm.prefix)).or(conv.bias.take());
        }
    }
    of(graph)
}

/// Pictures of three classes, with an object where they are to be found.
fn pictures(folder: &Path, count: usize, side: usize, classifies: bool) -> Dataset {
    let item = |number: usize| {
        let path = folder.join(format!("{side}-{number}.png"));
        let at = |i: usize| ((i / 3 % side) * (number + 3) + i / 3 / side * 7 + i % 3 * 40) as u8;
        if !path.exists() {
            Image::new(side, side, (0..3 * side * side).map(at).collect()).save(&path).unwrap();
        }
        let middle = 0.3 + 0.05 * (number % 8) as f32;
        let label = match classifies {
            true => Label::whole(number % 3),
            false => Label { class: number % 3, cx: middle, cy: 0.5, w: 0.4, h: 0.3 },
        };
        Item { labels: vec![label], ..Item::new(path.into()) }
    };
    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    Dataset { items: (0..count).map(item).collect(), names, ..Dataset::default() }
}

fn config(side: usize) -> FitConfig {
    FitConfig {
        epochs: 3,
        batch: 8,
        imgsz: side.into(),
        lr: 0.05,
        warmup: 0.0,
        optimizer: Rule::Sgd { momentum: 0.9, nesterov: true },
        augment: Augment::NONE,
        threads: 1,
        ..FitConfig::default()
    }
}

fn on_cuda(mixed: bool) -> Device {
    Device::Cuda(Cuda { ordinal: 0, mixed })
}

/// The weights that so many ranks train, which must be the same on all of them.
fn trained(size: usize, model: &Model, set: &Dataset, config: &FitConfig, device: Device) -> Weights {
    let run = |ranks| {
        let config = FitConfig { ranks, ..config.clone() };
        fit(model, None, set, &config, &device, &mut |_| {}).unwrap().weights
    };
    let mut all: Vec<Weights> = on_threads(size, run);
    assert!(all.iter().all(|weights| *weights == all[0]), "{size} ranks end with different weights");
    all.swap_remove(0)
}

/// The distance of all weights from others, by the length of these.
fn distance(found: &Weights, wanted: &Weights) -> f64 {
    assert!(found.keys().eq(wanted.keys()));
    let pairs = || found.iter().flat_map(|(key, tensor)| tensor.data().iter().zip(wanted[key].data()));
    let length = |square: f64, value: f64| square + value * value;
    let apart = pairs().map(|(a, b)| f64::from(a - b)).fold(0.0, length);
    (apart / pairs().map(|(_, b)| f64::from(*b)).fold(0.0, length)).sqrt()
}

#[test]
fn without_batch_statistics_any_number_of_ranks_trains_the_same_weights() {
    if emulated::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Two batches of seven or eight pictures an epoch: shares of several sizes.
    let (model, set, config) = (classifier(false), pictures(folder.path(), 15, SIDE, true), config(SIDE));
    let cpu = trained(1, &model, &set, &config, Device::Cpu);
    let alone = trained(1, &model, &set, &config, on_cuda(false));
    assert!(distance(&alone, &model.weights) > 1e-2, "nothing was learned");
    assert!(distance(&alone, &cpu) < 1e-5, "{:e} from the CPU's", distance(&alone, &cpu));
    for size in [2, 3, 4] {
        let apart = distance(&trained(size, &model, &set, &config, on_cuda(false)), &alone);
        assert!(apart < 1e-5, "{size} ranks: {apart:e}");
    }
    let alone = trained(1, &model, &set, &config, on_cuda(true));
    let apart = distance(&trained(2, &model, &set, &config, on_cuda(true)), &alone);
    assert!(apart < 1e-4, "mixed precision: {apart:e}");
}

/// The divisors of a detector's losses follow from what its outputs find in all images of a batch.
#[test]
fn the_losses_of_a_detector_have_the_divisors_of_the_whole_batch() {
    if emulated::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, set) = (detector(false), pictures(folder.path(), 7, 64, false));
    let config = FitConfig { epochs: 1, batch: 4, lr: 1e-3, ..config(64) };
    let alone = trained(1, &model, &set, &config, on_cuda(false));
    assert!(distance(&alone, &model.weights) > 1e-5, "nothing was learned");
    for size in [2, 3] {
        let apart = distance(&trained(size, &model, &set, &config, on_cuda(false)), &alone);
        assert!(apart < 1e-5, "{size} ranks: {apart:e}");
    }
}

/// Each rank normalises by its own images; the step follows from the sum of the gradients, and running statistics are rank
/// 0's.
#[test]
fn with_batch_statistics_ranks_take_the_step_of_data_parallel_training() {
    if emulated::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, set) = (classifier(true), pictures(folder.path(), 8, SIDE, true));
    let config = FitConfig { epochs: 1, ..config(SIDE) };
    let found = trained(2, &model, &set, &config, on_cuda(false));

    let loader = Loader::new(&set, &model, &config).unwrap();
    let batch = loader.batch(&loader.order(0), 0, 0).unwrap();
    let half = |number: usize| Batch {
        images: batch.images.chunks(batch.images.len() / 2).nth(number).unwrap().to_vec(),
        share: Share::new(&Ranks::default(), 4),
        labels: Labels { classes: batch.labels.classes[4 * number..4 * (number + 1)].to_vec(), ..Labels::default() },
    };
    let at = At { epoch: 0, step: 0, steps: 1, epochs: 1 };
    let cpu = candle_core::Device::Cpu;
    let gradients = |number| {
        let mut stepper = Autograd::new(&model, None, &config, &cpu).unwrap();
        stepper.backward(&half(number), at).unwrap();
        stepper.gradients().unwrap().to_vec()
    };
    let mean = gradients(0).into_iter().zip(gradients(1)).map(|(a, b)| (a + b) / 2.0).collect::<Vec<f32>>();
    let mut stepper = Autograd::new(&model, None, &config, &cpu).unwrap();
    stepper.backward(&half(0), at).unwrap();
    stepper.gradients().unwrap().copy_from_slice(&mean);
    stepper.update(config.lr).unwrap();
    let wanted = stepper.average().unwrap();
    let apart = distance(&found, &wanted);
    assert!(apart < 1e-5, "{apart:e}");
    let moved = |weights: &Weights| distance(weights, &model.weights);
    assert!(moved(&found) > 1e-3);
    let whole = trained(1, &model, &set, &config, on_cuda(false));
    assert!(distance(&whole, &found) > 1e-4, "the statistics of the whole batch are others");
}

#[test]
fn with_the_statistics_of_the_whole_batch_any_number_of_ranks_trains_the_same_weights() {
    if emulated::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Ranks have shares of several sizes.
    let (model, set) = (classifier(true), pictures(folder.path(), 15, SIDE, true));
    let config = FitConfig { sync_batch_norm: true, ..config(SIDE) };
    let cpu = trained(1, &model, &set, &config, Device::Cpu);
    let alone = trained(1, &model, &set, &config, on_cuda(false));
    assert!(distance(&alone, &model.weights) > 1e-2, "nothing was learned");
    assert!(distance(&alone, &cpu) < 1e-5, "{:e} from the CPU's", distance(&alone, &cpu));
    for size in [2, 3, 4] {
        let found = trained(size, &model, &set, &config, on_cuda(false));
        let apart = distance(&found, &alone);
        assert!(apart < 1e-5, "{size} ranks: {apart:e}");
        assert!(size != 4 || trained(size, &model, &set, &config, on_cuda(false)) == found, "two runs differ");
    }
    let alone = trained(1, &model, &set, &config, on_cuda(true));
    let apart = distance(&trained(2, &model, &set, &config, on_cuda(true)), &alone);
    assert!(apart < 1e-3, "mixed precision: {apart:e}");
    let (model, set) = (detector(true), pictures(folder.path(), 7, 64, false));
    let config = FitConfig { epochs: 1, batch: 4, imgsz: 64.into(), lr: 1e-3, ..config };
    let alone = trained(1, &model, &set, &config, on_cuda(false));
    let apart = distance(&trained(2, &model, &set, &config, on_cuda(false)), &alone);
    assert!(apart < 1e-5, "a detector: {apart:e}");
}

/// What a rank in a process of its own is to do: the name of a variable, which holds a folder.
const RANK: &str = "SECATEURS_TEST_RANK";

/// A rank in a process of its own, for the tests below; by itself it does nothing.
#[test]
fn a_rank_that_another_test_has_started() {
    let Some(folder) = env::var_os(RANK) else { return };
    let folder = Path::new(&folder);
    let launched = Launched::here().unwrap().unwrap();
    let ranks = Ranks::over_gpus(&launched, || Ok((open_nccl()?, open_cuda(0)?))).unwrap();
    // An endless training waits for the others at every normalisation, too.
    let endless = folder.join("endless").exists();
    let (model, set) = (classifier(endless), pictures(folder, 15, SIDE, true));
    let epochs = if endless { 100_000 } else { 3 };
    let config = FitConfig { ranks: ranks.clone(), epochs, sync_batch_norm: endless, ..config(SIDE) };
    let mut report = |event: FitEvent| {
        if let FitEvent::Step { at: At { step: 0, .. }, .. } = event {
            std::fs::write(folder.join(format!("began-{}", ranks.rank())), "").unwrap();
        }
    };
    let ended = fit(&model, None, &set, &config, &on_cuda(false), &mut report);
    match ended {
        Ok(trained) => {
            let path = folder.join(format!("{}.safetensors", ranks.rank()));
            std::fs::write(path, model::to_bytes(&trained).unwrap()).unwrap();
            ranks.rest().unwrap();
        }
        Err(error) => {
            std::fs::write(folder.join(format!("error-{}", ranks.rank())), error.to_string()).unwrap();
            ranks.abort(1);
        }
    }
}

/// Processes as `torchrun` starts them.
fn processes(size: usize, folder: &Path) -> Vec<Child> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = 12_000 + (std::process::id() % 20_000) as u16 + NEXT.fetch_add(1, Ordering::Relaxed);
    let name = module_path!().split_once("::").unwrap().1.to_owned() + "::a_rank_that_another_test_has_started";
    let start = |rank: usize| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([&name, "--exact", "--nocapture"]).env(RANK, folder);
        let numbers = [("WORLD_SIZE", size), ("RANK", rank), ("LOCAL_RANK", rank)];
        command.envs(numbers.map(|(name, number)| (name, number.to_string())));
        command.env(MEETING, format!("127.0.0.1:{port}"));
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    (0..size).map(start).collect()
}

#[test]
fn processes_that_only_nccl_connects_train_the_same_weights() {
    if emulated::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, set) = (classifier(false), pictures(folder.path(), 15, SIDE, true));
    let alone = trained(1, &model, &set, &config(SIDE), on_cuda(false));
    let ended: Vec<bool> =
        processes(2, folder.path()).into_iter().map(|mut rank| rank.wait().unwrap().success()).collect();
    assert_eq!(ended, [true; 2]);
    let all = [0, 1].map(|rank| {
        let path = folder.path().join(format!("{rank}.safetensors"));
        model::load(&path).unwrap().weights
    });
    assert!(all[0] == all[1], "ranks end with different weights");
    let apart = distance(&all[0], &alone);
    assert!(apart < 1e-5, "{apart:e}");
}

#[test]
fn a_rank_that_is_killed_ends_the_others_with_its_name() {
    if emulated::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("endless"), "").unwrap();
    // What the ranks read is there before they begin.
    pictures(folder.path(), 15, SIDE, true);
    let mut ranks = processes(3, folder.path());
    let started = Instant::now();
    while !(0..3).all(|rank| folder.path().join(format!("began-{rank}")).exists()) {
        assert!(started.elapsed() < Duration::from_secs(300), "no rank begins");
        std::thread::sleep(Duration::from_millis(20));
    }
    let started = Instant::now();
    ranks[1].kill().unwrap();
    for rank in [0, 2, 1] {
        ranks[rank].wait().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(60), "ended after {:?}", started.elapsed());
    let errors = [0, 2].map(|rank| std::fs::read_to_string(folder.path().join(format!("error-{rank}"))).unwrap());
    assert_eq!(errors, ["rank 1 has ended"; 2].map(str::to_owned));
}
