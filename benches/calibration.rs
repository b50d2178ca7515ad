//! What calibration costs before any plan: output sensitivity, second moments, ranking and loss curves, by CPU time.
//!
//!     cargo bench --bench calibration -- SCALE SIDE IMAGES COMPARED [SECONDS]
//!
//! YOLO11 of a scale with made-up weights, on IMAGES images of SIDE pixels, COMPARED of them for the loss curves, whose
//! measurement ends after SECONDS. Every stage is scaled to 128 images and those of a job for the curves by its
//! multiply-accumulates.
#![allow(missing_docs)]

use secateurs::engine::Device;
use secateurs::graph::{Graph, Op};
use secateurs::group::groups;
use secateurs::importance::{self, Batches, Covariances, Criterion, Sampling, Statistics};
use secateurs::kernels::clock::cpu_millis;
use secateurs::model::{Info, Model};
use secateurs::ranks::Ranks;
use secateurs::repair::{Calibration, Walk};
use secateurs::train;
use secateurs::zoo::yolo11::{Scale, detect};
use std::error::Error;

/// Images that a job calibrates with, and compares outputs on.
const IMAGES: usize = 128;
const COMPARED: usize = Sampling::IMAGES;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let letter = args.first().and_then(|arg| arg.chars().next()).unwrap_or('n');
    let (side, count, compared) = (number(1, 320)?, number(2, 4)?, number(3, 2)?);
    let seconds = number(4, 60)? as f64;
    let graph = detect(Scale::of(letter).ok_or("no such scale")?, 80)?;
    let weights = train::init(&graph, 7);
    let model = Model::new(graph, weights, Info::default())?;
    let value = |at: usize| (at.wrapping_mul(2_654_435_761) >> 7) % 256;
    let image = |number: usize| (0..3 * side * side).map(|at| value(at + 977 * number) as f32 / 255.0).collect();
    let images: Vec<Vec<f32>> = (0..count).map(image).collect();
    let macs = model.graph.cost(side, side)?.macs as f64;
    println!("YOLO11{letter}, {side} px: {:.2} GMAC an image, {count} images, {compared} compared", macs / 1e9);

    let batches = Batches { images: &images, height: side, width: side, batch: 4, ranks: Ranks::default() };
    let (sensitivity, spent) = timed(|| importance::sensitivity(&model, &batches, Device::Cpu, 0, &mut |_, _| {}));
    let (sensitivity, share) = (sensitivity?, IMAGES as f64 / count as f64);
    report("sensitivity", spent, share);

    let calibration = Calibration {
        images: &images,
        height: side,
        width: side,
        ridge: 0.03,
        seed: 0,
        sensitivity: Some(&sensitivity),
        ranks: Ranks::default(),
        device: Device::Cpu,
    };
    let mut walk = Walk::new(&model.graph, &calibration);
    let (walked, forward) = timed(|| model.graph.ids().try_for_each(|id| walk.step(&model, id)));
    walked?;
    report("forward, layer by layer", forward, share);
    let (found, spent) = timed(|| importance::covariances(&model, &calibration));
    let products = |images| products(&model.graph, side, images);
    report("second moments", spent - forward, products(IMAGES)? / products(count)?);

    let groups = groups(&model.graph);
    let statistics =
        Statistics { covariances: Some((found?, 0.03)), sensitivity: Some(&sensitivity), ..Statistics::default() };
    let (ranking, spent) = timed(|| importance::rank(Criterion::Reconstruction, &model, &groups, &statistics));
    let ranking = ranking?;
    report("ranking", spent, 1.0);

    let covariances: Covariances = statistics.covariances.map(|(covariances, _)| covariances).unwrap_or_default();
    let sampling = Sampling { images: compared, ..Sampling::of_job(8) };
    let start = cpu_millis();
    let mut step = |done: usize, all: usize| {
        let spent = (cpu_millis() - start) / 1e3;
        if done == all || spent > seconds {
            let each = spent / done as f64 / compared as f64;
            println!("loss curves: {done} of {all} networks, {compared} images each: {spent:.1} CPU seconds");
            println!("  all networks on {COMPARED} images: {:.0}", each * all as f64 * COMPARED as f64);
            std::process::exit(0);
        }
    };
    importance::measure(&model, &groups, &ranking, &covariances, &calibration, &sampling, &mut step)?;
    Ok(())
}

/// A result, and the CPU time that it took, seconds.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = cpu_millis();
    let result = work();
    (result, (cpu_millis() - start) / 1e3)
}

/// Prints the CPU time of a stage, and what it is `factor` times.
fn report(stage: &str, seconds: f64, factor: f64) {
    println!("{stage}: {seconds:.1} CPU seconds, {:.0} at {IMAGES} images", seconds * factor);
}

/// Multiply-accumulates of all second moments.
fn products(graph: &Graph, side: usize, images: usize) -> Result<f64, Box<dyn Error>> {
    let shapes = graph.shapes(side, side)?;
    let mut total = 0.0;
    for id in graph.ids() {
        let Op::Conv(conv) = &graph.node(id).op else { continue };
        if !conv.is_depthwise() {
            let d = conv.c_in * conv.kernel * conv.kernel;
            let positions = (8192.max(12 * d)).min(images * shapes[id.index()].area());
            total += (positions * d * d) as f64;
        }
    }
    Ok(total)
}
