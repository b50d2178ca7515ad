//! `--device` of the commands that run networks: a GPU that is missing.

use assert_cmd::Command;
use secateurs::data::demo;
use secateurs::engine::Device;
use secateurs::pipeline::DEMO_MODEL;
use std::fs;
use tempfile::TempDir;

/// The demo's model, and a few drawn pictures.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    demo::write(&folder.path().join("set"), 3, 2).unwrap();
    fs::write(folder.path().join("demo.safetensors"), DEMO_MODEL).unwrap();
    folder
}

/// Exit code, standard output and standard error of the worker.
fn run(folder: &TempDir, arguments: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    let output = command.current_dir(folder.path()).args(arguments.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const MODEL: &str = "--model demo.safetensors --data set/data.yaml --imgsz 64";

#[test]
fn a_gpu_that_is_missing_is_an_error_where_it_was_asked_for_and_told_with_auto() {
    if Device::Cuda(0).name().is_ok() {
        return;
    }
    let folder = folder();
    let commands = [
        format!("eval {MODEL}"),
        format!("quantise {MODEL} -o out.safetensors"),
        format!("compare {MODEL} --out out"),
        format!("prune {MODEL} --memory-mib 1 --epochs 0 --out out"),
        format!("prune {MODEL} --memory-mib 1 --epochs 0 --out out --dry-run"),
        "train --arch demo.safetensors --data set/data.yaml --imgsz 64 --epochs 1 -o out.safetensors".to_owned(),
    ];
    for command in commands {
        for device in ["cuda", "cuda:3"] {
            let (code, _, said) = run(&folder, &format!("{command} --device {device}"));
            assert!(code == 7 && said.contains(&format!("error: --device {device}: ")), "{command}: {code} {said}");
            assert!(
                !folder.path().join("out").exists() && !folder.path().join("out.safetensors").exists(),
                "{command}"
            );
        }
        let (code, _, said) = run(&folder, &format!("{command} --device gpu"));
        assert!(code == 2 && said.contains("expected auto, cpu, cuda, or cuda:N"), "{command}: {code} {said}");
    }
    let (code, json, said) = run(&folder, &format!("eval {MODEL} --json"));
    assert_eq!((code, &said[..]), (0, ""));
    let (code, same, said) = run(&folder, &format!("eval {MODEL} --json --device auto"));
    assert_eq!((code, same), (0, json), "{said}");
    assert!(said.lines().next().is_some_and(|line| line.starts_with("note: using the CPU: ")), "{said}");
    // As the first line of progress.
    let (code, lines, _) = run(
        &folder,
        &format!("prune {MODEL} --memory-mib 1 --epochs 0 --out out --dry-run --message-format json --device auto"),
    );
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((code, first["stage"].as_str()), (0, Some("Using")), "{lines}");
    assert!(first["detail"].as_str().unwrap().starts_with("the CPU: "), "{first}");
}
