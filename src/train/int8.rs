//! What a training for int8 needs beside its steps: the ranges of the layers' inputs by the averaged weights, as
//! [`quantise`](crate::quantise) chooses them, and the int8 network that held-back images judge. Ranges follow from
//! training images as they are, without augmentation; they are taken once per epoch.

use super::config::{At, FitConfig, Int8Epochs, TrainError};
use crate::backend::MOMENTUM;
use crate::data::{Dataset, Item, calibration};
use crate::engine::Device;
use crate::model::{Model, Weights};
use crate::quantise::{Exceptions, Images, RangeMethod, Ranges, choose, observe, quantise_except};
use crate::size::ImageSize;
use crate::vision::Preprocess;

/// Images that show what layers read, and those on which the methods are compared.
const CALIBRATING: usize = 32;
const COMPARED: usize = 8;

/// How a step treats the statistics of normalisations. Rounding changes what these read, and running statistics follow
/// slowly: in the first half of the steps that train for int8 they are the mean over all of these so far, in the second
/// half they stay, so that the network that learns is the one that is deployed (Krishnamoorthi, "Quantizing deep
/// convolutional networks for efficient inference", 2018). The moving average of the weights begins anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Statistics {
    /// The weight of the batch's in the running ones.
    pub momentum: f64,
    /// Whether the layers round.
    pub rounds: bool,
    /// Whether the running ones are used, and stay.
    pub settled: bool,
    /// Whether the moving average of the weights begins with this step.
    pub anew: bool,
}

impl Int8Epochs {
    /// Those of a step.
    pub(super) fn statistics(&self, at: At) -> Statistics {
        let Some(first) = self.first(at.epochs).filter(|first| at.epoch >= *first) else {
            return Statistics { momentum: MOMENTUM, rounds: false, settled: false, anew: false };
        };
        let (step, steps) = ((at.epoch - first) * at.steps + at.step, (at.epochs - first) * at.steps);
        let momentum = MOMENTUM.max(1.0 / (step + 1) as f64);
        Statistics { momentum, rounds: true, settled: 2 * step >= steps, anew: step == 0 }
    }
}

/// A network that is trained for int8.
pub(super) struct Int8<'a> {
    model: &'a Model,
    calibrating: Vec<Item>,
    compared: Vec<Item>,
    size: ImageSize,
    settings: &'a Int8Epochs,
    /// What runs the network to see what its layers read.
    device: Device,
    /// The layers of this network that stay out of int8.
    except: Exceptions,
}

impl<'a> Int8<'a> {
    /// Of a training on these images; none where it is for f32.
    pub fn new(model: &'a Model, train: &Dataset, (config, device): (&'a FitConfig, Device)) -> Option<Self> {
        config.int8.first(config.epochs)?;
        let (calibrating, held_back) = calibration::split(&train.items, CALIBRATING);
        let compared = calibration::spread(&held_back, COMPARED);
        let own = |items: Vec<&Item>| items.into_iter().cloned().collect::<Vec<Item>>();
        let mut except = config.int8.except.clone();
        except.retain(|layer, _| model.graph.convs().any(|(id, _)| model.graph.node(id).name == *layer));
        Some(Self {
            model,
            calibrating: own(calibrating),
            compared: own(compared),
            size: config.imgsz,
            settings: &config.int8,
            device,
            except,
        })
    }

    /// The ranges of the inputs of all layers that compute in int8, with these weights.
    ///
    /// # Errors
    /// If the weights are not finite, an image cannot be read, or the engine fails.
    pub fn ranges(&self, weights: &Weights) -> Result<Ranges, TrainError> {
        let Model { graph, info, .. } = self.model;
        let model = Model::new(graph.clone(), weights.clone(), info.clone())?.into_f32();
        let preprocess = Preprocess::new(&model).map_err(|e| TrainError::Unfit(e.to_string()))?;
        let load = |items: &[Item]| calibration::tensors(preprocess, &items.iter().collect::<Vec<_>>(), self.size);
        let on = Images { images: &[], size: (self.size.height, self.size.width), device: self.device };
        let images = load(&self.calibrating)?;
        let observed = observe(&model, &Images { images: &images, ..on }, &mut |_, _| ())?;
        drop(images);
        // Of two branches the one that is deployed decides.
        let (deployed, methods) = (model.deployed(None)?, RangeMethod::ALL.map(|(_, method)| method));
        let compared = load(&self.compared)?;
        let chosen =
            choose(&deployed, &observed, &methods, self.settings.zero_centred, &Images { images: &compared, ..on })?;
        let mut ranges = chosen.map(|chosen| chosen.ranges).unwrap_or_default();
        ranges.retain(|layer, _| !self.except.contains_key(layer));
        Ok(ranges)
    }

    /// A model of this network in int8.
    pub fn quantized(&self, model: Model, ranges: &Ranges) -> Model {
        quantise_except(&model.into_f32(), ranges, &self.except)
    }
}
