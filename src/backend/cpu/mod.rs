//! Operators of training on f32 slices `[N, C, H, W]`, forward and backward, images or channels in parallel.
//!
//! Sums over images are made in the order of the images, so that no result depends on the number of threads. These
//! functions know no tensor library.

pub mod conv;
mod fixed;
pub mod geometry;
mod lanes;
pub mod norm;
pub mod rounding;
pub mod window;

#[cfg(test)]
mod tests;
