//! Fits an image into the network's input: scaled to fit, centred, the rest grey.
//!
//! Scaling is bilinear with half-pixel centres in the fixed-point arithmetic that camera pipelines built on OpenCV use
//! (11-bit weights); an exact scaling by 1/2 averages blocks of four, as there. Models are trained and judged on such
//! images.

use super::Image;
use super::boxes::{Rotated, Xyxy};

/// Grey of the border.
const PAD: u8 = 114;

/// Bits of an interpolation weight.
const BITS: u32 = 11;

/// The placement of a source image in the network's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    source: (usize, usize),
    input: (usize, usize),
    content: (usize, usize),
    offset: (usize, usize),
    gain: f64,
}

/// Buffers that scaling uses again from image to image.
#[derive(Clone, Debug, Default)]
pub struct ResizeBuffers {
    line: Vec<u8>,
    columns: Vec<Tap>,
    /// Rows of the image that are blended across, and their numbers.
    rows: [(usize, Vec<i32>); 2],
}

/// Where an output pixel takes its two source pixels along one axis, and the weights.
#[derive(Clone, Copy, Debug)]
struct Tap {
    at: [usize; 2],
    weight: [i32; 2],
}

impl Letterbox {
    /// Places a `width` x `height` image into an input of `input_width` x `input_height`.
    pub fn new(width: usize, height: usize, input_width: usize, input_height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let gain = (input_height as f64 / height as f64).min(input_width as f64 / width as f64);
        let scaled = |side: usize, most: usize| ((side as f64 * gain).round_ties_even() as usize).clamp(1, most.max(1));
        let content = (scaled(width, input_width), scaled(height, input_height));
        let border =
            |inner: usize, outer: usize| ((outer - inner.min(outer)) as f64 / 2.0 - 0.1).round().max(0.0) as usize;
        let offset = (border(content.0, input_width), border(content.1, input_height));
        Self { source: (width, height), input: (input_width, input_height), content, offset, gain }
    }

    /// Writes the input tensor, 0 to 1: `[3, H, W]` red, green and blue, or `[1, H, W]` brightness.
    ///
    /// # Panics
    /// If the image is not of the size this placement was made for, or `out` is neither `3 * H * W` nor `H * W` long.
    pub fn forward(&self, image: &Image, out: &mut [f32]) {
        self.forward_with(image, out, &mut ResizeBuffers::default());
    }

    /// As [`Letterbox::forward`], and allocates only where the buffers have served no image as wide before.
    ///
    /// # Panics
    /// As [`Letterbox::forward`].
    pub fn forward_with(&self, image: &Image, out: &mut [f32], buffers: &mut ResizeBuffers) {
        let (w, h) = self.input;
        assert!(out.len() == 3 * w * h || out.len() == w * h, "the input tensor");
        let shades: [f32; 256] = std::array::from_fn(|byte| byte as f32 / 255.0);
        if out.len() == 3 * w * h {
            self.colours(image, out, &shades, buffers);
            return;
        }
        self.border(out, shades[usize::from(PAD)]);
        let ((left, top), (cw, _)) = (self.offset, self.content);
        self.rows(image, buffers, |y, line| {
            let at = (top + y) * w + left;
            for (grey, pixel) in out[at..at + cw].iter_mut().zip(line.chunks_exact(3)) {
                *grey = luma([pixel[0], pixel[1], pixel[2]].map(|byte| shades[usize::from(byte)]));
            }
        });
    }

    /// Writes the bytes `[3, H, W]` of red, green and blue that [`Letterbox::forward_with`] makes values of.
    ///
    /// # Panics
    /// If the image is not of the size this placement was made for, or `out` is not `3 * H * W` long.
    pub fn bytes_with(&self, image: &Image, out: &mut [u8], buffers: &mut ResizeBuffers) {
        self.colours(image, out, &std::array::from_fn(|byte| byte as u8), buffers);
    }

    /// Fills what the image does not cover.
    fn border<T: Copy>(&self, out: &mut [T], pad: T) {
        let ((w, h), (left, top), (cw, ch)) = (self.input, self.offset, self.content);
        // Rows above and below, then what is left and right of the content.
        let (first, last) = (top * w, (top + ch) * w);
        for plane in out.chunks_exact_mut(w * h) {
            plane[..first].fill(pad);
            plane[last..].fill(pad);
            for row in plane[first..last].chunks_exact_mut(w) {
                row[..left].fill(pad);
                row[left + cw..].fill(pad);
            }
        }
    }

    /// Writes three planes; `shades` are what bytes become.
    fn colours<T: Copy>(&self, image: &Image, out: &mut [T], shades: &[T; 256], buffers: &mut ResizeBuffers) {
        let (w, h) = self.input;
        assert_eq!(out.len(), 3 * w * h, "the input tensor");
        self.border(out, shades[usize::from(PAD)]);
        let ((left, top), (cw, _)) = (self.offset, self.content);
        let (red, rest) = out.split_at_mut(w * h);
        let (green, blue) = rest.split_at_mut(w * h);
        self.rows(image, buffers, |y, line| {
            let at = (top + y) * w + left;
            let planes = red[at..at + cw].iter_mut().zip(&mut green[at..at + cw]).zip(&mut blue[at..at + cw]);
            for (((r, g), b), pixel) in planes.zip(line.chunks_exact(3)) {
                [*r, *g, *b] = [pixel[0], pixel[1], pixel[2]].map(|byte| shades[usize::from(byte)]);
            }
        });
    }

    /// The scaled image alone, without the border.
    ///
    /// # Panics
    /// If the image is not of the size this placement was made for.
    pub fn resize(&self, image: &Image) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 * self.content.0 * self.content.1);
        self.rows(image, &mut ResizeBuffers::default(), |_, line| out.extend_from_slice(line));
        out
    }

    /// Gives the rows of the scaled image one after the other.
    fn rows(&self, image: &Image, buffers: &mut ResizeBuffers, mut give: impl FnMut(usize, &[u8])) {
        assert_eq!((image.width(), image.height()), self.source, "the source image");
        let ((sw, sh), (cw, ch)) = (self.source, self.content);
        let source = |row: usize| &image.data()[3 * row * sw..3 * (row + 1) * sw];
        if (sw, sh) == (cw, ch) {
            (0..ch).for_each(|y| give(y, source(y)));
            return;
        }
        let ResizeBuffers { line, columns, rows } = buffers;
        line.resize(3 * cw, 0);
        if (sw, sh) == (2 * cw, 2 * ch) {
            for y in 0..ch {
                downscale_by_2(source(2 * y), source(2 * y + 1), line);
                give(y, line);
            }
            return;
        }
        columns.clear();
        columns.extend((0..cw).map(|x| column(x, sw, cw)));
        // Rows are blended across once and kept for the next output row, which mostly needs the same two.
        for (number, row) in rows.iter_mut() {
            *number = usize::MAX;
            row.resize(3 * cw, 0);
        }
        for y in 0..ch {
            let Tap { at, weight } = row(y, sh, ch);
            for (slot, row) in at.into_iter().enumerate() {
                if rows[slot].0 == row {
                    continue;
                }
                // The lower row of the last pair is often the upper row of this one.
                if slot == 0 && rows[1].0 == row {
                    rows.swap(0, 1);
                    continue;
                }
                across(source(row), columns, &mut rows[slot].1);
                rows[slot].0 = row;
            }
            for (o, (a, b)) in line.iter_mut().zip(rows[0].1.iter().zip(&rows[1].1)) {
                let blend = ((weight[0] * (a >> 4)) >> 16) + ((weight[1] * (b >> 4)) >> 16);
                *o = ((blend + 2) >> 2).clamp(0, 255) as u8;
            }
            give(y, line);
        }
    }

    /// A box of the input in pixels of the source image, clipped to its borders.
    pub fn to_source(&self, bbox: Xyxy) -> Xyxy {
        let back = |value: f32, offset: usize, side: usize| {
            ((value - offset as f32) / self.gain as f32).clamp(0.0, side as f32)
        };
        let x = |v| back(v, self.offset.0, self.source.0);
        let y = |v| back(v, self.offset.1, self.source.1);
        let [left, top, right, bottom] = bbox.0;
        Xyxy([x(left), y(top), x(right), y(bottom)])
    }

    /// Columns and rows of the source image.
    pub fn source(&self) -> [usize; 2] {
        [self.source.0, self.source.1]
    }

    /// A place of the input in pixels of the source image; it may lie outside.
    pub fn point_to_source(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let gain = self.gain as f32;
        [(x - self.offset.0 as f32) / gain, (y - self.offset.1 as f32) / gain]
    }

    /// A rotated box of the input in pixels of the source image.
    pub fn rotated_to_source(&self, bbox: Rotated) -> Rotated {
        let size = bbox.size.map(|side| side / self.gain as f32);
        Rotated { centre: self.point_to_source(bbox.centre), size, ..bbox }
    }

    /// A box of the source image in pixels of the input.
    pub fn to_input(&self, bbox: Xyxy) -> Xyxy {
        let [left, top, right, bottom] = bbox.0;
        let ([x0, y0], [x1, y1]) = (self.point_to_input([left, top]), self.point_to_input([right, bottom]));
        Xyxy([x0, y0, x1, y1])
    }

    /// A place of the source image in pixels of the input.
    pub fn point_to_input(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let gain = [self.content.0 as f32 / self.source.0 as f32, self.content.1 as f32 / self.source.1 as f32];
        [x * gain[0] + self.offset.0 as f32, y * gain[1] + self.offset.1 as f32]
    }
}

/// The pair of source pixels around the centre of output pixel `out`: the lower one's number and the upper one's share.
fn around(out: usize, source: usize, content: usize) -> (isize, f32) {
    let scale = source as f64 / content as f64;
    let position = ((out as f64 + 0.5) * scale - 0.5) as f32;
    let low = position.floor();
    (low as isize, position - low)
}

/// Along a row, a pair that reaches out of the image gives all its weight to the border pixel.
fn column(out: usize, source: usize, content: usize) -> Tap {
    let (low, share) = around(out, source, content);
    let outside = low < 0 || low + 1 >= source as isize;
    tap(low, if outside { 0.0 } else { share }, source)
}

/// Down a column the weights do not change, and both may fall on the border pixel: the same value but for rounding,
/// which is the reference's.
fn row(out: usize, source: usize, content: usize) -> Tap {
    let (low, share) = around(out, source, content);
    tap(low, share, source)
}

fn tap(low: isize, share: f32, source: usize) -> Tap {
    let whole = f32::from(1u16 << BITS);
    let weight = [((1.0 - share) * whole).round_ties_even() as i32, (share * whole).round_ties_even() as i32];
    let inside = |at: isize| at.clamp(0, source as isize - 1) as usize;
    Tap { at: [inside(low), inside(low + 1)], weight }
}

fn across(row: &[u8], columns: &[Tap], out: &mut [i32]) {
    for (tap, pixel) in columns.iter().zip(out.chunks_exact_mut(3)) {
        let (a, b) = (&row[3 * tap.at[0]..][..3], &row[3 * tap.at[1]..][..3]);
        for ((value, a), b) in pixel.iter_mut().zip(a).zip(b) {
            *value = i32::from(*a) * tap.weight[0] + i32::from(*b) * tap.weight[1];
        }
    }
}

/// Means of blocks of two by two pixels.
fn downscale_by_2(top: &[u8], bottom: &[u8], out: &mut [u8]) {
    for ((pixel, top), bottom) in out.chunks_exact_mut(3).zip(top.chunks_exact(6)).zip(bottom.chunks_exact(6)) {
        for (c, value) in pixel.iter_mut().enumerate() {
            let sum = [top[c], top[c + 3], bottom[c], bottom[c + 3]].map(u16::from).iter().sum::<u16>();
            *value = ((sum + 2) >> 2) as u8;
        }
    }
}

/// The shares of red, green and blue in the brightness (ITU-R BT.601).
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// The brightness of a colour, 0 to 1; of a grey it is exactly that grey.
pub(super) fn luma([r, g, b]: [f32; 3]) -> f32 {
    g + LUMA[0] * (r - g) + LUMA[2] * (b - g)
}
