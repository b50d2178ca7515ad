//! Runs a binary on the device.
