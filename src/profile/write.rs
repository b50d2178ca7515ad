//! Writes a profile as text that [`parse`](super::parse) reads back to the same profile: every default filled in, every
//! flag entered.

use super::read::is_drawn;
use super::{Bench, Budget, Connect, Device, Finetune, ModelChoice, Optimizer, Profile, Search, Strategy};
use crate::graph::Dtype;
use std::path::Path;
use toml::{Table, Value};

/// The text of a profile. Its paths are written as absolute ones: it may lie in another folder than the file that it was
/// read from.
pub fn write(profile: &Profile) -> String {
    let sections = [
        ("device", device(&profile.device)),
        ("connect", connect(&profile.connect)),
        ("budget", budget(&profile.budget)),
        ("model", model(&profile.model)),
        ("data", table([("path", profile.data.as_deref().map(place))])),
        ("search", search(&profile.search)),
        ("finetune", finetune(&profile.finetune)),
        ("bench", bench(&profile.bench)),
    ];
    // One at a time, for the order of the schema.
    let text = sections.into_iter().map(|(name, section)| table([(name, Some(Value::Table(section)))]).to_string());
    text.collect::<Vec<_>>().join("\n")
}

fn device(device: &Device) -> Table {
    let text = |text: &Option<String>| text.clone().map(Value::from);
    table([
        ("name", Some(device.name.clone().into())),
        ("triple", text(&device.triple)),
        ("target-cpu", text(&device.target_cpu)),
        ("threads", Some(whole(device.threads))),
        ("pin", Some(device.pin.into())),
        ("memory-mib", device.memory.map(|mib| mib.get().into())),
        ("board", text(&device.board)),
        ("glibc", text(&device.glibc)),
        ("features", words(&device.features)),
        ("cuda", text(&device.cuda)),
        ("core-gflops", device.core_gflops.map(Value::from)),
        ("bandwidth-gb-s", device.bandwidth.map(Value::from)),
    ])
}

fn connect(connect: &Connect) -> Table {
    let kind = |kind: &str| ("kind", Some(Value::from(kind)));
    match connect {
        Connect::Local => table([kind("local")]),
        Connect::Qemu => table([kind("qemu")]),
        Connect::Command { command } => table([kind("command"), ("command", words(command))]),
        Connect::Ssh { host, folder, options, keep } => table([
            kind("ssh"),
            ("host", Some(host.clone().into())),
            ("folder", Some(folder.clone().into())),
            ("options", words(options)),
            ("keep", Some((*keep).into())),
        ]),
    }
}

fn budget(budget: &Budget) -> Table {
    let floors: Table = budget.floors.iter().map(|(name, share)| (name.clone(), share.get().into())).collect();
    table([
        ("latency-ms", budget.latency.map(|ms| ms.get().into())),
        ("latency-ratio", budget.latency_ratio.map(|ratio| ratio.get().into())),
        ("percentile", Some(i64::from(budget.percentile).into())),
        ("memory-mib", budget.memory.map(|mib| mib.get().into())),
        ("params", budget.params.map(whole)),
        ("file-mib", budget.file.map(|mib| mib.get().into())),
        ("min-map", budget.min_map.map(|ratio| ratio.get().into())),
        ("max-map-drop", budget.max_map_drop.map(|ratio| ratio.get().into())),
        ("floors", (!floors.is_empty()).then_some(Value::Table(floors))),
    ])
}

fn model(model: &ModelChoice) -> Table {
    let sizes = || model.sizes.iter().map(|side| whole(*side)).collect();
    let name = Dtype::ALL.iter().find(|(_, dtype)| *dtype == model.dtype).map(|(name, _)| Value::from(*name));
    table([
        ("path", model.path.as_deref().map(place)),
        ("imgsz", if model.sizes.len() > 1 { Some(Value::Array(sizes())) } else { model.imgsz.map(whole) }),
        ("batch", Some(whole(model.batch))),
        ("dtype", name),
    ])
}

fn search(search: &Search) -> Table {
    let strategy = Strategy::ALL.iter().find(|(_, strategy)| *strategy == search.strategy);
    table([
        ("strategy", strategy.map(|(name, _)| Value::from(*name))),
        ("sparsity", Some(search.sparsity.get().into())),
        ("grid", Some(whole(search.grid))),
        ("min-keep", Some(search.min_keep.get().into())),
        ("importance", Some(search.importance.clone().into())),
        ("calibration-images", Some(whole(search.calibration_images))),
        ("seed", Some(i64::try_from(search.seed).unwrap_or(i64::MAX).into())),
    ])
}

fn finetune(tune: &Finetune) -> Table {
    let optimizer = Optimizer::ALL.iter().find(|(_, optimizer)| *optimizer == tune.optimizer);
    table([
        ("epochs", Some(whole(tune.epochs))),
        ("lr", Some(tune.lr.into())),
        ("batch", Some(whole(tune.batch))),
        ("optimizer", optimizer.map(|(name, _)| Value::from(*name))),
        ("distill", Some(tune.distill.into())),
        ("sparsity", Some(tune.sparsity.into())),
        ("control", Some(tune.control.into())),
    ])
}

fn bench(bench: &Bench) -> Table {
    table([
        ("warmup", Some(whole(bench.warmup))),
        ("runs", Some(whole(bench.runs))),
        ("quiet", Some(bench.quiet.into())),
        ("runtime", Some(if bench.command.is_some() { "command" } else { "engine" }.into())),
        ("command", bench.command.as_deref().and_then(words)),
    ])
}

/// A table of those keys that have a value.
fn table<const N: usize>(keys: [(&str, Option<Value>); N]) -> Table {
    keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The ranges of the schema end below the largest number of TOML.
fn whole(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// A list; an empty one is left out, which reads as the same.
fn words(words: &[String]) -> Option<Value> {
    (!words.is_empty()).then(|| words.iter().cloned().map(Value::from).collect::<Vec<_>>().into())
}

fn place(path: &Path) -> Value {
    if path.to_str().is_some_and(is_drawn) {
        return path.to_string_lossy().into_owned().into();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned().into()
}
