//! Integration tests, one binary. Modules that need real weights and goldens find them through `support`.
#![cfg(feature = "tools")]
#![allow(missing_docs)]

#[cfg(feature = "toolkit")]
mod backend;
#[cfg(all(feature = "toolkit", unix))]
#[cfg(all(feature = "toolkit", unix))]
mod batch;
mod budgets;
#[cfg(all(feature = "toolkit", unix))]
mod bundles;
#[cfg(feature = "toolkit")]
mod class_folders;
#[cfg(feature = "toolkit")]
mod classifiers;
#[cfg(feature = "toolkit")]
mod classify;
#[cfg(feature = "toolkit")]
mod cli;
#[cfg(feature = "toolkit")]
mod cli_data;
#[cfg(feature = "toolkit")]
mod compute;
mod data;
mod datasets;
mod demo;
#[cfg(feature = "toolkit")]
mod device;
mod embed;
#[cfg(feature = "toolkit")]
mod energy;
mod engine_props;
mod estimate;
mod eval;
mod families;
mod forward;
#[cfg(all(feature = "toolkit", unix))]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(feature = "toolkit")]
mod heads;
#[cfg(feature = "toolkit")]
mod held_back;
mod hostile;
mod import;
#[cfg(feature = "toolkit")]
mod index;
#[cfg(feature = "toolkit")]
mod int8;
#[cfg(feature = "toolkit")]
mod int8_training;
#[cfg(feature = "toolkit")]
mod job;
#[cfg(feature = "toolkit")]
mod kept;
mod layouts;
#[cfg(all(feature = "toolkit", unix))]
mod lock;
#[cfg(feature = "toolkit")]
mod loss;
mod losses;
mod model_file;
mod notes;
mod onnx;
#[cfg(feature = "toolkit")]
mod output;
#[cfg(feature = "toolkit")]
mod preprocess;
mod profile;
mod qdq;
mod quantise;
#[cfg(all(feature = "toolkit", unix))]
mod ranks;
mod rect;
#[cfg(feature = "toolkit")]
mod repair;
mod report;
mod report_keys;
#[cfg(all(feature = "toolkit", unix))]
mod results;
#[cfg(all(feature = "toolkit", unix))]
mod runtime_jobs;
#[cfg(all(feature = "toolkit", unix))]
mod runtimes;
#[cfg(all(feature = "toolkit", unix))]
mod sbom;
mod search;
#[cfg(all(feature = "toolkit", unix))]
mod sign;
#[cfg(feature = "toolkit")]
mod sparse;
mod ssh;
mod steady;
#[cfg(all(feature = "toolkit", unix))]
mod stopped;
#[cfg(feature = "toolkit")]
mod suffix;
mod support;
mod suppression;
mod surgery;
mod task_data;
mod task_jobs;
mod task_metrics;
mod task_training;
mod tasks;
#[cfg(feature = "toolkit")]
mod training;
#[cfg(feature = "toolkit")]
mod transfer;
#[cfg(all(feature = "toolkit", unix))]
mod verify;
mod vision;
