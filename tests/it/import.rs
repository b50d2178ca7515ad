//! Import: real checkpoints against their safetensors, published shapes, and files that are broken or hostile.

use crate::support;
use safetensors::tensor::{Dtype, TensorView};
use secateurs::graph::{Activation, Op};
use secateurs::import::{Fault, from_bytes, load};
use secateurs::model::{self, Model};
use secateurs::size::ImageSize;
use secateurs::zoo::{Shapes, Task, yolo11};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

const COCO: &str = "models/yolo11n-coco.pt";

fn read(path: &str) -> Option<Vec<u8>> {
    support::data(path).map(|path| std::fs::read(path).unwrap())
}

fn fault(bytes: &[u8]) -> Fault {
    match from_bytes(Path::new("case.pt"), bytes) {
        Ok(_) => panic!("was accepted"),
        Err(error) => error.fault,
    }
}

/// The entries of an archive below its root, in file order.
fn unzip(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let entry = |i| {
        let mut entry = zip.by_index(i).unwrap();
        let name = entry.name().unwrap().split_once('/').unwrap().1.to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    };
    (0..ZipArchive::new(Cursor::new(bytes)).unwrap().len()).map(entry).collect()
}

fn zip<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>, method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(format!("case/{name}"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn pickled(pickle: &[u8]) -> Vec<u8> {
    zip([("data.pkl", pickle)], zip::CompressionMethod::Stored)
}

#[test]
fn checkpoints_equal_their_safetensors_tensor_by_tensor() {
    for (checkpoint, tensors, nc, imgsz, first_last) in [
        (COCO, "models/yolo11n-coco.safetensors", 80, 640, ["person", "toothbrush"]),
        ("models/yolo11n-bccd.pt", "models/yolo11n-bccd.safetensors", 3, 320, ["RBC", "Platelets"]),
        (
            "golden/deep-narrow/deep-narrow-l-w025-nc3.pt",
            "golden/deep-narrow/deep-narrow-l-w025-nc3.safetensors",
            3,
            640,
            ["class0", "class2"],
        ),
    ] {
        let (Some(checkpoint), Some(tensors)) = (support::data(checkpoint), support::data(tensors)) else { return };
        let model = load(&checkpoint).unwrap();
        let plain = load(&tensors).unwrap();
        assert_eq!(model.graph, plain.graph, "{}", checkpoint.display());
        assert_eq!(model.weights.keys().collect::<Vec<_>>(), plain.weights.keys().collect::<Vec<_>>());
        for (key, tensor) in &model.weights {
            assert!(*tensor == plain.weights[key], "{}: `{key}` differs", checkpoint.display());
        }
        assert_eq!(model.graph.classes(), nc);
        assert_eq!(model.info.imgsz, Some(ImageSize::square(imgsz)));
        assert_eq!(model.info.names.len(), nc);
        assert_eq!([&model.info.names[0], &model.info.names[nc - 1]], first_last);
        assert_eq!(model.info.provenance["source.ultralytics"], "8.4.190");
        assert_eq!(model.info.provenance["source"], checkpoint.file_name().unwrap().to_str().unwrap());

        // Saved in our own format it comes back as it was.
        let own = from_bytes(Path::new("own.safetensors"), &model::to_bytes(&model).unwrap()).unwrap();
        assert_eq!((&own.graph, &own.weights, &own.info), (&model.graph, &model.weights, &model.info));
    }
}

#[test]
fn activations_heads_and_eps_come_from_the_modules() {
    let Some(path) = support::data(COCO) else { return };
    let model = load(&path).unwrap();
    let activation = |name: &str| match &model.graph.node(model.graph.find(name).unwrap()).op {
        Op::Conv(conv) => conv.act,
        other => panic!("{other:?}"),
    };
    assert_eq!(activation("model.9.cv1"), Activation::Silu);
    assert_eq!(activation("model.10.m.0.ffn.1"), Activation::Identity);
    for node in &model.graph.nodes {
        match &node.op {
            Op::Attention(attention) => assert_eq!((attention.heads, attention.key_dim), (2, 32)),
            Op::Conv(conv) => assert!(conv.norm.as_ref().is_none_or(|n| n.eps == 1e-3)),
            _ => {}
        }
    }
}

#[test]
fn modules_that_compute_something_else_are_refused_or_taken_over() {
    let Some(bytes) = read(COCO) else { return };
    let entries = unzip(&bytes);
    let pickle = &entries[0].1;
    let with = |from: &[u8], to: &[u8]| {
        assert_eq!(from.len(), to.len());
        let at = pickle.windows(from.len()).position(|w| w == from).unwrap();
        let mut changed = pickle.clone();
        changed[at..at + to.len()].copy_from_slice(to);
        let rest = entries[1..].iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        let all = [("data.pkl", changed.as_slice())].into_iter().chain(rest);
        from_bytes(Path::new("case.pt"), &zip(all, zip::CompressionMethod::Stored))
    };
    for (from, to, expected) in [
        (&b"tasks\nDetectionModel"[..], &b"tasks\nDetectionMode2"[..], "class `DetectionMode2` is not supported"),
        (b"activation\nSiLU", b"activation\nReLx", "the activation `ReLx`"),
        (b"block\nC3k2", b"block\nC2fx", "layer 2 is `C2fx`, in YOLO11 `C3k2`"),
        (b"block\nSPPF", b"block\nXPPF", "layer 9 is `XPPF`"),
        (b"conv\nConv2d", b"conv\nConv3d", "Conv3d"),
        (b"nearest", b"bicubic", "the interpolation `bicubic`"),
        (b"zeros", b"wraps", "the padding mode `wraps`"),
        (b"num_heads", b"num_hoods", ""),
        // `task` comes from the network's own attribute.
        (b"detect", b"detekt", "the task `detekt` is not supported"),
    ] {
        match with(from, to) {
            Ok(_) => assert_eq!(expected, "", "{}", String::from_utf8_lossy(to)),
            Err(error) => {
                let said = error.to_string();
                assert!(!expected.is_empty() && said.contains(expected), "{said}");
            }
        }
    }
    let relu = with(b"activation\nSiLU", b"activation\nReLU").unwrap();
    let acts = relu.graph.convs().filter(|(_, c)| c.act == Activation::Relu).count();
    assert!(acts > 50, "{acts}");
    // The first number 0.001 in the file is the eps of the first normalisation.
    let eps = |value: f64| [&[b'G'][..], &value.to_be_bytes()].concat();
    let model = with(&eps(1e-3), &eps(1e-5)).unwrap();
    let changed = model.graph.convs().filter(|(_, c)| c.norm.as_ref().is_some_and(|n| n.eps == 1e-5)).count();
    assert!(changed >= 1, "{changed}");
}

#[test]
fn published_shapes_are_those_of_the_builder() {
    let Some(bytes) = read("golden/shapes.json") else { return };
    let golden: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for (task, letter) in Task::PUBLISHED.into_iter().flat_map(|task| "nsmlx".chars().map(move |l| (task, l))) {
        let name = format!("yolo11{letter}{}", task.suffix());
        let expected = &golden["models"][&name];
        let published: BTreeMap<String, Vec<usize>> = shapes(&expected["state_dict"]);
        let last = if task == Task::Classify { "model.10.linear.bias" } else { "model.23.cv3.0.2.bias" };
        let graph = yolo11::network(yolo11::Scale::of(letter).unwrap(), task, published[last][0]).unwrap();
        let found = yolo11::state_dict(&graph);
        assert_eq!(found.len(), published.len(), "{name}");
        for (key, shape) in &published {
            assert_eq!(found.get(key), Some(shape), "{name}: `{key}`");
        }
        let constants = if task == Task::Classify { 0 } else { yolo11::REG_MAX };
        let params = graph.cost(64, 64).unwrap().params + constants;
        assert_eq!(params as u64, expected["params"].as_u64().unwrap(), "{name}");
        // The other way round: the shapes alone give the same graph.
        let four = |mut shape: Vec<usize>| {
            if shape.len() == 2 {
                shape.extend([1, 1]);
            }
            shape
        };
        let tensors = published.into_iter().map(|(key, shape)| (key, four(shape))).collect();
        assert_eq!(yolo11::from_shapes(&Shapes { tensors, ..Shapes::default() }).unwrap(), graph, "{name}");
    }
}

fn shapes(value: &serde_json::Value) -> BTreeMap<String, Vec<usize>> {
    serde_json::from_value::<Vec<(String, Vec<usize>)>>(value.clone()).unwrap().into_iter().collect()
}

/// A YOLO11n with small random weights, without any data file.
fn synthetic() -> Model {
    let graph = yolo11::detect(yolo11::Scale::of('n').unwrap(), 2).unwrap();
    let tensor = |p: &secateurs::graph::Param| {
        let len: usize = p.shape.iter().product();
        let values = (0..len).map(|i| 0.01 + ((i * 7919 + p.key.len()) % 101) as f32 / 1000.0).collect();
        (p.key.clone(), model::Tensor::new(p.shape.clone(), values))
    };
    let weights = graph.params().iter().map(tensor).collect();
    Model::new(graph, weights, model::Info::default()).unwrap()
}

fn plain(tensors: &model::Weights) -> Vec<u8> {
    let views = tensors.iter().map(|(key, tensor)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
        (key.as_str(), TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn plain_tensors_load_fused_ones_too_and_others_are_named() {
    let model = synthetic();
    assert_eq!(from_bytes(Path::new("a"), &plain(&model.weights)).unwrap().graph, model.graph);

    let mut fused = model.weights.clone();
    for (_, conv) in model.graph.convs() {
        if let Some(norm) = &conv.norm {
            let [_, shift, ..] = norm.keys();
            let bias = fused.remove(&shift).unwrap();
            norm.keys().iter().for_each(|key| drop(fused.remove(key)));
            fused.insert(conv.weight.replace(".weight", ".bias"), bias);
        }
    }
    let loaded = from_bytes(Path::new("a"), &plain(&fused)).unwrap();
    assert!(loaded.graph.convs().all(|(_, conv)| conv.norm.is_none() && conv.bias.is_some()));
    assert_eq!(loaded.weights, fused);

    let refuse = |change: &dyn Fn(&mut model::Weights), expected: &str| {
        let mut weights = model.weights.clone();
        change(&mut weights);
        let said = fault(&plain(&weights)).to_string();
        assert!(said.contains(expected), "{said}");
    };
    let extra = |key: &'static str| {
        move |w: &mut model::Weights| drop(w.insert(key.into(), model::Tensor::filled([1, 1, 1, 1], 1.0)))
    };
    refuse(&extra("model.23.proto.cv1.conv.weight"), "tensor `model.23.cv4.0.2.weight`: is missing");
    refuse(&extra("model.23.cv4.0.0.conv.weight"), "tensor `model.23.cv4.0.2.weight`: is missing");
    refuse(
        &extra("model.23.one2one_cv2.0.0.conv.weight"),
        "no layer of one has the tensor `model.23.one2one_cv2.0.0.conv.weight`",
    );
    refuse(&extra("model.24.m.0.weight"), "YOLOv5 is not supported");
    refuse(&extra("model.21.cv3.conv.weight"), "no layer of one has the tensor `model.21.cv3.conv.weight`");
    refuse(&extra("model.22.cv3.0.0.conv.weight"), "not a YOLO11 network: no layer of one has");
    refuse(&extra("model.23.dfl.conv.weight"), "is not the 16 numbers");
    refuse(&|w| drop(w.remove("model.4.cv1.conv.weight")), "tensor `model.4.cv1.conv.weight`: is missing");
    refuse(&|w| drop(w.remove("model.4.cv1.bn.bias")), "tensor `model.4.cv1.bn.bias` [64] is missing");
    refuse(
        &|w| drop(w.insert("model.0.conv.weight".into(), model::Tensor::filled([16, 3, 5, 5], 0.1))),
        "has shape [16, 3, 5, 5], expected [16, 3, 3, 3]",
    );
    refuse(&|w| w.get_mut("model.0.conv.weight").unwrap().data_mut()[3] = f32::NAN, "holds NaN at position 3");
    refuse(&|w| w.clear(), "the names of no known network");
}

#[test]
fn files_of_the_wrong_kind_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(&folder.path().join("best.pt")).unwrap_err();
    assert!(matches!(&missing.fault, Fault::Io(e) if e.kind() == std::io::ErrorKind::NotFound), "{missing}");
    assert!(missing.to_string().contains("best.pt"), "{missing}");
    assert!(load(folder.path()).is_err());
    // What the file is, and the word that tells the advice for it from that for another.
    for (bytes, expected, help) in [
        (&b""[..], "an empty file", "get the file again"),
        (b"\x80\x02}q\x00.", "a bare pickle", "torch.save"),
        (b"\x08\x08\x12\x07pytorch", "perhaps an ONNX file", "exported from"),
        (b"\x1c\0\0\0TFL3....", "a TensorFlow Lite file", "exported from"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page", "download again"),
        (b"\n  <html>", "a web page", "download again"),
        (b"{\"error\":\"not found\"}", "a JSON text", "download again"),
        (b"\x1f\x8b\x08\0", "a gzip archive", "unpack"),
        (&[0; 5000], "a file of zeros", "get the file again"),
        (b"hello", "an unknown kind", ""),
        (b"PK\x03\x04", "not a readable checkpoint archive", "cut off"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "no known network (there are none)", "state dict"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "not a safetensors file", "cut off"),
    ] {
        let error = from_bytes(Path::new("case.pt"), bytes).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let said = error.help().unwrap_or_default();
        assert!(said.contains(help) && (help.is_empty() == said.is_empty()), "{error}: {said}");
    }
    for (name, expected) in [("readme.md", "unpack it first"), ("constants.pkl", "exported from")] {
        let entries = [("data.pkl", &b"N."[..]), (name, b"")];
        let only = if name == "readme.md" { &entries[1..] } else { &entries[..] };
        let bytes = zip(only.iter().copied(), zip::CompressionMethod::Stored);
        let error = from_bytes(Path::new("case.pt"), &bytes).unwrap_err();
        assert!(error.help().unwrap().contains(expected), "{error}");
    }
}

#[test]
fn a_pickle_with_code_is_refused_by_name_and_runs_nothing() {
    let mark = std::env::temp_dir().join(format!("secateurs-pickle-{}", std::process::id()));
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("subprocess", "check_output"),
        ("torch", "load"),
        ("runpy", "_run_code"),
        ("ultralytics.nn.tasks", "os.system"),
    ] {
        let command = format!("touch {}", mark.display());
        let mut pickle = format!("\x02c{module}\n{name}\nX").into_bytes();
        pickle.insert(0, 0x80);
        pickle.extend_from_slice(&(command.len() as u32).to_le_bytes());
        pickle.extend_from_slice(command.as_bytes());
        pickle.extend_from_slice(b"\x85R.");
        let error = from_bytes(Path::new("evil.pt"), &pickled(&pickle)).unwrap_err();
        let Fault::Refused { global, offset: 2 } = &error.fault else { panic!("{error}") };
        assert_eq!(*global, format!("{module}.{name}"));
        assert!(error.help().is_some());
        assert!(!mark.exists());
    }
}

/// A storage of `len` f32 and a tensor that views it, as the value of `model.w` in a bare state dict.
fn one_tensor(len: u32, offset: u32, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let int = |n: u32| [&[b'J'][..], &n.to_le_bytes()].concat();
    let tuple = |items: &[u32]| [&b"("[..], &items.iter().flat_map(|i| int(*i)).collect::<Vec<_>>(), b"t"].concat();
    [
        &b"\x80\x02}X\x07\x00\x00\x00model.wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"[..],
        &int(len),
        b"tQ",
        &int(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89NtRs.",
    ]
    .concat()
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    let storage = [0u8; 48];
    let bytes = |pickle: &[u8]| zip([("data.pkl", pickle), ("data/0", &storage)], zip::CompressionMethod::Stored);
    for (len, offset, shape, strides, expected) in [
        // The good case gets as far as the question what the names are of.
        (12, 0, &[3, 4][..], &[1, 3][..], "names of no known network"),
        (12, 1, &[3, 4], &[1, 3], "leave its storage of 12 elements"),
        (12, 0, &[3, 4], &[4, 2], "leave its storage"),
        (12, 0x7fff_ffff, &[1], &[1], "leave its storage"),
        (12, 0, &[2, 2], &[0x7fff_ffff, 0x7fff_ffff], "leave its storage"),
        (12, 0, &[13], &[0], "has 13 elements, its storage has 12"),
        (12, 0, &[0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff], &[0, 0, 0], "are too large"),
        (12, 0, &[2, 2], &[1], "2 sizes and 1 strides"),
        (12, 0, &[0xffff_ffff], &[1], "natural numbers"),
        (13, 0, &[3, 4], &[4, 1], "has 48 bytes, expected 13 elements of 4 bytes"),
    ] {
        let found = fault(&bytes(&one_tensor(len, offset, shape, strides))).to_string();
        assert!(found.contains(expected), "{shape:?} {strides:?}: {found}");
    }
    let found = fault(&pickled(&one_tensor(12, 0, &[12], &[1]))).to_string();
    assert!(found.contains("entry `case/data/0`"), "{found}");
}

#[test]
fn archives_that_lie_or_explode_are_refused() {
    // Zeros pack to a thousandth.
    let zeros = vec![0u8; 66 << 20];
    let bomb = zip([("data.pkl", zeros.as_slice())], zip::CompressionMethod::Deflated);
    let found = fault(&bomb).to_string();
    assert!(found.contains("declares 69206016 bytes"), "{found}");
    let bomb = zip(
        [("data.pkl", one_tensor(33 << 19, 0, &[1], &[1]).as_slice()), ("data/0", &zeros)],
        zip::CompressionMethod::Deflated,
    );
    let found = fault(&bomb).to_string();
    assert!(found.contains("declares 69206016 bytes"), "{found}");

    for (entries, expected) in [
        (&[("other", &b"x"[..])][..], "a zip archive without `data.pkl`"),
        (&[("data.pkl", b"N."), ("constants.pkl", b"N.")], "a TorchScript archive"),
        (&[("data.pkl", b"N."), ("byteorder", b"big")], "byte order `big`"),
        (&[("data.pkl", b"N.")], "holds None, expected a dictionary with a network"),
        (&[("data.pkl", b"}.")], "holds a dictionary, expected a dictionary with a network"),
    ] {
        let found = fault(&zip(entries.iter().copied(), zip::CompressionMethod::Stored)).to_string();
        assert!(found.contains(expected), "{found}");
    }
}

/// Modules that hold each other: `{"model": m}` with `m._modules = {"a": m, "b": m}`.
#[test]
fn circular_and_shared_modules_end() {
    let key = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut pickle = b"\x80\x02}".to_vec();
    pickle.extend(key("model"));
    pickle.extend_from_slice(b"cultralytics.nn.tasks\nDetectionModel\n)\x81q\x01}");
    pickle.extend(key("_modules"));
    pickle.extend_from_slice(b"}(");
    for name in ["a", "b"] {
        pickle.extend(key(name));
        pickle.extend_from_slice(b"h\x01");
    }
    pickle.extend_from_slice(b"usbs.");
    let found = fault(&pickled(&pickle)).to_string();
    assert!(found.contains("nested without end"), "{found}");
}

#[test]
fn a_checkpoint_cut_off_anywhere_is_an_error() {
    let Some(bytes) = read(COCO) else { return };
    for cut in (0..bytes.len()).step_by(bytes.len() / 40) {
        assert!(from_bytes(Path::new("cut.pt"), &bytes[..cut]).is_err(), "{cut}");
    }
    let pickle = &unzip(&bytes)[0].1;
    for cut in (0..pickle.len() - 1).step_by(577) {
        assert!(matches!(fault(&pickled(&pickle[..cut])), Fault::Pickle { .. }), "{cut}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let Some(bytes) = read(COCO) else { return };
    let pickle = unzip(&bytes).swap_remove(0).1;
    for i in 0..1500 {
        let mut changed = pickle.clone();
        // Positions and bits from a fixed multiplicative sequence; three flips a case.
        for j in 0..3usize {
            let mixed = (i * 3 + j).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize);
            let at = (mixed >> 20) % changed.len();
            changed[at] ^= 1 << (mixed & 7);
        }
        // Without its storages no changed pickle can become a model.
        assert!(from_bytes(Path::new("flip.pt"), &pickled(&changed)).is_err());
    }
    // The archive around it: its directory lies at the end, the first headers at the start.
    let tail = bytes.len() - 4096;
    for i in 0..300 {
        let mut changed = bytes.clone();
        let at = if i % 2 == 0 { tail + (i * 13) % 4096 } else { (i * 7) % 4096 };
        changed[at] ^= 1 << (i % 8);
        let _ = from_bytes(Path::new("flip.pt"), &changed);
    }
}
