//! `secateurs::build`: a bundle that belongs to its workspace becomes a module that compiles and runs; any other is a build
//! error that names what changed and the command to run.

use crate::report::sample;
use secateurs::build::{BuildError, Embed, Embedded};
use secateurs::bundle::{
    BASELINE, BENCH, BINARY, FILES, Input, LOCK, LockedInputs, LockedTarget, MANIFEST, MODEL, Measured, PLAN, PROFILE,
    REPORT_HTML, REPORT_JSON, enter, seal, sha256, unsealed,
};
use secateurs::model::{self, FORMAT_VERSION};
use secateurs::report::Report;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names that are no identifiers, or the same one, or mean something to a compiler, a terminal or cargo.
const HOSTILE: [&str; 14] = [
    "Self",
    "self",
    "",
    "traffic light",
    "traffic_light",
    "2",
    "\"; fn main() {} //",
    "汽车",
    "caf\u{e9}",
    "cafe\u{301}",
    "\n\u{202e}cargo::error=x",
    "{} {0} \\u{41}",
    "Class",
    "class 2",
];

/// A workspace with a profile, a model and a bundle made from both.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.path("targets")).unwrap();
        fs::create_dir_all(world.path("out")).unwrap();
        fs::write(world.path("targets/jetson.toml"), "[budget]\nlatency-ms = 20\n").unwrap();
        fs::write(world.path("best.pt"), "weights").unwrap();
        world.prune("jetson", &demo(["disc", "square", "triangle"]), &sample(true));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Leaves the bundle and the entry of the lock that a run would.
    fn prune(&self, target: &str, model: &[u8], report: &Report) {
        let dist = self.path("dist").join(target);
        fs::create_dir_all(&dist).unwrap();
        let report = serde_json::to_vec_pretty(report).unwrap();
        let contents: [(&str, &[u8]); 8] = [
            (MODEL, model),
            (BASELINE, b"baseline"),
            (PLAN, b"plan"),
            (PROFILE, b"profile"),
            (REPORT_JSON, &report),
            (REPORT_HTML, b"page"),
            (BENCH, b"{}"),
            (BINARY, b"program"),
        ];
        let mut files = BTreeMap::new();
        for (name, content) in contents {
            fs::write(dist.join(name), content).unwrap();
            files.insert(name.to_owned(), sha256(content));
        }
        let manifest = json!({
            "digest": unsealed(), "version": "0.1.0", "target": target, "seed": 3, "files": files,
            "inputs": { "model": sha256(b"weights") },
        });
        let manifest = seal(&serde_json::to_string_pretty(&manifest).unwrap());
        fs::write(dist.join(MANIFEST), &manifest).unwrap();
        let input = |path: &str, content: &[u8]| Input { path: path.into(), sha256: sha256(content) };
        let profile = format!("targets/{target}.toml");
        let inputs = LockedInputs {
            version: "0.1.0".into(),
            seed: 3,
            features: Vec::new(),
            compiler: None,
            cuda: false,
            skip_bad_images: false,
            model: input("best.pt", b"weights"),
            data: None,
            profile_file: input(&profile, &fs::read(self.path(&profile)).unwrap_or_default()),
            profile: BTreeMap::new(),
        };
        files.retain(|name, _| [MODEL, BASELINE, PLAN, PROFILE, BINARY].contains(&name.as_str()));
        let entry = LockedTarget {
            inputs,
            imgsz: 160.into(),
            board: "board".into(),
            plan: BTreeMap::new(),
            files,
            manifest: sha256(manifest.as_bytes()),
            measured: Measured::default(),
        };
        enter(&self.path(LOCK), target, &entry).unwrap();
    }

    fn embed(&self, target: &str) -> Embed {
        Embed::new(target).root(self.path("")).out_dir(self.path("out"))
    }

    fn generate(&self) -> Result<Embedded, BuildError> {
        self.embed("jetson").generate()
    }

    /// The message of a build that fails; it must end with the command that mends it.
    fn refused(&self) -> String {
        let error = self.generate().unwrap_err();
        assert!(error.lines().iter().all(|line| !line.contains('\n')), "{error}");
        let message = error.to_string();
        let last = "run `cargo xtask prune --target jetson`, or set SECATEURS_PRUNE=1 to let the build do that";
        message.strip_suffix(last).unwrap_or_else(|| panic!("{message}")).replace(&*self.path("").to_string_lossy(), "")
    }
}

/// The demo's network, whose classes have other names.
fn demo(names: [&str; 3]) -> Vec<u8> {
    let bytes = include_bytes!("../../src/pipeline/demo.safetensors");
    let mut model = model::from_bytes(Path::new("demo"), bytes).unwrap();
    model.info.names = names.map(str::to_owned).to_vec();
    model::to_bytes(&model).unwrap()
}

/// A model file that has a head and no tensors.
fn head(names: &[&str], nc: usize, version: u32) -> Vec<u8> {
    let graph = json!({ "head": { "kind": "detect", "nc": nc } });
    let metadata = [
        ("secateurs.format".to_owned(), version.to_string()),
        ("secateurs.graph".to_owned(), graph.to_string()),
        ("secateurs.info".to_owned(), json!({ "names": names }).to_string()),
    ];
    safetensors::serialize(
        Vec::<(String, safetensors::tensor::TensorView)>::new(),
        Some(metadata.into_iter().collect()),
    )
    .unwrap()
}

/// A report of a run with frames enough for a bound of the 99th percentile.
fn measured(tuned: bool) -> Report {
    let mut report = sample(tuned);
    if let Some(latency) = &mut report.last_mut().latency {
        latency.p99_bound_ms = Some(latency.p99_ms + 0.25);
    }
    report
}

#[test]
fn figures_are_those_of_the_report() {
    let world = World::new();
    let text = |world: &World| fs::read_to_string(world.generate().unwrap().module).unwrap();
    for tuned in [true, false] {
        let report = measured(tuned);
        world.prune("jetson", &demo(["a", "b", "c"]), &report);
        let (module, last) = (text(&world), report.last());
        let latency = last.latency.as_ref().unwrap();
        for constant in [
            format!("IMGSZ: [usize; 2] = [{}, {}];", report.imgsz.height, report.imgsz.width),
            format!("THREADS: usize = {};", report.threads),
            format!("PEAK_BYTES: usize = {};", last.peak_memory_bytes),
            format!("LATENCY_P50_MS: f64 = {:?};", latency.p50_ms),
            format!("LATENCY_P99_MS: f64 = {:?};", latency.p99_bound_ms.unwrap()),
            format!("MODEL_SHA256: &str = \"{}\";", sha256(&demo(["a", "b", "c"]))),
        ] {
            assert!(module.contains(&constant), "{constant} in\n{module}");
        }
    }
    // No bound is claimed of too few frames, and nothing at all where nothing was measured on the device.
    let mut report = measured(true);
    report.last_mut().latency.as_mut().unwrap().p99_bound_ms = None;
    world.prune("jetson", &demo(["a", "b", "c"]), &report);
    let module = text(&world);
    assert!(
        module.contains("LATENCY_P50_MS: f64 = 2") && module.contains("LATENCY_P99_MS: f64 = f64::INFINITY;"),
        "{module}"
    );
    let mut report = measured(true);
    report.verdict.simulated = Some("emulated".into());
    world.prune("jetson", &demo(["a", "b", "c"]), &report);
    let module = text(&world);
    assert!(module.contains("LATENCY_P50_MS: f64 = f64::INFINITY;"), "{module}");
    assert!(module.contains("LATENCY_P99_MS: f64 = f64::INFINITY;"), "{module}");
}

#[test]
fn cargo_is_told_of_every_file_that_was_read() {
    let world = World::new();
    let Embedded { module, mut watched } = world.generate().unwrap();
    assert_eq!(module, world.path("out/jetson.rs"));
    assert_eq!(fs::read(world.path("out/jetson.safetensors")).unwrap(), demo(["disc", "square", "triangle"]));
    let bundle = FILES.iter().filter(|name| world.path("dist/jetson").join(name).exists());
    let mut expected: Vec<PathBuf> = bundle.map(|name| world.path("dist/jetson").join(name)).collect();
    expected.extend([LOCK, "targets/jetson.toml", "best.pt"].map(|name| world.path(name)));
    expected.sort();
    watched.sort();
    assert_eq!(watched, expected);
    // What is not in the repository is not asked for.
    fs::remove_file(world.path("best.pt")).unwrap();
    world.generate().unwrap();
    // A package that was unpacked has the bundle alone.
    fs::remove_file(world.path(LOCK)).unwrap();
    fs::remove_dir_all(world.path("targets")).unwrap();
    world.generate().unwrap();
}

#[test]
fn every_change_is_named() {
    let stale = "the bundle of jetson does not belong to what stands in this workspace:\n";
    type Change = fn(&World);
    let write = |world: &World, name: &str, text: &str| fs::write(world.path(name), text).unwrap();
    fn replace(world: &World, from: &str, to: &str) {
        let lock = fs::read_to_string(world.path(LOCK)).unwrap();
        assert!(lock.contains(from), "{lock}");
        fs::write(world.path(LOCK), lock.replace(from, to)).unwrap();
    }
    let cases: [(&str, Change); 7] = [
        ("targets/jetson.toml: the profile has changed", |w| fs::write(w.path("targets/jetson.toml"), "").unwrap()),
        ("best.pt: the model has changed", |w| fs::write(w.path("best.pt"), "weightz").unwrap()),
        ("dist/jetson/plan.toml: is another than secateurs.lock names", |w| {
            replace(w, &sha256(b"plan"), &sha256(b"plam"))
        }),
        ("dist/jetson/manifest.json: was made from another model than secateurs.lock names", |w| {
            fs::write(w.path("best.pt"), "new").unwrap();
            replace(w, &sha256(b"weights"), &sha256(b"new"));
        }),
        ("dist/jetson/manifest.json: was made with seed 3, another than secateurs.lock names", |w| {
            replace(w, "seed = 3", "seed = 4");
        }),
        ("secateurs.lock knows no target `jetson`", |w| {
            fs::remove_file(w.path(LOCK)).unwrap();
            w.prune("other", b"", &sample(true));
        }),
        ("secateurs.lock is missing: nothing says what the bundle was made from", |w| {
            fs::remove_file(w.path(LOCK)).unwrap();
        }),
    ];
    for (expected, change) in cases {
        let world = World::new();
        change(&world);
        let message = world.refused();
        assert!(message.starts_with(stale) && message.contains(expected), "{expected}: {message}");
    }
    let world = World::new();
    write(&world, LOCK, "lock-version = 99\n");
    assert!(world.generate().unwrap_err().to_string().contains("lock-version 99"));
}

#[test]
fn a_damaged_bundle_is_named_file_by_file() {
    let world = World::new();
    for name in [MODEL, BASELINE, PLAN, PROFILE, REPORT_JSON, REPORT_HTML, BENCH, BINARY, MANIFEST] {
        let path = world.path("dist/jetson").join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;
        fs::write(&path, &bad).unwrap();
        let message = world.refused();
        assert!(message.contains(&format!("dist/jetson/{name}: is ")), "{message}");
        fs::remove_file(&path).unwrap();
        let expected = match name {
            MANIFEST => "there is no bundle of jetson in dist/jetson\n".to_owned(),
            _ => format!("dist/jetson/{name}: is missing"),
        };
        let message = world.refused();
        assert!(message.contains(&expected), "{message}");
        fs::write(&path, &good).unwrap();
    }
    world.generate().unwrap();
    // An interrupted run, and a manifest that leads elsewhere.
    let manifest = |files: serde_json::Value| {
        let text = json!({ "digest": unsealed(), "version": "0.1.0", "seed": 3, "files": files, "inputs": {} });
        fs::write(world.path("dist/jetson").join(MANIFEST), seal(&text.to_string())).unwrap();
        world.refused()
    };
    assert!(manifest(json!({})).contains("secateurs-infer: is not in manifest.json: the run that wrote"));
    let message = manifest(json!({ "../../best.pt": sha256(b"weights"), "a\nb": "" }));
    assert!(message.contains("lists `../../best.pt`, which is not the name of a file"), "{message}");
    assert!(message.contains("lists `a\\nb`"), "{message}");
}

#[test]
fn what_cannot_be_used_is_said() {
    let world = World::new();
    let error = |model: &[u8]| {
        world.prune("jetson", model, &sample(true));
        world.generate().unwrap_err().to_string()
    };
    assert!(error(b"none").contains("model.safetensors: not a safetensors file"));
    assert!(error(&head(&[], 0, 1)).contains("has 0 classes, expected 1 to 100000"));
    assert!(error(&head(&[], usize::MAX, 1)).contains("classes, expected 1 to"));
    let newer = error(&head(&["a"], 1, FORMAT_VERSION + 1));
    assert!(newer.contains(&format!("this version of secateurs reads 1 to {FORMAT_VERSION}")), "{newer}");
    world.prune("jetson", &head(&["a"], 1, FORMAT_VERSION), &sample(true));
    world.generate().unwrap();
    for name in ["", "..", ".hidden", "a/b", "a\"b", "a b"] {
        let error = world.embed(name).generate().unwrap_err();
        assert!(matches!(error, BuildError::Name(_)), "{error}");
    }
}

/// The newest library with the runtime in it; cargo keeps those of other features beside it, such as xtask's.
fn library(deps: &Path) -> PathBuf {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libsecateurs-") && name.ends_with(".rlib") && {
            let part: &[u8] = b"8detector";
            fs::read(path).unwrap().windows(part.len()).any(|bytes| bytes == part)
        }
    };
    let all = fs::read_dir(deps).unwrap().map(|entry| entry.unwrap().path()).filter(is_library);
    all.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap()
}

#[test]
fn the_module_compiles_and_runs_whatever_the_classes_are_called() {
    let world = World::new();
    fs::write(world.path("targets/hostile.toml"), "").unwrap();
    world.prune("hostile", &head(&HOSTILE, HOSTILE.len() + 1, 1), &sample(false));
    world.prune("jetson", &demo(["disc", "", "disc!"]), &Report { imgsz: 160.into(), ..measured(true) });
    for target in ["jetson", "hostile"] {
        world.embed(target).generate().unwrap();
    }
    let program = r#"
        mod model { secateurs::model!("jetson"); }
        mod hostile { secateurs::model!("hostile"); }
        use secateurs::vision::{Frame, PixelFormat};
        const _: () = assert!(model::PEAK_BYTES <= 64 << 20 && model::LATENCY_P99_MS < 60.0);
        fn main() {
            let mut predictor = model::predictor().unwrap();
            let pixels = vec![114; 3 * 64 * 48];
            let frame = Frame::new(PixelFormat::Rgb, 64, 48, 3 * 64, &pixels).unwrap();
            let mut found = Vec::new();
            predictor.detect(&frame, &mut found).unwrap();
            println!("{} {:?} {:?}", found.len(), model::IMGSZ, model::Class::from_index(3));
            println!("{:?} {}", model::Class::Disc_0, model::Class::Class);
            for class in hostile::Class::ALL {
                assert_eq!(hostile::Class::from_index(class.index()), Some(class));
                println!("{}", class.name().escape_unicode());
            }
        }"#;
    fs::write(world.path("main.rs"), program).unwrap();
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-D", "warnings", "--crate-name", "camera", "-o"])
        .arg(world.path("camera"))
        .arg("--extern")
        .arg(format!("secateurs={}", library(&deps).display()))
        .arg("-L")
        .arg(format!("dependency={}", deps.display()))
        .arg(world.path("main.rs"))
        .env("OUT_DIR", world.path("out"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(world.path("camera")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<String> = HOSTILE.iter().map(|name| name.escape_unicode().to_string()).collect();
    let last = format!("class {}", HOSTILE.len()).escape_unicode().to_string();
    let expected = format!("0 [160, 160] None\nDisc_0 \n{}\n{last}\n", names.join("\n"));
    assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
