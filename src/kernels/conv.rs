//! Dense convolutions of any kernel size, stride and padding.
//!
//! The output is cut into tiles of 6 pixels x 16 channels that stay in registers while the whole window is summed.
//! Kernels are packed once into panels of 16 output channels, tap after tap, so that one step of the sum is 2 vector
//! loads, 6 scalar broadcasts and 12 multiply-adds. Where a window reads is a table of pointers, made for a few tiles
//! at a time: a whole window row in one piece where it lies inside the image, else tap by tap, and zeros outside.
//! The last panel is 8 channels wide if that is enough: a narrow rest costs half a panel.

use super::lanes::{LANES, Lanes, silu};
use super::{Buffer, Kernels, View, for_isa};
use crate::graph::Activation;

/// Output channels of a full panel of packed weights.
pub const PANEL: usize = 16;

/// Pixels of a register tile.
pub(super) const TILE: usize = 6;

/// The most tiles whose windows are looked up at once.
const TILES: usize = 16;

/// The most window pointers per tile for which [`TILES`] tiles are looked up at once.
const TAPS: usize = 32;

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
}

impl ConvSpec {
    fn depth(&self) -> usize {
        self.kernel * self.kernel * self.c_in
    }

    fn tiles(&self) -> usize {
        if self.kernel * self.kernel <= TAPS { TILES } else { 1 }
    }

    /// Values before the first panel, so that panels start on a cache line.
    fn biases(&self) -> usize {
        self.c_out.next_multiple_of(PANEL)
    }

    /// Lanes that the panels have together.
    fn lanes(&self) -> usize {
        self.c_out.next_multiple_of(LANES)
    }
}

/// Values that the packed kernel and biases of a convolution take.
pub fn packed_conv_len(spec: &ConvSpec) -> usize {
    spec.biases() + spec.lanes() * spec.depth()
}

/// Values of working space that a thread needs.
pub fn conv_scratch(spec: &ConvSpec) -> usize {
    spec.tiles() * spec.kernel * spec.kernel * TILE * size_of::<*const f32>() / size_of::<f32>()
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`.
///
/// # Panics
/// If a length is wrong.
pub fn pack_conv(spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (depth, taps) = (spec.depth(), spec.kernel * spec.kernel);
    assert_eq!((weights.len(), bias.len()), (spec.c_out * depth, spec.c_out));
    assert_eq!(packed.len(), packed_conv_len(spec));
    let (biases, panels) = packed.split_at_mut(spec.biases());
    biases.fill(0.0);
    biases[..spec.c_out].copy_from_slice(bias);
    for (panel, values) in panels.chunks_mut(PANEL * depth).enumerate() {
        let width = values.len() / depth;
        for (step, row) in values.chunks_mut(width).enumerate() {
            let (tap, ci) = (step / spec.c_in, step % spec.c_in);
            for (lane, value) in row.iter_mut().enumerate() {
                let co = panel * PANEL + lane;
                *value = if co < spec.c_out { weights[(co * spec.c_in + ci) * taps + tap] } else { 0.0 };
            }
        }
    }
}

/// `dst = act(conv(src) + bias) + residual`, with what [`pack_conv`] packed.
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
    [Some(src), Some(dst), residual].iter().flatten().for_each(|view| view.check(buffer));
    let out = |side: usize| (side + 2 * spec.padding - spec.kernel) / spec.stride + 1;
    assert_eq!((src.c, dst.c, dst.h, dst.w), (spec.c_in, spec.c_out, out(src.h), out(src.w)));
    assert!(src.disjoint(&dst), "{src:?} and {dst:?}");
    assert!(residual.is_none_or(|r| r.disjoint(&dst) && (r.c, r.h, r.w) == (dst.c, dst.h, dst.w)));
    assert_eq!(packed.len(), packed_conv_len(spec));
    assert!(kernels.space >= conv_scratch(spec) && kernels.zeros.as_slice().len() >= spec.kernel * spec.c_in);
    let (chunk, chunks) = kernels.parts(dst.area(), spec.tiles() * TILE, TILE);
    let args = Args {
        spec: *spec,
        // SAFETY: all three views were checked.
        src: unsafe { src.ptr(buffer) },
        dst: unsafe { dst.ptr(buffer) },
        residual: residual.map_or(std::ptr::null(), |r| unsafe { r.ptr(buffer) }),
        view: src,
        pitch: dst.pitch,
        residual_pitch: residual.map_or(0, |r| r.pitch),
        width: dst.w,
        pixels: dst.area(),
        chunk,
        weights: packed[spec.biases()..].as_ptr(),
        bias: packed.as_ptr(),
        zeros: kernels.zeros.ptr(),
        table: kernels.workspace.ptr(),
        space: kernels.space,
    };
    let isa = kernels.isa;
    // SAFETY: the views lie in the buffer, and the output overlaps none that is read. Items write different pixels.
    kernels.pool.run(chunks, &|item, worker| unsafe { run_chunk(isa, &args, item, worker) });
}

struct Args {
    spec: ConvSpec,
    src: *const f32,
    dst: *mut f32,
    residual: *const f32,
    view: View,
    pitch: usize,
    residual_pitch: usize,
    width: usize,
    pixels: usize,
    chunk: usize,
    weights: *const f32,
    bias: *const f32,
    zeros: *const f32,
    table: *mut f32,
    space: usize,
}

// SAFETY: the pointers are those of buffers that outlive the call of `conv`; see there on who writes what.
unsafe impl Sync for Args {}

/// Where the six windows of a tile read next.
pub(super) type Sources = [*const f32; TILE];

for_isa!(run_chunk, chunk, Args);

#[inline(always)]
unsafe fn chunk<V: Lanes>(args: &Args, item: usize, worker: usize) {
    let Args { spec, view, .. } = args;
    let first = item * args.chunk;
    let last = (first + args.chunk).min(args.pixels);
    let tiles = (last - first).div_ceil(TILE);
    let taps = spec.kernel * spec.kernel;
    let mut whole_rows = [false; TILES];
    // SAFETY: every thread has `conv_scratch` values of its own, aligned to 64 bytes.
    let table = unsafe { args.table.add(worker * args.space).cast::<Sources>() };

    // 1. Look up the windows.
    for (tile, whole_rows) in whole_rows.iter_mut().enumerate().take(tiles) {
        // SAFETY: `tiles * taps` entries fit the working space; pointers inside the view are inside the buffer.
        unsafe {
            *whole_rows = look_up(args, first + tile * TILE, last - 1, table.add(tile * taps));
        }
    }

    // 2. Panel after panel, so that a panel stays in the cache for all tiles.
    let depth = spec.depth();
    for start in (0..spec.c_out).step_by(PANEL) {
        let n = (spec.c_out - start).min(PANEL);
        // SAFETY: panels lie one after the other; the output pixel and its channels are inside the view.
        unsafe {
            let panel = Panel {
                weights: args.weights.add(start * depth),
                bias: args.bias.add(start),
                act: spec.act,
                n,
                pitch: args.pitch,
                residual_pitch: args.residual_pitch,
            };
            for (tile, whole_rows) in whole_rows.iter().enumerate().take(tiles) {
                let pixel = first + tile * TILE;
                let (count, len) = if *whole_rows { (spec.kernel, spec.kernel * view.c) } else { (taps, view.c) };
                let sources = std::slice::from_raw_parts(table.add(tile * taps), count);
                let dst = args.dst.add(pixel * args.pitch + start);
                let residual = match args.residual.is_null() {
                    true => args.residual,
                    false => args.residual.add(pixel * args.residual_pitch + start),
                };
                panel.tile::<V>(last - pixel, sources, len, dst, residual);
            }
        }
    }
}

/// Fills the table of a tile; true if every window row is one piece.
#[inline(always)]
unsafe fn look_up(args: &Args, pixel: usize, last: usize, table: *mut Sources) -> bool {
    let Args { spec, view, .. } = args;
    let (k, pad) = (spec.kernel, spec.padding as isize);
    let corner = |i: usize| {
        let p = (pixel + i).min(last);
        let (y, x) = (p / args.width, p % args.width);
        ((y * spec.stride) as isize - pad, (x * spec.stride) as isize - pad)
    };
    let corners: [(isize, isize); TILE] = std::array::from_fn(corner);
    let (h, w) = (view.h as isize, view.w as isize);
    let at = |y: isize, x: isize| {
        // SAFETY: only called for pixels of the view.
        unsafe { args.src.add((y * w + x) as usize * view.pitch) }
    };
    let inside = corners.iter().all(|(_, x)| *x >= 0 && *x + k as isize <= w);
    if inside && (k == 1 || view.pitch == view.c) {
        for ky in 0..k {
            let row = corners.map(|(y, x)| {
                let y = y + ky as isize;
                if (0..h).contains(&y) { at(y, x) } else { args.zeros }
            });
            // SAFETY: the table has `k * k` entries.
            unsafe { table.add(ky).write(row) }
        }
        return true;
    }
    for ky in 0..k {
        for kx in 0..k {
            let tap = corners.map(|(y, x)| {
                let (y, x) = (y + ky as isize, x + kx as isize);
                if (0..h).contains(&y) && (0..w).contains(&x) { at(y, x) } else { args.zeros }
            });
            // SAFETY: the table has `k * k` entries.
            unsafe { table.add(ky * k + kx).write(tap) }
        }
    }
    false
}

/// One panel of weights and what happens to its sums.
pub(super) struct Panel {
    pub weights: *const f32,
    pub bias: *const f32,
    pub act: Activation,
    /// Channels of the panel, up to 16.
    pub n: usize,
    pub pitch: usize,
    pub residual_pitch: usize,
}

impl Panel {
    /// Computes up to six pixels.
    ///
    /// # Safety
    /// `sources` and `len` describe `weights`' whole depth, every source is valid for `len` values; `dst` (and
    /// `residual`, unless null) for `pixels` pixels of `n` channels.
    #[inline(always)]
    pub unsafe fn tile<V: Lanes>(
        &self,
        pixels: usize,
        sources: &[Sources],
        len: usize,
        dst: *mut f32,
        residual: *const f32,
    ) {
        // SAFETY: passed on.
        unsafe {
            match (self.n > LANES, pixels) {
                (true, 6..) => self.sum::<V, 6, 2>(sources, len, dst, residual),
                (true, 5) => self.sum::<V, 5, 2>(sources, len, dst, residual),
                (true, 4) => self.sum::<V, 4, 2>(sources, len, dst, residual),
                (true, 3) => self.sum::<V, 3, 2>(sources, len, dst, residual),
                (true, 2) => self.sum::<V, 2, 2>(sources, len, dst, residual),
                (true, _) => self.sum::<V, 1, 2>(sources, len, dst, residual),
                (false, 6..) => self.sum::<V, 6, 1>(sources, len, dst, residual),
                (false, 5) => self.sum::<V, 5, 1>(sources, len, dst, residual),
                (false, 4) => self.sum::<V, 4, 1>(sources, len, dst, residual),
                (false, 3) => self.sum::<V, 3, 1>(sources, len, dst, residual),
                (false, 2) => self.sum::<V, 2, 1>(sources, len, dst, residual),
                (false, _) => self.sum::<V, 1, 1>(sources, len, dst, residual),
            }
        }
    }

    /// As [`Panel::tile`] for a panel whose rows are 16 wide whatever `n` is, without residual.
    ///
    /// # Safety
    /// As [`Panel::tile`].
    #[inline(always)]
    pub unsafe fn wide_tile<V: Lanes>(&self, pixels: usize, sources: &[Sources], len: usize, dst: *mut f32) {
        let none = std::ptr::null();
        // SAFETY: passed on.
        unsafe {
            match pixels {
                6.. => self.sum::<V, 6, 2>(sources, len, dst, none),
                5 => self.sum::<V, 5, 2>(sources, len, dst, none),
                4 => self.sum::<V, 4, 2>(sources, len, dst, none),
                3 => self.sum::<V, 3, 2>(sources, len, dst, none),
                2 => self.sum::<V, 2, 2>(sources, len, dst, none),
                _ => self.sum::<V, 1, 2>(sources, len, dst, none),
            }
        }
    }

    // Plain index loops, so that the compiler unrolls them and keeps all sums in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn sum<V: Lanes, const M: usize, const N: usize>(
        &self,
        sources: &[Sources],
        len: usize,
        dst: *mut f32,
        residual: *const f32,
    ) {
        // SAFETY: see `tile`.
        unsafe {
            let mut sums = [[V::splat(0.0); N]; M];
            for j in 0..N {
                let bias = V::load(self.bias.add(j * LANES));
                for i in 0..M {
                    sums[i][j] = bias;
                }
            }
            let mut weights = self.weights;
            for source in sources {
                for k in 0..len {
                    let mut row = [V::splat(0.0); N];
                    for j in 0..N {
                        row[j] = V::load(weights.add(j * LANES));
                    }
                    for i in 0..M {
                        let x = V::splat(*source[i].add(k));
                        for j in 0..N {
                            sums[i][j] = x.fma(row[j], sums[i][j]);
                        }
                    }
                    weights = weights.add(N * LANES);
                }
            }
            // The sums go through memory here, so that they stay in registers above.
            let mut out = [0.0f32; TILE * PANEL];
            for i in 0..M {
                for j in 0..N {
                    sums[i][j].store(out.as_mut_ptr().add(i * PANEL + j * LANES));
                }
            }
            self.finish::<V>(M, N, &mut out, dst, residual);
        }
    }

    /// Activation, residual and the way out, for `rows` pixels of `blocks` times eight channels.
    #[inline(always)]
    unsafe fn finish<V: Lanes>(
        &self,
        rows: usize,
        blocks: usize,
        sums: &mut [f32; TILE * PANEL],
        dst: *mut f32,
        residual: *const f32,
    ) {
        // SAFETY: see `tile`; at most 6 rows of 2 blocks.
        unsafe {
            for i in 0..rows {
                for j in 0..blocks {
                    let v = V::load(sums.as_ptr().add(i * PANEL + j * LANES));
                    let v = match self.act {
                        Activation::Identity => v,
                        Activation::Relu => v.max(V::splat(0.0)),
                        Activation::Silu => silu(v),
                    };
                    let to = dst.add(i * self.pitch + j * LANES);
                    let rest = self.n.saturating_sub(j * LANES);
                    if rest >= LANES {
                        if residual.is_null() {
                            v.store(to);
                        } else {
                            v.add(V::load(residual.add(i * self.residual_pitch + j * LANES))).store(to);
                        }
                    } else {
                        v.store_first(to, rest);
                        if !residual.is_null() {
                            for lane in 0..rest {
                                *to.add(lane) += *residual.add(i * self.residual_pitch + j * LANES + lane);
                            }
                        }
                    }
                }
            }
        }
    }
}
