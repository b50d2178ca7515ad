//! Measures a bundle's inference binary, its model in another runtime, or the user's benchmark command, interleaved with
//! another model.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::emit::onnx;
use crate::model::{self, Model};
use crate::pipeline::{
    Measurement, Outcome, PairedLatency, PipelineError, pair_by_command, pair_by_runtime, verdict_runs,
};
use crate::profile::Profile;
use crate::report::Report;
use crate::runtimes::Runtime;
use crate::session::{Frames, Session};
use crate::size::ImageSize;
use prost::Message;
use std::path::Path;

/// What is measured, and for whom.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The profile of the run, with its flags.
    pub profile: &'a Profile,
    /// The figures of the run.
    pub report: &'a Report,
    /// The inference binary with the model embedded.
    pub binary: &'a Path,
    /// The same model as a file.
    pub model: &'a Path,
    /// The model that it is measured interleaved with.
    pub other: &'a Path,
    /// A folder for temporary files.
    pub folder: &'a Path,
}

/// Measures as plans were measured: on the profile's device.
///
/// # Errors
/// If the device cannot be reached or was never idle, or a model cannot be run.
pub fn measure(request: &Request, terminal: &mut Terminal) -> Result<Measurement, Failure> {
    match &request.profile.bench.command {
        Some(command) => by_export(request, &mut |models, input, runs| {
            let pair = pair_by_command(command, models, input, runs, request.folder)?;
            Ok(Outcome::Measured(Box::new(pair)))
        }),
        None if request.profile.bench.runtime.is_driven() => by_runtime(request, terminal),
        None => by_binary(request, terminal),
    }
}

/// Lets the inference binary measure both models on the device.
fn by_binary(request: &Request, terminal: &mut Terminal) -> Result<Measurement, Failure> {
    let Request { profile, report, binary, other, .. } = *request;
    let session = Session::open(profile, binary)?;
    let runs = verdict_runs(profile.budget.percentile, profile.bench.runs);
    let percentile = profile.budget.latency.map(|_| profile.budget.percentile);
    let (imgsz, batch, warmup) = (report.imgsz, report.batch, profile.bench.warmup);
    let frames = Frames { imgsz, batch, warmup, runs, phases: true, percentile };
    let record = session.measure_paired(None, other, &frames, &mut |done, all| terminal.progress(done, all))?;
    if !record.discarded.is_empty() {
        let (count, why) = (record.discarded.len(), record.discarded.join("; "));
        terminal.note(&format!("{count} windows were taken again: {why}"));
    }
    let (planned, measured) = (report.threads, record.measured.threads);
    if planned != measured {
        return Err(Failure::Internal(format!("planned for {planned} threads, measured with {measured}")));
    }
    let pair = PairedLatency::of_record(&record)
        .ok_or_else(|| Failure::Internal("the binary did not measure the other model".into()))?;
    let bench = serde_json::to_vec_pretty(&record)?;
    let outcome = record.simulated.map_or_else(|| Outcome::Measured(Box::new(pair)), Outcome::Simulated);
    Ok(Measurement { outcome, bench, onnx: None })
}

/// Measures both models in another runtime on the device; the ONNX file ships.
fn by_runtime(request: &Request, terminal: &mut Terminal) -> Result<Measurement, Failure> {
    let runtime = Runtime::open(request.profile, Some(request.binary))?;
    if let Some(why) = runtime.simulated() {
        return by_export(request, &mut |_, _, _| Ok(Outcome::Simulated(why.into())));
    }
    by_export(request, &mut |models, (size, _), runs| {
        let progress = &mut |done, all| terminal.progress(done, all);
        let pair = pair_by_runtime(&runtime, models, size, runs, progress)?;
        Ok(Outcome::Measured(Box::new(pair)))
    })
}

/// Measures the baseline and the pruned model on batches of a size, so many frames, by whatever reads ONNX files.
type Measure<'a> = &'a mut dyn FnMut([&Model; 2], (ImageSize, usize), usize) -> Result<Outcome, PipelineError>;

/// Lets what reads ONNX files measure both models; that of the pruned one ships.
fn by_export(request: &Request, measure: Measure) -> Result<Measurement, Failure> {
    let load = |path: &Path| model::load(path).map_err(Failure::input);
    let (other, pruned) = (load(request.other)?, load(request.model)?);
    let (size, batch) = (request.report.imgsz, request.report.batch);
    let runs = verdict_runs(request.profile.budget.percentile, request.profile.bench.runs);
    let onnx = onnx::batch_file(&pruned, size, batch).map_err(Failure::input)?.encode_to_vec();
    let outcome = measure([&other, &pruned], (size, batch), runs)?;
    let bench = match &outcome {
        Outcome::Measured(pair) => serde_json::to_vec_pretty(pair)?,
        Outcome::Simulated(why) => serde_json::to_vec_pretty(&serde_json::json!({ "simulated": why }))?,
    };
    Ok(Measurement { outcome, bench, onnx: Some(onnx) })
}
