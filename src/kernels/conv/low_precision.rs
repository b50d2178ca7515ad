//! Quantizes the input of a convolution to int8 or narrows it to f16, in packed lanes: four bytes that hold several
//! channels each ([`int8`](crate::kernels::int8), [`f16`](crate::kernels::f16)).
//!
//! Tensors stay f32 between the layers. The packed lanes of an input lie as a tensor of f32 would; over these runs
//! [`direct`](super::direct), whose tile multiplies packed lanes in place of values ([`PackedLanes`]). A pointwise
//! convolution quantizes what a run of pixels reads while that is in the thread's cache; any other quantizes its whole
//! input first.

use super::operands::{Operands, Quantize, Scratch};
use super::pack::packed_spec;
use super::spec::ConvSpec;
use crate::kernels::isa::lanes::{Lanes, MAX_LANES, PackedLanes, Register, load_up_to};
use crate::kernels::isa::packed::for_packed_isa;
use crate::kernels::{Isa, Kernels, View};

/// How many packed lanes a thread makes at a time, about.
const PART: usize = 4096;

/// Values of the buffer that [`conv_low_precision`](super::conv_low_precision) needs for the packed lanes of an input
/// of `height` x `width`; 0 where it needs none.
pub fn quantized_len(isa: Isa, spec: &ConvSpec, height: usize, width: usize) -> usize {
    match spec.algorithm.packed_isa(isa) {
        // The zero points of a window's row lie behind the pixels.
        Some(isa) if !spec.is_pointwise() => (height * width + spec.kernel) * packed_spec(isa, spec).c_in,
        _ => 0,
    }
}

/// The operands of the same convolution over packed lanes. Quantizes the input, unless each run does so.
pub(super) fn quantize_input(kernels: &mut Kernels, mut operands: Operands, quantize: Quantize) -> Operands {
    let from = operands.from;
    operands.spec = packed_spec(quantize.isa, &operands.spec);
    let lanes = operands.spec.c_in;
    let Some(shared) = quantize.shared else { return operands };
    let (part, parts) = kernels.parts(from.area(), (PART / lanes).max(1), 1);
    let args = Args { operands, shared, part, parts };
    // SAFETY: `conv_low_precision` checked all sizes. Items write different pixels, and one more what lies behind them.
    kernels.pool.run(parts + 1, &|item, worker| unsafe { run_quantize(quantize.isa, &args, item, worker) });
    Operands {
        src: shared,
        from: View { offset: 0, pitch: lanes, c: lanes, ..from },
        scratch: Scratch { zeros: shared.wrapping_add(from.area() * lanes), ..args.operands.scratch },
        ..args.operands
    }
}

/// How the pixels of a view become packed lanes.
struct Args {
    operands: Operands,
    /// Where they go.
    shared: *mut f32,
    /// Pixels of an item, and items.
    part: usize,
    parts: usize,
}

// SAFETY: as `Operands`, to whose buffer the packed lanes belong.
unsafe impl Sync for Args {}

for_packed_isa!(run_quantize, quantize_part, Args);

#[inline(always)]
unsafe fn quantize_part<P: PackedLanes>(args: &Args, item: usize, _worker: usize) {
    let o = &args.operands;
    let (area, pitch) = (o.from.area(), o.spec.c_in);
    // SAFETY: pixels are inside the view, packed lanes inside the working space, and the operands say how to quantize.
    unsafe {
        if item == args.parts {
            let [.., zero] = o.quantize.unwrap_unchecked().parameters.read();
            let zero = P::Float::splat(zero);
            let lanes = o.spec.kernel * pitch;
            for at in (0..lanes).step_by(P::LANES / P::PER_LANE) {
                store_packed::<P>(zero, args.shared.add(area * pitch + at), lanes - at);
            }
        } else {
            let first = item * args.part;
            quantize_pixels::<P>(o, first, args.part.min(area - first), args.shared.add(first * pitch), pitch);
        }
    }
}

/// Quantizes `count` pixels of the input from the given one on, to packed lanes of `pitch` a pixel.
///
/// # Safety
/// The pixels must be inside the view, there must be room for the packed lanes, and the operands must say how to
/// quantize.
#[inline(always)]
pub(super) unsafe fn quantize_pixels<P: PackedLanes>(
    o: &Operands,
    first: usize,
    count: usize,
    to: *mut f32,
    pitch: usize,
) {
    let channels = o.from.c;
    // SAFETY: the caller keeps the contract; only channels of the view are read.
    unsafe {
        let parameters = o.quantize.unwrap_unchecked().parameters.read();
        let [factor, least, most, zero] = parameters.map(|v| P::Float::splat(v));
        for pixel in 0..count {
            let (from, to) = (o.src.add((first + pixel) * o.from.pitch), to.add(pixel * pitch));
            for channel in (0..channels).step_by(P::LANES) {
                let value: P::Float = load_up_to(from.add(channel), channels - channel);
                let value = value.mul(factor).max(least).min(most);
                let value = if P::INTEGER { value.round().add(zero) } else { value };
                store_packed::<P>(value, to.add(channel / P::PER_LANE), pitch - channel / P::PER_LANE);
            }
        }
    }
}

/// Narrows a register of values and stores it as packed lanes, or only the first few of these.
#[inline(always)]
unsafe fn store_packed<P: PackedLanes>(values: P::Float, to: *mut f32, lanes: usize) {
    // SAFETY: the caller keeps the contract. A whole register is written only where that many lanes belong to the
    // pixel.
    unsafe {
        if lanes >= P::LANES / P::PER_LANE {
            P::store_values(values, to);
            return;
        }
        let mut some = [0.0f32; MAX_LANES];
        P::store_values(values, some.as_mut_ptr());
        (0..lanes).for_each(|i| to.add(i).cast::<u32>().write(some[i].to_bits()));
    }
}
