//! Builders that return a [`crate::graph::Graph`] for the networks we know by name.

mod blocks;
pub mod simple_cnn;
pub mod yolo11;

pub use blocks::{Blueprint, Unknown, ZooError};
