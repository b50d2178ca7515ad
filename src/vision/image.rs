//! 8-bit RGB images, read with bounds and turned upright.

use super::jpeg::{self, End};
use crate::files::{self, Inputs};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The largest side that is read, pixels.
const MAX_SIDE: u32 = 1 << 15;

/// The most memory a decoder may use, bytes.
const MAX_ALLOC: u64 = 1 << 30;

/// The largest image file that is read, bytes.
const MAX_FILE: u64 = 256 << 20;

/// An RGB image; by default one without pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

/// An image that cannot be read or written.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are no image that we read.
    #[error("{path}: not a readable image: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        problem: String,
    },
    /// A picture without its lower part; decoders fill that with grey.
    #[error("{path}: is cut off: the file ends before the picture does; copy it again, or take it out")]
    CutOff {
        /// The file.
        path: PathBuf,
    },
}

impl Image {
    /// An image of interleaved RGB bytes.
    ///
    /// # Panics
    /// If the length is not `3 * width * height`.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), 3 * width * height, "{width} x {height}");
        Self { width, height, data }
    }

    /// Reads an image file and turns it as its EXIF orientation says: JPEG and PNG; with the feature `tools` WebP, BMP
    /// and TIFF as well. The content decides, not the name.
    ///
    /// # Errors
    /// If the file cannot be read, is no image, is cut off, or is larger than the bounds.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::decode(path, &read(path)?)
    }

    /// As [`Image::open`], but of a picture that is cut off what there is: then the second value is true.
    ///
    /// # Errors
    /// If the file cannot be read, is no image, or is larger than the bounds.
    pub fn open_partial(path: &Path) -> Result<(Self, bool), ImageError> {
        Self::decode_partial(path, &read(path)?)
    }

    /// Width and height of an image file, from its head alone.
    ///
    /// # Errors
    /// As [`Image::open`], as far as the head shows it.
    pub fn sides(path: &Path) -> Result<[usize; 2], ImageError> {
        let io = |source| ImageError::Io { path: path.into(), source };
        let fail = |problem: String| ImageError::Format { path: path.into(), problem };
        let facts = std::fs::metadata(path).map_err(io)?;
        if !facts.is_file() || facts.len() > MAX_FILE {
            let problem = if facts.is_file() { "is too large" } else { "is no file" };
            return Err(fail(problem.into()));
        }
        let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(io)?;
        let (width, height) = reader.into_dimensions().map_err(|e| fail(e.to_string()))?;
        if width == 0 || height == 0 || width.max(height) > MAX_SIDE {
            return Err(fail(format!("has {width} x {height} pixels, expected sides from 1 to {MAX_SIDE}")));
        }
        Ok([width as usize, height as usize])
    }

    /// Refuses a file whose head cannot be read, or whose end is missing. Only what does not end as JPEG and PNG files
    /// do is decoded for that; the end of other formats is not looked at.
    ///
    /// # Errors
    /// As [`Image::open`], as far as head and end show it.
    pub fn check(path: &Path) -> Result<(), ImageError> {
        Self::sides(path)?;
        let whole = ends(path).map_err(|source| ImageError::Io { path: path.into(), source })?;
        if whole { Ok(()) } else { Self::open(path).map(drop) }
    }

    /// Reads an image from the bytes of its file; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self, ImageError> {
        match Self::decode_partial(path, bytes)? {
            (image, false) => Ok(image),
            (_, true) => Err(ImageError::CutOff { path: path.into() }),
        }
    }

    /// As [`Image::open_partial`], from the bytes of a file.
    ///
    /// # Errors
    /// As [`Image::open_partial`].
    pub fn decode_partial(path: &Path, bytes: &[u8]) -> Result<(Self, bool), ImageError> {
        let image = pixels(path, bytes)?;
        let cut_off = match jpeg::end(bytes) {
            Some(End::Marked) | None => false,
            Some(End::CutOff) => true,
            Some(End::Unmarked) => {
                // Where nothing but the end's mark is missing, what is put behind the data has no pixel to change.
                let longer = pixels(path, &[bytes, jpeg::FILLER, jpeg::END].concat());
                longer.is_ok_and(|longer| longer != image)
            }
        };
        Ok((image, cut_off))
    }

    /// Writes a PNG or JPEG file, as its name ends.
    ///
    /// # Errors
    /// If the name ends otherwise, or the image cannot be encoded or written.
    pub fn save(&self, path: &Path) -> Result<(), ImageError> {
        self.save_except(path, &Inputs::default())
    }

    /// As [`Image::save`], but refuses to replace one of the inputs.
    ///
    /// # Errors
    /// As [`Image::save`], and if the file is an input.
    pub fn save_except(&self, path: &Path, inputs: &Inputs) -> Result<(), ImageError> {
        let ends = |end: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
        let format = match () {
            () if ends("jpg") || ends("jpeg") => image::ImageFormat::Jpeg,
            () if ends("png") => image::ImageFormat::Png,
            () => {
                let problem = "expected a name that ends in .png, .jpg or .jpeg: other formats are not written";
                let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
                return Err(ImageError::Io { path: path.into(), source });
            }
        };
        let fail = |problem: String| ImageError::Format { path: path.into(), problem };
        let rgb = image::RgbImage::from_raw(self.width as u32, self.height as u32, self.data.clone());
        let rgb = rgb.ok_or_else(|| fail("its sides do not fit its bytes".into()))?;
        let mut bytes = Cursor::new(Vec::new());
        rgb.write_to(&mut bytes, format).map_err(|e| fail(e.to_string()))?;
        let written = files::write_except(path, bytes.get_ref(), inputs);
        written.map_err(|source| ImageError::Io { path: path.into(), source })
    }

    /// The bytes of a JPEG file, `quality` from 1 to 100.
    ///
    /// # Errors
    /// If the image cannot be encoded.
    pub fn jpeg(&self, quality: u8) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
        let encoded = encoder.encode(&self.data, self.width as u32, self.height as u32, image::ExtendedColorType::Rgb8);
        encoded.map_err(|e| ImageError::Format { path: PathBuf::from("(in memory)"), problem: e.to_string() })?;
        Ok(bytes)
    }

    /// The image with its longer side at most `side` pixels, every pixel the mean of those it stands for.
    pub fn shrunk(&self, side: usize) -> Self {
        let longer = self.width.max(self.height);
        if longer <= side || side == 0 {
            return self.clone();
        }
        let scaled = |length: usize| (length * side / longer).max(1);
        let (width, height) = (scaled(self.width), scaled(self.height));
        let mut data = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let span = |at: usize, to: usize, of: usize| at * of / to..((at + 1) * of / to).max(at * of / to + 1);
                let (rows, columns) = (span(y, height, self.height), span(x, width, self.width));
                let mut sums = [0usize; 3];
                let count = rows.len() * columns.len();
                for row in rows {
                    let pixels =
                        &self.data[3 * (row * self.width + columns.start)..3 * (row * self.width + columns.end)];
                    for pixel in pixels.chunks_exact(3) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += usize::from(*value));
                    }
                }
                data.extend(sums.map(|sum| (sum / count) as u8));
            }
        }
        Self { width, height, data }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Interleaved RGB bytes, row after row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Gives the image another size, and its pixels to be written. It allocates only where it has never been so large.
    pub(super) fn resize(&mut self, width: usize, height: usize) -> &mut [u8] {
        (self.width, self.height) = (width, height);
        self.data.resize(3 * width * height, 0);
        &mut self.data
    }
}

/// Whether a file ends as whole ones of its kind do, as far as that is known.
fn ends(path: &Path) -> std::io::Result<bool> {
    let mut file = crate::files::open(path)?;
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    file.read_exact(&mut head)?;
    file.seek(SeekFrom::End(-(tail.len() as i64)))?;
    file.read_exact(&mut tail)?;
    Ok(match head {
        [0xff, 0xd8, ..] => tail.ends_with(jpeg::END),
        [0x89, b'P', b'N', b'G'] => tail == *b"IEND\xae\x42\x60\x82",
        _ => true,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    crate::files::read(path, MAX_FILE).map_err(|source| ImageError::Io { path: path.into(), source })
}

/// What the decoder makes of the bytes, upright.
fn pixels(path: &Path, bytes: &[u8]) -> Result<Image, ImageError> {
    let fail = |problem: String| ImageError::Format { path: path.into(), problem };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| fail(e.to_string()))?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| fail(e.to_string()))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| fail(e.to_string()))?;
    image.apply_orientation(orientation);
    let rgb = image.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    if width == 0 || height == 0 {
        return Err(fail("has no pixels".into()));
    }
    Ok(Image { width, height, data: rgb.into_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_takes_means_and_keeps_the_shape() {
        let image = Image::new(4, 2, [[10u8; 3], [20; 3], [30; 3], [50; 3]].concat().repeat(2));
        let small = image.shrunk(2);
        assert_eq!((small.width(), small.height()), (2, 1));
        assert_eq!(small.data(), [[15; 3], [40; 3]].concat());
        assert_eq!(image.shrunk(4), image);
    }

    #[test]
    fn a_jpeg_reads_back() {
        let bytes = Image::new(16, 8, vec![90; 384]).jpeg(80).unwrap();
        let image = Image::decode(Path::new("a.jpg"), &bytes).unwrap();
        assert_eq!((image.width(), image.height()), (16, 8));
        assert!(image.data().iter().all(|v| v.abs_diff(90) < 4));
    }

    #[test]
    fn a_picture_without_its_lower_part_is_refused_and_only_then() {
        let noise = |seed: usize| (0..3 * 64 * 64).map(|i| ((i * 7919 + seed) % 251) as u8).collect();
        let whole = Image::new(64, 64, noise(1)).jpeg(80).unwrap();
        let (decode, partial) = (|b: &[u8]| Image::decode(Path::new("a.jpg"), b), Image::decode_partial);
        let image = decode(&whole).unwrap();
        let trailer = [&whole[..], b"appended by a phone"].concat();
        assert!(decode(&trailer).unwrap() == image, "bytes behind the end");
        let unmarked = &whole[..whole.len() - 2];
        assert!(decode(unmarked).unwrap() == image, "only the end's mark is missing");
        for length in [whole.len() / 3, whole.len() / 2, whole.len() - 40] {
            let cut = &whole[..length];
            let error = decode(cut).unwrap_err().to_string();
            assert!(error.starts_with("a.jpg: is cut off"), "{length}: {error}");
            assert!(matches!(partial(Path::new("a.jpg"), cut), Ok((image, true)) if image.height() == 64), "{length}");
        }
    }
}
