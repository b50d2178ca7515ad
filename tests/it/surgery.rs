//! The property that proves surgery: the original with the removed channels masked computes what the cut model computes.
//! Every network of the zoo is tried, at a share of its widths so that thousands of cuts take a minute.

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
use secateurs::zoo::{Task, mobilenet, resnet, vgg, yolo11, yolo12, yolo26, yolov5, yolov6, yolov8, yolov9, yolov10};
use std::path::Path;

/// A legal selection: every group keeps a random number of random channels, at least one per head; some of those that
/// may go altogether do.
fn legal(groups: &Groups, rng: &mut StdRng) -> Selection {
    let of = |group: &secateurs::group::Group| {
        if group.removable && rng.random_bool(0.1) {
            return Vec::new();
        }
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
pub fn random_model(graph: Graph, seed: u64) -> Model {
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
        if case % 10 == 0 {
            let by_widths = cut_graph(&model.graph, &groups, &selection.widths()).unwrap();
            assert_eq!(small.graph, by_widths, "{name} case {case}");
        }
        let masked = outputs(&mask(model, &groups, &selection).unwrap(), &input, side);
        for (output, (a, b)) in masked.iter().zip(outputs(&small, &input, side)).enumerate() {
            let scale = a.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * scale, "{name} case {case} output {output}: {worst} of {scale}");
        }
    }
}

/// The graph at a share of its widths.
pub fn narrow(graph: &Graph, share: f64) -> Graph {
    let groups = groups(graph);
    let width = |group: &secateurs::group::Group| {
        ((group.width() as f64 * share) as usize).max(1).next_multiple_of(group.heads)
    };
    cut_graph(graph, &groups, &groups.groups.iter().map(width).collect::<Vec<_>>()).unwrap()
}

/// Every family and task of the zoo, small: name, graph, side of the image.
pub fn zoo() -> Vec<(String, Graph, usize)> {
    let mut all = Vec::new();
    for task in Task::PUBLISHED {
        let eleven = yolo11::network(Scale::of('n').unwrap(), task, 3).unwrap();
        all.push((format!("yolo11n{}", task.suffix()), narrow(&eleven, 0.2), 32));
        let eight = yolov8::network(yolov8::Scale::of('n', task).unwrap(), task, 3).unwrap();
        all.push((format!("yolov8n{}", task.suffix()), narrow(&eight, 0.2), 32));
    }
    // The other scales differ in depth and in which blocks hold C3k.
    for letter in ['m', 'x'] {
        let graph = detect(Scale::of(letter).unwrap(), 3).unwrap();
        all.push((format!("yolo11{letter}"), narrow(&graph, 0.04), 32));
    }
    all.extend(families());
    for layers in [18, 50] {
        let graph = resnet::network(resnet::Depth::of(layers).unwrap(), 10).unwrap();
        all.push((format!("resnet{layers}"), narrow(&graph, 0.1), 32));
    }
    all.push(("vgg16".into(), narrow(&vgg::network(vgg::Depth::of(16).unwrap(), 10).unwrap(), 0.02), 224));
    for letter in ['s', 'm'] {
        let graph = mobilenet::network(mobilenet::Scale::of(letter).unwrap(), 10).unwrap();
        all.push((format!("mobilenetv4-{letter}"), narrow(&graph, 0.1), 32));
    }
    all
}

/// Cuts of a model of the zoo: of the families that are added here fewer, unless the environment asks for another number
/// of all (`SECATEURS_CUTS=1000`).
fn cases_of(name: &str) -> usize {
    let asked = std::env::var("SECATEURS_CUTS").ok().and_then(|n| n.parse().ok());
    let fewer =
        ["yolo26", "yolo12", "yolov10", "yolov9", "yolov6", "yolov5"].iter().any(|family| name.starts_with(family));
    asked.unwrap_or(if fewer { 150 } else { 1000 })
}

/// The other families of detectors, in the scales whose structures differ.
fn families() -> Vec<(String, Graph, usize)> {
    let mut all: Vec<(String, Graph, usize)> = Vec::new();
    let mut add = |name: String, graph: Graph, share: f64| all.push((name, narrow(&graph, share), 32));
    for task in Task::PUBLISHED.into_iter().filter(|task| *task != Task::Classify) {
        let graph = yolo26::network(Scale::of('n').unwrap(), task, 3).unwrap();
        add(format!("yolo26n{}", task.suffix()), graph, 0.2);
    }
    add("yolo26l".into(), yolo26::network(Scale::of('l').unwrap(), Task::Detect, 3).unwrap(), 0.04);
    for (letter, share) in [('n', 0.2), ('l', 0.04)] {
        add(format!("yolo12{letter}"), yolo12::detect(yolo12::Scale::of(letter).unwrap(), 3).unwrap(), share);
    }
    for (letter, share) in [('n', 0.2), ('x', 0.03)] {
        add(format!("yolov10{letter}"), yolov10::detect(yolov10::Scale::of(letter).unwrap(), 3).unwrap(), share);
    }
    for (letter, share) in [('t', 0.2), ('c', 0.04)] {
        add(format!("yolov9{letter}"), yolov9::detect(yolov9::Variant::of(letter).unwrap(), 3).unwrap(), share);
    }
    add("yolov9e".into(), yolov9::detect_e(3).unwrap(), 0.03);
    add("yolov5nu".into(), yolov5::detect(yolov5::scale('n').unwrap(), 3).unwrap(), 0.2);
    add("yolov6n".into(), yolov6::detect(yolov6::scale('n').unwrap(), 3).unwrap(), 0.2);
    all
}

#[test]
fn masked_equals_cut_for_every_model_of_the_zoo() {
    let all = zoo();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some((name, graph, side)) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let start = std::time::Instant::now();
            let cases = cases_of(name);
            holds(name, &random_model(graph.clone(), 5), cases, *side);
            eprintln!("{name}: {cases} cuts in {:.1} s", start.elapsed().as_secs_f64());
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn a_block_without_hidden_channels_vanishes() {
    let graph = detect(Scale::of('n').unwrap(), 3).unwrap();
    let groups = groups(&graph);
    let of = |name: &str| groups.groups.iter().position(|g| g.name == name).unwrap();
    let removed = |names: &[&str]| {
        let mut widths: Vec<usize> = groups.groups.iter().map(|g| g.width()).collect();
        names.iter().for_each(|name| widths[of(name)] = 0);
        cut_graph(&graph, &groups, &widths)
    };
    // Bottlenecks by themselves and inside C3k, a feed-forward block, a member of a join.
    let cases: &[(&str, &[&str])] = &[
        ("model.2.m.0.cv1", &["model.2.m.0.cv1", "model.2.m.0.cv2", "model.2.m.0.add"]),
        ("model.6.m.0.m.1.cv1", &["model.6.m.0.m.1.cv1", "model.6.m.0.m.1.cv2", "model.6.m.0.m.1.add"]),
        ("model.10.m.0.ffn.0", &["model.10.m.0.ffn.0", "model.10.m.0.ffn.1", "model.10.m.0.ffn.residual"]),
        ("model.6.m.0.cv2", &["model.6.m.0.cv2"]),
    ];
    for (group, gone) in cases {
        assert!(groups.groups[of(group)].removable, "{group}");
        let small = removed(&[group]).unwrap();
        assert_eq!(small.nodes.len() + gone.len(), graph.nodes.len(), "{group}");
        gone.iter().for_each(|name| assert!(small.find(name).is_none(), "{group}: {name}"));
    }
    assert!(removed(&["model.2.m.0.cv1", "model.6.m.0.m.0.cv1", "model.6.m.0.m.1.cv1"]).is_ok());
    for needed in ["model.0", "model.9.cv1", "model.16.cv2", "model.10.m.0.attn.qkv[0..32]"] {
        assert!(groups.groups.iter().filter(|g| g.name == needed).all(|g| !g.removable), "{needed}");
    }
    assert!(matches!(removed(&["model.0"]), Err(SurgeryError::Empty { least: 1, .. })));
    let count = groups.groups.iter().filter(|g| g.removable).count();
    eprintln!("{count} of {} groups of YOLO11n are removable", groups.groups.len());
    assert!(count >= 10);
}

#[test]
fn grouping_the_largest_network_is_quick() {
    let graph = detect(Scale::of('x').unwrap(), 80).unwrap();
    let quickest = (0..5).map(|_| {
        let start = std::time::Instant::now();
        std::hint::black_box(groups(&graph));
        start.elapsed()
    });
    let quickest = quickest.min().unwrap();
    eprintln!("groups of YOLO11x: {quickest:?}");
    assert!(quickest.as_millis() < 100, "{quickest:?}");
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
