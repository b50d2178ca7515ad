//! What a running convolution reads and writes, as pointers whose bounds were checked.

use super::spec::ConvSpec;
use crate::kernels::View;
use crate::kernels::isa::packed::PackedIsa;
use crate::kernels::product::{Epilogue, Output};

/// What a convolution reads and writes. The views lie in one buffer, and the output overlaps nothing that is read.
pub(super) struct Operands {
    /// Sizes; of a low-precision algorithm, once its input is quantized, with packed lanes for channels.
    pub spec: ConvSpec,
    pub src: *const f32,
    pub from: View,
    pub output: Output,
    pub to: View,
    /// Panel after panel.
    pub weights: *const f32,
    /// Of the whole output.
    pub epilogue: Epilogue,
    pub scratch: Scratch,
    /// Only and always of a low-precision algorithm.
    pub quantize: Option<Quantize>,
}

/// Memory that convolutions share.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    /// Read where a window leaves the image.
    pub zeros: *const f32,
    /// Working space of all threads, `space` values each.
    pub workspace: *mut f32,
    pub space: usize,
}

/// How an input becomes packed lanes.
#[derive(Clone, Copy)]
pub(super) struct Quantize {
    pub isa: PackedIsa,
    /// Factor, least and greatest value, and zero point.
    pub parameters: *const [f32; 4],
    /// Where the packed lanes of the whole input go; `None` where each run quantizes what it reads.
    pub shared: Option<*mut f32>,
}

// SAFETY: the pointers are those of buffers that outlive the call of `conv`; items of a job write different values.
unsafe impl Sync for Operands {}
