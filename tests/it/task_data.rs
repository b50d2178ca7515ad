//! Labels of every task, pictures in a folder per class, and models that are judged on them.

use secateurs::data::{Dataset, LabelTask, OpenOptions, Shapes, demo};
use secateurs::detector::{Detail, Detector};
use secateurs::engine::Options;
use secateurs::eval::{Answers, Metric, Score, Validator, accuracy, evaluate_task};
use secateurs::model::{Info, Model, Tensor};
use secateurs::train::init;
use secateurs::vision::{Image, NmsOptions};
use secateurs::zoo::{Task, yolo11};
use std::fs;
use std::path::Path;

fn picture(seed: usize, width: usize, height: usize) -> Image {
    Image::new(width, height, (0..3 * width * height).map(|i| ((i * 31 + seed * 7919) % 253) as u8).collect())
}

fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Opens the validation split of a set with one image and this label file.
fn open(folder: &Path, task: LabelTask, yaml: &str, labels: &str) -> Result<Dataset, String> {
    put(folder, "images/val/a.png", []);
    picture(1, 64, 64).save(&folder.join("images/val/a.png")).unwrap();
    put(folder, "labels/val/a.txt", labels);
    put(folder, "data.yaml", format!("val: images/val\nnames: [x, y]\n{yaml}"));
    let options = OpenOptions { task, ..OpenOptions::default() };
    Dataset::open_with(&folder.join("data.yaml"), "val", &options).map_err(|e| e.to_string())
}

const OUTLINE: &str = "1 0.25 0.25 0.75 0.25 0.5 0.75\n";
const CORNERS: &str = "0 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n";
const POSE: &str = "0 0.5 0.5 0.5 0.5 0.5 0.25 2 0 0 0\n";
const SHAPE: &str = "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n";

#[test]
fn labels_are_those_of_the_task_or_are_told_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let shapes = |task, yaml: &str, labels: &str| open(path, task, yaml, labels).unwrap().items[0].shapes.clone();
    assert_eq!(shapes(LabelTask::Detect, "", OUTLINE), Shapes::None);
    let outline = vec![[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]];
    assert_eq!(shapes(LabelTask::Segment, "", OUTLINE), Shapes::Outlines(vec![outline]));
    let corners = [[0.5, 0.25], [0.75, 0.5], [0.5, 0.75], [0.25, 0.5]];
    assert_eq!(shapes(LabelTask::Obb, "", &(CORNERS.to_owned() + CORNERS)), Shapes::Corners(vec![corners]));
    let points = vec![vec![[0.5, 0.25, 2.0], [0.0; 3]]];
    let set = open(path, LabelTask::Pose, SHAPE, POSE).unwrap();
    assert_eq!(set.items[0].shapes, Shapes::Keypoints(points));
    assert_eq!(set.keypoints.unwrap().flip, Some(vec![1, 0]));
    assert_eq!((set.items[0].labels[0].cx, set.items[0].labels[0].w), (0.5, 0.5));

    let said = |task, yaml: &str, labels: &str| open(path, task, yaml, labels).unwrap_err();
    let place = path.join("labels/val/a.txt");
    let wrong = |line: usize| format!("{}:{line}: ", place.display());
    let error = said(LabelTask::Segment, "", &(OUTLINE.to_owned() + "0 .5 .5 .1 .1\n"));
    assert!(error.starts_with(&wrong(2)) && error.contains("the task is `segment`"), "{error}");
    let error = said(LabelTask::Obb, "", OUTLINE);
    assert!(error.starts_with(&wrong(1)) && error.contains("the task is `obb`"), "{error}");
    let error = said(LabelTask::Pose, SHAPE, CORNERS);
    assert!(error.starts_with(&wrong(1)) && error.contains("expected 10 (a box and 2 keypoints"), "{error}");
    assert!(said(LabelTask::Pose, "", POSE).contains("has no `kpt_shape`"));
    for (yaml, expected) in [
        ("kpt_shape: [2]\n", "`kpt_shape` is [2]"),
        ("kpt_shape: [2, 4]\n", "`kpt_shape` is [2, 4]"),
        ("kpt_shape: [2, 3]\nflip_idx: [0, 0]\n", "`flip_idx` is [0, 0], expected every number from 0 to 1 once"),
    ] {
        assert!(said(LabelTask::Pose, yaml, POSE).contains(expected), "{yaml}");
    }
}

#[test]
fn a_folder_per_class_is_a_classified_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (seed, name) in ["train/dog/1", "train/cat/1", "train/cat/deep/2", "validation/cat/1"].into_iter().enumerate() {
        put(path, &format!("{name}.jpg"), picture(seed, 16, 16).jpeg(90).unwrap());
    }
    let train = Dataset::open(path, "train").unwrap();
    assert_eq!((train.names, train.items.len()), (vec!["cat".to_owned(), "dog".into()], 3));
    let classes: Vec<Option<usize>> = train.items.iter().map(|item| item.class()).collect();
    assert_eq!(classes, [Some(0), Some(0), Some(1)]);
    let val = Dataset::open(path, "val").unwrap();
    assert_eq!(val.items.len(), 1);
    assert_eq!(val.notes, ["1 of 2 classes have no picture in `val` (the first: dog)"]);
    // The split that is not there is the other one, and that is said.
    let test = Dataset::open(path, "test").unwrap();
    assert!(test.items == val.items && test.notes[0].contains("`val` stands in for it"), "{:?}", test.notes);

    put(path, "val/bird/1.jpg", picture(9, 16, 16).jpeg(90).unwrap());
    let error = Dataset::open(path, "val").unwrap_err().to_string();
    assert!(error.contains("val/bird: is no class of `train`, which has 2 classes"), "{error}");
    fs::remove_dir_all(path.join("val/bird")).unwrap();
    let error = Dataset::open(path, "val").unwrap_err().to_string();
    assert!(error.contains("split `val` has no images"), "{error}");
    fs::remove_dir_all(path.join("val")).unwrap();
    fs::remove_dir_all(path.join("validation")).unwrap();
    let error = Dataset::open(path, "val").unwrap_err().to_string();
    assert!(error.contains("has no folder of the split `val`; looked for `val`, `valid`, `validation`"), "{error}");

    // A classifier is judged on it.
    let scale = yolo11::Scale { depth: 0.34, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let graph = yolo11::network(scale, Task::Classify, 2).unwrap();
    let weights = init(&graph, 3);
    let model = Model::new(graph, weights, Info { imgsz: Some(32.into()), ..Info::default() }).unwrap();
    let result = accuracy(&model, &Dataset::open(path, "train").unwrap(), 32, 1, &|_| {}).unwrap();
    assert_eq!((result.images, result.top5), (3, 1.0));
}

/// A model with random weights.
fn model(task: Task, nc: usize) -> Model {
    let scale = yolo11::Scale { depth: 0.34, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let graph = yolo11::network(scale, task, nc).unwrap();
    let mut weights = init(&graph, 7);
    // Boxes of about two cells.
    let bias: Vec<f32> = (0..64).map(|bin| if bin % 16 == 1 { 8.0 } else { 0.0 }).collect();
    for level in 0..3 {
        weights.insert(format!("model.23.cv2.{level}.2.bias"), Tensor::new(vec![64], bias.clone()));
    }
    Model::new(graph, weights, Info { imgsz: Some(64.into()), ..Info::default() }).unwrap()
}

/// What a model itself is surest of is labelled: then it finds that first, and all else is wrong.
#[test]
fn rotated_boxes_that_are_found_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = model(Task::Obb, 2);
    let mut detector = Detector::new(&model, 64, &Options::default()).unwrap();
    detector.options = NmsOptions::EVALUATION;
    let found = detector.detect(&picture(1, 64, 64)).unwrap();
    let inside = found.iter().find_map(|object| {
        let Detail::Rotated(bbox) = &object.detail else { panic!("{object:?}") };
        let corners = bbox.corners();
        let all = corners.iter().flatten().all(|v| (0.0..64.0).contains(v));
        all.then_some((object.detection.class, corners))
    });
    let (class, corners) = inside.unwrap();
    let line: Vec<String> = corners.iter().flatten().map(|v| (v / 64.0).to_string()).collect();
    let labels = format!("{class} {}\n", line.join(" "));
    let set = open(path, LabelTask::Obb, "", &labels).unwrap();
    let result = evaluate_task(&model, &set, 64, 2, &|_| {}).unwrap();
    assert!(result.boxes.is_none() && result.per_class.len() == 1, "{result:?}");
    // How many were surer than the labelled ones, outside the picture, is the model's own; found they are in any case.
    assert!(result.shapes.map50_95 > 0.0 && result.shapes.map50_95_ultralytics > 0.0, "{result:?}");
    // A quarter turn and a shift away nothing is found.
    let set = open(path, LabelTask::Obb, "", "0 0 0 0.004 0 0.004 0.004 0 0.004\n").unwrap();
    assert_eq!(evaluate_task(&model, &set, 64, 1, &|_| {}).unwrap().shapes.map50_95, 0.0);
    let other = open(path, LabelTask::Segment, "", OUTLINE).unwrap();
    let error = evaluate_task(&model, &other, 64, 1, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("a.png are not those of the model's task, `obb`"), "{error}");
}

#[test]
fn masks_and_keypoints_are_judged_beside_their_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (task, kind, yaml, labels) in [
        (Task::Segment { masks: 4 }, LabelTask::Segment, "", OUTLINE),
        (Task::Pose { keypoints: 2, dims: 3 }, LabelTask::Pose, SHAPE, POSE),
    ] {
        let set = open(path, kind, yaml, labels).unwrap();
        let result = evaluate_task(&model(task, 2), &set, 64, 1, &|_| {}).unwrap();
        let boxes = result.boxes.unwrap();
        for figures in [boxes, result.shapes] {
            assert!((0.0..=1.0).contains(&figures.map50_95) && figures.map50 >= figures.map50_95, "{result:?}");
        }
        assert_eq!((result.images, result.per_class.len()), (1, 1));
    }
}

/// A validator says of every task what the task's own evaluation says, and how sure the figure is.
#[test]
fn one_validator_judges_every_task() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let set = open(path, LabelTask::Segment, "", OUTLINE).unwrap();
    let masks = model(Task::Segment { masks: 4 }, 2);
    let validator = Validator::new(&masks.graph.head, &set, 64.into()).unwrap();
    let found = validator.find(&masks, 1, &|_| {}).unwrap();
    let score = validator.score(&found).unwrap();
    assert_eq!(score, Score::Shapes(evaluate_task(&masks, &set, 64, 1, &|_| {}).unwrap()));
    assert_eq!((score.metric(), score.metric().name()), (Metric::Masks, "mask mAP50-95"));
    // Of a single image every resample is that image.
    let interval = validator.interval(&found, None, 10, 1).unwrap();
    assert!((interval.low - score.figure()).abs() < 1e-9 && interval.deviation < 1e-9, "{interval:?} {score:?}");
    let apart = validator.interval(&found, Some(&found), 10, 1).unwrap();
    assert_eq!((apart.low, apart.high), (0.0, 0.0));
    // A model or answers of another task are refused.
    let error = validator.find(&model(Task::Obb, 2), 1, &|_| {}).err().unwrap().to_string();
    assert!(error.contains("`obb`") && error.contains("expected `segment`"), "{error}");
    assert!(validator.score(&Answers::Classes(Vec::new())).is_err());

    let classes = demo::ensure_for(LabelTask::Classify, &path.join("classes"), 6, 6).unwrap().0;
    let set = Dataset::open(&classes, "val").unwrap();
    let names: Vec<usize> = set.items.iter().map(|item| item.class().unwrap()).collect();
    assert_eq!((set.names.len(), names), (3, vec![0, 0, 1, 1, 2, 2]));
    let scale = yolo11::Scale { depth: 0.34, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let graph = yolo11::network(scale, Task::Classify, 3).unwrap();
    let weights = init(&graph, 3);
    let classifier = Model::new(graph, weights, Info::default()).unwrap();
    let validator = Validator::new(&classifier.graph.head, &set, 32.into()).unwrap();
    let found = validator.find(&classifier, 2, &|_| {}).unwrap();
    let right = validator.score(&found).unwrap().figure();
    let interval = validator.interval(&found, None, 200, 1).unwrap();
    assert!(interval.low <= right && right <= interval.high, "{right} {interval:?}");
    assert_eq!(accuracy(&classifier, &set, 32, 1, &|_| {}).unwrap().accuracy, right);
}
