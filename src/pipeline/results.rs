//! The folder of the results: one run at a time, and its files replaced as a set.
//!
//! 1. New files are written in full into a temporary folder inside, the old ones are linked beside them, and a journal says
//!    what belongs where.
//! 2. Renaming that folder to [`READY`] decides: from here on the new set counts.
//! 3. The files go to their places, the manifest last. If that fails, everything goes back (the folder is then [`UNDO`]).
//!
//! Whoever opens the folder next completes what a killed run began, so that nobody goes on from a mixture. Only files that
//! the manifest of an earlier run lists are replaced or removed; all other files in the folder are the user's.

use super::error::PipelineError;
use crate::bundle::{FILES, Listed, MANIFEST, sha256};
use crate::files::{self, Inputs};
use crate::model;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The new set, complete, on its way to its places.
const READY: &str = ".secateurs-ready";
/// A set that could not be put in its place, on its way back.
const UNDO: &str = ".secateurs-undo";
/// What the folder's file lock is on.
const LOCK: &str = ".secateurs.lock";
/// The old files, inside.
const OLD: &str = "old";
const JOURNAL: &str = "journal.json";

/// What the replacement of a set consists of.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Journal {
    /// New files in the order in which they take their places.
    put: Vec<String>,
    /// Files of earlier runs that this one did not make.
    remove: Vec<String>,
    /// Which of all these there were before.
    old: BTreeSet<String>,
}

/// A new file of the set.
pub(super) struct New<'a> {
    pub name: &'static str,
    pub bytes: &'a [u8],
    /// Whether it is a program.
    pub program: bool,
}

/// The folder of the results, held by this run.
#[derive(Debug)]
pub struct Results {
    folder: PathBuf,
    /// The folders that were made for this run, innermost first.
    made: Vec<PathBuf>,
    /// None where the caller of this program holds it.
    lock: Option<Lock>,
}

impl Results {
    /// Takes the folder for this run, and completes what a killed run began there. `held` says that the caller of this program
    /// has locked it already.
    ///
    /// # Errors
    /// If it is no folder, cannot be written, or another run has it.
    pub fn open(folder: &Path, held: bool) -> Result<Self, PipelineError> {
        let fail = |e: io::Error| PipelineError::writing(folder, e);
        let made = folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let made = made.map(Path::to_owned).collect();
        files::check_folder(folder).map_err(fail)?;
        fs::create_dir_all(folder).map_err(fail)?;
        let lock = if held { None } else { Lock::try_of(folder).map_err(fail)? };
        if lock.is_none() && !held {
            let folder = folder.display();
            return Err(PipelineError::Input(format!(
                "{folder}: another run of secateurs writes there: wait for its end, or choose another folder with --out"
            )));
        }
        let results = Self { folder: folder.into(), made, lock };
        files::clean(folder);
        results.recover()?;
        Ok(results)
    }

    /// Opens the folder for a run that writes nothing.
    ///
    /// # Errors
    /// If it is no folder, or cannot be written.
    pub fn look(folder: &Path) -> Result<Self, PipelineError> {
        files::check_folder(folder).map_err(|e| PipelineError::writing(folder, e))?;
        Ok(Self { folder: folder.into(), made: Vec::new(), lock: None })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Refuses to go on where writing would replace what no run made, or one of the inputs.
    ///
    /// # Errors
    /// Names the first such file.
    pub fn check(&self, inputs: &Inputs) -> Result<(), PipelineError> {
        let listed = self.listed()?;
        for name in FILES {
            let path = self.folder.join(name);
            let Ok(facts) = fs::symlink_metadata(&path) else { continue };
            let refuse = |why: &str| Err(PipelineError::Input(format!("{}: {why}", path.display())));
            if inputs.contains(&path) {
                return refuse("is an input, and would be replaced: choose another folder with --out");
            }
            let known = name == MANIFEST || listed.as_ref().is_some_and(|listed| listed.files.contains_key(name));
            if !known || !facts.is_file() {
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
        match room(&self.folder) {
            Some(free) if free < bytes => Err(PipelineError::Room { folder: self.folder.clone(), free, needed: bytes }),
            _ => Ok(()),
        }
    }

    /// The manifest of the set that lies there; none without one.
    pub(super) fn listed(&self) -> Result<Option<Listed>, PipelineError> {
        let path = self.folder.join(MANIFEST);
        let bytes = match files::read(&path, model::MAX_FILE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(PipelineError::reading(&path, e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| {
            let path = path.display();
            PipelineError::Input(format!(
                "{path}: is no manifest of a run: move it, or choose another folder with --out"
            ))
        })
    }

    /// A file of the set, if it is what the manifest says.
    pub(super) fn read(&self, listed: &Listed, name: &str) -> Result<Vec<u8>, PipelineError> {
        let path = self.folder.join(name);
        let fail = |problem: &str| PipelineError::Input(format!("{}: {problem}", path.display()));
        let hash = listed.files.get(name).ok_or_else(|| fail("is not in manifest.json: run prune again"))?;
        let bytes = files::read(&path, model::MAX_FILE).map_err(|e| PipelineError::reading(&path, e))?;
        if sha256(&bytes) == *hash {
            Ok(bytes)
        } else {
            Err(fail("is not what the run wrote that manifest.json is about: run prune again"))
        }
    }

    /// Replaces the set by new files, and keeps `keep` of the old ones. Everything else that an earlier run made is removed.
    pub(super) fn replace(&self, new: &[New], keep: &[&str]) -> Result<(), PipelineError> {
        let fail = |e: io::Error| PipelineError::writing(&self.folder, e);
        let kept = |name: &str| keep.contains(&name) || new.iter().any(|file| file.name == name);
        let listed = self.listed().ok().flatten().unwrap_or_default();
        let removed = FILES.into_iter().filter(|name| listed.files.contains_key(*name) && !kept(name));
        let mut journal = Journal {
            put: new.iter().map(|file| file.name.to_owned()).collect(),
            remove: removed.map(str::to_owned).collect(),
            old: BTreeSet::new(),
        };
        let stage = self.folder.join(files::temporary_name());
        let staged = self.stage(&stage, new, &mut journal).and_then(|()| {
            fs::rename(&stage, self.folder.join(READY))?;
            Ok(())
        });
        if let Err(error) = staged {
            let _ = fs::remove_dir_all(&stage);
            return Err(fail(error));
        }
        let placed = files::sync_folder(&self.folder).and_then(|()| self.place(READY));
        placed.map_err(|error| {
            // Where not even that can be done, the next run does one or the other.
            let _ = fs::rename(self.folder.join(READY), self.folder.join(UNDO)).and_then(|()| self.undo());
            fail(error)
        })
    }

    /// Writes everything that the replacement takes into one folder.
    fn stage(&self, stage: &Path, new: &[New], journal: &mut Journal) -> io::Result<()> {
        fs::create_dir_all(stage.join(OLD))?;
        for file in new {
            let path = stage.join(file.name);
            files::write_atomic(&path, file.bytes)?;
            if file.program {
                make_program(&path)?;
            }
        }
        for name in journal.put.iter().chain(&journal.remove) {
            let (here, there) = (self.folder.join(name), stage.join(OLD).join(name));
            if here.exists() {
                // Not every file system has links.
                fs::hard_link(&here, &there).or_else(|_| fs::copy(&here, &there).map(|_| ()))?;
                journal.old.insert(name.clone());
            }
        }
        files::write_atomic(&stage.join(JOURNAL), &serde_json::to_vec(journal)?)?;
        files::sync_folder(&stage.join(OLD))
    }

    /// Completes, or takes back, what a killed run began.
    fn recover(&self) -> Result<(), PipelineError> {
        let fail = |e: io::Error| PipelineError::writing(&self.folder, e);
        if self.folder.join(UNDO).is_dir() {
            self.undo().map_err(fail)?;
        }
        if self.folder.join(READY).is_dir() {
            self.place(READY).map_err(fail)?;
        }
        Ok(())
    }

    fn journal(&self, name: &str) -> io::Result<Journal> {
        let bytes = files::read(&self.folder.join(name).join(JOURNAL), 1 << 20)?;
        let journal: Journal = serde_json::from_slice(&bytes)?;
        // It says which files are moved and removed: ours, whatever it is.
        let mut names = journal.put.iter().chain(&journal.remove).chain(&journal.old);
        match names.find(|name| !FILES.contains(&name.as_str())) {
            None => Ok(journal),
            Some(name) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{JOURNAL} names `{name}`"))),
        }
    }

    /// Moves a complete set to its place; files that are there already are kept.
    fn place(&self, ready: &str) -> io::Result<()> {
        let journal = self.journal(ready)?;
        for name in &journal.put {
            present(fs::rename(self.folder.join(ready).join(name), self.folder.join(name)))?;
        }
        for name in &journal.remove {
            present(fs::remove_file(self.folder.join(name)))?;
        }
        files::sync_folder(&self.folder)?;
        self.discard(ready)
    }

    /// Takes a replacement back; files that are back already are kept.
    fn undo(&self) -> io::Result<()> {
        let journal = self.journal(UNDO)?;
        for name in journal.put.iter().chain(&journal.remove) {
            let here = self.folder.join(name);
            if journal.old.contains(name) {
                present(fs::rename(self.folder.join(UNDO).join(OLD).join(name), here))?;
            } else {
                present(fs::remove_file(here))?;
            }
        }
        files::sync_folder(&self.folder)?;
        self.discard(UNDO)
    }

    /// Removes the folder of a replacement, first in name, so that nobody sees it half removed.
    fn discard(&self, name: &str) -> io::Result<()> {
        let away = self.folder.join(files::temporary_name());
        fs::rename(self.folder.join(name), &away)?;
        // The next run cleans up what is left of it.
        let _ = fs::remove_dir_all(away);
        Ok(())
    }
}

impl Drop for Results {
    /// Removes a folder that was made for a run without results.
    fn drop(&mut self) {
        let only_lock = || {
            let mut entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
            entries.all(|entry| entry.file_name() == LOCK)
        };
        if !self.made.is_empty() && self.lock.is_some() && only_lock() {
            let _ = fs::remove_file(self.folder.join(LOCK));
            let _ = self.made.iter().try_for_each(fs::remove_dir);
        }
    }
}

/// A folder that is locked as long as this lives, also if the process is killed.
#[derive(Debug)]
pub struct Lock {
    /// None where the file system knows no locks.
    _file: Option<File>,
}

impl Lock {
    /// Locks a folder; none if another process has it.
    pub fn try_of(folder: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = Self::file(folder)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &folder.join(LOCK)) => return Ok(Some(Self { _file: Some(file) })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Some(Self { _file: None }));
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }

    /// Locks a folder, and waits until no other process has it.
    pub fn wait_for(folder: &Path) -> io::Result<Self> {
        loop {
            let file = Self::file(folder)?;
            file.lock()?;
            if is_at(&file, &folder.join(LOCK)) {
                return Ok(Self { _file: Some(file) });
            }
        }
    }

    fn file(folder: &Path) -> io::Result<File> {
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK))
    }
}

/// Whether an open file is still the one of that name: its last holder may have removed it.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(|(a, b)| same(a, b))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
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

/// Accepts that a file does not exist: it was moved or removed already.
fn present(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
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
