//! The keys of `report.json` are public: scripts read them. A key that is missing, renamed or new must be meant, and then
//! stands in this list and in `docs/formats.md`.

use crate::report::{distribution, sample, stage};
use secateurs::bench::{Distribution, Energy};
use secateurs::eval::Metric;
use secateurs::graph::{Branch, Dtype};
use secateurs::model::Removed;
use secateurs::report::{BoxFigures, BranchChoice, Budget, Epoch, InRuntime, Report, Stage, Training, Verdict};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Objects whose keys are names of classes, controls and stages: any name counts as `*`.
const MAPS: [&str; 5] = ["controls", "floors", "per_class", "recall", "seconds"];

/// Every key with the keys around it; `[]` stands for the elements of an array. A stage stands once, as `STAGE`.
const KEYS: [&str; 98] = [
    "batch",
    "budget",
    "budget.energy_mj",
    "budget.file_mib",
    "budget.latency_ms",
    "budget.latency_ratio",
    "budget.max_map_drop",
    "budget.memory_mib",
    "budget.min_map",
    "budget.params",
    "budget.percentile",
    "controls",
    "controls.*",
    "cut",
    "data",
    "device",
    "dtype",
    "floors",
    "floors.*",
    "front",
    "front[].latency_ratio",
    "front[].loss",
    "front[].lower_bound",
    "full_precision",
    "full_precision[].divergence",
    "full_precision[].dtype",
    "full_precision[].layer",
    "full_precision[].lost_ms",
    "groups",
    "groups[].after",
    "groups[].before",
    "groups[].name",
    "head",
    "head.branch",
    "head.removed",
    "head.removed.bytes",
    "head.removed.macs",
    "head.removed.of_macs",
    "head.removed.of_params",
    "head.removed.params",
    "imgsz",
    "importance",
    "layers",
    "layers[].after_ms",
    "layers[].before_ms",
    "layers[].name",
    "memory",
    "memory[].after_bytes",
    "memory[].before_bytes",
    "memory[].name",
    "model",
    "photos",
    "photos[].after",
    "photos[].before",
    "photos[].disagreement",
    "photos[].found_after",
    "photos[].found_before",
    "photos[].name",
    "repaired",
    "rounded",
    "runtime",
    "runtime.last",
    "runtime.name",
    "runtime.uncut",
    "search",
    "search.gap",
    "search.loss",
    "search.lower_bound",
    "search.predicted_ms",
    "search.rounds",
    "seconds",
    "seconds.*",
    "seed",
    "table_errors",
    "target",
    "threads",
    "training",
    "training.after",
    "training.before",
    "training.diverged",
    "training.epoch",
    "training.epochs",
    "training.epochs[].held_back",
    "training.epochs[].loss",
    "training.epochs[].lr",
    "training.held_back",
    "training.int8_epochs",
    "training.metric",
    "tuned",
    "uncut",
    "verdict",
    "verdict.accuracy_ok",
    "verdict.latency_ok",
    "verdict.latency_ratio",
    "verdict.memory_ok",
    "verdict.sentences",
    "verdict.simulated",
    "version",
];

/// The keys of a stage of a job that was measured.
const STAGE: [&str; 36] = [
    "accuracy",
    "boxes",
    "boxes.map50",
    "boxes.map50_95",
    "boxes.map50_95_ultralytics",
    "boxes.per_class",
    "boxes.per_class.*",
    "cpu_p50_ms",
    "energy",
    "energy.blocks",
    "energy.least_mj",
    "energy.most_mj",
    "energy.p50_bound_mj",
    "energy.p50_mj",
    "file_bytes",
    "independent_runs",
    "macs",
    "map50",
    "map50_95",
    "map50_95_ultralytics",
    "metric",
    "p50_bound_ms",
    "p50_ms",
    "p95_bound_ms",
    "p95_ms",
    "p99_bound_ms",
    "p99_ms",
    "params",
    "peak_memory_bytes",
    "per_class",
    "per_class.*",
    "recall",
    "recall.*",
    "runs",
    "train_accuracy",
    "zeros",
];

/// What begins the keys of a stage that was only evaluated, in another runtime.
const ACCURACY: [&str; 4] = ["accuracy", "map50", "per_class", "recall"];

/// A report in which nothing is absent.
fn full() -> Report {
    let of = |map: f64| Stage {
        recall: BTreeMap::from([("person".to_owned(), 0.75)]),
        accuracy: Some(0.5),
        train_accuracy: Some(0.625),
        metric: Metric::Masks,
        boxes: Some(BoxFigures {
            map50_95: 0.4,
            map50: 0.6,
            map50_95_ultralytics: 0.41,
            per_class: BTreeMap::from([("person".to_owned(), 0.4)]),
        }),
        energy: Some(Energy { p50_mj: 25.0, p50_bound_mj: Some(26.0), least_mj: 24.0, most_mj: 27.0, blocks: 40 }),
        latency: Some(Distribution {
            p50_bound_ms: Some(20.5),
            p95_bound_ms: Some(21.5),
            p99_bound_ms: Some(22.5),
            ..distribution(20.0)
        }),
        ..stage(map, 1_971_240, &["person"])
    };
    let report = sample(true);
    Report {
        budget: Budget {
            latency_ms: Some(10.0),
            latency_ratio: Some(0.75),
            percentile: 99,
            energy_mj: Some(30.0),
            memory_mib: Some(20.0),
            params: Some(2_000_000),
            file_mib: Some(8.0),
            min_map: Some(0.25),
            max_map_drop: Some(0.125),
        },
        baseline: of(0.375),
        pruned: of(0.25),
        repaired: of(0.3125),
        tuned: Some(of(0.34375)),
        training: Some(Training {
            held_back: 26,
            metric: "mAP50-95".into(),
            before: Some(0.3125),
            after: Some(0.34375),
            epoch: Some(1),
            int8_epochs: 1,
            diverged: Some("its loss".into()),
            epochs: vec![Epoch { loss: 3.5, held_back: Some(0.34375), lr: 1e-3 }],
        }),
        head: Some(BranchChoice { branch: Branch::One2One, removed: Some(Removed::default()) }),
        dtype: Dtype::Int8,
        batch: 2,
        quantized: Some(of(0.34375)),
        controls: BTreeMap::from([("uncut + repair".to_owned(), of(0.375))]),
        runtime: Some(InRuntime { name: "TensorRT 10.3.0".into(), baseline: of(0.375), shipped: of(0.34375) }),
        verdict: Verdict { simulated: Some("emulated".into()), ..report.verdict.clone() },
        ..report
    }
}

/// Adds the path of every key in a value.
fn collect(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let around = path.rsplit('.').next().unwrap_or_default();
                let key = if MAPS.contains(&around) { "*" } else { key };
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                collect(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| collect(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(value, "", &mut found);
    found
}

#[test]
fn report_json_has_these_keys_and_no_others() {
    let mut value = serde_json::to_value(full()).unwrap();
    // Every stage has the same keys.
    for name in ["uncut", "last"] {
        let stage = value["runtime"][name].take();
        let expected: Vec<&str> =
            STAGE.into_iter().filter(|key| ACCURACY.iter().any(|of| key.starts_with(of))).collect();
        assert_eq!(keys(&stage).iter().collect::<Vec<_>>(), expected, "{name} in another runtime");
    }
    let stages = ["uncut", "cut", "repaired", "tuned", "rounded"];
    for name in stages {
        let stage = value[name].take();
        assert_eq!(keys(&stage).iter().collect::<Vec<_>>(), STAGE, "{name}");
    }
    let control = value["controls"]["uncut + repair"].take();
    assert_eq!(keys(&control).iter().collect::<Vec<_>>(), STAGE, "a control");
    assert_eq!(keys(&value).iter().collect::<Vec<_>>(), KEYS);
}
