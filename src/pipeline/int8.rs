//! Makes a model int8: ranges of the layers' inputs from calibration images, by the method that is best on images that were
//! held back, and layers left out where the accuracy on these falls too far.
//!
//! All images are of one split, that of the training: those of the validation only judge the result.

use super::error::{During, PipelineError, Task};
use super::progress::Progress;
use crate::data::{Dataset, Item, calibration};
use crate::engine::Device;
use crate::eval::Validator;
use crate::graph::Head;
use crate::model::Model;
use crate::quantise::{self, Images, Kept, Limit, RangeMethod, choose, control, observe};
use crate::ranks::Ranks;
use crate::size::ImageSize;
use crate::vision::Preprocess;
use std::collections::BTreeMap;

/// How far the accuracy of the model in f32 may fall by quantization, where nobody says otherwise.
pub const MAX_DROP: f64 = 0.005;

/// Held-back images on which methods and layers are compared without labels.
const COMPARED: usize = 16;

/// How a model becomes int8.
pub struct Int8Options<'a> {
    /// Ranges by the best of these methods.
    pub methods: &'a [RangeMethod],
    /// Ranges around zero, as TensorRT needs them.
    pub symmetric: bool,
    /// Calibration images.
    pub images: usize,
    /// The most accuracy that may be lost against the model in f32, or against `baseline`.
    pub max_drop: f64,
    /// The model that the accuracy is compared with, where that is not the same one in f32. Where that falls further
    /// behind by itself, [`MAX_DROP`] counts.
    pub baseline: Option<&'a Model>,
    /// By layer the milliseconds that leaving it out of int8 costs; measured on this machine where there are none.
    pub lost_ms: BTreeMap<String, f64>,
    /// What runs the networks that are observed, compared and judged.
    pub device: Device,
    /// The ranks that share the images which are held back.
    pub ranks: Ranks,
}

/// An int8 model, and how it came about.
pub struct Int8 {
    /// The model.
    pub model: Model,
    /// How its ranges follow from the calibration images.
    pub method: RangeMethod,
    /// The layers that are not int8, most costly first.
    pub kept: Vec<Kept>,
}

/// Makes a model int8 for images of a size, by the images of a split.
///
/// # Errors
/// If the split has no images, one cannot be read, or the model cannot be run.
pub fn to_int8(
    model: &Model,
    dataset: &Dataset,
    size: ImageSize,
    options: &Int8Options,
    progress: &dyn Progress,
) -> Result<Int8, PipelineError> {
    let (calibrating, held_back) = calibration::split(&dataset.items, options.images);
    if calibrating.is_empty() {
        return Err(PipelineError::Input("the split has no images to calibrate int8 on".into()));
    }
    progress.stage("Calibrating", format!("int8 on {} images", calibrating.len()));
    let load = |items: &[&Item]| {
        let preprocess = Preprocess::new(model).map_err(|e| PipelineError::Input(e.to_string()))?;
        Ok::<_, PipelineError>(calibration::tensors(preprocess, items, size)?)
    };
    let sides = (size.height, size.width);
    let on = Images { images: &[], size: sides, device: options.device };
    let mut step = |done, all| progress.step(done, all);
    let images = load(&calibrating)?;
    let observed = observe(model, &Images { images: &images, ..on }, &mut step).during(Task::Ranges)?;
    drop(images);
    let compared = load(&calibration::spread(&held_back, COMPARED))?;
    let on = Images { images: &compared, ..on };
    let chosen = choose(model, &observed, options.methods, options.symmetric, &on).during(Task::Ranges)?;
    let chosen = chosen.ok_or_else(|| PipelineError::Setting("no calibration method is left to choose from".into()))?;
    let (ranges, method) = (chosen.ranges, chosen.method);
    let best = match options.methods.len() {
        1 => String::new(),
        all => format!(", the best of {all} methods on held-back images"),
    };
    progress.message(format!("ranges by {}{best}", method.name()));
    let judged: Vec<Item> = held_back.iter().map(|item| (*item).clone()).collect();
    let judged = Dataset {
        names: dataset.names.clone(),
        items: judged,
        keypoints: dataset.keypoints.clone(),
        ..Dataset::default()
    };
    let Some(judge) = judge(model, &judged, size, options)? else {
        progress.message("without labels nothing is known of the accuracy: every layer becomes int8".into());
        return Ok(Int8 { model: quantise::quantise(model, &ranges), method, kept: Vec::new() });
    };
    let (least, ranks) = (least(model, options, &judge)?, &options.ranks);
    let sensitivities = || {
        progress.stage("Comparing", format!("{} layers: what int8 costs each", ranges.len()));
        let lost = match options.lost_ms.is_empty() {
            true => ranks.by_first(|| quantise::time_lost(model, &ranges, &compared[0], sides).during(Task::Ranges))?,
            false => options.lost_ms.clone(),
        };
        let progress = &mut |done, all| progress.step(done, all);
        quantise::sensitivities(model, &ranges, &lost, &on, progress).during(Task::Ranges)
    };
    let limit = Limit { least, accuracy: &mut |model: &Model| score(&judge, model) };
    let (model, kept) = control(model, &ranges, sensitivities, limit)?;
    if !kept.is_empty() {
        progress.message(text(&kept, ranges.len()));
    }
    Ok(Int8 { model, method, kept })
}

/// The least accuracy that is demanded of the int8 model.
fn least(model: &Model, options: &Int8Options, judge: &Validator) -> Result<f64, PipelineError> {
    let own = score(judge, &model.clone().into_f32())?;
    let Some(baseline) = options.baseline else { return Ok(own - options.max_drop) };
    let demanded = score(judge, baseline)? - options.max_drop;
    Ok(if demanded <= own { demanded } else { own - MAX_DROP })
}

/// The layers for people.
fn text(kept: &[Kept], all: usize) -> String {
    let names: Vec<String> = kept.iter().map(|kept| format!("{} ({})", kept.layer, kept.dtype.name())).collect();
    format!("{} of {all} layers stay out of int8: {}", kept.len(), names.join(", "))
}

/// What measures the accuracy of models; none where the images have no labels of the model's task.
fn judge(
    model: &Model,
    dataset: &Dataset,
    size: ImageSize,
    Int8Options { device, ranks, .. }: &Int8Options,
) -> Result<Option<Validator>, PipelineError> {
    let head = &model.graph.head;
    let agrees = dataset.names.len() == model.graph.classes();
    let labelled = match head {
        Head::Classify { .. } => dataset.items.iter().all(|item| item.class().is_some()),
        _ => dataset.items.iter().any(|item| !item.labels.is_empty()),
    };
    Ok(if agrees && labelled { Some(Validator::shared(head, dataset, size, ranks)?.on(*device)) } else { None })
}

/// The task's figure for a model.
fn score(judge: &Validator, model: &Model) -> Result<f64, PipelineError> {
    Ok(judge.evaluate(model, rayon::current_num_threads())?.figure())
}
