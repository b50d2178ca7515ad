//! Every golden forward pass of the model families through the CUDA engine on the emulated driver.

#[path = "../../tests/it/family_goldens.rs"]
mod family_goldens;

use crate::engine::{Device, Engine, Options, reference};
use crate::graph::{Graph, Head, NodeId};
use crate::import::load;
use crate::kernels::cuda::emulated;
use crate::model::{Model, Tensor, Weights, tensors};
use crate::vision::{Candidate, Candidates, NmsOptions, decode, decode_all, nms, top};
use serde_json::Value;
use std::env;
use std::path::{Path, PathBuf};

/// A path below the data folder, as the tests in tests/it find it.
fn data(path: &str) -> Option<PathBuf> {
    let root = env::var_os("SECATEURS_DATA").map(PathBuf::from);
    let full = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data")).join(path);
    if !full.exists() {
        assert!(env::var_os("CI").is_none(), "{} is missing, and in CI nothing skips", full.display());
        crate::output::message("", "skipped", &format!(": {} is not there (SECATEURS_DATA)", full.display()));
        return None;
    }
    Some(full)
}

fn by_reference(model: &Model, input: &[f32], height: usize, width: usize) -> Vec<Vec<f32>> {
    let all = reference::run(model, input, height, width).unwrap();
    model.graph.outputs.iter().map(|id| all[id.index()].clone()).collect()
}

fn by_cuda(
    model: &Model,
    input: &[f32],
    (height, width): (usize, usize),
    keep: &[NodeId],
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let options = Options { keep: keep.to_vec(), device: Device::Cuda(0), ..Options::default() };
    let mut engine = Engine::new(model, height, width, &options).unwrap();
    engine.run(input).unwrap();
    let outputs = (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect();
    (outputs, keep.iter().map(|id| engine.kept(*id).to_vec()).collect())
}

#[test]
fn the_cuda_engine_agrees_with_every_golden_forward_pass() {
    if emulated::device().is_some() {
        family_goldens::check(by_cuda);
    }
}
