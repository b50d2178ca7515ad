//! `cargo xtask`: the thin driver of the pruning pipeline.
fn main() {}
