//! Single weights set to zero: what the file holds, what hostile files get, and what survives repair and training.

use assert_cmd::Command;
use secateurs::model::{self, Model};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn demo_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/demo.safetensors")
}

/// The demo with every second weight of every kernel at zero.
fn half() -> Model {
    let mut model = model::load(&demo_path()).unwrap();
    for tensor in model.weights.values_mut().filter(|t| t.shape().len() > 1) {
        tensor.data_mut().iter_mut().step_by(2).for_each(|v| *v = 0.0);
    }
    model
}

#[test]
fn zeros_are_packed_and_come_back_to_the_bit() {
    let dense = model::load(&demo_path()).unwrap();
    let (dense_bytes, sparse) = (model::to_bytes(&dense).unwrap(), half());
    let bytes = model::to_bytes(&sparse).unwrap();
    assert!(10 * bytes.len() < 6 * dense_bytes.len(), "{} of {}", bytes.len(), dense_bytes.len());
    assert_eq!(model::from_bytes(Path::new("a"), &bytes).unwrap().weights, sparse.weights);
    let kernels: usize = sparse.weights.values().filter(|t| t.shape().len() > 1).map(|t| t.data().len()).sum();
    assert!(sparse.zeros() >= kernels / 2);
    // Without many zeros the format is the one that earlier builds read.
    let text = String::from_utf8_lossy(&dense_bytes);
    assert!(text.contains("\"secateurs.format\":\"1\""));
    assert!(String::from_utf8_lossy(&bytes).contains("\"secateurs.format\":\"2\""));
}

#[test]
fn parts_that_do_not_fit_are_refused_by_name() {
    let bytes = model::to_bytes(&half()).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (key, entry) =
        header.as_object().unwrap().iter().find(|(key, _)| key.ends_with("weight.nonzero")).expect("a packed kernel");
    let start = 8 + length + entry["data_offsets"][0].as_u64().unwrap() as usize;
    let refused = |bytes: &[u8], expected: &str| {
        let error = model::from_bytes(Path::new("evil.safetensors"), bytes).unwrap_err().to_string();
        assert!(error.starts_with("evil.safetensors: ") && error.contains(expected), "{error}");
    };
    // A bit more or less than there are values.
    let mut changed = bytes.clone();
    changed[start] ^= 1;
    refused(&changed, &key.replace(".nonzero", ".values"));
    // Bits of another length: the tensor is declared as something else.
    let renamed = |from: &str, to: &str| {
        let text = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap().replacen(from, to, 1);
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + length..]].concat()
    };
    let other = key.replace("weight.nonzero", "weight.nonzerX");
    refused(&renamed(key, &other), &format!("tensor `{}`", key.trim_end_matches(".nonzero")));
}

/// Prunes the demo and gives its model, its report and the exit code.
fn prune(folder: &Path, flags: &[&str]) -> (Model, Value, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_secateurs"))
        .args(["prune", "--calibration-images", "64", "--cache"])
        .arg(folder.join("cache"))
        .arg("--out")
        .arg(folder.join("out"))
        .args(flags)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let read = |name: &str| std::fs::read(folder.join("out").join(name)).unwrap_or_else(|e| panic!("{e}: {text}"));
    let model = model::from_bytes(Path::new("model.safetensors"), &read("model.safetensors")).unwrap();
    (model, serde_json::from_slice(&read("report.json")).unwrap(), output.status.code().unwrap())
}

#[test]
fn two_of_four_weights_survive_repair_and_training() {
    let folder = tempfile::tempdir().unwrap();
    let (model, report, code) = prune(folder.path(), &["--strategy", "2:4", "--epochs", "1", "--file-mib", "1.4"]);
    assert_eq!(code, 0, "{}", report["verdict"]);
    let mut checked = 0;
    for (_, conv) in model.graph.convs().filter(|(_, conv)| !conv.is_depthwise() && conv.c_in % 4 == 0) {
        let taps = conv.kernel * conv.kernel;
        let data = model.tensor(&conv.weight).data();
        for row in data.chunks(4 * taps) {
            for tap in 0..taps {
                let alive = (0..4).filter(|i| row[i * taps + tap] != 0.0).count();
                assert!(alive <= 2, "{}: {alive} of four", conv.weight);
                checked += 1;
            }
        }
    }
    assert!(checked > 10_000, "{checked}");
    let stage = |name: &str, key: &str| report[name][key].as_f64().unwrap();
    assert!(stage("tuned", "zeros") > 0.4 * stage("tuned", "params"));
    assert!(stage("tuned", "file_bytes") < 0.65 * stage("uncut", "file_bytes"));
    assert!(stage("repaired", "map50_95") > stage("cut", "map50_95") - 0.02, "repair must not hurt");
    let sentences = report["verdict"]["sentences"].to_string();
    assert!(sentences.contains("this engine multiplies by zeros too"), "{sentences}");
}

#[test]
fn half_of_all_weights_go_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--strategy", "unstructured", "--epochs", "0", "--file-mib", "0.2"];
    let (model, report, _) = prune(folder.path(), &flags);
    let dense = model.graph.convs().filter(|(_, conv)| !conv.is_depthwise());
    let (zeros, all) = dense.fold((0, 0), |(zeros, all), (_, conv)| {
        let data = model.tensor(&conv.weight).data();
        (zeros + data.iter().filter(|v| **v == 0.0).count(), all + data.len())
    });
    assert!((zeros as f64 / all as f64 - 0.5).abs() < 0.01, "{zeros} of {all}");
    // A file budget that is not met is said so.
    assert_eq!(report["verdict"]["memory_ok"], false, "{}", report["verdict"]);
}
