//! Convolution as matrix products per image; depthwise convolution plane by plane.

use super::fixed::Fixed;
use super::geometry::Geometry;
use super::lanes;
use crate::ranks::tree;
use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;

/// Gradients of a convolution; empty where they were not asked for.
#[derive(Debug, Default)]
pub struct Gradients {
    /// Of the input `[N, c_in, H, W]`.
    pub input: Vec<f32>,
    /// Of the kernel `[c_out, c_in / groups, k, k]`.
    pub kernel: Vec<f32>,
}

/// Images or rows that are one piece of work where the kernel covers the whole image.
const PIECE: usize = 16;

fn rows(data: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, rows, columns)
}

fn rows_mut(data: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(data, rows, columns)
}

/// The first `len` values of a buffer that is kept from use to use; they hold what was written before.
fn reuse(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The patch matrix `[c_in * k * k, images * lines * ow]` of some output lines of some images, one after the other.
fn patches<'a>(
    g: &Geometry,
    x: &[f32],
    (h, w): (usize, usize),
    lines: &Range<usize>,
    scratch: &'a mut Vec<f32>,
) -> &'a [f32] {
    let images = x.len() / (g.c_in * h * w);
    let (area, k2) = (lines.len() * g.side(w), g.kernel * g.kernel);
    let columns = images * area;
    let scratch = reuse(scratch, g.rows() * columns);
    for (image, x) in x.chunks_exact(g.c_in * h * w).enumerate() {
        for (x, rows) in x.chunks_exact(h * w).zip(scratch.chunks_exact_mut(k2 * columns)) {
            for (tap, row) in rows.chunks_exact_mut(columns).enumerate() {
                shifted(g, x, (h, w), (tap / g.kernel, tap % g.kernel), lines, &mut row[image * area..][..area]);
            }
        }
    }
    scratch
}

/// One row of the patch matrix: the plane as the window sees it at one offset, zeros where it sees the padding.
fn shifted(
    g: &Geometry,
    x: &[f32],
    (h, w): (usize, usize),
    (ky, kx): (usize, usize),
    lines: &Range<usize>,
    row: &mut [f32],
) {
    let ((y0, y1), (x0, x1)) = (g.valid(ky, h), g.valid(kx, w));
    for (oy, line) in lines.clone().zip(row.chunks_exact_mut(g.side(w))) {
        if oy < y0 || oy >= y1 {
            line.fill(0.0);
            continue;
        }
        line[..x0].fill(0.0);
        line[x1..].fill(0.0);
        if x0 == x1 {
            continue;
        }
        let from = &x[(oy * g.stride + ky - g.padding) * w + x0 * g.stride + kx - g.padding..];
        if g.stride == 1 {
            line[x0..x1].copy_from_slice(&from[..x1 - x0]);
        } else {
            line[x0..x1].iter_mut().zip(from.iter().step_by(g.stride)).for_each(|(to, x)| *to = *x);
        }
    }
}

/// Planes `[images, channels, area]` as the rows of a matrix `[channels, images * area]`.
fn gather<'a>(planes: &'a [f32], channels: usize, area: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
    let columns = planes.len() / channels;
    if columns == area {
        return planes;
    }
    let scratch = reuse(scratch, planes.len());
    for (image, planes) in planes.chunks_exact(channels * area).enumerate() {
        for (plane, row) in planes.chunks_exact(area).zip(scratch.chunks_exact_mut(columns)) {
            row[image * area..][..area].copy_from_slice(plane);
        }
    }
    scratch
}

/// The inverse of [`gather`].
fn scatter(matrix: &[f32], channels: usize, area: usize, planes: &mut [f32]) {
    let columns = matrix.len() / channels;
    for (image, planes) in planes.chunks_exact_mut(channels * area).enumerate() {
        for (plane, row) in planes.chunks_exact_mut(area).zip(matrix.chunks_exact(columns)) {
            plane.copy_from_slice(&row[image * area..][..area]);
        }
    }
}

/// The numbers of images that are taken together: at most so many, and all of one part. With each its part's number.
fn pieces(parts: &[usize], most: usize) -> Vec<(usize, usize)> {
    let part = |(part, images): (usize, &usize)| {
        let images = *images;
        (0..images).step_by(most).map(move |first| (part, most.min(images - first)))
    };
    parts.iter().enumerate().flat_map(part).collect()
}

/// Splits values into runs, `each` for every image of a piece; runs are empty where there are no values.
fn split<'a>(mut values: &'a [f32], pieces: &[(usize, usize)], each: usize) -> Vec<&'a [f32]> {
    let run = |(_, images): &(usize, usize)| {
        let (run, rest) = values.split_at((images * each).min(values.len()));
        values = rest;
        run
    };
    pieces.iter().map(run).collect()
}

/// As [`split`], to be written to.
fn split_mut<'a>(mut values: &'a mut [f32], pieces: &[(usize, usize)], each: usize) -> Vec<&'a mut [f32]> {
    let run = |(_, images): &(usize, usize)| {
        let rest = std::mem::take(&mut values);
        let len = (images * each).min(rest.len());
        let (run, rest) = rest.split_at_mut(len);
        values = rest;
        run
    };
    pieces.iter().map(run).collect()
}

/// The outputs `[N, c_out, oh, ow]` for images `[N, c_in, h, w]` and a kernel `[c_out, c_in / groups, k, k]`. No images
/// of different parts of the batch share a product, so that what is computed for a part does not depend on the others;
/// `parts` are their numbers of images.
pub fn forward(g: &Geometry, x: &[f32], kernel: &[f32], (h, w): (usize, usize), parts: &[usize]) -> Vec<f32> {
    let (area, n) = (g.area(h, w), x.len() / (g.c_in * h * w));
    let mut y = vec![0.0; n * g.c_out * area];
    if g.depthwise {
        let taps = g.kernel * g.kernel;
        y.par_chunks_exact_mut(area).zip(x.par_chunks_exact(h * w)).enumerate().for_each(|(i, (y, x))| {
            lanes::depthwise(g, (h, w), &kernel[i % g.c_out * taps..][..taps], x, y);
        });
        return y;
    }
    let (inner, outer) = (g.c_in * h * w, g.c_out * area);
    if g.covers_image((h, w)) {
        let kernel = rows(kernel, g.c_out, g.rows()).transpose();
        let pieces = pieces(parts, PIECE);
        let xs = split(x, &pieces, inner);
        split_mut(&mut y, &pieces, outer).into_par_iter().zip(xs).for_each(|(y, x)| {
            let n = x.len() / inner;
            matmul(rows_mut(y, n, outer), Accum::Replace, rows(x, n, inner), kernel, 1.0, Par::Seq);
        });
        return y;
    }
    let kernel = rows(kernel, g.c_out, g.rows());
    let pieces = pieces(parts, g.images_per_product(h, w));
    let xs = split(x, &pieces, inner);
    let products = split_mut(&mut y, &pieces, outer).into_par_iter().zip(xs);
    products.for_each_init(Scratch::default, |scratch, (y, x)| {
        let columns = x.len() / inner * area;
        if columns > area {
            let patches = patches(g, x, (h, w), &(0..g.side(h)), &mut scratch.patches);
            let matrix = reuse(&mut scratch.outputs, y.len());
            let product = rows_mut(matrix, g.c_out, columns);
            matmul(product, Accum::Replace, kernel, rows(patches, g.rows(), columns), 1.0, Par::Seq);
            scatter(matrix, g.c_out, area, y);
            return;
        }
        let mut y = rows_mut(y, g.c_out, area);
        if g.is_pointwise() {
            matmul(y, Accum::Replace, kernel, rows(x, g.rows(), area), 1.0, Par::Seq);
            return;
        }
        for lines in g.bands((h, w)) {
            let (from, columns) = (lines.start * g.side(w), lines.len() * g.side(w));
            let patches = rows(patches(g, x, (h, w), &lines, &mut scratch.patches), g.rows(), columns);
            matmul(y.rb_mut().subcols_mut(from, columns), Accum::Replace, kernel, patches, 1.0, Par::Seq);
        }
    });
    y
}

/// The gradients for those of the outputs, `dy` `[N, c_out, oh, ow]`; `wanted` is input, kernel. The kernel's is added
/// up part by part of the batch, and the parts as a [`tree`].
pub fn backward(
    g: &Geometry,
    x: &[f32],
    kernel: &[f32],
    dy: &[f32],
    (h, w): (usize, usize),
    wanted: [bool; 2],
    parts: &[usize],
) -> Gradients {
    let [want_input, want_kernel] = wanted;
    let mut dx = vec![0.0; if want_input { x.len() } else { 0 }];
    let zeros = || vec![0.0; if want_kernel { kernel.len() } else { 0 }];
    if g.covers_image((h, w)) {
        let dks = covering(g, [x, kernel, dy], &mut dx, want_kernel, parts);
        return Gradients { input: dx, kernel: tree(dks) };
    }
    // A depthwise convolution goes plane by plane, any other some images at a time.
    let (planes, together) = if g.depthwise { (g.c_out, 1) } else { (1, g.images_per_product(h, w)) };
    let images = pieces(parts, together);
    let repeat = |piece: &(usize, usize)| std::iter::repeat_n(*piece, planes);
    let pieces: Vec<(usize, usize)> = images.iter().flat_map(repeat).collect();
    let inner = if g.depthwise { h * w } else { g.c_in * h * w };
    let outer = if g.depthwise { g.area(h, w) } else { g.c_out * g.area(h, w) };
    let pass = Backward { geometry: g, kernel, size: (h, w), want_input, want_kernel };
    let (into, xs) = (split_mut(&mut dx, &pieces, inner), split(x, &pieces, inner));
    let products = into.into_par_iter().zip(xs).zip(split(dy, &pieces, outer)).enumerate();
    let products: Vec<Vec<f32>> = products
        .map_init(Scratch::default, |scratch, (i, ((dx, x), dy))| {
            if g.depthwise {
                let taps = g.kernel * g.kernel;
                let mut part = vec![0.0; if want_kernel { taps } else { 0 }];
                if want_kernel {
                    lanes::depthwise_dw(g, (h, w), x, dy, &mut part);
                }
                if want_input {
                    lanes::depthwise_dx(g, (h, w), &kernel[i % g.c_out * taps..][..taps], dy, dx);
                }
                return part;
            }
            pass.images(x, dy, dx, scratch)
        })
        .collect();
    let mut dks: Vec<Vec<f32>> = parts.iter().map(|_| zeros()).collect();
    for (i, (product, (part, _))) in products.iter().zip(&pieces).enumerate().filter(|_| want_kernel) {
        let at = i * product.len() % kernel.len();
        lanes::accumulate(product, &mut dks[*part][at..at + product.len()]);
    }
    Gradients { input: dx, kernel: tree(dks) }
}

/// As [`forward`], with a kernel that no gradient will be asked for.
pub fn forward_fixed(g: &Geometry, x: &[f32], kernel: &[f32], size: (usize, usize), parts: &[usize]) -> Vec<f32> {
    let whole = || {
        let mut y = vec![0.0; x.len() / (g.c_in * size.0 * size.1) * g.c_out * g.area(size.0, size.1)];
        Fixed::forward(g, kernel, size)?.run(x, &mut y).map(|()| y)
    };
    whole().unwrap_or_else(|| forward(g, x, kernel, size, parts))
}

/// The gradient of the input `[N, c_in, h, w]` alone, for that of the outputs.
pub fn backward_fixed(
    g: &Geometry,
    x: &[f32],
    kernel: &[f32],
    dy: &[f32],
    size: (usize, usize),
    parts: &[usize],
) -> Gradients {
    let whole = || {
        let mut input = vec![0.0; x.len()];
        Fixed::backward(g, kernel, size)?.run(dy, &mut input).map(|()| Gradients { input, kernel: Vec::new() })
    };
    whole().unwrap_or_else(|| backward(g, x, kernel, dy, size, [true, false], parts))
}

/// Matrices kept from images to images.
#[derive(Default)]
struct Scratch {
    patches: Vec<f32>,
    gradient: Vec<f32>,
    outputs: Vec<f32>,
}

/// Both gradients where the window covers the image: that of the input in `dx`, unless it is empty, and the kernel's
/// from each part.
fn covering(
    g: &Geometry,
    [x, kernel, dy]: [&[f32]; 3],
    dx: &mut [f32],
    want_kernel: bool,
    parts: &[usize],
) -> Vec<Vec<f32>> {
    let (k, c) = (g.rows(), g.c_out);
    let pieces = pieces(parts, PIECE);
    let inputs = split_mut(dx, &pieces, k).into_par_iter().zip(split(dy, &pieces, c));
    inputs.filter(|(dx, _)| !dx.is_empty()).for_each(|(dx, dy)| {
        let n = dx.len() / k;
        matmul(rows_mut(dx, n, k), Accum::Replace, rows(dy, n, c), rows(kernel, c, k), 1.0, Par::Seq);
    });
    if !want_kernel {
        return Vec::new();
    }
    let whole: Vec<(usize, usize)> = parts.iter().copied().enumerate().collect();
    let of_part = |(x, dy): (&[f32], &[f32])| {
        let (n, mut dk) = (x.len() / k, vec![0.0; c * k]);
        dk.par_chunks_mut(PIECE * k).enumerate().filter(|_| n > 0).for_each(|(piece, dk)| {
            let dy = rows(dy, n, c).subcols(piece * PIECE, dk.len() / k).transpose();
            matmul(rows_mut(dk, dk.len() / k, k), Accum::Replace, dy, rows(x, n, k), 1.0, Par::Seq);
        });
        dk
    };
    split(x, &whole, k).into_iter().zip(split(dy, &whole, c)).map(of_part).collect()
}

/// What the gradients of all images share.
struct Backward<'a> {
    geometry: &'a Geometry,
    kernel: &'a [f32],
    /// Height and width of the images.
    size: (usize, usize),
    want_input: bool,
    want_kernel: bool,
}

impl Backward<'_> {
    /// Computes the gradient of some images `x` from that of their outputs, `dy`, in `dx`, which comes in as zeros;
    /// returns their part of the kernel's.
    fn images(&self, x: &[f32], dy: &[f32], dx: &mut [f32], scratch: &mut Scratch) -> Vec<f32> {
        let Self { geometry: g, kernel, size: (h, w), want_input, want_kernel } = *self;
        let (k, area) = (g.rows(), g.area(h, w));
        let columns = dy.len() / g.c_out;
        let dy = rows(gather(dy, g.c_out, area, &mut scratch.outputs), g.c_out, columns);
        let transposed = rows(kernel, g.c_out, k).transpose();
        let mut dk = vec![0.0; if want_kernel { g.c_out * k } else { 0 }];
        if g.is_pointwise() && columns == area {
            if want_kernel {
                matmul(rows_mut(&mut dk, g.c_out, k), Accum::Replace, dy, rows(x, k, area).transpose(), 1.0, Par::Seq);
            }
            if want_input {
                matmul(rows_mut(dx, k, area), Accum::Replace, transposed, dy, 1.0, Par::Seq);
            }
            return dk;
        }
        let whole = std::iter::once(0..g.side(h));
        // Images that are taken together are small.
        let bands: Vec<Range<usize>> = if columns > area { whole.collect() } else { g.bands((h, w)).collect() };
        for lines in bands {
            let ow = g.side(w);
            let dy = if columns > area { dy } else { dy.subcols(lines.start * ow, lines.len() * ow) };
            if want_kernel {
                let patches = rows(patches(g, x, (h, w), &lines, &mut scratch.patches), k, dy.ncols());
                matmul(rows_mut(&mut dk, g.c_out, k), Accum::Add, dy, patches.transpose(), 1.0, Par::Seq);
            }
            if want_input {
                let gradient = reuse(&mut scratch.gradient, k * dy.ncols());
                matmul(rows_mut(gradient, k, dy.ncols()), Accum::Replace, transposed, dy, 1.0, Par::Seq);
                for (image, dx) in dx.chunks_exact_mut(g.c_in * h * w).enumerate() {
                    lanes::add_patches(g, (h, w), &lines, &gradient[image * area..], dy.ncols(), dx);
                }
            }
        }
        dk
    }
}
