//! The folder of the results through a job's life: what is refused before it, what its verdict says, what the next run
//! replaces, and what `finish` refuses.

use assert_cmd::Command;
use secateurs::bundle::sha256;
use secateurs::data::demo;
use secateurs::profile;
use serde_json::Value;
use std::fs;
use std::path::Path;

pub(crate) fn worker(arguments: &[&str], folder: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    let output = command.current_dir(folder).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn demo_model() -> String {
    format!("{}/src/pipeline/demo.safetensors", env!("CARGO_MANIFEST_DIR"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// With and without `--dry-run`: what a run would refuse, a dry run refuses in the same words.
#[test]
fn what_can_be_refused_is_refused_before_any_work() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path();
    demo::write(&folder.join("set"), 8, 4).unwrap();
    demo::write(&folder.join("torn"), 8, 4).unwrap();
    let torn = fs::read_dir(folder.join("torn/images/val")).unwrap().next().unwrap().unwrap().path();
    fs::write(&torn, b"\x89PNG\r\n\x1a\nthis is no image").unwrap();
    fs::write(folder.join("photo.jpg"), "photo").unwrap();
    fs::create_dir_all(folder.join("mine")).unwrap();
    fs::write(folder.join("mine/report.json"), "mine").unwrap();
    fs::write(folder.join("zero.toml"), "[budget]\nlatency-ratio = 0\n").unwrap();
    let emulated =
        "[device]\ncore-gflops = 8.0\nbandwidth-gb-s = 8.0\n[connect]\nkind = 'command'\ncommand = ['qemu-x']\n";
    fs::write(folder.join("board.toml"), emulated).unwrap();
    fs::write(folder.join("gone.toml"), "[connect]\nkind = 'command'\ncommand = ['no-such-runner']\n").unwrap();
    fs::write(
        folder.join("command.toml"),
        "[bench]\nruntime = 'command'\ncommand = ['no-such-bench', '{model}']\n[device]\ncore-gflops = 8.0\n",
    )
    .unwrap();
    fs::copy(demo_model(), folder.join("own.safetensors")).unwrap();
    let model = "--model own.safetensors --imgsz 160";
    let before: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let cases = [
        ("--latency-ratio 0", 2, "is 0, expected a number more than 0, up to 1"),
        ("--profile zero.toml", 3, "`latency-ratio` is 0, expected a number more than 0, up to 1"),
        ("--latency-ratio 0.8 --out photo.jpg", 9, "photo.jpg: is a file, expected a folder"),
        ("--latency-ratio 0.8 --out photo.jpg/out", 9, "photo.jpg"),
        ("--latency-ratio 0.8 --out mine", 9, "mine/report.json: is no result of an earlier run"),
        ("--latency-ratio 0.8 --model none.pt --data set/data.yaml", 9, "none.pt: No such file"),
        ("--latency-ratio 0.8 --model own.safetensors --data none.yaml", 9, "none.yaml: No such file"),
        (&format!("--latency-ratio 0.8 {model} --data set/data.yaml --floor cube=0.9"), 9, "no class `cube`"),
        ("--latency-ratio 0.8 --imgsz 100", 2, "imgsz 100: expected a multiple of 32"),
        (
            &format!("--latency-ratio 0.8 {model} --data torn/data.yaml"),
            9,
            &torn.file_name().unwrap().to_string_lossy(),
        ),
        ("--latency-ratio 0.8 --profile command.toml", 9, "`no-such-bench` is in no folder of PATH"),
        ("--latency-ratio 0.8 --profile board.toml --require-device", 7, "cannot be measured on the device"),
    ];
    for (flags, code, expected) in cases {
        for more in [&[][..], &["--dry-run"]] {
            let arguments: Vec<&str> =
                ["prune"].into_iter().chain(flags.split_whitespace()).chain(more.iter().copied()).collect();
            let (found, text) = worker(&arguments, folder);
            assert_eq!(found, code, "{arguments:?}\n{text}");
            assert!(text.contains(expected), "{arguments:?}: `{expected}` is not in\n{text}");
            assert!(!text.contains("Loading") && !text.contains("internal error"), "{arguments:?}\n{text}");
        }
    }
    let (code, text) = worker(&["prune", "--latency-ratio=0.8", "--profile=gone.toml", "--dry-run"], folder);
    assert!(code == 7 && text.contains("no-such-runner"), "{code} {text}");
    let arguments = format!("prune --latency-ratio 0.8 {model} --data set/data.yaml --floor disc=0.5 --dry-run");
    let (code, text) = worker(&arguments.split_whitespace().collect::<Vec<_>>(), folder);
    assert!(code == 0 || text.contains("no class `disc`"), "{code} {text}");
    let _ = fs::remove_dir_all(folder.join("dist"));
    let mut after: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    after.retain(|name| !before.contains(name));
    assert!(after.is_empty(), "left behind: {after:?}");
}

/// A program that runs a model file as if it carried it, and carries it.
pub(crate) fn built(path: &Path, model: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let infer = env!("CARGO_BIN_EXE_secateurs-infer");
    let mut bytes = format!(
        "#!/bin/sh\nif [ \"$1\" = window ]; then exec {infer} \"$@\" --model {}; fi\nexec {infer} \"$@\"\nexit\n",
        model.display()
    )
    .into_bytes();
    bytes.extend(fs::read(model).unwrap());
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Everything that the manifest lists is what it says, and nothing else of ours lies there.
fn assert_whole(out: &Path, expected: &[&str]) {
    let manifest = json(&out.join("manifest.json"));
    let files = manifest["files"].as_object().unwrap();
    assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    for (name, hash) in files {
        assert_eq!(*hash, Value::from(sha256(&fs::read(out.join(name)).unwrap())), "{name}");
    }
}

const PRUNED: [&str; 6] =
    ["model.safetensors", "plan.toml", "profile.toml", "report.html", "report.json", "uncut.safetensors"];

/// No budget of time: what is missed is missed whatever else the machine does.
#[test]
fn a_missed_verdict_has_its_exit_code_and_the_next_run_replaces_the_whole_set() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path();
    let out = folder.join("out");
    fs::write(folder.join("strict.toml"), "[budget]\nmin-map = 1.0\n[bench]\nruns = 4\nwarmup = 0\nquiet = false\n")
        .unwrap();
    // A cache that cannot be written costs time, not the job.
    fs::write(folder.join("no-cache"), "").unwrap();
    let common = "prune --memory-mib 2.2 --epochs 0 --calibration-images 16 --out out";
    let arguments = format!("{common} --cache no-cache --profile strict.toml --threads 2");
    let (code, text) = worker(&arguments.split_whitespace().collect::<Vec<_>>(), folder);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("at least 1.0000: is missed") && text.contains("nothing is kept for the next run"), "{text}");
    assert_whole(&out, &PRUNED);
    let read = profile::read(&out.join("profile.toml")).unwrap();
    assert_eq!((read.device.threads, read.bench.runs, read.search.calibration_images), (2, 4, 16));

    // The profile of the target changes after the job; its verdict does not.
    fs::write(folder.join("strict.toml"), "[device]\nthreads = 1\n[bench]\nruns = 4\nquiet = false\n").unwrap();
    let binary = folder.join("built");
    built(&binary, &out.join("model.safetensors"));
    let finish = || worker(&["finish", "--out", "out", "--binary", "built"], folder);
    let (code, text) = finish();
    assert!(code == 6 && text.contains("at least 1.0000: is missed"), "{code} {text}");
    let finished = [&["bench.json"][..], &PRUNED[..5], &["secateurs-infer"], &PRUNED[5..]].concat();
    assert_whole(&out, &finished);
    assert_eq!(json(&out.join("bench.json"))["threads"], 2);
    assert_eq!(json(&out.join("report.json"))["threads"], 2);

    // Nothing is measured of a mixture.
    let original = |name: &str| fs::read(out.join(name)).unwrap();
    for (name, expected) in [
        ("model.safetensors", "model.safetensors: is not what the run wrote"),
        ("report.json", "report.json: is not what the run wrote"),
        ("profile.toml", "profile.toml: is not what the run wrote"),
    ] {
        let bytes = original(name);
        fs::write(out.join(name), [&bytes[..], b" "].concat()).unwrap();
        let (code, text) = finish();
        assert!(code == 9 && text.contains(expected) && !text.contains("Measuring"), "{code} {text}");
        fs::write(out.join(name), bytes).unwrap();
    }
    built(&binary, Path::new(&demo_model()));
    let (code, text) = finish();
    assert!(code == 9 && text.contains("built: carries another model"), "{code} {text}");

    // The next run's set has none of the old binary; what is the user's is kept.
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let arguments = format!("{common} --profile strict.toml");
    let (code, text) = worker(&arguments.split_whitespace().collect::<Vec<_>>(), folder);
    assert_eq!(code, 0, "{text}");
    assert_whole(&out, &PRUNED);
    assert!(!out.join("secateurs-infer").exists() && !out.join("bench.json").exists());
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    // Its own output is no input for the same folder.
    let arguments = "prune --memory-mib 2 --model out/model.safetensors --data out/.cache/none.yaml --out out";
    let (code, _) = worker(&arguments.split_whitespace().collect::<Vec<_>>(), folder);
    assert_eq!(code, 9);
}
