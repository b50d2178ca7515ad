//! A window: a short series of frames with the state of the machine, from which `board` judges whether it was idle and
//! not throttled.

use super::network::{BenchError, Options, Phases, Photo, compile, split};
use super::{Samples, energy, peak_resident};
use crate::board::{Board, Rails, State};
use crate::engine::{Engine, EngineError};
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
    /// The rails that the energy was read from; none where the machine shows none, or one could not be read all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rails: Option<String>,
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
    /// Millijoules per frame of blocks of frames of its own, after the window; none where the machine shows no rails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub energy_mj: Vec<f64>,
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
    let photo = Photo::new(model, options);
    let (mut a, mut b) = (Samples::default(), Samples::default());
    for _ in 0..options.warmup {
        photo.run(&mut own)?;
        other.as_mut().map_or(Ok(()), |engine| photo.run(engine))?;
    }
    let mut states = vec![State::read(root)];
    let (start, cpu) = (Instant::now(), cpu_millis());
    for run in 0..options.runs {
        let mut one = || a.take(&mut || photo.run(&mut own));
        let mut two = || other.as_mut().map_or(Ok(()), |engine| b.take(&mut || photo.run(engine)));
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
    let mut network = Recording { peak_memory_bytes: own.memory().total(), samples: a, energy_mj: Vec::new() };
    let mut against = other.as_ref().map(|engine| {
        let peak_memory_bytes = engine.memory().total();
        Recording { peak_memory_bytes, samples: b, energy_mj: Vec::new() }
    });
    let rails = Rails::find(root);
    let blocks = rails.as_ref().map(|rails| blocks(rails, &mut own, other.as_mut(), &photo)).transpose()?.flatten();
    let names = rails.filter(|_| blocks.is_some()).map(|rails| rails.names());
    if let Some((first, second)) = blocks {
        network.energy_mj = first;
        against.iter_mut().for_each(|against| against.energy_mj.clone_from(&second));
    }
    drop((own, other));
    Ok(Window {
        board: Board::read(root),
        states,
        elapsed_ms,
        own_cpu_ms,
        network,
        against,
        phases: if phases { split(model, options)? } else { None },
        peak_resident_bytes: peak_resident(),
        rails: names,
    })
}

/// Millijoules per frame of the blocks of one network, and of those of the other one.
type Blocks = (Vec<f64>, Vec<f64>);

fn blocks(
    rails: &Rails,
    own: &mut Engine,
    other: Option<&mut Engine>,
    photo: &Photo,
) -> Result<Option<Blocks>, EngineError> {
    let mut one = || photo.run(own);
    let Some(other) = other else {
        let found = energy(rails, &mut [&mut one])?;
        return Ok(found.and_then(|found| Some((found.into_iter().next()?, Vec::new()))));
    };
    let mut two = || photo.run(other);
    let found = energy(rails, &mut [&mut two, &mut one])?.unwrap_or_default();
    Ok(<[Vec<f64>; 2]>::try_from(found).ok().map(|[second, first]| (first, second)))
}
