//! What ranks with a GPU each exchange within a step, and between which launches: moments and sums of normalisations
//! that have the statistics of the batches of all ranks, and gradients.
//!
//! Gradients are added in buckets, runs of their memory, each as soon as the backward pass has written it, in the
//! side stream beside what that pass still computes (Li et al., "PyTorch Distributed: Experiences on Accelerating
//! Data Parallel Training", 2020). The pass writes the last kernels first, so buckets are cut from the run of all
//! kernels; scales, shifts and biases, which are few, belong to the bucket that is complete last. Buckets, and the
//! order of all exchanges, follow from the graph and what is trained of it alone, so that all ranks start the same in
//! the same order.

use super::layout::{Layout, Part};
use crate::kernels::cuda::nccl::{Communicator, NcclError};
use crate::kernels::cuda::{Device, Launch, Stream};
use crate::ranks::{Gpus, RankError};

/// Buckets of a step.
const BUCKETS: usize = 8;

/// Values that the length of a bucket is a multiple of: 256 bytes.
const STEP: usize = 64;

/// Something that all ranks start before a launch. Positions count values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Exchange {
    /// Brings `len` values of every rank, from `from` on, together at `to`.
    Gather { from: usize, to: usize, len: usize },
    /// Adds these runs over all ranks, beside the launches behind it.
    Sum(Vec<(usize, usize)>),
    /// Takes this run over from rank 0, beside the launches behind it.
    Broadcast((usize, usize)),
}

/// Exchanges, each with the number of the launch before which it happens, in their order.
pub(super) type Exchanges = Vec<(usize, Exchange)>;

impl Exchange {
    fn start(&self, device: &Device, communicator: &Communicator) -> Result<(), NcclError> {
        match self {
            Self::Gather { from, to, len } => communicator.gather(device, [*from, *to], *len),
            Self::Sum(runs) => {
                device.order(Stream::Main, Stream::Side)?;
                communicator.sum(device, Stream::Side, runs)
            }
            Self::Broadcast(run) => {
                device.order(Stream::Main, Stream::Side)?;
                communicator.broadcast(device, Stream::Side, *run)
            }
        }
    }
}

/// The sums of all gradients, which begin at byte `gradients`, by the launches of the backward pass.
pub(super) fn buckets(layout: &Layout, gradients: usize, backward: &[Launch]) -> Exchanges {
    // The launch behind the last that writes to a run.
    let complete = |(at, len): (usize, usize)| {
        let first = gradients + 4 * at;
        backward.iter().rposition(|launch| launch.writes_to(first..first + 4 * len)).map_or(0, |last| last + 1)
    };
    let kernels = layout.part(Part::Kernels).1;
    let len = kernels.div_ceil(BUCKETS).next_multiple_of(STEP).max(1);
    let runs = (0..kernels).step_by(len).map(|at| (at, len.min(kernels - at)));
    let mut buckets: Vec<(usize, Vec<(usize, usize)>)> = runs.map(|run| (complete(run), vec![run])).collect();
    buckets.sort_by_key(|(before, _)| *before);
    let others = (kernels, layout.trained() - kernels);
    if others.1 > 0 {
        match buckets.last_mut() {
            Some((before, runs)) => {
                *before = complete(others).max(*before);
                runs.push(others);
            }
            None => buckets.push((complete(others), vec![others])),
        }
    }
    let value = |(at, len): (usize, usize)| (gradients / 4 + at, len);
    buckets.into_iter().map(|(before, runs)| (before, Exchange::Sum(runs.into_iter().map(value).collect()))).collect()
}

/// The launches before which a frame of so many is cut.
pub(super) fn cuts(exchanges: &Exchanges, launches: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = exchanges.iter().map(|(before, _)| *before).collect();
    cuts.retain(|before| (1..launches).contains(before));
    cuts.dedup();
    cuts
}

/// Runs a frame of a device with all that ranks exchange in it.
///
/// # Errors
/// If a rank cannot be reached, or the device fails.
pub(super) fn run(device: &mut Device, frame: usize, gpus: &Gpus, exchanges: &Exchanges) -> Result<(), RankError> {
    let between = |device: &Device, launch: usize| {
        let mut now = exchanges.iter().filter(|(before, _)| *before == launch);
        now.try_for_each(|(_, exchange)| exchange.start(device, gpus.communicator()))
    };
    let wait = |device: &Device, started: Result<(), RankError>| {
        // What comes next in the main stream needs what went through the side stream.
        let started = started.and_then(|()| Ok(device.order(Stream::Side, Stream::Main)?));
        gpus.finish(device, started)
    };
    device.run_parts(frame, |device, launch| Ok(between(device, launch)?), wait)
}

#[cfg(test)]
mod tests {
    use super::super::backward::Reach;
    use super::super::program::{Phase, Places, Recipe};
    use super::*;
    use crate::kernels::cuda::training::{StepRule, Tensors};
    use crate::zoo::yolo11::{Scale, detect};
    use std::collections::BTreeSet;

    /// Whatever images a rank has: NCCL wants the same order on all.
    #[test]
    fn buckets_have_every_gradient_once_when_it_is_complete_and_in_the_same_order_for_any_batch() {
        let graph = detect(Scale::of('n').unwrap(), 3).unwrap();
        let reach = Reach::of(&graph, &BTreeSet::new());
        let layout = Layout::new(&graph, &|node, _| reach.reached[node] && reach.needed[node], true);
        let (places, none) = (Places::new(&layout, 1, false, None, 0), BTreeSet::new());
        let order = |ranks: usize, normalised: usize, images: usize| {
            let recipe = Recipe {
                graph: &graph,
                reach: &reach,
                teacher: None,
                size: (64, 64),
                layout: &layout,
                teacher_layout: None,
                places,
                tensors: Tensors { f16: false },
                rule: StepRule::Sgd { momentum: 0.9, nesterov: true },
                weight_decay: 0.0,
                sparsity: 0.1,
                ranks,
                normalised,
                rounded: &none,
                loss: None,
            };
            let [forward, backward, update] = recipe.program(images, Phase::Plain).unwrap().passes;
            assert!(update.exchanges.is_empty());
            let mut seen = vec![false; layout.trained()];
            for (before, exchange) in &backward.exchanges {
                let Exchange::Sum(runs) = exchange else { continue };
                for (at, len) in runs {
                    let first = at - places.gradients / 4;
                    assert!(!seen[first..first + len].contains(&true), "{runs:?} twice");
                    seen[first..first + len].fill(true);
                    let later = &backward.launches[*before..];
                    assert!(!later.iter().any(|launch| launch.writes_to(4 * at..4 * (at + len))), "{runs:?} too early");
                }
            }
            assert!(ranks == 1 || !seen.contains(&false));
            let places = |exchange: &Exchange| match exchange {
                Exchange::Gather { len, .. } => Exchange::Gather { from: 0, to: 0, len: *len },
                other => other.clone(),
            };
            let all = [forward, backward].map(|pass| pass.exchanges.iter().map(|(_, e)| places(e)).collect::<Vec<_>>());
            all.concat()
        };
        assert!(order(1, 1, 2).is_empty());
        let apart = order(4, 1, 2);
        assert!(apart.len() == BUCKETS + 1 && matches!(apart.last(), Some(Exchange::Broadcast(_))), "{apart:?}");
        let joined = order(4, 4, 2);
        let norms = graph.convs().filter(|(_, conv)| conv.norm.is_some()).count();
        assert_eq!(joined.len(), BUCKETS + 2 * norms);
        for images in [1, 3, 16] {
            assert!(order(4, 4, images) == joined && order(4, 1, images) == apart, "{images} images");
        }
    }
}
