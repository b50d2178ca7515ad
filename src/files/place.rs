//! A folder that is replaced as a whole: the names of what lies beside it meanwhile, and the lock that keeps two runs apart.
//!
//! A driver and its worker work on one folder in turn; both take the names from here. The lock stands beside the folder,
//! because what stands inside goes when the folder is replaced.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Stands in the new folder as long as it is unfinished: then nothing in it is anybody's.
pub const UNFINISHED: &str = ".secateurs-unfinished";

/// A folder, and the names beside it: all of them are hidden and have its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    folder: PathBuf,
    parent: PathBuf,
    name: OsString,
}

impl Place {
    /// The place of a folder, whether it exists or not. A link is followed: what is replaced is the folder behind it.
    ///
    /// # Errors
    /// Those of the operating system, and `InvalidInput` for the root of a file system.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let folder = match fs::canonicalize(folder) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(folder)?,
            Err(error) => return Err(error),
        };
        match (folder.parent(), folder.file_name()) {
            (Some(parent), Some(name)) => Ok(Self { parent: parent.into(), name: name.into(), folder: folder.clone() }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a folder that can be replaced by another")),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder that it lies in.
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// The new folder, while it is being filled; the old one, just after both were exchanged.
    pub fn staged(&self) -> PathBuf {
        self.beside("new")
    }

    /// The old folder, where both cannot be exchanged in one step.
    pub fn replaced(&self) -> PathBuf {
        self.beside("old")
    }

    /// Programs that were built for the new folder.
    pub fn built(&self) -> PathBuf {
        self.beside("built")
    }

    /// The file whose lock keeps two runs apart.
    pub fn lock(&self) -> PathBuf {
        self.beside("lock")
    }

    /// Removes a new folder that was never finished: first its name, so that nobody takes it for a finished one when it is
    /// half removed.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn discard_unfinished(&self) -> io::Result<()> {
        let staged = self.staged();
        if staged.join(UNFINISHED).exists() { self.discard(&staged) } else { Ok(()) }
    }

    /// Removes a folder beside this one in the same way; none is fine, too. The next run cleans up what is left of it.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn discard(&self, folder: &Path) -> io::Result<()> {
        let away = self.parent.join(super::temporary_name());
        match fs::rename(folder, &away) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map(|()| drop(fs::remove_dir_all(away))),
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".");
        name.push(ending);
        self.parent.join(name)
    }
}

/// A file that is locked as long as this lives, also if the process is killed.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    /// None where the file system knows no locks.
    file: Option<File>,
}

impl FileLock {
    /// Locks the file of a name, which is made where there is none; none if another process has it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn try_at(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(Some(Self { path: path.into(), file: Some(file) })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Some(Self { path: path.into(), file: None }));
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }

    /// Locks the file of a name once no other process has it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn wait_for(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            match file.lock() {
                Ok(()) if is_at(&file, path) => return Ok(Self { path: path.into(), file: Some(file) }),
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(Self { path: path.into(), file: None }),
                Err(e) => return Err(e),
            }
        }
    }

    /// Removes the file and frees it: whoever waits for it makes it again.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
        drop(self.file);
    }
}

fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_beside_a_folder_are_hidden_and_follow_links() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let place = Place::of(&base.join("dist/a.b")).unwrap();
        assert_eq!((place.folder(), place.parent()), (base.join("dist/a.b").as_path(), base.join("dist").as_path()));
        assert_eq!(place.staged(), base.join("dist/.a.b.new"));
        assert_eq!(place.lock(), base.join("dist/.a.b.lock"));
        #[cfg(unix)]
        {
            fs::create_dir(base.join("real")).unwrap();
            std::os::unix::fs::symlink("real", base.join("link")).unwrap();
            assert_eq!(Place::of(&base.join("link")).unwrap().replaced(), base.join(".real.old"));
        }
        assert_eq!(Place::of(Path::new("/")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn one_holder_at_a_time_and_the_file_goes_with_it() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("lock");
        let first = FileLock::try_at(&path).unwrap().unwrap();
        assert!(FileLock::try_at(&path).unwrap().is_none());
        first.remove();
        assert!(!path.exists());
        drop(FileLock::wait_for(&path).unwrap());
        assert!(FileLock::try_at(&path).unwrap().is_some());
    }
}
