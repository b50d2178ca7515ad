//! Other runtimes on a device: TensorRT by a stand-in for `trtexec` that takes its options, writes its files and fails as
//! it does; ONNX Runtime by the real one.

use crate::cli::small_model;
use crate::onnx::python;
use secateurs::data::{Dataset, demo};
use secateurs::device::DeviceError;
use secateurs::engine::LeastTimes;
use secateurs::eval::{Prepared, evaluate_model};
use secateurs::graph::Dtype;
use secateurs::model::{self, Model};
use secateurs::profile::{self, Profile};
use secateurs::quantise::{quantise, ranges, symmetric, to_f16};
use secateurs::runtimes::{Runtime, RuntimeError};
use secateurs::size::ImageSize;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A device with the stand-in on it: this machine.
pub(crate) struct Device {
    pub folder: TempDir,
}

impl Device {
    pub fn new() -> Self {
        let device = Self { folder: tempfile::tempdir().unwrap() };
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/stand_in/trtexec"), device.trtexec()).unwrap();
        fs::set_permissions(device.trtexec(), fs::Permissions::from_mode(0o755)).unwrap();
        device
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn trtexec(&self) -> PathBuf {
        self.path("trtexec")
    }

    /// What the stand-in is: its version, how it computes outputs, how it fails.
    pub fn is(&self, lines: &[&str]) {
        fs::write(self.path("trtexec.mode"), lines.join("\n") + "\n").unwrap();
    }

    /// The stand-in computes outputs in ONNX Runtime.
    pub fn computes_by(&self, python: &OsString) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtimes/run_onnxruntime.py");
        self.is(&[&format!("python {}", python.to_string_lossy()), &format!("script {}", script.display())]);
    }

    /// The calls of the stand-in whose arguments have a part.
    pub fn calls(&self, part: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path("trtexec.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    pub fn bench(&self) -> String {
        let (program, engines) = (self.trtexec(), self.path("engines"));
        format!(
            "[bench]\nruns = 150\nquiet = false\nruntime = 'tensorrt'\nprogram = '{}'\nengines = '{}'\n",
            program.display(),
            engines.display()
        )
    }

    fn profile(&self) -> Profile {
        profile::parse(Path::new("board.toml"), &self.bench()).unwrap()
    }

    fn open(&self) -> Runtime {
        Runtime::open(&self.profile(), None).unwrap()
    }
}

const SIZE: ImageSize = ImageSize::square(64);

fn small_int8() -> Model {
    let model = small_model();
    let found = ranges(&model, &[vec![0.5; 3 * 32 * 32]], (32, 32), &mut |_, _| ()).unwrap();
    quantise(&model, &symmetric(&found))
}

/// Scenarios 1 to 3: what it is; an engine is built once for what it is made of; each dtype by its flags.
#[test]
fn engines_are_built_by_dtype_and_kept_by_content() {
    let device = Device::new();
    device.is(&["version v8601"]);
    let runtime = device.open();
    assert_eq!(runtime.name(), "TensorRT 8.6.1");
    assert!(runtime.fingerprint().contains("TensorRT 8.6.1") && runtime.simulated().is_none());
    let builds = || device.calls("--saveEngine").len();
    let f32 = small_model();
    runtime.network(&f32, SIZE).unwrap();
    runtime.network(&f32, SIZE).unwrap();
    assert_eq!(builds(), 1, "the same network is built once");
    // Another process finds it as well.
    device.open().network(&f32, SIZE).unwrap();
    assert_eq!(builds(), 1);
    runtime.network(&f32, [96, 64].into()).unwrap();
    runtime.network(&to_f16(&f32), SIZE).unwrap();
    runtime.network(&small_int8(), [32, 32].into()).unwrap();
    let mut mixed = small_int8();
    let (layer, _) = mixed.info.ranges.pop_first().unwrap();
    mixed.graph.exceptions.insert(layer.clone(), Dtype::F32);
    runtime.network(&mixed, [32, 32].into()).unwrap();
    let calls = device.calls("--saveEngine");
    let flags = |at: usize| {
        let parts = calls[at].split(' ').skip_while(|part| !part.starts_with("--warmUp")).skip(1);
        parts.collect::<Vec<_>>().join(" ")
    };
    assert_eq!([flags(0), flags(1), flags(2), flags(3)], ["", "", "--fp16", "--int8 --fp16"]);
    let held = format!("--layerPrecisions={layer}:fp32,{layer}/linear:fp32");
    assert_eq!(flags(4), format!("--int8 --fp16 --precisionConstraints=obey {held}"));
    assert_eq!(fs::read_dir(device.path("engines")).unwrap().count(), 5, "nothing but engines is left there");
    // Another version of TensorRT builds anew.
    device.is(&["version v100300"]);
    let newer = device.open();
    assert_eq!(newer.name(), "TensorRT 10.3.0");
    newer.network(&f32, SIZE).unwrap();
    assert_eq!(builds(), 6);
    // Of many engines those that were used last stay.
    for at in 0..70 {
        fs::write(device.path(&format!("engines/{at:064x}.plan")), "old").unwrap();
    }
    fs::write(device.path("engines/notes.txt"), "mine").unwrap();
    newer.network(&f32, [64, 96].into()).unwrap();
    assert_eq!(fs::read_dir(device.path("engines")).unwrap().count(), 64 + 1);
    assert!(device.path("engines/notes.txt").exists());
}

/// Scenarios 4 and 5: frames of two networks in windows, and the layers of one.
#[test]
fn frames_and_layers_are_those_that_trtexec_writes() {
    let device = Device::new();
    let runtime = device.open();
    let (f32, f16) = (small_model(), to_f16(&small_model()));
    let [one, two] = [&f32, &f16].map(|model| runtime.network(model, SIZE).unwrap());
    let mut seen = Vec::new();
    let (pair, in_turn) = runtime.pair(&one, &two, 250, 5, &mut |done, all| seen.push((done, all))).unwrap();
    assert!(!in_turn && seen == [(84, 250), (167, 250), (250, 250)], "{seen:?}");
    assert_eq!((pair.a.runs, pair.b.runs), [250, 250].into());
    assert!((pair.ratio - 0.5).abs() < 0.02 && pair.a.p50_bound_ms.is_some(), "{pair:?}");
    // Neither network always comes first.
    let order: Vec<String> = device.calls("--exportTimes").iter().map(|call| call[..60].to_owned()).collect();
    assert!(order.len() == 6 && order[0] == order[3] && order[1] == order[2], "{order:?}");
    let LeastTimes { nodes, frame, frames } = runtime.layers(&one, 5).unwrap();
    let median = pair.a.p50_ms;
    assert!(frames.len() == 100 && frame > 0.7 * median && frame < 0.9 * median, "{frame} of {median}");
    let timed = |name: &str| nodes[f32.graph.find(name).unwrap().index()];
    assert!(timed("model.0") > timed("model.1") && timed("model.1") > 0.0, "the copy before a layer is its time, too");
    assert!(nodes[0] == 0.0 && (nodes.iter().sum::<f64>() - frame).abs() < 1e-9);
}

/// Scenario 6: the accuracy is that of the outputs there.
#[test]
fn the_accuracy_is_that_of_the_runtimes_outputs() {
    let Some(python) = python() else { return };
    let device = Device::new();
    device.computes_by(&python);
    let runtime = device.open();
    let (model, val) = demo_detector(&device);
    let ours = evaluate_model(&model, &val, 160, 2, &|_| {}).unwrap().map50_95;
    let theirs = accuracy_in(&runtime, &model, &val);
    assert!(ours > 0.4 && (ours - theirs).abs() < 0.003, "{ours} here, {theirs} there");
    // Images come and go: nothing of them is left.
    let left: Vec<_> = fs::read_dir(device.path("engines")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// The embedded demo and its validation images.
fn demo_detector(device: &Device) -> (Model, Dataset) {
    let yaml = demo::write(&device.path("set"), 2, 16).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/demo.safetensors");
    (model::load(&model).unwrap(), Dataset::open(&yaml, "val").unwrap())
}

fn accuracy_in(runtime: &Runtime, model: &Model, val: &Dataset) -> f64 {
    let prepared = Prepared::new(val, 160).unwrap();
    let network = runtime.network(model, [160, 160].into()).unwrap();
    let run = &mut |inputs: &[Vec<f32>]| Ok::<_, Box<dyn Error>>(runtime.outputs(&network, inputs)?);
    let found = prepared.find_by(model, &network.head(), run).unwrap();
    prepared.score(&found).map50_95
}

/// Scenarios 7 to 12: each failure of a build or a run is told by what it is.
#[test]
fn failures_are_told_by_what_they_are() {
    let model = small_model();
    let failure = |modes: &[&str]| {
        let device = Device::new();
        let runtime = device.open();
        let kept = runtime.network(&model, [32, 32].into()).unwrap();
        device.is(modes);
        let built = runtime.network(&model, SIZE).map(|_| ());
        let frames = runtime.pair(&kept, &kept, 10, 0, &mut |_, _| ()).map(|_| ());
        let left = fs::read_dir(device.path("engines")).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().contains("part")), "{modes:?}");
        built.and(frames).unwrap_err()
    };
    let cases = [
        ("broken", "TensorRT builds no engine of the network: Error[2]: [optimizer.cpp"),
        ("memory-build", "TensorRT ran out of memory on the device: Error[2]: [virtualMemoryBuffer.cpp"),
        ("killed", "TensorRT ran out of memory on the device: ended with code 137"),
        ("unsupported", "TensorRT does not take the layer `model.0/gate` (Sigmoid)"),
        ("no-kernel", "TensorRT does not take the layer `{ForeignNode[model.0/gate...model.1]}`"),
        ("memory-run", "TensorRT ran out of memory on the device: Error[2]: [executionContext.cpp"),
        ("fault", "TensorRT does not run the network: Cuda failure: an illegal memory access"),
        ("garbage", "TensorRT: its output cannot be read: expected `,`"),
        ("nan", "TensorRT: its output cannot be read: invalid number"),
        ("flood", "the device printed more than"),
    ];
    for (mode, expected) in cases {
        let error = failure(&[mode]).to_string();
        assert!(error.contains(expected), "{mode}: {error}");
    }
}

/// Scenario 13: an engine that is gone, or of another version, is built again; where that does not help, that is told.
#[test]
fn an_engine_that_is_gone_or_stale_is_built_again() {
    let device = Device::new();
    let runtime = device.open();
    let network = runtime.network(&small_model(), SIZE).unwrap();
    let time = || runtime.pair(&network, &network, 10, 0, &mut |_, _| ());
    let engine = fs::read_dir(device.path("engines")).unwrap().next().unwrap().unwrap().path();
    let spoils: [&dyn Fn(&Path) -> std::io::Result<()>; 2] =
        [&|path| fs::remove_file(path), &|path| fs::write(path, "PLAN of another version\n")];
    for spoil in spoils {
        spoil(&engine).unwrap();
        let before = device.calls("--saveEngine").len();
        time().unwrap();
        assert_eq!(device.calls("--saveEngine").len(), before + 1);
    }
    device.is(&["stale"]);
    // The build loads what it has built.
    assert!(matches!(time(), Err(RuntimeError::NotKept { .. } | RuntimeError::Build { .. })));
}

/// Scenario 14: it is not there, or something else is.
#[test]
fn a_device_without_the_runtime_says_how_to_install_it() {
    let device = Device::new();
    let mut profile = device.profile();
    profile.bench.program = Some("/no/such/trtexec".into());
    let refused = |profile: &Profile| Runtime::open(profile, None).unwrap_err().to_string();
    let error = refused(&profile);
    assert!(error.contains("TensorRT is not on the device") && error.contains("apt-get install tensorrt"), "{error}");
    profile.bench.program = Some("/bin/true".into());
    assert!(refused(&profile).contains("no version in what it says of itself"));
    profile.bench.runtime = profile::RuntimeKind::OnnxRuntime;
    profile.bench.program = Some("/no/such/python".into());
    assert!(refused(&profile).contains("pip install onnxruntime"));
    // A Python without the package.
    profile.bench.program = Some(device.path("python").to_string_lossy().into_owned());
    fs::write(device.path("python"), "#!/bin/sh\necho \"No module named 'onnxruntime'\" >&2\nexit 60\n").unwrap();
    fs::set_permissions(device.path("python"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(&profile).contains("No module named 'onnxruntime'"));
    profile.bench.runtime = profile::RuntimeKind::Ncnn;
    assert!(refused(&profile).contains("pip install ncnn pnnx"));
}

/// Scenario 15: a connection that drops; names that a shell could misread.
#[test]
fn over_ssh_a_question_survives_a_drop_and_names_are_no_commands() {
    let device = Device::new();
    let odd = "it's \"mine\"; touch pwned; $(touch pwned) `touch pwned`";
    let home = device.path("home");
    fs::create_dir_all(home.join(odd)).unwrap();
    let place = home.join(odd).join("trtexec");
    fs::copy(device.path("trtexec"), &place).unwrap();
    // The last argument is the script; the device is this machine. Connections drop by the number in a file.
    let ssh = format!(
        "#!/bin/sh\nfor last; do :; done\nn=$(cat '{0}/drops' 2>/dev/null || echo 0)\n[ \"$n\" = 1000 ] && exit 255\ncase \"$last\" in *trtexec*)\n  \
         if [ \"$n\" -gt 0 ]; then echo $((n - 1)) > '{0}/drops'; exit 255; fi ;;\nesac\ncd '{1}' && exec sh -c \"$last\"\n",
        device.folder.path().display(),
        home.display()
    );
    fs::create_dir_all(device.path("bin")).unwrap();
    fs::write(device.path("bin/ssh"), ssh).unwrap();
    fs::set_permissions(device.path("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let engines = format!("{}/engines", home.join(odd).display());
    let text = format!(
        "[device]\nname = 'board'\n[connect]\nkind = 'ssh'\nhost = 'board'\n[budget]\nmemory-mib = 9\n[bench]\nruntime = \
         'tensorrt'\nprogram = {}\nengines = {}\n",
        toml::Value::from(place.to_string_lossy().into_owned()),
        toml::Value::from(engines.clone())
    );
    fs::write(device.path("board.toml"), text).unwrap();
    let run = |drops: usize, more: &str| {
        fs::write(device.path("drops"), drops.to_string()).unwrap();
        let path = format!("{}:{}", device.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_secateurs"));
        command.current_dir(device.folder.path()).env("PATH", path);
        let output = command.args(more.split_whitespace()).args(["--profile", "board.toml"]).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    };
    for drops in [0, 1, 2] {
        let (code, text) = run(drops, "driver runtime");
        assert!(code == 0 && text.contains("TensorRT 10.3.0"), "{drops} drops: {code} {text}");
    }
    let (code, text) = run(1000, "driver runtime");
    assert!(code == 7 && text.contains("board: cannot be reached"), "{code} {text}");
    let pwned = |folder: &Path| fs::read_dir(folder).unwrap().flatten().any(|e| e.file_name() == "pwned");
    assert!(!pwned(&home) && !pwned(&home.join(odd)) && !pwned(device.folder.path()));
}

/// A device that is lost in the middle is lost, whatever runs there.
#[test]
fn a_lost_device_is_no_failure_of_the_runtime() {
    let device = Device::new();
    let mut profile = device.profile();
    profile.connect = profile::Connect::Command { command: vec!["/no/such/runner".into()] };
    let error = Runtime::open(&profile, None).unwrap_err();
    assert!(matches!(error, RuntimeError::Device(DeviceError::Start { .. })), "{error}");
}

/// The real ONNX Runtime: frames in turn, layers, and the accuracy of f32 and int8.
#[test]
fn onnx_runtime_is_driven_as_tensorrt_is() {
    let Some(python) = python() else { return };
    let device = Device::new();
    let text = format!("[bench]\nquiet = false\nruntime = 'onnxruntime'\nprogram = '{}'\n", python.to_string_lossy());
    let runtime = Runtime::open(&profile::parse(Path::new("board.toml"), &text).unwrap(), None).unwrap();
    assert!(runtime.name().starts_with("ONNX Runtime 1.") && runtime.fingerprint().contains("CPUExecutionProvider"));
    let (model, val) = demo_detector(&device);
    let network = runtime.network(&model, [160, 160].into()).unwrap();
    let (pair, in_turn) = runtime.pair(&network, &network, 40, 3, &mut |_, _| ()).unwrap();
    assert!(in_turn && pair.a.runs == 40 && pair.a.p50_ms > 0.05, "{pair:?}");
    let times = runtime.layers(&network, 3).unwrap();
    let convs = model.graph.convs().filter(|(id, _)| times.nodes[id.index()] > 0.0).count();
    assert!(convs * 10 >= 9 * model.graph.convs().count(), "{convs} of {} convolutions", model.graph.convs().count());
    let ours = evaluate_model(&model, &val, 160, 2, &|_| {}).unwrap().map50_95;
    let theirs = accuracy_in(&runtime, &model, &val);
    assert!(ours > 0.4 && (ours - theirs).abs() < 0.003, "{ours} here, {theirs} there");
}

/// ncnn where it is installed; where it is not, that is told.
#[test]
fn ncnn_is_driven_or_told_to_be_missing() {
    let Some(python) = python() else { return };
    let device = Device::new();
    let text = format!(
        "[bench]\nquiet = false\nruntime = 'ncnn'\nprogram = '{}'\nengines = '{}'\n",
        python.to_string_lossy(),
        device.path("ncnn").display()
    );
    let runtime = match Runtime::open(&profile::parse(Path::new("board.toml"), &text).unwrap(), None) {
        Ok(runtime) => runtime,
        Err(error) => {
            assert!(error.to_string().contains("pip install ncnn pnnx"), "{error}");
            return;
        }
    };
    let (model, val) = demo_detector(&device);
    let network = runtime.network(&model, [160, 160].into()).unwrap();
    let (pair, in_turn) = runtime.pair(&network, &network, 20, 2, &mut |_, _| ()).unwrap();
    assert!(in_turn && pair.a.p50_ms > 0.05, "{pair:?}");
    assert_eq!(runtime.layers(&network, 2).unwrap().frame, 0.0, "it tells nothing of layers");
    let ours = evaluate_model(&model, &val, 160, 2, &|_| {}).unwrap().map50_95;
    let theirs = accuracy_in(&runtime, &model, &val);
    assert!((ours - theirs).abs() < 0.003, "{ours} here, {theirs} there");
}
