//! Accuracy of classifiers.

use super::EvalError;
use crate::data::{Dataset, Item};
use crate::engine::{Device, Engine, Options};
use crate::graph::Head;
use crate::model::Model;
use crate::ranks::{Ranks, Share};
use crate::size::ImageSize;
use crate::vision::Preprocess;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Figures of a classifier on pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of the pictures whose class is the first choice.
    pub accuracy: f64,
    /// Share of the pictures whose class is among the first five choices.
    pub top5: f64,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// Share that is right, by name of the class that it should have been.
    pub per_class: BTreeMap<String, f64>,
    /// Number of pictures.
    pub images: usize,
}

/// What became of one picture.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Answer {
    class: usize,
    /// Classes that scored higher than the right one.
    rank: usize,
    loss: f64,
}

/// Runs a classifier on all pictures of a dataset, by `threads` engines of one thread each. `progress` gets how many
/// more pictures are done.
///
/// # Errors
/// If the model is no classifier of the dataset's classes, cannot be run at this size, or a picture cannot be read.
pub fn accuracy(
    model: &Model,
    dataset: &Dataset,
    imgsz: impl Into<ImageSize>,
    threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Accuracy, EvalError> {
    let run = Run { imgsz: imgsz.into(), device: Device::Cpu, ranks: &Ranks::default(), threads };
    Ok(summary(&answers(model, dataset, &run, progress)?, &dataset.names))
}

/// How a classifier runs on pictures: at images of a size, by the [`Device::engines`] of some threads, of one each.
pub(super) struct Run<'a> {
    pub imgsz: ImageSize,
    pub device: Device,
    /// Each runs the classifier on its share of the pictures.
    pub ranks: &'a Ranks,
    pub threads: usize,
}

/// As [`accuracy`], picture by picture; every rank gets all answers.
pub(super) fn answers(
    model: &Model,
    dataset: &Dataset,
    run: &Run,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Answer>, EvalError> {
    check(model, dataset)?;
    let Run { imgsz, device, ranks, threads } = *run;
    let preprocess = Preprocess::new(model)?;
    let items = &dataset.items[Share::new(ranks, dataset.items.len()).range()];
    let share = items.len().div_ceil(device.engines(threads)).max(1);
    let work = |items: &[Item]| {
        let options = Options { threads: 1, device, ..Options::default() };
        let mut engine = Engine::new(model, imgsz.height, imgsz.width, &options)?;
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let class = class_of(item, dataset)?;
            preprocess.write(&item.image.load()?, imgsz, engine.input_mut());
            engine.run_in_place()?;
            answers.push(answer(engine.output(0), class)?);
            progress(1);
        }
        Ok(answers)
    };
    let answers: Result<Vec<Vec<Answer>>, EvalError> = items.par_chunks(share).map(work).collect();
    Ok(ranks.of_all(answers?.concat())?.concat())
}

/// Share of these pictures that answers have right.
pub(super) fn right(answers: &[Answer], pictures: &[usize]) -> f64 {
    let count = pictures.iter().filter(|picture| answers.get(**picture).is_some_and(|a| a.rank == 0)).count();
    count as f64 / pictures.len().max(1) as f64
}

/// As [`accuracy`], with logits that another runtime computes: `run` gets inputs of the network, `[C, height, width]`, a few
/// at a time, and gives the logits of each.
///
/// # Errors
/// As [`accuracy`], and those of `run`.
pub fn accuracy_by<E: From<EvalError>>(
    model: &Model,
    dataset: &Dataset,
    imgsz: ImageSize,
    run: &mut dyn FnMut(&[Vec<f32>]) -> Result<Vec<Vec<f32>>, E>,
) -> Result<Accuracy, E> {
    check(model, dataset)?;
    let preprocess = Preprocess::new(model).map_err(EvalError::from)?;
    let mut answers = Vec::with_capacity(dataset.items.len());
    for items in dataset.items.chunks(AT_ONCE) {
        let mut inputs = vec![vec![0.0; preprocess.channels() * imgsz.area()]; items.len()];
        for (item, input) in items.iter().zip(&mut inputs) {
            preprocess.write(&item.image.load().map_err(EvalError::from)?, imgsz, input);
        }
        for (item, logits) in items.iter().zip(run(&inputs)?) {
            answers.push(answer(&logits, class_of(item, dataset)?)?);
        }
    }
    Ok(summary(&answers, &dataset.names))
}

/// Pictures that another runtime gets at once.
const AT_ONCE: usize = 64;

/// Refuses a model that is no classifier of the dataset's classes.
fn check(model: &Model, dataset: &Dataset) -> Result<(), EvalError> {
    let classes = dataset.names.len();
    match model.graph.head {
        Head::Classify { nc } if nc == classes => Ok(()),
        Head::Classify { nc } => {
            Err(EvalError::Unfit(format!("the model has {nc} classes, but the dataset names {classes}")))
        }
        _ => {
            let task = model.graph.head.task();
            Err(EvalError::Unfit(format!("the model's task is `{task}`, expected a classifier")))
        }
    }
}

fn class_of(item: &Item, dataset: &Dataset) -> Result<usize, EvalError> {
    let class = item.class().filter(|class| *class < dataset.names.len());
    class.ok_or_else(|| EvalError::Unfit(format!("{} has no class as a whole", item.image.display())))
}

fn answer(logits: &[f32], class: usize) -> Result<Answer, EvalError> {
    let Some(right) = logits.get(class).copied() else {
        return Err(EvalError::Unfit(format!("{} answers, expected one for class {class}", logits.len())));
    };
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|v| f64::from(v - top).exp()).sum();
    // Of equal answers the first class is taken.
    let before = |(other, v): (usize, &f32)| *v > right || (*v == right && other < class);
    let rank = logits.iter().enumerate().filter(|answer| before(*answer)).count();
    Ok(Answer { class, rank, loss: sum.ln() - f64::from(right - top) })
}

/// The figures of answers.
pub(super) fn summary(answers: &[Answer], names: &[String]) -> Accuracy {
    let count = answers.len().max(1) as f64;
    let within = |most: usize| answers.iter().filter(|a| a.rank < most).count() as f64 / count;
    let of_class = |(class, name): (usize, &String)| {
        let all = answers.iter().filter(|a| a.class == class).count();
        let right = answers.iter().filter(|a| a.class == class && a.rank == 0).count();
        (all > 0).then(|| (name.clone(), right as f64 / all as f64))
    };
    Accuracy {
        accuracy: within(1),
        top5: within(5),
        loss: answers.iter().map(|a| a.loss).sum::<f64>() / count,
        per_class: names.iter().enumerate().filter_map(of_class).collect(),
        images: answers.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_choice_counts_and_ties_go_to_the_first_class() {
        let cases = [([1.0f32, 2.0, 0.5], 1, 0), ([1.0, 2.0, 0.5], 2, 2), ([1.0, 1.0, 1.0], 0, 0), ([1.0; 3], 2, 2)];
        let answers: Vec<Answer> = cases.iter().map(|(logits, class, _)| answer(logits, *class).unwrap()).collect();
        for (answer, (_, _, rank)) in answers.iter().zip(cases) {
            assert_eq!(answer.rank, rank);
        }
        assert!((answers[2].loss - 3f64.ln()).abs() < 1e-9);
        let names = ["a", "b", "c", "d"].map(String::from);
        let all = summary(&answers, &names);
        assert_eq!((all.accuracy, all.top5, all.images), (0.5, 1.0, 4));
        assert_eq!(all.per_class, BTreeMap::from([("a".into(), 1.0), ("b".into(), 1.0), ("c".into(), 0.0)]));
        assert!(answer(&[0.0], 1).is_err());
    }
}
