//! Builders that return a [`crate::graph::Graph`] for networks of known families.

mod attention;
mod blocks;
mod csp;
mod elan;
mod head;
pub mod mobilenet;
mod names;
mod rebuild;
pub mod resnet;
mod shapes;
pub mod simple_cnn;
pub mod vgg;
pub mod yolo11;
pub mod yolo12;
pub mod yolo26;
pub mod yolov10;
pub mod yolov5;
pub mod yolov6;
pub mod yolov8;
pub mod yolov9;

pub use blocks::{Blueprint, Unknown, ZooError};
pub use head::{Task, state_dict};
pub use names::published;
pub use rebuild::{Purpose, rebuild};
pub use shapes::Shapes;
