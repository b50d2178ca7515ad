//! An engine allocates the bytes that were planned, and nothing while it runs. The allocator counts.
//!
//! A binary of its own with a single test, because the counter sees every thread of the process.
#![cfg(feature = "tools")]
#![allow(missing_docs, unsafe_code)]

use secateurs::engine::{Engine, Options, plan_memory};
use secateurs::graph::Dtype;
use secateurs::model::{Info, Model, Tensor};
use secateurs::zoo::yolo11::{Scale, detect};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: isize) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let now = LIVE.fetch_add(bytes, Ordering::SeqCst) + bytes;
    PEAK.fetch_max(now, Ordering::SeqCst);
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn model(letter: char, dtype: Dtype) -> Model {
    let mut graph = detect(Scale::of(letter).unwrap(), 80).unwrap();
    graph.dtype = dtype;
    let weights = graph.params().into_iter().map(|p| (p.key.clone(), Tensor::filled(p.shape, 0.01))).collect();
    let ranges = graph.nodes.iter().map(|node| (node.name.clone(), [-1.0, 1.0])).collect();
    Model::new(graph, weights, Info { ranges, ..Info::default() }).unwrap()
}

#[test]
fn the_plan_is_what_is_allocated_and_a_run_allocates_nothing() {
    let (f32s, f16s, int8s) = (model('n', Dtype::F32), model('n', Dtype::F16), model('n', Dtype::Int8));
    let cases = [(&f32s, (320, 320), 1), (&f32s, (256, 320), 2), (&f32s, (640, 640), 1), (&f32s, (96, 64), 3)];
    let low_precision = [&f16s, &int8s].into_iter().flat_map(|model| [(model, (320, 320), 1), (model, (96, 64), 3)]);
    for (model, size, threads) in cases.into_iter().chain(low_precision) {
        let options = Options { threads, ..Options::default() };
        let planned = plan_memory(&model.graph, size.0, size.1, &options).unwrap();
        let before = LIVE.load(Ordering::SeqCst);
        let mut engine = Engine::new(model, size.0, size.1, &options).unwrap();
        let held = (LIVE.load(Ordering::SeqCst) - before) as f64;
        let case = format!("{size:?} on {threads} threads: planned {planned:?}, allocated {held}");
        assert_eq!(engine.memory(), planned, "{case}");
        assert!((held / planned.total() as f64 - 1.0).abs() < 0.02, "{case}");

        let input = vec![0.5; 3 * size.0 * size.1];
        engine.run(&input).unwrap();
        PEAK.store(LIVE.load(Ordering::SeqCst), Ordering::SeqCst);
        let (calls, live) = (CALLS.load(Ordering::SeqCst), LIVE.load(Ordering::SeqCst));
        for _ in 0..5 {
            engine.run(&input).unwrap();
            engine.run_in_place().unwrap();
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), calls, "{case}: a run allocates");
        assert_eq!(PEAK.load(Ordering::SeqCst), live, "{case}");
        drop(engine);
        // Thread handles may be freed a little later; the buffers are free.
        let left = (LIVE.load(Ordering::SeqCst) - before) as usize;
        assert!(left < input.len() * 4 + 100_000, "{case}: {left} bytes are left");
    }
}
