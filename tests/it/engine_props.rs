//! The compiled engine against the plain reference on random graphs of all operators, and its promises.

#[path = "networks.rs"]
pub mod networks;

use crate::forward::yolo;
use networks::{image, network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::engine::{Engine, EngineError, Options, plan_memory, reference};
use secateurs::graph::{Activation, Attention, Builder, Conv, ConvTranspose, Dtype, Graph, Head, NodeId, Norm, Op};
use secateurs::kernels::Isa;
use secateurs::model::{Info, Model, Tensor, Weights};

fn assert_close(case: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    let size = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= 2e-4 * size, "{case}: value {i} is {a}, expected {b} (up to {size})");
    }
}

#[test]
fn random_networks_give_what_the_reference_gives() {
    for seed in 0..700 {
        let (model, h, w) = network(seed);
        let input = image(&model, h, w, seed);
        let wanted = reference::run(&model, &input, h, w).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let keep: Vec<NodeId> = match seed % 3 {
            0 => vec![],
            1 => model.graph.ids().collect(),
            _ => model.graph.ids().filter(|_| rng.random_bool(0.3)).collect(),
        };
        let isas: Vec<Isa> = Isa::all().collect();
        let isa = Some(isas[seed as usize % isas.len()]);
        let options = Options { threads: 1 + seed as usize % 3, keep, isa, ..Options::default() };
        let mut engine = Engine::new(&model, h, w, &options).unwrap();
        assert_eq!(engine.memory(), plan_memory(&model.graph, h, w, &options).unwrap(), "seed {seed}");
        // Twice: nothing of the first run may show in the second.
        engine.run(&image(&model, h, w, seed + 1)).unwrap();
        engine.run(&input).unwrap();
        let last = model.graph.outputs[0];
        assert_close(&format!("seed {seed} output"), engine.output(0), &wanted[last.index()]);
        for id in &options.keep {
            let case = format!("seed {seed} {:?}", model.graph.node(*id));
            assert_close(&case, engine.kept(*id), &wanted[id.index()]);
        }
    }
}

#[test]
fn results_do_not_depend_on_threads_nor_on_the_way_in() {
    for seed in 1000..1060 {
        let (model, h, w) = network(seed);
        let input = image(&model, h, w, seed);
        let run = |threads: usize| {
            let mut engine = Engine::new(&model, h, w, &Options { threads, ..Options::default() }).unwrap();
            engine.run(&input).unwrap();
            let first = engine.output(0).to_vec();
            engine.input_mut().copy_from_slice(&input);
            engine.run_in_place().unwrap();
            assert_eq!(engine.output(0), first, "seed {seed}");
            let steps = engine.profile(&input).unwrap();
            assert!(steps.iter().any(|s| s.node == model.graph.outputs[0]), "seed {seed}");
            assert_eq!(engine.output(0), first, "seed {seed}");
            first
        };
        let one = run(1);
        assert_eq!(one, run(2), "seed {seed}");
        assert_eq!(one, run(5), "seed {seed}");
    }
}

#[test]
fn an_engine_is_send() {
    fn check<T: Send>() {}
    check::<Engine>();
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (model, h, w) = network(7);
    let mut engine = Engine::new(&model, h, w, &Options::default()).unwrap();
    let expected = model.graph.input_channels() * h * w;
    match engine.run(&vec![0.0; expected + 1]) {
        Err(EngineError::Input { found, expected: e }) => assert_eq!((found, e), (expected + 1, expected)),
        other => panic!("{other:?}"),
    }
    let keep = vec![NodeId(model.graph.nodes.len() as u32)];
    let options = Options { keep, ..Options::default() };
    assert!(matches!(Engine::new(&model, h, w, &options), Err(EngineError::NoSuchNode { .. })));
    assert!(matches!(plan_memory(&model.graph, h, w, &options), Err(EngineError::NoSuchNode { .. })));
    let window = Graph {
        nodes: vec![
            secateurs::graph::Node { name: "in".into(), op: Op::Input { channels: 3 }, inputs: vec![] },
            secateurs::graph::Node {
                name: "pool".into(),
                op: Op::MaxPool { kernel: 5, stride: 1, padding: 0 },
                inputs: vec![NodeId(0)],
            },
        ],
        outputs: vec![NodeId(1)],
        head: Head::Classify { nc: 3 },
        dtype: Dtype::F32,
        exceptions: Default::default(),
    };
    let model = Model::new(window, Weights::default(), Info::default()).unwrap();
    assert!(matches!(Engine::new(&model, 4, 4, &Options::default()), Err(EngineError::Graph(_))));
}

#[test]
fn joins_and_splits_of_yolo11n_move_almost_nothing() {
    let Some(model) = yolo("models/yolo11n-coco.safetensors") else { return };
    let input = vec![0.5; 3 * 64 * 64];
    let mut engine = Engine::new(&model, 64, 64, &Options::default()).unwrap();
    let steps = engine.profile(&input).unwrap();
    let count = |wanted: fn(&Op) -> bool| steps.iter().filter(|s| wanted(&model.graph.node(s.node).op)).count();
    // Only the first half of C2PSA is copied: its tensor also holds the second half, which the join replaces.
    assert_eq!(count(|op| matches!(op, Op::Concat)), 1);
    assert_eq!(count(|op| matches!(op, Op::Slice { .. })), 0);
    assert_eq!(count(|op| matches!(op, Op::Add)), 0);
    // The arena is far smaller than all tensors together, and not smaller than the two first ones.
    let shapes = model.graph.shapes(64, 64).unwrap();
    let all: usize = shapes.iter().map(|s| 4 * s.len()).sum();
    assert!(engine.memory().arena < all / 3, "{} of {all}", engine.memory().arena);
    assert!(engine.memory().arena >= 4 * (shapes[1].len() + shapes[2].len()));
}
