//! The size of a network's input image, as users give it and as every part passes it on.
//!
//! A square is one number (`640`), a rectangle height and width (`384x640`): in texts, in files and in keys of caches a
//! square looks as it did before rectangles were known. Whether a network can take images of a size is for those who know
//! its strides.

use serde::de::{self, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The largest side of an input image, pixels.
pub const MAX_SIDE: usize = 4096;

/// The most images of a batch.
pub const MAX_BATCH: usize = 64;

/// Height and width of an input image, pixels. Serialises as one number where it is a square, else as
/// `[height, width]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A text that is no image size.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "expected pixels from 1 to {MAX_SIDE}: one side of a square, such as 640, or height and width, such as 384,640 or 384x640"
)]
pub struct ImageSizeError;

impl ImageSize {
    /// A square.
    pub const fn square(side: usize) -> Self {
        Self { height: side, width: side }
    }

    /// Whether height and width are equal.
    pub const fn is_square(self) -> bool {
        self.height == self.width
    }

    /// Number of pixels.
    pub const fn area(self) -> usize {
        self.height.saturating_mul(self.width)
    }

    /// The size with a function applied to both sides.
    pub fn map(self, side: impl Fn(usize) -> usize) -> Self {
        Self { height: side(self.height), width: side(self.width) }
    }

    /// Whether a condition holds for both sides.
    pub fn all(self, side: impl Fn(usize) -> bool) -> bool {
        side(self.height) && side(self.width)
    }
}

/// Images of a batch where nothing is said.
pub const fn one() -> usize {
    1
}

/// Whether that goes without saying.
pub const fn is_one(batch: &usize) -> bool {
    *batch == 1
}

impl From<usize> for ImageSize {
    fn from(side: usize) -> Self {
        Self::square(side)
    }
}

/// From height and width.
impl From<[usize; 2]> for ImageSize {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height, width }
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.is_square() {
            true => write!(f, "{}", self.height),
            false => write!(f, "{}x{}", self.height, self.width),
        }
    }
}

/// As it is displayed: keys of caches are made of this.
impl fmt::Debug for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageSize {
    type Err = ImageSizeError;

    fn from_str(text: &str) -> Result<Self, ImageSizeError> {
        let side = |text: &str| {
            let side = text.trim().parse().ok();
            side.filter(|side| (1..=MAX_SIDE).contains(side)).ok_or(ImageSizeError)
        };
        match text.split_once([',', 'x']) {
            Some((height, width)) => Ok(Self { height: side(height)?, width: side(width)? }),
            None => side(text).map(Self::square),
        }
    }
}

impl Serialize for ImageSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_square() {
            true => self.height.serialize(serializer),
            false => [self.height, self.width].serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ImageSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl<'de> Visitor<'de> for SizeVisitor {
    type Value = ImageSize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("pixels: one side of a square, or [height, width]")
    }

    fn visit_u64<E: de::Error>(self, side: u64) -> Result<ImageSize, E> {
        let side = usize::try_from(side).map_err(|_| E::invalid_value(Unexpected::Unsigned(side), &self))?;
        Ok(ImageSize::square(side))
    }

    fn visit_i64<E: de::Error>(self, side: i64) -> Result<ImageSize, E> {
        let side = usize::try_from(side).map_err(|_| E::invalid_value(Unexpected::Signed(side), &self))?;
        Ok(ImageSize::square(side))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<ImageSize, A::Error> {
        let mut found = [0usize; 2];
        for (at, side) in found.iter_mut().enumerate() {
            *side = sides.next_element()?.ok_or_else(|| de::Error::invalid_length(at, &self))?;
        }
        match sides.next_element::<usize>()? {
            Some(_) => Err(de::Error::invalid_length(3, &self)),
            None => Ok(found.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_look_as_one_number_everywhere() {
        let (square, wide) = (ImageSize::square(640), ImageSize { height: 384, width: 640 });
        for (size, text, json) in [(square, "640", "640"), (wide, "384x640", "[384,640]")] {
            assert_eq!((format!("{size}"), format!("{size:?}")), (text.to_owned(), text.to_owned()));
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
            assert_eq!(serde_json::from_str::<ImageSize>(json).unwrap(), size);
            assert_eq!(text.parse(), Ok(size));
        }
        assert_eq!(serde_json::from_str::<ImageSize>("[640, 640]").unwrap(), square);
        assert_eq!("384,640".parse(), Ok(wide));
        assert_eq!(" 384, 640 ".parse(), Ok(wide));
        assert_eq!("640,640".parse(), Ok(square));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "0", "x", "640x", ",640", "384,640,3", "384x640x1", "-1", "4097", "4097,32", "3.5", "384 640"]
        {
            assert_eq!(text.parse::<ImageSize>(), Err(ImageSizeError), "{text}");
        }
        for json in ["\"640\"", "[640]", "[384, 640, 1]", "-640", "{}", "null"] {
            let error = serde_json::from_str::<ImageSize>(json).unwrap_err().to_string();
            assert!(error.contains("or [height, width]"), "{json}: {error}");
        }
    }
}
