//! Dense convolutions of any kernel size, stride and padding: what is packed, and which algorithm runs.
//!
//! [`direct`](super::direct) sums the window as it stands; [`winograd`](super::winograd) serves 3 x 3 windows of stride 1 on
//! images that are not tiny. Which one depends on the window and the image alone, never on the number of channels, so
//! that time and memory are smooth functions of the widths.

use super::lanes::MAX_LANES;
use super::product::panels;
use super::{Buffer, Isa, Kernels, View, direct, winograd, words};
use crate::graph::Activation;

/// Sizes of a dense convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Side of the window.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// Function applied to every sum.
    pub act: Activation,
    /// How it is computed.
    pub algorithm: Algorithm,
    /// Whether the input is an image `[c_in, h, w]`, plane after plane, and no view. Only tap by tap.
    pub planar: bool,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Tap by tap.
    Direct,
    /// Winograd's minimal filtering, 4 x 4 outputs of a 3 x 3 window at a time.
    Winograd,
    /// Tap by tap in whole numbers of 8 bits ([`conv_words`](super::conv_words)).
    Int8,
    /// Tap by tap in half precision ([`conv_words`](super::conv_words)).
    Half,
}

impl Algorithm {
    /// The faster one for a window and an output image.
    pub fn choose(kernel: usize, stride: usize, height: usize, width: usize) -> Self {
        // Below some tiles the transformed kernels, four times as large, cost more than they save.
        let enough = winograd::tiles(height, width) >= 16;
        if kernel == 3 && stride == 1 && enough { Self::Winograd } else { Self::Direct }
    }

    /// Values of a packed kernel per product of an input and an output channel.
    pub fn taps(self, kernel: usize) -> usize {
        match self {
            Self::Direct | Self::Int8 | Self::Half => kernel * kernel,
            Self::Winograd => winograd::POSITIONS,
        }
    }

    /// Whether the input is rounded into words of several channels.
    pub fn over_words(self) -> bool {
        matches!(self, Self::Int8 | Self::Half)
    }
}

impl ConvSpec {
    /// Output rows or columns for an input side.
    pub(super) fn side(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Planes of the input, and channels of one.
    pub(super) fn planes(&self) -> (usize, usize) {
        if self.planar { (self.c_in, 1) } else { (1, self.c_in) }
    }

    /// Rows of packed weights.
    pub(super) fn depth(&self) -> usize {
        self.algorithm.taps(self.kernel) * self.c_in
    }

    /// Values before the first panel, so that panels start on a cache line.
    pub(super) fn biases(&self) -> usize {
        self.c_out.next_multiple_of(MAX_LANES)
    }
}

/// Values that the packed kernel and biases of a convolution take.
pub fn packed_conv_len(isa: Isa, spec: &ConvSpec) -> usize {
    match spec.algorithm {
        Algorithm::Int8 | Algorithm::Half => words::packed_len(isa, spec),
        _ => spec.biases() + spec.c_out.next_multiple_of(isa.lanes()) * spec.depth(),
    }
}

/// Values of working space that a thread needs.
pub fn conv_scratch(isa: Isa, spec: &ConvSpec) -> usize {
    match spec.algorithm {
        Algorithm::Direct => direct::scratch(spec),
        Algorithm::Int8 | Algorithm::Half => words::scratch(isa, spec),
        Algorithm::Winograd => winograd::scratch(isa, spec),
    }
}

/// Zeros that must be there to read.
pub fn conv_zeros(spec: &ConvSpec) -> usize {
    // A whole window row, and what a vector reads beyond.
    spec.kernel * spec.c_in + MAX_LANES
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`, for an algorithm that is not over words.
///
/// # Panics
/// If a length is wrong.
pub fn pack_conv(isa: Isa, spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (lanes, taps) = (isa.lanes(), spec.kernel * spec.kernel);
    assert_eq!((weights.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert!(packed.len() == packed_conv_len(isa, spec) && !spec.algorithm.over_words());
    packed.fill(0.0);
    let (biases, values) = packed.split_at_mut(spec.biases());
    biases[..spec.c_out].copy_from_slice(bias);
    for panel in panels(spec.c_out, lanes) {
        let width = panel.vectors * lanes;
        let rows = &mut values[panel.start * spec.depth()..][..width * spec.depth()];
        for lane in 0..panel.channels {
            for ci in 0..spec.c_in {
                let window = &weights[((panel.start + lane) * spec.c_in + ci) * taps..][..taps];
                // In the order in which sums run: planes, taps, channels of a plane.
                let mut put = |position: usize, ci: usize, value: f32| {
                    let row = if spec.planar { ci * taps + position } else { position * spec.c_in + ci };
                    rows[row * width + lane] = value;
                };
                if spec.algorithm == Algorithm::Winograd {
                    let transformed = winograd::transform_kernel(window);
                    transformed.into_iter().enumerate().for_each(|(p, value)| put(p, ci, value));
                } else {
                    window.iter().enumerate().for_each(|(tap, value)| put(tap, ci, *value));
                }
            }
        }
    }
}

/// `dst = act(conv(src) + bias) + residual`, with what [`pack_conv`] packed for the same instruction set.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn conv(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    src: View,
    dst: View,
    residual: Option<View>,
) {
    src.check(buffer);
    assert!(src.c == spec.c_in && src.disjoint(&dst) && !spec.planar, "{src:?} and {dst:?}");
    assert!(!spec.algorithm.over_words());
    // SAFETY: the view was checked.
    let from = unsafe { src.ptr(buffer) };
    convolve(kernels, buffer, spec, packed, (from, src), dst, residual, std::ptr::null_mut());
}

/// `tensor = act(conv(src) + bias)` with a tensor `[c_out, h, w]`, with what [`pack_conv`] packed.
///
/// # Panics
/// As [`conv`].
pub fn conv_planes(
    kernels: &mut Kernels,
    buffer: &Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    src: View,
    tensor: &mut [f32],
) {
    src.check(buffer);
    let dst = View::dense(0, spec.c_out, spec.side(src.h), spec.side(src.w));
    assert!(src.c == spec.c_in && !spec.planar && spec.algorithm == Algorithm::Direct);
    assert_eq!(tensor.len(), spec.c_out * dst.area());
    // SAFETY: the view was checked, and the tensor is no part of the buffer.
    let (from, to) = unsafe { (src.ptr(buffer), tensor.as_mut_ptr()) };
    launch(kernels, spec, packed, (from, src), (to, dst, dst.area()), None, std::ptr::null_mut());
}

/// As [`conv`], from an image `[c_in, height, width]`.
///
/// # Panics
/// As [`conv`].
pub fn conv_image(
    kernels: &mut Kernels,
    image: &[f32],
    (height, width): (usize, usize),
    buffer: &mut Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    dst: View,
    residual: Option<View>,
) {
    assert!(spec.planar && spec.algorithm == Algorithm::Direct && image.len() == spec.c_in * height * width);
    let plane = View::dense(0, 1, height, width);
    convolve(kernels, buffer, spec, packed, (image.as_ptr(), plane), dst, residual, std::ptr::null_mut());
}

/// Checks the views that are left, and runs. `shared` is the working space of an algorithm over words.
pub(super) fn convolve(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    from: (*const f32, View),
    dst: View,
    residual: Option<View>,
    shared: *mut f32,
) {
    [Some(dst), residual].iter().flatten().for_each(|view| view.check(buffer));
    assert!(residual.is_none_or(|r| r.disjoint(&dst) && (r.c, r.h, r.w) == (dst.c, dst.h, dst.w)));
    // SAFETY: both views were checked.
    let (to, residual) = unsafe { (dst.ptr(buffer), residual.map(|r| (r.ptr(buffer).cast_const(), r.pitch))) };
    launch(kernels, spec, packed, from, (to, dst, 0), residual, shared);
}

/// Checks what is left to check, and runs the algorithm. The pointers belong to what the views describe, the last value
/// of the output is the size of its planes, or 0.
fn launch(
    kernels: &mut Kernels,
    spec: &ConvSpec,
    packed: &[f32],
    (from, src): (*const f32, View),
    (to, dst, plane): (*mut f32, View, usize),
    residual: Option<(*const f32, usize)>,
    shared: *mut f32,
) {
    assert_eq!((dst.c, dst.h, dst.w), (spec.c_out, spec.side(src.h), spec.side(src.w)));
    assert_eq!(packed.len(), packed_conv_len(kernels.isa, spec));
    assert!(kernels.space >= conv_scratch(kernels.isa, spec) && kernels.zeros.as_slice().len() >= conv_zeros(spec));
    let (residual, residual_pitch) = residual.unwrap_or((std::ptr::null(), 0));
    let operands = Operands {
        spec: *spec,
        src: from,
        dst: to,
        residual,
        from: src,
        to: dst,
        residual_pitch,
        plane,
        weights: packed[spec.biases()..].as_ptr(),
        bias: packed.as_ptr(),
        scale: std::ptr::null(),
        shift: std::ptr::null(),
        rounding: std::ptr::null(),
        zeros: kernels.zeros.ptr(),
        workspace: kernels.workspace.ptr(),
        space: kernels.space,
        shared,
    };
    match spec.algorithm {
        Algorithm::Direct => direct::run(kernels, operands),
        Algorithm::Int8 | Algorithm::Half => words::run(kernels, operands),
        Algorithm::Winograd => winograd::run(kernels, operands),
    }
}

/// What a convolution reads and writes. The views lie in one buffer, and the output overlaps nothing that is read.
pub(super) struct Operands {
    pub spec: ConvSpec,
    pub src: *const f32,
    pub dst: *mut f32,
    pub residual: *const f32,
    pub from: View,
    pub to: View,
    pub residual_pitch: usize,
    /// Values of a plane where the output is `[c_out, h, w]`, else 0.
    pub plane: usize,
    pub weights: *const f32,
    pub bias: *const f32,
    /// Of words: factor and summand of the sums of every output channel; else null.
    pub scale: *const f32,
    pub shift: *const f32,
    pub zeros: *const f32,
    /// Working space of all threads, `space` values each.
    pub workspace: *mut f32,
    pub space: usize,
    /// Of words: a factor, the least and the greatest value, and the zero point of rounded inputs; else null.
    pub rounding: *const f32,
    /// Where the words of the whole input go; null where there are none, or where each run rounds what it reads.
    pub shared: *mut f32,
}

// SAFETY: the pointers are those of buffers that outlive the call of `conv`; items of a job write different values.
unsafe impl Sync for Operands {}

impl Operands {
    /// The residual at a pixel and a channel; null without one.
    ///
    /// # Safety
    /// Both must lie in the output.
    #[inline(always)]
    pub unsafe fn residual_at(&self, pixel: usize, channel: usize) -> *const f32 {
        match self.residual.is_null() {
            true => self.residual,
            // SAFETY: the residual has the shape of the output.
            false => unsafe { self.residual.add(pixel * self.residual_pitch + channel) },
        }
    }
}
