//! Builders that return a [`crate::graph::Graph`] for networks of known families.

mod blocks;
mod head;
pub mod mobilenet;
pub mod resnet;
mod shapes;
pub mod simple_cnn;
pub mod vgg;
pub mod yolo11;
pub mod yolov8;

pub use blocks::{Blueprint, Unknown, ZooError};
pub use head::Task;
pub use shapes::Shapes;
