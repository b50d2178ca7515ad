//! Training for int8: what the steps compute is what the engine does, and the int8 network is better for it.

use crate::engine_props::networks::{image, network};
use candle_core::Tensor;
use secateurs::backend::{Mode, Net};
use secateurs::data::{Dataset, GreySet, Item, Label, Picture};
use secateurs::engine::{self, Engine, Options};
use secateurs::graph::Dtype;
use secateurs::model::{Info, Model};
use secateurs::quantise::{Exceptions, Images, RangeMethod, choose, observe, outputs, quantise, ranges};
use secateurs::train::{Augment, Device, FitConfig, Int8Epochs, fit, init};
use secateurs::vision::Preprocess;
use secateurs::zoo::simple_cnn::{SIDE, simple_cnn};
use std::path::PathBuf;
use std::sync::Arc;

/// The mean difference as a share of the mean magnitude.
fn apart(found: &[f32], wanted: &[f32]) -> f32 {
    let size: f32 = wanted.iter().map(|v| v.abs()).sum();
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).sum::<f32>() / size.max(1e-6)
}

/// Both round to the same integers; where a sum's last bits decide between two, a later layer may take the other one.
#[test]
fn a_network_that_trains_for_int8_computes_what_the_int8_engine_does() {
    let (mut near, mut plain) = (Vec::new(), Vec::new());
    for seed in 5000..5120 {
        let (model, h, w) = network(seed);
        let images: Vec<Vec<f32>> = (0..4).map(|i| image(&model, h, w, seed + i)).collect();
        let found = ranges(&model, &images, (h, w), &mut |_, _| ()).unwrap();
        if found.is_empty() {
            continue;
        }
        let mut net = Net::new(&model, &candle_core::Device::Cpu).unwrap().frozen();
        let input = Tensor::from_slice(&images[1], (1, model.graph.input_channels(), h, w), &candle_core::Device::Cpu);
        let mut run = || -> Vec<f32> {
            let y = net.forward(input.as_ref().unwrap(), Mode::Eval).unwrap();
            let y = y[0].flatten_all().unwrap().to_vec1().unwrap();
            net.set_int8(&found);
            y
        };
        let (in_f32, in_int8) = (run(), run());
        let mut engine = Engine::new(&quantise(&model, &found), h, w, &Options::default()).unwrap();
        engine.run(&images[1]).unwrap();
        near.push(apart(&in_int8, engine.output(0)));
        plain.push(apart(&in_f32, engine.output(0)));
    }
    assert!(near.len() > 40, "{} networks", near.len());
    near.sort_by(f32::total_cmp);
    plain.sort_by(f32::total_cmp);
    let at = |all: &[f32], share: usize| all[all.len() * share / 10];
    let text = format!("{} and {} from int8, {} in f32", at(&near, 5), at(&near, 9), at(&plain, 5));
    eprintln!("the middle and nine tenths: {text}");
    assert!(at(&near, 5) < 1e-5 && at(&near, 9) < 0.1 * at(&plain, 5), "{text}");
}

/// How much fainter one channel of four is in the networks that are trained for int8.
const FACTORS: [f32; 3] = [1.0, 128.0, 192.0];

/// Pictures of three classes: a faint bar across, a faint bar down, or both, on a ground of strong noise.
fn bars(count: usize, seed: usize) -> Dataset {
    let (mut pixels, mut classes) = (Vec::new(), Vec::new());
    for i in 0..count {
        let class = (i * 7 + seed) % 3;
        let (row, column) = (4 + (i * 5 + seed) % 20, 4 + (i * 11 + 3 * seed) % 20);
        for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
            let bar = (class != 1 && y.abs_diff(row) < 2) || (class != 0 && x.abs_diff(column) < 2);
            let noise = ((y * SIDE + x + 7919 * i + seed).wrapping_mul(2_654_435_761) >> 9) % 120;
            pixels.push(noise as u8 + if bar { 25 } else { 0 });
        }
        classes.push(class);
    }
    let set = Arc::new(GreySet { path: PathBuf::from("bars"), width: SIDE, height: SIDE, pixels });
    let item = |(number, class): (usize, &usize)| Item {
        labels: vec![Label::whole(*class)],
        ..Item::new(Picture::Grey(set.clone(), number))
    };
    let items = classes.iter().enumerate().map(item).collect();
    Dataset { items, names: ["across", "down", "both"].map(String::from).to_vec(), ..Dataset::default() }
}

/// The pictures as the network reads them, with their classes.
fn tensors(model: &Model, set: &Dataset) -> (Vec<Vec<f32>>, Vec<usize>) {
    let preprocess = Preprocess::new(model).unwrap();
    let tensor = |item: &Item| {
        let mut tensor = vec![0.0; SIDE * SIDE];
        preprocess.write(&item.image.load().unwrap(), SIDE, &mut tensor);
        tensor
    };
    (set.items.iter().map(tensor).collect(), set.items.iter().filter_map(Item::class).collect())
}

/// What runs on these pictures.
fn on(images: &[Vec<f32>]) -> Images<'_> {
    Images { images, size: (SIDE, SIDE), device: engine::Device::Cpu }
}

/// Mean cross-entropy.
fn loss(model: &Model, (images, classes): &(Vec<Vec<f32>>, Vec<usize>)) -> f64 {
    let found = outputs(model, &on(images)).unwrap();
    let losses = found.iter().zip(classes).map(|(found, class)| {
        let total: f64 = found[0].iter().map(|logit| f64::from(*logit).exp()).sum();
        total.ln() - f64::from(found[0][*class])
    });
    losses.sum::<f64>() / classes.len() as f64
}

/// The same function where one channel of four is faint: scaled down before a layer in int8, and up again in it. The
/// steps of that layer's input are those of the other channels, and its kernel's those of this one.
fn faint(mut model: Model, factor: f32) -> Model {
    for (first, second, window) in [("conv1", "conv2.conv.weight", 9), ("conv2", "fc1.conv.weight", 49)] {
        for key in [format!("{first}.bn.weight"), format!("{first}.bn.bias")] {
            model.weights.get_mut(&key).unwrap().data_mut().iter_mut().step_by(4).for_each(|v| *v /= factor);
        }
        let kernel = model.weights.get_mut(second).unwrap();
        let channels = kernel.shape()[1];
        for (at, channel) in kernel.data_mut().chunks_mut(window).enumerate() {
            if (at % channels).is_multiple_of(4) {
                channel.iter_mut().for_each(|w| *w *= factor);
            }
        }
    }
    model
}

/// The int8 network as it is deployed: with the ranges of the method that is best on images that were held back.
fn deployed(model: &Model, (calibrating, compared): (&[Vec<f32>], &[Vec<f32>])) -> Model {
    let observed = observe(model, &on(calibrating), &mut |_, _| ()).unwrap();
    let methods = RangeMethod::ALL.map(|(_, method)| method);
    let chosen = choose(model, &observed, &methods, false, &on(compared)).unwrap().unwrap();
    quantise(model, &chosen.ranges)
}

/// Both networks have the same epochs with the same treatment of their normalisations' statistics, so that they differ
/// in nothing but the rounding. Both are judged as they are deployed.
#[test]
fn training_for_int8_loses_less_than_rounding_afterwards() {
    let (train, val) = (bars(240, 0), bars(240, 1));
    let graph = simple_cnn(3).unwrap();
    let all: Exceptions = graph.convs().map(|(id, _)| (graph.node(id).name.clone(), Dtype::F32)).collect();
    let [knowing, blind] =
        [Exceptions::new(), all].map(|except| Int8Epochs { epochs: 3, except, ..Int8Epochs::default() });
    let config =
        FitConfig { batch: 8, imgsz: SIDE.into(), threads: 2, augment: Augment::SIGNS, ..FitConfig::default() };
    let tune = |model: &Model, config: &FitConfig| fit(model, None, &train, config, &Device::Cpu, &mut |_| ()).unwrap();
    let mut hard = Vec::new();
    for seed in 1..=2 {
        let fresh = Model::new(graph.clone(), init(&graph, seed), Info { imgsz: Some(SIDE.into()), ..Info::default() });
        let good = tune(&fresh.unwrap(), &FitConfig { epochs: 6, lr: 2e-3, seed, ..config.clone() });
        let (seen, judging) = (tensors(&good, &train).0, tensors(&good, &val));
        for factor in FACTORS {
            let start = faint(good.clone(), factor);
            let of = |int8: &Int8Epochs| {
                tune(&start, &FitConfig { epochs: 3, lr: 2e-4, seed, int8: int8.clone(), ..config.clone() })
            };
            let (plain, knowing) = (of(&blind), of(&knowing));
            let int8 = |model: &Model| loss(&deployed(model, (&seen[..64], &seen[64..80])), &judging);
            let f32 = [&start, &plain].map(|model| loss(model, &judging));
            let [start, after, trained] = [&start, &plain, &knowing].map(int8);
            eprintln!(
                "seed {seed}, {factor}: {:.4} and {start:.4} in int8 before; {:.4} in f32, {after:.4} rounded \
                 afterwards, {trained:.4} trained for int8",
                f32[0], f32[1]
            );
            if factor > 1.0 {
                hard.push([f32[1], after, trained]);
            } else {
                assert!(trained < f32[1] + 0.005, "seed {seed}: rounding costs nothing here");
            }
        }
    }
    let [f32, after, trained] =
        [0, 1, 2].map(|which| hard.iter().map(|row| row[which]).sum::<f64>() / hard.len() as f64);
    let text = format!("{f32:.4} in f32, {after:.4} rounded afterwards, {trained:.4} trained for int8");
    assert!(after > f32 + 0.05, "these networks are not hard: {text}");
    assert!(trained < f32 + 0.5 * (after - f32), "{text}");
}
