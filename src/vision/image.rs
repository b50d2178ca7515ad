//! 8-bit RGB images, read with bounds and turned upright.

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The largest side that is read, pixels.
const MAX_SIDE: u32 = 1 << 15;

/// The most memory a decoder may use, bytes.
const MAX_ALLOC: u64 = 1 << 30;

/// The largest image file that is read, bytes.
const MAX_FILE: u64 = 256 << 20;

/// An RGB image.
#[derive(Clone, Debug, PartialEq)]
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
    #[error("{path}: not a readable JPEG or PNG image: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        problem: String,
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

    /// Reads a JPEG or PNG file and turns it as its EXIF orientation says.
    ///
    /// # Errors
    /// If the file cannot be read, is no image, or is larger than the bounds.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let bytes =
            crate::files::read(path, MAX_FILE).map_err(|source| ImageError::Io { path: path.into(), source })?;
        Self::decode(path, &bytes)
    }

    /// Reads an image from the bytes of its file; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self, ImageError> {
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
        Ok(Self { width, height, data: rgb.into_raw() })
    }

    /// Writes a PNG or, where the name ends so, a JPEG file, under a temporary name first.
    ///
    /// # Errors
    /// If it cannot be encoded or written.
    pub fn save(&self, path: &Path) -> Result<(), ImageError> {
        let jpeg = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"));
        let format = if jpeg { image::ImageFormat::Jpeg } else { image::ImageFormat::Png };
        let fail = |problem: String| ImageError::Format { path: path.into(), problem };
        let rgb = image::RgbImage::from_raw(self.width as u32, self.height as u32, self.data.clone());
        let rgb = rgb.ok_or_else(|| fail("its sides do not fit its bytes".into()))?;
        let mut bytes = Cursor::new(Vec::new());
        rgb.write_to(&mut bytes, format).map_err(|e| fail(e.to_string()))?;
        let written = crate::files::write_atomic(path, bytes.get_ref());
        written.map_err(|source| ImageError::Io { path: path.into(), source })
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
}
