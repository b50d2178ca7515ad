//! The drawn set.
