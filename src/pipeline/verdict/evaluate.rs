//! The figures of a stage: accuracy, sizes, arithmetic and memory of a model, whatever its head.

use crate::data::Dataset;
use crate::eval::{self, Accuracy, EvalResult, Prepared};
use crate::graph::Head;
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

    /// Whether the accuracy of a model can be taken from its decoded outputs alone.
    pub fn reads_outputs(&self, model: &Model) -> bool {
        matches!(model.graph.head.branch(), Head::Detect { .. } | Head::Classify { .. })
    }

    /// The accuracy of a model whose outputs `run` computes, and no other figure. `head` is that of the outputs.
    ///
    /// # Errors
    /// Those of `run`, and if the outputs are not those of the model.
    pub fn by_outputs(
        &self,
        model: &Model,
        head: &Head,
        run: &mut dyn FnMut(&[Vec<f32>]) -> Result<Vec<Vec<f32>>, PipelineError>,
    ) -> Result<Stage, PipelineError> {
        Ok(match &self.truth {
            Truth::Boxes(prepared) => {
                with_boxes(Stage::default(), prepared.score(&prepared.find_by(model, head, run)?))
            }
            Truth::Classes(_) => {
                let side = self.inputs.baseline.imgsz;
                with_classes(Stage::default(), eval::accuracy_by(model, &self.inputs.data.val, side, run)?)
            }
        })
    }

    /// The figures of a model.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn stage(&self, model: &Model) -> Result<Stage, PipelineError> {
        let side = self.inputs.baseline.imgsz;
        let cost = model.graph.cost(side, side).during(Task::Evaluation)?;
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
            Truth::Boxes(prepared) => with_boxes(sizes, prepared.evaluate(model, threads)?),
            Truth::Classes(train) => {
                let of = |set| eval::accuracy(model, set, side, threads, &|_| {});
                let (found, train) = (of(&self.inputs.data.val)?, of(train)?);
                Stage { train_accuracy: Some(train.accuracy), ..with_classes(sizes, found) }
            }
        })
    }
}

/// A stage with the figures of a detector.
fn with_boxes(stage: Stage, found: EvalResult) -> Stage {
    Stage {
        map50_95: found.map50_95,
        map50: found.map50,
        map50_95_ultralytics: found.map50_95_ultralytics,
        recall: found.per_class.iter().map(|class| (class.name.clone(), class.recall)).collect(),
        per_class: found.per_class.into_iter().map(|class| (class.name, class.map50_95)).collect(),
        ..stage
    }
}

/// A stage with the figures of a classifier.
fn with_classes(stage: Stage, found: Accuracy) -> Stage {
    Stage {
        map50_95: f64::NAN,
        map50: f64::NAN,
        map50_95_ultralytics: f64::NAN,
        accuracy: Some(found.accuracy),
        recall: found.per_class.clone(),
        per_class: found.per_class,
        ..stage
    }
}
