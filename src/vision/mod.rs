//! From image to input tensor, from output tensors to detections.
