//! Checkpoints: the state of a training in one file.
//!
//! The file is a model file: what loads models loads the averaged model of the last step. Further tensors, which that
//! reader leaves out, hold the rest: `train/raw/{key}` the weights that are being trained, `train/best/{key}` the
//! averaged ones of the epoch that ships, `train/{slot}/{key}` the optimizer. Counters, the [`Course`], the training's
//! [`Identity`] and a digest of all of it stand in the provenance below `train.`. The state at the end of an epoch and
//! the one within it ([`within`]) are two files: the former is what a training that diverges goes back to. One file
//! each, written beside and renamed, so that an interrupted training never leaves parts of two epochs; a file that was
//! changed since is refused.

use super::config::TrainError;
use super::course::Course;
use super::identity::{Identity, hex};
use super::stepper::State;
use crate::files;
use crate::model::{self, Info, Model, Weights};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// All that a training needs to resume.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    /// Where it stands.
    pub course: Course,
    /// What the steps have changed.
    pub state: State,
    /// The averaged weights of the epoch that ships so far, where there is one.
    pub best: Option<Weights>,
}

const PREFIX: &str = "train/";
const RAW: &str = "raw/";
const BEST: &str = "best/";
const KEYS: [&str; 5] = ["train.epochs", "train.updates", "train.steps", "train.course", "train.identity"];
const DIGEST: &str = "train.sha256";

impl Saved {
    /// SHA-256 of everything in it, and of whose it is.
    fn digest(&self, identity: &str) -> String {
        let mut digest = Sha256::new();
        let Self { course, state, best } = self;
        let counts = [state.updates, state.steps, identity.len() as u64];
        counts.iter().for_each(|count| digest.update(count.to_le_bytes()));
        digest.update(identity);
        digest.update(json(course));
        for weights in [&state.raw, &state.average, &state.slots].into_iter().chain(best) {
            digest.update((weights.len() as u64).to_le_bytes());
            for (key, tensor) in weights {
                digest.update(format!("{key} {:?} ", tensor.shape()));
                digest.update(bytemuck::cast_slice::<f32, u8>(tensor.data()));
            }
        }
        hex(&digest.finalize())
    }
}

fn json(course: &Course) -> String {
    serde_json::to_string(course).unwrap_or_default()
}

/// Where the state within an epoch lies, beside that of the last epoch's end.
pub(super) fn within(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".step");
    name.into()
}

/// Removes the checkpoint of a training that is not to go on, where there is one.
pub fn discard(path: &Path) {
    for file in [path.to_owned(), within(path)] {
        let _ = std::fs::remove_file(file);
    }
}

/// Writes a state; `model` lends its graph and its info.
pub(super) fn save(saved: &Saved, model: &Model, identity: &Identity, path: &Path) -> Result<(), TrainError> {
    Ok(model::save(&as_model(saved, model, &identity.text()), path)?)
}

/// A state as the bytes of a file, for the other ranks of the same training.
pub(super) fn to_bytes(saved: &Saved, model: &Model, identity: &Identity) -> Result<Vec<u8>, TrainError> {
    model::to_bytes(&as_model(saved, model, &identity.text())).map_err(TrainError::Unfit)
}

/// The state that rank 0 sends.
pub(super) fn from_bytes(model: &Model, bytes: &[u8]) -> Result<Saved, TrainError> {
    parse(model, None, (Path::new("the checkpoint of rank 0"), bytes))
}

/// A state as a model with further tensors and facts.
fn as_model(saved: &Saved, model: &Model, identity: &str) -> Model {
    let state = &saved.state;
    let mut weights = state.average.clone();
    let raw = state.raw.iter().map(|(key, tensor)| (format!("{PREFIX}{RAW}{key}"), tensor.clone()));
    let slots = state.slots.iter().map(|(key, tensor)| (format!("{PREFIX}{key}"), tensor.clone()));
    let best = saved.best.iter().flatten().map(|(key, tensor)| (format!("{PREFIX}{BEST}{key}"), tensor.clone()));
    weights.extend(raw.chain(slots).chain(best));
    let mut info = model.info.clone();
    let digest = saved.digest(identity);
    let Course { epoch, .. } = saved.course;
    let counts = [epoch as u64, state.updates, state.steps].map(|count| count.to_string());
    let values = counts.into_iter().chain([json(&saved.course), identity.to_owned()]);
    info.provenance.extend(KEYS.map(str::to_owned).into_iter().zip(values));
    info.provenance.insert(DIGEST.to_owned(), digest);
    // Not through `Model::new`, which drops the further tensors.
    Model { graph: model.graph.clone(), weights, info }
}

/// Reads a state that was written by the same training.
///
/// # Errors
/// [`TrainError::Checkpoint`] if the file cannot be used by anyone, [`TrainError::OtherTraining`] if it belongs to
/// another training.
pub(super) fn load(model: &Model, identity: &Identity, path: &Path) -> Result<Saved, TrainError> {
    let fail = |problem: String| TrainError::Checkpoint { path: path.into(), problem };
    let bytes = files::read(path, model::MAX_FILE).map_err(|e| fail(e.to_string()))?;
    parse(model, Some(identity), (path, &bytes))
}

/// The state in the bytes of a file, which must be of this training where one is given.
fn parse(model: &Model, identity: Option<&Identity>, (path, bytes): (&Path, &[u8])) -> Result<Saved, TrainError> {
    let fail = |problem: String| TrainError::Checkpoint { path: path.into(), problem };
    // A file's own errors begin with its path, which stands before the problem already.
    let place = format!("{}: ", path.display());
    let unread = |e: &dyn std::fmt::Display| {
        let text = e.to_string();
        fail(text.strip_prefix(&place).map_or(text.clone(), str::to_owned))
    };
    let file = model::from_bytes(path, bytes).map_err(|e| unread(&e))?;
    let found = |key: &str| file.info.provenance.get(key).ok_or_else(|| fail("is a model, not a checkpoint".into()));
    let count = |key: &str| found(key)?.parse::<u64>().map_err(|_| fail(format!("`{key}` is not a number")));
    let epochs = count(KEYS[0])? as usize;
    let mut best = Weights::new();
    let mut state = State {
        updates: count(KEYS[1])?,
        steps: count(KEYS[2])?,
        raw: Weights::new(),
        average: file.weights.clone(),
        slots: Weights::new(),
    };
    for (key, tensor) in model::tensors(path, bytes).map_err(|e| unread(&e))? {
        let Some(key) = key.strip_prefix(PREFIX) else { continue };
        match (key.strip_prefix(RAW), key.strip_prefix(BEST)) {
            (Some(key), _) => state.raw.insert(key.to_owned(), tensor),
            (_, Some(key)) => best.insert(key.to_owned(), tensor),
            (None, None) => state.slots.insert(key.to_owned(), tensor),
        };
    }
    let unreadable = |key: &str| fail(format!("`{key}` cannot be read"));
    let course: Course = serde_json::from_str(found(KEYS[3])?).map_err(|_| unreadable(KEYS[3]))?;
    let written = found(KEYS[4])?;
    let whose: Identity = serde_json::from_str(written).map_err(|_| unreadable(KEYS[4]))?;
    let best = course.chosen.map(|_| best);
    let mut saved = Saved { course, state, best };
    if *found(DIGEST)? != saved.digest(written) || epochs != saved.course.epoch {
        return Err(fail("has been damaged: its content does not have the digest that it names".into()));
    }
    let identity = identity.unwrap_or(&whose);
    if whose != *identity || file.graph != model.graph {
        let differences = identity.differences(&whose);
        let differences = if differences.is_empty() { "another network".into() } else { differences };
        return Err(TrainError::OtherTraining { path: path.into(), differences });
    }
    let state = &mut saved.state;
    for (key, tensor) in &state.slots {
        let param = key.split_once('/').map_or(key.as_str(), |(_, param)| param);
        if state.average.get(param).is_none_or(|t| t.shape() != tensor.shape()) {
            return Err(fail(format!("`{PREFIX}{key}` does not fit the network")));
        }
    }
    // Refuses missing tensors and wrong shapes.
    for weights in [Some(&mut state.raw), saved.best.as_mut()].into_iter().flatten() {
        let checked = Model::new(model.graph.clone(), std::mem::take(weights), Info::default());
        *weights = checked.map_err(|e| fail(e.to_string()))?.weights;
    }
    Ok(saved)
}

/// Moves a checkpoint that cannot be continued out of the way, beside its place, and says where it is now.
///
/// # Errors
/// Those of the operating system.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".unusable");
    let aside = PathBuf::from(name);
    std::fs::rename(path, &aside)?;
    Ok(aside)
}
