//! Finding the groups of networks, and cutting their graphs.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use secateurs::graph::Graph;
use secateurs::group::groups;
use secateurs::surgery::cut_graph;
use secateurs::zoo::{mobilenet, resnet, yolo11};
use std::hint::black_box;

fn networks() -> Vec<(&'static str, Graph)> {
    let yolo = |letter| yolo11::Scale::of(letter).and_then(|scale| yolo11::detect(scale, 80).ok());
    let resnet = resnet::Depth::of(50).and_then(|depth| resnet::network(depth, 1000).ok());
    let mobilenet = mobilenet::Scale::of('l').and_then(|scale| mobilenet::network(scale, 1000).ok());
    let all = [("yolo11n", yolo('n')), ("yolo11x", yolo('x')), ("resnet50", resnet), ("mobilenetv4-l", mobilenet)];
    all.into_iter().filter_map(|(name, graph)| Some((name, graph?))).collect()
}

fn grouping(criterion: &mut Criterion) {
    for (name, graph) in networks() {
        criterion.bench_function(&format!("groups/{name}"), |bench| bench.iter(|| groups(black_box(&graph))));
        let found = groups(&graph);
        let halves: Vec<usize> = found.groups.iter().map(|g| (g.width() / 2).next_multiple_of(g.heads)).collect();
        criterion.bench_function(&format!("cut-graph/{name}"), |bench| {
            bench.iter(|| cut_graph(black_box(&graph), &found, &halves));
        });
    }
}

criterion_group!(benches, grouping);
criterion_main!(benches);
