//! Preprocessing: from an image to the input of a network. Training, calibration, evaluation, quantization and
//! inference all use this one place, so that a network ships with the inputs that it was evaluated on.
//!
//! A detector sees the whole image, letterboxed; a classifier the square in the middle of the image whose short side is
//! scaled to the input's. A network of one channel reads the brightness. The model's normalisation is applied last.

use super::Image;
use super::letterbox::{Letterbox, ResizeBuffers, luma};
use super::square::SquareBuffers;
use crate::graph::Head;
use crate::model::{Model, Normalise};
use crate::size::ImageSize;
use std::borrow::Cow;
use thiserror::Error;

/// A network whose input no image fills.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PreprocessError {
    /// Another number of channels than images have.
    #[error("the network reads {0} channels, expected 3 (red, green, blue) or 1 (brightness)")]
    Channels(usize),
    /// Three means and deviations for one channel.
    #[error("the network reads 1 channel, but its `normalise` is for red, green and blue")]
    Normalise,
}

/// How images become the input of one network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocess {
    channels: usize,
    centre: bool,
    normalise: Option<Normalise>,
}

/// Buffers that preprocessing uses again from image to image.
#[derive(Clone, Debug, Default)]
pub struct PreprocessBuffers {
    part: Image,
    square: SquareBuffers,
    resize: ResizeBuffers,
}

impl Preprocess {
    /// What the model asks for.
    ///
    /// # Errors
    /// If its input has neither three channels nor one, or it normalises three of one.
    pub fn new(model: &Model) -> Result<Self, PreprocessError> {
        let channels = model.graph.input_channels();
        let normalise = model.info.normalise;
        match channels {
            3 => {}
            1 if normalise.is_some() => return Err(PreprocessError::Normalise),
            1 => {}
            other => return Err(PreprocessError::Channels(other)),
        }
        Ok(Self { channels, centre: matches!(model.graph.head, Head::Classify { .. }), normalise })
    }

    /// Channels of the input.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// What a network with an input of this size is shown of an image: a classifier the square, as large as fits.
    pub fn part<'a>(&self, image: &'a Image, size: ImageSize) -> Cow<'a, Image> {
        match self.square_of(image, size) {
            Some(side) => Cow::Owned(image.centre_square(side)),
            None => Cow::Borrowed(image),
        }
    }

    /// The side of the square that is shown, where that is not the image itself.
    fn square_of(&self, image: &Image, size: ImageSize) -> Option<usize> {
        let side = size.height.min(size.width);
        (self.centre && (image.width(), image.height()) != (side, side)).then_some(side)
    }

    /// Writes the input `[channels, height, width]`. Gives where what is shown of the image lies in it.
    ///
    /// # Panics
    /// If `input` is not `channels * height * width` long.
    pub fn write(&self, image: &Image, size: impl Into<ImageSize>, input: &mut [f32]) -> Letterbox {
        self.write_with(image, size.into(), input, &mut PreprocessBuffers::default())
    }

    /// As [`Preprocess::write`], and allocates only where the buffers have served no image as large before.
    ///
    /// # Panics
    /// As [`Preprocess::write`].
    pub fn write_with(
        &self,
        image: &Image,
        size: ImageSize,
        input: &mut [f32],
        buffers: &mut PreprocessBuffers,
    ) -> Letterbox {
        assert_eq!(input.len(), self.channels * size.area(), "the input tensor");
        let letterbox = self.place(image, size, buffers, |letterbox, part, resize| {
            letterbox.forward_with(part, input, resize);
        });
        self.normalise(input);
        letterbox
    }

    /// Whether the input is bytes of the image divided by 255, which [`Preprocess::bytes_with`] writes: three colours, and
    /// nothing to normalise.
    pub fn is_bytes(&self) -> bool {
        self.channels == 3 && self.normalise.is_none()
    }

    /// As [`Preprocess::write_with`], the bytes that values are the 255th part of.
    ///
    /// # Panics
    /// If the input is not bytes, or `bytes` is not `3 * height * width` long.
    pub fn bytes_with(
        &self,
        image: &Image,
        size: ImageSize,
        bytes: &mut [u8],
        buffers: &mut PreprocessBuffers,
    ) -> Letterbox {
        assert!(self.is_bytes(), "an input that is not the image's bytes");
        self.place(image, size, buffers, |letterbox, part, resize| letterbox.bytes_with(part, bytes, resize))
    }

    /// Places what is shown of an image in the input, for `write` to write it.
    fn place(
        &self,
        image: &Image,
        size: ImageSize,
        buffers: &mut PreprocessBuffers,
        write: impl FnOnce(&Letterbox, &Image, &mut ResizeBuffers),
    ) -> Letterbox {
        let PreprocessBuffers { part, square, resize } = buffers;
        let part = match self.square_of(image, size) {
            Some(side) => {
                image.centre_square_to(side, part, square);
                part
            }
            None => image,
        };
        let letterbox = Letterbox::new(part.width(), part.height(), size.width, size.height);
        write(&letterbox, part, resize);
        letterbox
    }

    /// Writes the input from a letterboxed image `[3, height, width]` of red, green and blue, 0 to 1.
    pub fn adapt(&self, rgb: &[f32], input: &mut [f32]) {
        match self.channels {
            1 => brightness(rgb, input),
            _ => input.copy_from_slice(rgb),
        }
        self.normalise(input);
    }

    fn normalise(&self, input: &mut [f32]) {
        if let Some(normalise) = self.normalise {
            normalise.apply(input);
        }
    }
}

/// The brightness of planes `[3, area]` of red, green and blue.
fn brightness(rgb: &[f32], grey: &mut [f32]) {
    let (red, rest) = rgb.split_at(grey.len().min(rgb.len()));
    let (green, blue) = rest.split_at(rest.len() / 2);
    let colours = red.iter().zip(green).zip(blue);
    grey.iter_mut().zip(colours).for_each(|(v, ((r, g), b))| *v = luma([*r, *g, *b]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Op};
    use crate::model::Info;
    use std::collections::BTreeMap;

    /// A classifier whose answer is its input.
    fn model(channels: usize, normalise: Option<Normalise>) -> Model {
        let mut builder = Builder::default();
        let input = builder.push("images", Op::Input { channels }, &[]);
        let graph = builder.finish(vec![input], Head::Classify { nc: channels }).unwrap();
        Model { graph, weights: BTreeMap::new(), info: Info { normalise, ..Info::default() } }
    }

    /// 4 x 2: the middle square is green and blue, the rest red.
    fn image() -> Image {
        let row = [[255u8, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 0]].concat();
        Image::new(4, 2, row.repeat(2))
    }

    #[test]
    fn a_classifier_sees_the_middle_square_normalised() {
        let normalise = Normalise { mean: [0.5, 0.25, 0.0], deviation: [0.5, 0.25, 2.0] };
        let preprocess = Preprocess::new(&model(3, Some(normalise))).unwrap();
        let mut input = [9.0; 12];
        preprocess.write(&image(), 2, &mut input);
        assert_eq!(input[..4], [-1.0; 4], "no red in the middle");
        assert_eq!(input[4..8], [3.0, -1.0, 3.0, -1.0]);
        assert_eq!(input[8..], [0.0, 0.5, 0.0, 0.5]);
    }

    #[test]
    fn one_channel_is_the_brightness_and_the_ways_agree() {
        let preprocess = Preprocess::new(&model(1, None)).unwrap();
        let mut input = [9.0; 4];
        preprocess.write(&image(), 2, &mut input);
        assert!((input[0] - 0.587).abs() < 1e-6 && (input[1] - 0.114).abs() < 1e-6, "{input:?}");
        let mut rgb = [0.0; 12];
        Letterbox::new(2, 2, 2, 2).forward(&image().centre_square(2), &mut rgb);
        let mut other = [9.0; 4];
        preprocess.adapt(&rgb, &mut other);
        assert_eq!(input, other);
    }

    #[test]
    fn values_are_the_255th_part_of_bytes() {
        let preprocess = Preprocess::new(&model(3, None)).unwrap();
        let pixels = (0..3 * 31 * 17).map(|i| (i * i % 251) as u8).collect();
        let image = Image::new(31, 17, pixels);
        for size in [ImageSize::square(17), ImageSize::square(24), ImageSize { height: 9, width: 22 }] {
            let (mut values, mut bytes) = (vec![9.0; 3 * size.area()], vec![9; 3 * size.area()]);
            let placed = preprocess.write(&image, size, &mut values);
            assert_eq!(preprocess.bytes_with(&image, size, &mut bytes, &mut PreprocessBuffers::default()), placed);
            assert!(values.iter().zip(bytes).all(|(value, byte)| *value == f32::from(byte) / 255.0), "{size}");
        }
        let others = [model(1, None), model(3, Some(Normalise::IMAGENET))];
        assert!(preprocess.is_bytes() && !others.iter().any(|model| Preprocess::new(model).unwrap().is_bytes()));
    }

    #[test]
    fn other_inputs_are_refused() {
        let refused = |channels, normalise| Preprocess::new(&model(channels, normalise));
        assert_eq!(refused(4, None), Err(PreprocessError::Channels(4)));
        assert_eq!(refused(1, Some(Normalise::IMAGENET)), Err(PreprocessError::Normalise));
    }
}
