//! Writes the results of a job: the pruned model, the plan, the reports and the manifest.

use super::error::PipelineError;
use super::locking::Pending;
use super::results::{New, Results};
use super::run::Done;
use super::timing::PairedLatency;
use super::verdict::{enter, enter_simulated};
use crate::bundle::sbom::{self, Crates, Materials};
use crate::bundle::sign::Signer;
use crate::bundle::{
    self, BASELINE, BENCH, BINARY, EPOCHS, Fault, Listed, MANIFEST, MODEL, ONNX, PLAN, PROFILE, REPORT_HTML,
    REPORT_JSON, SBOM, SIGNATURE, Verified, carries, sha256,
};
use crate::files;
use crate::model::{self, Model};
use crate::profile::{Profile, Resolved};
use crate::report::{self, Report};
use crate::surgery::Selection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// `plan.toml`: the width and the kept channels of every group.
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
    /// Positions of the kept channels, ascending.
    pub kept: Vec<usize>,
}

#[derive(Serialize)]
struct Manifest<'a> {
    /// SHA-256 of this file, taken with zeros in this place.
    digest: &'a str,
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
    #[serde(rename = "uncut")]
    baseline: &'a report::Stage,
    last: &'a report::Stage,
}

/// Writes everything a job found into its folder, in place of what an earlier run left there; the first of two stages leaves
/// it beside the folder. `profile` is what was asked for, with the flags of the command line.
///
/// # Errors
/// If a file cannot be written: then the results of the earlier run are kept.
pub fn write(results: &Results, profile: &Resolved, done: &Done) -> Result<(), PipelineError> {
    let bytes = |model| model::to_bytes(model).map_err(PipelineError::Serialize);
    let (last, baseline) = (bytes(&done.model)?, bytes(&done.baseline)?);
    let source = done.model.info.provenance.get("source-sha256").cloned().unwrap_or_default();
    let plan = plan_file(&done.report, &done.selection, source.clone());
    let plan = toml::to_string(&plan)?;
    let profile = profile.to_toml();
    let mut new = vec![
        file(MODEL, &last),
        file(BASELINE, &baseline),
        file(PLAN, plan.as_bytes()),
        file(PROFILE, profile.as_bytes()),
    ];
    new.extend(done.epochs.as_ref().map(|table| file(EPOCHS, table.as_bytes())));
    let data = done.pending.data().map(|hash| ("data".to_owned(), hash.to_owned()));
    let inputs = [("model".to_owned(), source)].into_iter().chain(data).collect();
    let (pending, release) = (&done.pending, Release::default());
    replace(results, &done.report, new, &Listed::new(BTreeMap::new(), inputs), pending, &release)
}

fn file<'a>(name: &'static str, bytes: &'a [u8]) -> New<'a> {
    New { name, bytes, program: name == BINARY }
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

/// What a bundle has for who receives it, where it is asked for.
#[derive(Default)]
pub struct Release<'a> {
    /// The crates of the inference binary: with them, and the model, a bill of materials is written.
    pub materials: Option<(&'a Crates, &'a Model)>,
    /// Signs the manifest.
    pub signer: Option<&'a Signer>,
    /// The time that bill and signature have, seconds since 1970 (`SOURCE_DATE_EPOCH`). Without it the bill has none, and
    /// the signature the current one.
    pub epoch: Option<u64>,
}

/// Replaces the set by new files, the reports, what a release has, and a manifest of all; keeps what `kept` lists. The
/// hashes are of what is written, whatever lies in the folder.
fn replace(
    results: &Results,
    report: &Report,
    new: Vec<New>,
    kept: &Listed,
    pending: &Pending,
    release: &Release,
) -> Result<(), PipelineError> {
    let json = serde_json::to_vec_pretty(report)?;
    let page = report::render(report);
    let mut new = new;
    new.extend([file(REPORT_JSON, &json), file(REPORT_HTML, page.as_bytes())]);
    let mut hashes = kept.files.clone();
    hashes.extend(new.iter().map(|file| (file.name.to_owned(), sha256(file.bytes))));
    let bill = |(crates, model)| {
        let epoch = release.epoch;
        sbom::compose(&Materials { crates, files: &hashes, inputs: &kept.inputs, report, model, epoch })
    };
    let bill = release.materials.map(bill).transpose()?;
    if let Some(bill) = &bill {
        hashes.insert(SBOM.to_owned(), sha256(bill));
        new.push(file(SBOM, bill));
    }
    let manifest = Manifest {
        digest: bundle::unsealed(),
        version: &report.version,
        target: &report.target,
        seed: report.seed,
        model: &report.model,
        data: &report.data,
        files: hashes,
        inputs: kept.inputs.clone(),
        latency_ratio: report.verdict.latency_ratio,
        baseline: &report.baseline,
        last: report.last(),
    };
    let manifest = bundle::seal(&serde_json::to_string_pretty(&manifest)?);
    let signature = release.signer.map(|signer| signer.sign(manifest.as_bytes(), release.epoch)).transpose();
    let signature = signature.map_err(|e| PipelineError::Serialize(e.to_string()))?;
    new.extend(signature.as_deref().map(|text| file(SIGNATURE, text.as_bytes())));
    new.push(file(MANIFEST, manifest.as_bytes()));
    let keep: Vec<&str> = kept.files.keys().map(String::as_str).collect();
    let notes = pending.notes()?;
    let notes: Vec<New> = notes.iter().map(|(name, bytes)| file(name, bytes)).collect();
    results.replace(&new, &keep, &notes)
}

/// How the inference binary ran on its device.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was measured.
    Measured(Box<PairedLatency>),
    /// It ran, but its times claim nothing: why.
    Simulated(String),
}

impl Outcome {
    /// Enters it into a report, and judges the budgets by it.
    pub fn enter(&self, report: &mut Report) {
        match self {
            Self::Measured(pair) => enter(report, pair),
            Self::Simulated(why) => enter_simulated(report, why),
        }
    }
}

/// A measurement of the inference binary, and what it leaves beside the reports.
pub struct Measurement {
    /// Its latency, or why none is claimed.
    pub outcome: Outcome,
    /// `bench.json`.
    pub bench: Vec<u8>,
    /// `model.onnx`, where a benchmark command of the user needs it.
    pub onnx: Option<Vec<u8>>,
}

/// A built bundle, checked: everything in its folder is what one run wrote, and the inference binary carries its model.
pub struct Bundle {
    /// What was asked for.
    pub profile: Profile,
    /// What was found out so far.
    pub report: Report,
    listed: Listed,
    model: Vec<u8>,
    binary: Vec<u8>,
}

impl Bundle {
    /// Reads and checks the results of a run, and the inference binary that was built of its model.
    ///
    /// # Errors
    /// If a file is missing, or is not what the manifest says, or the binary carries another model.
    pub fn open(results: &Results, binary: &Path) -> Result<Self, PipelineError> {
        let folder = results.set();
        if folder.join(MANIFEST).symlink_metadata().is_err() {
            let problem = "holds no results of a run: run prune first";
            return Err(PipelineError::Input(format!("{}: {problem}", folder.display())));
        }
        let whole = bundle::pruned(&folder).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
            PipelineError::Input(lines.join("\n"))
        })?;
        let Verified { profile, report, listed, model, .. } = whole;
        let program = files::read(binary, model::MAX_FILE).map_err(|e| PipelineError::reading(binary, e))?;
        if !carries(&program, &model) {
            let problem = format!("carries another model than {}: build it again", folder.join(MODEL).display());
            return Err(PipelineError::Input(format!("{}: {problem}", binary.display())));
        }
        Ok(Self { profile, report, listed, model, binary: program })
    }

    /// Enters how the inference binary ran into the reports, judges the budgets by it, and puts binary, reports, what else
    /// was written on the way, and what the release asks for into the folder: the bill of materials where the crates of
    /// the binary are known, the signature where there is a key.
    ///
    /// # Errors
    /// If a file cannot be written: then nothing changes.
    pub fn finish(
        self,
        results: &Results,
        measurement: &Measurement,
        crates: Option<&Crates>,
        release: Release,
    ) -> Result<Report, PipelineError> {
        let Self { mut report, listed, model, binary, .. } = self;
        measurement.outcome.enter(&mut report);
        let mut new = vec![file(BINARY, &binary), file(BENCH, &measurement.bench)];
        new.extend(measurement.onnx.as_deref().map(|bytes| file(ONNX, bytes)));
        let Listed { mut files, inputs, .. } = listed;
        files.retain(|name, _| [MODEL, BASELINE, PLAN, PROFILE, EPOCHS].contains(&name.as_str()));
        let path = results.set().join(MODEL);
        let model = crates.map(|_| model::from_bytes(&path, &model)).transpose()?;
        let release = Release { materials: crates.zip(model.as_ref()), ..release };
        replace(results, &report, new, &Listed::new(files, inputs), &Pending::default(), &release)?;
        Ok(report)
    }
}
