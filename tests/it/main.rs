//! Integration tests, one binary. Modules that need real weights and goldens find them through `support`.
#![cfg(feature = "tools")]
#![allow(missing_docs)]

#[cfg(feature = "toolkit")]
mod backend;
#[cfg(feature = "toolkit")]
mod classifiers;
#[cfg(feature = "toolkit")]
mod classify;
#[cfg(feature = "toolkit")]
mod cli;
mod data;
mod demo;
#[cfg(feature = "toolkit")]
mod device;
mod engine_props;
mod eval;
mod forward;
mod import;
#[cfg(feature = "toolkit")]
mod job;
#[cfg(feature = "toolkit")]
mod kept;
#[cfg(feature = "toolkit")]
mod loss;
mod onnx;
mod profile;
mod quantise;
#[cfg(feature = "toolkit")]
mod repair;
mod report;
mod search;
#[cfg(feature = "toolkit")]
mod sparse;
mod ssh;
mod steady;
mod support;
mod surgery;
mod tasks;
#[cfg(feature = "toolkit")]
mod training;
mod vision;
