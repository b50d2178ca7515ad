//! From an image file to the network's input, and from the network's outputs to detections in the image.

mod decode;
pub mod draw;
mod glyphs;
mod image;
mod jpeg;
mod letterbox;
mod nms;
mod tasks;

pub use self::image::{Image, ImageError};
pub use decode::{Candidate, Candidates, decode, decode_all};
pub use letterbox::Letterbox;
pub use nms::{NmsOptions, iou, nms};
pub use tasks::{Extra, Rotated, find};

use crate::graph::Head;
use serde::{Deserialize, Serialize};

/// An object found in an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Class number.
    pub class: usize,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels.
    pub bbox: [f32; 4],
}

/// Fits an image into a network's input `[channels, side, side]`, 0 to 1: RGB for three channels, brightness for one.
/// Gives where it lies there.
///
/// # Panics
/// If `input` is not `3 * side * side` or `side * side` long.
pub fn fit(image: &Image, side: usize, input: &mut [f32]) -> Letterbox {
    let letterbox = Letterbox::new(image.width(), image.height(), side, side);
    if input.len() == side * side {
        let mut rgb = vec![0.0; 3 * side * side];
        letterbox.forward(image, &mut rgb);
        brightness(&rgb, input);
    } else {
        letterbox.forward(image, input);
    }
    letterbox
}

/// The brightness of planes `[3, area]` of red, green and blue (ITU-R BT.601).
pub fn brightness(rgb: &[f32], grey: &mut [f32]) {
    let (red, rest) = rgb.split_at(grey.len().min(rgb.len()));
    let (green, blue) = rest.split_at(rest.len() / 2);
    let colours = red.iter().zip(green).zip(blue);
    grey.iter_mut().zip(colours).for_each(|(v, ((r, g), b))| *v = g + 0.299 * (r - g) + 0.114 * (b - g));
}

/// Detections in pixels of the network's input, best first: [`decode`], then [`nms`].
///
/// `outputs` are the raw outputs of a detect graph for one image, in the graph's order. A classifier has no detections.
pub fn detect(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Detection> {
    let candidates =
        decode(head, size, outputs, &Candidates { score: options.score, multi_label: options.multi_label });
    nms(candidates, options).into_iter().map(|kept| kept.detection).collect()
}
