//! The model families: every published network by its names and shapes, and every golden forward pass.

#[path = "family_goldens.rs"]
pub mod goldens;

use crate::forward::by_reference;
use crate::support::data;
use goldens::{FOLDER, all, check, input, json};
use secateurs::engine::{Engine, Options};
use secateurs::graph::{Branch, Graph, Head, NodeId};
use secateurs::import::load;
use secateurs::import::{Identified, identify};
use secateurs::model::{Model, Tensor, Weights, tensors};
use secateurs::vision::{Candidate, Candidates, NmsOptions, decode, decode_all, nms, top};
use secateurs::zoo::{self, state_dict};
use serde_json::Value;
use std::collections::BTreeMap;

/// Names of tensors that only training has.
const FOR_TRAINING: [&str; 4] = [".proto.semseg.", ".cv4_sigma.", ".one2one_cv4_sigma.", ".flow_model."];

/// Buffers among them, which are no parameters.
const BUFFERS: [&str; 3] = [".flow_model.loc", ".flow_model.cov", ".flow_model.mask"];

/// Family and graph by the published rule of a name such as `yolo26n-seg`.
fn published(name: &str, nc: usize) -> (&'static str, Graph) {
    let graph = zoo::published(name, nc).unwrap().unwrap_or_else(|| panic!("{name} is not known"));
    let families = [
        // A classifier of YOLO26 is that of YOLO11, and cannot be told from it.
        ("yolo26", if name.ends_with("-cls") { "YOLO11" } else { "YOLO26" }),
        ("yolo12", "YOLO12"),
        ("yolo11", "YOLO11"),
        ("yolov10", "YOLOv10"),
        ("yolov9", "YOLOv9"),
        ("yolov8", "YOLOv8"),
        ("yolov6", "YOLOv6"),
        ("yolov5", "YOLOv5u"),
    ];
    (families.into_iter().find(|(prefix, _)| name.starts_with(prefix)).unwrap().1, graph)
}

#[test]
fn every_published_network_is_told_by_its_names_and_shapes() {
    let mut count = 0;
    for file in ["golden/shapes.json", "golden/families/shapes.json"] {
        let Some(golden) = json(file) else { return };
        for (name, expected) in golden["models"].as_object().unwrap() {
            let dict: Vec<(String, Vec<usize>)> = serde_json::from_value(expected["state_dict"].clone()).unwrap();
            let all: BTreeMap<String, Vec<usize>> = dict.into_iter().collect();
            let nc = all.iter().find_map(|(key, shape)| {
                let last = key.ends_with(".cv3.0.2.bias") || key.ends_with(".linear.bias");
                last.then(|| shape[0])
            });
            let (family, graph) = published(name, nc.unwrap());
            let found = identify(&all).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(found.family, family, "{name}");
            assert!(found.graph == graph, "{name}: the graph of its tensors is not the published one");
            let task = if name.ends_with("-seg") { "segment" } else { expected["task"].as_str().unwrap_or("") };
            assert!(task.is_empty() || graph.head.task() == task, "{name}");
            // Names and shapes are the builder's, but for what training alone has.
            let training = |key: &str| FOR_TRAINING.iter().any(|part| key.contains(part));
            let size = |shape: &Vec<usize>| shape.iter().product::<usize>();
            let ours = state_dict(&graph);
            for (key, shape) in all.iter().filter(|(key, _)| !training(key)) {
                assert_eq!(ours.get(key), Some(shape), "{name}: `{key}`");
            }
            let used = all.keys().filter(|key| !training(key)).count();
            assert_eq!(ours.len(), used, "{name}");
            let beside = all.iter().filter(|(key, _)| {
                let buffer = BUFFERS.iter().any(|part| key.contains(part));
                let statistic = [".running_mean", ".running_var", ".num_batches_tracked"];
                training(key) && !buffer && !statistic.iter().any(|end| key.ends_with(end))
            });
            let constants = ours.iter().filter(|(key, _)| key.contains(".dfl.")).map(|(_, shape)| size(shape));
            let params = graph.cost(64, 64).unwrap().params
                + beside.map(|(_, shape)| size(shape)).sum::<usize>()
                + constants.sum::<usize>();
            assert_eq!(params as u64, expected["params"].as_u64().unwrap(), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 76);
}

#[test]
fn what_fits_no_family_exactly_is_refused_with_what_was_found() {
    let (_, graph) = published("yolov9t", 3);
    let all = state_dict(&graph);
    assert!(identify(&all).is_ok());
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Vec<usize>>), expected: &str| {
        let mut changed = all.clone();
        change(&mut changed);
        let said = identify(&changed).map(|Identified { family, .. }| family).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    };
    refused(
        &|t| drop(t.insert("model.4.cv9.conv.weight".into(), vec![1, 1, 1, 1])),
        "no layer of one has the tensor `model.4.cv9.conv.weight`",
    );
    refused(&|t| drop(t.remove("model.4.cv3.0.m.1.cv2.bn.bias")), "`model.4.cv3.0.m.1.cv2.bn.bias`: is missing");
    refused(&|t| drop(t.insert("model.9.cv5.conv.weight".into(), vec![8, 8, 1, 1])), "model.9.cv5");
    refused(&|t| drop(t.insert("model.22.cv3.3.2.bias".into(), vec![3])), "a head with more than three levels");
    refused(
        &|t| drop(t.insert("model.28.dec_bbox_head.0.layers.0.weight".into(), vec![3, 3])),
        "RT-DETR is not supported",
    );
    refused(&|t| drop(t.insert("model.22.cv4.0.logit_scale".into(), vec![])), "YOLO-World is not supported");
    refused(&|t| drop(t.insert("model.23.reprta.m.w12.weight".into(), vec![3, 3])), "YOLOE is not supported");
    refused(&|t| drop(t.insert("model.105.m.0.weight".into(), vec![3, 3, 1, 1])), "YOLOv7 is not supported");
    refused(&|t| drop(t.insert("model.30.cv3.0.2.bias".into(), vec![3])), "a network whose boxes come from layer 30");
}

fn by_engine(
    model: &Model,
    input: &[f32],
    (height, width): (usize, usize),
    keep: &[NodeId],
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let options = Options { threads: 2, keep: keep.to_vec(), ..Options::default() };
    let mut engine = Engine::new(model, height, width, &options).unwrap();
    engine.run(input).unwrap();
    let outputs = (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect();
    (outputs, keep.iter().map(|id| engine.kept(*id).to_vec()).collect())
}

#[test]
fn the_engine_agrees_with_every_golden_forward_pass() {
    check(by_engine);
}

#[test]
fn a_branch_alone_computes_what_it_computes_beside_the_other() {
    for (name, model, ..) in all() {
        let Head::EndToEnd { one2many: true, .. } = &model.graph.head else {
            assert!(model.with_branch(Branch::One2One).is_err(), "{name}");
            continue;
        };
        let (image, size) = input("small");
        let (both, _) = by_engine(&model, &image, size, &[]);
        let params = |model: &Model| model.graph.cost(64, 64).unwrap().params;
        for (branch, expected) in [Branch::One2Many, Branch::One2One].into_iter().zip(both.chunks(both.len() / 2)) {
            let alone = model.with_branch(branch).unwrap();
            let (found, _) = by_engine(&alone, &image, size, &[]);
            assert_eq!(found, expected, "{name} {}", branch.name());
            assert_eq!(alone.graph.head.is_one2one(), branch == Branch::One2One);
            // Exactly the other branch is gone.
            let other = |key: &str| key.contains(".one2one_") != (branch == Branch::One2One);
            let in_head = |key: &str| {
                [".cv2.", ".cv3.", ".cv4.", ".cv4_kpts."].iter().any(|part| {
                    key.starts_with("model.23.")
                        && (key.contains(part) || key.contains(&part.replacen('.', ".one2one_", 1)))
                })
            };
            let gone = model
                .graph
                .params()
                .into_iter()
                .filter(|p| p.trainable && in_head(&p.key) && other(&p.key) && !p.key.contains(".proto."));
            let saved: usize = gone.map(|p| p.shape.iter().product::<usize>()).sum();
            assert_eq!(params(&model) - params(&alone), saved, "{name} {}", branch.name());
            eprintln!("{name}: {} alone saves {saved} of {} parameters", branch.name(), params(&model));
        }
    }
}

#[test]
fn a_checkpoint_equals_its_safetensors() {
    for name in ["yolo26n-narrow", "yolov5nu-narrow"] {
        let files = [".pt", ".safetensors"].map(|end| data(&format!("{FOLDER}/{name}{end}")));
        let [Some(checkpoint), Some(plain)] = files else { return };
        let (checkpoint, plain) = (load(&checkpoint).unwrap(), load(&plain).unwrap());
        assert!(checkpoint.graph == plain.graph, "{name}");
        assert!(checkpoint.weights == plain.weights, "{name}");
        assert!(!checkpoint.info.names.is_empty());
    }
}
