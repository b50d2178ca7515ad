//! What runs for months on a board: memory and file descriptors stay where they are, over 50,000 frames of the inference
//! binary, and over as many pictures that are decoded, letterboxed, run and decoded again in one process.
//!
//! A binary of its own, because memory and descriptors are those of the whole process.
#![cfg(all(feature = "toolkit", target_os = "linux"))]
#![allow(missing_docs)]

mod harness;

use secateurs::data::demo;
use secateurs::detector::Predictor;
use secateurs::engine::Options;
use secateurs::model;
use secateurs::vision::Image;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One test at a time: a pipe of one is a descriptor that the other sees come and go.
static TURN: Mutex<()> = Mutex::new(());

const FRAMES: usize = 50_000;

/// What a process may gain once it is warm: a few pages of a heap that settles.
const SLACK_KIB: u64 = 2048;

/// Resident memory, KiB, and open descriptors.
#[derive(Clone, Copy, Debug)]
struct Held {
    kib: u64,
    descriptors: usize,
}

fn held(process: &str) -> Option<Held> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib = resident.trim().trim_end_matches(" kB").parse().ok()?;
    Some(Held { kib, descriptors: fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() })
}

fn assert_flat(name: &str, samples: &[Held]) {
    assert!(samples.len() >= 6, "{name}: only {} samples", samples.len());
    // The first third warms up.
    let warm = &samples[samples.len() / 3..];
    let (first, most) = (warm[0], warm.iter().map(|held| held.kib).max().unwrap());
    println!("{name}: {} KiB when warm, {most} KiB at most, {} descriptors", first.kib, first.descriptors);
    assert!(most <= first.kib + SLACK_KIB, "{name}: memory grows from {} to {most} KiB: {samples:?}", first.kib);
    assert!(warm.iter().all(|held| held.descriptors == first.descriptors), "{name}: descriptors: {samples:?}");
}

#[test]
fn the_inference_binary_holds_what_it_holds_over_50_000_frames() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    model::save(&harness::model(), &path).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs-infer"));
    command.args(["bench", "--imgsz", "64", "--json", "--runs", &FRAMES.to_string(), "--model"]).arg(&path);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut samples = Vec::new();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // A program that has ended but was not waited for holds nothing.
        samples.extend(held(&child.id().to_string()).filter(|held| held.kib > 0));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    // The times of all frames are kept for the percentiles: two numbers each, before and after sorting.
    let times = (FRAMES * 2 * 8 * 2 / 1024) as u64;
    samples.iter_mut().for_each(|held| held.kib = held.kib.saturating_sub(times));
    samples.pop();
    let warm = &samples[samples.len() / 3..];
    let growth =
        warm.iter().map(|held| held.kib).max().unwrap_or(0).saturating_sub(warm.first().map_or(0, |held| held.kib));
    assert!(growth <= SLACK_KIB + times, "grows by {growth} KiB, of which {times} are times: {samples:?}");
    assert!(warm.windows(2).all(|pair| pair[0].descriptors == pair[1].descriptors), "{samples:?}");
    println!("bench: {} samples, grows by {growth} KiB, of which at most {times} are times", samples.len());
}

#[test]
fn a_finder_holds_what_it_holds_over_50_000_pictures() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = harness::model();
    let options = Options { threads: 1, ..Options::default() };
    let mut predictor = Predictor::new(&model, 32, &options).unwrap();
    // Fresh weights are sure of nothing.
    predictor.set_thresholds(1e-5, 0.7);
    let pictures: Vec<Vec<u8>> = (0..16).map(|i| demo::draw(5, i, 40).0.jpeg(70).unwrap()).collect();
    let (mut samples, mut found) = (Vec::new(), 0);
    for frame in 0..FRAMES {
        let path = Path::new("picture.jpg");
        let image = Image::decode(path, &pictures[frame % pictures.len()]).unwrap();
        let result = predictor.find(path, &image, &model).unwrap();
        found += usize::from(serde_json::to_string(&result).unwrap().contains("score"));
        if frame % (FRAMES / 50) == 0 {
            samples.push(held("self").unwrap());
        }
    }
    assert!(found > 0, "nothing was found, so that nothing was decoded");
    assert_flat("predictor", &samples);
}
