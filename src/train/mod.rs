//! Training: losses with their analytic gradients, optimisers, distillation, and the loop that puts them together.
//!
//! Losses ([`loss`], [`distill`]) are plain functions on slices of head outputs: they know no tensors library, so
//! that the importance scores and the tests can use them alone.

pub mod loss;
