//! The search on the groups of YOLO11 n to x, eight widths each.
#![allow(missing_docs)]

#[path = "../tests/it/network.rs"]
mod network;

use criterion::{Criterion, criterion_group, criterion_main};
use secateurs::search::{Options, SearchBudget, evaluate, solve};
use secateurs::zoo::yolo11::{Scale, detect};

fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    group.sample_size(10);
    for letter in ['n', 's', 'm', 'l', 'x'] {
        let Some(graph) = Scale::of(letter).and_then(|scale| detect(scale, 80).ok()) else { continue };
        let mut problem = network::network(&graph, 7);
        let baseline: Vec<usize> = problem.variables.iter().map(|v| v.widths.len() - 1).collect();
        let baseline = evaluate(&problem, &baseline);
        for (name, latency, memory) in
            [("latency", Some(0.8), None), ("memory", None, Some(0.7)), ("both", Some(0.7), Some(0.7))]
        {
            let latency_ms = latency.map(|share: f64| share * baseline.latency_ms);
            let memory_bytes = memory.map(|share: f64| share * baseline.memory_bytes);
            problem.budget = SearchBudget { latency_ms, memory_bytes };
            group.bench_function(format!("{letter}/{name}"), |bench| {
                bench.iter(|| solve(&problem, &Options::default(), &mut |_| {}));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
