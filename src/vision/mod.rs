//! From an image file to the network's input, and from the network's outputs to detections in the image.

mod decode;
pub mod draw;
mod frame;
mod glyphs;
mod image;
mod jpeg;
mod letterbox;
mod nms;
mod preprocess;
mod tasks;

pub use self::frame::{Frame, FrameError, PixelFormat};
pub use self::image::{Image, ImageError};
pub use decode::{Candidate, Candidates, decode, decode_all};
pub use letterbox::Letterbox;
pub use nms::{NmsOptions, iou, nms};
pub use preprocess::{Preprocess, PreprocessError};
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

/// Detections in pixels of the network's input, best first: [`decode`], then [`nms`].
///
/// `outputs` are the raw outputs of a detect graph for one image, in the graph's order. A classifier has no detections.
pub fn detect(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Detection> {
    let candidates =
        decode(head, size, outputs, &Candidates { score: options.score, multi_label: options.multi_label });
    nms(candidates, options).into_iter().map(|kept| kept.detection).collect()
}
