//! Which channels must be cut together.
