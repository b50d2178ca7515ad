//! One way to judge models of any task on a split: what they find, the figures of it, and how sure these are.

use super::classify::{Run, answers, right, summary};
use super::error::EvalError;
use super::judged::{Judged, PARTS};
use super::metric::Metric;
use super::shapes::Found;
use super::task::ShapeSet;
use super::{Accuracy, Answer, Detected, EvalResult, Interval, Prepared, TaskResult, bootstrap};
use crate::data::Dataset;
use crate::engine::Device;
use crate::graph::Head;
use crate::model::Model;
use crate::ranks::Ranks;
use crate::size::ImageSize;

/// A split that models of one task are judged on.
pub enum Validator {
    /// Boxes.
    Boxes(Box<Prepared>),
    /// Masks, keypoints or rotated boxes.
    Shapes(Box<ShapeSet>),
    /// Classes of whole pictures.
    Classes {
        /// The pictures.
        set: Dataset,
        /// Size of the images.
        size: ImageSize,
        /// Those that share them.
        ranks: Ranks,
        /// What runs models.
        device: Device,
    },
}

/// What a model finds on the whole split.
pub enum Answers {
    /// Boxes.
    Boxes(Vec<Detected>),
    /// Boxes with their shapes.
    Shapes(Found),
    /// The class of every picture.
    Classes(Vec<Answer>),
}

/// The figures of what a model finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Score {
    /// Of boxes.
    Boxes(EvalResult),
    /// Of masks, keypoints or rotated boxes.
    Shapes(TaskResult),
    /// Of classes.
    Classes(Accuracy),
}

impl Validator {
    /// Reads a split for models with this head.
    ///
    /// # Errors
    /// If head and labels do not go together, or an image or the annotations cannot be read.
    pub fn new(head: &Head, dataset: &Dataset, imgsz: ImageSize) -> Result<Self, EvalError> {
        Self::shared(head, dataset, imgsz, &Ranks::default())
    }

    /// As [`Validator::new`], on several ranks, which all make the same calls: each runs models on its share of the
    /// images, and gets what is found in all of them.
    ///
    /// # Errors
    /// As [`Validator::new`], and if a rank cannot be reached.
    pub fn shared(head: &Head, dataset: &Dataset, imgsz: ImageSize, ranks: &Ranks) -> Result<Self, EvalError> {
        Ok(match Metric::of(head) {
            Metric::Boxes => Self::Boxes(Box::new(Prepared::shared(dataset, imgsz, ranks)?)),
            Metric::Masks | Metric::Keypoints | Metric::Rotated => {
                Self::Shapes(Box::new(ShapeSet::shared(head, dataset, imgsz, ranks)?))
            }
            Metric::Accuracy => {
                let (set, ranks) = (dataset.clone(), ranks.clone());
                Self::Classes { set, size: imgsz, ranks, device: Device::Cpu }
            }
        })
    }

    /// The same split, on which a device runs models; before that it is the CPU.
    pub fn on(self, device: Device) -> Self {
        match self {
            Self::Boxes(set) => Self::Boxes(Box::new(set.on(device))),
            Self::Shapes(set) => Self::Shapes(Box::new(set.on(device))),
            Self::Classes { set, size, ranks, .. } => Self::Classes { set, size, ranks, device },
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::Boxes(set) => set.len(),
            Self::Shapes(set) => set.len(),
            Self::Classes { set, .. } => set.items.len(),
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything a model finds, by the [`Device::engines`] of `threads` threads, of one each. `progress` gets how many more
    /// images are done.
    ///
    /// # Errors
    /// If the model has another task or other classes, cannot be run at this size, an image cannot be read, or the device
    /// cannot be used.
    pub fn find(&self, model: &Model, threads: usize, progress: &(dyn Fn(usize) + Sync)) -> Result<Answers, EvalError> {
        Ok(match self {
            Self::Boxes(set) => Answers::Boxes(set.find(model, threads, progress)?),
            Self::Shapes(set) => Answers::Shapes(set.find(model, threads, progress)?),
            Self::Classes { set, size, ranks, device } => {
                let run = Run { imgsz: *size, device: *device, ranks, threads };
                Answers::Classes(answers(model, set, &run, progress)?)
            }
        })
    }

    /// The figures of answers to this split.
    ///
    /// # Errors
    /// If they are those of another task.
    pub fn score(&self, answers: &Answers) -> Result<Score, EvalError> {
        Ok(match (self, answers) {
            (Self::Boxes(set), Answers::Boxes(found)) => Score::Boxes(set.score(found)),
            (Self::Shapes(set), Answers::Shapes(found)) => Score::Shapes(set.score(found)),
            (Self::Classes { set, .. }, Answers::Classes(found)) => Score::Classes(summary(found, &set.names)),
            _ => return Err(other_task()),
        })
    }

    /// Runs a model and computes its figures.
    ///
    /// # Errors
    /// As [`Validator::find`].
    pub fn evaluate(&self, model: &Model, threads: usize) -> Result<Score, EvalError> {
        self.score(&self.find(model, threads, &|_| {})?)
    }

    /// How much the [figure](Score::figure) of one model's answers, less that of another's where given, would vary with
    /// other images.
    ///
    /// # Errors
    /// If they are answers of another task.
    pub fn interval(
        &self,
        one: &Answers,
        less: Option<&Answers>,
        rounds: usize,
        seed: u64,
    ) -> Result<Interval, EvalError> {
        let (one, other) = (self.on_images(one)?, less.map(|other| self.on_images(other)).transpose()?);
        Ok(bootstrap(self.len(), rounds, seed, |sample| {
            one(sample) - other.as_ref().map_or(0.0, |other| other(sample))
        }))
    }

    /// The [figure](Score::figure) of answers, with what it is without parts of the images.
    ///
    /// # Errors
    /// If they are answers of another task.
    pub fn judge(&self, answers: &Answers) -> Result<Judged, EvalError> {
        let (figure, images) = (self.score(answers)?.figure(), self.len());
        let (on, parts) = (self.on_images(answers)?, PARTS.min(images));
        let without = |part: usize| on(&(0..images).filter(|image| image % parts != part).collect::<Vec<_>>());
        Ok(Judged { figure, without: (0..parts).map(without).collect() })
    }

    /// The figure of answers on some of the images, each as often as it is named.
    fn on_images<'a>(&'a self, answers: &'a Answers) -> Result<Box<dyn Fn(&[usize]) -> f64 + 'a>, EvalError> {
        Ok(match (self, answers) {
            (Self::Boxes(set), Answers::Boxes(found)) => {
                let matches = set.matches(found);
                Box::new(move |images| matches.ap(images))
            }
            (Self::Shapes(set), Answers::Shapes(found)) => {
                let matches = set.matches(found);
                Box::new(move |images| matches.as_ref().map_or(0.0, |matches| matches.ap(images)))
            }
            (Self::Classes { .. }, Answers::Classes(found)) => Box::new(move |images| right(found, images)),
            _ => return Err(other_task()),
        })
    }
}

impl Answers {
    /// The upright boxes of what was found; none of whole pictures.
    pub fn boxes(&self) -> &[Detected] {
        match self {
            Self::Boxes(found) => found,
            Self::Shapes(found) => &found.boxes,
            Self::Classes(_) => &[],
        }
    }
}

impl Score {
    /// What models of this task are compared by: mAP50-95 (COCO's rules) of boxes, masks, keypoints or rotated boxes, or
    /// the accuracy. Below zero where nothing is labelled.
    pub fn figure(&self) -> f64 {
        match self {
            Self::Boxes(result) => result.map50_95,
            Self::Shapes(result) => result.shapes.map50_95,
            Self::Classes(result) => result.accuracy,
        }
    }

    /// Which metric that is.
    pub fn metric(&self) -> Metric {
        match self {
            Self::Boxes(_) => Metric::Boxes,
            Self::Shapes(result) => result.metric(),
            Self::Classes(_) => Metric::Accuracy,
        }
    }
}

fn other_task() -> EvalError {
    EvalError::Unfit("these answers are those of another task".into())
}
