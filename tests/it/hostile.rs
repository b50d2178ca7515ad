//! Checkpoints of a few KB that would like to become gigabytes: each is refused before it takes any room. And checkpoints
//! of other programs, which get a sentence of their own.

use secateurs::import::{Fault, from_bytes};
use secateurs::zoo::yolo11;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An archive of one pickle and one storage `0` of one f32; repetitions pack to almost nothing.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in [("data.pkl", pickle), ("data/0", &[0; 4])] {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(format!("bomb/{name}"), options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn said(pickle: &[u8]) -> String {
    from_bytes(Path::new("bomb.pt"), &archive(pickle)).expect_err("was accepted").to_string()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// Puts a tensor of one element on the stack, and into the memo as 9.
fn tensor() -> Vec<u8> {
    let storage = [b"(".to_vec(), text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu")].concat();
    let view = b"K\x01tQK\x00K\x01\x85K\x01\x85\x89NtRq\x09";
    [b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(), storage, view.to_vec()].concat()
}

/// A megabyte of text under memo 0.
fn long(start: &str) -> Vec<u8> {
    [text(&format!("{start}{}", "a".repeat(1 << 20))), b"q\x00".to_vec()].concat()
}

#[test]
fn a_long_text_that_is_named_again_and_again_is_refused_at_once() {
    let rounds = |round: &[u8]| round.repeat(200_000);
    let stack = |module: Vec<u8>, name: Vec<u8>| {
        [b"\x80\x04]".to_vec(), module, b"q\x01".to_vec(), name, b"q\x0200".to_vec(), rounds(b"h\x01h\x02\x930")]
            .concat()
    };
    let keyed = [b"\x80\x02}".to_vec(), long(""), b"0".to_vec(), tensor(), b"0(".to_vec(), rounds(b"h\x00h\x09")];
    let storages = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh\x00NK\x01tQ0";
    let cases = [
        ("the module of globals", stack(long("ultralytics.nn."), text("X")), "name of a global is longer than 200"),
        ("the name of globals", stack(text("torch.nn.modules.x"), long("X")), "name of a global is longer than 200"),
        (
            "the key of storages",
            [b"\x80\x02".to_vec(), long(""), rounds(storages)].concat(),
            "name of a storage is longer than 200",
        ),
        ("the key of entries", [keyed.concat(), b"u.".to_vec()].concat(), "has a name of 1048576 bytes, the limit is"),
    ];
    for (what, pickle, expected) in cases {
        let found = said(&pickle);
        assert!(found.contains(expected), "{what}: {found}");
    }
}

#[test]
fn entries_with_one_short_key_are_bounded_in_all() {
    let key = [text(&"k".repeat(4000)), b"q\x000".to_vec()].concat();
    let entries = b"h\x00h\x09".repeat(100_000);
    let pickle = [b"\x80\x02}".to_vec(), key, tensor(), b"0(".to_vec(), entries, b"u.".to_vec()].concat();
    let found = said(&pickle);
    assert!(found.contains("has names of more than 16777216 bytes in all"), "{found}");

    let entry = |i: usize| [text(&i.to_string()), b"h\x09".to_vec()].concat();
    let entries: Vec<u8> = (0..60_000).flat_map(entry).collect();
    let pickle = [b"\x80\x02}".to_vec(), tensor(), b"0(".to_vec(), entries, b"u.".to_vec()].concat();
    let found = said(&pickle);
    assert!(found.contains("has more than 50000 tensors"), "{found}");
}

/// Every module holds the next one 30 times, under names as long as they may be.
#[test]
fn shared_modules_under_long_paths_are_bounded_in_all() {
    let class = b"cultralytics.nn.tasks\nDetectionModel\n)\x81";
    let mut pickle = b"\x80\x02}".to_vec();
    pickle.extend(text("model"));
    pickle.extend_from_slice(&[class.as_slice(), b"}"].concat());
    pickle.extend([text("_modules"), b"}sb".to_vec()].concat());
    for _ in 0..20 {
        // The module below lies on the stack: memo 1, then a module that holds it.
        pickle.extend_from_slice(b"q\x010");
        pickle.extend_from_slice(&[class.as_slice(), b"}"].concat());
        pickle.extend([text("_modules"), b"}(".to_vec()].concat());
        for i in 0..30 {
            pickle.extend([text(&format!("{i:0>200}")), b"h\x01".to_vec()].concat());
        }
        pickle.extend_from_slice(b"usb");
    }
    pickle.extend_from_slice(b"s.");
    let found = said(&pickle);
    assert!(found.contains("has names of more than 16777216 bytes in all"), "{found}");
}

#[test]
fn an_archive_of_very_many_entries_is_refused_before_it_is_listed() {
    let entry = [&b"PK\x01\x02"[..], &[0; 42]].concat();
    let bytes = [b"PK\x03\x04".to_vec(), entry.repeat(200_001)].concat();
    let found = from_bytes(Path::new("bomb.pt"), &bytes).unwrap_err().to_string();
    assert!(found.contains("has more than 200000 entries"), "{found}");
}

/// A state dict of f32 zeros by name and shape, `{outer: {name: tensor}}`, as a checkpoint.
pub fn state_dict(outer: Option<&str>, names: &BTreeMap<String, Vec<usize>>) -> Vec<u8> {
    let int = |n: usize| [&b"J"[..], &(n as u32).to_le_bytes()].concat();
    let tuple = |items: &[usize]| [&b"("[..], &items.iter().flat_map(|i| int(*i)).collect::<Vec<_>>(), b"t"].concat();
    let mut pickle = b"\x80\x02".to_vec();
    if let Some(outer) = outer {
        // A loss and a step stand beside the tensors.
        pickle.extend([b"}(".to_vec(), text("step"), b"K\x07".to_vec(), text("loss"), tensor()].concat());
        pickle.extend(text(outer));
    }
    let most = names.values().map(|shape| shape.iter().product()).max().unwrap_or(1);
    pickle.extend_from_slice(b"}(");
    for (name, shape) in names {
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        let storage = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("1"), text("cpu"), int(most)].concat();
        let view = [b"(".to_vec(), storage, b"tQ".to_vec(), int(0), tuple(shape), tuple(&strides), b"\x89NtR".to_vec()];
        pickle.extend([text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(), view.concat()].concat());
    }
    pickle.extend_from_slice(if outer.is_some() { b"uu." } else { b"u." });
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in [("data.pkl", pickle), ("data/0", vec![0; 4]), ("data/1", vec![0; 4 * most])] {
        zip.start_file(format!("dict/{name}"), SimpleFileOptions::default()).unwrap();
        zip.write_all(&content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn state_dicts_load_whatever_their_wrapper_put_before_the_names() {
    let graph = yolo11::detect(yolo11::Scale::of('n').unwrap(), 2).unwrap();
    let names: BTreeMap<String, Vec<usize>> = graph.params().iter().map(|p| (p.key.clone(), p.shape.clone())).collect();
    let load = |outer, from: &str, to: &str| {
        let renamed = names.iter().map(|(name, shape)| (name.replacen(from, to, 1), shape.clone())).collect();
        from_bytes(Path::new("dict.pt"), &state_dict(outer, &renamed))
    };
    for (outer, to) in [
        (None, "model."),
        (None, "module.model."),
        (None, "model.model."),
        (None, "module.model.model."),
        (None, "_orig_mod.model."),
        (None, "module._orig_mod.model."),
        (None, ""),
        (None, "net.backbone."),
        (Some("model_state_dict"), "model."),
        (Some("state_dict"), "module.model."),
        (Some("model"), ""),
        (Some("net"), "model."),
    ] {
        let model = load(outer, "model.", to).unwrap_or_else(|e| panic!("{outer:?} {to}: {e}"));
        assert_eq!(model.graph, graph, "{outer:?} {to}");
    }
    let error = load(None, "model.", "x.layer").unwrap_err().to_string();
    assert!(error.contains("no known network (`x.layer0.bn.bias`, ") && error.contains(" more)"), "{error}");
    let error = load(Some("weights_of_mine"), "model.", "model.").unwrap_err().to_string();
    assert!(error.contains("no known network (`loss`)"), "{error}");
}

#[test]
fn programs_of_others_are_told_from_code_that_does_harm() {
    let case = |module: &str, name: &str| {
        let pickle = format!("\x02}}X\x05\0\0\0modelc{module}\n{name}\n)\u{1}s.").into_bytes();
        let pickle = [&b"\x80"[..], &pickle].concat();
        let error = from_bytes(Path::new("case.pt"), &archive(&pickle)).unwrap_err();
        let help = error.help().unwrap_or_default();
        (error, help)
    };
    for name in ["Net", "build_model"] {
        let (error, help) = case("__main__", name);
        assert!(matches!(error.fault, Fault::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(&format!("asks for `__main__.{name}`")), "{error}");
        assert!(help.contains("state_dict()"), "{help}");
    }
    let (error, help) = case("models.yolo", "DetectionModel");
    assert!(
        error.to_string().contains("YOLOv5 and YOLOv7 (it asks for `models.yolo.DetectionModel`) is not supported")
    );
    assert!(help.contains("yolo11"), "{help}");
    let (error, help) = case("os", "system");
    assert!(matches!(error.fault, Fault::Refused { .. }) && help.contains("code of its author's choice"), "{error}");
}
