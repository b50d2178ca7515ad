//! The folder of the results: one run at a time, and replaced as a whole.
//!
//! 1. The new set is written in full into a folder beside it, `.NAME.new`, which has a mark as long as it is unfinished.
//!    A job in two stages leaves it there after the first one, for the program that is built of its model.
//! 2. `swap` exchanges both folders in one step: there is no moment with files of two runs.
//! 3. What is not of an earlier run, by its manifest, is its owner's: it moves over into the new folder. Then the old one
//!    is removed.
//!
//! Whoever opens the folder next completes what a killed run began. The file whose lock keeps two runs apart stands
//! beside the folder, too ([`Place`] has the names).

mod swap;

use super::error::PipelineError;
use crate::bundle::FILES;
use crate::files::{self, FileLock, Inputs, Place, UNFINISHED};
use crate::model;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use swap::SCRATCH;
pub(super) use swap::{DRAFT, KEPT};

/// A new file of the set.
pub(super) struct New<'a> {
    pub name: &'static str,
    pub bytes: &'a [u8],
    /// Whether it is a program.
    pub program: bool,
}

/// Which part of a job has the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The whole job, or the end of one whose set is in its place.
    Whole,
    /// The first of two stages: the new set stays beside the folder. Whoever runs it holds the lock.
    First,
    /// The second stage: it completes the set that the first one left, and puts it in its place.
    Second,
    /// Nothing is written.
    Look,
}

/// The folder of the results, held by this run.
#[derive(Debug)]
pub struct Results {
    /// As the caller names it.
    folder: PathBuf,
    place: Place,
    part: Part,
    /// The folders that were made for this run, innermost first.
    made: Vec<PathBuf>,
    /// None where the caller of this program holds it.
    lock: Option<FileLock>,
}

impl Results {
    /// Takes the folder for a job, and completes what a killed run began there. `first_stage` says that the caller of this
    /// program has locked it already, and that the set stays beside it for [`Results::finish`].
    ///
    /// # Errors
    /// If it is no folder, cannot be written, or another run has it.
    pub fn open(folder: &Path, first_stage: bool) -> Result<Self, PipelineError> {
        let results = Self::take(folder, first_stage, if first_stage { Part::First } else { Part::Whole })?;
        results.recover()?;
        Ok(results)
    }

    /// Takes the folder to complete a set: the one that a first stage left beside it, where the caller of this program has
    /// locked it (`held`), else the one that lies in it.
    ///
    /// # Errors
    /// As [`Results::open`].
    pub fn finish(folder: &Path, held: bool) -> Result<Self, PipelineError> {
        if !held {
            return Self::open(folder, false);
        }
        let mut results = Self::take(folder, true, Part::Second)?;
        if results.place.staged().join(UNFINISHED).is_file() {
            return Ok(results);
        }
        results.recover()?;
        results.part = Part::Whole;
        Ok(results)
    }

    /// Opens the folder for a run that writes nothing.
    ///
    /// # Errors
    /// If it is no folder, or cannot be written.
    pub fn look(folder: &Path) -> Result<Self, PipelineError> {
        let fail = |e: io::Error| PipelineError::writing(folder, e);
        files::check_folder(folder).map_err(fail)?;
        let place = Place::of(folder).map_err(fail)?;
        files::check_folder(place.parent()).map_err(|e| PipelineError::writing(place.parent(), e))?;
        Ok(Self { folder: folder.into(), place, part: Part::Look, made: Vec::new(), lock: None })
    }

    fn take(folder: &Path, held: bool, part: Part) -> Result<Self, PipelineError> {
        let fail = |e: io::Error| PipelineError::writing(folder, e);
        files::check_folder(folder).map_err(fail)?;
        let place = Place::of(folder).map_err(fail)?;
        let made = place.parent().ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(place.parent()).map_err(|e| PipelineError::writing(place.parent(), e))?;
        let path = place.lock();
        let lock = if held { None } else { FileLock::try_at(&path).map_err(|e| PipelineError::writing(&path, e))? };
        if lock.is_none() && !held {
            let folder = folder.display();
            return Err(PipelineError::Input(format!(
                "{folder}: another run of secateurs writes there: wait for its end, or choose another folder with --out"
            )));
        }
        files::clean(place.parent());
        Ok(Self { folder: folder.into(), place, part, made, lock })
    }

    /// Where the set is put at the end.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the set lies that is read and completed: beside the folder between the two stages of a job, else in it.
    pub fn set(&self) -> PathBuf {
        if self.part == Part::Second { self.place.staged() } else { self.folder().into() }
    }

    /// Refuses to go on where writing would replace what no run made, or one of the inputs.
    ///
    /// # Errors
    /// Names the first such file.
    pub fn check(&self, inputs: &Inputs) -> Result<(), PipelineError> {
        let listed = swap::listed(self.folder())?;
        for name in FILES {
            let path = self.folder().join(name);
            let Ok(facts) = fs::symlink_metadata(&path) else { continue };
            let refuse = |why: &str| Err(PipelineError::Input(format!("{}: {why}", path.display())));
            if inputs.contains(&path) {
                return refuse("is an input, and would be replaced: choose another folder with --out");
            }
            if !swap::owns(listed.as_ref(), name) || !facts.is_file() {
                return refuse(
                    "is no result of an earlier run, and would be replaced: move it, or choose another --out",
                );
            }
        }
        Ok(())
    }

    /// Refuses to go on where there is less room than this many bytes.
    ///
    /// # Errors
    /// Says how much there is.
    pub fn check_room(&self, bytes: u64) -> Result<(), PipelineError> {
        match room(self.folder()) {
            Some(free) if free < bytes => {
                Err(PipelineError::Room { folder: self.folder().into(), free, needed: bytes })
            }
            _ => Ok(()),
        }
    }

    /// Replaces the set by new files, and keeps `keep` of the old ones. Everything else that an earlier run made is removed.
    /// The first of two stages leaves the new set beside the folder, with `notes` for the second one.
    ///
    /// # Errors
    /// If a file cannot be written: then the folder is as it was.
    pub(super) fn replace(&self, new: &[New], keep: &[&str], notes: &[New]) -> Result<(), PipelineError> {
        let fail = |e: io::Error| PipelineError::writing(self.folder(), e);
        let stage = self.place.staged();
        let staged = self.stage(&stage, new, keep).and_then(|()| match self.part {
            Part::First => notes.iter().try_for_each(|note| files::write_atomic(&stage.join(note.name), note.bytes)),
            _ => swap::publish(&self.place, &stage),
        });
        if staged.is_err() {
            // Where not even that can be done, the next run does it.
            let _ = swap::recover(&self.place);
        }
        staged.map_err(fail)
    }

    /// A note of the first stage; none without one.
    pub(super) fn note(&self, name: &str) -> Option<Vec<u8>> {
        debug_assert!(SCRATCH.contains(&name));
        files::read(&self.set().join(name), model::MAX_FILE).ok()
    }

    /// Writes the whole new set into one folder.
    fn stage(&self, stage: &Path, new: &[New], keep: &[&str]) -> io::Result<()> {
        let is_new = |name: &str| new.iter().any(|file| file.name == name);
        if self.part == Part::Second {
            for name in FILES.into_iter().filter(|name| !is_new(name) && !keep.contains(name)) {
                swap::absent(fs::remove_file(stage.join(name)))?;
            }
        } else {
            fs::create_dir(stage)?;
            files::write_atomic(&stage.join(UNFINISHED), b"unfinished\n")?;
            if let Ok(facts) = fs::metadata(self.folder()) {
                // The mode is its owner's choice. A file system without modes has none to keep.
                let _ = fs::set_permissions(stage, facts.permissions());
            }
            for name in keep.iter().filter(|name| !is_new(name)) {
                let (here, there) = (self.folder().join(name), stage.join(name));
                // Not every file system has links.
                fs::hard_link(&here, &there).or_else(|_| fs::copy(&here, &there).map(|_| ()))?;
            }
        }
        for file in new {
            let path = stage.join(file.name);
            files::write_atomic(&path, file.bytes)?;
            if file.program {
                make_program(&path)?;
            } else if let Ok(facts) = fs::metadata(self.folder().join(file.name)) {
                let _ = fs::set_permissions(&path, facts.permissions());
            }
        }
        files::sync_folder(stage)
    }

    /// Completes, or takes back, what a killed run began.
    fn recover(&self) -> Result<(), PipelineError> {
        swap::recover(&self.place).map_err(|e| PipelineError::writing(self.folder(), e))
    }
}

impl Drop for Results {
    /// Frees the folder, and removes the folders above it that were made for a run without results.
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.remove();
            let _ = self.made.iter().try_for_each(fs::remove_dir);
        }
    }
}

/// Bytes that this process may still write below a folder; none where that cannot be found out.
#[cfg(unix)]
pub fn room(folder: &Path) -> Option<u64> {
    // A folder that will be made lies where the innermost one is that there is already.
    let there = std::path::absolute(folder).ok()?;
    let there = there.ancestors().find(|above| above.exists())?;
    let facts = rustix::fs::statvfs(there).ok()?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Bytes that this process may still write below a folder; none where that cannot be found out.
#[cfg(not(unix))]
pub fn room(_: &Path) -> Option<u64> {
    None
}

#[cfg(unix)]
fn make_program(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_program(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
