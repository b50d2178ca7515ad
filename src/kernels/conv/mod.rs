//! Dense convolutions of any kernel size, stride and padding.
//!
//! [`direct`] sums the window as it stands; [`winograd`] serves 3 x 3 windows of stride 1 on images that are not tiny;
//! [`low_precision`] quantizes the input to int8 or f16 and runs [`direct`] over packed lanes. The functions here check
//! views and sizes before anything is read or written through pointers.

mod direct;
mod low_precision;
mod operands;
mod pack;
mod spec;
mod winograd;

use super::isa::lanes::MAX_LANES;
use super::product::{Epilogue, Layout, Output, Requantize, Residual};
use super::{Buffer, Isa, Kernels, View};
use operands::{Operands, Quantize, Scratch};

pub use low_precision::quantized_len;
pub(super) use pack::{ChannelScale, pack_low_precision};
pub use pack::{pack_conv, packed_conv_len};
pub use spec::{Algorithm, ConvSpec, PackedConv};

/// An image `[c, height, width]`, plane after plane.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// All values.
    pub values: &'a [f32],
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Values of working space that a thread needs.
pub fn conv_scratch(isa: Isa, spec: &ConvSpec) -> usize {
    match (spec.algorithm, spec.algorithm.packed_isa(isa)) {
        (_, Some(isa)) => direct::packed_scratch(&pack::packed_spec(isa, spec)),
        (Algorithm::Winograd, _) => winograd::scratch(isa, spec),
        _ => direct::scratch(spec),
    }
}

/// Zeros that must be there to read.
pub fn conv_zeros(spec: &ConvSpec) -> usize {
    // A whole window row, and what a vector reads beyond.
    spec.kernel * spec.c_in + MAX_LANES
}

/// `dst = act(conv(src) + bias) + residual`, with what [`pack_conv`] packed for the same instruction set.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn conv(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    conv: PackedConv,
    src: View,
    dst: View,
    residual: Option<View>,
) {
    src.check(buffer);
    assert!(src.c == conv.spec.c_in && src.disjoint(&dst) && !conv.spec.planar, "{src:?} and {dst:?}");
    assert!(!conv.spec.algorithm.is_low_precision());
    // SAFETY: the view was checked.
    let input = Input { from: unsafe { src.ptr(buffer) }, view: src, shared: None };
    into_view(kernels, buffer, conv, input, dst, residual);
}

/// `tensor = act(conv(src) + bias)` with a tensor `[c_out, h, w]`, with what [`pack_conv`] packed.
///
/// # Panics
/// As [`conv`].
pub fn conv_planes(kernels: &mut Kernels, buffer: &Buffer, conv: PackedConv, src: View, tensor: &mut [f32]) {
    src.check(buffer);
    let spec = conv.spec;
    let dst = View::dense(0, spec.c_out, spec.side(src.h), spec.side(src.w));
    assert!(src.c == spec.c_in && !spec.planar && spec.algorithm == Algorithm::Direct);
    assert_eq!(tensor.len(), spec.c_out * dst.area());
    // SAFETY: the view was checked, and the tensor is no part of the buffer.
    let input = Input { from: unsafe { src.ptr(buffer) }, view: src, shared: None };
    let output = Output { to: tensor.as_mut_ptr(), layout: Layout::Planes { area: dst.area() } };
    launch(kernels, conv, input, (output, dst), None);
}

/// As [`conv`], from an image `[c_in, height, width]`.
///
/// # Panics
/// As [`conv`].
pub fn conv_image(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    conv: PackedConv,
    image: Image,
    dst: View,
    residual: Option<View>,
) {
    let spec = conv.spec;
    let plane = View::dense(0, 1, image.height, image.width);
    assert!(spec.planar && spec.algorithm == Algorithm::Direct && image.values.len() == spec.c_in * plane.area());
    let input = Input { from: image.values.as_ptr(), view: plane, shared: None };
    into_view(kernels, buffer, conv, input, dst, residual);
}

/// `dst = act(conv(src) + bias) + residual` by a low-precision algorithm, with what [`pack_int8`](super::pack_int8) or
/// [`pack_f16`](super::pack_f16) packed for the same instruction set. `shared` is working space of [`quantized_len`]
/// values, if that is not 0.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn conv_low_precision(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    conv: PackedConv,
    src: View,
    dst: View,
    residual: Option<View>,
    shared: Option<View>,
) {
    [Some(src), shared].iter().flatten().for_each(|view| view.check(buffer));
    let spec = conv.spec;
    assert!(src.c == spec.c_in && src.disjoint(&dst) && !spec.planar && spec.algorithm.is_low_precision());
    let needed = quantized_len(kernels.isa, spec, src.h, src.w);
    assert!(shared.map_or(0, |shared| shared.c * shared.area()) >= needed);
    let apart = |shared: View| [Some(src), Some(dst), residual].iter().flatten().all(|view| view.disjoint(&shared));
    assert!(shared.is_none_or(|shared| shared.pitch == shared.c && apart(shared)));
    let used = shared.filter(|_| needed > 0);
    // SAFETY: both views were checked.
    let (from, shared) = unsafe { (src.ptr(buffer), used.map(|view| view.ptr(buffer))) };
    into_view(kernels, buffer, conv, Input { from, view: src, shared }, dst, residual);
}

/// What a convolution reads, checked: the pointer belongs to what the view describes.
struct Input {
    from: *const f32,
    view: View,
    /// Working space of a low-precision algorithm, where it needs some.
    shared: Option<*mut f32>,
}

/// Checks output and residual, and runs.
fn into_view(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    conv: PackedConv,
    input: Input,
    dst: View,
    residual: Option<View>,
) {
    [Some(dst), residual].iter().flatten().for_each(|view| view.check(buffer));
    assert!(residual.is_none_or(|r| r.disjoint(&dst) && (r.c, r.h, r.w) == (dst.c, dst.h, dst.w)));
    // SAFETY: both views were checked.
    let (to, residual) =
        unsafe { (dst.ptr(buffer), residual.map(|r| Residual { from: r.ptr(buffer).cast_const(), pitch: r.pitch })) };
    let output = Output { to, layout: Layout::Pixels { pitch: dst.pitch } };
    launch(kernels, conv, input, (output, dst), residual);
}

/// Checks sizes, packed weights and working space, and runs the algorithm.
fn launch(
    kernels: &mut Kernels,
    PackedConv { spec, weights }: PackedConv,
    input: Input,
    (output, dst): (Output, View),
    residual: Option<Residual>,
) {
    let src = input.view;
    assert_eq!((dst.c, dst.h, dst.w), (spec.c_out, spec.side(src.h), spec.side(src.w)));
    assert_eq!(weights.len(), packed_conv_len(kernels.isa, spec));
    assert!(kernels.space >= conv_scratch(kernels.isa, spec) && kernels.zeros.as_slice().len() >= conv_zeros(spec));
    let low_precision = spec.algorithm.packed_isa(kernels.isa).map(|isa| {
        let [scale, shift, parameters] = pack::low_precision_tail(spec, weights);
        let requantize = Requantize { scale: scale.as_ptr(), shift: shift.as_ptr() };
        (requantize, Quantize { isa, parameters: parameters.as_ptr().cast(), shared: input.shared })
    });
    let operands = Operands {
        spec: *spec,
        src: input.from,
        from: src,
        output,
        to: dst,
        weights: weights[spec.biases()..].as_ptr(),
        epilogue: Epilogue {
            bias: Some(weights.as_ptr()),
            requantize: low_precision.map(|(requantize, _)| requantize),
            act: spec.act,
            residual,
        },
        scratch: Scratch { zeros: kernels.zeros.ptr(), workspace: kernels.workspace.ptr(), space: kernels.space },
        quantize: low_precision.map(|(_, quantize)| quantize),
    };
    match (spec.algorithm, operands.quantize) {
        (_, Some(quantize)) => {
            let operands = low_precision::quantize_input(kernels, operands, quantize);
            direct::run(kernels, operands);
        }
        (Algorithm::Winograd, None) => winograd::run(kernels, operands),
        (_, None) => direct::run(kernels, operands),
    }
}
