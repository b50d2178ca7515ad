//! What every stage of a job reads: the job, its inputs, where latencies come from, the cache, and the receiver of
//! its progress.

use super::cache::Cache;
use super::error::PipelineError;
use super::inputs::Inputs;
use super::job::Job;
use super::progress::Progress;
use super::timing::{LatencySource, PairSpec, PairedLatency};
use crate::model::Model;
use crate::repair::{self, Calibration, Method};
use crate::surgery::{self, Selection};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Instant;

/// The surroundings of a stage.
pub(super) struct Context<'a> {
    pub job: &'a Job,
    pub inputs: &'a Inputs,
    pub progress: &'a dyn Progress,
    pub cache: Cache<'a>,
    pub timing: Box<dyn LatencySource + 'a>,
    pub clock: Clock,
}

impl<'a> Context<'a> {
    /// The context of a job with its inputs; the clock starts.
    pub fn new(job: &'a Job, inputs: &'a Inputs, progress: &'a dyn Progress) -> Self {
        let cache = Cache { folder: &job.cache, progress, ranks: &job.ranks };
        Self { job, inputs, progress, cache, timing: job.timing.source(), clock: Clock::default() }
    }

    /// What measurements depend on: the machine, the threads, the image size, the batch, the dtype.
    pub fn fingerprint(&self) -> String {
        let (job, imgsz) = (self.job, self.inputs.baseline.imgsz);
        let (name, threads) = (self.timing.machine(&job.target), job.threads);
        let dtype = if job.dtype.is_f32() { String::new() } else { format!(", {}", job.dtype.name()) };
        let batch = if job.batch > 1 { format!(", batches of {}", job.batch) } else { String::new() };
        format!("{name}, {threads} thread{}, {imgsz} px{batch}{dtype}", if threads == 1 { "" } else { "s" })
    }

    /// Measures a model and another one interleaved, frame by frame, on the first rank; none where nothing can be timed.
    /// Both must be in the dtype that they shall be timed in.
    ///
    /// # Errors
    /// If one of them cannot be run, or the device fails.
    pub fn pair(&self, baseline: &Model, other: &Model, runs: usize) -> Result<Option<PairedLatency>, PipelineError> {
        let (job, inputs) = (self.job, self.inputs);
        self.timing.pair(
            baseline,
            other,
            &PairSpec {
                imgsz: inputs.baseline.imgsz,
                threads: job.threads,
                warmup: job.warmup.min(runs),
                runs,
                percentile: job.budget.latency_ms.map(|_| job.budget.percentile),
                energy: job.budget.energy_mj.is_some(),
                input: &inputs.calibration.images[0].repeat(job.batch),
                batch: job.batch,
                folder: &job.cache,
            },
        )
    }

    /// The calibration images as importance and repair take them.
    pub fn calibration(&self) -> Calibration<'a> {
        self.inputs.repair_calibration(self.job.seed)
    }

    /// The baseline model with the selected channels only.
    ///
    /// # Errors
    /// If the selection leaves no valid network.
    pub fn prune(&self, selection: &Selection) -> Result<Model, PipelineError> {
        let baseline = &self.inputs.baseline;
        Ok(surgery::cut(&baseline.model, &baseline.groups, selection)?)
    }

    /// Repairs a pruned model against the baseline one on all calibration images.
    ///
    /// # Errors
    /// As [`repair::repair`].
    pub fn repair(&self, selection: &Selection, pruned: &Model, method: Method) -> Result<Model, PipelineError> {
        self.repair_on(selection, pruned, method, &self.calibration(), &mut |done, all| self.progress.step(done, all))
    }

    /// Repairs a pruned model on some calibration images.
    ///
    /// # Errors
    /// As [`repair::repair`].
    pub fn repair_on(
        &self,
        selection: &Selection,
        pruned: &Model,
        method: Method,
        calibration: &Calibration,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Model, PipelineError> {
        let baseline = &self.inputs.baseline;
        Ok(repair::repair(&baseline.model, &baseline.groups, selection, pruned, method, calibration, progress)?)
    }
}

/// Seconds per stage.
pub(super) struct Clock {
    last: Cell<Instant>,
    laps: RefCell<BTreeMap<String, f64>>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Cell::new(Instant::now()), laps: RefCell::default() }
    }
}

impl Clock {
    /// Ends a stage.
    pub fn lap(&self, stage: &str) {
        let now = Instant::now();
        let seconds = now.duration_since(self.last.replace(now)).as_secs_f64();
        self.laps.borrow_mut().insert(stage.into(), seconds);
    }

    /// The seconds of every stage that has ended.
    pub fn laps(&self) -> BTreeMap<String, f64> {
        self.laps.borrow().clone()
    }
}
