//! The ONNX export: a sound file by itself, and in ONNX Runtime the outputs of the golden forward passes.

use crate::support;
use prost::Message;
use secateurs::emit::onnx::proto::{FLOAT, INT8, INT64, ModelProto, TensorProto};
use secateurs::emit::onnx::tensorrt::refused;
use secateurs::emit::onnx::{self, ExportError, OPSET, export};
use secateurs::graph::{Activation, Builder, Conv, Head, Op};
use secateurs::group::{Group, groups};
use secateurs::import;
use secateurs::model::{Info, Model, Tensor, Weights, tensors};
use secateurs::surgery::{Selection, cut};
use secateurs::vision::decode_all;
use secateurs::zoo::{vgg, yolo11};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn filled(graph: secateurs::graph::Graph, info: Info) -> Model {
    let weights = graph.params().into_iter().map(|p| (p.key, Tensor::filled(p.shape, 0.5))).collect();
    Model::new(graph, weights, info).unwrap()
}

fn elements(tensor: &TensorProto) -> usize {
    tensor.dims.iter().map(|d| *d as usize).product()
}

/// Decodes a file and checks what every reader relies on: each tensor is made once and before it is read, constants
/// hold as many bytes as their shapes say, everything that is made is read or an output.
pub fn sound(bytes: &[u8]) -> ModelProto {
    let file = ModelProto::decode(bytes).unwrap();
    assert_eq!(file.ir_version, 8);
    assert_eq!(file.opset_import.iter().map(|o| o.version).collect::<Vec<_>>(), [OPSET]);
    let graph = file.graph.as_ref().unwrap();
    let mut known: BTreeSet<&str> = graph.input.iter().map(|v| v.name.as_str()).collect();
    for constant in &graph.initializer {
        let size = match constant.data_type {
            FLOAT => 4,
            INT8 => 1,
            INT64 => 8,
            other => panic!("`{}` has type {other}", constant.name),
        };
        assert_eq!(constant.raw_data.len(), size * elements(constant), "`{}`", constant.name);
        assert!(known.insert(&constant.name), "`{}` is made twice", constant.name);
    }
    let mut read: BTreeSet<&str> = graph.output.iter().map(|v| v.name.as_str()).collect();
    for node in &graph.node {
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            assert!(known.contains(input.as_str()), "`{}` reads `{input}` before it is made", node.name);
            read.insert(input);
        }
        for output in &node.output {
            assert!(known.insert(output), "`{output}` is made twice");
        }
    }
    for output in &graph.output {
        assert!(known.contains(output.name.as_str()), "output `{}` is never made", output.name);
    }
    assert_eq!(known.difference(&read).collect::<Vec<_>>(), Vec::<&&str>::new(), "made but never read");
    file
}

fn shape(file: &ModelProto, output: bool) -> (String, Vec<i64>) {
    let graph = file.graph.as_ref().unwrap();
    let values = if output { &graph.output } else { &graph.input };
    assert_eq!(values.len(), 1);
    let value = &values[0];
    let tensor = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
    let dims = tensor.shape.as_ref().unwrap().dim.iter().map(|d| d.dim_value.unwrap()).collect();
    (value.name.clone(), dims)
}

#[test]
fn every_scale_exports_a_sound_file() {
    for letter in ['n', 's', 'm'] {
        let graph = yolo11::detect(yolo11::Scale::of(letter).unwrap(), 5).unwrap();
        let info = Info { names: vec!["it's".into(), "b\\c".into()], ..Info::default() };
        let model = filled(graph, info);
        let file = sound(&export(&model, 64, 96).unwrap());
        assert_eq!(shape(&file, false), ("images".into(), vec![1, 3, 64, 96]));
        let anchors = 8 * 12 + 4 * 6 + 2 * 3;
        assert_eq!(shape(&file, true), ("output0".into(), vec![1, 9, anchors]));
        let metadata: HashMap<&str, &str> =
            file.metadata_props.iter().map(|e| (e.key.as_str(), e.value.as_str())).collect();
        assert_eq!(metadata["names"], r"{0: 'it\'s', 1: 'b\\c', 2: 'class 2', 3: 'class 3', 4: 'class 4'}");
        assert_eq!((metadata["stride"], metadata["imgsz"], metadata["task"]), ("32", "[64, 96]", "detect"));
        let convs = file.graph.unwrap().node.iter().filter(|n| n.op_type == "Conv").count();
        assert_eq!(convs, model.graph.convs().count() + 1);
    }
}

#[test]
fn nothing_in_the_zoo_is_refused_by_tensorrt() {
    for (name, graph, side) in crate::surgery::zoo() {
        let file = onnx::file(&filled(graph, Info::default()), side, side).unwrap();
        assert_eq!(refused(&file), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_tensorrt_refuses_is_found() {
    let graph = crate::surgery::narrow(&yolo11::detect(yolo11::Scale::of('n').unwrap(), 3).unwrap(), 0.1);
    let whole = onnx::file(&filled(graph, Info::default()), 32, 32).unwrap();
    let spoilt = |spoil: &dyn Fn(&mut onnx::proto::GraphProto)| {
        let mut file = whole.clone();
        spoil(file.graph.as_mut().unwrap());
        refused(&file)
    };
    fn node<'a>(graph: &'a mut onnx::proto::GraphProto, op: &str) -> &'a mut onnx::proto::NodeProto {
        graph.node.iter_mut().find(|n| n.op_type == op).unwrap()
    }
    let cases: [(&str, &dyn Fn(&mut onnx::proto::GraphProto)); 9] = [
        ("not among the operators", &|g| node(g, "Sigmoid").op_type = "NonZero".into()),
        ("kernel must be a constant", &|g| node(g, "Conv").input[1] = "images".into()),
        ("a window of 1 axes", &|g| node(g, "MaxPool").attribute[0].ints = vec![5]),
        ("shape must be a constant", &|g| node(g, "Reshape").input[1] = "images".into()),
        ("axis must be a constant", &|g| node(g, "Slice").input.truncate(3)),
        ("mode is `cubic`", &|g| node(g, "Resize").attribute[0].s = Some(b"cubic".to_vec())),
        ("elements of type 11", &|g| g.initializer[0].data_type = 11),
        ("an axis of 0", &|g| {
            let shape = g.input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
            shape.dim[2].dim_value = None;
        }),
        ("does not fit into 32 bits", &|g| {
            let integers = g.initializer.iter_mut().find(|c| c.data_type == INT64).unwrap();
            integers.raw_data[..8].copy_from_slice(&(1i64 << 40).to_le_bytes());
        }),
    ];
    for (expected, spoil) in cases {
        let found = spoilt(spoil);
        assert!(found.len() == 1 && found[0].contains(expected), "`{expected}`: {found:?}");
    }
    let newer =
        ModelProto { opset_import: vec![onnx::proto::OperatorSetId { version: 99, ..Default::default() }], ..whole };
    assert!(refused(&newer)[0].contains("operator set"));
}

#[test]
fn a_size_that_does_not_fit_names_the_layer() {
    let model = filled(yolo11::detect(yolo11::Scale::of('n').unwrap(), 1).unwrap(), Info::default());
    let error = export(&model, 100, 64).unwrap_err();
    assert!(matches!(&error, ExportError::Graph { height: 100, width: 64, .. }), "{error}");
    assert!(error.to_string().contains("layer `model.12`"), "{error}");
}

fn classifier() -> Model {
    let conv = |key: &str, c_in, c_out, kernel, act| {
        Op::Conv(Conv {
            weight: format!("{key}.weight"),
            bias: Some(format!("{key}.bias")),
            norm: None,
            c_in,
            c_out,
            kernel,
            stride: 1,
            padding: kernel / 2,
            groups: 1,
            act,
        })
    };
    let mut builder = Builder::default();
    let x = builder.push("images", Op::Input { channels: 3 }, &[]);
    let x = builder.push("stem", conv("stem", 3, 4, 3, Activation::Relu), &[x]);
    let x = builder.push("pool", Op::MaxPool { kernel: 2, stride: 2, padding: 0 }, &[x]);
    let x = builder.push("mean", Op::GlobalAvgPool, &[x]);
    let x = builder.push("fc", conv("fc", 4, 2, 1, Activation::Identity), &[x]);
    let graph = builder.finish(vec![x], Head::Classify { nc: 2 }).unwrap();
    filled(graph, Info::default())
}

#[test]
fn a_classifier_of_another_size_is_refused() {
    let graph = vgg::network(vgg::Depth::of(13).unwrap(), 2).unwrap();
    let model = filled(crate::surgery::narrow(&graph, 0.01), Info::default());
    assert!(matches!(export(&model, 256, 256), Err(ExportError::Positions { height: 256, width: 256 })));
    assert!(export(&model, 224, 224).is_ok());
}

#[test]
fn a_classifier_exports_its_logits() {
    let file = sound(&export(&classifier(), 8, 8).unwrap());
    assert_eq!(shape(&file, true), ("output0".into(), vec![1, 2]));
}

/// An interpreter with ONNX Runtime. Where there is none, says so on one line; in CI that is a failure.
pub fn python() -> Option<OsString> {
    let python = std::env::var_os("SECATEURS_PYTHON");
    if python.is_none() {
        assert!(std::env::var_os("CI").is_none(), "SECATEURS_PYTHON is not set, and in CI nothing skips");
        eprintln!(
            "skipped: no ONNX Runtime (set SECATEURS_PYTHON to the interpreter that benches/peers/setup.sh made)"
        );
        crate::notes::add("ONNX Runtime (SECATEURS_PYTHON)");
    }
    python
}

pub fn raw(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Runs an exported model in ONNX Runtime and holds what it gives against files; `arguments` says how, from a function
/// that writes a file and gives its path.
fn run_in_onnx_runtime(
    python: &OsString,
    model: &Model,
    input: &Tensor,
    arguments: &dyn Fn(&dyn Fn(&str, &[u8]) -> PathBuf) -> Vec<OsString>,
    case: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let bytes = export(model, input.shape()[2], input.shape()[3]).unwrap();
    sound(&bytes);
    let run = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/ort.py"))
        .arg(file("model.onnx", &bytes))
        .arg("--input")
        .arg(file("input.f32", &raw(input.data())))
        .args(arguments(&file))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{case}: {said}{}", String::from_utf8_lossy(&run.stderr));
    eprintln!("{case}: {said}");
}

/// The first output against the expected one, with tolerances for boxes in pixels and for scores.
fn check(python: &OsString, model: &Model, input: &Tensor, expected: &[f32], [boxes, scores]: [f64; 2], case: &str) {
    let arguments = |file: &dyn Fn(&str, &[u8]) -> PathBuf| {
        let expected = file("expected.f32", &raw(expected));
        let all: [OsString; 6] = [
            "--expect".into(),
            expected.into(),
            "--boxes".into(),
            boxes.to_string().into(),
            "--scores".into(),
            scores.to_string().into(),
        ];
        all.to_vec()
    };
    run_in_onnx_runtime(python, model, input, &arguments, case);
}

/// Every output against the engine's, decoded as the export decodes.
fn check_all(python: &OsString, model: &Model, input: &Tensor, relative: f64, case: &str) {
    let (height, width) = (input.shape()[2], input.shape()[3]);
    // Of two branches the one that is deployed is exported.
    let model = &model.deployed(None).unwrap();
    let outputs = crate::forward::by_engine(model, input.data(), height, width);
    let parts: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
    let mut expected = match model.graph.head {
        Head::Classify { .. } => vec![outputs[0].clone()],
        _ => vec![decode_all(model.graph.head.branch(), (height, width), &parts)],
    };
    if let Head::Segment { .. } = model.graph.head.branch() {
        expected.extend(outputs.last().cloned());
    }
    let arguments = |file: &dyn Fn(&str, &[u8]) -> PathBuf| {
        let files = expected.iter().enumerate().map(|(i, e)| file(&format!("expected.{i}"), &raw(e)).into());
        let settings = ["--relative".into(), relative.to_string().into(), "--outputs".into()];
        settings.into_iter().chain(files).collect()
    };
    run_in_onnx_runtime(python, model, input, &arguments, case);
}

/// Every network of the zoo, with half of its channels and some of its blocks cut away.
#[test]
fn onnx_runtime_gives_the_outputs_of_every_pruned_model_of_the_zoo() {
    let Some(python) = python() else { return };
    for (name, graph, _) in crate::surgery::zoo() {
        let model = crate::surgery::random_model(graph, 21);
        let groups = groups(&model.graph);
        let half = |(i, group): (usize, &Group)| match group.removable && i % 3 == 0 {
            true => 0,
            false => group.width().div_ceil(2).next_multiple_of(group.heads),
        };
        let widths: Vec<usize> = groups.groups.iter().enumerate().map(half).collect();
        let pruned = cut(&model, &groups, &Selection::first(&groups, &widths)).unwrap();
        let side = if name.starts_with("vgg") { 224 } else { 64 };
        let input = (0..3 * side * side).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
        check_all(&python, &pruned, &Tensor::new([1, 3, side, side], input), 1e-4, &name);
    }
}

/// The golden files of the other tasks, as the reference decodes them.
#[test]
fn onnx_runtime_gives_the_golden_outputs_of_other_tasks() {
    let Some(python) = python() else { return };
    for task in ["seg", "pose", "obb"] {
        let files = ["", "-forward"].map(|part| format!("golden/tasks/yolo11n-{task}-random{part}.safetensors"));
        let [Some(model), Some(path)] = files.map(|file| support::data(&file)) else { return };
        let model = import::load(&model).unwrap();
        let golden: Weights = tensors(&path, &std::fs::read(&path).unwrap()).unwrap();
        let keys = if task == "seg" { vec!["out.0.0", "out.0.1"] } else { vec!["out.0"] };
        let arguments = |file: &dyn Fn(&str, &[u8]) -> PathBuf| {
            let files = keys.iter().map(|key| file(key, &raw(golden[*key].data())).into());
            // Random weights amplify rounding, as in the tests of the forward pass.
            ["--relative".into(), "3e-4".into(), "--outputs".into()].into_iter().chain(files).collect()
        };
        run_in_onnx_runtime(&python, &model, &golden["input"], &arguments, task);
    }
}

/// Model, golden, prefix of its tensors, tolerances in pixels and score. The random networks amplify rounding, as in
/// the tests of the forward pass.
const CASES: [(&str, &str, &str, [f64; 2]); 4] = [
    ("models/yolo11n-coco.pt", "golden/forward-yolo11n-coco.safetensors", "sq.", [5e-3, 1e-4]),
    ("models/yolo11n-coco.pt", "golden/forward-yolo11n-coco.safetensors", "rect.", [5e-3, 1e-4]),
    (
        "golden/deep-narrow/deep-narrow-l-w025-nc3.pt",
        "golden/deep-narrow/deep-narrow-l-w025-nc3-forward.safetensors",
        "",
        [3e-2, 2e-4],
    ),
    ("golden/deep-narrow/n-nc1.safetensors", "golden/deep-narrow/n-nc1-forward.safetensors", "", [1.5e-2, 1e-4]),
];

#[test]
fn onnx_runtime_gives_the_golden_outputs() {
    let Some(python) = python() else { return };
    for (model, golden, prefix, tolerance) in CASES {
        let (Some(model), Some(path)) = (support::data(model), support::data(golden)) else { return };
        let model = import::load(&model).unwrap();
        let golden: Weights = tensors(&path, &std::fs::read(&path).unwrap()).unwrap();
        let expected = golden[&format!("{prefix}decoded")].data();
        let case = format!("{} {prefix}", path.display());
        check(&python, &model, &golden[&format!("{prefix}input")], expected, tolerance, &case);
    }
}

#[test]
fn onnx_runtime_classifies() {
    let Some(python) = python() else { return };
    // Weights and biases are 0.5, the image is 1: in the middle of 8 x 8 the stem gives 27 * 0.5 + 0.5 = 14, and every
    // maximum of 2 x 2 holds such a position, so that the mean is 14 and the logits 4 * 14 * 0.5 + 0.5.
    let image = Tensor::filled([1, 3, 8, 8], 1.0);
    check(&python, &classifier(), &image, &[28.5, 28.5], [0.0, 1e-4], "classifier");
}
