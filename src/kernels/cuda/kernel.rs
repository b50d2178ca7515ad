//! The functions of `kernels.cu` and the files that it includes: their names, and the threads of their blocks.

use super::tile::{Form, Output, tiles};
use super::training::TrainKernel;

/// A function of `kernels.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// In f32.
    F32(F32Kernel),
    /// In f16, without tensor cores but for the first layer and attention.
    F16(F16Kernel),
    /// A product on tensor cores: what it writes, its form, and the position of its tile.
    Product(Output, Form, usize),
    /// On the outputs of cells.
    Cells(CellKernel),
    /// Of a training step, and whether its tensors are in f16.
    Train(TrainKernel, bool),
}

impl Kernel {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let forms = Output::ALL.into_iter().flat_map(|output| output.forms().iter().map(move |form| (output, *form)));
        let products = forms.flat_map(|(output, form)| (0..5).map(move |tile| Self::Product(output, form, tile)));
        let train = TrainKernel::all().map(|(kernel, f16)| Self::Train(kernel, f16));
        let f32 = F32Kernel::ALL.iter().map(|(kernel, ..)| Self::F32(*kernel));
        let f16 = F16Kernel::ALL.iter().map(|(kernel, _)| Self::F16(*kernel));
        f32.chain(f16).chain(products).chain(CellKernel::ALL.map(Self::Cells)).chain(train).collect()
    }

    /// Its name in `kernels.cu` and the files that it includes.
    pub fn name(self) -> String {
        match self {
            Self::F32(kernel) => kernel.name().into(),
            Self::F16(kernel) => kernel.name().into(),
            Self::Product(output, form, tile) => tiles(form)[tile].kernel(output, form),
            Self::Cells(kernel) => kernel.name().into(),
            Self::Train(kernel, f16) => kernel.name(f16),
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> u32 {
        match self {
            Self::F32(kernel) => kernel.threads(),
            Self::F16(_) => F16Kernel::THREADS,
            Self::Product(_, form, tile) => tiles(form)[tile].threads(),
            Self::Cells(_) => CellKernel::THREADS,
            Self::Train(kernel, _) => kernel.threads(),
        }
    }
}

/// The functions of `kernels.cu` in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum F32Kernel {
    Conv64x64,
    Conv64x32,
    Conv64x16,
    Conv32x32,
    Depthwise,
    MaxPool,
    Upsample,
    PixelShuffle,
    AttentionValues,
    Activate,
    Add,
    Average,
    Attention,
}

impl F32Kernel {
    /// By position: each with its name and the threads of a block.
    pub const ALL: [(Self, &'static str, u32); 13] = [
        (Self::Conv64x64, "conv_64x64", 256),
        (Self::Conv64x32, "conv_64x32", 128),
        (Self::Conv64x16, "conv_64x16", 64),
        (Self::Conv32x32, "conv_32x32", 64),
        (Self::Depthwise, "depthwise", 256),
        (Self::MaxPool, "max_pool", 256),
        (Self::Upsample, "upsample", 256),
        (Self::PixelShuffle, "pixel_shuffle", 256),
        (Self::AttentionValues, "attention_values", 256),
        (Self::Activate, "activate", 256),
        (Self::Add, "add", 256),
        (Self::Average, "average", 256),
        (Self::Attention, "attention", 128),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Threads of a block.
    pub fn threads(self) -> u32 {
        Self::ALL[self as usize].2
    }
}

/// The functions of `f16.h`, `attention.h` and `peaks.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum F16Kernel {
    Stem,
    StemBytes,
    FromBytes,
    Import,
    Export,
    Direct,
    Depthwise3,
    Depthwise3Stride2,
    Depthwise,
    Upsample,
    PixelShuffle,
    MaxPool,
    Pools,
    PoolsF32,
    Elementwise,
    Average,
    Attention,
    AttentionAny,
    Quantize,
    Int8Direct,
    PeakF32,
    PeakF16,
    PeakInt8,
}

impl F16Kernel {
    /// Threads of a block.
    pub const THREADS: u32 = 128;

    pub const ALL: [(Self, &'static str); 23] = [
        (Self::Stem, "f16_stem"),
        (Self::StemBytes, "f16_stem_bytes"),
        (Self::FromBytes, "from_bytes"),
        (Self::Import, "f16_import"),
        (Self::Export, "f16_export"),
        (Self::Direct, "f16_direct"),
        (Self::Depthwise3, "f16_depthwise3"),
        (Self::Depthwise3Stride2, "f16_depthwise3_stride2"),
        (Self::Depthwise, "f16_depthwise"),
        (Self::Upsample, "f16_upsample"),
        (Self::PixelShuffle, "f16_pixel_shuffle"),
        (Self::MaxPool, "f16_max_pool"),
        (Self::Pools, "f16_pools"),
        (Self::PoolsF32, "f32_pools"),
        (Self::Elementwise, "f16_elementwise"),
        (Self::Average, "f16_average"),
        (Self::Attention, "f16_attention"),
        (Self::AttentionAny, "f16_attention_any"),
        (Self::Quantize, "int8_quantize"),
        (Self::Int8Direct, "int8_direct"),
        (Self::PeakF32, "peak_f32"),
        (Self::PeakF16, "peak_f16"),
        (Self::PeakInt8, "peak_int8"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A kernel of `cells.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellKernel {
    Find,
    Take,
}

impl CellKernel {
    /// Threads of a block.
    pub const THREADS: u32 = 128;

    pub const ALL: [Self; 2] = [Self::Find, Self::Take];

    pub fn name(self) -> &'static str {
        match self {
            Self::Find => "find_cells",
            Self::Take => "take_cells",
        }
    }
}
