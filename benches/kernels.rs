//! Kernels on the shapes of YOLO11n at 320, and on the odd widths that pruning leaves.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secateurs::graph::{Activation, Attention};
use secateurs::kernels::{self, Algorithm, Buffer, ConvSpec, Isa, Kernels, View};
use std::hint::black_box;

/// c_in, c_out, kernel, stride, side of the input.
const DENSE: [(usize, usize, usize, usize, usize); 12] = [
    (3, 16, 3, 2, 320),
    (16, 32, 3, 2, 160),
    (16, 8, 3, 1, 80),
    (48, 64, 1, 1, 80),
    (64, 64, 3, 1, 40),
    (64, 64, 3, 2, 80),
    (63, 61, 3, 1, 40),
    (49, 57, 1, 1, 40),
    (80, 80, 1, 1, 40),
    (256, 64, 1, 1, 40),
    (128, 256, 3, 2, 20),
    (512, 256, 1, 1, 10),
];

fn conv(c: &mut Criterion, name: &str, cases: &[(usize, usize, usize, usize, usize)], depthwise: bool) {
    let mut group = c.benchmark_group(name);
    for (c_in, c_out, kernel, stride, side) in cases.iter().copied() {
        let padding = kernel / 2;
        let out = (side + 2 * padding - kernel) / stride + 1;
        let algorithm = Algorithm::choose(kernel, stride, out, out);
        let spec = ConvSpec { c_in, c_out, kernel, stride, padding, act: Activation::Silu, algorithm, planar: false };
        let src = View::dense(0, c_in, side, side);
        let dst = View::dense(c_in * side * side, c_out, out, out);
        let mut buffer = Buffer::zeroed(dst.offset + c_out * out * out).expect("memory");
        let per_group = if depthwise { 1 } else { c_in };
        let (weights, bias) = (vec![0.01; c_out * per_group * kernel * kernel], vec![0.1; c_out]);
        let isa = Isa::detect();
        let run = if depthwise { kernels::depthwise } else { kernels::conv };
        let len = match depthwise {
            true => kernels::packed_depthwise_len(&spec),
            false => kernels::packed_conv_len(isa, &spec),
        };
        let mut packed = Buffer::zeroed(len).expect("memory");
        match depthwise {
            true => kernels::pack_depthwise(&spec, &weights, &bias, packed.as_mut_slice()),
            false => kernels::pack_conv(isa, &spec, &weights, &bias, packed.as_mut_slice()),
        }
        let (space, zeros) = (kernels::conv_scratch(isa, &spec), kernels::conv_zeros(&spec));
        let mut shared = Kernels::new(isa, 1, space, zeros).expect("memory");
        group.throughput(Throughput::Elements((2 * weights.len() * out * out) as u64));
        let id = format!("{c_in}-{c_out}-k{kernel}-s{stride}-{side}");
        group.bench_function(BenchmarkId::from_parameter(id), |b| {
            b.iter(|| run(&mut shared, black_box(&mut buffer), &spec, packed.as_slice(), src, dst, None));
        });
    }
    group.finish();
}

fn dense(c: &mut Criterion) {
    conv(c, "dense", &DENSE, false);
}

fn depthwise(c: &mut Criterion) {
    conv(c, "depthwise", &[(64, 64, 3, 1, 40), (80, 80, 3, 1, 40), (77, 77, 3, 1, 40), (128, 128, 3, 2, 20)], true);
}

fn attention(c: &mut Criterion) {
    let a = Attention { heads: 2, key_dim: 32, head_dim: 64, scale: 0.17 };
    for side in [10usize, 20] {
        let isa = Isa::detect();
        let (shared_len, space) = kernels::attention_scratch(isa, &a, side * side);
        let src = View::dense(0, a.heads * a.packed(), side, side);
        let dst = View::dense(src.c * side * side, a.heads * a.head_dim, side, side);
        let shared = View::dense(dst.offset + dst.c * side * side, shared_len, 1, 1);
        let mut buffer = Buffer::zeroed(shared.offset + shared_len).expect("memory");
        let mut threads = Kernels::new(isa, 1, space, 0).expect("memory");
        c.bench_function(&format!("attention/{side}"), |b| {
            b.iter(|| kernels::attention(&mut threads, black_box(&mut buffer), &a, src, dst, shared));
        });
    }
}

criterion_group!(benches, dense, depthwise, attention);
criterion_main!(benches);
