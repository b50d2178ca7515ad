//! The property that proves surgery: the original with the removed channels masked computes what the cut model computes.

use crate::support;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use secateurs::engine::{Engine, Options};
use secateurs::graph::Graph;
use secateurs::group::{Groups, groups};
use secateurs::import;
use secateurs::model::{Info, Model, Tensor, from_bytes};
use secateurs::pipeline::DEMO_MODEL;
use secateurs::surgery::{Selection, SurgeryError, cut, cut_graph, mask};
use secateurs::zoo::yolo11::{Scale, detect};
use std::path::Path;

/// A legal selection: every group keeps a random number of random channels, at least one per head.
fn legal(groups: &Groups, rng: &mut StdRng) -> Selection {
    let of = |group: &secateurs::group::Group| {
        let size = group.width() / group.heads;
        // Half of the time all stay, so that wide and narrow neighbours meet.
        let keep = if rng.random_bool(0.3) { size } else { rng.random_range(1..=size) };
        let of_head = |head: usize, rng: &mut StdRng| {
            sample(rng, size, keep).into_iter().map(|i| head * size + i).collect::<Vec<_>>()
        };
        let mut kept: Vec<usize> = (0..group.heads).flat_map(|head| of_head(head, rng)).collect();
        kept.sort_unstable();
        kept
    };
    let mut of = of;
    Selection(groups.groups.iter().map(&mut of).collect())
}

/// Random weights in sane ranges.
fn random_model(graph: Graph, seed: u64) -> Model {
    let mut rng = StdRng::seed_from_u64(seed);
    let tensor = |p: secateurs::graph::Param| {
        let len: usize = p.shape.iter().product();
        let fan_in = p.shape.iter().skip(1).product::<usize>().max(1) as f32;
        let value = |rng: &mut StdRng| match p.key.rsplit('.').next() {
            Some("running_var") => rng.random_range(0.5..1.5f32),
            _ if p.shape.len() > 1 => rng.random_range(-1.0..1.0f32) * (3.0 / fan_in).sqrt(),
            _ => rng.random_range(-0.5..1.0f32),
        };
        let data = (0..len).map(|_| value(&mut rng)).collect();
        (p.key, Tensor::new(p.shape, data))
    };
    let mut tensor = tensor;
    let weights = graph.params().into_iter().map(&mut tensor).collect();
    Model::new(graph, weights, Info::default()).unwrap()
}

fn outputs(model: &Model, input: &[f32], side: usize) -> Vec<Vec<f32>> {
    let mut engine = Engine::new(model, side, side, &Options { threads: 1, ..Options::default() }).unwrap();
    engine.run(input).unwrap();
    (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect()
}

/// `cases` random cuts of a model: masked original = cut model.
fn holds(name: &str, model: &Model, cases: usize, side: usize) {
    let groups = groups(&model.graph);
    let mut rng = StdRng::seed_from_u64(7);
    let input: Vec<f32> = (0..3 * side * side).map(|_| rng.random_range(0.0..1.0)).collect();
    for case in 0..cases {
        let selection = legal(&groups, &mut rng);
        let small = cut(model, &groups, &selection).unwrap();
        let by_widths = cut_graph(&model.graph, &groups, &selection.widths()).unwrap();
        assert_eq!(small.graph, by_widths, "{name} case {case}");
        let masked = outputs(&mask(model, &groups, &selection).unwrap(), &input, side);
        for (output, (a, b)) in masked.iter().zip(outputs(&small, &input, side)).enumerate() {
            let scale = a.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * scale, "{name} case {case} output {output}: {worst} of {scale}");
        }
    }
}

#[test]
fn masked_equals_cut_on_random_weights() {
    let deep = Scale { depth: 1.0, width: 0.25, max_channels: 512, c3k_everywhere: true };
    let two_heads = Scale { depth: 0.5, width: 0.25, max_channels: 1024, c3k_everywhere: false };
    holds("deep-narrow", &random_model(detect(deep, 3).unwrap(), 1), 100, 64);
    holds("two heads", &random_model(detect(two_heads, 4).unwrap(), 2), 100, 64);
}

#[test]
fn masked_equals_cut_on_yolo11n() {
    let Some(path) = support::data("models/yolo11n-coco.safetensors") else { return };
    holds("yolo11n-coco", &import::load(&path).unwrap(), 400, 64);
}

#[test]
fn masked_equals_cut_on_the_deep_narrow_model() {
    let Some(path) = support::data("golden/deep-narrow/deep-narrow-l-w025-nc3.safetensors") else { return };
    holds("deep-narrow golden", &import::load(&path).unwrap(), 400, 64);
}

#[test]
fn masked_equals_cut_on_the_demo_model() {
    let model = from_bytes(Path::new("demo.safetensors"), DEMO_MODEL).unwrap();
    holds("demo", &model, 300, 64);
}

#[test]
fn impossible_cuts_are_errors() {
    let model = random_model(detect(Scale::of('n').unwrap(), 2).unwrap(), 3);
    let groups = groups(&model.graph);
    let all = Selection::all(&groups);
    let heads = groups.groups.iter().position(|g| g.heads == 2).unwrap();
    let with = |group: usize, keep: Vec<usize>| {
        let mut selection = all.clone();
        selection.0[group] = keep;
        cut(&model, &groups, &selection).unwrap_err()
    };
    assert!(matches!(with(0, vec![]), SurgeryError::Empty { least: 1, .. }));
    assert!(matches!(with(heads, vec![3]), SurgeryError::Empty { least: 2, .. }));
    assert!(matches!(with(heads, vec![0, 1, 40]), SurgeryError::Heads { .. }));
    assert!(matches!(with(0, vec![2, 1]), SurgeryError::Positions { position: 1, .. }));
    assert!(matches!(with(0, vec![0, 16]), SurgeryError::Positions { position: 16, .. }));
    assert!(matches!(cut(&model, &groups, &Selection(vec![])), Err(SurgeryError::GroupCount { found: 0, .. })));
    let mut odd = all.widths();
    odd[heads] -= 1;
    assert!(matches!(cut_graph(&model.graph, &groups, &odd), Err(SurgeryError::Heads { .. })));
}
