//! From an image file to the network's input, and from the network's outputs to detections in the image.

mod boxes;
mod decode;
mod decoded;
pub mod draw;
mod enclose;
mod extra;
mod frame;
mod gaussian;
mod glyphs;
mod image;
mod jpeg;
mod keypoints;
mod letterbox;
mod levels;
mod nms;
pub mod polygon;
mod preprocess;
mod square;
mod tasks;
mod topk;

pub use self::frame::{Frame, FrameError, PixelFormat};
pub use self::image::{Image, ImageError};
pub use boxes::{Detection, NormalisedXywh, Rotated, Xywh, Xyxy};
pub use decode::{Candidate, Candidates, decode, decode_all, least_logit};
pub use decoded::detect_decoded;
pub use extra::Extra;
pub use gaussian::Gaussian;
pub use keypoints::{COCO_SIGMAS, sigmas, skeleton};
pub use letterbox::{LUMA, Letterbox, ResizeBuffers};
pub use levels::{Level, Outputs, levels};
pub use nms::{NmsOptions, nms, nms_rotated};
pub use preprocess::{Preprocess, PreprocessBuffers, PreprocessError};
pub use square::SquareBuffers;
pub use tasks::{FindBuffers, detect, find, find_with};
pub use topk::top;
