//! What a session does with the answers of a device.

use crate::place::Place;
use crate::{harness, seeds};
use secateurs::bench::{TableSpec, time_table};
use secateurs::device::{AnswerLimits, Argument, DeviceError, Runner};
use secateurs::engine::Device;
use secateurs::profile::Profile;
use secateurs::session::{Frames, Session};
use std::path::Path;

/// A device that gives prepared answers.
struct Canned {
    device: Vec<u8>,
    window: Vec<u8>,
    times: Vec<u8>,
}

impl Canned {
    fn new() -> Self {
        let first = |seeds: Vec<Vec<u8>>| seeds.into_iter().next().unwrap_or_default();
        Self { device: first(seeds::devices()), window: first(seeds::windows()), times: first(seeds::times()) }
    }

    /// What a session does with these answers.
    fn ask(self, folder: &Path) {
        let Ok(session) = Session::with_runner(Box::new(self), &Profile::default(), Path::new("infer")) else { return };
        let _ = session.fingerprint();
        let frames = Frames { imgsz: 32.into(), batch: 1, warmup: 0, runs: 8, phases: true, percentile: None };
        if let Ok(record) = session.measure_paired(None, Path::new("other"), &frames, &mut |_, _| {}) {
            let _ = serde_json::to_string(&record);
        }
        let networks = vec![harness::graph(), harness::graph()];
        let spec = TableSpec { size: (32, 32), threads: 1, networks, rounds: 2, seed: 1 };
        let _ = session.table(&spec, folder, &mut |_, _| {});
    }
}

impl Runner for Canned {
    fn run_within(&self, _: &Path, arguments: &[Argument], _: &AnswerLimits) -> Result<Vec<u8>, DeviceError> {
        Ok(match arguments.first() {
            Some(Argument::Text(text)) if text == "window" => self.window.clone(),
            Some(Argument::Text(text)) if text == "table" => self.times.clone(),
            _ => self.device.clone(),
        })
    }
}

pub fn device(place: &mut Place, bytes: &[u8]) {
    Canned { device: bytes.to_vec(), ..Canned::new() }.ask(&place.folder);
}

pub fn window(place: &mut Place, bytes: &[u8]) {
    Canned { window: bytes.to_vec(), ..Canned::new() }.ask(&place.folder);
}

pub fn times(place: &mut Place, bytes: &[u8]) {
    Canned { times: bytes.to_vec(), ..Canned::new() }.ask(&place.folder);
}

pub fn table(_: &mut Place, bytes: &[u8]) {
    if let Ok(spec) = serde_json::from_slice::<TableSpec>(bytes) {
        let _ = time_table(&spec, Device::Cpu);
    }
}
