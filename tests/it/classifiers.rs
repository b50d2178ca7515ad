//! The classifiers of the zoo against candle-transformers' own: the same random weights, the same image, the same logits.

use crate::surgery::random_model;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, ModuleT, VarBuilder};
use candle_transformers::models::{mobilenetv4, resnet, vgg};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::backend::{Mode, Net};
use secateurs::engine::{Engine, Options, reference};
use secateurs::graph::Graph;
use secateurs::import;
use secateurs::model::{Model, Weights};
use secateurs::zoo;
use std::collections::HashMap;
use std::path::Path;

/// The weights under the same names for candle; kernels of its fully connected layers are `[out, in]`.
fn variables(weights: &Weights, linear: &[&str]) -> HashMap<String, Tensor> {
    let variable = |(key, tensor): (&String, &secateurs::model::Tensor)| {
        let shape = if linear.contains(&key.as_str()) { &tensor.shape()[..2] } else { tensor.shape() };
        (key.clone(), Tensor::from_slice(tensor.data(), shape, &Device::Cpu).unwrap())
    };
    weights.iter().map(variable).collect()
}

fn image(side: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(3);
    (0..3 * side * side).map(|_| rng.random_range(-2.0..2.0)).collect()
}

fn close(name: &str, found: &[f32], expected: &[f32]) {
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    assert_eq!(found.len(), expected.len(), "{name}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-4 * scale, "{name}: {worst} of {scale}");
}

fn by_engine(model: &Model, input: &[f32], side: usize) -> Vec<f32> {
    let mut engine = Engine::new(model, side, side, &Options { threads: 2, ..Options::default() }).unwrap();
    engine.run(input).unwrap();
    engine.output(0).to_vec()
}

/// What candle-transformers' network gives for these weights.
type Oracle = dyn Fn(VarBuilder, &Tensor) -> candle_core::Result<Tensor>;

fn check(name: &str, graph: Graph, linear: &[&str], side: usize, oracle: &Oracle) {
    let model = random_model(graph, 11);
    let variables = variables(&model.weights, linear);
    let input = image(side);
    let x = Tensor::from_slice(&input, (1, 3, side, side), &Device::Cpu).unwrap();
    let expected = oracle(VarBuilder::from_tensors(variables.clone(), DType::F32, &Device::Cpu), &x).unwrap();
    let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
    assert!(expected.iter().any(|v| v.abs() > 1e-2), "{name}: the oracle says nothing");

    // Import from a file as candle writes it.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&variables, &file).unwrap();
    let imported = import::load(&file).unwrap();
    assert_eq!(imported.graph, model.graph, "{name}");
    assert_eq!((imported.info.imgsz, imported.info.normalise.is_some()), (Some(224.into()), true), "{name}");

    close(&format!("{name}, engine"), &by_engine(&imported, &input, side), &expected);
    let all = reference::run(&imported, &input, side, side).unwrap();
    close(&format!("{name}, reference"), &all[imported.graph.outputs[0].index()], &expected);
    let net = Net::new(&imported, &Device::Cpu).unwrap().frozen();
    let found = net.forward(&x, Mode::Eval).unwrap()[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    close(&format!("{name}, backend"), &found, &expected);
}

#[test]
fn resnets_are_those_of_candle_transformers() {
    let graph = |layers| zoo::resnet::network(zoo::resnet::Depth::of(layers).unwrap(), 12).unwrap();
    check("resnet18", graph(18), &["fc.weight"], 96, &|vb, x| resnet::resnet18(12, vb)?.forward(x));
    check("resnet50", graph(50), &["fc.weight"], 96, &|vb, x| resnet::resnet50(12, vb)?.forward(x));
}

#[test]
fn mobilenets_are_those_of_candle_transformers() {
    use mobilenetv4::{Config, mobilenetv4};
    let graph = |letter| zoo::mobilenet::network(zoo::mobilenet::Scale::of(letter).unwrap(), 12).unwrap();
    let linear = ["classifier.weight"];
    check("small", graph('s'), &linear, 96, &|vb, x| mobilenetv4(&Config::small(), 12, vb)?.forward(x));
    check("medium", graph('m'), &linear, 96, &|vb, x| mobilenetv4(&Config::medium(), 12, vb)?.forward(x));
    check("large", graph('l'), &linear, 96, &|vb, x| mobilenetv4(&Config::large(), 12, vb)?.forward(x));
}

/// The engine alone: the reference would take minutes over 15 billion multiply-accumulates.
#[test]
fn vgg16_is_that_of_candle_transformers() {
    let side = 224;
    let model = random_model(zoo::vgg::network(zoo::vgg::Depth::of(16).unwrap(), 1000).unwrap(), 11);
    let input = image(side);
    let variables = variables(&model.weights, &["head.fc.weight"]);
    let x = Tensor::from_slice(&input, (3, side, side), &Device::Cpu).unwrap();
    let vb = VarBuilder::from_tensors(variables, DType::F32, &Device::Cpu);
    let network = vgg::Vgg::new(vb, vgg::Models::Vgg16).unwrap();
    let expected: Vec<f32> = network.forward_t(&x, false).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    drop(network);
    assert!(expected.iter().filter(|v| **v > 1e-2).count() > 100, "the oracle says nothing");
    close("vgg16", &by_engine(&model, &input, side), &expected);
}

#[test]
fn a_hybrid_mobilenet_is_named() {
    let graph = zoo::mobilenet::network(zoo::mobilenet::Scale::of('m').unwrap(), 3).unwrap();
    let mut weights = random_model(graph, 1).weights;
    weights.insert("blocks.2.1.attn.query.proj.weight".into(), secateurs::model::Tensor::filled([4, 4, 1, 1], 0.1));
    let views = weights.iter().map(|(key, tensor)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
        (key, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape().to_vec(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let said = import::from_bytes(Path::new("hybrid.safetensors"), &bytes).unwrap_err().to_string();
    assert!(said.contains("hybrid MobileNetV4"), "{said}");
}
