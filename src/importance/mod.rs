//! What a channel is worth, in loss units.
