//! Checkpoints of a few KB that would like to become gigabytes: each is refused before it takes any room.

use secateurs::import::from_bytes;
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
