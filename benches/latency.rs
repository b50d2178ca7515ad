//! How well a latency table predicts networks it has not seen: 30 random plans of a model, held out of the fit of 120 others.
//!
//! `cargo bench --bench latency [-- MODEL SIDE]`; without a model, YOLO11n with made-up weights at 320 px.
#![allow(missing_docs)]

use secateurs::group::groups;
use secateurs::latency::{Sampling, measure};
use secateurs::model::{Info, Model, Tensor, Weights};
use secateurs::pipeline::levels;
use secateurs::zoo::yolo11::{Scale, detect};
use std::path::Path;

/// Every fifth network is held out.
const NETWORKS: usize = 150;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo adds flags of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let model = match words.first() {
        Some(path) => secateurs::import::load(Path::new(path))?,
        None => made_up()?,
    };
    let side = words.get(1).map_or(Ok(320), |word| word.parse())?;
    let groups = groups(&model.graph);
    // Layers that are there: widths of 0 take no time.
    let widths = |group| levels(group, 8, 0.125).into_iter().filter(|width| *width > 0).collect();
    let widths: Vec<Vec<usize>> = groups.groups.iter().map(widths).collect();
    let sampling = Sampling { size: (side, side), threads: 1, networks: NETWORKS, rounds: 4, seed: 1 };
    let table = measure(&model, &groups, &widths, &sampling, "bench".into(), &mut |_, _| {})?;
    let errors = &table.held_out_errors;
    let (Some(middle), Some(worst)) = (errors.get(errors.len() / 2), errors.last()) else {
        return Err("no network was held out".into());
    };
    println!("{} unseen networks: median error {:.2} %, largest {:.2} %", errors.len(), 100.0 * middle, 100.0 * worst);
    Ok(())
}

/// YOLO11n whose weights do not matter: times do not depend on them.
fn made_up() -> Result<Model, Box<dyn std::error::Error>> {
    let graph = detect(Scale::of('n').ok_or("no scale n")?, 80)?;
    let mut weights = Weights::new();
    for param in graph.params() {
        let value = if param.key.ends_with("running_var") { 1.0 } else { 0.01 };
        weights.insert(param.key, Tensor::filled(param.shape, value));
    }
    Ok(Model::new(graph, weights, Info::default())?)
}
