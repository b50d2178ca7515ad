//! Pickles as PyTorch writes them, and changes to their instructions rather than to their bytes.

use crate::mutate::{self, Rng};
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Instructions that do something when they are put anywhere, and the names they need.
const TOKENS: [&[u8]; 34] = [
    b"(",
    b"0",
    b"1",
    b"2",
    b"N",
    b"]",
    b")",
    b"}",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"R",
    b"b",
    b"Q",
    b"\x93",
    b"\x94",
    b"\x81",
    b"\x92",
    b"h\x00",
    b"h\x01",
    b"h\x02h\x01\x86",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n)R",
    b"cultralytics.nn.tasks\nDetectionModel\n)\x81",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"cbuiltins\nset\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
];

/// Writes instructions.
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub fn done(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub fn int(&mut self, value: i32) -> &mut Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    pub fn ints(&mut self, values: &[usize]) -> &mut Self {
        self.raw(b"(");
        for value in values {
            self.int(*value as i32);
        }
        self.raw(b"t")
    }

    /// A view of the first values of storage `0`.
    pub fn tensor(&mut self, shape: &[usize]) -> &mut Self {
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage").raw(b"ctorch\nFloatStorage\n").text("0").text("cpu").int(STORAGE as i32).raw(b"tQ");
        self.int(0).ints(shape).ints(&strides).raw(b"\x89ccollections\nOrderedDict\n)RtR")
    }

    /// A module with `_parameters` and `_modules`, whose contents are what `inside` writes into each.
    pub fn module(
        &mut self,
        class: &str,
        parameters: &[(&str, &[usize])],
        modules: &mut dyn FnMut(&mut Self),
    ) -> &mut Self {
        let (module, name) = class.rsplit_once('.').unwrap_or(("torch.nn.modules", class));
        self.raw(format!("c{module}\n{name}\n)").as_bytes()).raw(b"\x81}(").text("_parameters").raw(b"}(");
        for (key, shape) in parameters {
            self.text(key).tensor(shape);
        }
        self.raw(b"u").text("_buffers").raw(b"}").text("_modules").raw(b"}(");
        modules(self);
        self.raw(b"u").text("training").raw(b"\x89").text("eps").raw(b"G\x3f\x50\x62\x4d\xd2\xf1\xa9\xfc").raw(b"ub")
    }
}

/// Values of the one storage.
const STORAGE: usize = 1 << 14;

/// A state dict of a small network, as bare tensors.
pub fn state_dict(params: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.raw(b"}(").text("state_dict").raw(b"ccollections\nOrderedDict\n)R(");
    for (key, shape) in params {
        pickle.text(key).tensor(shape);
    }
    pickle.raw(b"uu");
    pickle.done()
}

/// A few nested modules with what surrounds them in a checkpoint.
pub fn modules() -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.raw(b"}(").text("epoch").int(3).text("train_args").raw(b"}(").text("imgsz").int(640).raw(b"u").text("model");
    pickle.module("ultralytics.nn.tasks.DetectionModel", &[], &mut |p| {
        p.text("model").module("torch.nn.modules.container.Sequential", &[], &mut |p| {
            for layer in ["0", "1", "2"] {
                p.text(layer).module("ultralytics.nn.modules.conv.Conv", &[], &mut |p| {
                    let shape: &[usize] = &[8, 3, 3, 3];
                    p.text("conv").module("torch.nn.modules.conv.Conv2d", &[("weight", shape)], &mut |_| {});
                    p.text("bn").module("torch.nn.modules.batchnorm.BatchNorm2d", &[("weight", &[8])], &mut |_| {});
                    p.raw(b"q\x01")
                        .text("act")
                        .module("torch.nn.modules.activation.SiLU", &[], &mut |_| {})
                        .raw(b"q\x02");
                });
            }
        });
    });
    pickle.raw(b"u");
    pickle.done()
}

/// The archive of a checkpoint with this pickle.
pub fn archive(pickle: &[u8], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    let storage: Vec<u8> = (0..STORAGE).flat_map(|i| ((i % 7) as f32 * 0.01).to_le_bytes()).collect();
    for (name, bytes) in
        [("m/data.pkl", pickle), ("m/byteorder", b"little"), ("m/data/0", &storage), ("m/version", b"3\n")]
    {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Where each instruction of a pickle begins; at the first that is not known, the end.
fn instructions(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (0, Vec::new());
    while at < bytes.len() {
        starts.push(at);
        let rest = &bytes[at + 1..];
        let word = |n: usize| rest.get(..n).map_or(0, |b| b.iter().rev().fold(0, |v, b| v << 8 | usize::from(*b)));
        let length = match bytes[at] {
            0x80 | b'K' | b'q' | b'h' => 1,
            b'M' => 2,
            b'J' | b'r' | b'j' => 4,
            b'G' | 0x95 => 8,
            0x8a | 0x8c | b'U' | b'C' => 1 + word(1),
            b'X' | b'T' | b'B' | 0x8b => 4 + word(4),
            b'c' => rest.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).map_or(rest.len(), |(n, _)| n + 1),
            _ => 0,
        };
        at = at.saturating_add(1).saturating_add(length);
    }
    starts.push(bytes.len());
    starts
}

/// Changes instructions: taken out, repeated, swapped, put in, and texts made long.
pub fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    if rng.below(4) == 0 {
        return mutate::mutate(bytes, others, &TOKENS, rng);
    }
    for _ in 0..1 << rng.below(4) {
        let starts = instructions(bytes);
        let from = rng.below(starts.len());
        let most = [2, 8, 64, 1000][rng.below(4)];
        let to = (from + rng.below(most)).min(starts.len() - 1).max(from);
        let (a, b) = (starts[from], starts[to]);
        match rng.below(6) {
            0 => drop(bytes.drain(a..b)),
            1 | 2 => {
                let count = [1, 2, 50, 3000, 100_000][rng.below(5)].min((4 << 20) / (b - a).max(1));
                let part = bytes[a..b].repeat(count);
                bytes.splice(b..b, part);
            }
            3 => {
                let count = [1, 1, 3, 1000, 200_000][rng.below(5)];
                let part = rng.pick(&TOKENS).repeat(count);
                bytes.splice(a..a, part.into_iter().take(4 << 20));
            }
            4 => long_text(bytes, a, rng),
            _ => {
                // What a memo holds, used again and again: names, keys, modules.
                let slot = rng.below(4) as u8;
                let wrap: &[u8] = [&b"h"[..], b"(h", b"]h", b"}(h"][rng.below(4)];
                let part: Vec<u8> = [b"q", &[slot][..]].concat();
                let again = [wrap, &[slot]].concat().repeat([1, 10, 5000][rng.below(3)]);
                bytes.splice(a..a, [part, again].concat());
            }
        }
        bytes.truncate(8 << 20);
    }
}

/// A text of up to a mebibyte that is memoised, and then a global, a key or a storage named by it, often.
fn long_text(bytes: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let length = [200, 5000, 1 << 20][rng.below(3)];
    let text = [b"ultralytics.nn.".repeat(rng.below(2)), vec![b'a'; length]].concat();
    let text = [b"X", &(text.len() as u32).to_le_bytes()[..], &text, b"q\x07"].concat();
    let use_it: &[u8] = [
        &b"X\x01\x00\x00\x00x\x93"[..],
        b"0X\x04\x00\x00\x00texth\x07\x93",
        b"0}(h\x07K\x01u",
        b"0(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh\x07X\x03\x00\x00\x00cpuK\x01tQ",
    ][rng.below(4)];
    let rest = use_it.strip_prefix(b"0").unwrap_or(use_it);
    let again = [b"h\x07", use_it].concat().repeat([1, 100, 20_000][rng.below(3)].min((4 << 20) / use_it.len()));
    bytes.splice(at..at, [&text[..], rest, &again].concat());
}
