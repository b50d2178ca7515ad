//! Tests of vision.
