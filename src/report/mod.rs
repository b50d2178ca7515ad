//! The report of a job: `report.json` serialises this structure, `report.html` shows it.

mod accuracy;
pub mod comparison;
mod html;
mod training;

pub use html::comparison::render as render_comparison;
pub use html::index::{Target, render as render_index};
pub use html::render;
pub use training::{Epoch, Training};

use crate::bench::{Distribution, Energy};
use crate::eval::Metric;
use crate::graph::{Branch, Dtype};
use crate::model::Removed;
use crate::quantise::Kept;
use crate::size::{ImageSize, is_one, one};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of secateurs.
    pub version: String,
    /// Name of the device profile.
    pub target: String,
    /// What measured: CPU, threads, image size.
    pub device: String,
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Images per run of the network; latencies and energies are those of the whole batch.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub batch: usize,
    /// The branch that is deployed, where the model has an end-to-end head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<BranchChoice>,
    /// Threads of the runtime.
    pub threads: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// The model file that was pruned.
    pub model: String,
    /// The dataset.
    pub data: String,
    /// What was asked for.
    pub budget: Budget,
    /// The least recall of classes by name, as a share of the baseline model's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, f64>,
    /// How channels were ranked.
    pub importance: String,
    /// The model before pruning.
    #[serde(rename = "uncut")]
    pub baseline: Stage,
    /// After surgery.
    #[serde(rename = "cut")]
    pub pruned: Stage,
    /// After repair.
    pub repaired: Stage,
    /// After fine-tuning; absent without epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Stage>,
    /// How fine-tuning went; absent without epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// What the model ships in.
    #[serde(default)]
    pub dtype: Dtype,
    /// After quantization; absent where the model ships in f32.
    #[serde(rename = "rounded", default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<Stage>,
    /// The baseline model given the same treatment, by name (`uncut + repair`, `uncut + tuning`).
    #[serde(default)]
    pub controls: BTreeMap<String, Stage>,
    /// What the search can prove.
    pub search: Search,
    /// How well the latency table predicts networks it has not seen: relative errors, ascending.
    pub table_errors: Vec<f64>,
    /// Widths before and after.
    pub groups: Vec<GroupWidths>,
    /// Time per layer before and after, as predicted by the latency table.
    pub layers: Vec<LayerTimes>,
    /// The layers that stay out of int8 for the sake of the accuracy, most costly first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub full_precision: Vec<Kept>,
    /// The least loss that the search can prove reachable at other latencies, slowest first.
    #[serde(default)]
    pub front: Vec<FrontPoint>,
    /// Bytes of activations that live while each layer runs, in the order of the network.
    #[serde(default)]
    pub memory: Vec<MemoryStep>,
    /// The validation images on which baseline and shipped model disagree most.
    #[serde(default)]
    pub photos: Vec<Photo>,
    /// The accuracy in the runtime that latencies are of, where that is another one than secateurs' own: the budgets of
    /// accuracy are judged by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<InRuntime>,
    /// What a user applies.
    pub verdict: Verdict,
    /// Seconds each stage of the job took.
    #[serde(default)]
    pub seconds: BTreeMap<String, f64>,
}

impl Report {
    /// What a latency is of, where that is not a single image.
    pub fn per_batch(&self) -> String {
        if self.batch > 1 { format!(" per batch of {}", self.batch) } else { String::new() }
    }

    /// All stages in their order, with their names.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, &Stage)> {
        let some = [("baseline", &self.baseline), ("pruned", &self.pruned), ("repaired", &self.repaired)];
        let more = [("tuned", self.tuned.as_ref()), (self.dtype.name(), self.quantized.as_ref())];
        some.into_iter().chain(more.into_iter().filter_map(|(name, stage)| Some((name, stage?))))
    }

    /// The controls, with the names that people read.
    pub fn controls(&self) -> impl Iterator<Item = (String, &Stage)> {
        self.controls.iter().map(|(key, stage)| (key.replacen("uncut", "baseline", 1), stage))
    }

    /// The stage that ships: the last one that there is.
    pub fn last(&self) -> &Stage {
        self.quantized.as_ref().or(self.tuned.as_ref()).unwrap_or(&self.repaired)
    }

    /// The accuracy of the baseline and the shipped model that the budgets are about: that of the runtime which latencies
    /// are of. Of the two stages no other figure means anything.
    pub fn judged_accuracy(&self) -> (&Stage, &Stage) {
        let other = self.runtime.as_ref();
        other.map_or((&self.baseline, self.last()), |other| (&other.baseline, &other.shipped))
    }

    /// The stage that ships, to be completed.
    pub fn last_mut(&mut self) -> &mut Stage {
        self.quantized.as_mut().or(self.tuned.as_mut()).unwrap_or(&mut self.repaired)
    }
}

/// The branch of an end-to-end head that is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchChoice {
    /// The branch.
    pub branch: Branch,
    /// What the model lost with the other branch; absent where it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
}

/// The budgets of the profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Milliseconds a frame may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// The same as a share of the baseline model's latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ratio: Option<f64>,
    /// Percentile of the latency that must hold the budget: 50, 95 or 99.
    pub percentile: u8,
    /// Peak memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
    /// Energy per frame, millijoules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_mj: Option<f64>,
    /// Trained values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<usize>,
    /// Size of the model file in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mib: Option<f64>,
    /// The least mAP50-95.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_map: Option<f64>,
    /// The most mAP50-95 that may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_map_drop: Option<f64>,
}

/// A model at one stage of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Mean average precision at IoU 0.50 to 0.95, COCO rules. This and the next two are not numbers for a classifier,
    /// and absent from its `report.json`.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub map50_95: f64,
    /// The same at IoU 0.50.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub map50: f64,
    /// mAP50-95 under the rules of ultralytics.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub map50_95_ultralytics: f64,
    /// Share of the validation pictures that a classifier gets right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The same on training pictures: what it is better there, it knows by heart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// What is judged beside boxes, where that is so: masks, keypoints or rotated boxes. The figures above, those of the
    /// classes and the recalls are then of these; absent where a detector finds upright boxes alone, and for a classifier.
    #[serde(default, skip_serializing_if = "Metric::is_boxes")]
    pub metric: Metric,
    /// Figures of the upright boxes, where masks or keypoints are judged beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<BoxFigures>,
    /// mAP50-95 of every class; a classifier's accuracy.
    #[serde(default)]
    pub per_class: BTreeMap<String, f64>,
    /// Share of every class's objects that are found with a confidence of 0.25 and more at IoU 0.50; a classifier's
    /// accuracy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recall: BTreeMap<String, f64>,
    /// Trained values.
    pub params: usize,
    /// Of those, zeros.
    #[serde(default)]
    pub zeros: usize,
    /// Multiply-accumulates per image.
    pub macs: usize,
    /// Weights, activations and workspace, bytes.
    pub peak_memory_bytes: usize,
    /// The model's file, bytes.
    #[serde(default)]
    pub file_bytes: usize,
    /// Energy per frame, where this stage was measured on a machine that shows its power rails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    /// Latency of the network, where this stage was measured.
    #[serde(flatten)]
    pub latency: Option<Distribution>,
}

/// The accuracy of two models in another runtime, on the validation images: their outputs there, decoded and judged as
/// ours are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InRuntime {
    /// The runtime and its version.
    pub name: String,
    /// The baseline model.
    #[serde(rename = "uncut", with = "accuracy")]
    pub baseline: Stage,
    /// The model that ships.
    #[serde(rename = "last", with = "accuracy")]
    pub shipped: Stage,
}

impl Stage {
    /// What counts: the accuracy of a classifier, the mAP50-95 of boxes, masks, keypoints or rotated boxes.
    pub fn score(&self) -> f64 {
        self.accuracy.unwrap_or(self.map50_95)
    }

    /// [`Stage::score`], where there is one: mAP is below zero where no image shows an object, and not a number where
    /// it was not taken. Such figures are never compared.
    pub fn defined_score(&self) -> Option<f64> {
        Some(self.score()).filter(|score| *score >= 0.0)
    }

    /// The name of [`Stage::score`].
    pub fn score_name(&self) -> &'static str {
        if self.accuracy.is_some() { Metric::Accuracy.name() } else { self.metric.name() }
    }
}

/// Figures of upright boxes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoxFigures {
    /// Mean average precision at IoU 0.50 to 0.95, COCO rules.
    pub map50_95: f64,
    /// The same at IoU 0.50.
    pub map50: f64,
    /// mAP50-95 under the rules of ultralytics.
    pub map50_95_ultralytics: f64,
    /// mAP50-95 of every class.
    #[serde(default)]
    pub per_class: BTreeMap<String, f64>,
}

/// A figure that there is not.
fn none() -> f64 {
    f64::NAN
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_none(figure: &f64) -> bool {
    figure.is_nan()
}

/// What can be proven about the plan that was chosen. Figures are null where nothing was searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Loss of the plan: the losses of its groups, as they were measured, added up.
    pub loss: Option<f64>,
    /// No plan of the offered widths that is predicted to keep to the same budget loses less than this, by the same
    /// losses.
    pub lower_bound: Option<f64>,
    /// `(loss - lower_bound) / loss`.
    pub gap: Option<f64>,
    /// Predicted milliseconds of the plan.
    pub predicted_ms: Option<f64>,
    /// How often plan and measurement were brought together.
    pub rounds: usize,
}

impl Search {
    /// What the gap covers, and what it does not.
    pub const COVERS: &'static str = "of all plans of the offered widths that are predicted to be as fast and as small, \
                                      none loses less by more than this, as far as the measured losses of single groups \
                                      add up";
}

/// A plan at another latency budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontPoint {
    /// Predicted latency over the baseline model's.
    pub latency_ratio: f64,
    /// Loss of the plan in the units of the importance.
    pub loss: f64,
    /// No plan that fast loses less.
    pub lower_bound: f64,
}

/// Live activations while a layer runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryStep {
    /// Name of the layer.
    pub name: String,
    /// Bytes before.
    pub before_bytes: f64,
    /// Bytes after.
    pub after_bytes: f64,
}

/// An image with what both models find in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Photo {
    /// Its file name.
    pub name: String,
    /// Confident detections of one model that the other does not share.
    pub disagreement: usize,
    /// Confident detections of the baseline model.
    pub found_before: usize,
    /// Confident detections of the shipped model.
    pub found_after: usize,
    /// A small JPEG with the detections of the baseline model, base64.
    pub before: String,
    /// The same of the shipped model.
    pub after: String,
}

/// A group's width before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupWidths {
    /// Name of the group.
    pub name: String,
    /// Channels before.
    pub before: usize,
    /// Channels after.
    pub after: usize,
}

/// A layer's time before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTimes {
    /// Name of the layer.
    pub name: String,
    /// Milliseconds before.
    pub before_ms: f64,
    /// Milliseconds after.
    pub after_ms: f64,
}

/// The measured answer to the budgets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Latency after over latency before, interleaved; 0 where nothing was measured that counts.
    pub latency_ratio: f64,
    /// Why no latency is claimed, where none is: the device was simulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<String>,
    /// Whether no measured budget of latency or energy is missed; true without one, and where none is claimed.
    pub latency_ok: bool,
    /// Whether the budgets of memory, parameters and file size hold; true without any.
    pub memory_ok: bool,
    /// Whether the minimum accuracy and recalls are reached; true without any.
    pub accuracy_ok: bool,
    /// Why the repaired model ships, where training diverged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// One sentence per budget.
    pub sentences: Vec<String>,
}
