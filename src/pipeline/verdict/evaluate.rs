//! The figures of a stage: accuracy, sizes, arithmetic and memory of a model, whatever its head.

use crate::data::Dataset;
use crate::eval::{self, Score, TaskResult, Validator};
use crate::graph::Head;
use crate::model::{self, Model};
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::job::Job;
use crate::ranks::Ranks;
use crate::report::{BoxFigures, Stage};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;

/// Training pictures on which a classifier is evaluated beside the validation pictures.
const TRAIN_SAMPLE: usize = 10_000;

/// What the models of a job are evaluated on.
pub struct Evaluator<'a> {
    inputs: &'a Inputs,
    /// The validation images.
    val: Validator,
    /// Of a classifier as many training pictures.
    train: Option<Validator>,
}

impl<'a> Evaluator<'a> {
    /// Reads the images, which ranks share, for models that the job's device runs.
    ///
    /// # Errors
    /// If one cannot be read, or a rank cannot be reached.
    pub fn new(inputs: &'a Inputs, job: &Job, ranks: &Ranks) -> Result<Self, PipelineError> {
        let (head, size) = (&inputs.baseline.model.graph.head, inputs.baseline.imgsz);
        let train = &inputs.data.train;
        let read = |set: &Dataset| Validator::shared(head, set, size, ranks).map(|validator| validator.on(job.device));
        let sampled = || {
            let all = train.items.len();
            let mut chosen = sample(&mut StdRng::seed_from_u64(job.seed), all, TRAIN_SAMPLE.min(all)).into_vec();
            chosen.sort_unstable();
            let items = chosen.into_iter().map(|item| train.items[item].clone()).collect();
            let set = Dataset { names: train.names.clone(), items, ..Dataset::default() };
            read(&set)
        };
        let train = inputs.baseline.classifies().then(sampled).transpose()?;
        Ok(Self { inputs, val: read(&inputs.data.val)?, train })
    }

    /// The validation images.
    pub fn validator(&self) -> &Validator {
        &self.val
    }

    /// Whether the accuracy of a model can be taken from its decoded outputs alone.
    pub fn reads_outputs(model: &Model) -> bool {
        matches!(model.graph.head.branch(), Head::Detect { .. } | Head::Classify { .. })
    }

    /// The accuracy of a model whose outputs `run` computes, for images that no other rank has, and no other figure. `head` is that of the outputs.
    ///
    /// # Errors
    /// Those of `run`, and if the outputs are not those of the model.
    pub fn by_outputs(
        &self,
        model: &Model,
        head: &Head,
        run: &mut dyn FnMut(&[Vec<f32>]) -> Result<Vec<Vec<f32>>, PipelineError>,
    ) -> Result<Stage, PipelineError> {
        let score = match &self.val {
            Validator::Boxes(set) => Score::Boxes(set.score(&set.find_by(model, head, run)?)),
            Validator::Classes { set, size, .. } => Score::Classes(eval::accuracy_by(model, set, *size, run)?),
            Validator::Shapes(_) => {
                let task = model.graph.head.task();
                return Err(PipelineError::Input(format!(
                    "the task `{task}` cannot be judged by decoded outputs alone"
                )));
            }
        };
        Ok(figures(score, Stage::default(), None))
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
        let train = self.train.as_ref().map(|train| train.evaluate(model, threads)).transpose()?;
        Ok(figures(self.val.evaluate(model, threads)?, sizes, train.as_ref().map(Score::figure)))
    }
}

/// Enters the figures of a score.
fn figures(score: Score, sizes: Stage, train_accuracy: Option<f64>) -> Stage {
    match score {
        Score::Boxes(found) => Stage {
            map50_95: found.map50_95,
            map50: found.map50,
            map50_95_ultralytics: found.map50_95_ultralytics,
            recall: found.per_class.iter().map(|class| (class.name.clone(), class.recall)).collect(),
            per_class: found.per_class.into_iter().map(|class| (class.name, class.map50_95)).collect(),
            ..sizes
        },
        Score::Shapes(found) => Stage {
            metric: found.metric(),
            boxes: box_figures(&found),
            map50_95: found.shapes.map50_95,
            map50: found.shapes.map50,
            map50_95_ultralytics: found.shapes.map50_95_ultralytics,
            recall: found.per_class.iter().map(|class| (class.name.clone(), class.recall)).collect(),
            per_class: found.per_class.into_iter().map(|class| (class.name, class.shapes)).collect(),
            ..sizes
        },
        Score::Classes(found) => Stage {
            map50_95: f64::NAN,
            map50: f64::NAN,
            map50_95_ultralytics: f64::NAN,
            accuracy: Some(found.accuracy),
            train_accuracy,
            recall: found.per_class.clone(),
            per_class: found.per_class,
            ..sizes
        },
    }
}

/// The figures of the upright boxes, where they are judged beside the shapes.
fn box_figures(found: &TaskResult) -> Option<BoxFigures> {
    let boxes = found.boxes?;
    let of_class = |class: &crate::eval::TaskClass| Some((class.name.clone(), class.boxes?));
    Some(BoxFigures {
        map50_95: boxes.map50_95,
        map50: boxes.map50,
        map50_95_ultralytics: boxes.map50_95_ultralytics,
        per_class: found.per_class.iter().filter_map(of_class).collect(),
    })
}
