//! The folder where measurements are kept for the next run.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::files::{self, FileLock};
use crate::pipeline;
use crate::ranks::Ranks;
use std::io;
use std::path::{Path, PathBuf};

/// The file in the folder that is locked.
const LOCK: &str = ".secateurs.lock";

/// A folder that goes when it is dropped.
pub fn scratch() -> Result<tempfile::TempDir, Failure> {
    let made = tempfile::Builder::new().prefix("secateurs-").tempdir();
    made.map_err(|e| Failure::writing(&std::env::temp_dir(), &e))
}

/// Where measurements are kept for the next run, held by this one.
pub struct Cache {
    pub folder: PathBuf,
    _lock: Option<FileLock>,
    /// Stands in for a folder that cannot be used, and goes with this.
    _scratch: Option<tempfile::TempDir>,
}

impl Cache {
    /// As [`open`](Self::open) on the first rank; the others name the folder that it has.
    pub fn shared(folder: &Path, ranks: &Ranks, terminal: &mut Terminal) -> Result<Self, Failure> {
        let own = ranks.is_first().then(|| Self::open(folder, terminal)).transpose()?;
        let folder =
            ranks.by_first(|| Ok::<_, Failure>(own.as_ref().map(|own| own.folder.clone())))?.unwrap_or_default();
        Ok(own.unwrap_or(Self { folder, _lock: None, _scratch: None }))
    }

    /// Takes a folder once no other run has it. One that cannot be written costs what it would have saved, not the job.
    pub fn open(folder: &Path, terminal: &mut Terminal) -> Result<Self, Failure> {
        match Self::lock(folder, terminal) {
            Ok(lock) => Ok(Self { folder: folder.into(), _lock: Some(lock), _scratch: None }),
            Err(why) => {
                terminal.note(&format!("{}: {why}; nothing is kept for the next run", folder.display()));
                let scratch = scratch()?;
                Ok(Self { folder: scratch.path().into(), _lock: None, _scratch: Some(scratch) })
            }
        }
    }

    fn lock(folder: &Path, terminal: &mut Terminal) -> io::Result<FileLock> {
        files::check_folder(folder)?;
        if !pipeline::has_room(folder) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        std::fs::create_dir_all(folder)?;
        let path = folder.join(LOCK);
        if let Some(lock) = FileLock::try_at(&path)? {
            return Ok(lock);
        }
        terminal.note(&format!("{}: another run uses it; waiting for its end", folder.display()));
        FileLock::wait_for(&path)
    }
}
