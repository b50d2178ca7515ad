//! Folders that one run has for itself: that of the results, and cargo's target folder while a binary is built there
//! and taken away.

use super::process::Failure;
use crate::files::{self, FileLock, Place};
use std::fs;
use std::path::{Path, PathBuf};

/// The file that is locked in the target folder.
const LOCK: &str = ".secateurs.lock";

/// The folder of the results, which this run has for itself as long as this lives, also if the process is killed.
pub struct Results {
    place: Place,
    lock: Option<FileLock>,
    /// The folders above it that were made for this run, innermost first: they go again if nothing comes into them.
    made: Vec<PathBuf>,
}

impl Results {
    /// Takes a folder for this run.
    ///
    /// # Errors
    /// If another run has it, or nothing can be written beside it.
    pub fn take(folder: &Path) -> Result<Self, Failure> {
        let place = files::check_folder(folder).and_then(|()| Place::of(folder));
        let place = place.map_err(|e| Failure::writing(folder, &e))?;
        let made = place.parent().ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
        let lock = fs::create_dir_all(place.parent()).and_then(|()| FileLock::try_at(&place.lock()));
        match lock.map_err(|e| Failure::writing(&place.lock(), &e))? {
            Some(lock) => Ok(Self { place, lock: Some(lock), made }),
            None => Err(Failure::Input(format!(
                "{}: another run of secateurs writes there: wait for its end, or choose another folder with --out",
                folder.display()
            ))),
        }
    }

    /// The model of this run: it lies beside the folder until the bundle is complete.
    pub fn model(&self) -> PathBuf {
        self.place.staged().join("model.safetensors")
    }

    /// A folder for the programs that are built for this run, which goes with it.
    pub fn built(&self) -> PathBuf {
        self.place.built()
    }
}

impl Drop for Results {
    /// What the worker has not put in its place is no result.
    fn drop(&mut self) {
        // Where that cannot be done, the next run's worker does it.
        let _ = self.place.discard_unfinished();
        let _ = fs::remove_dir_all(self.place.built());
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
        let _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}

/// Takes cargo's target folder once no other run has it, until what is returned is dropped.
///
/// # Errors
/// If it cannot be written.
pub fn target_folder(folder: &Path) -> Result<FileLock, Failure> {
    let lock = fs::create_dir_all(folder).and_then(|()| FileLock::wait_for(&folder.join(LOCK)));
    lock.map_err(|e| Failure::writing(folder, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_run_at_a_time_and_goes_if_nothing_came_into_it() {
        let base = std::env::temp_dir().join(format!("secateurs-locked-{}", std::process::id()));
        let folder = base.join("out");
        let first = Results::take(&folder).unwrap();
        let second = Results::take(&folder).err().unwrap();
        assert_eq!(second.code(), 9);
        assert!(second.to_string().contains("another run of secateurs writes there"), "{second}");
        drop(first);
        assert!(!base.exists(), "nothing is left of a run without results");
        let first = Results::take(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("report.json"), "{}").unwrap();
        fs::create_dir(first.built()).unwrap();
        fs::create_dir(base.join(".out.new")).unwrap();
        fs::write(base.join(".out.new").join(files::UNFINISHED), "").unwrap();
        drop(first);
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "nothing lies beside it");
        assert!(folder.join("report.json").exists() && Results::take(&folder).is_ok());
        assert!(folder.join("report.json").exists(), "what is there is kept");
        // A file where a folder should be is for the user to repair, not this machine's fault.
        assert_eq!(Results::take(&folder.join("report.json")).err().unwrap().code(), 9);
        fs::remove_dir_all(&base).unwrap();
    }
}
