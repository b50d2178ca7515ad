//! What the commands say about data that is doubtful, and with which exit code they end.

use super::cli::small_model;
use assert_cmd::Command;
use secateurs::model;
use secateurs::vision::Image;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A model of two classes and a set of two images to train on and two to judge by.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    model::save(&small_model(), &folder.path().join("small.safetensors")).unwrap();
    for (seed, name) in ["train/a", "train/b", "val/c", "val/d"].into_iter().enumerate() {
        let noise = (0..3 * 64 * 64).map(|i| ((i * 31 + seed * 7919) % 253) as u8).collect();
        let bytes = Image::new(64, 64, noise).jpeg(90).unwrap();
        put(folder.path(), &format!("images/{name}.jpg"), &bytes);
        put(folder.path(), &format!("labels/{name}.txt"), format!("{} .5 .5 .2 .2\n", seed % 2).as_bytes());
    }
    put(folder.path(), "data.yaml", b"train: images/train\nval: images/val\nnames: [nut, bolt]\n");
    folder
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Exit code, standard output and standard error of the worker.
fn run(folder: &TempDir, arguments: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    let output = command.current_dir(folder.path()).args(arguments.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const EVAL: &str = "eval --model small.safetensors --data data.yaml";

#[test]
fn without_labels_nothing_is_judged_and_without_some_it_is_said() {
    let folder = folder();
    let (code, _, said) = run(&folder, EVAL);
    assert_eq!((code, said.contains("warning")), (0, false), "{said}");
    fs::remove_file(folder.path().join("labels/val/d.txt")).unwrap();
    let (code, _, said) = run(&folder, EVAL);
    assert!(code == 0 && said.contains("warning: 1 of 2 images have no label file"), "{code}: {said}");
    fs::remove_dir_all(folder.path().join("labels/val")).unwrap();
    for command in [
        EVAL,
        "train --arch small.safetensors --data data.yaml --imgsz 64 --epochs 0 -o out.safetensors",
        "prune --model small.safetensors --data data.yaml --memory-mib 1 --epochs 0",
    ] {
        let (code, _, said) = run(&folder, command);
        assert!(code == 9 && said.contains("none of the 2 images of `val` has a label file"), "{command}: {said}");
        assert!(said.contains("labels/val/c.txt"), "{said}");
    }
    // Annotations without a single object: there is nothing to judge by, and no figure.
    let images = r#"[{"id": 1, "file_name": "c.jpg"}, {"id": 2, "file_name": "d.jpg"}]"#;
    let categories = r#"[{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}]"#;
    let coco = format!(r#"{{"images": {images}, "annotations": [], "categories": {categories}}}"#);
    put(folder.path(), "mine.json", coco.as_bytes());
    let (code, shown, said) = run(&folder, &format!("{EVAL} --annotations mine.json"));
    assert!(code == 0 && shown.contains("mAP       undefined: the split has no objects"), "{code}: {shown}{said}");
    assert!(!shown.contains("-1") && !shown.contains("-0"), "{shown}");
    let (_, shown, _) = run(&folder, &format!("{EVAL} --annotations mine.json --json"));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    for key in ["map50_95", "map50", "map50_95_ultralytics", "map50_ultralytics"] {
        assert!(shown[key].is_null(), "{shown}");
    }
}

#[test]
fn doubtful_data_is_told_by_every_command_that_learns_or_judges_by_it() {
    let folder = folder();
    put(folder.path(), "data.yaml", b"train: images/train\nval: images/train\nnames: [bolt, nut]\n");
    let names = "model and dataset have the same names in another order";
    let overlap = "2 of 2 images of `val` are among those of `train`";
    let (code, _, said) = run(&folder, EVAL);
    assert!(code == 0 && said.contains(&format!("warning: {names}")), "{code}: {said}");
    for (command, code) in [
        ("train --arch small.safetensors --data data.yaml --imgsz 64 --epochs 0 -o out.safetensors", 0),
        // A budget that nothing meets ends the job early.
        ("prune --model small.safetensors --data data.yaml --memory-mib 0.01 --epochs 0 --calibration-images 2", 4),
    ] {
        let (found, _, said) = run(&folder, command);
        assert_eq!(found, code, "{command}: {said}");
        assert!(said.contains(&format!("warning: {names}")), "{command}: {said}");
        assert!(said.contains(&format!("warning: {overlap}")), "{command}: {said}");
        assert_eq!(said.matches("warning: ").count(), 2, "each is said once: {said}");
    }
}

#[test]
fn pictures_that_are_cut_off_end_a_judgement_and_not_a_look() {
    let folder = folder();
    let path = folder.path().join("images/val/c.jpg");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
    let (code, _, said) = run(&folder, EVAL);
    assert!(code == 9 && said.contains("images/val/c.jpg: is cut off"), "{code}: {said}");
    let (code, shown, said) = run(&folder, &format!("{EVAL} --skip-bad-images"));
    assert!(code == 0 && shown.starts_with("1 images at 64 px"), "{code}: {shown}{said}");
    assert!(said.contains("warning: 1 of 2 images cannot be read and were left out"), "{said}");
    let prune = "prune --model small.safetensors --data data.yaml --memory-mib 0.01 --epochs 0 --calibration-images 2";
    let (code, _, said) = run(&folder, prune);
    assert!(
        code == 9 && said.contains("images/val/c.jpg: is cut off") && !said.contains("Estimating"),
        "{code}: {said}"
    );
    let (code, _, said) = run(&folder, &format!("{prune} --skip-bad-images"));
    assert!(code == 4 && said.contains("warning: 1 of 2 images cannot be read and were left out"), "{code}: {said}");
    let (code, _, said) = run(&folder, "detect --model small.safetensors images/val/c.jpg");
    assert!(code == 0 && said.contains("warning: images/val/c.jpg: is cut off"), "{code}: {said}");
    let mut infer = Command::new(env!("CARGO_BIN_EXE_secateurs-infer"));
    let infer = infer.current_dir(folder.path()).args(["detect", "--model", "small.safetensors", "images/val/c.jpg"]);
    let said = String::from_utf8_lossy(&infer.output().unwrap().stderr).into_owned();
    assert!(said.contains("warning: images/val/c.jpg: is cut off"), "{said}");
}
