//! A camera's loop allocates nothing after its first frame, and finds to the bit what the way through images finds. The
//! allocator counts.
//!
//! A binary of its own with a single test, because the counter sees every thread of the process.
#![cfg(feature = "tools")]
#![allow(missing_docs, unsafe_code)]

use secateurs::data::demo;
use secateurs::detector::{Object, Predictor};
use secateurs::engine::Options;
use secateurs::graph::{Graph, Param};
use secateurs::model::{self, Info, Model, Tensor};
use secateurs::vision::{Frame, Image, PixelFormat};
use secateurs::zoo::yolo11::{Scale, network};
use secateurs::zoo::{Task, yolo26};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::SeqCst);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A thread for the camera may own it.
const fn is_send<T: Send>() {}
const _: () = is_send::<Predictor>();

/// The allocations of some work.
fn allocations(work: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::SeqCst);
    work();
    CALLS.load(Ordering::SeqCst) - before
}

/// Bytes as a camera's driver has them, with room behind each row.
fn driver(format: PixelFormat, image: &Image) -> (Vec<u8>, usize) {
    let (width, height) = (image.width(), image.height());
    let pixel = |[r, g, b]: [u8; 3]| match format {
        PixelFormat::Rgb => vec![r, g, b],
        PixelFormat::Bgr => vec![b, g, r],
        PixelFormat::Rgba => vec![r, g, b, 7],
        PixelFormat::Bgra => vec![b, g, r, 7],
        PixelFormat::Grey | PixelFormat::Nv12 => vec![g],
    };
    let stride = pixel([0; 3]).len() * width + 12;
    let mut bytes = Vec::new();
    for row in image.data().chunks_exact(3 * width) {
        let line: Vec<u8> = row.chunks_exact(3).flat_map(|p| pixel([p[0], p[1], p[2]])).collect();
        bytes.extend([line, vec![9; 12]].concat());
    }
    if format == PixelFormat::Nv12 {
        // Chroma that differs from place to place.
        bytes.extend((0..stride * height / 2).map(|i| (96 + i % 64) as u8));
    }
    (bytes, stride)
}

fn weights(graph: &Graph) -> Model {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.2
    };
    let tensor = |shape: Vec<usize>, variance: bool, next: &mut dyn FnMut() -> f32| {
        let values = (0..shape.iter().product()).map(|_| if variance { 1.0 } else { next() }).collect();
        Tensor::new(shape, values)
    };
    let of =
        |p: Param, next: &mut dyn FnMut() -> f32| match p.key.contains("one2one_cv2.") && p.key.ends_with(".2.bias") {
            // Distances of several strides, so that boxes without a distribution hold something.
            true => Tensor::filled(p.shape, 4.0),
            false => tensor(p.shape, p.key.ends_with("running_var"), next),
        };
    let weights = graph.params().into_iter().map(|p| (p.key.clone(), of(p, &mut next))).collect();
    Model::new(graph.clone(), weights, Info::default()).unwrap()
}

#[test]
fn a_loop_over_frames_allocates_once_and_finds_what_images_give() {
    detections_of_every_format();
    every_task();
}

/// Pictures with nothing, little and much in them; only the first frame may allocate.
fn detections_of_every_format() {
    let demo = include_bytes!("../src/pipeline/demo.safetensors");
    let model = model::from_bytes(Path::new("demo"), demo).unwrap();
    let grey = Image::new(160, 160, vec![114; 3 * 160 * 160]);
    let pictures: Vec<Image> = (0..6).map(|index| demo::draw(5, index, 160).0).collect();
    for (format, side) in [
        (PixelFormat::Rgb, 160),
        (PixelFormat::Bgr, 128),
        (PixelFormat::Rgba, 96),
        (PixelFormat::Bgra, 160),
        (PixelFormat::Grey, 160),
        (PixelFormat::Nv12, 128),
    ] {
        let mut predictor = Predictor::from_bytes(demo, [side, side], &Options::default()).unwrap();
        let mut through_images = Predictor::new(&model, side, &Options::default()).unwrap();
        for predictor in [&mut predictor, &mut through_images] {
            predictor.set_thresholds(0.01, 0.9);
        }
        let frames: Vec<_> = [&grey].into_iter().chain(&pictures).map(|image| driver(format, image)).collect();
        let mut found: Vec<Object> = Vec::new();
        let mut most = 0;
        for (number, (bytes, stride)) in frames.iter().enumerate() {
            let frame = Frame::new(format, 160, 160, *stride, bytes).unwrap();
            let count = allocations(|| predictor.detect(&frame, &mut found).unwrap());
            assert!(number == 0 || count == 0, "{format:?}, frame {number}: {count} allocations");
            let mut image = Image::default();
            frame.write_to(&mut image);
            let Predictor::Detector(detector) = &mut through_images else { panic!("a detector") };
            assert_eq!(found, detector.detect(&image).unwrap(), "{format:?}, frame {number}");
            most = most.max(found.len());
        }
        // The network has learnt colours.
        let least = if matches!(format, PixelFormat::Grey | PixelFormat::Nv12) { 1 } else { 4 };
        assert!(most >= least, "{format:?}: at most {most} objects in a frame");
    }
}

/// Masks and keypoints take memory until as many, as large, have been there.
fn every_task() {
    let scale = Scale::of('n').unwrap();
    let pictures: Vec<Image> = (0..3).map(|index| demo::draw(5, index, 120).0).collect();
    // Wider than high: a classifier looks at the middle.
    let wide: Vec<Image> =
        pictures.iter().map(|image| Image::new(160, 90, image.data()[..3 * 160 * 90].into())).collect();
    let eleven = [Task::Segment { masks: 8 }, Task::Pose { keypoints: 5, dims: 3 }, Task::Obb, Task::Classify];
    let eleven = eleven.map(|task| (task, network(scale, task, 4).unwrap()));
    // By the one-to-one branch.
    let deployed = |task| yolo26::network(scale, task, 4).unwrap().deployed(None).unwrap();
    let twenty_six = [Task::Detect, Task::Segment { masks: 8 }, Task::Obb].map(|task| (task, deployed(task)));
    for (task, graph) in eleven.into_iter().chain(twenty_six) {
        let model = weights(&graph);
        let mut predictor = Predictor::new(&model, 96, &Options { threads: 2, ..Options::default() }).unwrap();
        let mut other = Predictor::new(&model, 96, &Options::default()).unwrap();
        for predictor in [&mut predictor, &mut other] {
            predictor.set_thresholds(0.0, 0.4);
        }
        let frames: Vec<_> = wide.iter().map(|image| driver(PixelFormat::Rgb, image)).collect();
        let (mut found, mut classes) = (Vec::new(), Vec::new());
        for round in 0..3 {
            for (number, (bytes, stride)) in frames.iter().enumerate() {
                let frame = Frame::new(PixelFormat::Rgb, 160, 90, *stride, bytes).unwrap();
                let count = allocations(|| match task {
                    Task::Classify => predictor.classify(&frame, &mut classes).unwrap(),
                    _ => predictor.detect(&frame, &mut found).unwrap(),
                });
                assert!(round == 0 || count == 0, "{task:?}, round {round}, frame {number}: {count} allocations");
                match &mut other {
                    Predictor::Detector(detector) => {
                        assert_eq!(found, detector.detect(&wide[number]).unwrap(), "{task:?}")
                    }
                    Predictor::Classifier(other) => assert_eq!(classes, other.classify(&wide[number]).unwrap()),
                }
            }
        }
        assert!(found.len() > 3 || classes.len() == 4, "{task:?}: {} objects, {} classes", found.len(), classes.len());
    }
}
