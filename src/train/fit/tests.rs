//! The loop with a stepper that computes nothing, so that what it does at a divergence can be seen.

use super::*;
use crate::data::{Item, Label};
use crate::model::Info;
use crate::train::init;
use crate::train::stepper::State;
use crate::train::terms::Terms;
use crate::vision::Image;
use crate::zoo::simple_cnn::simple_cnn;

/// Counts steps in its state; its loss is not a number at steps of this number, as long as the learning rate is above a
/// limit.
struct Fake {
    state: State,
    at: u64,
    limit: f64,
    rates: Vec<f64>,
}

impl Stepper for Fake {
    fn backward(&mut self, _: &Batch, _: At) -> Result<Terms, TrainError> {
        unreachable!("the loop asks for whole steps")
    }

    fn gradients(&mut self) -> Result<&mut [f32], TrainError> {
        unreachable!("the loop asks for whole steps")
    }

    fn update(&mut self, _: f64) -> Result<f64, TrainError> {
        unreachable!("the loop asks for whole steps")
    }

    fn step(&mut self, _: &Batch, _: At, lr: f64) -> Result<(Terms, f64), TrainError> {
        self.rates.push(lr);
        self.state.steps += 1;
        let cls = if self.state.steps == self.at && lr > self.limit { f64::NAN } else { 1.0 };
        Ok((Terms { cls, ..Terms::default() }, 1.0))
    }

    fn set_int8(&mut self, _: &Ranges) -> Result<(), TrainError> {
        Ok(())
    }

    fn state(&self) -> Result<State, TrainError> {
        Ok(self.state.clone())
    }

    fn restore(&mut self, state: &State) -> Result<(), TrainError> {
        self.state = state.clone();
        Ok(())
    }

    fn average(&self) -> Result<Weights, TrainError> {
        Ok(self.state.average.clone())
    }
}

/// Trains for three epochs of two steps at a constant rate of 1, with a divergence at the fourth step above a limit.
/// Gives how it ended, the rates of all steps, and the epochs after which it went on.
fn run(limit: f64) -> (Result<Weights, TrainError>, Vec<f64>, Vec<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let item = |number: u8| {
        let path = folder.path().join(format!("{number}.png"));
        Image::new(28, 28, vec![number; 3 * 28 * 28]).save(&path).unwrap();
        Item { labels: vec![Label::whole(0)], ..Item::new(path.into()) }
    };
    let dataset = Dataset { items: (0..4).map(item).collect(), names: vec!["a".into(); 10], ..Dataset::default() };
    let graph = simple_cnn(10).unwrap();
    let weights = init(&graph, 1);
    let model = Model::new(graph, weights, Info::default()).unwrap();
    let config = FitConfig { epochs: 3, batch: 2, imgsz: 28.into(), ..FitConfig::default() };
    let loader = Loader::new(&dataset, &model, &config).unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut stepper = Fake { state: State::new(&model.weights), at: 4, limit, rates: Vec::new() };
    let mut training = Training {
        model: &model,
        config: &config,
        stepper: &mut stepper,
        loader: &loader,
        judge: None,
        int8: None,
        kept: None,
        pool: &pool,
        workers: &pool,
        schedule: Schedule { peak: 1.0, last: 1.0, warmup: 0, steps: 6, decay: Default::default() },
        course: Course::new(),
        good: fresh(&model),
    };
    let mut back = Vec::new();
    let ended = training.run(&mut |event| {
        if let FitEvent::RolledBack { epochs, .. } = event {
            back.push(epochs);
        }
    });
    (ended, stepper.rates, back)
}

#[test]
fn a_training_that_diverges_goes_back_to_the_last_epoch_and_on_with_lower_rates() {
    let near = |found: &[f64], wanted: &[f64]| {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12)
    };
    let (ended, rates, back) = run(0.5);
    assert!(ended.is_ok() && back == [1]);
    assert!(near(&rates, &[1.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.3]), "{rates:?}");
    let (ended, rates, back) = run(0.05);
    assert!(ended.is_ok() && back == [1, 1, 1], "{back:?}");
    assert!(near(&rates[8..], &[0.027; 4]), "{rates:?}");
    let (ended, rates, back) = run(0.0);
    assert!(matches!(ended, Err(TrainError::Diverged { at: At { epoch: 1, step: 1, .. }, .. })));
    assert_eq!((rates.len(), back), (10, vec![1, 1, 1]));
}
