//! Training that several ranks share gives what one gives: the same bits on one, two and four ranks. The ranks are
//! threads here; `.ci/mpi` does the same with processes.

use secateurs::data::{Dataset, LabelTask, OpenOptions, demo};
use secateurs::eval::Validator;
use secateurs::model::{Info, Model, Weights};
use secateurs::ranks::{Ranks, on_threads};
use secateurs::train::{At, Device, FitConfig, FitEvent, HoldOut, Int8Epochs, Stop, TrainError, fit, init};
use secateurs::zoo::{Task, yolo11, yolo26};
use std::path::Path;

fn drawn(folder: &Path, task: LabelTask, images: usize) -> Dataset {
    let (yaml, _) = demo::ensure_for(task, &folder.join(format!("{task:?}")), images, 1).unwrap();
    Dataset::open_with(&yaml, "train", &OpenOptions { task, ..OpenOptions::default() }).unwrap()
}

const SCALE: yolo11::Scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };

fn model(graph: secateurs::graph::Graph) -> Model {
    let weights = init(&graph, 3);
    Model::new(graph, weights, Info::default()).unwrap()
}

fn config() -> FitConfig {
    FitConfig { epochs: 2, batch: 6, imgsz: 64.into(), lr: 4e-3, mosaic_until: 1, threads: 1, ..FitConfig::default() }
}

/// The weights that so many ranks train, which must be the same on all of them.
fn trained(size: usize, student: &Model, teacher: Option<&Model>, set: &Dataset, config: &FitConfig) -> Weights {
    let run = |ranks| {
        let config = FitConfig { ranks, ..config.clone() };
        fit(student, teacher, set, &config, &Device::Cpu, &mut |_| {}).unwrap().weights
    };
    let mut all = on_threads(size, run);
    assert!(all.iter().all(|weights| *weights == all[0]), "{size} ranks end with different weights");
    all.swap_remove(0)
}

/// The distance of all weights from others, by the length of these.
fn distance(found: &Weights, wanted: &Weights) -> f64 {
    let pairs = || found.iter().flat_map(|(key, tensor)| tensor.data().iter().zip(wanted[key].data()));
    let length = |square: f64, value: f64| square + value * value;
    let apart = pairs().map(|(a, b)| f64::from(a - b)).fold(0.0, length);
    (apart / pairs().map(|(_, b)| f64::from(*b)).fold(0.0, length)).sqrt()
}

#[test]
fn one_two_and_four_ranks_train_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    // Four batches of five or six images an epoch, 20 steps.
    let set = drawn(folder.path(), LabelTask::Detect, 22);
    let student = model(yolo11::network(SCALE, Task::Detect, 3).unwrap());
    let config = FitConfig { epochs: 5, ..config() };
    let alone = trained(1, &student, None, &set, &config);
    assert!(distance(&alone, &student.weights) > 1e-3, "nothing was learned");
    for size in [2, 4] {
        assert!(trained(size, &student, None, &set, &config) == alone, "{size} ranks");
    }
    let int8 = FitConfig { epochs: 2, int8: Int8Epochs { epochs: 1, ..Int8Epochs::default() }, ..config.clone() };
    assert!(trained(2, &student, None, &set, &int8) == trained(1, &student, None, &set, &int8), "for int8");
    // Sums of three ranks are rounded in another order.
    let short = FitConfig { epochs: 1, hold_out: HoldOut::Share(0.125), ..config };
    let apart = distance(&trained(3, &student, None, &set, &short), &trained(1, &student, None, &set, &short));
    assert!(apart < 1e-5, "{apart:e}");
}

#[test]
fn ranks_share_every_task_and_a_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        (LabelTask::Segment, Task::Segment { masks: 8 }),
        (LabelTask::Pose, Task::Pose { keypoints: 4, dims: 3 }),
        (LabelTask::Obb, Task::Obb),
        (LabelTask::Classify, Task::Classify),
    ];
    for (labels, task) in kinds {
        let set = drawn(folder.path(), labels, 11);
        let mosaic_until = if labels == LabelTask::Classify { 0 } else { 1 };
        let config = FitConfig { mosaic_until, ..config() };
        let student = model(yolo11::network(SCALE, task, 3).unwrap());
        let teacher = Some(&student).filter(|_| labels != LabelTask::Pose);
        let apart =
            distance(&trained(2, &student, teacher, &set, &config), &trained(1, &student, teacher, &set, &config));
        assert!(apart == 0.0, "{labels:?}: {apart:e}");
    }
}

#[test]
fn ranks_share_an_evaluation_and_find_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        (LabelTask::Detect, Task::Detect),
        (LabelTask::Segment, Task::Segment { masks: 8 }),
        (LabelTask::Pose, Task::Pose { keypoints: 4, dims: 3 }),
        (LabelTask::Obb, Task::Obb),
        (LabelTask::Classify, Task::Classify),
    ];
    for (labels, task) in kinds {
        let set = drawn(folder.path(), labels, 7);
        let network = model(yolo11::network(SCALE, task, 3).unwrap());
        let judge = |ranks: Ranks| {
            let validator = Validator::shared(&network.graph.head, &set, 64.into(), &ranks).unwrap();
            assert_eq!(validator.len(), 7);
            let found = validator.find(&network, 2, &|_| {}).unwrap();
            let boxes = found.boxes().to_vec();
            (validator.score(&found).unwrap(), boxes)
        };
        let alone = on_threads(1, judge).remove(0);
        for size in [2, 4] {
            assert!(on_threads(size, judge).iter().all(|found| *found == alone), "{labels:?} on {size} ranks");
        }
    }
}

#[test]
fn a_checkpoint_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let set = drawn(folder.path(), LabelTask::Detect, 12);
    let student = model(yolo26::network(SCALE, Task::Detect, 3).unwrap());
    let whole = trained(2, &student, None, &set, &FitConfig { epochs: 3, ..config() });
    let checkpoint = Some(folder.path().join("checkpoint"));
    // One of two ranks is asked to stop after the first step of the second epoch; both do.
    let ended = on_threads(2, |ranks| {
        let stop = Stop::default();
        let config = FitConfig {
            epochs: 3,
            checkpoint: checkpoint.clone(),
            stop: stop.clone(),
            ranks: ranks.clone(),
            ..config()
        };
        let mut progress = |event| {
            if let FitEvent::Step { at: At { epoch: 1, step: 0, .. }, .. } = event {
                assert!(ranks.is_first() || stop.request(15));
            }
        };
        fit(&student, None, &set, &config, &Device::Cpu, &mut progress).map(drop)
    });
    for (rank, ended) in ended.iter().enumerate() {
        let Err(TrainError::Interrupted { signal: 15, at: At { epoch: 1, step: 0, .. }, saved }) = ended else {
            panic!("rank {rank}: {ended:?}")
        };
        assert_eq!(*saved, rank == 0);
    }
    let config = FitConfig { epochs: 3, checkpoint, ..config() };
    assert!(trained(4, &student, None, &set, &config) == whole);
}

#[test]
fn ranks_without_images_are_refused_and_a_failing_rank_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let set = drawn(folder.path(), LabelTask::Detect, 8);
    let student = model(yolo11::network(SCALE, Task::Detect, 3).unwrap());
    let run = |ranks: Ranks, set: &Dataset, batch| {
        let config = FitConfig { batch, ranks, ..config() };
        fit(&student, None, set, &config, &Device::Cpu, &mut |_| {}).map(drop).unwrap_err().to_string()
    };
    for text in on_threads(3, |ranks| run(ranks, &set, 2)) {
        assert!(text.contains("batches of 2 images, which cannot be shared by 3 ranks"), "{text}");
    }
    // A rank whose machine has another dataset.
    let mut other = set.clone();
    other.items[3].labels[0].w *= 0.5;
    for text in on_threads(2, |ranks| if ranks.is_first() { run(ranks, &set, 4) } else { run(ranks, &other, 4) }) {
        assert!(text.contains("rank 1 has other inputs than rank 0"), "{text}");
    }
    // Images that only one rank cannot read.
    let mut other = set.clone();
    for item in &mut other.items {
        let name = item.image.display().to_string();
        item.image = folder.path().join(name.rsplit('/').next().unwrap()).into();
    }
    let ended = on_threads(2, |ranks| if ranks.is_first() { run(ranks, &set, 4) } else { run(ranks, &other, 4) });
    assert!(ended[0].contains("rank 1 has ended") && ended[1].contains(".png"), "{ended:?}");
}
