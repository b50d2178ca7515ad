//! Second moments on the emulated device against sums in f64 over the same images.

use super::graphs::Numbers;
use crate::graph::{Activation, Conv, Dtype, Graph, Head, Node, NodeId, Norm, Op};
use crate::kernels::cuda::emulated;
use crate::model::{Info, Model, Tensor};
use crate::training::{LaneSums, LayerWalk, Regression, Sample, TrainingError};
use std::collections::BTreeMap;
use std::ops::Range;

/// A network of one convolution, which normalises what it finds, and its images.
struct Case {
    model: Model,
    conv: Conv,
    size: [usize; 2],
    out: [usize; 2],
    images: Vec<Vec<f32>>,
    numbers: Numbers,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut n = Numbers::new(seed);
        let (kernel, stride, depthwise) = (n.within(1, 5), n.within(1, 3), seed.is_multiple_of(3));
        let (c_in, padding) = (n.within(1, if depthwise { 40 } else { 12 }), n.within(0, kernel / 2));
        let c_out = if depthwise { c_in } else { n.within(1, 90) };
        let size = [n.within(5, 12), n.within(5, 12)];
        let conv = Conv {
            weight: "w".into(),
            bias: Some("b".into()),
            norm: seed.is_multiple_of(2).then(|| Norm { prefix: "bn".into(), eps: 1e-3 }),
            c_in,
            c_out,
            kernel,
            stride,
            padding,
            groups: if depthwise { c_in } else { 1 },
            act: [Activation::Silu, Activation::Identity][n.within(0, 1)],
        };
        let node = |name: &str, op, inputs| Node { name: name.into(), op, inputs };
        let graph = Graph {
            nodes: vec![
                node("image", Op::Input { channels: c_in }, vec![]),
                node("conv", Op::Conv(conv.clone()), vec![NodeId(0)]),
            ],
            outputs: vec![NodeId(1)],
            head: Head::Classify { nc: c_out },
            dtype: Dtype::F32,
            exceptions: BTreeMap::new(),
        };
        let weights = graph.params().into_iter().map(|param| {
            let is_variance = param.key.ends_with("var");
            let values = n.values(param.shape.iter().product()).into_iter();
            let values = values.map(|v| if is_variance { 1.5 + v } else { v });
            (param.key, Tensor::new(param.shape, values.collect()))
        });
        let model = Model { weights: weights.collect(), graph, info: Info::default() };
        let images = (0..n.within(1, 3)).map(|_| n.values(c_in * size[0] * size[1])).collect();
        let out = size.map(|side| (side + 2 * padding - kernel) / stride + 1);
        Self { model, conv, size, out, images, numbers: n }
    }

    fn lanes(&self) -> usize {
        if self.conv.is_depthwise() { self.conv.c_in } else { 1 }
    }

    fn samples(&mut self, count: usize) -> Vec<Sample> {
        let [h, w] = self.out;
        let last = self.images.len() - 1;
        let n = &mut self.numbers;
        let sample = |n: &mut Numbers| Sample {
            image: n.within(0, last),
            y: n.within(0, h - 1),
            x: n.within(0, w - 1),
            root: n.within(1, 9) as f32 / 4.0,
        };
        (0..count).map(|_| sample(n)).collect()
    }

    /// What a convolution that reads some channels has under its window.
    fn window(&self, channels: Range<usize>, at: &Sample) -> Vec<f64> {
        let Conv { kernel, stride, padding, .. } = self.conv;
        let [h, w] = self.size;
        let value = |channel: usize, tap: usize| {
            let (y, x) = (at.y * stride + tap / kernel, at.x * stride + tap % kernel);
            let inside = (padding..h + padding).contains(&y) && (padding..w + padding).contains(&x);
            let place = || (channel * h + y - padding) * w + x - padding;
            if inside { f64::from(self.images[at.image][place()]) } else { 0.0 }
        };
        let taps = 0..kernel * kernel;
        channels.flat_map(|channel| taps.clone().map(move |tap| (channel, tap))).map(|(c, tap)| value(c, tap)).collect()
    }

    /// What the convolution of a channel of the output reads.
    fn read(&self, channel: usize) -> Range<usize> {
        if self.conv.is_depthwise() { channel..channel + 1 } else { 0..self.conv.c_in }
    }

    /// The inputs of a lane, and outputs that are the channels `of`.
    fn columns(&self, lane: usize, of: &[usize], at: &Sample) -> Vec<f64> {
        let (weight, bias) = (self.model.tensor("w").data(), self.model.tensor("b").data());
        let found = |channel: &usize| {
            let inputs = self.window(self.read(*channel), at);
            let kernel = &weight[channel * inputs.len()..][..inputs.len()];
            f64::from(bias[*channel]) + kernel.iter().zip(&inputs).map(|(w, x)| f64::from(*w) * x).sum::<f64>()
        };
        [self.window(self.read(lane), at), of.iter().map(found).collect()].concat()
    }

    fn walk(&self) -> Option<LayerWalk> {
        let graphs = [&self.model.graph, &self.model.graph];
        let [h, w] = self.size;
        let mut walk = LayerWalk::new(emulated::device()?, &graphs, (h, w), &self.images).unwrap();
        (0..2).for_each(|id| walk.step(0, &self.model, NodeId(id)).unwrap());
        Some(walk)
    }
}

/// Fails where sums are not those of f64 within a share of what is added up.
fn check(what: &str, case: &Case, (of, pivots): (&[usize], &[f32]), samples: &[Sample], found: &[LaneSums]) {
    let (lanes, each) = (case.lanes(), of.len() / case.lanes());
    assert_eq!(found.len(), lanes);
    for (lane, found) in found.iter().enumerate() {
        let own = &of[lane * each..(lane + 1) * each];
        let width = pivots.len() / lanes;
        let pivots = &pivots[lane * width..(lane + 1) * width];
        let (mut sums, mut sizes) = (vec![0.0; width], vec![0.0; width]);
        let mut products = vec![0.0; (width - each) * width];
        for sample in samples {
            let root = f64::from(sample.root);
            let columns = case.columns(lane, own, sample).into_iter().zip(pivots);
            let columns: Vec<f64> = columns.map(|(v, pivot)| (v - f64::from(*pivot)) * root).collect();
            sums.iter_mut().zip(&columns).for_each(|(sum, v)| *sum += v * root);
            sizes.iter_mut().zip(&columns).for_each(|(size, v)| *size += v * v);
            for (row, products) in columns.iter().zip(products.chunks_mut(width)) {
                products.iter_mut().zip(&columns).for_each(|(sum, v)| *sum += row * v);
            }
        }
        let count: f64 = samples.iter().map(|sample| f64::from(sample.root).powi(2)).sum();
        for (column, wanted) in sums.iter().enumerate() {
            let off = (found.sums[column] - wanted).abs();
            assert!(
                off <= 1e-6 * (sizes[column] * count).sqrt() + 1e-30,
                "{what}, lane {lane}, sum {column}: off by {off}"
            );
        }
        for (row, column) in (0..width - each).flat_map(|row| (row..width).map(move |column| (row, column))) {
            let off = (found.products[row * width + column] - products[row * width + column]).abs();
            let size = (sizes[row] * sizes[column]).sqrt();
            assert!(off <= 3e-6 * size + 1e-30, "{what}, lane {lane}, {row} x {column}: off by {off} of {size}");
        }
    }
}

#[test]
fn sums_over_samples_are_those_of_f64() {
    for seed in super::seeds(18) {
        let mut case = Case::new(seed);
        let Some(mut walk) = case.walk() else { return };
        let count = case.numbers.within(1, 1400);
        let samples = case.samples(count);
        let most = case.conv.c_out - 1;
        let outputs = if case.conv.is_depthwise() { case.lanes() } else { case.numbers.within(1, most + 1) };
        let of: Vec<usize> = match case.conv.is_depthwise() {
            true => (0..outputs).rev().collect(),
            false => (0..outputs).map(|_| case.numbers.within(0, most)).collect(),
        };
        let target = (seed % 4 < 2).then_some(((0, NodeId(1)), &of[..]));
        let of = target.map_or(&[][..], |(_, of)| of);
        let inputs = case.columns(0, &[], &samples[0]).len();
        let pivots = case.numbers.values(case.lanes() * inputs + of.len());
        let regression = Regression { reader: (1, NodeId(1)), target };
        let what = format!("seed {seed}, {count} samples of {:?}", case.conv);
        let found = walk.sums(&regression, &pivots, &samples).unwrap();
        check(&what, &case, (of, &pivots), &samples, &found);
        assert_eq!(walk.sums(&regression, &pivots, &samples).unwrap(), found, "{what}: not the same twice");
        // The samples themselves.
        let few = &samples[..count.min(20)];
        let values = walk.values(&regression, few).unwrap();
        let each = of.len() / case.lanes();
        for (lane, values) in values.chunks((inputs + each) * few.len()).enumerate() {
            for (at, sample) in few.iter().enumerate() {
                let wanted = case.columns(lane, &of[lane * each..(lane + 1) * each], sample);
                for (column, wanted) in wanted.iter().enumerate() {
                    let off = (f64::from(values[column * few.len() + at]) - wanted).abs();
                    assert!(off <= 2e-6 * wanted.abs().max(1.0), "{what}, lane {lane}, column {column}: off by {off}");
                }
            }
        }
    }
}

/// A launch takes 32,768 of them; the last one takes fewer, in other splits.
#[test]
fn more_samples_than_a_launch_takes_are_added_up_all_the_same() {
    let mut case = Case::new(7);
    let Some(mut walk) = case.walk() else { return };
    let samples = case.samples((1 << 15) + 777);
    let pivots = case.numbers.values(case.columns(0, &[], &samples[0]).len());
    let regression = Regression { reader: (1, NodeId(1)), target: None };
    let found = walk.sums(&regression, &pivots, &samples).unwrap();
    check("many", &case, (&[], &pivots), &samples, &found);
    let none = walk.sums(&regression, &pivots, &[]).unwrap();
    assert!(none[0].sums.iter().chain(&none[0].products).all(|sum| *sum == 0.0));
}

#[test]
fn what_does_not_go_together_is_told() {
    let mut case = Case::new(1);
    let Some(mut walk) = case.walk() else { return };
    let samples = case.samples(257);
    let regression = Regression { reader: (1, NodeId(1)), target: None };
    let problem = walk.values(&regression, &samples).unwrap_err().to_string();
    assert_eq!(problem, "the samples of a step have 257 values, expected at most 256");
    assert!(matches!(walk.sums(&regression, &[], &samples), Err(TrainingError::Length { what: "pivots", .. })));
    let image = Regression { reader: (0, NodeId(0)), target: None };
    let problem = walk.sums(&image, &[], &samples).unwrap_err().to_string();
    assert_eq!(problem, "node 0 of network 0 is no convolution");
    let other = Case::new(2).model;
    assert!(matches!(walk.step(1, &other, NodeId(1)), Err(TrainingError::Unfit(_))));
    let [h, w] = case.size;
    let short = [vec![0.0; 3]];
    let device = emulated::device().unwrap();
    let problem = LayerWalk::new(device, &[&case.model.graph], (h, w), &short).err().unwrap();
    assert!(matches!(problem, TrainingError::Length { what: "images", .. }));
}
