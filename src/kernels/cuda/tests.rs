//! Every kernel of `kernels.cu`, run by the emulated driver, against the kernels of the CPU, on random shapes, views and
//! neighbours: equal to the bit, on a CPU that rounds a product and its sum once.

mod cells;
mod products;

use super::super::{self as cpu, Algorithm, Buffer, ConvSpec, Image, Isa, Kernels, PackedConv, View};
use super::kernel::Kernel;
use super::{Device, Launch, Operands, TensorView, emulated, pack_conv, pack_depthwise};
use crate::graph::{Activation, Attention};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Whether a value in f32 is the CPU's; within a tolerance where the CPU has no fused multiply-add.
fn same(found: f32, wanted: f32, tolerance: f32) -> bool {
    found == wanted || !Isa::detect().fuses() && (found - wanted).abs() <= tolerance * (1.0 + wanted.abs())
}

/// Values of the memory in which tensors lie between others, which kernels must leave alone. Packed kernels and planes
/// come after it.
const LEN: usize = 1 << 16;

struct World {
    rng: StdRng,
    device: Device,
    buffer: Buffer,
    used: usize,
}

impl World {
    /// `None` where the driver cannot be built.
    fn new(seed: u64) -> Option<Self> {
        let device = emulated::device()?;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut buffer = Buffer::zeroed(LEN).unwrap();
        buffer.as_mut_slice().iter_mut().for_each(|v| *v = rng.random_range(-1.0..1.0));
        Some(Self { rng, device, buffer, used: 0 })
    }

    /// A run of channels of a tensor that is often wider.
    fn tensor(&mut self, c: usize, h: usize, w: usize) -> View {
        let (before, after) = match self.rng.random_bool(0.5) {
            true => (0, 0),
            false => (self.rng.random_range(0..9), self.rng.random_range(0..9)),
        };
        let whole = View::dense(self.used, before + c + after, h, w);
        self.used += whole.c * h * w + self.rng.random_range(0..5);
        assert!(self.used <= LEN, "{} values", self.used);
        whole.channels(before, c)
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.rng.random_range(-1.0..1.0)).collect()
    }

    /// The memory after a launch, with further values behind the buffer.
    fn launch(&mut self, launch: &Launch, further: &[f32]) -> Vec<f32> {
        let mut memory = self.buffer.as_slice().to_vec();
        memory.extend(further);
        self.device.reserve(memory.len()).unwrap();
        self.device.upload(0, &memory).unwrap();
        self.device.launch(launch).unwrap();
        self.device.wait().unwrap();
        self.device.download(0, &mut memory).unwrap();
        memory
    }

    /// Runs a launch and the same on the CPU: the same values where it changes something, and untouched elsewhere.
    fn check(
        &mut self,
        case: &str,
        tolerance: f32,
        launch: &Launch,
        further: &[f32],
        run: impl FnOnce(&mut Kernels, &mut Buffer),
    ) {
        let found = self.launch(launch, further);
        let before = self.buffer.as_slice().to_vec();
        let mut kernels = Kernels::new(Isa::detect(), 1, 1 << 16, 1 << 12).unwrap();
        run(&mut kernels, &mut self.buffer);
        for (i, ((found, wanted), before)) in found.iter().zip(self.buffer.as_slice()).zip(&before).enumerate() {
            let untouched = wanted.to_bits() == before.to_bits() && found.to_bits() == before.to_bits();
            let right = untouched || same(*found, *wanted, tolerance);
            assert!(right, "{case}: value {i} is {found}, expected {wanted}, was {before}");
        }
        self.buffer.as_mut_slice().copy_from_slice(&before);
    }
}

fn view(view: View) -> TensorView {
    TensorView::pixels(0, view)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dense,
    Depthwise,
    /// From the planes of an image.
    Image,
    /// To the planes of a tensor.
    Planes,
}

fn convolution(world: &mut World, case: &str, kind: Kind, widest: usize) {
    let rng = &mut world.rng;
    let kernel: usize = [1, 1, 2, 3, 3, 3, 5, 7][rng.random_range(0..8)];
    let (stride, padding) = (rng.random_range(1..4), rng.random_range(0..=kernel));
    let least = kernel.saturating_sub(2 * padding).max(1);
    let (h, w) = (rng.random_range(least..14), rng.random_range(least..14));
    let (c_in, c_out) = (rng.random_range(1..40), rng.random_range(1..widest));
    let deep = kind == Kind::Depthwise;
    let spec = ConvSpec {
        c_in: if deep { c_out } else { c_in },
        c_out,
        kernel,
        stride,
        padding,
        act: [Activation::Identity, Activation::Silu, Activation::Relu][rng.random_range(0..3)],
        algorithm: Algorithm::Direct,
        planar: kind == Kind::Image,
    };
    let (oh, ow) = (spec.side(h), spec.side(w));
    let with_residual = kind != Kind::Planes && rng.random_bool(0.4);
    world.used = 0;
    let (src, dst) = (world.tensor(spec.c_in, h, w), world.tensor(c_out, oh, ow));
    let residual = with_residual.then(|| world.tensor(c_out, oh, ow));
    let per_group = if deep { 1 } else { c_in };
    let (weights, bias) = (world.values(c_out * per_group * kernel * kernel), world.values(c_out));
    let case = format!("{case} {kind:?} {spec:?} on {h} x {w}, {src:?} -> {dst:?} + {residual:?}");
    let operands = Operands { packed: LEN, residual: residual.map(view) };
    if deep {
        let mut packed = vec![f32::NAN; super::packed_depthwise_len(&spec)];
        pack_depthwise(&spec, &weights, &bias, &mut packed);
        let launch = Launch::depthwise(&spec, operands, view(src), view(dst));
        world.check(&case, 1e-5, &launch, &packed, |kernels, buffer| {
            let mut packed = vec![f32::NAN; cpu::packed_depthwise_len(&spec)];
            cpu::pack_depthwise(&spec, &weights, &bias, &mut packed);
            cpu::depthwise(kernels, buffer, PackedConv { spec: &spec, weights: &packed }, src, dst, residual);
        });
        return;
    }
    let mut further = vec![f32::NAN; super::packed_conv_len(&spec)];
    pack_conv(&spec, &weights, &bias, &mut further);
    let planes = LEN + further.len();
    let from = match kind {
        Kind::Image => {
            let mut image = vec![0.0; c_in * h * w];
            cpu::export(&mut Kernels::new(Isa::detect(), 1, 0, 0).unwrap(), &world.buffer, src, &mut image);
            further.extend(&image);
            TensorView::planes(planes, c_in, h, w)
        }
        _ => view(src),
    };
    let launch = |to: TensorView| Launch::conv(&spec, operands, from, to);
    let mut packed = vec![f32::NAN; cpu::packed_conv_len(Isa::detect(), &spec)];
    cpu::pack_conv(Isa::detect(), &spec, &weights, &bias, &mut packed);
    let packed = PackedConv { spec: &spec, weights: &packed };
    let tolerance = 2e-5 + 4e-6 * ((per_group * kernel * kernel) as f32).sqrt();
    if kind == Kind::Planes {
        further.extend(vec![f32::NAN; c_out * oh * ow]);
        let memory = world.launch(&launch(TensorView::planes(planes, c_out, oh, ow)), &further);
        assert!(memory[..LEN].iter().zip(world.buffer.as_slice()).all(|(a, b)| a.to_bits() == b.to_bits()), "{case}");
        let mut wanted = vec![0.0; c_out * oh * ow];
        let mut kernels = Kernels::new(Isa::detect(), 1, 1 << 16, 1 << 12).unwrap();
        cpu::conv_planes(&mut kernels, &world.buffer, packed, src, &mut wanted);
        for (i, (found, wanted)) in memory[planes..].iter().zip(&wanted).enumerate() {
            assert!(same(*found, *wanted, tolerance), "{case}: {i}: {found}, not {wanted}");
        }
        return;
    }
    world.check(&case, tolerance, &launch(view(dst)), &further, |kernels, buffer| match kind {
        Kind::Image => {
            let image = Image { values: &further[planes - LEN..], height: h, width: w };
            cpu::conv_image(kernels, buffer, packed, image, dst, residual);
        }
        _ => cpu::conv(kernels, buffer, packed, src, dst, residual),
    });
}

#[test]
fn convolutions_of_any_shape_are_right() {
    let Some(mut world) = World::new(1) else { return };
    for case in 0..400 {
        let kind = [Kind::Dense, Kind::Dense, Kind::Depthwise, Kind::Image, Kind::Planes][case % 5];
        convolution(&mut world, &format!("case {case}"), kind, [16, 40, 90][case % 3]);
    }
}

/// Images large enough for every size of tiles.
#[test]
fn convolutions_of_every_tile_are_right() {
    let Some(mut world) = World::new(2) else { return };
    let mut sizes: Vec<Kernel> = Vec::new();
    for (c_out, side) in [(9, 40), (30, 56), (120, 40), (70, 9)] {
        world.used = 0;
        let (src, dst) = (world.tensor(5, side, side), View::dense(LEN, c_out, side, side));
        let spec = ConvSpec {
            c_in: 5,
            c_out,
            kernel: 3,
            stride: 1,
            padding: 1,
            act: Activation::Silu,
            algorithm: Algorithm::Direct,
            planar: false,
        };
        let (weights, bias) = (world.values(c_out * 45), world.values(c_out));
        let mut further = vec![f32::NAN; dst.area() * c_out];
        let operands = Operands { packed: LEN + further.len(), residual: None };
        let mut packed = vec![f32::NAN; super::packed_conv_len(&spec)];
        pack_conv(&spec, &weights, &bias, &mut packed);
        further.extend(packed);
        let launch = Launch::conv(&spec, operands, view(src), view(dst));
        sizes.push(launch.kernel);
        let memory = world.launch(&launch, &further);
        let mut whole = Buffer::zeroed(memory.len()).unwrap();
        whole.as_mut_slice()[..LEN].copy_from_slice(world.buffer.as_slice());
        let mut packed = vec![f32::NAN; cpu::packed_conv_len(Isa::detect(), &spec)];
        cpu::pack_conv(Isa::detect(), &spec, &weights, &bias, &mut packed);
        let mut kernels = Kernels::new(Isa::detect(), 1, 1 << 16, 1 << 12).unwrap();
        let packed = PackedConv { spec: &spec, weights: &packed };
        cpu::conv(&mut kernels, &mut whole, packed, src, dst, None);
        let last = LEN + dst.area() * c_out;
        for (i, (found, wanted)) in memory[..last].iter().zip(whole.as_slice()).enumerate() {
            assert!(same(*found, *wanted, 5e-5), "{c_out}: {i}: {found}, not {wanted}");
        }
    }
    let others = |kernel: &Kernel| sizes.iter().filter(|other| *other == kernel).count() == 1;
    assert!(sizes.iter().all(others), "{sizes:?}");
}

#[test]
fn pools_moves_and_sums_of_any_shape_are_right() {
    let Some(mut world) = World::new(3) else { return };
    for case in 0..150 {
        world.used = 0;
        let rng = &mut world.rng;
        let kernel: usize = rng.random_range(1..6);
        let (stride, padding) = (rng.random_range(1..4), rng.random_range(0..=kernel / 2));
        let (c, h, w) = (rng.random_range(1..20), rng.random_range(5..12), rng.random_range(5..12));
        let factor = rng.random_range(1..4);
        let out = |side: usize| (side + 2 * padding - kernel) / stride + 1;
        let (a, b, to) = (world.tensor(c, h, w), world.tensor(c, h, w), world.tensor(c, h, w));
        let (pooled, large) = (world.tensor(c, out(h), out(w)), world.tensor(c, h * factor, w * factor));
        let (squares, mean) = (world.tensor(c * factor * factor, h, w), world.tensor(c, 1, 1));
        let case = format!("case {case}: {kernel} {stride} {padding} {factor} {a:?}");
        let window = (kernel, stride, padding);
        let launch = Launch::max_pool(window, view(a), view(pooled));
        world.check(&case, 0.0, &launch, &[], |k, buffer| cpu::max_pool(k, buffer, window, a, pooled));
        let launch = Launch::upsample(factor, view(a), view(large));
        world.check(&case, 0.0, &launch, &[], |k, buffer| cpu::upsample(k, buffer, factor, a, large));
        let launch = Launch::pixel_shuffle(factor, view(squares), view(large));
        world.check(&case, 0.0, &launch, &[], |_, buffer| cpu::pixel_shuffle(buffer, factor, squares, large));
        let launch = Launch::add(view(a), view(b), view(to));
        world.check(&case, 1e-7, &launch, &[], |k, buffer| cpu::add(k, buffer, a, b, to));
        let launch = Launch::average(view(a), view(mean));
        world.check(&case, 1e-6, &launch, &[], |_, buffer| cpu::global_average(buffer, a, mean));
        for act in [Activation::Identity, Activation::Silu, Activation::Relu] {
            let launch = Launch::activate(act, view(a), view(to));
            world.check(&case, 1e-6, &launch, &[], |k, buffer| cpu::activate(k, buffer, act, a, to));
        }
        let image = world.values(c * h * w);
        let launch = Launch::upsample(1, TensorView::planes(LEN, c, h, w), view(to));
        world.check(&case, 0.0, &launch, &image, |_, buffer| cpu::import(&image, buffer, to));
        let launch = Launch::upsample(1, view(a), TensorView::planes(LEN, c, h, w));
        let memory = world.launch(&launch, &image);
        let mut wanted = image;
        cpu::export(&mut Kernels::new(Isa::detect(), 1, 0, 0).unwrap(), &world.buffer, a, &mut wanted);
        assert_eq!(memory[LEN..], wanted, "{case}");
    }
}

#[test]
fn attention_of_any_shape_is_right() {
    let Some(mut world) = World::new(4) else { return };
    for case in 0..82 {
        world.used = 0;
        let rng = &mut world.rng;
        // Some with more values than a block has threads, some with more pixels, and with more than it keeps.
        let (most, deep) = [(8, 36), (20, 12), (5, 150)][case % 3];
        let a = Attention {
            heads: rng.random_range(1..4),
            key_dim: rng.random_range(1..20),
            head_dim: rng.random_range(1..deep),
            scale: rng.random_range(0.1..3.0),
            areas: 1,
        };
        let (h, w) = (rng.random_range(1..most), rng.random_range(1..most));
        let (a, h, w) = match case < 80 {
            true => (a, h, w),
            false => (Attention { heads: 1, key_dim: 3, head_dim: 4, ..a }, 33, 35),
        };
        let (src, dst) = (world.tensor(a.heads * a.packed(), h, w), world.tensor(a.heads * a.head_dim, h, w));
        let case = format!("case {case}: {a:?} on {h} x {w}");
        let shared = View::dense(world.used, cpu::attention_scratch(Isa::detect(), &a, h * w).0, 1, 1);
        world.check(&case, 2e-5, &Launch::attention(&a, view(src), view(dst)), &[], |kernels, buffer| {
            // The working space lies in a second buffer, so that only the output changes in the first.
            let mut whole = Buffer::zeroed(shared.offset + shared.c).unwrap();
            whole.as_mut_slice()[..shared.offset].copy_from_slice(&buffer.as_slice()[..shared.offset]);
            cpu::attention(kernels, &mut whole, &a, src, dst, shared);
            buffer.as_mut_slice()[..shared.offset].copy_from_slice(&whole.as_slice()[..shared.offset]);
        });
        let launch = Launch::attention_values(&a, view(src), view(dst));
        world.check(&case, 0.0, &launch, &[], |k, buffer| cpu::attention_values(k, buffer, &a, src, dst));
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let error = |library: &str, code| Device::open(std::path::Path::new(library), code, 0).err().unwrap().to_string();
    assert!(error("/no/libcuda.so.1", b"").contains("the NVIDIA driver is not there: /no/libcuda.so.1"));
    let text = error("libc.so.6", b"");
    assert!(text.contains("cuInit"), "{text}");
}

#[test]
fn a_device_older_than_ampere_is_refused() {
    let Some(old) = emulated::device_of(1) else { return };
    assert_eq!(
        old.err().map(|error| error.to_string()).as_deref(),
        Some(
            "emulated T4 (compute capability 7.5) is too old: the CUDA engine needs an NVIDIA GPU since Ampere \
             (compute capability 8.0)"
        )
    );
}

#[test]
fn a_launch_outside_the_memory_is_refused() {
    let launch = Launch::upsample(1, TensorView::planes(0, 2, 3, 4), TensorView::pixels(24, View::dense(0, 2, 3, 4)));
    assert!(launch.in_bounds(4 * 48) && !launch.in_bounds(4 * 48 - 1));
    let huge = View::dense(0, 1, 1 << 20, 1 << 20);
    let launch = Launch::activate(Activation::Relu, view(huge), view(huge));
    assert!(!launch.in_bounds(usize::MAX));
}
