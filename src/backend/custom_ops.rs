//! The operations of [`super::cpu`] as candle operations, each with its gradient.

use super::cpu::conv;
use super::cpu::geometry::Geometry;
use super::cpu::norm::{self, Affine, Moments};
use super::cpu::window::{self, Pool};
use crate::graph::Activation;
use crate::ranks::Share;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// The values of a contiguous f32 storage.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&values[from..to]),
        None => candle_core::bail!("a contiguous tensor is expected"),
    }
}

/// Calls `f` with the values of contiguous CPU tensors.
pub(super) fn with<T, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let guards = tensors.map(|tensor| tensor.storage_and_layout());
    let mut slices: [&[f32]; N] = [&[]; N];
    for (values, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *values = match &**storage {
            candle_core::Storage::Cpu(storage) => slice(storage, layout)?,
            _ => candle_core::bail!("a tensor on the CPU is expected"),
        };
    }
    Ok(f(slices))
}

pub(super) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Batch normalisation inside a [`Block`].
pub(super) struct BlockNorm {
    pub eps: f32,
    /// Given moments, or those of the batch after the forward pass.
    pub moments: Arc<OnceLock<Moments>>,
    /// Whether the moments are those of the batch, so that gradients pass through them.
    pub batch: bool,
    /// Of a batch that is shared over ranks.
    pub share: Option<Share>,
}

/// Convolution, bias, normalisation and activation as one operation on `x` `[N, c_in, H, W]`, the kernel
/// `[c_out, c_in / groups, k, k]`, and the vectors `[c_out]` that it has of bias, gamma and beta, joined in this order.
pub(super) struct Block {
    pub geometry: Geometry,
    pub act: Activation,
    pub bias: bool,
    pub norm: Option<BlockNorm>,
    /// Whether a gradient may be asked for.
    pub tracked: bool,
    /// Whether none of the kernel may be.
    pub fixed: bool,
    /// Images of every part of the batch.
    pub parts: Vec<usize>,
    /// The convolution's outputs, for the gradient.
    pub z: OnceLock<Vec<f32>>,
}

impl Block {
    fn area(&self, h: usize, w: usize) -> usize {
        self.geometry.area(h, w)
    }

    /// What comes after the convolution, unless nothing does.
    fn affine(&self, vectors: &[f32], z: &[f32], area: usize) -> Result<Option<Affine>> {
        let c = self.geometry.c_out;
        Ok(match &self.norm {
            Some(norm) => {
                let (gamma, beta) = vectors[if self.bias { c } else { 0 }..].split_at(c);
                let moments = match norm.moments.get() {
                    Some(known) => known,
                    None => {
                        let found = norm::moments(z, c, area, norm.share.as_ref()).map_err(Error::wrap)?;
                        norm.moments.get_or_init(|| found)
                    }
                };
                Some(Affine::norm(self.act, moments, norm.eps, gamma, beta))
            }
            None if self.act == Activation::Identity => None,
            None => Some(Affine::activation(self.act, c)),
        })
    }
}

impl CustomOp3 for Block {
    fn name(&self) -> &'static str {
        "secateurs-block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        kernel: &CpuStorage,
        lk: &Layout,
        vectors: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, _, h, w) = lx.shape().dims4()?;
        let (g, area) = (&self.geometry, self.area(h, w));
        let vectors = slice(vectors, lv)?;
        let forward = if self.fixed { conv::forward_fixed } else { conv::forward };
        let mut y = forward(g, slice(x, lx)?, slice(kernel, lk)?, (h, w), &self.parts);
        if self.bias {
            norm::add_bias(&mut y, &vectors[..g.c_out], area);
        }
        if let Some(affine) = self.affine(vectors, &y, area)? {
            let z = std::mem::take(&mut y);
            y = affine.forward(&z, area);
            if self.tracked {
                self.z.get_or_init(|| z);
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((n, g.c_out, g.side(h), g.side(w)))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        kernel: &Tensor,
        vectors: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, _, h, w) = x.dims4()?;
        let (area, c) = (self.area(h, w), self.geometry.c_out);
        let wanted = [x.track_op(), kernel.track_op()];
        let (grads, d_vectors) = with([x, kernel, vectors, &dy.contiguous()?], |[x, kernel, vectors, dy]| {
            let z = self.z.get().map_or(&[][..], |z| z);
            let (mut dz, mut d_norm) = (Cow::Borrowed(dy), Vec::new());
            if let Some(affine) = self.affine(vectors, z, area)? {
                let (batch, share) = self.norm.as_ref().map_or((false, None), |n| (n.batch, n.share.as_ref()));
                let grads = affine.backward(z, dy, area, (batch, share)).map_err(Error::wrap)?;
                dz = Cow::Owned(grads.z);
                if self.norm.is_some() {
                    d_norm = [grads.gamma, grads.beta].concat();
                }
                // All ranks have the sums over the whole batch, and one of them adds it to the gradients of all.
                if share.is_some_and(|share| !share.ranks().is_first()) {
                    d_norm.fill(0.0);
                }
            }
            let mut d_vectors = if self.bias { norm::channel_sums(&dz, c, area, &self.parts) } else { Vec::new() };
            d_vectors.append(&mut d_norm);
            let grads = match wanted {
                [true, false] if self.fixed => {
                    conv::backward_fixed(&self.geometry, x, kernel, &dz, (h, w), &self.parts)
                }
                _ => conv::backward(&self.geometry, x, kernel, &dz, (h, w), wanted, &self.parts),
            };
            Ok::<_, Error>((grads, d_vectors))
        })??;
        let some = |wanted: bool, values, like| if wanted { tensor(values, like).map(Some) } else { Ok(None) };
        Ok((
            some(wanted[0], grads.input, x)?,
            some(wanted[1], grads.kernel, kernel)?,
            some(vectors.track_op(), d_vectors, vectors)?,
        ))
    }
}

/// Maximum over a window. The gradient goes to the first largest value.
pub(super) struct MaxPool(pub Pool);

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "secateurs-max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let y = self.0.forward(slice(x, layout)?, (h, w));
        Ok((CpuStorage::F32(y), Shape::from((n, c, self.0.side(h), self.0.side(w)))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let dx = with([x, &dy.contiguous()?], |[x, dy]| self.0.backward(x, dy, (h, w)))?;
        tensor(dx, x).map(Some)
    }
}

/// Repeats every value in both directions.
pub(super) struct Upsample {
    pub factor: usize,
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "secateurs-upsample"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let y = window::upsample(slice(x, layout)?, w, self.factor);
        Ok((CpuStorage::F32(y), Shape::from((n, c, h * self.factor, w * self.factor))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with([&dy.contiguous()?], |[dy]| window::upsample_backward(dy, x.dims()[3], self.factor))?;
        tensor(dx, x).map(Some)
    }
}

/// A run of channels.
pub(super) struct Slice {
    pub start: usize,
    pub len: usize,
}

impl CustomOp1 for Slice {
    fn name(&self) -> &'static str {
        "secateurs-slice"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let area = h * w;
        let y = window::slice(slice(x, layout)?, c * area, self.start * area, self.len * area);
        Ok((CpuStorage::F32(y), Shape::from((n, self.len, h, w))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, c, h, w) = x.dims4()?;
        let area = h * w;
        let dx = |[dy]: [&[f32]; 1]| window::slice_backward(dy, c * area, self.start * area, self.len * area);
        tensor(with([&dy.contiguous()?], dx)?, x).map(Some)
    }
}

/// Every channel of `x` `[N, C, H, W]` times its factor `[N, C, 1, 1]`.
pub(super) struct ChannelScale;

impl CustomOp2 for ChannelScale {
    fn name(&self) -> &'static str {
        "secateurs-channel-scale"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, mask: &CpuStorage, lm: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, _, h, w) = lx.shape().dims4()?;
        let y = norm::scale_planes(slice(x, lx)?, slice(mask, lm)?, h * w);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, mask: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, _, h, w) = x.dims4()?;
        let dy = dy.contiguous()?;
        let d_mask = with([x, &dy], |[x, dy]| norm::plane_products(x, dy, h * w))?;
        let dx = if x.track_op() {
            let dx = with([&dy, mask], |[dy, mask]| norm::scale_planes(dy, mask, h * w))?;
            Some(tensor(dx, x)?)
        } else {
            None
        };
        Ok((dx, Some(tensor(d_mask, mask)?)))
    }
}
