//! The binaries as a user meets them: exit codes, messages, JSON keys.

use assert_cmd::Command;
use secateurs::graph::Graph;
use secateurs::model::{self, Info, Model, Tensor, Weights};
use secateurs::vision::Image;
use secateurs::zoo::yolo11::{Scale, detect};
use serde_json::Value;
use std::fs;
use std::io::Write;
use tempfile::TempDir;

fn worker(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    command.current_dir(folder.path());
    command
}

fn infer(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs-infer"));
    command.current_dir(folder.path());
    command
}

/// A narrow YOLO11 with two classes and small weights that only its shapes decide.
pub fn small_model() -> Model {
    let scale = Scale { depth: 0.3, width: 0.05, max_channels: 256, c3k_everywhere: false };
    let graph: Graph = detect(scale, 2).unwrap();
    let mut weights = Weights::new();
    for param in graph.params() {
        let spread = |i: usize| if param.trainable { ((i * 37 + 11) % 101) as f32 / 505.0 - 0.1 } else { 1.0 };
        let values = (0..param.shape.iter().product()).map(spread).collect();
        weights.insert(param.key.clone(), Tensor::new(param.shape.clone(), values));
    }
    let info = Info { names: vec!["nut".into(), "bolt".into()], imgsz: Some(64.into()), ..Info::default() };
    Model::new(graph, weights, info).unwrap()
}

/// A folder with a model, an image, a dataset, and much that is broken.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    model::save(&small_model(), &folder.path().join("small.safetensors")).unwrap();
    let grey: Vec<u8> = (0..3 * 80 * 50).map(|i| (i % 251) as u8).collect();
    let image = Image::new(80, 50, grey);
    image.save(&folder.path().join("photo.png")).unwrap();
    image.save(&folder.path().join("set/images/val/a.png")).unwrap();
    put("set/labels/val/a.txt", b"1 0.5 0.5 0.2 0.4\n");
    put("data.yaml", b"path: set\ntrain: images/val\nval: images/val\nnames: [nut, bolt]\n");
    put("three.yaml", b"path: set\ntrain: images/val\nval: images/val\nnames: [a, b, c]\n");
    put("four.yaml", b"path: set\ntrain: images/val\nval: images/val\nnames: [nut, bolt]\nchannels: 4\n");
    put("wrong.yaml", b"path: nowhere\ntrain: images/train\nval: images/val\nnames: [nut, bolt]\n");
    put("noise.png", b"\x89PNG\r\n\x1a\nthis is no image");
    put("evil.pt", &checkpoint(b"\x80\x02cposix\nsystem\nX\x0d\x00\x00\x00touch owned.x\x85R."));
    let whole = checkpoint(b"\x80\x02}.");
    put("short.pt", &whole[..whole.len() / 2]);
    put("empty.pt", b"");
    put("bad.toml", b"[budget]\nlatency_ms = 3\nmemory-mib = -1\n\n[serch]\nseed = 1\n");
    put("board.toml", b"[device]\nthreads = 2\n[budget]\nlatency-ratio = 0.5\n[finetune]\nepochs = 3\n");
    put("remote.toml", b"[connect]\nkind = 'ssh'\nhost = 'board'\n[budget]\nlatency-ratio = 0.5\n");
    folder
}

/// A checkpoint around a pickle, as PyTorch lays it out.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("best/data.pkl", pickle), ("best/byteorder", b"little"), ("best/version", b"3\n")] {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn json(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // One object a line; the last is the result.
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {text}")));
    lines.next_back().unwrap_or_else(|| panic!("no line of JSON: {text}"))
}

fn keys(value: &Value, expected: &[&str]) {
    for key in expected {
        assert!(value.get(key).is_some(), "`{key}` is missing in {value}");
    }
}

#[test]
fn every_bad_input_gets_one_clear_error_and_its_exit_code() {
    let folder = folder();
    let cases: &[(&str, i32, &[&str])] = &[
        ("inspect --model none.pt", 9, &["error: none.pt: No such file"]),
        ("inspect --model set", 9, &["error: set: is a folder, expected a file"]),
        ("inspect --model empty.pt", 9, &["error: empty.pt: "]),
        ("inspect --model short.pt", 9, &["error: short.pt: "]),
        ("inspect --model evil.pt", 9, &["error: evil.pt: ", "posix.system", "refused", "help: "]),
        ("inspect --model noise.png", 9, &["error: noise.png: "]),
        ("inspect --model small.safetensors --imgsz 65", 2, &["imgsz 65: expected a multiple of 32, for example 96"]),
        ("inspect", 2, &["--model <FILE>"]),
        ("eval --model small.safetensors --data none.yaml", 9, &["error: none.yaml: No such file"]),
        ("eval --model small.safetensors --data wrong.yaml", 9, &["error: ", "nowhere"]),
        ("eval --model small.safetensors --data data.yaml --split test", 9, &["error: data.yaml: ", "test"]),
        (
            "eval --model small.safetensors --data three.yaml",
            9,
            &["three.yaml names 3 classes, small.safetensors knows 2"],
        ),
        ("detect --model small.safetensors noise.png", 9, &["error: noise.png: not a readable image"]),
        ("detect --model small.safetensors none.png", 9, &["error: none.png: No such file"]),
        ("detect --model small.safetensors", 2, &["<IMAGE>..."]),
        ("detect --model small.safetensors photo.png --score 2", 2, &["is 2, expected a number from 0 to 1"]),
        ("bench --model small.safetensors --runs 0", 2, &["--runs <N>"]),
        ("export --model small.safetensors --format tflite -o x", 2, &["tflite"]),
        ("quantise --model small.safetensors -o x", 2, &["int8 needs images: name their dataset with --data"]),
        ("quantise --model small.safetensors --dtype f8 -o x", 2, &["int8, f16"]),
        ("prune --profile none.toml", 3, &["error: none.toml: No such file"]),
        (
            "prune --profile bad.toml",
            3,
            &[
                "error: bad.toml:2:1: unknown key `latency_ms` in [budget] (did you mean `latency-ms`?)",
                "error: bad.toml:3:14: [budget] `memory-mib` is -1, expected mebibytes, more than 0",
                "error: bad.toml:5:2: unknown section or key `serch` in a profile (did you mean `search`?)",
                "help: ",
            ],
        ),
        ("prune", 2, &["no budget"]),
        ("prune --latency-ratio 0.5 --latency-ms 3", 2, &["cannot be used with"]),
        ("prune --latency-ratio 1.5", 2, &["is 1.5, expected a number more than 0, up to 1"]),
        ("prune --latency-ratio 0.5 --model small.safetensors", 2, &["a model without data"]),
        ("prune --latency-ratio 0.5 --importance tayler", 2, &["'tayler'", "taylor"]),
        ("train --arch yolo13n --data data.yaml -o x", 2, &["--arch yolo13n: neither a model file nor one of yolo26n"]),
        ("train --arch yolo11:1,2 --data data.yaml -o x", 2, &["yolo11:DEPTH,WIDTH,MAX"]),
        ("train --arch yolo11n --data drawn:0 -o x", 2, &["from 1 to 1000000 behind `drawn:`"]),
        ("train --arch yolo11n --data none.yaml -o x", 9, &["error: none.yaml: No such file"]),
        (
            "prune --model small.safetensors --data three.yaml --latency-ratio 0.5 --dry-run",
            9,
            &["three.yaml names 3 classes", "cargo xtask train --arch small.safetensors --data three.yaml -o "],
        ),
        ("train --arch small.safetensors --data four.yaml -o x", 9, &["error: four.yaml: `channels` is 4"]),
        (
            "train --arch small.safetensors --data data.yaml --imgsz 65 -o x",
            2,
            &["imgsz 65: expected a multiple of 32, for example 96"],
        ),
        (
            "prune --profile remote.toml",
            2,
            &["the device needs the inference binary built for it", "cargo xtask prune"],
        ),
    ];
    for (line, code, expected) in cases {
        let output = worker(&folder).args(line.split_whitespace()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{line}\n{text}");
        assert!(output.stdout.is_empty(), "{line}");
        for part in *expected {
            assert!(text.contains(part), "{line}: `{part}` is not in\n{text}");
        }
    }
    assert!(!folder.path().join("owned.x").exists(), "the pickle was run");
}

#[test]
fn results_have_the_keys_that_scripts_rely_on() {
    let folder = folder();
    let model = ["--model", "small.safetensors", "--json"];
    let eval = json(worker(&folder).arg("eval").args(model).args(["--data", "data.yaml"]));
    keys(&eval, &["map50_95", "map50", "map50_95_ultralytics", "images"]);
    assert_eq!(eval["images"], 1);
    let bench = ["--runs", "3", "--warmup", "1"];
    let measured = json(worker(&folder).arg("bench").args(model).args(bench));
    keys(&measured, &["p50_ms", "p95_ms", "p99_ms", "cpu_p50_ms", "peak_memory_bytes", "threads", "phases"]);
    assert_eq!((&measured["runs"], &measured["threads"], &measured["imgsz"]), (&3.into(), &1.into(), &64.into()));
    let inspected = json(worker(&folder).arg("inspect").args(model).arg("--groups"));
    keys(&inspected, &["params", "dtype", "macs", "peak_memory_bytes", "layers", "groups"]);
    assert_eq!(inspected["peak_memory_bytes"], measured["peak_memory_bytes"]);
    let layers = inspected["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|layer| layer[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        (sum("params"), sum("macs")),
        (inspected["params"].as_u64().unwrap(), inspected["macs"].as_u64().unwrap())
    );
    assert!(inspected["groups"].as_array().unwrap().iter().all(|group| group["width"].as_u64().unwrap() > 0));
    let quantise = ["quantise", "--model", "small.safetensors", "--dtype", "f16", "-o", "f16.safetensors"];
    worker(&folder).args(quantise).assert().success();
    let quantized = json(worker(&folder).args(["inspect", "--model", "f16.safetensors", "--json"]));
    assert_eq!((&inspected["dtype"], &quantized["dtype"]), (&"f32".into(), &"f16".into()));
}

#[test]
fn the_inference_binary_runs_a_model_like_the_worker() {
    let folder = folder();
    let arguments = ["detect", "--model", "small.safetensors", "photo.png", "--score", "0.01", "--json"];
    let ours = json(worker(&folder).args(arguments).args(["--save", "worker"]));
    let theirs = json(infer(&folder).args(arguments).args(["--save", "infer"]));
    assert_eq!(ours, theirs);
    keys(&ours, &["image", "detections"]);
    for saved in ["worker/photo.png", "infer/photo.png"] {
        assert!(Image::open(&folder.path().join(saved)).is_ok(), "{saved}");
    }
    let arguments =
        ["bench", "--model", "small.safetensors", "--against", "small.safetensors", "--runs", "3", "--json"];
    let measured = json(infer(&folder).args(arguments));
    keys(&measured, &["p50_ms", "cpu_p50_ms", "peak_memory_bytes", "threads", "against"]);
    keys(&measured["against"], &["p50_ms", "peak_memory_bytes", "ratio", "pair_ratio", "cpu_ratio"]);
    let info = json(infer(&folder).args(["info", "--model", "small.safetensors", "--json"]));
    assert_eq!(info["names"], serde_json::json!(["nut", "bolt"]));
}

#[test]
fn the_inference_binary_explains_itself() {
    let folder = folder();
    let cases = [
        ("--help", 0, "Exit codes"),
        ("", 2, "no command"),
        ("paint", 2, "unknown command `paint`"),
        ("bench --model none", 9, "none: No such file"),
        ("detect noise.png --model small.safetensors", 9, "noise.png: not a readable"),
        ("bench --model small.safetensors --imgsz 65", 2, "imgsz 65: expected a multiple of 32"),
        ("bench", 9, "built without a model"),
    ];
    for (line, code, expected) in cases {
        let output = infer(&folder).args(line.split_whitespace()).output().unwrap();
        let text = String::from_utf8_lossy(if code == 0 { &output.stdout } else { &output.stderr }).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}\n{text}");
        assert!(text.contains(expected), "{line}: `{expected}` is not in\n{text}");
    }
}

#[test]
fn a_dry_run_tells_the_steps_with_the_flags_applied_and_writes_nothing() {
    let folder = folder();
    let before = fs::read_dir(folder.path()).unwrap().count();
    let line = "prune --profile board.toml --epochs 0 --latency-ms 9 --dry-run";
    let output = worker(&folder).args(line.split_whitespace()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["p95 within 9 ms", "2 thread(s)", "the embedded demo", "dist/board"] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    assert!(!text.contains("train 3 epochs") && !text.contains("0.5x"), "{text}");
    let plan = json(worker(&folder).args(line.split_whitespace()).args(["--message-format", "json"]));
    assert_eq!((&plan["reason"], &plan["profile"]["budget"]["latency"]), (&"plan".into(), &9.0.into()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
}

/// What `cargo xtask` asks: it builds by the first answer, and shows the second as its own help.
#[test]
fn the_driver_gets_answers_about_profiles_and_options() {
    let folder = folder();
    let ask = |line: &str| worker(&folder).args(line.split_whitespace()).output().unwrap();
    for line in ["driver profile --profile remote.toml", "driver check --profile remote.toml --threads 3 --params=9"] {
        let answer: Value = serde_json::from_slice(&ask(line).stdout).unwrap();
        let device = &answer["profile"]["device"];
        keys(device, &["triple", "target-cpu", "glibc", "features", "cuda"]);
        assert_eq!((&answer["reason"], &answer["profile"]["connect"]["kind"]), (&"profile".into(), &"ssh".into()));
        assert_eq!(device["threads"], if line.contains("check") { 3 } else { 1 });
    }
    for (line, code, expected) in [
        ("driver check --profile board.toml --modle x", 2, "a similar argument exists: '--model'"),
        ("driver check --profile board.toml --imgsz -1", 2, "expected pixels from 1 to 4096"),
        ("driver check --profile board.toml --model small.safetensors", 2, "a model without data"),
        ("driver check --profile bad.toml", 3, "did you mean `latency-ms`?"),
        ("driver profile --profile bad.toml", 3, "did you mean `latency-ms`?"),
    ] {
        let output = ask(line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && output.stdout.is_empty(), "{line}\n{text}");
        assert!(text.contains(expected), "{line}: `{expected}` is not in\n{text}");
    }
    let text = String::from_utf8(ask("driver options").stdout).unwrap();
    for part in ["Budgets:", "Model and data:", "Search:", "Fine-tuning:", "Measuring:", "Output:", "--floor <CLASS=R>"]
    {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    for part in ["--profile", "--binary", "--cache", "--first-stage", "Usage:"] {
        assert!(!text.contains(part), "`{part}` is in\n{text}");
    }
}

/// Where there is no MPI, the environment of the process says it to NCCL, which this program opens next.
#[test]
fn ranks_with_gpus_are_told_where_they_meet_before_they_start() {
    let folder = folder();
    let torchrun = [("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")];
    let place = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")];
    for (place, code, expected) in
        [(&place[..], 7, "`cuda`"), (&[], 2, "does not say where they meet: set MASTER_ADDR")]
    {
        let line = "train --arch small.safetensors --data data.yaml --device cuda -o out.safetensors";
        let mut command = worker(&folder);
        command.args(line.split_whitespace()).envs(torchrun).envs(place.iter().copied());
        let output = command.env_remove("NCCL_COMM_ID").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && text.contains(expected), "{text}");
    }
}

#[test]
fn a_floor_for_a_class_that_is_not_there_is_refused_before_any_work() {
    let folder = folder();
    let prune = |floor: &str| {
        let line = ["prune", "--model", "small.safetensors", "--data", "data.yaml", "--imgsz", "64", "--latency-ratio"];
        worker(&folder).args(line).args(["0.8", "--floor", floor]).output().unwrap()
    };
    let classes = model::load(&folder.path().join("small.safetensors")).unwrap().info.names;
    let misspelt = format!("{}s=0.9", classes[0]);
    let cases = [
        (misspelt.as_str(), 9, format!("has no class `{}s`; did you mean `{}`?", classes[0], classes[0])),
        ("person", 2, "expected CLASS=R".into()),
        ("person=2", 2, "expected a number from 0 to 1".into()),
    ];
    for (floor, code, expected) in cases {
        let output = prune(floor);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{floor}\n{text}");
        assert!(text.contains(&expected), "{floor}: `{expected}` is not in\n{text}");
    }
}

#[test]
fn errors_are_json_too_where_json_was_asked_for() {
    let folder = folder();
    let output = worker(&folder).args(["prune", "--profile", "bad.toml", "--message-format", "json"]).output().unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &error["reason"], &error["code"]), (Some(3), &"error".into(), &3.into()));
    assert_eq!(error["messages"].as_array().unwrap().len(), 3);
}

#[test]
fn an_export_in_our_own_format_is_the_same_model() {
    let folder = folder();
    let arguments = ["export", "--model", "small.safetensors", "--format", "safetensors", "-o", "new/copy.safetensors"];
    worker(&folder).args(arguments).assert().success();
    let (copy, original) = (model::load(&folder.path().join("new/copy.safetensors")).unwrap(), small_model());
    assert!(copy.graph == original.graph && copy.weights == original.weights);
    assert_eq!(copy.info.names, original.info.names);
}

#[test]
fn a_training_leaves_a_model_that_depends_on_its_flags_only() {
    let folder = folder();
    let train = |out: &str, seed: &str, threads: &str| {
        let flags = ["train", "--arch", "yolo11:0.25,0.0625,256", "--data", "data.yaml", "--imgsz", "64"];
        let output = ["--message-format", "json", "-o", out, "--epochs", "2", "--seed", seed, "--threads", threads];
        let output = worker(&folder).args(flags).args(output).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        keys(&last["val"], &["map50_95", "map50", "images"]);
        fs::read(folder.path().join(out)).unwrap()
    };
    let first = train("a.safetensors", "1", "1");
    assert_eq!(first, train("b.safetensors", "1", "2"));
    assert_ne!(first, train("c.safetensors", "2", "1"));
    assert!(!folder.path().join("a.safetensors.part").exists());
    let trained = model::load(&folder.path().join("a.safetensors")).unwrap();
    assert_eq!((trained.info.names.len(), trained.info.imgsz), (2, Some(64.into())));
    assert_eq!(trained.info.provenance["arch"], "yolo11:0.25,0.0625,256");
}
