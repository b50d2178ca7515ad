//! Repair and ranking on networks whose right answer is known: channels that are copies of others can go without loss.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::engine::{Device, Engine, Options};
use secateurs::graph::{Activation, Builder, Conv, Head, Norm, Op};
use secateurs::group::{Groups, groups};
use secateurs::importance::{
    Batches, Criterion, MaskGradients, Ranking, Sampling, Statistics, activations, covariances, mask_gradients,
    measure, rank, scores,
};
use secateurs::model::{Info, Model, Tensor, Weights};
use secateurs::ranks::Ranks;
use secateurs::repair::{Calibration, Method, repair};
use secateurs::surgery::{Selection, cut};

const SIDE: usize = 24;

/// Image -> 8 channels, the last 4 copies of the first 4 -> depthwise -> 6 outputs.
fn twins() -> Model {
    let conv = |name: &str, c_in: usize, c_out: usize, groups: usize| {
        Op::Conv(Conv {
            weight: format!("{name}.weight"),
            bias: None,
            norm: Some(Norm { prefix: format!("{name}.bn"), eps: 1e-3 }),
            c_in,
            c_out,
            kernel: 3,
            stride: 1,
            padding: 1,
            groups,
            act: if name == "c" { Activation::Identity } else { Activation::Silu },
        })
    };
    let mut graph = Builder::default();
    let input = graph.push("image", Op::Input { channels: 3 }, &[]);
    let a = graph.push("a", conv("a", 3, 8, 1), &[input]);
    let b = graph.push("b", conv("b", 8, 8, 8), &[a]);
    let c = graph.push("c", conv("c", 8, 6, 1), &[b]);
    let graph = graph.finish(vec![c], Head::Classify { nc: 6 }).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let mut weights = Weights::new();
    for param in graph.params() {
        let value = |rng: &mut StdRng| match &param.key {
            key if key.ends_with("bn.weight") || key.ends_with("var") => rng.random_range(0.6..1.4f32),
            _ => rng.random_range(-0.7..0.7f32),
        };
        let mut data: Vec<f32> = (0..param.shape.iter().product()).map(|_| value(&mut rng)).collect();
        if !param.key.starts_with('c') {
            let half = data.len() / 2;
            data.copy_within(..half, half);
        }
        weights.insert(param.key, Tensor::new(param.shape, data));
    }
    Model::new(graph, weights, Info::default()).unwrap()
}

fn images(n: usize) -> Vec<Vec<f32>> {
    let mut rng = StdRng::seed_from_u64(5);
    (0..n).map(|_| (0..3 * SIDE * SIDE).map(|_| rng.random_range(0.0..1.0)).collect()).collect()
}

fn calibration(images: &[Vec<f32>]) -> Calibration<'_> {
    Calibration {
        images,
        height: SIDE,
        width: SIDE,
        ridge: 1e-3,
        seed: 0,
        sensitivity: None,
        ranks: Ranks::default(),
        device: Device::Cpu,
    }
}

/// Largest difference of the outputs, relative to the largest output.
fn difference(a: &Model, b: &Model, input: &[f32]) -> f32 {
    let run = |model: &Model| {
        let mut engine = Engine::new(model, SIDE, SIDE, &Options { threads: 1, ..Options::default() }).unwrap();
        engine.run(input).unwrap();
        engine.output(0).to_vec()
    };
    let (a, b) = (run(a), run(b));
    let scale = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / scale
}

fn without_copies(model: &Model) -> (Groups, Selection, Model) {
    let groups = groups(&model.graph);
    let selection = Selection(vec![vec![0, 1, 2, 3]]);
    let smaller = cut(model, &groups, &selection).unwrap();
    (groups, selection, smaller)
}

#[test]
fn least_squares_makes_up_for_channels_that_were_copies() {
    let model = twins();
    let (groups, selection, smaller) = without_copies(&model);
    let images = images(9);
    let (seen, unseen) = images.split_at(8);
    let mended =
        |method| repair(&model, &groups, &selection, &smaller, method, &calibration(seen), &mut |_, _| {}).unwrap();
    let [raw, norm, least] =
        [Method::None, Method::BatchNorm, Method::LeastSquares].map(|m| difference(&model, &mended(m), &unseen[0]));
    assert!(raw > 0.1, "the cut must hurt for this test to mean anything: {raw}");
    assert!(least < 0.02, "least squares left {least} of {raw}");
    assert!(least < norm, "least squares {least}, batch norm {norm}");
}

#[test]
fn channels_that_go_are_merged_into_their_copies_without_images() {
    let model = twins();
    let (groups, selection, smaller) = without_copies(&model);
    let merged = repair(&model, &groups, &selection, &smaller, Method::Merge, &calibration(&[]), &mut |_, _| {});
    let left = difference(&model, &merged.unwrap(), &images(1)[0]);
    assert!(left < 1e-4, "merging left {left}");
    // Nothing is passed on where nothing is similar.
    let keep = Selection(vec![vec![0, 1, 4, 5]]);
    let smaller = cut(&model, &groups, &keep).unwrap();
    let merged = repair(&model, &groups, &keep, &smaller, Method::Merge, &calibration(&[]), &mut |_, _| {}).unwrap();
    assert!(difference(&model, &merged, &images(1)[0]) > 1e-3);
}

#[test]
fn least_squares_leaves_an_uncut_model_as_it_is() {
    let model = twins();
    let groups = groups(&model.graph);
    let images = images(4);
    let all = Selection::all(&groups);
    let same =
        repair(&model, &groups, &all, &model, Method::LeastSquares, &calibration(&images), &mut |_, _| {}).unwrap();
    assert!(difference(&model, &same, &images[0]) < 1e-3);
}

#[test]
fn batch_norm_re_estimation_finds_the_statistics_of_the_data() {
    let model = twins();
    let groups = groups(&model.graph);
    let images = images(16);
    let mut wrong = model.clone();
    wrong.weights.insert("a.bn.running_var".into(), Tensor::filled(vec![8], 40.0));
    let all = Selection::all(&groups);
    let once =
        |m: &Model| repair(m, &groups, &all, m, Method::BatchNorm, &calibration(&images), &mut |_, _| {}).unwrap();
    let (right, mended) = (once(&model), once(&wrong));
    // Whatever the statistics were before, the data decides.
    assert!(difference(&right, &mended, &images[0]) < 1e-3);
}

#[test]
fn copies_go_first_and_cost_nothing() {
    let model = twins();
    let groups = groups(&model.graph);
    let images = images(8);
    let calibration = calibration(&images);
    let covariances = covariances(&model, &calibration).unwrap();
    let statistics = Statistics { covariances: Some((covariances, calibration.ridge)), ..Statistics::default() };
    let ranking = rank(Criterion::Reconstruction, &model, &groups, &statistics).unwrap();
    // The first four to go are one of each pair.
    let mut first: Vec<usize> = ranking.0[0][..4].iter().map(|c| c % 4).collect();
    first.sort_unstable();
    assert_eq!(first, [0, 1, 2, 3]);
    let (covariances, _) = statistics.covariances.unwrap();
    let sampling = Sampling { shares: vec![0.75, 0.5, 0.25], grid: 1, images: 4, device: Device::Cpu };
    let loss = |ranking: &Ranking| {
        measure(&model, &groups, ranking, &covariances, &calibration, &sampling, &mut |_, _| {}).unwrap().0.remove(0)
    };
    let good = loss(&ranking);
    // Copies first: half of the channels go for almost nothing, the fifth and sixth cost.
    assert!(good[&4] < 0.05 * good[&2], "{good:?}");
    let bad = loss(&Ranking(vec![vec![0, 4, 1, 5, 2, 6, 3, 7]]));
    assert!(bad[&4] > 10.0 * good[&4], "{bad:?} {good:?}");
}

#[test]
fn every_criterion_ranks_every_channel_once() {
    let model = twins();
    let groups: Groups = groups(&model.graph);
    let images = images(4);
    let calibration = calibration(&images);
    let covariances = covariances(&model, &calibration).unwrap();
    let activations = activations(&model, &calibration).unwrap();
    let gradients = gradients(&model, &groups, &images);
    let whole = Statistics {
        covariances: Some((covariances, calibration.ridge)),
        gradients: Some(gradients),
        activations: Some(activations),
        ..Statistics::default()
    };
    for (name, criterion) in Criterion::ALL {
        let ranking = rank(criterion, &model, &groups, &whole).unwrap();
        let mut order = ranking.0[0].clone();
        order.sort_unstable();
        assert_eq!(order, (0..8).collect::<Vec<_>>(), "{name}");
        assert_eq!(Criterion::from_name(name), Some(criterion));
    }
}

/// Of the sum of the outputs.
fn gradients(model: &Model, groups: &Groups, images: &[Vec<f32>]) -> MaskGradients {
    let mut ones = |_: usize, outputs: &[candle_core::Tensor]| outputs.iter().map(|o| o.ones_like()).collect();
    let images = Batches { images, height: SIDE, width: SIDE, batch: 2, ranks: Ranks::default() };
    mask_gradients(model, groups, &images, &mut ones, &mut |_, _| {}).unwrap()
}

#[test]
fn no_criterion_stands_in_for_another() {
    let model = twins();
    let groups = groups(&model.graph);
    for (criterion, what) in [
        (Criterion::Reconstruction, Some("second moments")),
        (Criterion::Fisher, Some("gradients")),
        (Criterion::Taylor, Some("gradients")),
        (Criterion::Activation, Some("activations")),
        (Criterion::L1, None),
        (Criterion::L2, None),
        (Criterion::BnScale, None),
        (Criterion::Fpgm, None),
        (Criterion::Lamp, None),
        (Criterion::Random, None),
    ] {
        let ranked = rank(criterion, &model, &groups, &Statistics::default()).map(drop).map_err(|e| e.to_string());
        let scored = scores(criterion, &model, &groups, &Statistics::default()).map(drop).map_err(|e| e.to_string());
        assert_eq!(ranked, scored);
        match (ranked, what) {
            (Ok(()), None) => {}
            (Err(text), Some(what)) => {
                assert!(text.contains(what) && text.contains(criterion.name()), "{text}");
            }
            (found, _) => panic!("{criterion:?}: {found:?}"),
        }
    }
    // Scores by reconstruction agree with its order, and are not those of the normalisation.
    let images = images(8);
    let calibration = calibration(&images);
    let covariances = covariances(&model, &calibration).unwrap();
    let statistics = Statistics { covariances: Some((covariances, calibration.ridge)), ..Statistics::default() };
    let order = rank(Criterion::Reconstruction, &model, &groups, &statistics).unwrap().0.remove(0);
    let found = scores(Criterion::Reconstruction, &model, &groups, &statistics).unwrap().remove(0);
    assert!(order.is_sorted_by(|a, b| found[*a] <= found[*b]), "{order:?} {found:?}");
    assert!(found[order[3]] < 0.05 * found[order[4]], "copies cost next to nothing: {found:?}");
    let scales = scores(Criterion::BnScale, &model, &groups, &Statistics::default()).unwrap().remove(0);
    assert_ne!(found, scales);
}
