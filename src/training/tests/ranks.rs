//! Two ranks that share a batch, on the emulated driver and the stand-in for NCCL: against one that has all of it, and
//! against what each would find by itself.

use super::graphs::{Numbers, random_model};
use super::{Output, Phase, Setup, TrainingEngine, control, distance, output_gradients, setup};
use crate::kernels::cuda::emulated;
use crate::model::{Model, Weights};
use crate::ranks::on_threads;

/// Images of the batch, and of the first rank.
const IMAGES: [usize; 2] = [5, 2];

/// What a rank finds in a step: outputs, gradients before the step, and weights behind it.
struct Found {
    outputs: Vec<Output>,
    gradients: Vec<f32>,
    weights: Weights,
}

/// A step on images, whose outputs have these gradients.
fn step(engine: &mut TrainingEngine, images: &[f32], gradients: &[Vec<f32>]) -> Found {
    let (outputs, _) = engine.forward(images, Phase::Plain).unwrap();
    engine.backward(gradients, 1.0).unwrap();
    let gradients = engine.flat_gradients().unwrap();
    engine.update(&control(0.01, 1.0)).unwrap();
    Found { outputs, gradients, weights: engine.weights().unwrap() }
}

/// The part of values of the whole batch that is a rank's; each image has as many.
fn part(values: &[f32], rank: usize) -> &[f32] {
    let [all, first] = IMAGES;
    let (one, two) = values.split_at(values.len() / all * first);
    [one, two][rank]
}

/// A model, the images of the whole batch, and gradients of its outputs.
fn whole(seed: u64) -> (Model, [usize; 4], Vec<f32>, Vec<Vec<f32>>, String) {
    let (model, [_, c, h, w], what) = random_model(seed, 5);
    let images = Numbers::new(5).values(IMAGES[0] * c * h * w);
    let batches = [IMAGES[0]];
    let mut engine = TrainingEngine::new(emulated::device().unwrap(), &model, &setup((h, w), &batches, false)).unwrap();
    let gradients = output_gradients(&engine.forward(&images, Phase::Plain).unwrap().0);
    (model, [IMAGES[0], c, h, w], images, gradients, what)
}

/// What two ranks find, each with its part of the batch.
fn together(model: &Model, [_, _, h, w]: [usize; 4], sync: bool, images: &[f32], gradients: &[Vec<f32>]) -> Vec<Found> {
    on_threads(2, |ranks| {
        let (rank, device) = (ranks.rank(), emulated::device().unwrap());
        let gpus = ranks.gpus(&device, || emulated::nccl().unwrap()).unwrap();
        let batches = [[IMAGES[1], IMAGES[0] - IMAGES[1]][rank]];
        let setup = Setup { gpus: Some(&gpus), sync_batch_norm: sync, ..setup((h, w), &batches, false) };
        let mut engine = TrainingEngine::new(device, model, &setup).unwrap();
        let gradients: Vec<Vec<f32>> = gradients.iter().map(|all| part(all, rank).to_vec()).collect();
        step(&mut engine, part(images, rank), &gradients)
    })
}

#[test]
fn with_the_statistics_of_all_ranks_a_step_is_that_of_the_whole_batch() {
    if emulated::device().is_none() {
        return;
    }
    for seed in 3_000_000..3_000_006 {
        let (model, shape, images, gradients, what) = whole(seed);
        let batches = [IMAGES[0]];
        let setup = setup((shape[2], shape[3]), &batches, false);
        let mut alone = TrainingEngine::new(emulated::device().unwrap(), &model, &setup).unwrap();
        let wanted = step(&mut alone, &images, &gradients);
        let found = together(&model, shape, true, &images, &gradients);
        let close = |what: String, found: &[f32], wanted: &[f32]| {
            let off = distance(found, wanted, 0.1);
            assert!(off < 1e-5, "seed {seed}, {what}: off by {off:e}");
        };
        for (rank, found) in found.iter().enumerate() {
            for (i, (found, wanted)) in found.outputs.iter().zip(&wanted.outputs).enumerate() {
                close(format!("{what}, rank {rank}, output {i}"), &found.values, part(&wanted.values, rank));
            }
            close(format!("{what}, rank {rank}, gradients"), &found.gradients, &wanted.gradients);
            for (key, wanted) in &wanted.weights {
                close(format!("{what}, rank {rank}, {key}"), found.weights[key].data(), wanted.data());
            }
        }
        // To the bit, running statistics too.
        assert!(found[0].gradients == found[1].gradients && found[0].weights == found[1].weights, "{what}");
    }
}

#[test]
fn gradients_in_buckets_are_the_sums_of_what_each_rank_finds() {
    if emulated::device().is_none() {
        return;
    }
    for seed in 4_000_000..4_000_006 {
        let (model, shape, images, gradients, what) = whole(seed);
        let own = [0, 1].map(|rank| {
            let batches = [[IMAGES[1], IMAGES[0] - IMAGES[1]][rank]];
            let setup = setup((shape[2], shape[3]), &batches, false);
            let mut engine = TrainingEngine::new(emulated::device().unwrap(), &model, &setup).unwrap();
            let gradients: Vec<Vec<f32>> = gradients.iter().map(|all| part(all, rank).to_vec()).collect();
            step(&mut engine, part(&images, rank), &gradients).gradients
        });
        let wanted: Vec<f32> = own[0].iter().zip(&own[1]).map(|(a, b)| a + b).collect();
        for found in together(&model, shape, false, &images, &gradients) {
            assert!(
                found.gradients == wanted,
                "seed {seed}, {what}: off by {}",
                distance(&found.gradients, &wanted, 0.1)
            );
        }
    }
}
