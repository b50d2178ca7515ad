//! Times kernels on the shapes of YOLO11n at 320, and on the odd widths of pruned models.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secateurs::graph::{Activation, Attention};
use secateurs::kernels::{self, Algorithm, Buffer, ConvSpec, Image, Isa, Kernels, PackedConv, View};
use std::hint::black_box;

/// c_in, c_out, kernel, stride, side of the input.
type Case = (usize, usize, usize, usize, usize);

const DIRECT: [Case; 11] = [
    (16, 32, 3, 2, 160),
    (48, 64, 1, 1, 80),
    (64, 64, 3, 2, 80),
    (64, 64, 3, 1, 40),
    (49, 57, 1, 1, 40),
    (80, 80, 1, 1, 40),
    (256, 64, 1, 1, 40),
    (128, 128, 3, 2, 40),
    (128, 256, 3, 2, 20),
    (512, 256, 1, 1, 10),
    (64, 64, 3, 1, 10),
];

const WINOGRAD: [Case; 5] =
    [(16, 8, 3, 1, 80), (64, 64, 3, 1, 40), (63, 61, 3, 1, 40), (32, 32, 3, 1, 20), (128, 64, 3, 1, 20)];

const DEPTHWISE: [Case; 4] = [(64, 64, 3, 1, 40), (80, 80, 3, 1, 40), (77, 77, 3, 1, 40), (128, 128, 3, 2, 20)];

/// Smooth values without zeros.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect()
}

fn spec((c_in, c_out, kernel, stride, _): Case, algorithm: Algorithm, planar: bool) -> ConvSpec {
    ConvSpec { c_in, c_out, kernel, stride, padding: kernel / 2, act: Activation::Silu, algorithm, planar }
}

fn name((c_in, c_out, kernel, stride, side): Case) -> BenchmarkId {
    BenchmarkId::from_parameter(format!("{c_in}-{c_out}-k{kernel}-s{stride}-{side}"))
}

/// Source and destination in one buffer, and the buffer.
fn tensors((c_in, c_out, kernel, stride, side): Case) -> (View, View, Buffer) {
    let out = (side + 2 * (kernel / 2) - kernel) / stride + 1;
    let src = View::dense(0, c_in, side, side);
    let dst = View::dense(c_in * side * side, c_out, out, out);
    let mut buffer = Buffer::zeroed(dst.offset + c_out * out * out).expect("memory");
    buffer.as_mut_slice().copy_from_slice(&values(dst.offset + c_out * out * out));
    (src, dst, buffer)
}

/// Packed weights, and threads with what they need.
fn packed(isa: Isa, spec: &ConvSpec) -> (Buffer, Kernels) {
    let weights = values(spec.c_out * spec.c_in * spec.kernel * spec.kernel);
    let mut packed = Buffer::zeroed(kernels::packed_conv_len(isa, spec)).expect("memory");
    kernels::pack_conv(isa, spec, &weights, &values(spec.c_out), packed.as_mut_slice());
    let (space, zeros) = (kernels::conv_scratch(isa, spec), kernels::conv_zeros(spec));
    (packed, Kernels::new(isa, 1, space, zeros).expect("memory"))
}

fn flops((c_in, c_out, kernel, ..): Case, dst: View) -> Throughput {
    Throughput::Elements((2 * c_in * c_out * kernel * kernel * dst.area()) as u64)
}

fn dense(c: &mut Criterion) {
    for isa in Isa::all().filter(|isa| *isa != Isa::Portable) {
        for (algorithm, cases) in [(Algorithm::Direct, &DIRECT[..]), (Algorithm::Winograd, &WINOGRAD)] {
            let mut group = c.benchmark_group(format!("{isa:?}/{algorithm:?}"));
            for case in cases.iter().copied() {
                let spec = spec(case, algorithm, false);
                let ((src, dst, mut buffer), (packed, mut threads)) = (tensors(case), packed(isa, &spec));
                let conv = PackedConv { spec: &spec, weights: packed.as_slice() };
                group.throughput(flops(case, dst));
                group.bench_function(name(case), |b| {
                    b.iter(|| {
                        let buffer = black_box(&mut buffer);
                        kernels::conv(&mut threads, buffer, conv, src, dst, None);
                    });
                });
            }
            group.finish();
        }
    }
}

fn image(c: &mut Criterion) {
    let case = (3, 16, 3, 2, 320);
    let spec = spec(case, Algorithm::Direct, true);
    let ((_, dst, mut buffer), (packed, mut threads)) = (tensors(case), packed(Isa::detect(), &spec));
    let conv = PackedConv { spec: &spec, weights: packed.as_slice() };
    let values = values(3 * 320 * 320);
    let image = Image { values: &values, height: 320, width: 320 };
    c.bench_function("image/3-16-k3-s2-320", |b| {
        b.iter(|| {
            let buffer = black_box(&mut buffer);
            kernels::conv_image(&mut threads, buffer, conv, image, dst, None);
        });
    });
}

fn planes(c: &mut Criterion) {
    let case = (80, 80, 1, 1, 40);
    let spec = ConvSpec { act: Activation::Identity, ..spec(case, Algorithm::Direct, false) };
    let ((src, _, buffer), (packed, mut threads)) = (tensors(case), packed(Isa::detect(), &spec));
    let conv = PackedConv { spec: &spec, weights: packed.as_slice() };
    let mut tensor = vec![0.0; 80 * 40 * 40];
    c.bench_function("planes/80-80-k1-s1-40", |b| {
        b.iter(|| {
            kernels::conv_planes(&mut threads, black_box(&buffer), conv, src, &mut tensor);
        });
    });
}

fn depthwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("depthwise");
    for case in DEPTHWISE {
        let spec = spec(case, Algorithm::Direct, false);
        let (src, dst, mut buffer) = tensors(case);
        let mut packed = Buffer::zeroed(kernels::packed_depthwise_len(&spec)).expect("memory");
        kernels::pack_depthwise(&spec, &values(9 * case.1), &values(case.1), packed.as_mut_slice());
        let conv = PackedConv { spec: &spec, weights: packed.as_slice() };
        let mut threads = Kernels::new(Isa::detect(), 1, 0, 0).expect("memory");
        group.bench_function(name(case), |b| {
            b.iter(|| {
                let buffer = black_box(&mut buffer);
                kernels::depthwise(&mut threads, buffer, conv, src, dst, None);
            });
        });
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let a = Attention { heads: 2, key_dim: 32, head_dim: 64, scale: 0.17, areas: 1 };
    for side in [10usize, 20] {
        let (shared_len, space) = kernels::attention_scratch(Isa::detect(), &a, side * side);
        let src = View::dense(0, a.heads * a.packed(), side, side);
        let dst = View::dense(src.c * side * side, a.heads * a.head_dim, side, side);
        let shared = View::dense(dst.offset + dst.c * side * side, shared_len, 1, 1);
        let mut buffer = Buffer::zeroed(shared.offset + shared_len).expect("memory");
        let mut threads = Kernels::new(Isa::detect(), 1, space, 0).expect("memory");
        c.bench_function(&format!("attention/{side}"), |b| {
            b.iter(|| kernels::attention(&mut threads, black_box(&mut buffer), &a, src, dst, shared));
        });
    }
}

fn moves(c: &mut Criterion) {
    let (src, dst) = (View::dense(0, 128, 20, 20), View::dense(128 * 400, 128, 40, 40));
    let mut buffer = Buffer::zeroed(128 * 2000).expect("memory");
    let mut threads = Kernels::new(Isa::detect(), 1, 0, 0).expect("memory");
    c.bench_function("upsample/128-20", |b| {
        b.iter(|| kernels::upsample(&mut threads, black_box(&mut buffer), 2, src, dst));
    });
    let pooled = View { h: 20, w: 20, ..dst };
    c.bench_function("max-pool/128-20-k5", |b| {
        b.iter(|| kernels::max_pool(&mut threads, black_box(&mut buffer), (5, 1, 2), src, pooled));
    });
}

criterion_group!(benches, dense, image, planes, depthwise, attention, moves);
criterion_main!(benches);
