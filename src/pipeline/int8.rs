//! Makes a model int8: ranges of the layers' inputs from calibration images, by the method that is best on images that were
//! held back, and layers left out where the accuracy on these falls too far.
//!
//! All images are of one split, that of the training: those of the validation only judge the result.

use super::error::{During, PipelineError, Task};
use super::progress::Progress;
use crate::data::{Dataset, Item};
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

/// Images that are held back, and those of them on which methods and layers are compared without labels.
const HELD_BACK: usize = 256;
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
    let (calibration, held_back) = split(&dataset.items, options.images);
    if calibration.is_empty() {
        return Err(PipelineError::Input("the split has no images to calibrate int8 on".into()));
    }
    progress.stage("Calibrating", format!("int8 on {} images", calibration.len()));
    let load = |items: &[&Item]| tensors(model, items, size);
    let sides = (size.height, size.width);
    let on = Images { images: &[], size: sides, device: options.device };
    let mut step = |done, all| progress.step(done, all);
    let images = load(&calibration)?;
    let observed = observe(model, &Images { images: &images, ..on }, &mut step).during(Task::Ranges)?;
    drop(images);
    let compared = load(&spread(&held_back, COMPARED))?;
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

/// The calibration images and those that are held back, both evenly spread. Where there are few, a quarter is held back; of
/// a single image there is only that.
fn split(items: &[Item], calibration: usize) -> (Vec<&Item>, Vec<&Item>) {
    let most = (items.len() - items.len() / 4).max(1);
    let count = calibration.min(most).max(1);
    let chosen = |at: usize| (at + 1) * count / items.len().max(1) > at * count / items.len().max(1);
    let of = |wanted: bool| -> Vec<&Item> {
        items.iter().enumerate().filter(|(at, _)| chosen(*at) == wanted).map(|(_, item)| item).collect()
    };
    let (calibration, rest) = (of(true), of(false));
    let held_back = if rest.is_empty() { calibration.clone() } else { spread(&rest, HELD_BACK) };
    (calibration, held_back)
}

/// At most `count` items, evenly spread.
fn spread<'a>(items: &[&'a Item], count: usize) -> Vec<&'a Item> {
    items.iter().step_by(items.len().div_ceil(count.max(1)).max(1)).copied().collect()
}

/// Images as the network reads them.
fn tensors(model: &Model, items: &[&Item], size: ImageSize) -> Result<Vec<Vec<f32>>, PipelineError> {
    let preprocess = Preprocess::new(model).map_err(|e| PipelineError::Input(e.to_string()))?;
    let load = |item: &&Item| {
        let mut tensor = vec![0.0; preprocess.channels() * size.area()];
        preprocess.write(&item.image.load()?, size, &mut tensor);
        Ok(tensor)
    };
    items.iter().map(load).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Picture;

    #[test]
    fn images_are_held_back_whatever_their_number() {
        for all in 1..400usize {
            let image = |at: usize| Picture::File(format!("{at}.png").into());
            let items: Vec<Item> = (0..all).map(|at| Item::new(image(at))).collect();
            let (calibration, held_back) = split(&items, 64);
            assert!((1..=64).contains(&calibration.len()), "{all}: {}", calibration.len());
            assert!(!held_back.is_empty() && held_back.len() <= HELD_BACK, "{all}: {}", held_back.len());
            let shared = held_back.iter().any(|item| calibration.contains(item));
            assert_eq!(shared, all < 4, "{all} images: {} and {}", calibration.len(), held_back.len());
        }
        assert!(split(&[], 64).0.is_empty());
    }
}
