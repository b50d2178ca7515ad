//! Convolutions and friends on slices.

pub mod clock;
