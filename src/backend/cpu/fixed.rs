//! Dense 3 x 3 convolutions of stride 1 with a kernel that no gradient is asked for: by the engine's kernels, whose
//! minimal filtering needs fewer products than a patch matrix does (Winograd; Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", 2016). The kernel is packed once for all images. The gradient of the input is such a
//! convolution too: with the kernel turned round, and input and output channels exchanged.

use super::geometry::Geometry;
use crate::graph::Activation;
use crate::kernels::{self, Algorithm, Buffer, ConvSpec, Isa, Kernels, PackedConv, View};
use rayon::prelude::*;

/// A convolution with its packed kernel, for images of one size.
pub(super) struct Fixed {
    isa: Isa,
    spec: ConvSpec,
    packed: Buffer,
    /// Height and width of the images, and of the outputs.
    sizes: [(usize, usize); 2],
}

impl Fixed {
    /// The convolution of images with a kernel `[c_out, c_in, 3, 3]`. `None` where the kernels know no faster way than
    /// a patch matrix, or there is not enough memory.
    pub fn forward(g: &Geometry, kernel: &[f32], (h, w): (usize, usize)) -> Option<Self> {
        Self::new(g, (h, w), (g.side(h), g.side(w)), || kernel.to_vec())
    }

    /// The convolution that makes the gradient of the images from that of the outputs. `None` as in [`Fixed::forward`].
    pub fn backward(g: &Geometry, kernel: &[f32], (h, w): (usize, usize)) -> Option<Self> {
        let turned = Geometry { c_in: g.c_out, c_out: g.c_in, padding: 2usize.checked_sub(g.padding)?, ..*g };
        Self::new(&turned, (g.side(h), g.side(w)), (h, w), || {
            let window = |co: usize, ci: usize| kernel[(co * g.c_in + ci) * 9..][..9].iter().rev();
            (0..g.c_in).flat_map(|ci| (0..g.c_out).flat_map(move |co| window(co, ci))).copied().collect()
        })
    }

    fn new(g: &Geometry, from: (usize, usize), to: (usize, usize), kernel: impl FnOnce() -> Vec<f32>) -> Option<Self> {
        let algorithm = Algorithm::choose(g.kernel, g.stride, to.0, to.1);
        if g.depthwise || algorithm != Algorithm::Winograd {
            return None;
        }
        let Geometry { c_in, c_out, kernel: side, stride, padding, .. } = *g;
        let act = Activation::Identity;
        let spec = ConvSpec { c_in, c_out, kernel: side, stride, padding, act, algorithm, planar: false };
        let isa = Isa::detect();
        let mut packed = Buffer::zeroed(kernels::packed_conv_len(isa, &spec))?;
        kernels::pack_conv(isa, &spec, &kernel(), &vec![0.0; c_out], packed.as_mut_slice());
        Some(Self { isa, spec, packed, sizes: [from, to] })
    }

    /// The outputs `[N, c_out, h, w]` for images `[N, c_in, h, w]`. `None` if there is not enough memory.
    pub fn run(&self, x: &[f32], y: &mut [f32]) -> Option<()> {
        let Self { isa, spec, packed, sizes: [(h, w), (oh, ow)] } = self;
        let (inner, outer) = (spec.c_in * h * w, spec.c_out * oh * ow);
        let src = View::dense(0, spec.c_in, *h, *w);
        let dst = View::dense(inner.next_multiple_of(16), spec.c_out, *oh, *ow);
        let own = || {
            let (space, zeros) = (kernels::conv_scratch(*isa, spec), kernels::conv_zeros(spec));
            Some((Kernels::new(*isa, 1, space, zeros)?, Buffer::zeroed(dst.offset + outer)?))
        };
        y.par_chunks_exact_mut(outer).zip(x.par_chunks_exact(inner)).try_for_each_init(own, |own, (y, x)| {
            let (kernels, arena) = own.as_mut()?;
            kernels::import(x, arena, src);
            kernels::conv(kernels, arena, PackedConv { spec, weights: packed.as_slice() }, src, dst, None);
            kernels::export(kernels, arena, dst, y);
            Some(())
        })
    }
}
