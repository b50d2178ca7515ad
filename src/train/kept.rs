//! The checkpoint of a training: whose it is, what of it can be resumed, and when it is written.

use super::checkpoint::{self, Saved, within};
use super::config::{FitConfig, FitEvent, HoldOut, TrainError};
use super::course::Course;
use super::identity::Identity;
use super::stepper::State;
use crate::data::Dataset;
use crate::model::Model;
use crate::ranks::Ranks;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where a training is saved.
pub(super) struct Kept<'a> {
    model: &'a Model,
    path: &'a Path,
    /// Which training it belongs to.
    identity: Identity,
    /// Time between states within an epoch.
    every: Duration,
    last: Instant,
}

impl<'a> Kept<'a> {
    /// The checkpoint that the settings ask for.
    ///
    /// Of several ranks the first one keeps it.
    ///
    /// # Errors
    /// If a picture of the data cannot be read.
    pub fn of(
        model: &'a Model,
        teacher: Option<&Model>,
        dataset: &Dataset,
        config: &'a FitConfig,
    ) -> Result<Option<Self>, TrainError> {
        let Some(path) = config.checkpoint.as_ref().filter(|_| config.ranks.is_first()) else { return Ok(None) };
        let data = config.content.clone().map_or_else(|| dataset.content(), Ok)?;
        let identity = Identity::of(model, teacher, &data, config);
        let every = Duration::try_from_secs_f64(config.save_seconds).unwrap_or(Duration::MAX);
        Ok(Some(Self { model, path, identity, every, last: Instant::now() }))
    }

    /// The state at the end of the last epoch, and the one within the epoch after it where there is one. A file that no
    /// training can use is moved out of the way.
    ///
    /// # Errors
    /// If the file is another training's, or cannot be moved.
    pub fn resume(&self, progress: &mut dyn FnMut(FitEvent)) -> Result<(Option<Saved>, Option<Saved>), TrainError> {
        let end = self.read(self.path, progress)?;
        let inside = match self.read(&within(self.path), progress) {
            Err(TrainError::OtherTraining { .. }) => None,
            read => read?,
        };
        let epochs = end.as_ref().map_or(0, |saved| saved.course.epoch);
        Ok((end, inside.filter(|saved| saved.course.epoch == epochs)))
    }

    fn read(&self, path: &Path, progress: &mut dyn FnMut(FitEvent)) -> Result<Option<Saved>, TrainError> {
        if !path.exists() {
            return Ok(None);
        }
        match checkpoint::load(self.model, &self.identity, path) {
            Err(TrainError::Checkpoint { path, problem }) => match checkpoint::set_aside(&path) {
                Ok(aside) => {
                    progress(FitEvent::SetAside { problem, aside });
                    Ok(None)
                }
                Err(_) => Err(TrainError::Checkpoint { path, problem }),
            },
            other => other.map(Some),
        }
    }

    /// States as bytes for the other ranks: see [`received`].
    ///
    /// # Errors
    /// If they cannot be brought into a file.
    pub fn to_bytes(&self, saved: Option<&Saved>) -> Result<Vec<u8>, TrainError> {
        saved.map_or_else(|| Ok(Vec::new()), |saved| checkpoint::to_bytes(saved, self.model, &self.identity))
    }

    /// Whether it is time to save a state within an epoch.
    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    /// Saves the state at the end of an epoch; whether that was possible.
    ///
    /// # Errors
    /// If the state cannot be brought into a file.
    pub fn save(&mut self, saved: &Saved, progress: &mut dyn FnMut(FitEvent)) -> Result<bool, TrainError> {
        let path = self.path;
        let written = self.write(saved, path, progress)?;
        let _ = std::fs::remove_file(within(path));
        Ok(written)
    }

    /// Saves a state within an epoch; whether that was possible.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_within(&mut self, saved: &Saved, progress: &mut dyn FnMut(FitEvent)) -> Result<bool, TrainError> {
        let path = within(self.path);
        self.write(saved, &path, progress)
    }

    fn write(&mut self, saved: &Saved, path: &Path, progress: &mut dyn FnMut(FitEvent)) -> Result<bool, TrainError> {
        self.last = Instant::now();
        match checkpoint::save(saved, self.model, &self.identity, path) {
            // A full disk costs what an interruption would lose, not the training.
            Err(TrainError::File(problem)) => {
                progress(FitEvent::NotSaved { problem: problem.to_string() });
                Ok(false)
            }
            written => written.map(|()| true),
        }
    }
}

/// What a training goes on from, on each of its ranks: the state that the first one has `found` in its checkpoint.
///
/// # Errors
/// If the ranks cannot be reached, or what the first one sends does not fit.
pub(super) fn received(
    (model, ranks): (&Model, &Ranks),
    kept: Option<&Kept<'_>>,
    found: Option<Saved>,
) -> Result<Option<Saved>, TrainError> {
    if ranks.size() == 1 {
        return Ok(found);
    }
    let own = kept.map_or_else(|| Ok(Vec::new()), |kept| kept.to_bytes(found.as_ref()))?;
    let bytes = ranks.broadcast(own)?;
    match found {
        None if !bytes.is_empty() => checkpoint::from_bytes(model, &bytes).map(Some),
        found => Ok(found),
    }
}

/// The state before the first step.
pub(super) fn fresh(model: &Model) -> Saved {
    Saved { course: Course::new(), state: State::new(&model.weights), best: None }
}

/// What identifies the images that choose between epochs, for a split of their own.
///
/// # Errors
/// Names the picture that cannot be read.
pub fn held_split(data: Dataset) -> Result<HoldOut, TrainError> {
    let content = data.content()?;
    Ok(HoldOut::Split { data: std::sync::Arc::new(data), content })
}
