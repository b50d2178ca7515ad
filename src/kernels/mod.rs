//! Convolutions and friends on slices.
