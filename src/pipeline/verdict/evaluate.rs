//! The figures of a stage: accuracy, sizes, arithmetic and memory of a model, whatever its head.

use crate::data::Dataset;
use crate::eval::{self, Prepared};
use crate::model::{self, Model};
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::inputs::Inputs;
use crate::report::Stage;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;

/// Training pictures on which a classifier is evaluated beside the validation pictures.
const TRAIN_SAMPLE: usize = 10_000;

/// What the models of a job are evaluated on.
pub struct Evaluator<'a> {
    inputs: &'a Inputs,
    truth: Truth,
}

enum Truth {
    /// Objects in the validation images.
    Boxes(Prepared),
    /// Classes of the validation pictures, and of these training pictures.
    Classes(Dataset),
}

impl<'a> Evaluator<'a> {
    /// Reads the images.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn new(inputs: &'a Inputs, seed: u64) -> Result<Self, PipelineError> {
        let (train, val) = (&inputs.data.train, &inputs.data.val);
        let truth = if inputs.baseline.classifies() {
            let all = train.items.len();
            let mut chosen = sample(&mut StdRng::seed_from_u64(seed), all, TRAIN_SAMPLE.min(all)).into_vec();
            chosen.sort_unstable();
            let items = chosen.into_iter().map(|item| train.items[item].clone()).collect();
            Truth::Classes(Dataset { names: train.names.clone(), items, ..Dataset::default() })
        } else {
            Truth::Boxes(Prepared::new(val, inputs.baseline.imgsz)?)
        };
        Ok(Self { inputs, truth })
    }

    /// The validation images of a detector.
    pub fn prepared(&self) -> Option<&Prepared> {
        match &self.truth {
            Truth::Boxes(prepared) => Some(prepared),
            Truth::Classes(_) => None,
        }
    }

    /// The figures of a model.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn stage(&self, model: &Model) -> Result<Stage, PipelineError> {
        let size = self.inputs.baseline.imgsz;
        let cost = model.graph.cost(size.height, size.width).during(Task::Evaluation)?;
        let sizes = Stage {
            params: cost.params,
            zeros: model.zeros(),
            macs: cost.macs,
            file_bytes: model::to_bytes(model).map_err(PipelineError::Serialize)?.len(),
            peak_memory_bytes: self.inputs.deployment.memory(model)?,
            ..Stage::default()
        };
        let threads = rayon::current_num_threads();
        Ok(match &self.truth {
            Truth::Boxes(prepared) => {
                let found = prepared.evaluate(model, threads)?;
                Stage {
                    map50_95: found.map50_95,
                    map50: found.map50,
                    map50_95_ultralytics: found.map50_95_ultralytics,
                    recall: found.per_class.iter().map(|class| (class.name.clone(), class.recall)).collect(),
                    per_class: found.per_class.into_iter().map(|class| (class.name, class.map50_95)).collect(),
                    ..sizes
                }
            }
            Truth::Classes(train) => {
                let of = |set| eval::accuracy(model, set, size, threads, &|_| {});
                let found = of(&self.inputs.data.val)?;
                let train = of(train)?;
                Stage {
                    map50_95: f64::NAN,
                    map50: f64::NAN,
                    map50_95_ultralytics: f64::NAN,
                    accuracy: Some(found.accuracy),
                    train_accuracy: Some(train.accuracy),
                    recall: found.per_class.clone(),
                    per_class: found.per_class,
                    ..sizes
                }
            }
        })
    }
}
