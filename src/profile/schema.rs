//! The schema of a profile: every section and key, its default and its range.

use super::section::{Problems, Section};
use super::train::hold_out;
use super::{
    Bench, Budget, Connect, Device, Finetune, GpuFigures, IMPORTANCE, Mib, Millijoules, Millis, ModelChoice, Optimizer,
    Profile, Ratio, RuntimeKind, Search, Strategy, TrainRecipe, UnitError, is_embedded,
};
use crate::graph::{Branch, Dtype};
use crate::size::MAX_BATCH;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// The most of anything that is counted.
const MANY: usize = 1_000_000;

/// Bytes of a path on the device.
const MAX_PLACE: usize = 4096;

/// Keys that users look for in the wrong section.
const OWNERS: &[(&str, &str)] = &[
    ("device", "triple"),
    ("device", "target-cpu"),
    ("device", "threads"),
    ("device", "pin"),
    ("device", "board"),
    ("device", "glibc"),
    ("device", "features"),
    ("device", "cuda"),
    ("device", "core-gflops"),
    ("device", "bandwidth-gb-s"),
    ("device", "gpu-multiprocessors"),
    ("device", "gpu-clock-ghz"),
    ("device", "gpu-f32-tflops"),
    ("device", "gpu-f16-tflops"),
    ("device", "gpu-int8-tops"),
    ("device", "gpu-l2-mib"),
    ("device", "gpu-node-us"),
    ("connect", "host"),
    ("connect", "keep"),
    ("budget", "latency-ms"),
    ("budget", "latency-ratio"),
    ("budget", "percentile"),
    ("budget", "energy-mj"),
    ("budget", "memory-mib"),
    ("budget", "params"),
    ("budget", "file-mib"),
    ("budget", "min-map"),
    ("budget", "max-map-drop"),
    ("budget", "floors"),
    ("model", "imgsz"),
    ("model", "sizes"),
    ("model", "dtype"),
    ("model", "head"),
    ("model", "path"),
    ("search", "strategy"),
    ("search", "sparsity"),
    ("search", "grid"),
    ("search", "min-keep"),
    ("search", "importance"),
    ("search", "calibration-images"),
    ("search", "seed"),
    ("finetune", "epochs"),
    ("finetune", "lr"),
    ("finetune", "batch"),
    ("finetune", "optimizer"),
    ("finetune", "distill"),
    ("finetune", "sparsity"),
    ("finetune", "control"),
    ("finetune", "hold-out"),
    ("finetune", "patience"),
    ("finetune", "mosaic"),
    ("finetune", "close-mosaic"),
    ("finetune", "mirror"),
    ("finetune", "hsv"),
    ("finetune", "freeze"),
    ("finetune", "label-smoothing"),
    ("finetune", "sync-batch-norm"),
    ("finetune", "workers"),
    ("finetune", "int8-epochs"),
    ("bench", "warmup"),
    ("bench", "runs"),
    ("bench", "quiet"),
    ("bench", "runtime"),
    ("bench", "program"),
    ("bench", "engines"),
];

/// Reads every section of a profile. Where a value is wrong, the default stands in for it until the problems are
/// reported.
pub(super) fn profile<'t>(path: &Path, table: &DeTable<'t>, problems: &mut Problems<'t>) -> Profile {
    let mut root = Section::new(problems, "", Some(table));
    let names = ["device", "connect", "budget", "model", "data", "search", "finetune", "bench"];
    let tables = names.map(|name| root.table(name));
    root.close(OWNERS);
    let [device, connect, budget, model, data, search, finetune, bench] = tables;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut profile = Profile::default();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    profile.device.name = stem.unwrap_or(profile.device.name);
    profile.device = read_device(Section::new(problems, "device", device), profile.device);
    let whole = profile.device.memory;
    profile.connect = read_connect(Section::new(problems, "connect", connect));
    profile.budget = read_budget(Section::new(problems, "budget", budget), profile.budget, whole);
    profile.model = read_model(Section::new(problems, "model", model), profile.model, folder);
    profile.data = read_data(Section::new(problems, "data", data), folder);
    profile.search = read_search(Section::new(problems, "search", search), profile.search);
    profile.finetune = read_finetune(Section::new(problems, "finetune", finetune), profile.finetune);
    profile.bench = read_bench(Section::new(problems, "bench", bench), profile.bench);
    profile
}

/// Reads `NAME.local.toml`, which may have a connection and nothing else.
pub(super) fn private<'t>(table: &DeTable<'t>, problems: &mut Problems<'t>) -> Option<Connect> {
    let mut root = Section::new(problems, "", Some(table));
    let connect = root.table("connect");
    root.close(OWNERS);
    connect.map(|connect| read_connect(Section::new(problems, "connect", Some(connect))))
}

fn read_device(mut s: Section, default: Device) -> Device {
    let device = Device {
        name: s.text("name").unwrap_or(default.name),
        triple: s.text("triple"),
        target_cpu: s.text("target-cpu"),
        threads: s.count("threads", 1..=1024).unwrap_or(default.threads),
        pin: s.flag("pin").unwrap_or(default.pin),
        memory: s.number("memory-mib", Mib::new),
        board: s.text("board"),
        glibc: s.text("glibc"),
        features: s.texts("features").unwrap_or_default(),
        cuda: s.text("cuda"),
        core_gflops: s.number("core-gflops", positive),
        bandwidth: s.number("bandwidth-gb-s", positive),
        gpu: read_gpu(&mut s),
    };
    if let Some(found) = device.glibc.as_ref().filter(|text| !is_version(text)) {
        s.refuse("glibc", format!("is `{found}`, expected a version such as \"2.36\""));
    }
    if let Some(found) = device.cuda.as_ref().filter(|text| !is_architecture(text)) {
        s.refuse("cuda", format!("is `{found}`, expected an architecture such as \"sm_87\""));
    } else if let Some(found) = device.cuda.as_ref().filter(|text| is_too_old(text)) {
        s.refuse(
            "cuda",
            format!("is `{found}`, but the CUDA engine needs instructions of Ampere: sm_80, sm_87 or newer"),
        );
    }
    s.close(OWNERS);
    device
}

/// Reads the figures of the device's GPU, which must be named.
fn read_gpu(s: &mut Section) -> GpuFigures {
    let figures = GpuFigures {
        multiprocessors: s.count("gpu-multiprocessors", 1..=1024),
        clock_ghz: s.number("gpu-clock-ghz", positive),
        f32_tflops: s.number("gpu-f32-tflops", positive),
        f16_tflops: s.number("gpu-f16-tflops", positive),
        int8_tops: s.number("gpu-int8-tops", positive),
        l2_mib: s.number("gpu-l2-mib", Mib::new),
        node_us: s.number("gpu-node-us", positive),
    };
    let keys = OWNERS.iter().map(|(_, key)| *key).filter(|key| key.starts_with("gpu-"));
    if let Some(key) = keys.filter(|_| !s.has("cuda")).find(|key| s.has(key)) {
        s.refuse(key, "is a figure of a GPU: name its architecture, `cuda = \"sm_87\"`".into());
    }
    figures
}

/// Whether a text is a version of the C library: `2.36`.
fn is_version(text: &str) -> bool {
    text.split_once('.').is_some_and(|(a, b)| [a, b].iter().all(|n| n.parse::<u32>().is_ok()))
}

/// Whether a text is an architecture of NVIDIA's GPUs: `sm_87`, `sm_90a`.
fn is_architecture(text: &str) -> bool {
    let rest = text.strip_prefix("sm_").unwrap_or_default();
    let digits = rest.trim_end_matches(|c: char| c.is_ascii_lowercase());
    matches!(digits.len(), 2 | 3) && rest.len() <= digits.len() + 1 && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Whether an architecture lacks instructions of the kernels.
fn is_too_old(text: &str) -> bool {
    let digits = text.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_lowercase());
    digits.parse().is_ok_and(|version: u32| version < 80)
}

fn read_connect(mut s: Section) -> Connect {
    let kinds = ["local", "ssh", "qemu", "command"];
    let kind = s.choice("kind", &kinds.map(|name| (name, name))).unwrap_or("local");
    let (host, folder, command) = (s.text("host"), s.text("folder"), s.texts("command"));
    let (options, keep) = (s.texts("options"), s.flag("keep"));
    let mut only = |key: &'static str, owner: &str| {
        if s.has(key) && s.has("kind") && kind != owner {
            s.refuse(key, format!("is only for kind = \"{owner}\", not \"{kind}\""));
        } else if kind == owner && ["host", "command"].contains(&key) {
            s.missing(key, &format!("kind = \"{owner}\" needs it"));
        }
    };
    only("host", "ssh");
    only("folder", "ssh");
    only("options", "ssh");
    only("keep", "ssh");
    only("command", "command");
    s.close(OWNERS);
    match kind {
        "ssh" => Connect::Ssh {
            host: host.unwrap_or_default(),
            folder: folder.unwrap_or_else(|| "secateurs".into()),
            options: options.unwrap_or_default(),
            keep: keep.unwrap_or(false),
        },
        "qemu" => Connect::Qemu,
        "command" => Connect::Command { command: command.unwrap_or_default() },
        _ => Connect::Local,
    }
}

/// Reads the budgets of a device with `whole` MiB of memory.
fn read_budget(mut s: Section, mut b: Budget, whole: Option<Mib>) -> Budget {
    b.latency = s.number("latency-ms", Millis::new);
    b.latency_ratio = s.number("latency-ratio", Ratio::above_zero);
    b.percentile = match s.integer("percentile", 1..=99) {
        None => b.percentile,
        Some(percentile @ (50 | 95 | 99)) => percentile as u8,
        Some(other) => {
            s.refuse("percentile", format!("is {other}, expected 50, 95 or 99"));
            b.percentile
        }
    };
    b.energy = s.number("energy-mj", Millijoules::new);
    b.memory = s.number("memory-mib", Mib::new);
    b.params = s.count("params", 1..=i64::MAX as usize);
    b.file = s.number("file-mib", Mib::new);
    b.min_map = s.number("min-map", Ratio::new);
    b.max_map_drop = s.number("max-map-drop", Ratio::new);
    b.floors = s.numbers("floors", Ratio::above_zero).unwrap_or_default();
    if let (Some(asked), Some(whole)) = (b.memory, whole)
        && asked > whole
    {
        s.refuse("memory-mib", format!("is {asked}, more than the device has ({whole})"));
    }
    s.close(OWNERS);
    b
}

/// Reads the choice of a model; `folder` is that of the profile.
fn read_model(mut s: Section, mut m: ModelChoice, folder: &Path) -> ModelChoice {
    m.path = s.text("path").map(|text| if is_embedded(&text) { text.into() } else { folder.join(text) });
    m.head = s.choice("head", &Branch::ALL);
    let one = s.size("imgsz");
    m.sizes = s.sizes("sizes").unwrap_or_else(|| one.into_iter().collect());
    m.imgsz = m.sizes.first().copied();
    if s.has("imgsz") && s.has("sizes") {
        s.refuse("sizes", "stands beside `imgsz`, expected one of them".into());
    }
    m.dtype = s.choice("dtype", &Dtype::ALL).unwrap_or(m.dtype);
    m.batch = s.count("batch", 1..=MAX_BATCH).unwrap_or(m.batch);
    s.close(OWNERS);
    m
}

fn read_data(mut s: Section, folder: &Path) -> Option<PathBuf> {
    let path = s.text("path").map(|text| if is_embedded(&text) { text.into() } else { folder.join(text) });
    s.close(OWNERS);
    path
}

fn read_search(mut s: Section, mut f: Search) -> Search {
    f.strategy = s.choice("strategy", &Strategy::ALL).unwrap_or(f.strategy);
    f.sparsity = s.number("sparsity", Ratio::new).unwrap_or(f.sparsity);
    f.grid = s.count("grid", 1..=256).unwrap_or(f.grid);
    f.min_keep = s.number("min-keep", Ratio::new).unwrap_or(f.min_keep);
    f.importance = s.choice("importance", &IMPORTANCE.map(|name| (name, name))).unwrap_or(IMPORTANCE[0]).to_owned();
    f.calibration_images = s.count("calibration-images", 1..=MANY).unwrap_or(f.calibration_images);
    f.seed = s.integer("seed", 0..=i64::MAX as u64).unwrap_or(f.seed);
    s.close(OWNERS);
    f
}

fn read_finetune(mut s: Section, mut f: Finetune) -> Finetune {
    f.epochs = s.count("epochs", 0..=MANY).unwrap_or(f.epochs);
    f.lr = s.number("lr", positive).unwrap_or(f.lr);
    f.batch = s.count("batch", 1..=4096).unwrap_or(f.batch);
    f.optimizer = s.choice("optimizer", &Optimizer::ALL).unwrap_or(f.optimizer);
    f.distill = s.number("distill", not_negative).unwrap_or(f.distill);
    f.sparsity = s.number("sparsity", not_negative).unwrap_or(f.sparsity);
    f.control = s.flag("control").unwrap_or(f.control);
    f.hold_out = hold_out(&mut s).unwrap_or(f.hold_out);
    f.patience = s.count("patience", 0..=MANY).unwrap_or(f.patience);
    f.recipe = TrainRecipe::read(&mut s, f.recipe);
    s.close(OWNERS);
    f
}

fn read_bench(mut s: Section, mut b: Bench) -> Bench {
    b.warmup = s.count("warmup", 0..=MANY).unwrap_or(b.warmup);
    b.runs = s.count("runs", 1..=MANY).unwrap_or(b.runs);
    b.require_idle = s.flag("quiet").unwrap_or(b.require_idle);
    b.runtime = s.choice("runtime", &RuntimeKind::ALL).unwrap_or(b.runtime);
    b.command = s.texts("command");
    match (b.runtime, &b.command) {
        (RuntimeKind::Command, None) => s.missing("command", "runtime = \"command\" needs it"),
        (RuntimeKind::Command, Some(texts)) if !texts.iter().any(|text| text.contains("{model}")) => {
            s.refuse("command", "does not say where the model goes, expected `{model}` in one of its arguments".into());
        }
        (RuntimeKind::Command, _) | (_, None) => {}
        (_, Some(_)) => s.refuse("command", "is only for runtime = \"command\"".into()),
    }
    b.program = s.text("program");
    b.engines = s.text("engines");
    for (key, value) in [("program", &b.program), ("engines", &b.engines)] {
        let Some(value) = value else { continue };
        if !b.runtime.is_driven() {
            s.refuse(key, "is only for runtime = \"tensorrt\", \"onnxruntime\" or \"ncnn\"".into());
        } else if value.len() > MAX_PLACE || value.starts_with('-') || value.chars().any(char::is_control) {
            s.refuse(
                key,
                format!("is no path: at most {MAX_PLACE} bytes, none of them a control character, no `-` first"),
            );
        }
    }
    s.close(OWNERS);
    b
}

fn positive(value: f64) -> Result<f64, UnitError> {
    let error = || UnitError { found: value.to_string(), expected: "a number, more than 0" };
    (value.is_finite() && value > 0.0).then_some(value).ok_or_else(error)
}

fn not_negative(value: f64) -> Result<f64, UnitError> {
    let error = || UnitError { found: value.to_string(), expected: "a number, 0 or more" };
    (value.is_finite() && value >= 0.0).then_some(value).ok_or_else(error)
}
