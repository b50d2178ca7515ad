//! Layouts in which the same network comes: wrapped by training scripts, as the authors' own program of YOLOv12 writes it,
//! and networks that look like one and are another.

use crate::support;
use safetensors::tensor::{Dtype, TensorView};
use secateurs::engine::{Engine, Options};
use secateurs::graph::{Graph, Op};
use secateurs::import::{from_bytes, load};
use secateurs::model::{Info, Model, Tensor, Weights};
use secateurs::zoo::{Task, state_dict, yolo11, yolo12, yolo26, yolov5, yolov6, yolov8, yolov9, yolov10};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

/// One narrow network of every family with ultralytics' names, several of some.
fn families() -> Vec<(&'static str, Graph)> {
    let eleven = yolo11::Scale { depth: 0.5, width: 0.125, max_channels: 256, c3k_everywhere: false };
    let eight = yolov8::Scale { depth: 0.33, width: 0.125, max_channels: 256 };
    let mut all = Vec::new();
    for task in Task::PUBLISHED {
        all.push(("YOLO11", yolo11::network(eleven, task, 3).unwrap()));
        all.push(("YOLOv8", yolov8::network(eight, task, 3).unwrap()));
        if task != Task::Classify {
            all.push(("YOLO26", yolo26::network(eleven, task, 3).unwrap()));
        }
    }
    for residual in [false, true] {
        all.push(("YOLO12", yolo12::detect(yolo12::Scale { sizes: eleven, residual }, 3).unwrap()));
    }
    let ten = yolov10::Scale { sizes: eight, inverted: &[8, 22], large: &[22] };
    all.push(("YOLOv10", yolov10::detect(ten, 3).unwrap()));
    all.push(("YOLOv9", yolov9::detect(yolov9::Variant::of('t').unwrap(), 3).unwrap()));
    all.push(("YOLOv6", yolov6::detect(eight, 3).unwrap()));
    all.push(("YOLOv5u", yolov5::detect(eight, 3).unwrap()));
    all
}

#[test]
fn every_family_loads_whatever_its_wrapper_put_before_the_names() {
    for (family, graph) in families() {
        // What training alone has stands beside it.
        let mut names: BTreeMap<String, Vec<usize>> = state_dict(&graph)
            .into_iter()
            .filter(|(key, _)| !key.contains(".dfl.") && !key.ends_with("tracked"))
            .collect();
        names.insert("model.23.flow_model.s.0.0.weight".into(), vec![4, 2]);
        for (outer, prefix) in [
            (None, ""),
            (Some("state_dict"), "module."),
            (Some("model_state_dict"), "_orig_mod."),
            (Some("ema"), "module.model."),
            (Some("model"), ""),
        ] {
            let renamed = names.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone())).collect();
            let model = from_bytes(Path::new("dict.pt"), &crate::hostile::state_dict(outer, &renamed));
            let model = model.unwrap_or_else(|e| panic!("{family} {outer:?} {prefix}: {e}"));
            assert!(model.graph == graph, "{family} {} {outer:?} {prefix}", graph.head.task());
        }
    }
}

fn plain(tensors: &Weights) -> Vec<u8> {
    let views = tensors.iter().map(|(key, tensor)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
        (key.as_str(), TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn outputs(model: &Model) -> Vec<Vec<f32>> {
    let side = 64;
    let mut engine = Engine::new(model, side, side, &Options { threads: 1, ..Options::default() }).unwrap();
    let image: Vec<f32> = (0..3 * side * side).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
    engine.run(&image).unwrap();
    (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect()
}

/// The rows of a tensor in another order.
fn rows(tensor: &Tensor, order: &[usize]) -> Tensor {
    tensor.select(0, order)
}

#[test]
fn the_authors_layout_of_yolov12_computes_the_same() {
    let sizes = yolo11::Scale { depth: 0.5, width: 0.25, max_channels: 512, c3k_everywhere: false };
    let graph = yolo12::detect(yolo12::Scale { sizes, residual: false }, 3).unwrap();
    let mut ours = crate::surgery::random_model(graph, 3);
    let mut theirs = ours.weights.clone();
    // Windows of 7 whose rim is zero are windows of 5.
    for (key, kernel) in &mut ours.weights {
        if !key.ends_with(".pe.conv.weight") {
            continue;
        }
        let inside = |i: &usize| (1..6).contains(&(i % 7)) && (1..6).contains(&(i / 7 % 7));
        let all = kernel.data_mut();
        let small: Vec<f32> = (0..all.len()).filter(inside).map(|i| all[i]).collect();
        (0..all.len()).filter(|i| !inside(i)).for_each(|i| all[i] = 0.0);
        theirs.insert(key.clone(), Tensor::new([small.len() / 25, 1, 5, 5], small));
    }
    // Kernels that are zero outside of some blocks are convolved in groups.
    for (layer, groups) in yolo12::GROUPED {
        let key = format!("model.{layer}.conv.weight");
        let kernel = ours.weights.get_mut(&key).unwrap();
        let (c_out, c_in) = (kernel.shape()[0], kernel.shape()[1]);
        let own = |row: usize, column: usize| row / (c_out / groups) == column / (c_in / groups);
        let mut kept = Vec::new();
        for (i, taps) in kernel.data_mut().chunks_mut(9).enumerate() {
            if own(i / c_in, i % c_in) { kept.extend_from_slice(taps) } else { taps.fill(0.0) }
        }
        theirs.insert(key, Tensor::new([c_out, c_in / groups, 3, 3], kept));
    }
    // Queries and keys stand apart from values, all queries first.
    let modules: Vec<String> =
        theirs.keys().filter_map(|key| Some(key.strip_suffix(".qkv.conv.weight")?.to_owned())).collect();
    assert!(!modules.is_empty());
    for module in modules {
        for part in ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"] {
            let joined = theirs.remove(&format!("{module}.qkv.{part}")).unwrap();
            let heads = joined.shape()[0] / 96;
            let of = |part: usize| (0..heads).flat_map(move |head| (0..32).map(move |i| 96 * head + 32 * part + i));
            let (first, values): (Vec<usize>, Vec<usize>) = (of(0).chain(of(1)).collect(), of(2).collect());
            theirs.insert(format!("{module}.qk.{part}"), rows(&joined, &first));
            theirs.insert(format!("{module}.v.{part}"), rows(&joined, &values));
        }
    }
    let loaded = from_bytes(Path::new("yolov12n.safetensors"), &plain(&theirs)).unwrap();
    let slices = loaded.graph.nodes.iter().filter(|n| matches!(n.op, Op::Slice { .. }) && n.name.contains(".split."));
    assert!(slices.count() >= 6);
    let ours = Model::new(ours.graph, ours.weights, Info::default()).unwrap();
    for (found, expected) in outputs(&loaded).iter().zip(outputs(&ours)) {
        let scale = expected.iter().fold(1.0f32, |most, v| most.max(v.abs()));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-4 * scale, "{worst} of {scale}");
    }
}

#[test]
fn networks_that_no_builder_knows_are_refused_by_their_name() {
    let Some(path) = support::data("golden/families/yolo26n-narrow.pt") else { return };
    let bytes = std::fs::read(&path).unwrap();
    let mut zip = ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).unwrap();
        let mut content = Vec::new();
        let name = entry.name().unwrap().to_string();
        entry.read_to_end(&mut content).unwrap();
        entries.push((name, content));
    }
    let with = |from: &str, to: &str| {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in &entries {
            zip.start_file(name.as_str(), SimpleFileOptions::default()).unwrap();
            if !name.ends_with("data.pkl") {
                zip.write_all(content).unwrap();
                continue;
            }
            let at = content.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            zip.write_all(&content[..at]).unwrap();
            zip.write_all(to.as_bytes()).unwrap();
            zip.write_all(&content[at + from.len()..]).unwrap();
        }
        from_bytes(Path::new("case.pt"), &zip.finish().unwrap().into_inner())
    };
    for (from, to, expected) in [
        ("tasks\nDetectionModel\n", "tasks\nRTDETRDetectionModel\n", "RT-DETR is not supported"),
        ("tasks\nDetectionModel\n", "tasks\nWorldModel\n", "YOLO-World is not supported"),
        ("tasks\nDetectionModel\n", "tasks\nYOLOEModel\n", "YOLOE is not supported"),
        ("head\nDetect\n", "head\nRTDETRDecoder\n", "RT-DETR is not supported"),
        ("head\nDetect\n", "head\nv10Detect\n", "layer 23 is `v10Detect`, in YOLO26 `Detect`"),
        ("block\nC2PSA\n", "block\nPSA\n", "layer 10 is `PSA`, in YOLO26 `C2PSA`"),
    ] {
        let said = with(from, to).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
    assert!(with("tasks\nDetectionModel\n", "tasks\nYOLOv10DetectionModel\n").is_ok());
    assert!(load(&path).is_ok());
}
