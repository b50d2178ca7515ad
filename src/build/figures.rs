//! The figures of a bundle that a program may rely on, from `report.json`.
//!
//! The report is written by a crate with many more features; here only these keys of it are known, and others are left
//! alone. `tests/it/embed.rs` holds both against each other.

use crate::size::{ImageSize, MAX_BATCH};
use serde::Deserialize;

/// What was measured of the model that ships.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Size of the input.
    pub imgsz: ImageSize,
    /// Images of a run; the milliseconds are those of the whole batch.
    pub batch: usize,
    /// Threads that it was measured with.
    pub threads: usize,
    /// Weights, activations and workspace, bytes.
    pub peak_bytes: usize,
    /// Median time per frame, milliseconds, where it was measured on the device.
    pub p50_ms: Option<f64>,
    /// With 95 % confidence the true 99th percentile is at most this, milliseconds; absent without enough frames.
    pub p99_bound_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Report {
    imgsz: ImageSize,
    batch: Option<usize>,
    threads: usize,
    repaired: Stage,
    tuned: Option<Stage>,
    rounded: Option<Stage>,
    #[serde(default)]
    verdict: Verdict,
}

#[derive(Deserialize)]
struct Stage {
    peak_memory_bytes: usize,
    p50_ms: Option<f64>,
    p99_bound_ms: Option<f64>,
}

#[derive(Default, Deserialize)]
struct Verdict {
    simulated: Option<String>,
}

/// Reads the figures of the last stage: quantized, tuned, or repaired.
///
/// # Errors
/// If it is no report: with the line and what is wrong there.
pub fn read(report: &[u8]) -> Result<Figures, String> {
    let report: Report = serde_json::from_slice(report).map_err(|e| e.to_string())?;
    let Stage { peak_memory_bytes, p50_ms, p99_bound_ms } = report.rounded.or(report.tuned).unwrap_or(report.repaired);
    let imgsz = report.imgsz;
    if imgsz.area() == 0 {
        return Err("`imgsz` is 0, expected pixels".into());
    }
    // What was simulated claims nothing, whatever stands beside it.
    let measured = |ms: Option<f64>| ms.filter(|ms| *ms > 0.0 && report.verdict.simulated.is_none());
    let (p50_ms, p99_bound_ms) = (measured(p50_ms), measured(p99_bound_ms));
    let batch = report.batch.unwrap_or(1).clamp(1, MAX_BATCH);
    Ok(Figures { imgsz, batch, threads: report.threads.max(1), peak_bytes: peak_memory_bytes, p50_ms, p99_bound_ms })
}
