//! A window: a short series of frames with the state of the machine, from which `board` judges whether it was idle and
//! not throttled.

use super::network::{BenchError, Options, Phases, compile, picture, split};
use super::{Samples, peak_resident};
use crate::board::{Board, State};
use crate::kernels::clock::cpu_millis;
use crate::model::Model;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// How often the machine is looked at in a window, beside its beginning.
const LOOKS: usize = 4;

/// Frames, and the machine meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The machine.
    pub board: Board,
    /// What it was doing: after the warm-up, several times, and at the end.
    pub states: Vec<State>,
    /// Milliseconds from the first to the last state.
    pub elapsed_ms: f64,
    /// CPU milliseconds of this process meanwhile.
    pub own_cpu_ms: f64,
    /// The network.
    pub network: Recording,
    /// The network that was interleaved with it, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Recording>,
    /// The most memory the whole process had resident, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_resident_bytes: Option<usize>,
    /// Median times from image to detections, where asked for; only of detectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

/// The frames of one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// Weights, activations and workspace, bytes.
    pub peak_memory_bytes: usize,
    /// Times of the frames.
    pub samples: Samples,
}

/// Runs a network, interleaved with another one where one is given, and watches the machine below the root folder.
/// `phases` also times the way from a photo to its detections, after the window.
///
/// # Errors
/// If the engine refuses a model or the image size.
pub fn window(
    model: &Model,
    other: Option<&Model>,
    options: &Options,
    phases: bool,
    root: &Path,
) -> Result<Window, BenchError> {
    let mut own = compile(model, options)?;
    let mut other = other.map(|other| compile(other, options)).transpose()?;
    let input = picture(model.graph.input_channels(), options.imgsz);
    let (mut a, mut b) = (Samples::default(), Samples::default());
    for _ in 0..options.warmup {
        own.run(&input)?;
        other.as_mut().map_or(Ok(()), |engine| engine.run(&input))?;
    }
    let mut states = vec![State::read(root)];
    let (start, cpu) = (Instant::now(), cpu_millis());
    for run in 0..options.runs {
        let mut one = || a.take(&mut || own.run(&input));
        let mut two = || other.as_mut().map_or(Ok(()), |engine| b.take(&mut || engine.run(&input)));
        // A B B A: neither always follows the other.
        if run % 2 == 0 {
            two()?;
            one()?;
        } else {
            one()?;
            two()?;
        }
        if (run + 1) * LOOKS / options.runs > run * LOOKS / options.runs {
            states.push(State::read(root));
        }
    }
    let (elapsed_ms, own_cpu_ms) = (start.elapsed().as_secs_f64() * 1e3, cpu_millis() - cpu);
    let against = other.map(|engine| Recording { peak_memory_bytes: engine.memory().total(), samples: b });
    let network = Recording { peak_memory_bytes: own.memory().total(), samples: a };
    drop(own);
    Ok(Window {
        board: Board::read(root),
        states,
        elapsed_ms,
        own_cpu_ms,
        network,
        against,
        phases: if phases { split(model, options)? } else { None },
        peak_resident_bytes: peak_resident(),
    })
}
