//! Times whole frames of YOLO11n, and compiling an engine.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use secateurs::engine::{Engine, Options, plan_memory};
use secateurs::model::{Info, Model, Tensor};
use secateurs::zoo::yolo11::{Scale, detect};
use std::hint::black_box;

/// YOLO11n with weights that keep activations in a sensible range; their values do not change the time.
fn model() -> Model {
    let graph = detect(Scale::of('n').expect("a published scale"), 80).expect("a published network");
    let value = |key: &str, n: usize, i: usize| match key.rsplit('.').next() {
        Some("running_var") => 1.0,
        Some("weight") if n > 1 => ((i * 37 % 101) as f32 / 101.0 - 0.5) / (n as f32).sqrt(),
        _ => 0.1,
    };
    let tensor = |shape: &[usize], key: &str| {
        let fan_in = shape[1..].iter().product::<usize>();
        Tensor::new(shape.to_vec(), (0..shape.iter().product()).map(|i| value(key, fan_in, i)).collect())
    };
    let weights = graph.params().into_iter().map(|p| (p.key.clone(), tensor(&p.shape, &p.key))).collect();
    Model::new(graph, weights, Info::default()).expect("weights of the graph's shapes")
}

fn frames(c: &mut Criterion) {
    let model = model();
    let mut group = c.benchmark_group("frame");
    group.sample_size(30);
    for (size, threads) in [(320, 1), (320, 2), (640, 1)] {
        let options = Options { threads, ..Options::default() };
        let mut engine = Engine::new(&model, size, size, &options).expect("an engine");
        let input: Vec<f32> = (0..3 * size * size).map(|i| (i % 255) as f32 / 255.0).collect();
        group.bench_function(format!("yolo11n/{size}/{threads}"), |b| {
            b.iter(|| engine.run(black_box(&input)).expect("an input of the right size"));
        });
    }
    group.finish();
}

fn making(c: &mut Criterion) {
    let model = model();
    let options = Options::default();
    c.bench_function("plan-memory/yolo11n/320", |b| {
        b.iter(|| plan_memory(black_box(&model.graph), 320, 320, &options));
    });
    c.bench_function("new/yolo11n/320", |b| b.iter(|| Engine::new(black_box(&model), 320, 320, &options)));
}

criterion_group!(benches, frames, making);
criterion_main!(benches);
