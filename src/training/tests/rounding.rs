//! Steps in which layers round as in int8: against the CPU's backend, whose layers do the same.

use super::*;
use crate::graph::{Builder, Head};
use crate::model::{Info, Tensor as Values};

/// A range for the input of every convolution, the narrowest of which clamp many values.
fn ranges(model: &Model) -> Ranges {
    let names = model.graph.convs().map(|(id, _)| model.graph.node(id).name.clone());
    names.enumerate().map(|(i, name)| (name, [-0.3 * (1 + i % 3) as f32, 0.4 * (1 + i % 2) as f32])).collect()
}

/// Of an image with one pixel every sum has one term, so that values and kernels are seen as they are rounded.
#[test]
fn inputs_and_kernels_are_rounded_to_the_same_bits_as_on_the_cpu() {
    let conv = Conv {
        weight: "conv.weight".into(),
        bias: None,
        norm: None,
        c_in: 2,
        c_out: 5,
        kernel: 3,
        stride: 1,
        padding: 1,
        groups: 1,
        act: Activation::Identity,
    };
    let mut graph = Builder::default();
    let image = graph.push("image", Op::Input { channels: 2 }, &[]);
    let y = graph.push("conv", Op::Conv(conv), &[image]);
    let graph = graph.finish(vec![y], Head::Classify { nc: 5 }).unwrap();
    let mut numbers = Numbers::new(9);
    let mut values = numbers.values(5 * 2 * 9);
    // A channel of zeros, and values that lie halfway between two steps.
    values[..18].fill(0.0);
    values[18..36].iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 - 8.5) * 0.25);
    values[18] = 127.0 * 0.25;
    let weights = [("conv.weight".to_owned(), Values::new(vec![5, 2, 3, 3], values))].into();
    let model = Model::new(graph, weights, Info::default()).unwrap();
    let ranges: Ranges = [("conv".to_owned(), [-0.75, 1.0])].into();
    let rounded = ranges.keys().cloned().collect();
    for (i, pixel) in numbers.values(200).into_iter().chain([1.0, 1.3, -0.75, -2.0, 0.0, 1.75 / 510.0]).enumerate() {
        let mut image = vec![0.0; 2 * 9];
        image[9 * (i % 2) + 4] = pixel;
        let (wanted, ..) = by_candle(&model, (&image, [1, 2, 3, 3]), &BTreeMap::new(), (Phase::Rounding, &ranges));
        let Some(device) = emulated::device() else { return };
        let setup = Setup { rounded: &rounded, ..setup((3, 3), &[1], false) };
        let mut engine = TrainingEngine::new(device, &model, &setup).unwrap();
        let run = |engine: &mut TrainingEngine, phase| engine.forward(&image, phase).unwrap().0[0].values.clone();
        let plain = run(&mut engine, Phase::Plain);
        assert_eq!(run(&mut engine, Phase::Rounding), plain, "{pixel}: without steps nothing rounds");
        engine.set_steps(&[("conv".to_owned(), InputSteps::of(ranges["conv"]))].into()).unwrap();
        let found = run(&mut engine, Phase::Rounding);
        assert_eq!(found, wanted[0].values, "{pixel}");
        assert!(pixel == 0.0 || found != plain, "{pixel}: nothing rounds");
    }
}

#[test]
fn every_operator_behind_a_layer_that_rounds_gives_the_gradients_of_the_cpu() {
    for phase in [Phase::Rounding, Phase::Settled] {
        for seed in seeds(2 * graphs::KINDS) {
            let (model, shape, what) = random_model(3_000_000 + seed, 1);
            // Rounded values are often equal, and of equal ones a pool may pick another than the CPU does.
            if model.graph.nodes.iter().any(|node| matches!(node.op, Op::MaxPool { .. })) {
                continue;
            }
            check_phase(&format!("{phase:?}, seed {seed}: {what}"), &model, shape, false, (phase, &ranges(&model)));
        }
    }
}

#[test]
fn layers_round_only_where_the_training_was_set_up_for_it() {
    let Some(device) = emulated::device() else { return };
    let (model, shape, _) = random_model(3, 2);
    let batches = [shape[0]];
    let mut engine = TrainingEngine::new(device, &model, &setup((shape[2], shape[3]), &batches, false)).unwrap();
    let images = Numbers::new(5).values(shape.iter().product());
    let refused = engine.forward(&images, Phase::Settled).unwrap_err().to_string();
    assert!(refused.contains("no layer rounds"), "{refused}");
    let steps = [("n1".to_owned(), InputSteps::of([0.0, 1.0]))].into();
    let refused = engine.set_steps(&steps).unwrap_err().to_string();
    assert!(refused.contains("`n1` does not round"), "{refused}");
}
