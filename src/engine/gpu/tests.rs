//! Whole networks on the emulated driver against the reference and the engine on the CPU.

#[path = "../../../tests/it/networks.rs"]
mod networks;

use super::super::{Engine, Options, reference};
use super::{Network, Slot, program};
use crate::graph::{Activation, Attention, Builder, Conv, ConvTranspose, Head, NodeId, Norm, Op};
use crate::kernels::cuda::emulated;
use crate::model::{self, Info, Model, Tensor, Weights};
use networks::{image, network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;

fn assert_close(case: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    let size = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= 2e-4 * size, "{case}: value {i} is {a}, expected {b} (up to {size})");
    }
}

fn of<'a>(results: &'a [f32], slot: &Slot) -> &'a [f32] {
    &results[slot.offset..slot.offset + slot.shape.len()]
}

#[test]
fn random_networks_give_what_the_reference_gives() {
    for seed in 0..150 {
        let Some(device) = emulated::device() else { return };
        let (model, h, w) = network(seed);
        let input = image(&model, h, w, seed);
        let wanted = reference::run(&model, &input, h, w).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let keep: Vec<NodeId> = match seed % 3 {
            0 => vec![],
            1 => model.graph.ids().collect(),
            _ => model.graph.ids().filter(|_| rng.random_bool(0.3)).collect(),
        };
        let program = program(&model, h, w, &Options { keep, ..Options::default() }).unwrap();
        let mut cuda = Network::new(device, &model, &program).unwrap();
        let mut results = vec![f32::NAN; program.outputs];
        // Twice: nothing of the first run may show in the second.
        cuda.run(&image(&model, h, w, seed + 1), &mut results).unwrap();
        cuda.run(&input, &mut results).unwrap();
        for slot in &program.slots {
            let case = format!("seed {seed}, {h} x {w}, layer {}", slot.node.0);
            assert_close(&case, of(&results, slot), &wanted[slot.node.index()]);
        }
        let once = results.clone();
        let times = cuda.profile(&input, &mut results).unwrap();
        assert_eq!(times.len(), program.steps.len() + 2);
        assert!(program.slots.iter().all(|slot| of(&once, slot) == of(&results, slot)), "seed {seed}");
    }
}

#[test]
fn a_detector_gives_what_the_cpu_gives() {
    let Some(device) = emulated::device() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/demo.safetensors");
    let model = model::load(&path).unwrap();
    let side = 96;
    let input = image(&model, side, side, 7);
    let program = program(&model, side, side, &Options::default()).unwrap();
    let mut cuda = Network::new(device, &model, &program).unwrap();
    let mut results = vec![f32::NAN; program.outputs];
    cuda.run(&input, &mut results).unwrap();
    let mut engine = Engine::new(&model, side, side, &Options::default()).unwrap();
    engine.run(&input).unwrap();
    for (i, id) in model.graph.outputs.iter().enumerate() {
        let slot = program.slots.iter().find(|slot| slot.node == *id).unwrap();
        assert_close(&format!("output {i}"), of(&results, slot), engine.output(i));
    }
}
