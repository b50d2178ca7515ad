//! Mean average precision.
