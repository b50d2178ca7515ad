//! Published networks by the names that users know: `yolo11n`, `yolo26s-seg`, `yolov9c`, `yolov5nu`.

use super::blocks::ZooError;
use super::head::Task;
use super::{yolo11, yolo12, yolo26, yolov5, yolov6, yolov8, yolov9, yolov10};
use crate::graph::Graph;

/// The graph of a published YOLO for `nc` classes, with both branches where its head has two; nothing for another name.
///
/// # Errors
/// If `nc` is 0.
pub fn published(name: &str, nc: usize) -> Result<Option<Graph>, ZooError> {
    let (base, suffix) = name.find('-').map_or((name, ""), |at| name.split_at(at));
    let Some(task) = Task::PUBLISHED.into_iter().find(|task| task.suffix() == suffix) else { return Ok(None) };
    let detects = task == Task::Detect;
    let scale = |family: &str| {
        let mut letters = base.strip_prefix(family)?.chars();
        letters.next().filter(|_| letters.next().is_none())
    };
    let graph = if let Some(scale) = scale("yolo26").and_then(yolo11::Scale::of) {
        yolo26::network(scale, task, nc)
    } else if let Some(scale) = scale("yolo11").and_then(yolo11::Scale::of) {
        yolo11::network(scale, task, nc)
    } else if let Some(scale) = scale("yolov8").and_then(|letter| yolov8::Scale::of(letter, task)) {
        yolov8::network(scale, task, nc)
    } else if !detects {
        return Ok(None);
    } else if let Some(scale) = scale("yolo12").and_then(yolo12::Scale::of) {
        yolo12::detect(scale, nc)
    } else if let Some(scale) = scale("yolov10").and_then(yolov10::Scale::of) {
        yolov10::detect(scale, nc)
    } else if base == "yolov9e" {
        yolov9::detect_e(nc)
    } else if let Some(variant) = scale("yolov9").and_then(yolov9::Variant::of) {
        yolov9::detect(variant, nc)
    } else if let Some(scale) = scale("yolov6").and_then(yolov6::scale) {
        yolov6::detect(scale, nc)
    } else if let Some(scale) = yolov5u(base).and_then(yolov5::scale) {
        yolov5::detect(scale, nc)
    } else {
        return Ok(None);
    };
    graph.map(Some)
}

/// The letter of a YOLOv5u: `yolov5nu`.
fn yolov5u(base: &str) -> Option<char> {
    let mut letters = base.strip_prefix("yolov5")?.strip_suffix('u')?.chars();
    letters.next().filter(|_| letters.next().is_none())
}
