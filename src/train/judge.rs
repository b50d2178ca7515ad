//! Held-back images choose between epochs: what averaged weights find on them, in the engine that ships.

use super::batch::check_data;
use super::config::{FitConfig, HoldOut, TrainError};
use super::int8::Int8;
use crate::data::Dataset;
use crate::engine::Device;
use crate::eval::{Judged, Metric, Validator};
use crate::model::{Model, Weights};
use crate::quantise::Ranges;
use std::borrow::Cow;

/// Parts a split into the images to train on and, where a setting asks for them, those that judge.
pub(super) fn part<'d>(dataset: &'d Dataset, config: &FitConfig) -> (Cow<'d, Dataset>, Option<Dataset>) {
    match &config.hold_out {
        HoldOut::None => (Cow::Borrowed(dataset), None),
        HoldOut::Share(share) => {
            let (train, held) = dataset.hold_out(*share, config.seed);
            (Cow::Owned(train), Some(held))
        }
        HoldOut::Split { data, .. } => (Cow::Borrowed(dataset), Some(data.as_ref().clone())),
    }
}

/// The images that training does not see.
pub(super) struct Judge<'a> {
    model: &'a Model,
    validator: Validator,
    threads: usize,
    metric: Metric,
}

impl<'a> Judge<'a> {
    /// Reads the held-back images, on which a device runs networks.
    ///
    /// # Errors
    /// If there are none, one cannot be read, or their labels are not those of the model.
    pub fn new(model: &'a Model, held: &Dataset, (config, device): (&FitConfig, Device)) -> Result<Self, TrainError> {
        if held.items.is_empty() {
            return Err(TrainError::Unfit("of a single image none can be held back: set `hold-out` to 0".into()));
        }
        check_data(held, model)?;
        let validator = Validator::shared(&model.graph.head, held, config.imgsz, &config.ranks)?.on(device);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 { cores } else { config.threads };
        Ok(Self { model, validator, threads, metric: Metric::of(&model.graph.head) })
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.validator.len()
    }

    /// What is compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What weights of the model find: mAP50-95 or the accuracy; in int8 where ranges are given. Of two branches the one
    /// that is deployed counts.
    ///
    /// # Errors
    /// If the weights are not finite, the engine fails, or no held-back image shows an object.
    pub fn judge(&self, weights: &Weights, int8: Option<(&Int8, &Ranges)>) -> Result<Judged, TrainError> {
        let model = Model::new(self.model.graph.clone(), weights.clone(), self.model.info.clone())?.deployed(None)?;
        let model = match int8 {
            Some((int8, ranges)) => int8.quantized(model, ranges),
            None => model,
        };
        let judged = self.validator.judge(&self.validator.find(&model, self.threads, &|_| {})?)?;
        if !judged.figure.is_finite() || judged.figure < 0.0 {
            let images = self.images();
            return Err(TrainError::Unfit(format!(
                "none of the {images} held-back images shows an object: hold back more (`hold-out`), or none (0)"
            )));
        }
        Ok(judged)
    }
}
