//! Cuts channels.
