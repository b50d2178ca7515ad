//! `secateurs.lock` and `prune --locked`: the same inputs give the same bytes without a search, every other input is named
//! and refused, an interrupted run goes on from its plan, and two runs never share a folder.

use crate::harness::{Bench, SIDE, ended, listing, results};
use crate::results::{built, worker};
use secateurs::bundle::{self, BINARY, Lock, LockedTarget, MODEL};
use secateurs::data::demo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A share of the memory.
const BUDGET: f64 = 0.3;

/// The job of the harness with a lock, and more flags.
fn prune(bench: &Bench, out: &str, cache: &str, flags: &[&str]) -> Command {
    let mut command = bench.prune(BUDGET, out, cache);
    command.arg("--lock").arg(bench.path("secateurs.lock")).args(flags);
    command
}

fn run(bench: &Bench, out: &str, flags: &[&str]) -> (i32, String) {
    ended(&prune(bench, out, &format!("{out}-cache"), flags).output().unwrap())
}

fn entry(bench: &Bench) -> LockedTarget {
    let lock = Lock::read(&bench.path("secateurs.lock")).unwrap().unwrap();
    lock.target("board").unwrap().clone()
}

#[test]
fn a_locked_run_gives_the_same_bytes_without_a_search() {
    let bench = Bench::new();
    let (code, text) = run(&bench, "first", &["--locked"]);
    assert!(code == 3 && text.contains("there is no such file, and --locked needs one"), "{code} {text}");
    let (code, text) = run(&bench, "first", &[]);
    assert!(code == 0 && text.contains("Searching"), "{code} {text}");
    let model = |out: &str| fs::read(bench.path(out).join(MODEL)).unwrap();
    let first = entry(&bench);
    let listed = bundle::parse(&fs::read(bench.path("first/manifest.json")).unwrap()).unwrap();
    assert_eq!(first.files[MODEL], listed.files[MODEL]);
    assert_eq!(first.imgsz, SIDE.into());
    assert!(first.plan.values().any(|group| group.width < group.before), "{:?}", first.plan);
    assert_eq!(first.measured.simulated.as_deref(), Some("estimated"));
    assert_eq!(first.inputs.model.path, "in/model.safetensors");
    for out in ["second", "third"] {
        let (code, text) = run(&bench, out, &["--locked"]);
        assert!(code == 0 && text.contains("Applying") && !text.contains("Searching"), "{code} {text}");
        assert!(!text.contains("the loss of every group"), "{text}");
        assert!(model(out) == model("first"), "{out}: another model");
        let now = entry(&bench);
        assert_eq!((&now.files, &now.plan, &now.inputs), (&first.files, &first.plan, &first.inputs));
        assert_eq!(now.measured, first.measured);
    }
    // Another machine: here one with another name of its own. The plan is the same.
    let lock = bench.path("secateurs.lock");
    let elsewhere = fs::read_to_string(&lock).unwrap().replace("estimate for board", "another board");
    fs::write(&lock, elsewhere).unwrap();
    let (code, text) = run(&bench, "fourth", &["--locked"]);
    assert!(code == 0 && model("fourth") == model("first"), "{code} {text}");
}

/// Something that is changed, the flags of the run that must notice it, and what that must say.
struct Change {
    name: &'static str,
    change: fn(&Bench),
    flags: &'static [&'static str],
    expected: &'static [&'static str],
}

fn edit(bench: &Bench, file: &str, change: impl Fn(String) -> String) {
    let path = bench.path(file);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
}

/// The first file of a folder, by name.
fn first_in(folder: PathBuf) -> PathBuf {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).min().unwrap()
}

const CHANGES: [Change; 15] = [
    Change {
        name: "a byte of the model",
        change: |bench| {
            let path = bench.path("in/model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            // The lowest bits of the last weight.
            let at = bytes.len() - 4;
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        flags: &[],
        expected: &["  model: in/model.safetensors (SHA-256 "],
    },
    Change {
        name: "one label of a training picture",
        change: |bench| {
            let path = first_in(bench.path("in/data/labels/train"));
            let text = fs::read_to_string(&path).unwrap();
            let class = if text.starts_with('0') { "1" } else { "0" };
            fs::write(path, class.to_owned() + &text[1..]).unwrap();
        },
        flags: &[],
        expected: &["  data (pictures, labels, classes): "],
    },
    Change {
        name: "one label of a validation picture",
        change: |bench| {
            let path = first_in(bench.path("in/data/labels/val"));
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text + "1 0.5 0.5 0.125 0.0625\n").unwrap();
        },
        flags: &[],
        expected: &["  data (pictures, labels, classes): "],
    },
    Change {
        name: "a picture",
        change: |bench| {
            let folder = bench.path("in/data/images");
            fs::copy(first_in(folder.join("val")), first_in(folder.join("train"))).unwrap();
        },
        flags: &[],
        expected: &["  data (pictures, labels, classes): "],
    },
    Change {
        name: "annotations",
        change: |bench| {
            let images = fs::read_dir(bench.path("in/data/images/val")).unwrap().enumerate().map(|(id, entry)| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                serde_json::json!({ "id": id, "file_name": name, "width": 160, "height": 160 })
            });
            let categories = demo::NAMES.iter().enumerate();
            let categories = categories.map(|(id, name)| serde_json::json!({ "id": id + 1, "name": name }));
            let object = serde_json::json!({ "id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 40, 40],
                "area": 1600, "iscrowd": 0 });
            let json = serde_json::json!({ "images": images.collect::<Vec<_>>(),
                "categories": categories.collect::<Vec<_>>(), "annotations": [object] });
            fs::create_dir_all(bench.path("in/data/annotations")).unwrap();
            fs::write(bench.path("in/data/annotations/instances_val.json"), json.to_string()).unwrap();
        },
        flags: &[],
        expected: &["  data (pictures, labels, classes): "],
    },
    Change {
        name: "a key of the profile",
        change: |bench| edit(bench, "in/board.toml", |text| text.replace("core-gflops = 8.0", "core-gflops = 9.0")),
        flags: &[],
        expected: &[
            "  profile device.core-gflops: 8.0 is locked, now 9.0",
            "  file of the profile: in/board.toml (SHA-256 ",
        ],
    },
    Change {
        name: "a comment in the profile",
        change: |bench| edit(bench, "in/board.toml", |text| text + "# a word\n"),
        flags: &[],
        expected: &["  file of the profile: in/board.toml (SHA-256 "],
    },
    Change {
        name: "a feature of the binary",
        change: |bench| edit(bench, "in/board.toml", |text| text.replacen("[device]", "[device]\nfeatures = ['x']", 1)),
        flags: &[],
        expected: &[
            "  features of the inference binary: nothing is locked, now x",
            "  profile device.features: nothing is locked, now [\"x\"]",
            "  file of the profile: in/board.toml (SHA-256 ",
        ],
    },
    Change {
        name: "two flags and the seed",
        change: |_| (),
        flags: &["--seed", "7", "--dtype", "f16", "--importance", "l1"],
        expected: &[
            "  seed: 0 is locked, now 7",
            "  profile model.dtype: \"f32\" is locked, now \"f16\"",
            "  profile search.importance: \"reconstruction\" is locked, now \"l1\"",
        ],
    },
    Change {
        name: "the version",
        change: |bench| {
            let old = format!("version = \"{}\"\n", env!("CARGO_PKG_VERSION"));
            edit(bench, "secateurs.lock", |text| text.replace(&old, "version = \"0.0.9\"\n"));
        },
        flags: &[],
        expected: &[concat!("  version of secateurs: 0.0.9 is locked, now ", env!("CARGO_PKG_VERSION"))],
    },
    Change {
        name: "the compiler",
        change: |bench| {
            edit(bench, "secateurs.lock", |text| text.replace("cuda = false", "compiler = \"rustc 1\"\ncuda = false"))
        },
        flags: &["--compiler", "rustc 2"],
        expected: &["  compiler: rustc 1 is locked, now rustc 2"],
    },
    Change {
        name: "where it computes",
        change: |bench| edit(bench, "secateurs.lock", |text| text.replace("cuda = false", "cuda = true")),
        flags: &[],
        expected: &["  --cuda: true is locked, now false"],
    },
    Change {
        name: "pictures that may be left out",
        change: |_| (),
        flags: &["--skip-bad-images"],
        expected: &["  --skip-bad-images: false is locked, now true"],
    },
    Change {
        name: "a class",
        change: |bench| {
            let yaml = fs::read_dir(bench.path("in/data")).unwrap().map(|entry| entry.unwrap().path());
            let yaml = yaml.into_iter().find(|path| path.extension().is_some_and(|e| e == "yaml")).unwrap();
            fs::write(&yaml, fs::read_to_string(&yaml).unwrap().replace("disc", "disk")).unwrap();
        },
        flags: &[],
        expected: &["  data (pictures, labels, classes): "],
    },
    Change {
        name: "the target",
        change: |bench| {
            edit(bench, "secateurs.lock", |text| text.replace("[target.board", "[target.other"));
        },
        flags: &[],
        expected: &["has no target `board`, only other"],
    },
];

#[test]
fn every_kind_of_change_is_named_and_refused() {
    let original = Bench::new();
    let (code, text) = run(&original, "first", &[]);
    assert_eq!(code, 0, "{text}");
    for Change { name, change, flags, expected } in CHANGES {
        let bench = Bench::new();
        // Paths are relative to the lock.
        fs::copy(original.path("secateurs.lock"), bench.path("secateurs.lock")).unwrap();
        change(&bench);
        for more in [&[][..], &["--dry-run"]] {
            let (code, text) = run(&bench, "out", &[&["--locked"], flags, more].concat());
            assert_eq!(code, 3, "{name}: {text}");
            let lines = text.lines().filter(|line| line.contains(" is locked, now ")).count();
            let named = expected.iter().filter(|line| line.contains("  ")).count();
            assert!(expected.iter().all(|line| text.contains(line)) && lines == named, "{name}: {text}");
            assert!(!bench.path("out").exists(), "{name}");
        }
    }
}

/// Waits for a file of the cache whose name begins so.
fn wait_for(cache: &Path, prefix: &str) {
    let start = Instant::now();
    while !listing(cache).iter().any(|name| name.starts_with(prefix) && !name.ends_with(".tmp")) {
        assert!(start.elapsed() < Duration::from_secs(120), "no {prefix} in {:?}", listing(cache));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interrupted_run_goes_on_from_its_plan() {
    let bench = Bench::new();
    let cache = bench.path("cache");
    let mut child = prune(&bench, "out", "cache", &[]).spawn().unwrap();
    wait_for(&cache, "plan-");
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "it ended before it was killed");
    // What else would lead to the same plan is gone.
    for name in listing(&cache).iter().filter(|name| name.starts_with("importance-") || name.starts_with("latency-")) {
        fs::remove_file(cache.join(name)).unwrap();
    }
    let (code, text) = ended(&prune(&bench, "out", "cache", &[]).output().unwrap());
    assert!(code == 0 && text.contains("was interrupted: its plan is taken"), "{code} {text}");
    assert!(!text.contains("Searching") && !text.contains("the loss of every group"), "{text}");
    assert!(!listing(&cache).iter().any(|name| name.starts_with("plan-")), "{:?}", listing(&cache));
    // The next run is a new one.
    let (code, text) = ended(&prune(&bench, "again", "cache", &[]).output().unwrap());
    assert!(code == 0 && text.contains("Searching") && !text.contains("interrupted"), "{code} {text}");
    let same = |name: &str| {
        fs::read(bench.path("out").join(name)).unwrap() == fs::read(bench.path("again").join(name)).unwrap()
    };
    assert!(same("model.safetensors") && same("plan.toml"));
    // Other inputs do not take it.
    let mut child = prune(&bench, "out", "cache", &["--seed", "3"]).spawn().unwrap();
    wait_for(&cache, "plan-");
    child.kill().unwrap();
    child.wait().unwrap();
    let (code, text) = ended(&prune(&bench, "out", "cache", &["--seed", "4"]).output().unwrap());
    assert!(code == 0 && text.contains("Searching") && !text.contains("interrupted"), "{code} {text}");
}

#[test]
fn of_two_runs_into_one_folder_one_wins() {
    let bench = Bench::new();
    let children = ["a", "b"].map(|cache| {
        let mut command = bench.prune(BUDGET, "out", cache);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let ends = children.map(|child| ended(&child.wait_with_output().unwrap()));
    let won = ends.iter().filter(|(code, _)| *code == 0).count();
    assert!(won >= 1, "{ends:?}");
    for (code, text) in ends.iter().filter(|(code, _)| *code != 0) {
        assert!(*code == 9 && text.contains("another run of secateurs writes there"), "{code} {text}");
    }
    assert!(results(&bench.path("out")).is_some_and(|results| results.wrong.is_empty()));
    let beside: Vec<String> = listing(&bench.path("")).into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(beside.is_empty(), "{beside:?}");
}

/// `prune --first-stage` and `finish --held`, as the driver calls them: the folder changes once, and is whole then.
#[test]
fn two_stages_enter_the_whole_bundle_into_the_lock() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path();
    fs::write(folder.join("host.toml"), "[bench]\nruns = 4\nwarmup = 0\nquiet = false\n").unwrap();
    let first = "prune --profile host.toml --memory-mib 2.2 --epochs 0 --calibration-images 16 --cache cache --out dist/x \
                 --lock secateurs.lock --first-stage";
    let (code, text) = worker(&first.split_whitespace().collect::<Vec<_>>(), folder);
    assert_eq!(code, 0, "{text}");
    assert!(!folder.join("dist/x").exists() && !folder.join("secateurs.lock").exists());
    let staged = folder.join("dist/.x.new").join(MODEL);
    built(&folder.join("built"), &staged);
    let finish = "finish --held --out dist/x --binary built --lock secateurs.lock";
    let (code, text) = worker(&finish.split_whitespace().collect::<Vec<_>>(), folder);
    assert_eq!(code, 0, "{text}");
    let whole = bundle::verify(&folder.join("dist/x")).unwrap();
    assert_eq!(listing(&folder.join("dist")).iter().filter(|name| name.starts_with('.')).count(), 0);
    let lock = Lock::read(&folder.join("secateurs.lock")).unwrap().unwrap();
    let target = lock.target("host").unwrap();
    for name in [MODEL, BINARY] {
        assert_eq!(target.files[name], whole.listed.files[name], "{name}");
    }
    assert_eq!(target.manifest, bundle::sha256(&fs::read(folder.join("dist/x/manifest.json")).unwrap()));
    assert_eq!(target.measured, bundle::measured(&whole.report));
    assert!(target.measured.p50_ms.is_some() && target.measured.latency_ratio.is_some());
    assert_eq!((target.inputs.model.path.as_str(), target.inputs.profile_file.path.as_str()), ("demo", "host.toml"));
    assert!(!listing(&folder.join("cache")).iter().any(|name| name.starts_with("plan-")));
    // The other target's lines stay.
    let before = fs::read_to_string(folder.join("secateurs.lock")).unwrap();
    bundle::enter(&folder.join("secateurs.lock"), "zz", target).unwrap();
    assert!(fs::read_to_string(folder.join("secateurs.lock")).unwrap().starts_with(&before));
}
