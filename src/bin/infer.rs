//! The inference binary.
fn main() {}
