//! What the job leaves behind, and models in the formats of others.

pub mod onnx;
