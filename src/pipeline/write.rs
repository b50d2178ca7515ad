//! What a job leaves behind: the model, the plan, the reports and the manifest.

use super::cache::sha256;
use super::measure::{self, Against};
use super::{Done, PipelineError};
use crate::report::{self, Report};
use crate::surgery::Selection;
use crate::{files, model};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The model that ships.
pub const MODEL: &str = "model.safetensors";
/// The model it was made from, for comparisons on the device.
pub const UNCUT: &str = "uncut.safetensors";
/// Widths and kept channels.
pub const PLAN: &str = "plan.toml";
/// The figures for programs.
pub const REPORT_JSON: &str = "report.json";
/// The figures for people.
pub const REPORT_HTML: &str = "report.html";
/// Hashes of everything.
pub const MANIFEST: &str = "manifest.json";

/// `plan.toml`: what was cut, group by group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanFile {
    /// SHA-256 of the model file that the plan belongs to.
    pub model_sha256: String,
    /// The groups in the network's order.
    pub group: Vec<PlanGroup>,
}

/// One group of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanGroup {
    /// Name of the group.
    pub name: String,
    /// Channels before.
    pub before: usize,
    /// Channels after.
    pub width: usize,
    /// Positions of the channels that stay, ascending.
    pub kept: Vec<usize>,
}

#[derive(Serialize)]
struct Manifest<'a> {
    version: &'a str,
    target: &'a str,
    seed: u64,
    model: &'a str,
    data: &'a str,
    /// SHA-256 by file name of everything in this folder.
    files: BTreeMap<String, String>,
    /// SHA-256 of what went in.
    inputs: BTreeMap<String, String>,
    latency_ratio: f64,
    uncut: &'a report::Stage,
    last: &'a report::Stage,
}

/// Writes everything a job found into its folder.
///
/// # Errors
/// If a file cannot be written.
pub fn write(out: &Path, done: &Done) -> Result<(), PipelineError> {
    let put = |name: &str, bytes: &[u8]| {
        files::write_atomic(&out.join(name), bytes).map_err(|e| PipelineError::Stage {
            stage: "writing",
            problem: format!("{}: {e}", out.join(name).display()),
        })
    };
    put(MODEL, &model::to_bytes(&done.model).map_err(PipelineError::stage("writing"))?)?;
    put(UNCUT, &model::to_bytes(&done.uncut).map_err(PipelineError::stage("writing"))?)?;
    let source = done.model.info.provenance.get("source-sha256").cloned().unwrap_or_default();
    let plan = plan_file(&done.report, &done.selection, source);
    put(PLAN, toml::to_string(&plan).map_err(PipelineError::stage("writing"))?.as_bytes())?;
    reports(out, &done.report, &plan.model_sha256)
}

fn plan_file(report: &Report, selection: &Selection, model_sha256: String) -> PlanFile {
    let group = report.groups.iter().zip(&selection.0).map(|(group, kept)| PlanGroup {
        name: group.name.clone(),
        before: group.before,
        width: group.after,
        kept: kept.clone(),
    });
    PlanFile { model_sha256, group: group.collect() }
}

fn reports(out: &Path, report: &Report, source: &str) -> Result<(), PipelineError> {
    let put =
        |name: &str, bytes: &[u8]| files::write_atomic(&out.join(name), bytes).map_err(PipelineError::stage("writing"));
    put(REPORT_JSON, &serde_json::to_vec_pretty(report).map_err(PipelineError::stage("writing"))?)?;
    put(REPORT_HTML, report::render(report).as_bytes())?;
    let mut hashes = BTreeMap::new();
    for entry in std::fs::read_dir(out).map_err(PipelineError::stage("writing"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != MANIFEST && !name.starts_with('.') && entry.path().is_file() {
            hashes.insert(
                name,
                sha256(&files::read(&entry.path(), model::MAX_FILE).map_err(PipelineError::stage("writing"))?),
            );
        }
    }
    let manifest = Manifest {
        version: &report.version,
        target: &report.target,
        seed: report.seed,
        model: &report.model,
        data: &report.data,
        files: hashes,
        inputs: BTreeMap::from([("model".to_owned(), source.to_owned())]),
        latency_ratio: report.verdict.latency_ratio,
        uncut: &report.uncut,
        last: report.last(),
    };
    put(MANIFEST, &serde_json::to_vec_pretty(&manifest).map_err(PipelineError::stage("writing"))?)
}

/// What came of the inference binary on its device.
pub enum Outcome<'a> {
    /// It was measured.
    Measured(&'a Against),
    /// It ran, but its times claim nothing: why.
    Simulated(&'a str),
}

/// Reads the report of a folder.
///
/// # Errors
/// If the folder holds no job's results.
pub fn report_of(out: &Path) -> Result<Report, PipelineError> {
    let path = out.join(REPORT_JSON);
    let input = |e: &dyn std::fmt::Display| PipelineError::Input(format!("{}: {e}", path.display()));
    let bytes = files::read(&path, 64 << 20).map_err(|e| input(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| input(&e))
}

/// Enters what came of the inference binary into the reports of a folder, and judges the budgets by it.
///
/// # Errors
/// If the folder holds no job's results, or a file cannot be written.
pub fn finish(out: &Path, outcome: &Outcome) -> Result<Report, PipelineError> {
    let mut report = report_of(out)?;
    match outcome {
        Outcome::Measured(against) => measure::enter(&mut report, against),
        Outcome::Simulated(why) => measure::enter_simulated(&mut report, why),
    }
    let plan = files::read(&out.join(PLAN), 64 << 20).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let plan = plan.and_then(|text| toml::from_str::<PlanFile>(&text).ok());
    reports(out, &report, &plan.map(|p| p.model_sha256).unwrap_or_default())?;
    Ok(report)
}
