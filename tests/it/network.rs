//! A search problem with the groups of a real network and made-up costs; tests and benches use it.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::engine::Device;
use secateurs::graph::Graph;
use secateurs::group::{GroupId, groups};
use secateurs::memory::{self, Deployed};
use secateurs::search::{Factor, MemoryTerm, Problem, SearchBudget, Variable};

/// A figure of a layer, from the width of every group.
type Value<'a> = dyn FnMut(&dyn Fn(GroupId) -> usize) -> f64 + 'a;

/// A network's groups with eight levels each, latency with a staircase and per-call cost, losses that fall with the
/// width, each group with its own weight.
pub fn network(graph: &Graph, seed: u64) -> Problem {
    let groups = groups(graph);
    let mut random = StdRng::seed_from_u64(seed);
    let levels = |full: usize| -> Vec<usize> {
        let mut all: Vec<usize> = (1..=8).map(|k| (full * k).div_ceil(8)).collect();
        all.dedup();
        all
    };
    let variables: Vec<Variable> = groups
        .groups
        .iter()
        .map(|group| {
            let weight: f64 = random.random_range(0.2..3.0);
            let power: f64 = random.random_range(1.2..2.5);
            let full = group.width() as f64;
            let widths = levels(group.width());
            let mut noise = || random.random_range(0.9..1.1f64);
            let loss = |w: &usize| weight * (1.0 - *w as f64 / full).powf(power) * noise();
            Variable { name: group.name.clone(), loss: widths.iter().map(loss).collect(), widths }
        })
        .collect();
    let shapes = graph.shapes(320, 320).unwrap();
    let tabulate = |scope: &[GroupId], value: &mut Value| {
        let scope: Vec<usize> = scope.iter().map(|g| g.index()).collect();
        let sizes: Vec<usize> = scope.iter().map(|v| variables[*v].widths.len()).collect();
        let table = (0..sizes.iter().product()).map(|mut entry: usize| {
            let mut widths = vec![0; scope.len()];
            for slot in (0..scope.len()).rev() {
                widths[slot] = variables[scope[slot]].widths[entry % sizes[slot]];
                entry /= sizes[slot];
            }
            value(&|g| scope.iter().position(|v| *v == g.index()).map_or(0, |slot| widths[slot]))
        });
        let table = table.collect();
        Factor { scope, table }
    };
    let deployed = Deployed { graph, size: (320, 320), device: Device::Cpu };
    let kernels = memory::kernels(&deployed, &groups).unwrap();
    let factors = kernels.iter().map(|kernel| {
        let area = shapes[kernel.node.index()].area() as f64;
        let mut noise = StdRng::seed_from_u64(seed ^ kernel.node.index() as u64);
        tabulate(&kernel.scope, &mut |width| {
            let staircase = |g: GroupId| width(g).next_multiple_of(16);
            (2e-3 + 1e-8 * area * kernel.bytes(staircase)) * noise.random_range(0.9..1.1)
        })
    });
    let factors = factors.collect();
    let weight_factors = kernels.iter().map(|k| tabulate(&k.scope, &mut |width| k.bytes(width))).collect();
    let live = memory::live_sets(&deployed, &groups).unwrap().into_iter();
    let memory = live.map(|set| MemoryTerm {
        constant: set.constant,
        terms: set.per_channel.into_iter().map(|(g, bytes)| (g.index(), bytes)).collect(),
    });
    let memory = memory.collect();
    Problem { factors, weight_factors, memory, variables, budget: SearchBudget::default() }
}
