//! 8-bit RGB images, read with bounds and turned upright.

use super::codec;
use std::path::{Path, PathBuf};
use thiserror::Error;

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
        let decoded = codec::decode(bytes);
        let (width, height, data) = decoded.map_err(|problem| ImageError::Format { path: path.into(), problem })?;
        Ok(Self { width, height, data })
    }

    /// Writes a PNG file, under a temporary name first.
    ///
    /// # Errors
    /// If it cannot be encoded or written.
    pub fn save(&self, path: &Path) -> Result<(), ImageError> {
        let encoded = codec::encode_png(self.width, self.height, &self.data);
        let bytes = encoded.map_err(|problem| ImageError::Format { path: path.into(), problem })?;
        crate::files::write_atomic(path, &bytes).map_err(|source| ImageError::Io { path: path.into(), source })
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
