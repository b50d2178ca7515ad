//! Measured milliseconds per layer and width.
