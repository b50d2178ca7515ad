//! Networks that run from the middle on, and the loss curves that are measured so: both give what whole networks give.

use crate::engine_props::networks::{image, middle, network};
use crate::surgery::{random_model, zoo};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::engine::{Device, Engine, EngineError, Options, plan_memory};
use secateurs::graph::NodeId;
use secateurs::group::groups;
use secateurs::importance::{
    Covariances, Criterion, Images, Sampling, Statistics, kl_divergence, measure, outputs, rank,
};
use secateurs::model::{Model, from_bytes};
use secateurs::pipeline::DEMO_MODEL;
use secateurs::ranks::Ranks;
use secateurs::repair::Calibration;
use secateurs::surgery::{Selection, cut};
use std::path::Path;

#[test]
fn a_run_from_given_tensors_is_the_rest_of_a_whole_run() {
    let mut short = 0;
    for seed in 3000..3300 {
        let (model, h, w) = network(seed);
        let graph = &model.graph;
        let mut rng = StdRng::seed_from_u64(seed);
        let (given, keep) = middle(&model, &mut rng);
        let input = image(&model, h, w, seed);
        let every = Options { keep: graph.ids().collect(), ..Options::default() };
        let mut whole = Engine::new(&model, h, w, &every).unwrap();
        whole.run(&input).unwrap();
        let options = Options { given: given.clone(), keep, ..Options::default() };
        let mut rest = Engine::new(&model, h, w, &options).unwrap();
        assert_eq!(rest.memory(), plan_memory(graph, h, w, &options).unwrap(), "seed {seed}");
        let tensors: Vec<f32> = given.iter().flat_map(|id| whole.kept(*id).to_vec()).collect();
        rest.run(&tensors).unwrap();
        let last = graph.outputs[0];
        for id in options.keep.iter().chain([&last]) {
            let (found, wanted) = (rest.kept(*id), whole.kept(*id));
            let size = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
            for (a, b) in found.iter().zip(wanted) {
                assert!((a - b).abs() <= 1e-4 * size, "seed {seed}, layer {}: {a} for {b}", id.0);
            }
        }
        let mut twin = rest.twin().unwrap();
        twin.run(&tensors).unwrap();
        assert_eq!(twin.output(0), rest.output(0), "seed {seed}");
        short += usize::from(rest.memory().weights < whole.memory().weights);
    }
    assert!(short > 100, "{short} of 300 have weights that are left out");
}

#[test]
fn tensors_that_do_not_suffice_are_refused_by_name() {
    let model = demo();
    let options = |given| Options { given, ..Options::default() };
    let last = model.graph.outputs[0];
    let refused = |given| match Engine::new(&model, 64, 64, &options(given)) {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    };
    let EngineError::Graph(error) = refused(vec![last]) else { panic!("another error") };
    assert_eq!(error.node, model.graph.nodes[0].name);
    assert!(matches!(refused(vec![NodeId(9999)]), EngineError::NoSuchNode { node: 9999, .. }));
    // The image by its name is the image.
    let mut engine = Engine::new(&model, 64, 64, &options(vec![NodeId(0)])).unwrap();
    assert!(matches!(engine.run(&[0.0; 7]), Err(EngineError::Input { found: 7, expected: 12288 })));
    assert!(engine.run(&vec![0.25; 12288]).is_ok());
}

fn demo() -> Model {
    from_bytes(Path::new("demo.safetensors"), DEMO_MODEL).unwrap()
}

#[test]
fn loss_curves_by_suffixes_are_those_of_whole_networks() {
    let mut models = vec![("demo".to_owned(), demo(), 64)];
    for (name, graph, side) in zoo().into_iter().filter(|(_, _, side)| *side <= 64).step_by(4) {
        models.push((name, random_model(graph, 11), side.max(64)));
    }
    for (name, model, side) in models {
        let groups = groups(&model.graph);
        let mut rng = StdRng::seed_from_u64(5);
        let pixels = model.graph.input_channels() * side * side;
        let images: Vec<Vec<f32>> = (0..2).map(|_| (0..pixels).map(|_| rng.random_range(0.0..1.0)).collect()).collect();
        let (ranks, sensitivity) = (Ranks::default(), None);
        let calibration = Calibration {
            images: &images,
            height: side,
            width: side,
            ridge: 0.03,
            seed: 0,
            sensitivity,
            ranks,
            device: Device::Cpu,
        };
        let ranking = rank(Criterion::L1, &model, &groups, &Statistics::default()).unwrap();
        let sampling = Sampling { shares: vec![0.5], grid: 4, images: 2, device: Device::Cpu };
        let mut steps = Vec::new();
        // Without covariances nothing is refitted.
        let curves =
            measure(&model, &groups, &ranking, &Covariances::new(), &calibration, &sampling, &mut |done, all| {
                steps.push((done, all))
            })
            .unwrap();
        let jobs = curves.0.iter().map(|curve| curve.len()).sum::<usize>();
        assert_eq!(steps, (1..=jobs).map(|done| (done, jobs)).collect::<Vec<_>>(), "{name}");
        let on = Images { images: &images, size: (side, side), device: Device::Cpu };
        let reference = outputs(&model, &on).unwrap();
        for (number, group) in groups.groups.iter().enumerate() {
            for (width, found) in &curves.0[number] {
                let mut selection = Selection::all(&groups);
                selection.0[number] = ranking.keep(number, *width);
                let smaller = cut(&model, &groups, &selection).unwrap();
                let outputs = outputs(&smaller, &on).unwrap();
                let pairs = reference.iter().zip(&outputs);
                let losses = pairs.map(|(a, b)| kl_divergence(&model.graph.head, (side, side), a, b));
                let wanted = losses.sum::<f64>() / 2.0;
                let off = (found - wanted).abs();
                assert!(off <= 1e-4 * wanted + 1e-9, "{name} `{}` {width}: {found} for {wanted}", group.name);
            }
        }
    }
}
