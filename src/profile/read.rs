//! The schema: every section and key, its default and its range.

use super::section::{Problems, Section};
use super::{
    Connect, Device, IMPORTANCE, Mib, Millis, Optimizer, Problem, Profile, ProfileError, Ratio, Strategy, UnitError,
};
use crate::files;
use crate::graph::Dtype;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// The largest profile that is read.
const MAX_FILE: u64 = 1 << 20;

/// The most of anything that is counted.
const MANY: usize = 1_000_000;

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
    ("connect", "host"),
    ("connect", "keep"),
    ("budget", "latency-ms"),
    ("budget", "latency-ratio"),
    ("budget", "percentile"),
    ("budget", "memory-mib"),
    ("budget", "params"),
    ("budget", "file-mib"),
    ("budget", "min-map"),
    ("budget", "max-map-drop"),
    ("budget", "floors"),
    ("model", "imgsz"),
    ("model", "dtype"),
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
    ("bench", "warmup"),
    ("bench", "runs"),
    ("bench", "quiet"),
    ("bench", "runtime"),
];

/// Reads a profile. Paths in it are relative to the folder it lies in. Beside `NAME.toml` there may be
/// `NAME.local.toml` with a `[connect]` of its own, which wins: a place for the names of private machines.
///
/// # Errors
/// If the file cannot be read, or breaks the schema: then with every problem that was found.
pub fn read(path: &Path) -> Result<Profile, ProfileError> {
    let mut profile = parse(path, &text_of(path)?)?;
    let private = path.with_extension("local.toml");
    if private.is_file() {
        profile.connect = parse_private(&private, &text_of(&private)?)?.unwrap_or(profile.connect);
    }
    Ok(profile)
}

fn text_of(path: &Path) -> Result<String, ProfileError> {
    let io = |source| ProfileError::Io { path: path.into(), source };
    let bytes = files::read(path, MAX_FILE).map_err(io)?;
    let text = String::from_utf8(bytes);
    text.map_err(|_| io(std::io::Error::new(std::io::ErrorKind::InvalidData, "is no text in UTF-8")))
}

/// Reads the text of `NAME.local.toml`.
fn parse_private(path: &Path, text: &str) -> Result<Option<Connect>, ProfileError> {
    with_problems(path, text, |table, problems| {
        let mut root = Section::new(problems, "", Some(table));
        let connect = root.table("connect");
        root.close(OWNERS);
        connect.map(|connect| {
            let mut s = Section::new(problems, "connect", Some(connect));
            let read = read_connect(&mut s);
            s.close(OWNERS);
            read
        })
    })
}

/// Reads the text of a profile as if it were the file `path`.
///
/// # Errors
/// If the text breaks the schema: with every problem that was found.
pub fn parse(path: &Path, text: &str) -> Result<Profile, ProfileError> {
    with_problems(path, text, |table, problems| walk(path, table, problems))
}

/// Reads a table; the result counts only if nothing is wrong with the text.
fn with_problems<T>(
    path: &Path,
    text: &str,
    read: impl for<'t> FnOnce(&DeTable<'t>, &mut Problems<'t>) -> T,
) -> Result<T, ProfileError> {
    if text.len() as u64 > MAX_FILE {
        let source = std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("is larger than {MAX_FILE} bytes"));
        return Err(ProfileError::Io { path: path.into(), source });
    }
    let mut problems = Problems::new(path, text);
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        problems.add(error.span(), in_plain_words(error.message(), found), None);
    }
    if !problems.found.is_empty() {
        return Err(ProfileError::Invalid(sorted(problems.found)));
    }
    let value = read(table.get_ref(), &mut problems);
    if problems.found.is_empty() { Ok(value) } else { Err(ProfileError::Invalid(sorted(problems.found))) }
}

/// What the parser says of some text, for people who do not know its terms.
fn in_plain_words(message: &str, found: &str) -> String {
    let found = found.trim().trim_matches(['"', '\'']);
    let about = if found.is_empty() { "the value is missing".to_owned() } else { format!("is `{found}`") };
    match message {
        "duplicate key" => format!("`{found}` is given twice"),
        message if message.starts_with("string values must be quoted") => {
            format!("{about}, expected a number, true or false, or text in quotes")
        }
        message if message.starts_with("invalid boolean") => format!("{about}, expected true or false"),
        message if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") => {
            "text does not end on its line: a quote is missing".to_owned()
        }
        other => other.to_owned(),
    }
}

fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    problems
}

/// Takes every section out of the file. Where a value is wrong, the default stands in for it until the problems
/// are reported.
fn walk<'t>(path: &Path, table: &DeTable<'t>, problems: &mut Problems<'t>) -> Profile {
    let mut root = Section::new(problems, "", Some(table));
    let [device, connect, budget, model, data, search, finetune, bench] =
        ["device", "connect", "budget", "model", "data", "search", "finetune", "bench"].map(|name| root.table(name));
    root.close(OWNERS);

    let base = path.parent().unwrap_or(Path::new(""));
    let beside = |text: String| -> PathBuf { base.join(text) };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut profile = Profile::default();

    let mut s = Section::new(problems, "device", device);
    let default = &profile.device;
    profile.device = Device {
        name: s.text("name").or(stem).unwrap_or_else(|| default.name.clone()),
        triple: s.text("triple"),
        target_cpu: s.text("target-cpu"),
        threads: s.count("threads", 1..=1024).unwrap_or(default.threads),
        pin: s.flag("pin").unwrap_or(default.pin),
        memory: s.number("memory-mib", Mib::new),
        board: s.text("board"),
        glibc: s.text("glibc"),
        features: s.words("features").unwrap_or_default(),
        cuda: s.text("cuda"),
        core_gflops: s.number("core-gflops", positive),
        bandwidth: s.number("bandwidth-gb-s", positive),
    };
    let version =
        |text: &str| text.split_once('.').is_some_and(|(a, b)| [a, b].iter().all(|n| n.parse::<u32>().is_ok()));
    if let Some(found) = profile.device.glibc.clone().filter(|text| !version(text)) {
        s.refuse("glibc", format!("is `{found}`, expected a version such as \"2.36\""));
    }
    let known = |arch: &str| {
        let rest = arch.strip_prefix("sm_").unwrap_or_default();
        let digits = rest.trim_end_matches(|c: char| c.is_ascii_lowercase());
        matches!(digits.len(), 2 | 3) && rest.len() <= digits.len() + 1 && digits.bytes().all(|b| b.is_ascii_digit())
    };
    if let Some(found) = profile.device.cuda.clone().filter(|text| !known(text)) {
        s.refuse("cuda", format!("is `{found}`, expected an architecture such as \"sm_87\""));
    }
    s.close(OWNERS);

    let mut s = Section::new(problems, "connect", connect);
    profile.connect = read_connect(&mut s);
    s.close(OWNERS);

    let mut s = Section::new(problems, "budget", budget);
    let b = &mut profile.budget;
    b.latency = s.number("latency-ms", Millis::new);
    b.latency_ratio = s.number("latency-ratio", Ratio::above_zero);
    b.percentile = match s.whole("percentile", 1..=99) {
        None => b.percentile,
        Some(percentile @ (50 | 95 | 99)) => percentile as u8,
        Some(other) => {
            s.refuse("percentile", format!("is {other}, expected 50, 95 or 99"));
            b.percentile
        }
    };
    b.memory = s.number("memory-mib", Mib::new);
    b.params = s.count("params", 1..=i64::MAX as usize);
    b.file = s.number("file-mib", Mib::new);
    b.min_map = s.number("min-map", Ratio::new);
    b.max_map_drop = s.number("max-map-drop", Ratio::new);
    b.floors = s.numbers("floors", Ratio::above_zero).unwrap_or_default();
    if let (Some(asked), Some(whole)) = (b.memory, profile.device.memory)
        && asked > whole
    {
        s.refuse("memory-mib", format!("is {asked}, more than the device has ({whole})"));
    }
    s.close(OWNERS);

    let mut s = Section::new(problems, "model", model);
    let m = &mut profile.model;
    m.path = s.text("path").map(beside);
    m.sizes = s.counts("imgsz", 1..=4096).unwrap_or_default();
    m.imgsz = m.sizes.first().copied();
    m.dtype = s.choice("dtype", &Dtype::ALL).unwrap_or(m.dtype);
    m.batch = s.count("batch", 1..=MANY).unwrap_or(m.batch);
    if m.batch != 1 {
        s.refuse("batch", format!("is {}, but the runtime takes one image at a time: expected 1", m.batch));
    }
    s.close(OWNERS);

    let mut s = Section::new(problems, "data", data);
    profile.data = s.text("path").map(|text| if is_drawn(&text) { text.into() } else { beside(text) });
    s.close(OWNERS);

    let mut s = Section::new(problems, "search", search);
    let f = &mut profile.search;
    f.strategy = s.choice("strategy", &Strategy::ALL).unwrap_or(f.strategy);
    f.sparsity = s.number("sparsity", Ratio::new).unwrap_or(f.sparsity);
    f.grid = s.count("grid", 1..=256).unwrap_or(f.grid);
    f.min_keep = s.number("min-keep", Ratio::new).unwrap_or(f.min_keep);
    f.importance = s.choice("importance", &IMPORTANCE.map(|name| (name, name))).unwrap_or(IMPORTANCE[0]).to_owned();
    f.calibration_images = s.count("calibration-images", 1..=MANY).unwrap_or(f.calibration_images);
    f.seed = s.whole("seed", 0..=i64::MAX as u64).unwrap_or(f.seed);
    s.close(OWNERS);

    let mut s = Section::new(problems, "finetune", finetune);
    let f = &mut profile.finetune;
    f.epochs = s.count("epochs", 0..=MANY).unwrap_or(f.epochs);
    f.lr = s.number("lr", positive).unwrap_or(f.lr);
    f.batch = s.count("batch", 1..=4096).unwrap_or(f.batch);
    f.optimizer = s.choice("optimizer", &Optimizer::ALL).unwrap_or(f.optimizer);
    f.distill = s.number("distill", not_negative).unwrap_or(f.distill);
    f.sparsity = s.number("sparsity", not_negative).unwrap_or(f.sparsity);
    f.control = s.flag("control").unwrap_or(f.control);
    s.close(OWNERS);

    let mut s = Section::new(problems, "bench", bench);
    let b = &mut profile.bench;
    b.warmup = s.count("warmup", 0..=MANY).unwrap_or(b.warmup);
    b.runs = s.count("runs", 1..=MANY).unwrap_or(b.runs);
    b.quiet = s.flag("quiet").unwrap_or(b.quiet);
    let runtime = s.choice("runtime", &["engine", "command"].map(|name| (name, name))).unwrap_or("engine");
    b.command = s.words("command");
    match (runtime, &b.command) {
        ("command", None) => s.missing("command", "runtime = \"command\" needs it"),
        ("engine", Some(_)) => s.refuse("command", "is only for runtime = \"command\"".into()),
        (_, Some(words)) if !words.iter().any(|word| word.contains("{model}")) => {
            s.refuse("command", "does not say where the model goes, expected `{model}` in one of its words".into());
        }
        _ => {}
    }
    s.close(OWNERS);
    profile
}

fn read_connect(s: &mut Section) -> Connect {
    let kinds = ["local", "ssh", "qemu", "command"];
    let kind = s.choice("kind", &kinds.map(|name| (name, name))).unwrap_or("local");
    let (host, folder, command) = (s.text("host"), s.text("folder"), s.words("command"));
    let (options, keep) = (s.words("options"), s.flag("keep"));
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

/// Whether a name stands for pictures that are drawn on the spot, and not for a file.
pub(super) fn is_drawn(name: &str) -> bool {
    name == "demo" || name.starts_with("drawn:")
}

fn positive(value: f64) -> Result<f64, UnitError> {
    let error = || UnitError { found: value.to_string(), expected: "a number, more than 0" };
    (value.is_finite() && value > 0.0).then_some(value).ok_or_else(error)
}

fn not_negative(value: f64) -> Result<f64, UnitError> {
    let error = || UnitError { found: value.to_string(), expected: "a number, 0 or more" };
    (value.is_finite() && value >= 0.0).then_some(value).ok_or_else(error)
}
