//! `secateurs train` that is killed at any moment, or asked to stop: the same command goes on, and gives the file that
//! an undisturbed training gives, byte for byte.
//!
//! `SECATEURS_KILLS=50` kills as often; without it a training four times.

use secateurs::data::demo;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A training in a folder that has `data/data.yaml`.
fn training(folder: &Path, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    let flags = ["train", "--arch", "yolo11:0.25,0.0625,256", "--data", "drawn/data.yaml", "--imgsz", "64"];
    let more = ["--epochs", "6", "--batch", "4", "--hold-out", "0.25", "--threads", "1", "--mosaic", "2", "-o", out];
    command.args(flags).args(more).current_dir(folder).env("CANDLE_NUM_THREADS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finished(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Random numbers from 0 to 1, the same in every run (Knuth's linear congruential generator).
fn random() -> impl FnMut() -> f64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64
    }
}

#[test]
fn a_training_that_is_killed_or_stopped_goes_on_to_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    demo::write(&place("drawn"), 24, 4).unwrap();
    let start = Instant::now();
    let (status, text) = finished(training(folder.path(), "whole.safetensors").spawn().unwrap());
    let took = start.elapsed();
    assert!(status.success(), "{text}");
    let whole = fs::read(place("whole.safetensors")).unwrap();

    // Asked to stop once it trains: it keeps the step, and says how it goes on.
    let child = training(folder.path(), "stopped.safetensors").spawn().unwrap();
    sleep(took / 2);
    signal(&child, "-TERM");
    let (status, text) = finished(child);
    assert_eq!(status.code(), Some(143), "{text}");
    assert!(text.contains("stopped by SIGTERM") && text.contains("goes on from there"), "{text}");
    let (status, text) = finished(training(folder.path(), "stopped.safetensors").spawn().unwrap());
    assert!(status.success() && text.contains("resumed after"), "{text}");
    assert!(fs::read(place("stopped.safetensors")).unwrap() == whole);
    assert!(!place("stopped.safetensors.part").exists() && !place("stopped.safetensors.part.step").exists());

    let kills: usize = std::env::var("SECATEURS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut random = random();
    for number in 0..kills {
        let mut child = training(folder.path(), "killed.safetensors").spawn().unwrap();
        sleep(Duration::from_secs_f64(took.as_secs_f64() * random()));
        child.kill().unwrap();
        let (_, text) = finished(child);
        if number % 4 < 3 && !place("killed.safetensors").exists() {
            continue;
        }
        let (status, more) = finished(training(folder.path(), "killed.safetensors").spawn().unwrap());
        assert!(status.success(), "{text}{more}");
        assert!(fs::read(place("killed.safetensors")).unwrap() == whole, "kill {number}");
        let rows = fs::read_to_string(place("killed.results.csv")).unwrap();
        assert_eq!(rows.lines().count(), 7, "{rows}");
        fs::remove_file(place("killed.safetensors")).unwrap();
    }
}
