//! Reading a checkpoint: the pickle and the tensors of a YOLO11n. Needs the real file; says so where it is not there.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use secateurs::import;
use std::hint::black_box;
use std::path::{Path, PathBuf};

fn checkpoint(c: &mut Criterion) {
    let root = std::env::var_os("SECATEURS_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    for name in ["models/yolo11n-coco.pt", "models/yolo11n-coco.safetensors"] {
        let path = root.join(name);
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!(
                "skipped: {} is not there (set SECATEURS_DATA to the folder of the golden files)",
                path.display()
            );
            continue;
        };
        let mut group = c.benchmark_group("import");
        group.sample_size(20).throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| black_box(import::from_bytes(&path, black_box(&bytes)).map_err(|e| e.to_string())));
        });
        group.finish();
    }
}

criterion_group!(benches, checkpoint);
criterion_main!(benches);
