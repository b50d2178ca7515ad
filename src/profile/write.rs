//! Writes a profile as text that [`parse`](super::parse) reads back to the same profile: every default filled in, every
//! flag entered.

use super::sources::Sources;
use super::{
    Bench, Budget, Connect, Device, Finetune, HoldOut, ModelChoice, Optimizer, Profile, Search, Strategy, is_embedded,
};
use crate::graph::Dtype;
use crate::size::ImageSize;
use std::fmt::Write;
use std::path::Path;
use toml::{Table, Value};

/// The text of a profile. Its paths are written as absolute ones: it may lie in another folder than the file that it
/// was read from.
pub fn write(profile: &Profile) -> String {
    commented(profile, None)
}

/// Column of the comments behind values.
const COMMENT: usize = 40;

/// The keys of a section that have a value, in the order of the schema.
type Keys = Vec<(&'static str, Value)>;

/// As [`write`], with the source of every value in a comment behind it, where sources are given.
pub(super) fn commented(profile: &Profile, sources: Option<&Sources>) -> String {
    let mut text = String::new();
    for (name, section) in sections(profile) {
        let _ = writeln!(text, "{}[{name}]", if text.is_empty() { "" } else { "\n" });
        for (key, value) in section {
            let source = sources.map(|sources| sources.of(name, key));
            text += &entry(name, key, value, source);
        }
    }
    text
}

/// The values of a profile with every default, by section and key. Paths are absolute, as in [`write()`].
pub fn values(profile: &Profile) -> Table {
    let section = |(name, keys): (&str, Keys)| {
        let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value));
        (name.to_owned(), Value::Table(keys.collect()))
    };
    sections(profile).into_iter().map(section).collect()
}

fn sections(profile: &Profile) -> [(&'static str, Keys); 8] {
    [
        ("device", device(&profile.device)),
        ("connect", connect(&profile.connect)),
        ("budget", budget(&profile.budget)),
        ("model", model(&profile.model)),
        ("data", keys([("path", profile.data.as_deref().map(place))])),
        ("search", search(&profile.search)),
        ("finetune", finetune(&profile.finetune)),
        ("bench", bench(&profile.bench)),
    ]
}

/// One key with its value, or a whole table, which must be the last of its section.
fn entry(section: &str, key: &str, value: Value, source: Option<&str>) -> String {
    // A name of a file may have line breaks in it.
    let comment = source.map(|source| format!("# {}", source.escape_debug()));
    let behind = |line: &str| match &comment {
        Some(comment) => format!("{line:<COMMENT$} {comment}\n"),
        None => format!("{line}\n"),
    };
    match value {
        Value::Table(values) => behind(&format!("\n[{section}.{key}]")) + &values.to_string(),
        value => behind(Table::from_iter([(key.to_owned(), value)]).to_string().trim_end()),
    }
}

fn device(device: &Device) -> Keys {
    let text = |text: &Option<String>| text.clone().map(Value::from);
    keys([
        ("name", Some(device.name.clone().into())),
        ("triple", text(&device.triple)),
        ("target-cpu", text(&device.target_cpu)),
        ("threads", Some(integer(device.threads))),
        ("pin", Some(device.pin.into())),
        ("memory-mib", device.memory.map(|mib| mib.get().into())),
        ("board", text(&device.board)),
        ("glibc", text(&device.glibc)),
        ("features", texts(&device.features)),
        ("cuda", text(&device.cuda)),
        ("core-gflops", device.core_gflops.map(Value::from)),
        ("bandwidth-gb-s", device.bandwidth.map(Value::from)),
        ("gpu-multiprocessors", device.gpu.multiprocessors.map(integer)),
        ("gpu-clock-ghz", device.gpu.clock_ghz.map(Value::from)),
        ("gpu-f32-tflops", device.gpu.f32_tflops.map(Value::from)),
        ("gpu-f16-tflops", device.gpu.f16_tflops.map(Value::from)),
        ("gpu-int8-tops", device.gpu.int8_tops.map(Value::from)),
        ("gpu-l2-mib", device.gpu.l2_mib.map(|mib| mib.get().into())),
        ("gpu-node-us", device.gpu.node_us.map(Value::from)),
    ])
}

fn connect(connect: &Connect) -> Keys {
    let kind = |kind: &str| ("kind", Some(Value::from(kind)));
    match connect {
        Connect::Local => keys([kind("local")]),
        Connect::Qemu => keys([kind("qemu")]),
        Connect::Command { command } => keys([kind("command"), ("command", texts(command))]),
        Connect::Ssh { host, folder, options, keep } => keys([
            kind("ssh"),
            ("host", Some(host.clone().into())),
            ("folder", Some(folder.clone().into())),
            ("options", texts(options)),
            ("keep", Some((*keep).into())),
        ]),
    }
}

fn budget(budget: &Budget) -> Keys {
    let floors: Table = budget.floors.iter().map(|(name, share)| (name.clone(), share.get().into())).collect();
    keys([
        ("latency-ms", budget.latency.map(|ms| ms.get().into())),
        ("latency-ratio", budget.latency_ratio.map(|ratio| ratio.get().into())),
        ("percentile", Some(i64::from(budget.percentile).into())),
        ("energy-mj", budget.energy.map(|mj| mj.get().into())),
        ("memory-mib", budget.memory.map(|mib| mib.get().into())),
        ("params", budget.params.map(integer)),
        ("file-mib", budget.file.map(|mib| mib.get().into())),
        ("min-map", budget.min_map.map(|ratio| ratio.get().into())),
        ("max-map-drop", budget.max_map_drop.map(|ratio| ratio.get().into())),
        ("floors", (!floors.is_empty()).then_some(Value::Table(floors))),
    ])
}

fn model(model: &ModelChoice) -> Keys {
    let several = (model.sizes.len() > 1).then(|| Value::Array(model.sizes.iter().map(|one| size(*one)).collect()));
    let one = model.imgsz.filter(|_| several.is_none());
    let name = Dtype::ALL.iter().find(|(_, dtype)| *dtype == model.dtype).map(|(name, _)| Value::from(*name));
    keys([
        ("path", model.path.as_deref().map(place)),
        ("imgsz", one.map(size)),
        ("sizes", several),
        ("batch", Some(integer(model.batch))),
        ("dtype", name),
        ("head", model.head.map(|branch| branch.name().into())),
    ])
}

fn search(search: &Search) -> Keys {
    let strategy = Strategy::ALL.iter().find(|(_, strategy)| *strategy == search.strategy);
    keys([
        ("strategy", strategy.map(|(name, _)| Value::from(*name))),
        ("sparsity", Some(search.sparsity.get().into())),
        ("grid", Some(integer(search.grid))),
        ("min-keep", Some(search.min_keep.get().into())),
        ("importance", Some(search.importance.clone().into())),
        ("calibration-images", Some(integer(search.calibration_images))),
        ("seed", Some(i64::try_from(search.seed).unwrap_or(i64::MAX).into())),
    ])
}

fn finetune(tune: &Finetune) -> Keys {
    let optimizer = Optimizer::ALL.iter().find(|(_, optimizer)| *optimizer == tune.optimizer);
    let hold_out = match &tune.hold_out {
        HoldOut::Share(share) => share.get().into(),
        HoldOut::Split(name) => name.clone().into(),
    };
    let mut all = keys([
        ("epochs", Some(integer(tune.epochs))),
        ("lr", Some(tune.lr.into())),
        ("batch", Some(integer(tune.batch))),
        ("optimizer", optimizer.map(|(name, _)| Value::from(*name))),
        ("distill", Some(tune.distill.into())),
        ("sparsity", Some(tune.sparsity.into())),
        ("control", Some(tune.control.into())),
        ("hold-out", Some(hold_out)),
        ("patience", Some(integer(tune.patience))),
    ]);
    all.extend(keys(tune.recipe.keys()));
    all
}

fn bench(bench: &Bench) -> Keys {
    keys([
        ("warmup", Some(integer(bench.warmup))),
        ("runs", Some(integer(bench.runs))),
        ("quiet", Some(bench.require_idle.into())),
        ("runtime", Some(bench.runtime.key().into())),
        ("command", bench.command.as_deref().and_then(texts)),
        ("program", bench.program.clone().map(Value::from)),
        ("engines", bench.engines.clone().map(Value::from)),
    ])
}

/// Those keys that have a value.
fn keys<const N: usize>(keys: [(&'static str, Option<Value>); N]) -> Keys {
    keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The ranges of the schema end below the largest number of TOML.
fn integer(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// One side of a square, or height and width.
fn size(size: ImageSize) -> Value {
    match size.is_square() {
        true => integer(size.height),
        false => Value::Array(vec![integer(size.height), integer(size.width)]),
    }
}

/// A list; an empty one is left out, which reads as the same.
fn texts(texts: &[String]) -> Option<Value> {
    (!texts.is_empty()).then(|| texts.iter().cloned().map(Value::from).collect::<Vec<_>>().into())
}

fn place(path: &Path) -> Value {
    if path.to_str().is_some_and(is_embedded) {
        return path.to_string_lossy().into_owned().into();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned().into()
}
