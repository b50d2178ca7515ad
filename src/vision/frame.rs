//! Frames of a camera: bytes that belong to its driver, brought to RGB in an [`Image`] that is used again.
//!
//! NV12 is converted as ITU-R BT.601 defines it for limited range (luma 16 to 235), in integers with 8 bits of
//! fraction; each pair of chroma values serves four pixels, without interpolation.

use super::image::Image;
use thiserror::Error;

/// How the bytes of a frame are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Three bytes for a pixel: red, green, blue.
    Rgb,
    /// Three bytes: blue, green, red.
    Bgr,
    /// Four bytes: red, green, blue, and one that is left out.
    Rgba,
    /// Four bytes: blue, green, red, and one that is left out.
    Bgra,
    /// One byte: luminance.
    Grey,
    /// A plane of luma, one byte for a pixel, then a plane of chroma with half as many rows: Cb and Cr alternate, one
    /// pair for two pixels of two rows. Both planes have the same stride.
    Nv12,
}

/// The largest side of a frame, pixels.
const MAX_SIDE: usize = 1 << 15;

/// A frame whose bytes do not fit its format and size.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// A side that no frame of the format has.
    #[error("a frame of {width} x {height} pixels: expected sides from 1 to {MAX_SIDE}{}", if *.even { ", even ones for NV12" } else { "" })]
    Sides {
        /// Width, pixels.
        width: usize,
        /// Height, pixels.
        height: usize,
        /// Whether the format needs even sides.
        even: bool,
    },
    /// Rows that overlap.
    #[error("a stride of {stride} bytes: expected at least the {least} of a row")]
    Stride {
        /// Bytes from row to row.
        stride: usize,
        /// Bytes of a row.
        least: usize,
    },
    /// Bytes are missing.
    #[error("{found} bytes: expected at least the {least} of a frame")]
    Length {
        /// Bytes that are there.
        found: usize,
        /// Bytes of a frame.
        least: usize,
    },
}

/// A frame in memory that someone else owns.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    format: PixelFormat,
    width: usize,
    height: usize,
    stride: usize,
    data: &'a [u8],
}

impl PixelFormat {
    /// Bytes of a pixel, in the first plane.
    const fn bytes(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba | Self::Bgra => 4,
            Self::Grey | Self::Nv12 => 1,
        }
    }
}

impl<'a> Frame<'a> {
    /// A frame of `width` x `height` pixels whose rows begin `stride` bytes apart. More bytes than a frame's may
    /// follow; the last row need not be filled up to the stride.
    ///
    /// ```
    /// use secateurs::vision::{Frame, Image, PixelFormat};
    /// let camera = [10, 20, 30, 40, 50, 60, 0, 0]; // two pixels, and two bytes up to the stride
    /// let frame = Frame::new(PixelFormat::Bgr, 2, 1, 8, &camera)?;
    /// let mut image = Image::new(0, 0, Vec::new());
    /// frame.write_to(&mut image); // allocates once, for the first frame
    /// assert_eq!(image, Image::new(2, 1, vec![30, 20, 10, 60, 50, 40]));
    /// # Ok::<(), secateurs::vision::FrameError>(())
    /// ```
    ///
    /// # Errors
    /// If a side is zero, too large, or odd where the format needs an even one; if the stride is shorter than a row; or
    /// if there are too few bytes.
    pub fn new(
        format: PixelFormat,
        width: usize,
        height: usize,
        stride: usize,
        data: &'a [u8],
    ) -> Result<Self, FrameError> {
        let even = format == PixelFormat::Nv12;
        let sides = 1..=MAX_SIDE;
        let odd = even && !(width.is_multiple_of(2) && height.is_multiple_of(2));
        if !sides.contains(&width) || !sides.contains(&height) || odd {
            return Err(FrameError::Sides { width, height, even });
        }
        let row = width * format.bytes();
        if stride < row {
            return Err(FrameError::Stride { stride, least: row });
        }
        let rows = if even { height + height / 2 } else { height };
        let least = stride.saturating_mul(rows - 1).saturating_add(row);
        if data.len() < least {
            return Err(FrameError::Length { found: data.len(), least });
        }
        Ok(Self { format, width, height, stride, data })
    }

    /// The pixels of an image as a frame.
    ///
    /// # Errors
    /// If the image has no pixels, or a side that is too large.
    pub fn of(image: &'a Image) -> Result<Self, FrameError> {
        Self::new(PixelFormat::Rgb, image.width(), image.height(), 3 * image.width(), image.data())
    }

    /// Writes the frame's pixels over those of an image, which takes the frame's size. Nothing is allocated where the
    /// image has held a frame of this size before.
    pub fn write_to(&self, image: &mut Image) {
        let pixels = image.resize(self.width, self.height);
        for (y, to) in pixels.chunks_exact_mut(3 * self.width).enumerate() {
            let from = &self.data[y * self.stride..];
            match self.format {
                PixelFormat::Rgb => to.copy_from_slice(&from[..3 * self.width]),
                PixelFormat::Bgr => packed::<3>(from, to, [2, 1, 0]),
                PixelFormat::Rgba => packed::<4>(from, to, [0, 1, 2]),
                PixelFormat::Bgra => packed::<4>(from, to, [2, 1, 0]),
                PixelFormat::Grey => packed::<1>(from, to, [0, 0, 0]),
                PixelFormat::Nv12 => nv12(from, &self.data[(self.height + y / 2) * self.stride..], to),
            }
        }
    }
}

/// Pixels of `N` bytes; `order` says where red, green and blue stand.
fn packed<const N: usize>(from: &[u8], to: &mut [u8], order: [usize; 3]) {
    for (from, to) in from.chunks_exact(N).zip(to.chunks_exact_mut(3)) {
        to.copy_from_slice(&order.map(|place| from[place]));
    }
}

/// A row of NV12: its luma, and the chroma that it shares with a neighbouring row.
fn nv12(luma: &[u8], chroma: &[u8], to: &mut [u8]) {
    let pairs = luma.chunks_exact(2).zip(chroma.chunks_exact(2));
    for ((luma, chroma), to) in pairs.zip(to.chunks_exact_mut(6)) {
        let [blue, red] = [0, 1].map(|i| i32::from(chroma[i]) - 128);
        let added = [409 * red, -100 * blue - 208 * red, 516 * blue];
        for (luma, to) in luma.iter().zip(to.chunks_exact_mut(3)) {
            let luma = 298 * (i32::from(*luma) - 16) + 128;
            to.copy_from_slice(&added.map(|added| ((luma + added) >> 8).clamp(0, 255) as u8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb(format: PixelFormat, [width, height]: [usize; 2], stride: usize, data: &[u8]) -> Vec<u8> {
        let mut image = Image::new(1, 1, vec![0; 3]);
        Frame::new(format, width, height, stride, data).unwrap().write_to(&mut image);
        assert_eq!((image.width(), image.height()), (width, height));
        image.data().to_vec()
    }

    #[test]
    fn every_format_gives_the_same_picture() {
        // Two rows of two pixels, one byte more from row to row; the last row ends early.
        let pixels = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]];
        let expected = pixels.concat();
        let rows = |pixel: &dyn Fn([u8; 3]) -> Vec<u8>| {
            let row = |row: &[[u8; 3]]| row.iter().flat_map(|p| pixel(*p)).collect::<Vec<u8>>();
            [row(&pixels[..2]), vec![99], row(&pixels[2..])].concat()
        };
        type Case<'a> = (PixelFormat, usize, &'a dyn Fn([u8; 3]) -> Vec<u8>);
        let cases: [Case; 4] = [
            (PixelFormat::Rgb, 7, &|[r, g, b]| vec![r, g, b]),
            (PixelFormat::Bgr, 7, &|[r, g, b]| vec![b, g, r]),
            (PixelFormat::Rgba, 9, &|[r, g, b]| vec![r, g, b, 200]),
            (PixelFormat::Bgra, 9, &|[r, g, b]| vec![b, g, r, 200]),
        ];
        for (format, stride, pixel) in cases {
            assert_eq!(rgb(format, [2, 2], stride, &rows(pixel)), expected, "{format:?}");
        }
        assert_eq!(rgb(PixelFormat::Grey, [3, 1], 3, &[5, 6, 7]), [5, 5, 5, 6, 6, 6, 7, 7, 7]);
    }

    #[test]
    fn nv12_gives_the_colours_of_bt_601() {
        // Luma and chroma of colour bars at limited range, and what the defining matrix gives in real numbers.
        for [luma, blue, red] in
            [[16, 128, 128], [235, 128, 128], [82, 90, 240], [145, 54, 34], [41, 240, 110], [180, 44, 142]]
        {
            let data = [luma, luma, luma, luma, blue, red];
            let (y, cb, cr) = (f64::from(luma) - 16.0, f64::from(blue) - 128.0, f64::from(red) - 128.0);
            let scaled = 255.0 / 219.0 * y;
            let exact = [
                scaled + 255.0 / 224.0 * 1.402 * cr,
                scaled - 255.0 / 224.0 * (0.344_136 * cb + 0.714_136 * cr),
                scaled + 255.0 / 224.0 * 1.772 * cb,
            ];
            let found = rgb(PixelFormat::Nv12, [2, 2], 2, &data);
            assert!(found.chunks(3).all(|pixel| pixel == &found[..3]), "{found:?}");
            for (found, exact) in found.iter().zip(exact) {
                assert!(
                    (f64::from(*found) - exact.clamp(0.0, 255.0)).abs() <= 1.5,
                    "{luma} {blue} {red}: {found} {exact}"
                );
            }
        }
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused() {
        let new = |format, width, height, stride, length: usize| {
            Frame::new(format, width, height, stride, &vec![0; length]).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(new(PixelFormat::Rgb, 2, 2, 8, 14), Ok(()));
        assert_eq!(new(PixelFormat::Rgb, 2, 2, 8, 13).unwrap_err(), "13 bytes: expected at least the 14 of a frame");
        assert_eq!(
            new(PixelFormat::Rgb, 2, 2, 5, 99).unwrap_err(),
            "a stride of 5 bytes: expected at least the 6 of a row"
        );
        assert!(new(PixelFormat::Nv12, 3, 2, 4, 99).unwrap_err().ends_with("from 1 to 32768, even ones for NV12"));
        assert!(new(PixelFormat::Grey, 0, 2, 4, 99).unwrap_err().ends_with("from 1 to 32768"));
        assert!(new(PixelFormat::Grey, 1, 2, usize::MAX, 99).unwrap_err().starts_with("99 bytes"));
    }
}
