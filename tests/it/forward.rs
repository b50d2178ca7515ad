//! Tests of forward.
