//! The model and its dataset in a bill of materials, with the model card.

use super::{BASELINE, MODEL, Materials, hashes};
use crate::bench::Distribution;
use crate::graph::Shape;
use crate::import;
use crate::report::{Report, Stage};
use crate::size::ImageSize;
use serde_json::{Map, Value, json};

/// The reference of the dataset.
pub const DATASET: &str = "dataset";

/// The model that ships, and the dataset on which it was calibrated, trained and evaluated.
pub fn components(materials: &Materials) -> [Value; 2] {
    let Materials { files, inputs, report, model, .. } = *materials;
    let family = import::family(&model.weights);
    let name = family.map_or_else(|| MODEL.to_owned(), |family| format!("{family} for {}", report.target));
    let mut ancestors = vec![json!({
        "type": "machine-learning-model", "name": BASELINE, "hashes": hashes(files.get(BASELINE)),
        "description": "the model before pruning, as it is measured against",
    })];
    if inputs.contains_key("model") {
        ancestors.push(json!({
            "type": "machine-learning-model", "name": report.model, "hashes": hashes(inputs.get("model")),
            "description": "the file that was pruned",
        }));
    }
    let mut parameters = Map::new();
    parameters.insert("approach".into(), json!({ "type": "supervised" }));
    parameters.insert("task".into(), task(model.graph.head.task()).into());
    if let Some(family) = family {
        parameters.insert("architectureFamily".into(), family.into());
    }
    let layers = model.graph.convs().count();
    let architecture =
        format!("convolutional network, {layers} convolutions, channels pruned, {}", report.dtype.name());
    parameters.insert("modelArchitecture".into(), architecture.into());
    parameters.insert("datasets".into(), json!([{ "ref": DATASET }]));
    let (input, outputs) = shapes(materials);
    parameters.insert("inputs".into(), json!([{ "format": input }]));
    parameters.insert("outputs".into(), outputs.into_iter().map(|format| json!({ "format": format })).collect());
    let model = json!({
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": name,
        "version": files.get(MODEL).map_or("", |hash| hash.get(..16).unwrap_or(hash)),
        "description": format!("embedded in the inference binary, and beside it as {MODEL}"),
        "hashes": hashes(files.get(MODEL)),
        "pedigree": { "ancestors": ancestors },
        "modelCard": {
            "modelParameters": parameters,
            "quantitativeAnalysis": { "performanceMetrics": metrics(report) },
        },
    });
    let mut data = json!({
        "type": "data", "bom-ref": DATASET, "name": report.data,
        "data": [{ "type": "dataset", "name": report.data,
            "description": "its training split calibrated and trained the model, its validation split evaluated it" }],
    });
    if let (Some(_), Some(data)) = (inputs.get("data"), data.as_object_mut()) {
        data.insert("hashes".into(), hashes(inputs.get("data")));
    }
    [model, data]
}

/// The task in the words of model cards.
fn task(name: &'static str) -> &'static str {
    match name {
        "detect" => "object-detection",
        "segment" => "instance-segmentation",
        "pose" => "pose-estimation",
        "obb" => "oriented-object-detection",
        "classify" => "image-classification",
        other => other,
    }
}

/// Formats of the input and of every output.
fn shapes(materials: &Materials) -> (String, Vec<String>) {
    let (graph, ImageSize { height, width }) = (&materials.model.graph, materials.report.imgsz);
    let input = format!("image, RGB, f32 [1, {}, {height}, {width}]", graph.input_channels());
    let of = |Shape { c, h, w }: Shape| format!("tensor, f32 [1, {c}, {h}, {w}]");
    // A model that was measured has shapes.
    let shapes = graph.shapes(height, width).unwrap_or_default();
    (input, graph.outputs.iter().filter_map(|id| shapes.get(id.index()).copied().map(of)).collect())
}

/// The figures of the report: accuracy of every stage; size and latency of what ships.
fn metrics(report: &Report) -> Vec<Value> {
    let images = format!("validation images of {}", report.data);
    let mut metrics = Vec::new();
    for (name, stage) in report.stages() {
        let slice = format!("{name}, {images}");
        for (kind, value) in accuracies(stage) {
            metrics.push(json!({ "type": kind, "value": value.to_string(), "slice": slice }));
        }
    }
    let last = report.last();
    for (class, value) in last.per_class.iter().filter(|(_, value)| **value >= 0.0) {
        let slice = format!("class {class}, {images}");
        metrics.push(json!({ "type": last.score_name(), "value": value.to_string(), "slice": slice }));
    }
    for (kind, value) in [
        ("peak memory, bytes", last.peak_memory_bytes),
        ("model file, bytes", last.file_bytes),
        ("parameters", last.params),
        ("multiply-accumulates per image", last.macs),
    ] {
        metrics.push(json!({ "type": kind, "value": value.to_string() }));
    }
    if let (Some(latency), None) = (&last.latency, &report.verdict.simulated) {
        metrics.extend(latencies(latency, &report.device));
    }
    if report.verdict.latency_ratio > 0.0 {
        let value = report.verdict.latency_ratio.to_string();
        metrics.push(
            json!({ "type": "latency over that of the model before pruning", "value": value, "slice": report.device }),
        );
    }
    metrics
}

/// The accuracies that a stage has.
fn accuracies(stage: &Stage) -> Vec<(&'static str, f64)> {
    let boxes = stage.boxes.as_ref();
    let all = [
        (stage.metric.name(), Some(stage.map50_95)),
        (stage.metric.loose_name(), Some(stage.map50)),
        ("box mAP50-95", boxes.map(|boxes| boxes.map50_95)),
        ("box mAP50", boxes.map(|boxes| boxes.map50)),
        ("accuracy", stage.accuracy),
    ];
    all.into_iter().filter_map(|(kind, value)| Some((kind, value.filter(|value| *value >= 0.0)?))).collect()
}

/// Percentiles of the time per frame, with what they are at most with 95 % confidence.
fn latencies(latency: &Distribution, device: &str) -> Vec<Value> {
    let all = [
        ("latency p50, ms", latency.p50_ms, latency.p50_bound_ms),
        ("latency p95, ms", latency.p95_ms, latency.p95_bound_ms),
        ("latency p99, ms", latency.p99_ms, latency.p99_bound_ms),
    ];
    let metric = |(kind, value, bound): (&str, f64, Option<f64>)| {
        let mut metric = json!({ "type": kind, "value": value.to_string(), "slice": device });
        if let (Some(bound), Some(metric)) = (bound, metric.as_object_mut()) {
            metric.insert("confidenceInterval".into(), json!({ "upperBound": bound.to_string() }));
        }
        metric
    };
    all.into_iter().map(metric).collect()
}
