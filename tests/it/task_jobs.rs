//! The whole job of every task on the embedded demo of that task, and the commands around it.

use assert_cmd::Command;
use secateurs::graph::Graph;
use secateurs::model::{self, Info, Model};
use secateurs::train;
use secateurs::zoo::{Task, yolo11, yolo26, yolov8};
use serde_json::Value;
use std::path::Path;

/// Runs the worker; gives its exit code and what it printed.
fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_secateurs")).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

/// `prune` of the demo of a task, small and to a budget that needs no clock.
fn prune(folder: &Path, task: &str, flags: &[&str]) -> (Value, String) {
    let [out, cache] = [task, "cache"].map(|name| folder.join(name).display().to_string());
    let model = format!("demo:{task}");
    let fixed = ["prune", "--model", &model, "--data", "drawn:32", "--calibration-images", "32", "--cache", &cache];
    let (code, text) = run(&[&fixed[..], &["--out", &out], flags].concat());
    assert_eq!(code, 0, "{task}: {text}");
    let report = std::fs::read(folder.join(task).join("report.json")).unwrap();
    (serde_json::from_slice(&report).unwrap(), text)
}

/// Half the parameters: the report tells the figures of what the task judges, and of the boxes beside it.
fn check(task: &str, metric: Option<&str>, boxes: bool, params: usize, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let params = params.to_string();
    let profile = folder.path().join("host.toml");
    std::fs::write(&profile, "[budget]\nmin-map = 0.01\nmax-map-drop = 0.9\n").unwrap();
    let profile = profile.display().to_string();
    let flags = ["--profile", &profile, "--params", &params, "--epochs", "1", "--floor", "disc=0.01"];
    let (report, text) = prune(folder.path(), task, &flags);
    let before = report["uncut"]["params"].as_u64().unwrap();
    for stage in ["uncut", "cut", "repaired", "tuned"] {
        let stage = &report[stage];
        assert_eq!(stage["metric"].as_str(), metric, "{stage}");
        let figures = if metric.is_some() || task == "detect" { "map50_95" } else { "accuracy" };
        assert!((0.0..=1.0).contains(&stage[figures].as_f64().unwrap()), "{stage}");
        assert!(stage["per_class"]["disc"].is_number() && stage["recall"]["disc"].is_number(), "{stage}");
        let of_boxes = &stage["boxes"];
        assert_eq!(of_boxes["map50_95"].is_number() && of_boxes["per_class"]["disc"].is_number(), boxes, "{stage}");
    }
    // A model that has learned the task, not noise.
    let score = |stage: &str| report[stage]["map50_95"].as_f64().or(report[stage]["accuracy"].as_f64()).unwrap();
    assert!(score("uncut") > if task == "classify" { 0.45 } else { 0.12 }, "{report}");
    assert!(score("repaired") >= score("cut") - 0.02, "repair must not hurt: {} {}", report["repaired"], report["cut"]);
    assert!(report["tuned"]["params"].as_u64().unwrap() < before);
    assert!(text.contains(&format!("{name} ")), "{text}");
    let sentences = report["verdict"]["sentences"].as_array().unwrap();
    let said = |words: &str| sentences.iter().filter(|s| s.as_str().unwrap().contains(words)).count();
    assert_eq!((said(&format!("{name} ")), said("recall of disc")), (2, 1), "{sentences:?}");
    assert_eq!(report["photos"].as_array().unwrap().is_empty(), task == "classify");
    let page = std::fs::read_to_string(folder.path().join(task).join("report.html")).unwrap();
    assert!(page.contains(&format!("{name} of every class")), "{task}");
    assert_eq!(page.contains("box mAP50-95 of every class"), boxes, "{task}");

    // The model that ships is judged by the other commands alike.
    let shipped = folder.path().join(task).join("model.safetensors");
    assert_eq!(model::load(&shipped).unwrap().graph.head.task(), task);
    let data = std::fs::read_dir(folder.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
    let data = data.filter(|path| path.is_dir()).find(|path| path.display().to_string().contains("drawn")).unwrap();
    let data = if task == "classify" { data } else { data.join("data.yaml") };
    let (shipped, data) = (shipped.display().to_string(), data.display().to_string());
    let (code, text) = run(&["eval", "--model", &shipped, "--data", &data, "--json"]);
    assert_eq!(code, 0, "{text}");
    let found: Value = serde_json::from_str(&text[text.find('{').unwrap()..=text.rfind('}').unwrap()]).unwrap();
    let shapes = found["shapes"]["map50_95"].as_f64();
    let again = shapes.or(found["map50_95"].as_f64()).or(found["accuracy"].as_f64()).unwrap();
    assert!((again - score("tuned")).abs() < 5e-3, "{again} {}", report["tuned"]);
}

#[test]
fn masks_go_through_the_whole_job() {
    check("segment", Some("masks"), true, 200_000, "mask mAP50-95");
}

#[test]
fn keypoints_go_through_the_whole_job() {
    check("pose", Some("keypoints"), true, 170_000, "keypoint mAP50-95");
}

#[test]
fn rotated_boxes_go_through_the_whole_job() {
    check("obb", Some("rotated"), false, 170_000, "rotated mAP50-95");
}

#[test]
fn classes_go_through_the_whole_job() {
    check("classify", None, false, 250_000, "accuracy");
}

#[test]
fn masks_ship_in_int8_and_by_gradients_of_their_loss() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--params", "200000", "--epochs", "0", "--dtype", "int8", "--importance", "taylor", "--imgsz", "96"];
    let (report, _) = prune(folder.path(), "segment", &flags);
    let map = |stage: &Value| stage["map50_95"].as_f64().unwrap();
    assert!(map(&report["rounded"]) > map(&report["repaired"]) - 0.05, "{report}");
    assert_eq!(report["rounded"]["metric"], "masks");
    assert!(report["controls"]["uncut + int8"]["boxes"]["map50_95"].is_number(), "{report}");
}

/// Fresh weights find nothing: what is judged is that every family goes through every stage, training and teacher included,
/// with its own conventions (YOLO26: plain distances, keypoints and angles, and the branch without suppression).
#[test]
fn every_family_goes_through_the_job_of_its_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let (pose, segment) = (Task::Pose { keypoints: 4, dims: 3 }, Task::Segment { masks: 8 });
    let direct = yolo11::Scale { depth: 0.5, width: 0.0625, max_channels: 512, c3k_everywhere: false };
    let dense = yolov8::Scale { depth: 0.33, width: 0.0625, max_channels: 512 };
    let cases: [(&str, Graph); 6] = [
        ("yolo26-seg", yolo26::network(direct, segment, 3).unwrap()),
        ("yolo26-pose", yolo26::network(direct, pose, 3).unwrap()),
        ("yolo26-obb", yolo26::network(direct, Task::Obb, 3).unwrap()),
        ("yolov8-seg", yolov8::network(dense, segment, 3).unwrap()),
        ("yolov8-pose", yolov8::network(dense, pose, 3).unwrap()),
        ("yolov8-obb", yolov8::network(dense, Task::Obb, 3).unwrap()),
    ];
    for (number, (name, graph)) in cases.into_iter().enumerate() {
        let (task, weights) = (graph.head.task(), train::init(&graph, 5));
        let names = ["disc", "square", "triangle"].map(str::to_owned).to_vec();
        let model = Model::new(graph, weights, Info { names, imgsz: Some(64.into()), ..Info::default() }).unwrap();
        let deployed = model.deployed(None).unwrap();
        let params: usize = deployed.graph.params().iter().map(|p| p.shape.iter().product::<usize>()).sum();
        let [file, out, cache] = [format!("{name}.safetensors"), name.to_owned(), "cache".to_owned()]
            .map(|name| folder.path().join(name).display().to_string());
        model::save(&model, Path::new(&file)).unwrap();
        let params = (params * 8 / 10).to_string();
        let criterion = ["taylor", "reconstruction"][number % 2];
        let flags = ["--data", "drawn:8", "--calibration-images", "8", "--epochs", "1", "--importance", criterion];
        let fixed = ["prune", "--model", &file, "--params", &params, "--out", &out, "--cache", &cache];
        let (code, text) = run(&[&fixed[..], &flags].concat());
        assert_eq!(code, 0, "{name}: {text}");
        let report = std::fs::read(folder.path().join(name).join("report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        let of = |stage: &str| report[stage]["params"].as_u64().unwrap();
        assert!(of("tuned") < of("uncut") && report["tuned"]["metric"].is_string(), "{name}: {report}");
        let pruned = model::load(&folder.path().join(name).join("model.safetensors")).unwrap();
        assert_eq!(pruned.graph.head.task(), task);
    }
}

#[test]
fn criteria_are_compared_by_the_metric_of_the_task() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    for (task, metric, imgsz) in [("obb", "rotated mAP50-95", "96"), ("classify", "accuracy", "28")] {
        let (out, model) = (place(task), format!("demo:{task}"));
        let (code, text) = run(&[
            "compare",
            "--model",
            &model,
            "--data",
            "drawn:16",
            "--latency-ratio",
            "0.9",
            "--importance",
            "l1-uniform",
            "--repair",
            "lsq",
            "--imgsz",
            imgsz,
            "--out",
            &out,
        ]);
        assert_eq!(code, 0, "{text}");
        let found = std::fs::read(folder.path().join(task).join("compare.json")).unwrap();
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(found["metric"], metric);
        let baseline = &found["uncut"];
        let of = |key: &str| baseline[key].as_f64().unwrap();
        assert!(of("low") <= of("map50_95") + 0.05 && of("map50_95") <= of("high") + 0.05, "{baseline}");
        assert!(text.contains(metric), "{text}");
        let page = std::fs::read_to_string(folder.path().join(task).join("compare.html")).unwrap();
        assert!(page.contains(metric), "{task}");
    }
}

#[test]
fn a_demo_that_is_none_and_data_of_another_task_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let refused = |flags: &[&str]| {
        let (code, text) = run(&[&["prune", "--params", "100000", "--dry-run", "--out", &place("x")], flags].concat());
        assert_ne!(code, 0, "{text}");
        text
    };
    let text = refused(&["--model", "demo:depth"]);
    assert!(text.contains("demo:segment") && text.contains("demo:classify"), "{text}");
    // Boxes are no outlines, whatever the model.
    let (set, _) = secateurs::data::demo::ensure(&folder.path().join("boxes"), 4, 2).unwrap();
    let text = refused(&["--model", "demo:segment", "--data", &set.display().to_string()]);
    assert!(text.contains("the task is `segment`") && text.contains(".txt:1"), "{text}");
    // Other keypoints than the model's.
    let task = secateurs::data::LabelTask::Pose;
    let (set, _) = secateurs::data::demo::ensure_for(task, &folder.path().join("points"), 4, 2).unwrap();
    let described = std::fs::read_to_string(&set).unwrap().replace("[4, 3]", "[2, 3]");
    std::fs::write(&set, described.replace("[2, 1, 0, 3]", "[1, 0]")).unwrap();
    for (split, count) in [("train", 4), ("val", 2)] {
        for number in 0..count {
            let file = folder.path().join(format!("points/labels/{split}/{number:05}.txt"));
            std::fs::write(file, "0 0.5 0.5 0.4 0.4 0.4 0.5 2 0.6 0.5 2\n").unwrap();
        }
    }
    let text = refused(&["--model", "demo:pose", "--data", &set.display().to_string()]);
    assert!(text.contains("2 keypoints") && text.contains("both must agree"), "{text}");
}
