//! Folders that one run has for itself: that of the results, and cargo's target folder while a binary is built there
//! and taken away.

use super::process::Failure;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The file that the worker locks in the folder of the results, too.
const LOCK: &str = ".secateurs.lock";

/// A folder that is locked as long as this lives, also if the process is killed.
pub struct Locked {
    _file: File,
    /// The folder, where it was made for this run: it goes again if nothing comes into it.
    made: Option<PathBuf>,
}

impl Locked {
    /// Takes a folder for this run.
    ///
    /// # Errors
    /// If another run has it, or it cannot be written.
    pub fn results(folder: &Path) -> Result<Self, Failure> {
        let made = (!folder.exists()).then(|| folder.to_owned());
        loop {
            let file = open(folder)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let folder = folder.display();
                    return Err(Failure::Input(format!(
                        "{folder}: another run of secateurs writes there: wait for its end, or choose another folder \
                         with --out"
                    )));
                }
                Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                    return Err(Failure::writing(folder, &e));
                }
                _ if same(&file, &folder.join(LOCK)) => return Ok(Self { _file: file, made }),
                _ => {}
            }
        }
    }

    /// Takes a folder once no other run has it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn wait_for(folder: &Path) -> Result<Self, Failure> {
        let file = open(folder)?;
        match file.lock() {
            Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(Failure::writing(folder, &e)),
            _ => Ok(Self { _file: file, made: None }),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let Some(folder) = &self.made else { return };
        let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
        if entries.all(|entry| entry.file_name() == LOCK) {
            let _ = fs::remove_file(folder.join(LOCK)).and_then(|()| fs::remove_dir(folder));
        }
    }
}

fn open(folder: &Path) -> Result<File, Failure> {
    let file = fs::create_dir_all(folder)
        .and_then(|()| fs::OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK)));
    file.map_err(|e| Failure::writing(folder, &e))
}

/// Whether an open file is still the one of that name: its last holder may have removed it.
#[cfg(unix)]
fn same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ids = file.metadata().ok().zip(fs::metadata(path).ok());
    ids.is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(not(unix))]
fn same(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_run_at_a_time_and_goes_if_nothing_came_into_it() {
        let base = std::env::temp_dir().join(format!("secateurs-locked-{}", std::process::id()));
        let folder = base.join("out");
        let first = Locked::results(&folder).unwrap();
        let second = Locked::results(&folder).err().unwrap();
        assert_eq!(second.code(), 9);
        assert!(second.to_string().contains("another run of secateurs writes there"), "{second}");
        drop(first);
        assert!(!folder.exists());
        let first = Locked::results(&folder).unwrap();
        fs::write(folder.join("report.json"), "{}").unwrap();
        drop(first);
        assert!(folder.join("report.json").exists() && Locked::results(&folder).is_ok());
        assert!(folder.join("report.json").exists(), "what is there is kept");
        // A file where a folder should be is for the user to repair, not this machine's fault.
        assert_eq!(Locked::results(&folder.join("report.json")).err().unwrap().code(), 9);
        fs::remove_dir_all(&base).unwrap();
    }
}
