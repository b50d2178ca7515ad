//! From an image file to the network's input, and from the network's outputs to detections in the image.

mod boxes;
mod decode;
pub mod draw;
mod extra;
mod frame;
mod glyphs;
mod image;
mod jpeg;
mod letterbox;
mod levels;
mod nms;
mod preprocess;
mod tasks;
mod topk;

pub use self::frame::{Frame, FrameError, PixelFormat};
pub use self::image::{Image, ImageError};
pub use boxes::{Detection, NormalisedXywh, Rotated, Xywh, Xyxy};
pub use decode::{Candidate, Candidates, decode, decode_all};
pub use extra::Extra;
pub use letterbox::Letterbox;
pub use nms::{NmsOptions, nms};
pub use preprocess::{Preprocess, PreprocessError};
pub use tasks::{detect, find};
pub use topk::top;
