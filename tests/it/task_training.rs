//! Segmenting, keypoints and rotated boxes are learned from drawn pictures, and labels of another task are refused.

use secateurs::data::{Dataset, LabelTask, OpenOptions, demo};
use secateurs::model::{Info, Model};
use secateurs::train::Device;
use secateurs::train::{FitConfig, FitEvent, Terms, fit, init};
use secateurs::zoo::{Task, yolo11};
use std::path::Path;

fn drawn(folder: &Path, task: LabelTask) -> Dataset {
    let (yaml, _) = demo::ensure_for(task, &folder.join(format!("{task:?}")), 24, 1).unwrap();
    Dataset::open_with(&yaml, "train", &OpenOptions { task, ..OpenOptions::default() }).unwrap()
}

fn model(task: Task) -> Model {
    let scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let graph = yolo11::network(scale, task, 3).unwrap();
    let weights = init(&graph, 3);
    Model::new(graph, weights, Info::default()).unwrap()
}

fn config() -> FitConfig {
    FitConfig { epochs: 40, batch: 4, imgsz: 96.into(), lr: 4e-3, mosaic_until: 1, threads: 2, ..FitConfig::default() }
}

/// The terms of every epoch.
fn terms(model: &Model, teacher: Option<&Model>, set: &Dataset) -> Result<Vec<Terms>, String> {
    let mut all = Vec::new();
    let mut progress = |event| {
        if let FitEvent::Epoch { terms, .. } = event {
            all.push(terms);
        }
    };
    fit(model, teacher, set, &config(), &Device::Cpu, &mut progress).map_err(|e| e.to_string())?;
    Ok(all)
}

#[test]
fn every_task_is_learned_and_other_labels_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        (LabelTask::Segment, Task::Segment { masks: 8 }),
        (LabelTask::Pose, Task::Pose { keypoints: 4, dims: 3 }),
        (LabelTask::Obb, Task::Obb),
    ];
    for (labels, task) in kinds {
        let set = drawn(folder.path(), labels);
        let found = terms(&model(task), None, &set).unwrap();
        // It first rises: while no cell fits an object, hardly any loss is assigned.
        let most = |of: fn(&Terms) -> f64| found.iter().map(of).fold(0.0, f64::max);
        let last = found[found.len() - 1];
        assert!(last.sum() < 0.85 * most(Terms::sum), "{task:?}: {found:?}");
        assert!(last.task > 0.0 && last.task < 0.95 * most(|terms| terms.task), "{task:?}: {found:?}");
        let other = drawn(folder.path(), LabelTask::Detect);
        let error = terms(&model(task), None, &other).unwrap_err();
        assert!(error.contains("are not those of it"), "{error}");
    }
    // A teacher of the same head teaches boxes and classes.
    let (student, teacher) = (model(Task::Obb), model(Task::Obb));
    let found = terms(&student, Some(&teacher), &drawn(folder.path(), LabelTask::Obb)).unwrap();
    assert!(found.iter().all(|terms| terms.distill.is_finite()), "{found:?}");
}

#[test]
fn drawn_labels_are_the_same_pictures_and_exact() {
    let folder = tempfile::tempdir().unwrap();
    let boxes = demo::draw(5, 9, 96);
    for task in [LabelTask::Segment, LabelTask::Pose] {
        let (image, labels, _) = demo::draw_for(task, 5, 9, 96);
        assert_eq!((image, labels), boxes, "{task:?}");
    }
    for (labels, objects) in [(LabelTask::Segment, 24), (LabelTask::Pose, 24), (LabelTask::Obb, 24)] {
        let set = drawn(folder.path(), labels);
        assert_eq!(set.items.len(), objects);
        assert!(set.notes.is_empty(), "{labels:?}: {:?}", set.notes);
        // A set that is there is not drawn again; one with other labels is another set.
        let place = folder.path().join(format!("{labels:?}"));
        assert_eq!(demo::ensure_for(labels, &place, 24, 1).unwrap().1, 0);
        assert!(demo::ensure(&place, 24, 1).unwrap_err().to_string().contains("something else"));
    }
}
