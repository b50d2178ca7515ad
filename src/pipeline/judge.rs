//! How good a model is, whatever its head: the figures of a stage.

use super::{Job, PipelineError, Source};
use crate::data::Dataset;
use crate::eval::{self, Prepared};
use crate::graph::Head;
use crate::model::{self, Model};
use crate::report::Stage;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;

/// Training pictures on which a classifier is judged beside the validation pictures.
const TRAIN_SAMPLE: usize = 10_000;

/// What the models of a job are judged on.
pub struct Judge<'a> {
    source: &'a Source,
    threads: usize,
    truth: Truth,
}

enum Truth {
    /// Objects in the validation images.
    Boxes(Prepared),
    /// Classes of the validation pictures, and of these training pictures.
    Classes(Dataset),
}

impl<'a> Judge<'a> {
    /// Reads the images.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn new(source: &'a Source, job: &Job) -> Result<Self, PipelineError> {
        let truth = match source.model.graph.head {
            Head::Classify { .. } => {
                let all = source.train.items.len();
                let mut chosen = sample(&mut StdRng::seed_from_u64(job.seed), all, TRAIN_SAMPLE.min(all)).into_vec();
                chosen.sort_unstable();
                let items = chosen.into_iter().map(|item| source.train.items[item].clone()).collect();
                Truth::Classes(Dataset {
                    names: source.train.names.clone(),
                    items,
                    annotations: None,
                    notes: Vec::new(),
                })
            }
            _ => Truth::Boxes(Prepared::new(&source.val, source.imgsz).map_err(super::evaluation)?),
        };
        Ok(Self { source, threads: job.threads, truth })
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
        let side = self.source.imgsz;
        let cost = model.graph.cost(side, side).map_err(PipelineError::stage("evaluation"))?;
        let sizes = Stage {
            params: cost.params,
            zeros: model.zeros(),
            macs: cost.macs,
            file_bytes: model::to_bytes(model).map_err(PipelineError::stage("evaluation"))?.len(),
            peak_memory_bytes: self.source.memory(model, self.threads)?,
            ..Stage::default()
        };
        let threads = rayon::current_num_threads();
        Ok(match &self.truth {
            Truth::Boxes(prepared) => {
                let found = prepared.evaluate(model, threads).map_err(super::evaluation)?;
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
                let of = |set| eval::accuracy(model, set, side, threads, &|_| {});
                let found = of(&self.source.val).map_err(super::evaluation)?;
                let train = of(train).map_err(super::evaluation)?;
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
