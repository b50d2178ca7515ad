//! The whole job on the embedded demo, through the worker: budgets that can be met, and budgets that cannot.

use assert_cmd::Command;
use secateurs::bundle::sha256;
use secateurs::data::demo;
use secateurs::engine::{Options, plan_memory};
use secateurs::graph::{Dtype, Graph};
use secateurs::model;
use secateurs::pipeline::PlanFile;
use secateurs::train;
use secateurs::zoo::{Task, yolov8};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Side of the demo's images.
const SIDE: usize = 160;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/demo.safetensors")
}

fn mib(graph: &Graph) -> f64 {
    let options = Options { threads: 1, ..Options::default() };
    plan_memory(graph, SIDE, SIDE, &options).unwrap().total() as f64 / f64::from(1 << 20)
}

/// `prune`, on the demo with few images to calibrate on, and without training, unless the flags say something else.
fn prune(folder: &Path, out: &str, flags: &[String]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    command.args(["prune", "--calibration-images", "64", "--cache"]).arg(folder.join("cache"));
    command.arg("--out").arg(folder.join(out)).args(flags);
    if !flags.iter().any(|flag| flag == "--epochs") {
        command.args(["--epochs", "0"]);
    }
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn flag(name: &str, value: f64) -> [String; 2] {
    [format!("--{name}"), format!("{value:.3}")]
}

/// The budgets are memory alone: they hold or not whatever else the machine is doing.
#[test]
fn the_demo_is_pruned_to_a_memory_budget_and_everything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let baseline = model::load(&demo()).unwrap();
    let limit = 0.7 * mib(&baseline.graph);
    let (code, text) = prune(folder.path(), "a", &flag("memory-mib", limit));
    assert_eq!(code, 0, "{text}");

    let out = folder.path().join("a");
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    let report: Value = serde_json::from_slice(&read("report.json")).unwrap();
    for stage in ["uncut", "cut", "repaired"] {
        for key in ["map50_95", "map50", "map50_95_ultralytics", "params", "macs", "peak_memory_bytes"] {
            assert!(report[stage][key].is_number(), "{stage}.{key}: {report}");
        }
    }
    assert!(
        report["uncut"]["map50_95"].as_f64().unwrap() > 0.4,
        "the demo model must know its shapes: {}",
        report["uncut"]
    );
    assert!(
        report["repaired"]["map50_95"].as_f64() >= report["cut"]["map50_95"].as_f64(),
        "repair must not hurt: {report}"
    );
    assert_eq!(report["verdict"]["memory_ok"], true);

    // The model that ships keeps to the budget, and to the plan.
    let pruned = model::load(&out.join("model.safetensors")).unwrap();
    assert!(mib(&pruned.graph) <= limit, "{} MiB of {limit}", mib(&pruned.graph));
    let plan: PlanFile = toml::from_str(std::str::from_utf8(&read("plan.toml")).unwrap()).unwrap();
    assert_eq!(plan.model_sha256, sha256(&std::fs::read(demo()).unwrap()));
    assert!(plan.group.iter().any(|group| group.width < group.before));
    assert!(plan.group.iter().all(|group| group.width == group.kept.len()));
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    assert_eq!(manifest["files"]["model.safetensors"], Value::from(sha256(&read("model.safetensors"))));

    // A second run reads what the first measured, and finds the same.
    let (code, text) = prune(folder.path(), "b", &flag("memory-mib", limit));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("kept from an earlier run"), "{text}");
    let same = |name: &str| std::fs::read(folder.path().join("b").join(name)).unwrap() == read(name);
    assert!(same("plan.toml") && same("model.safetensors"));

    // What cannot be had is refused with what can, and what can is then had.
    let (code, text) = prune(folder.path(), "c", &flag("memory-mib", 0.01));
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("the least memory is"), "{text}");
    assert!(!folder.path().join("c").exists(), "nothing is written without a plan");
    let (code, text) = prune(folder.path(), "d", &flag("latency-ratio", 0.01));
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("the least latency is") && text.contains("--latency-ratio"), "{text}");

    // A board that is only emulated is planned for by an estimate, and nothing is claimed about its latency.
    let board = folder.path().join("board.toml");
    let profile =
        "[device]\ncore-gflops = 8.0\nbandwidth-gb-s = 8.0\n[connect]\nkind = 'command'\ncommand = ['qemu-x']\n";
    std::fs::write(&board, profile).unwrap();
    let given = [flag("latency-ratio", 0.8).as_slice(), &["--profile".into(), board.display().to_string()]].concat();
    let (code, text) = prune(folder.path(), "e", &given);
    assert_eq!(code, 0, "{text}");
    let report = std::fs::read(folder.path().join("e/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["verdict"]["simulated"], "estimated");
    assert!(report["device"].as_str().unwrap().starts_with("estimate for board"), "{report}");
    for stage in ["uncut", "repaired"] {
        assert!(report[stage]["p50_ms"].is_null() && report[stage]["macs"].is_number(), "{report}");
    }
    assert!(report["repaired"]["macs"].as_u64() < report["uncut"]["macs"].as_u64());
    assert!(text.contains("nothing is claimed") && !text.contains("p50 "), "{text}");
}

/// A YOLOv8 as a state dict: its C2f blocks, its neck without residuals and its dense class branch go through the whole
/// job, training included. Fresh weights find nothing, so only sizes are judged.
#[test]
fn a_yolov8_is_pruned_and_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let scale = yolov8::Scale { depth: 0.33, width: 0.125, max_channels: 256 };
    let graph = yolov8::network(scale, Task::Detect, 3).unwrap();
    let weights = train::init(&graph, 4);
    let views = weights.iter().map(|(key, tensor)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
        (key, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape().to_vec(), bytes).unwrap())
    });
    let file = folder.path().join("yolov8.safetensors");
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    let data = demo::write(&folder.path().join("drawn"), 48, 12).unwrap();
    let paths = [("--model", &file), ("--data", &data)].map(|(flag, path)| [flag.into(), path.display().to_string()]);
    let mut flags = paths.concat();
    flags.extend(["--imgsz", "64", "--epochs", "1"].map(String::from));
    let options = Options { threads: 1, ..Options::default() };
    let bytes = |graph: &Graph| plan_memory(graph, 64, 64, &options).unwrap().total() as f64;
    flags.extend(flag("memory-mib", 0.75 * bytes(&graph) / f64::from(1 << 20)));
    let (code, text) = prune(folder.path(), "out", &flags);
    assert_eq!(code, 0, "{text}");
    let pruned = model::load(&folder.path().join("out/model.safetensors")).unwrap();
    assert!(bytes(&pruned.graph) <= 0.751 * bytes(&graph), "{} of {}", bytes(&pruned.graph), bytes(&graph));
    let report: Value = serde_json::from_slice(&std::fs::read(folder.path().join("out/report.json")).unwrap()).unwrap();
    assert!(report["tuned"]["params"].as_f64() < report["uncut"]["params"].as_f64(), "{text}");
}

#[test]
fn the_last_epochs_of_a_job_in_int8_train_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = demo::write(&folder.path().join("drawn"), 48, 12).unwrap();
    let baseline = model::load(&demo()).unwrap();
    let mut flags = flag("memory-mib", 0.5 * mib(&baseline.graph)).to_vec();
    let more = ["--dtype", "int8", "--epochs", "2", "--hold-out", "0.25", "--imgsz", "96"].map(String::from);
    flags.extend(more.into_iter().chain([format!("--data={}", data.display())]));
    let (code, text) = prune(folder.path(), "a", &flags);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the last 1 of 2 epochs train for int8, and held-back images judge in int8"), "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(folder.path().join("a/report.json")).unwrap()).unwrap();
    assert_eq!((&report["dtype"], &report["training"]["int8_epochs"]), (&"int8".into(), &1.into()), "{report}");
    let page = std::fs::read_to_string(folder.path().join("a/report.html")).unwrap();
    assert!(page.contains("on 12 held-back images in int8") && page.contains("the last epoch trained for int8"));
    let (tuned, rounded) = (&report["tuned"]["map50_95"], &report["rounded"]["map50_95"]);
    assert!(rounded.as_f64().unwrap() > tuned.as_f64().unwrap() - 0.05, "{report}");

    flags.extend(["--int8-epochs", "0", "--dry-run"].map(String::from));
    let (code, text) = prune(folder.path(), "b", &flags);
    assert!(code == 0 && text.contains("train 2 epochs, batches"), "{text}");
    flags.truncate(flags.len() - 3);
    flags.push("--dry-run".into());
    let (code, text) = prune(folder.path(), "b", &flags);
    assert!(code == 0 && text.contains("train 2 epochs, the last 50 % for int8, batches"), "{text}");
}

#[test]
fn the_demo_ships_in_int8_and_in_f16() {
    let folder = tempfile::tempdir().unwrap();
    let baseline = model::load(&demo()).unwrap();
    let flags = [flag("memory-mib", 0.5 * mib(&baseline.graph)), ["--dtype".into(), "int8".into()]].concat();
    let (code, text) = prune(folder.path(), "a", &flags);
    assert_eq!(code, 0, "{text}");
    let out = folder.path().join("a");
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    let of = |stage: &Value, key: &str| stage[key].as_f64().unwrap();
    let (before, after) = (&report["repaired"], &report["rounded"]);
    assert!(of(after, "map50_95") > of(before, "map50_95") - 0.03, "{report}");
    assert!(2.0 * of(after, "file_bytes") < of(before, "file_bytes"), "{report}");
    assert!(of(after, "peak_memory_bytes") < of(before, "peak_memory_bytes"), "{report}");
    assert!(of(&report["controls"]["uncut + int8"], "map50_95") > 0.4, "{report}");
    let shipped = model::load(&out.join("model.safetensors")).unwrap();
    assert_eq!((shipped.graph.dtype, baseline.graph.dtype), (Dtype::Int8, Dtype::F32));
    // Names and provenance are in the file, and in the figure.
    assert_eq!(of(after, "file_bytes"), std::fs::metadata(out.join("model.safetensors")).unwrap().len() as f64);
    let first = std::fs::metadata(out.join("uncut.safetensors")).unwrap().len() as f64;
    assert_eq!(of(&report["uncut"], "file_bytes"), first);
    assert_eq!(mib(&shipped.graph) * f64::from(1 << 20), of(after, "peak_memory_bytes"));

    // What came out can be pruned further, and is taken as f32 for that. This time it shall ship in f16.
    let data = demo::write(&folder.path().join("drawn"), 48, 12).unwrap();
    let again = [
        &flag("memory-mib", 0.4 * mib(&baseline.graph))[..],
        &[
            format!("--model={}", out.join("model.safetensors").display()),
            format!("--data={}", data.display()),
            "--imgsz=160".into(),
            "--dtype=f16".into(),
        ],
    ]
    .concat();
    let (code, text) = prune(folder.path(), "b", &again);
    assert!(code == 0 && text.contains("its values are taken as f32"), "{text}");
    let out = folder.path().join("b");
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    let (before, after) = (&report["repaired"], &report["rounded"]);
    assert!((of(after, "map50_95") - of(before, "map50_95")).abs() < 0.01, "{report}");
    assert!(1.3 * of(after, "file_bytes") < of(before, "file_bytes"), "{report}");
    assert!(report["dtype"] == "f16" && report["controls"]["uncut + f16"].is_object(), "{report}");
    assert_eq!(model::load(&out.join("model.safetensors")).unwrap().graph.dtype, Dtype::F16);

    // int8 is for our own runtime, on a CPU or a GPU.
    let profile = folder.path().join("other.toml");
    let dry = |device: &str| {
        let text = format!("{device}[budget]\nmemory-mib = 64\n[model]\ndtype = \"int8\"\n");
        std::fs::write(&profile, text).unwrap();
        prune(folder.path(), "c", &[format!("--profile={}", profile.display()), "--dry-run".into()])
    };
    let (code, text) = dry("[bench]\nruntime = \"command\"\ncommand = [\"time-it\", \"{model}\"]\n");
    assert!(code == 2 && text.contains("the dtype is int8"), "{text}");
    let (code, text) = dry("[device]\ncuda = \"sm_87\"\n");
    assert!(code == 0, "{text}");
}

#[test]
fn ways_to_prune_are_compared_on_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let data = demo::write(&folder.path().join("drawn"), 48, 24).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    command.arg("compare").arg("--model").arg(demo()).arg("--data").arg(data);
    command.args([
        "--imgsz",
        "160",
        "--latency-ratio",
        "0.8",
        "--importance",
        "reconstruction,l1-global",
        "--repair",
        "none,lsq",
    ]);
    command.arg("--out").arg(folder.path().join("out")).arg("--cache").arg(folder.path().join("cache"));
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path().join("out/compare.json")).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let names: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row["scheme"].as_str().unwrap(), row["repair"].as_str().unwrap()))
        .collect();
    let expected = ["reconstruction none", "reconstruction lsq", "l1-global none", "l1-global lsq"];
    assert_eq!(names, [&expected[..], &["l1-uniform none", "l1-uniform lsq"]].concat());
    for row in rows {
        let of = |key: &str| row["score"][key].as_f64().unwrap();
        assert!(of("low") <= of("map50_95") + 0.02 && of("map50_95") <= of("high") + 0.02, "{row}");
        assert!(row["latency_ratio"].as_f64().unwrap() < 1.0, "{row}");
        assert_eq!(row["behind"].is_null(), row["scheme"] == "reconstruction", "{row}");
    }
    let page = std::fs::read_to_string(folder.path().join("out/compare.html")).unwrap();
    assert!(page.contains("l1-uniform, lsq") && !page.contains("NaN"), "{text}");
}

#[test]
fn the_image_size_is_chosen_together_with_the_widths() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("sizes.toml");
    std::fs::write(&profile, "[model]\nsizes = [160, 96]\n[budget]\nmemory-mib = 2.0\n[finetune]\nepochs = 0\n")
        .unwrap();
    let (code, text) = prune(folder.path(), "a", &["--profile".into(), profile.display().to_string()]);
    assert_eq!(code, 0, "{text}");
    for line in ["160 px: mAP50-95", "96 px: mAP50-95"] {
        assert!(text.contains(line), "{text}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(folder.path().join("a/report.json")).unwrap()).unwrap();
    let sizes = [160, 96]
        .map(|side| text.split(&format!(" {side} px: mAP50-95 ")).nth(1).unwrap()[..6].parse::<f64>().unwrap());
    assert_eq!(report["imgsz"], if sizes[0] >= sizes[1] { 160 } else { 96 }, "{text}");
    assert!(report["repaired"]["peak_memory_bytes"].as_f64().unwrap() <= 2.0 * 1024.0 * 1024.0, "{report}");
}
