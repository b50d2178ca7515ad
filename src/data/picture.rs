//! Where an item's pixels are: in an image file, or already in memory with those of the whole set.

use crate::vision::{Image, ImageError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The pixels of an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Picture {
    /// An image file.
    File(PathBuf),
    /// One of many pictures of one size.
    Grey(Arc<GreySet>, usize),
}

/// Grey pictures of one size, one after the other.
#[derive(PartialEq)]
pub struct GreySet {
    /// The file they came from.
    pub path: PathBuf,
    /// Columns of every picture.
    pub width: usize,
    /// Rows of every picture.
    pub height: usize,
    /// `[pictures, height, width]`, 0 black, 255 white.
    pub pixels: Vec<u8>,
}

impl fmt::Debug for GreySet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes of {} x {} from {}", self.pixels.len(), self.width, self.height, self.path.display())
    }
}

impl Picture {
    /// The pixels as an RGB image.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn load(&self) -> Result<Image, ImageError> {
        match self {
            Self::File(path) => Image::open(path),
            Self::Grey(set, number) => {
                let len = set.width * set.height;
                let grey = set.pixels.get(number * len..(number + 1) * len).ok_or_else(|| ImageError::Format {
                    path: set.path.clone(),
                    problem: format!("has no picture {number}"),
                })?;
                Ok(Image::new(set.width, set.height, grey.iter().flat_map(|v| [*v; 3]).collect()))
            }
        }
    }

    /// The file it is in.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Grey(set, _) => &set.path,
        }
    }

    /// What to call it in a message.
    pub fn display(&self) -> impl fmt::Display {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Grey(set, number) => format!("picture {number} of {}", set.path.display()),
        }
    }
}

impl From<PathBuf> for Picture {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}
