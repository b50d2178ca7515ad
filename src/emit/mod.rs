//! Writes models in the formats of other runtimes.

pub mod onnx;
