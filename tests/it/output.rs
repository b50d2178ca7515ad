//! What the binaries write, and where: nothing of the user's is replaced, no output that fails stops a job, nothing
//! drives the terminal.
#![cfg(unix)]

use crate::cli::small_model;
use assert_cmd::Command;
use secateurs::model;
use secateurs::vision::Image;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tempfile::TempDir;

const WORKER: &str = env!("CARGO_BIN_EXE_secateurs");
const INFER: &str = env!("CARGO_BIN_EXE_secateurs-infer");

/// A folder with a small model, a dataset and images of one name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    model::save(&small_model(), &path("small.safetensors")).unwrap();
    let image = Image::new(80, 50, (0..12_000).map(|i| (i % 251) as u8).collect());
    for name in ["a/x.png", "b/x.png", "set/images/val/a.png"] {
        image.save(&path(name)).unwrap();
    }
    fs::create_dir_all(path("set/labels/val")).unwrap();
    fs::write(path("set/labels/val/a.txt"), "1 0.5 0.5 0.2 0.4\n").unwrap();
    fs::write(path("data.yaml"), "path: set\ntrain: images/val\nval: images/val\nnames: [nut, bolt]\n").unwrap();
    folder
}

fn run(binary: &str, folder: &TempDir, line: &str) -> Output {
    Command::new(binary).current_dir(folder.path()).args(line.split_whitespace()).output().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_export_follows_links_writes_through_pipes_and_keeps_its_input() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let export = |out: &str| run(WORKER, &folder, &format!("export --model small.safetensors --format onnx -o {out}"));
    fs::write(path("old.onnx"), "old").unwrap();
    symlink("old.onnx", path("link")).unwrap();
    assert!(export("link").status.success());
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    let onnx = fs::read(path("old.onnx")).unwrap();
    assert!(onnx.len() > 1000);

    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = path("pipe");
        move || fs::read(pipe).unwrap()
    });
    assert!(export("pipe").status.success());
    assert!(reader.join().unwrap() == onnx && fs::symlink_metadata(path("pipe")).unwrap().file_type().is_fifo());

    // Its input, by that name and by others; a folder; a name that only a folder has.
    symlink("small.safetensors", path("same")).unwrap();
    let before = fs::read(path("small.safetensors")).unwrap();
    for (out, expected) in
        [("small.safetensors", "is an input"), ("same", "is an input"), ("set", "is a folder"), ("new/", "is a folder")]
    {
        let lines = [
            format!("export --model small.safetensors --format onnx -o {out}"),
            format!("quantise --model small.safetensors --dtype f16 -o {out}"),
            format!("train --arch small.safetensors --data data.yaml --epochs 1 --imgsz 64 -o {out}"),
        ];
        for line in lines {
            let output = run(WORKER, &folder, &line);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(9), "{line}\n{text}");
            assert!(text.contains(expected) && text.lines().filter(|l| l.starts_with("error")).count() == 1, "{text}");
        }
    }
    assert!(fs::read(path("small.safetensors")).unwrap() == before);
}

#[test]
fn saved_images_replace_neither_photos_nor_each_other() {
    let folder = folder();
    let photo = fs::read(folder.path().join("a/x.png")).unwrap();
    for binary in [WORKER, INFER] {
        let output = run(binary, &folder, "detect --model small.safetensors a/x.png --save a");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("would replace the image a/x.png"), "{text}");
        assert!(
            fs::read(folder.path().join("a/x.png")).unwrap() == photo && names(&folder.path().join("a")) == ["x.png"]
        );
        let out = if binary == WORKER { "one" } else { "two" };
        let line = format!("detect --model small.safetensors a/x.png b/x.png --score 0.01 --save {out}");
        assert!(run(binary, &folder, &line).status.success());
        assert_eq!(names(&folder.path().join(out)), ["x-2.png", "x.png"]);
    }
}

#[test]
fn detect_goes_on_after_what_it_cannot_use() {
    let folder = folder();
    fs::write(folder.path().join("b/broken.png"), "no image").unwrap();
    for binary in [WORKER, INFER] {
        let line = "detect --model small.safetensors none.png b a/*.png https://example.com/x.jpg v.mp4 --json";
        let output = run(binary, &folder, line);
        let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let images: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["image"].clone()).collect();
        assert_eq!(images, ["b/x.png", "a/x.png"]);
        assert_eq!(output.status.code(), Some(9));
        for part in [
            "error: none.png: No such file",
            "error: b/broken.png: not a readable",
            "nothing is downloaded",
            "v.mp4: is a video",
            "error: 4 of 6 images could not be used",
        ] {
            assert!(errors.contains(part), "`{part}` is not in\n{errors}");
        }
    }
}

/// A process whose standard output, and where asked for standard error, nobody reads.
fn into_closed_pipes(binary: &str, folder: &TempDir, line: &str, errors_too: bool) -> Output {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let mut command = std::process::Command::new(binary);
    command.current_dir(folder.path()).args(line.split_whitespace()).stdin(Stdio::null()).stdout(closed());
    let errors = if errors_too { closed() } else { Stdio::piped() };
    command.stderr(errors).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn a_closed_pipe_stops_no_job() {
    let folder = folder();
    let train = "train --arch small.safetensors --data data.yaml --epochs 1 --imgsz 64 -o";
    let detect = "detect --model small.safetensors a/x.png b/x.png --json --save";
    let cases = [
        (WORKER, "prune --latency-ratio 0.8 --dry-run".to_owned(), None),
        (WORKER, "prune --latency-ratio 0.8 --dry-run --message-format json".to_owned(), None),
        (WORKER, format!("{train} human.safetensors"), Some("human.safetensors")),
        (WORKER, format!("{train} json.safetensors --message-format json"), Some("json.safetensors")),
        (WORKER, format!("{detect} one"), Some("one/x-2.png")),
        (INFER, format!("{detect} two"), Some("two/x-2.png")),
        (INFER, "--help".to_owned(), None),
        (WORKER, "--help".to_owned(), None),
    ];
    for (binary, line, written) in cases {
        for errors_too in [false, true] {
            let output = into_closed_pipes(binary, &folder, &line, errors_too);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "{line}\n{text}");
            assert!(!text.contains("panicked"), "{line}\n{text}");
            if let Some(name) = written {
                fs::remove_file(folder.path().join(name)).unwrap_or_else(|e| panic!("{line}: {name}: {e}"));
            }
        }
    }
    // An error stays one, whoever reads of it.
    for format in ["human", "json"] {
        let line = format!("prune --profile none.toml --message-format {format}");
        assert_eq!(into_closed_pipes(WORKER, &folder, &line, true).status.code(), Some(3));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_on_standard_output_is_an_error_at_the_end() {
    let folder = folder();
    let cases = [
        (WORKER, "inspect --model small.safetensors", None),
        (WORKER, "detect --model small.safetensors a/x.png --json --save one", Some("one/x.png")),
        (WORKER, "train --arch small.safetensors --data data.yaml --epochs 1 --imgsz 64 -o new", Some("new")),
        (WORKER, "--help", None),
        (INFER, "info --model small.safetensors", None),
        (INFER, "detect --model small.safetensors a/x.png --save two", Some("two/x.png")),
        (INFER, "--help", None),
    ];
    for (binary, line, written) in cases {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(binary);
        command.current_dir(folder.path()).args(line.split_whitespace()).stdout(full);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(10), "{line}\n{text}");
        assert!(text.contains("error: standard output cannot be written: No space left"), "{line}\n{text}");
        assert!(written.is_none_or(|name| folder.path().join(name).exists()), "{line}");
    }
}

#[test]
fn names_that_are_no_utf8_leave_whole_lines_of_json() {
    let folder = folder();
    let name = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    fs::copy(folder.path().join("a/x.png"), folder.path().join(name(b"\xff\xfe.png"))).unwrap();
    let json = |binary: &str, arguments: &[&OsStr]| {
        let output = Command::new(binary).current_dir(folder.path()).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    let odd = OsStr::from_bytes(b"\xff\xfe.png");
    let arguments = |line: &'static str| line.split_whitespace().map(OsStr::new).collect::<Vec<_>>();
    let detect = [arguments("detect --model small.safetensors --json"), vec![odd]].concat();
    for binary in [WORKER, INFER] {
        assert_eq!(json(binary, &detect)["image"], "\u{fffd}\u{fffd}.png");
    }
    let prune = arguments("prune --latency-ratio 0.8 --dry-run --message-format json");
    let named =
        [arguments("--model"), vec![odd], arguments("--data"), vec![odd], arguments("--out"), vec![odd]].concat();
    // Whether or not it finds the model, what it says is JSON.
    let output = Command::new(WORKER).current_dir(folder.path()).args(prune).args(named).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()) && !text.is_empty(), "{text}");
    assert_ne!(output.status.code(), Some(101));
    let train =
        arguments("train --arch small.safetensors --data data.yaml --epochs 1 --imgsz 64 --message-format json -o");
    let out = OsStr::from_bytes(b"\xff.safetensors");
    assert_eq!(json(WORKER, &[train, vec![out]].concat())["output"], "\u{fffd}.safetensors");
    assert!(folder.path().join(out).exists());
}

#[test]
fn nothing_that_is_read_drives_the_terminal() {
    let folder = folder();
    let evil = "\x1b[2J\u{9b}31m\x07\u{202e}\r";
    let mut model = small_model();
    model.info.names = vec![format!("nut{evil}\nerror: false"), "bolt".into()];
    model.info.provenance.insert(format!("key{evil}"), format!("value{evil}\nnames: none"));
    for node in &mut model.graph.nodes {
        node.name = format!("{evil}{}", node.name);
    }
    model::save(&model, &folder.path().join("evil.safetensors")).unwrap();
    let file = format!("{evil}.png");
    fs::copy(folder.path().join("a/x.png"), folder.path().join(&file)).unwrap();
    fs::write(folder.path().join(format!("not{evil}.png")), "no image").unwrap();
    fs::write(folder.path().join("evil.yaml"), format!("path: set\nval: '{evil}'\n").replace('\n', "\r\n")).unwrap();
    let (broken, none) = (format!("not{evil}.png"), format!("none{evil}"));
    let cases: Vec<(&str, Vec<&str>)> = vec![
        (INFER, vec!["info", "--model", "evil.safetensors"]),
        (INFER, vec!["info", "--model", "evil.safetensors", "--json"]),
        (INFER, vec!["info", "--model", &none]),
        (INFER, vec![&none]),
        (INFER, vec!["bench", "--model", "evil.safetensors", "--runs", "1", "--warmup", "0", "--profile"]),
        (INFER, vec!["detect", "--model", "evil.safetensors", "--score", "0.01", &file, &broken, &none]),
        (WORKER, vec!["detect", "--model", "evil.safetensors", "--score", "0.01", &file, &broken, &none]),
        (WORKER, vec!["detect", "--model", "evil.safetensors", "--score", "0.01", "--json", &file]),
        (WORKER, vec!["inspect", "--model", "evil.safetensors", "--groups"]),
        (WORKER, vec!["eval", "--model", "small.safetensors", "--data", "evil.yaml"]),
        (WORKER, vec!["export", "--model", "evil.safetensors", "--format", &none, "-o", "x"]),
        (WORKER, vec!["train", "--arch", &none, "--data", &none, "-o", "x"]),
        (WORKER, vec!["prune", "--profile", &none, "--message-format", "json"]),
    ];
    for (binary, arguments) in cases {
        let output = Command::new(binary).current_dir(folder.path()).args(&arguments).output().unwrap();
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            let bad = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
            assert!(!text.contains(bad), "{arguments:?}\n{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("error: false") || line == "names: none"), "{text}");
        }
    }
}

#[test]
fn a_size_that_does_not_fit_is_told_alike_everywhere() {
    let folder = folder();
    let expected = "imgsz 500: expected a multiple of 32, for example 512";
    let model = "--model small.safetensors --imgsz 500";
    let lines = [
        (WORKER, format!("inspect {model}")),
        (WORKER, format!("bench {model}")),
        (WORKER, format!("detect {model} a/x.png")),
        (WORKER, format!("eval {model} --data data.yaml")),
        (WORKER, format!("export {model} --format onnx -o x")),
        (WORKER, format!("quantise {model} --dtype f16 -o x")),
        (WORKER, "train --arch small.safetensors --data data.yaml --imgsz 500 -o x".to_owned()),
        (WORKER, format!("prune {model} --data data.yaml --latency-ratio 0.8 --out out")),
        (INFER, format!("info {model}")),
        (INFER, format!("detect {model} a/x.png")),
        (INFER, format!("bench {model}")),
    ];
    for (binary, line) in lines {
        let output = run(binary, &folder, &line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}\n{text}");
        assert!(text.contains(expected), "{line}\n{text}");
    }
    let output = run(INFER, &folder, "info --model small.safetensors --imgsz 4090");
    assert!(String::from_utf8_lossy(&output.stderr).contains("for example 4096"));
}

#[test]
fn negative_numbers_are_values_that_are_refused_as_such() {
    let folder = folder();
    let train = "train --arch small.safetensors --data data.yaml -o x";
    let cases = [
        (WORKER, "prune --latency-ratio -0.5".to_owned(), "is -0.5, expected a number"),
        (WORKER, "prune --latency-ms -3".to_owned(), "is -3, expected"),
        (WORKER, "prune --params -3".to_owned(), "'-3' for '--params <N>'"),
        (WORKER, format!("{train} --lr -1"), "`lr` is -1"),
        (WORKER, format!("{train} --epochs -1"), "-1 is not in 0.."),
        (WORKER, format!("{train} --batch -1"), "-1 is not in 0.."),
        (
            WORKER,
            "detect --model small.safetensors a/x.png --score -1".to_owned(),
            "is -1, expected a number from 0 to 1",
        ),
        (WORKER, "bench --model small.safetensors --runs -2".to_owned(), "-2 is not in 1.."),
        (WORKER, "prune --latency-ratio 0.8 --floor nut=-1".to_owned(), "expected a number from 0 to 1"),
        (WORKER, "prune --latency-ratio 0.8 --floor nut=0".to_owned(), "is 0, expected a number more than 0"),
        (
            INFER,
            "detect --model small.safetensors a/x.png --score -1".to_owned(),
            "--score -1: expected a number from 0 to 1",
        ),
    ];
    for (binary, line, expected) in cases {
        let output = run(binary, &folder, &line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}\n{text}");
        assert!(text.contains(expected) && !text.contains("unexpected argument"), "{line}\n{text}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_killed_run_left_is_gone_after_the_next() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let drawn = |kill: bool| {
        let mut command = std::process::Command::new(WORKER);
        // So many that it is killed in the middle.
        let count = if kill { "drawn:20000" } else { "drawn:2" };
        command.current_dir(folder.path()).args(["train", "--arch", "yolo11:0.25,0.0625,256", "--data", count]);
        command.args(["--epochs", "1", "--imgsz", "32", "-o", "new/model"]).stderr(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        if kill {
            let begun = || names_or_none(&path("new/.cache")).iter().any(|name| name.starts_with(".secateurs-"));
            while !begun() {
                assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            child.kill().unwrap();
        }
        child.wait().unwrap().success()
    };
    assert!(!drawn(true));
    assert_eq!(names(&path("new/.cache")).len(), 1, "half a set");
    assert!(drawn(false));
    let left = names(&path("new/.cache"));
    assert!(left.iter().all(|name| name.starts_with("drawn-")) && !left.is_empty(), "{left:?}");
    assert_eq!(names(&path("new")), [".cache", "model", "model.results.csv"]);
}

fn names_or_none(folder: &Path) -> Vec<String> {
    if folder.exists() { names(folder) } else { Vec::new() }
}

#[test]
fn prune_takes_the_drawn_pictures_by_name_as_train_does() {
    let folder = folder();
    let prune = |data: &str| {
        let line = format!("prune --model small.safetensors --data {data} --latency-ratio 0.8 --out out");
        let output = run(WORKER, &folder, &line);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = prune("drawn:0");
    assert!(code == Some(2) && text.contains("from 1 to 1000000 behind `drawn:`"), "{text}");
    // It was drawn: its classes are known.
    let (code, text) = prune("drawn:2");
    assert!(code == Some(9) && text.contains("drawn:2 names 3 classes, small.safetensors knows 2"), "{text}");
}
