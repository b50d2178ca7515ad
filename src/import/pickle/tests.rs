//! Pickles as they are, and as an attacker would like them.

use super::limits::{MAX_NAME, MAX_PICKLE, MAX_VALUES};
use super::*;
use proptest::prelude::*;
use std::sync::Arc;

fn result(bytes: &[u8]) -> String {
    match parse(bytes) {
        Ok((heap, root)) => heap.describe(root),
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn values_of_all_protocols_are_read() {
    for (bytes, expected) in [
        (&b"\x80\x02K\x07."[..], "the number 7"),
        (b"\x80\x02J\xff\xff\xff\xff.", "the number -1"),
        (b"\x80\x02\x8a\x02\x00\x80.", "the number -32768"),
        (b"\x80\x02\x8a\x00.", "the number 0"),
        (b"\x80\x02G\x3f\xe0\x00\x00\x00\x00\x00\x00.", "the number 0.5"),
        (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94.", "the text `a`"),
        (b"\x80\x05\x8e\x02\x00\x00\x00\x00\x00\x00\x00ab.", "bytes"),
        (b"\x80\x02](K\x01K\x02e.", "a list"),
        (b"\x80\x02}(X\x01\x00\x00\x00aK\x01u.", "a dictionary"),
        (b"\x80\x02ccollections\nOrderedDict\n)R.", "a dictionary"),
        (b"\x80\x02cargparse\nNamespace\n)\x81}b.", "a `argparse.Namespace`"),
        (b"\x80\x04\x8c\x08argparse\x8c\x09Namespace\x93)R.", "a `argparse.Namespace`"),
        // A list that holds itself.
        (b"\x80\x02]q\x00h\x00a.", "a list"),
    ] {
        assert_eq!(result(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn hostile_pickles_are_refused_by_name_or_place() {
    let huge = [&b"\x80\x02X\xff\xff\xff\x7f"[..], b"short."].concat();
    for (bytes, expected) in [
        (&b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."[..], "asks for `os.system`"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "asks for `builtins.eval`"),
        (b"\x80\x02cposix\nsystem\n.", "asks for `posix.system`"),
        (b"\x80\x02c__builtin__\ngetattr\n.", "asks for `__builtin__.getattr`"),
        (b"cos\nsystem\n(S'ls'\ntR.", "asks for `os.system`"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x80\x02.", "the stack is empty"),
        (b"\x80\x02(.", "the stack is empty"),
        (b"\x80\x02K\x01t.", "a mark is missing"),
        (b"\x80\x02h\x05.", "memo 5 was never set"),
        (b"\x80\x02}K\x01a.", "appends to a dictionary"),
        (b"\x80\x02](K\x01u.", "a key without a value"),
        (b"\x80\x02K\x01)R.", "calls the number 1"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01R.", "not a tuple"),
        (b"\x80\x02K\x01Q.", "not a storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "too few arguments"),
        (b"\x80\x02I1\n.", "instruction 0x49 (`I`)"),
        (b"\x80\x02", "byte 2: ends early"),
        (b"", "ends early"),
        (&huge, "ends early: 2147483647 more bytes expected, 6 are left"),
    ] {
        let found = result(bytes);
        assert!(found.contains(expected), "{bytes:?}: {found}");
    }
}

#[test]
fn sharing_costs_a_reference_and_the_number_of_values_is_bounded() {
    // Each round makes a list that holds the last one twice: 2^200 elements if GET copied.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for _ in 0..200 {
        laughs.extend_from_slice(b"](h\x00h\x00eq\x00");
    }
    laughs.push(b'.');
    let (heap, _) = parse(&laughs).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(heap.values.len(), 201);

    for (filler, expected) in [(&b"N"[..], "values"), (b"(", "marks"), (b"2", "on the stack")] {
        let mut bytes = b"\x80\x02N".to_vec();
        (0..=MAX_VALUES).for_each(|_| bytes.extend_from_slice(filler));
        let found = result(&bytes);
        assert!(found.contains(expected), "{found}");
    }
    let found = result(&vec![b'N'; MAX_PICKLE + 1]);
    assert!(found.contains("the limit is"), "{found}");
}

#[test]
fn deep_nesting_neither_overflows_on_reading_nor_on_dropping() {
    let mut bytes = b"\x80\x02)".to_vec();
    (0..1_000_000).for_each(|_| bytes.push(0x85));
    bytes.push(b'.');
    assert_eq!(result(&bytes), "a list");
}

proptest! {
    #[test]
    fn random_instructions_never_panic(ops in proptest::collection::vec(
        prop_oneof![
            proptest::sample::select(b"\x80\x95.(012NKMJ\x8a\x8bGX\x8c\x8dUTCB\x8e\x96qr\x94hj])}\x8ftl\x91\x85\x86\x87dae\x90suc\x93R\x81\x92bQ".to_vec()),
            0u8..4,
        ], 0..200)) {
        let _ = result(&ops);
    }
}

/// A text, put into the memo under `key`.
fn memoised(text: &[u8], key: u8) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text, b"q", &[key]].concat()
}

#[test]
fn texts_that_many_values_need_are_shared_and_names_are_short() {
    // Two globals of one module, by reference to the same two texts, and two storages with the same key.
    let global = b"h\x00h\x01\x93";
    let storage = b"(h\x02ctorch\nFloatStorage\nh\x03h\x03K\x01tQ";
    let texts = [
        b"\x80\x04](".to_vec(),
        memoised(b"ultralytics.nn.tasks", 0),
        memoised(b"Model", 1),
        memoised(b"storage", 2),
        memoised(b"7", 3),
    ];
    let bytes = [&texts.concat()[..], global, global, storage, storage, b"e."].concat();
    let (heap, root) = parse(&bytes).unwrap_or_else(|e| panic!("{e}"));
    let [.., a, b, c, d] = heap.list(root).unwrap() else { panic!() };
    let (Value::Global(a), Value::Global(b)) = (heap.at(*a), heap.at(*b)) else { panic!() };
    assert!(Arc::ptr_eq(&a.module, &b.module) && Arc::ptr_eq(&a.name, &b.name));
    let (Value::Storage(c), Value::Storage(d)) = (heap.at(*c), heap.at(*d)) else { panic!() };
    assert!(Arc::ptr_eq(&c.key, &d.key));

    let long = [&b"ultralytics.nn."[..], &[b'a'; MAX_NAME]].concat();
    let line = [&b"\x80\x02c"[..], &long, b"\nX\n."].concat();
    let module = [b"\x80\x04".to_vec(), memoised(&long, 0), memoised(b"X", 1), global.to_vec()].concat();
    let name = [b"\x80\x04".to_vec(), memoised(b"torch.nn.modules", 0), memoised(&long, 1), global.to_vec()].concat();
    let key = [texts[0].clone(), memoised(b"storage", 2), memoised(&long, 3), storage.to_vec()].concat();
    for (bytes, expected) in [
        (line, "the name of a global has no end, or is longer than 200 bytes"),
        (module, "the name of a global is longer than 200 bytes"),
        (name, "the name of a global is longer than 200 bytes"),
        (key, "the name of a storage is longer than 200 bytes"),
    ] {
        let found = result(&bytes);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn all_values_together_have_one_budget_of_bytes() {
    // Each round views the same storage through eight axes: eleven bytes of the pickle become some 250.
    let axes = b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01tq\x05";
    let mut bytes =
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000K\x00K\x01tQq\x01".to_vec();
    bytes.extend_from_slice(axes);
    bytes.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\nq\x02(h\x01K\x00h\x05h\x05tq\x03");
    (0..MAX_VALUES - 100).for_each(|_| bytes.extend_from_slice(b"h\x02h\x03R0"));
    bytes.push(b'.');
    let found = result(&bytes);
    assert!(found.contains("values of more than 268435456 bytes"), "{found}");
}
