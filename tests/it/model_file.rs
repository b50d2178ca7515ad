//! Model files that contradict themselves: each is refused with the layer or tensor at fault, by whatever reads it.

use secateurs::bench::TableSpec;
use secateurs::graph::{Activation, Builder, Conv, Graph, Head, Op};
use secateurs::model::{self, Info, Model, Tensor, Weights};
use serde_json::{Value, json};
use std::path::Path;

fn conv(weight: &str, c_in: usize, c_out: usize) -> Op {
    Op::Conv(Conv {
        weight: weight.into(),
        bias: None,
        norm: None,
        c_in,
        c_out,
        kernel: 1,
        stride: 1,
        padding: 0,
        groups: 1,
        act: Activation::Relu,
    })
}

/// A classifier of three convolutions, of which `int8` and `f16` make the middle one narrow.
fn classifier() -> Graph {
    let mut builder = Builder::default();
    let input = builder.push("image", Op::Input { channels: 3 }, &[]);
    let first = builder.push("first", conv("first.weight", 3, 4), &[input]);
    let middle = builder.push("middle", conv("middle.weight", 4, 4), &[first]);
    let last = builder.push("last", conv("last.weight", 4, 2), &[middle]);
    let pooled = builder.push("pool", Op::GlobalAvgPool, &[last]);
    builder.finish(vec![pooled], Head::Classify { nc: 2 }).unwrap()
}

fn file() -> Vec<u8> {
    let graph = classifier();
    let tensor = |p: secateurs::graph::Param| (p.key, Tensor::filled(p.shape, 0.5));
    let weights: Weights = graph.params().into_iter().map(tensor).collect();
    model::to_bytes(&Model::new(graph, weights, Info::default()).unwrap()).unwrap()
}

/// The file with its graph changed.
fn changed(change: impl Fn(&mut Value)) -> Vec<u8> {
    let bytes = file();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let text = &mut header["__metadata__"]["secateurs.graph"];
    let mut graph: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    change(&mut graph);
    *text = graph.to_string().into();
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat()
}

#[test]
fn a_graph_that_contradicts_itself_is_refused_right_after_parsing() {
    let cases: [(&str, fn(&mut Value), &str); 8] = [
        ("forward", |g| g["nodes"][1]["inputs"] = json!([3]), "layer `first`: reads layer 3"),
        ("nowhere", |g| g["nodes"][2]["inputs"] = json!([4_000_000]), "layer `middle`: reads layer 4000000"),
        ("itself", |g| g["nodes"][2]["inputs"] = json!([2]), "layer `middle`: reads layer 2"),
        ("output", |g| g["outputs"] = json!([77]), "an output does not exist"),
        ("empty", |g| g["nodes"] = json!([]), "has 0 layers"),
        ("channels", |g| g["nodes"][2]["op"]["c_in"] = json!(9), "layer `middle`: expects 9 input channels"),
        ("twice", |g| g["nodes"][2]["name"] = json!("first"), "layer `first`: its name is used twice"),
        // Two layers of different sizes share a tensor.
        (
            "shared",
            |g| g["nodes"][3]["op"]["weight"] = json!("middle.weight"),
            "`middle.weight` has shape [4, 4, 1, 1]",
        ),
    ];
    for dtype in ["f32", "f16", "int8"] {
        for (name, change, expected) in &cases {
            let bytes = changed(|graph| {
                graph["dtype"] = json!(dtype);
                change(graph);
            });
            let error = model::from_bytes(Path::new("m.safetensors"), &bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{dtype} {name}: {error}");
        }
    }
    model::from_bytes(Path::new("m.safetensors"), &changed(|_| ())).unwrap();
}

#[test]
fn no_reader_of_json_gets_a_graph_unchecked() {
    let mut graph = serde_json::to_value(classifier()).unwrap();
    assert_eq!(serde_json::from_value::<Graph>(graph.clone()).unwrap(), classifier());
    graph["nodes"][1]["inputs"] = json!([3]);
    let error = serde_json::from_value::<Graph>(graph.clone()).unwrap_err().to_string();
    assert!(error.contains("layer `first`"), "{error}");
    let spec = json!({ "size": [8, 8], "threads": 1, "networks": [graph], "rounds": 1, "seed": 0 });
    let error = serde_json::from_value::<TableSpec>(spec).unwrap_err().to_string();
    assert!(error.contains("layer `first`"), "{error}");
}
