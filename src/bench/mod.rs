//! Latency distributions.
