//! Puts a new folder of results in the place of the old one, and carries over what is not of a run.

use crate::bundle::{FILES, Listed, MANIFEST};
use crate::files::{self, Place, UNFINISHED};
use crate::model;
use crate::pipeline::error::PipelineError;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What the first stage of a job knows of the lock's entry.
pub const DRAFT: &str = ".secateurs-draft.lock";
/// Files in the cache that are for this job alone.
pub const KEPT: &str = ".secateurs-kept.json";

/// What is in a new set only until it is put in its place.
pub const SCRATCH: [&str; 3] = [DRAFT, KEPT, UNFINISHED];

/// The manifest in a folder; none without one.
///
/// # Errors
/// If it cannot be read, or is no manifest.
pub fn listed(folder: &Path) -> Result<Option<Listed>, PipelineError> {
    let path = folder.join(MANIFEST);
    let bytes = match files::read(&path, model::MAX_FILE) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(PipelineError::reading(&path, e)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|_| {
        let path = path.display();
        PipelineError::Input(format!("{path}: is no manifest of a run: move it, or choose another folder with --out"))
    })
}

/// Whether a run made the file of a name, by the manifest beside it. Everything else in the folder is its owner's.
pub fn owns(listed: Option<&Listed>, name: &str) -> bool {
    name == MANIFEST || (FILES.contains(&name) && listed.is_some_and(|listed| listed.owns(name)))
}

/// Puts a finished set in its place, and removes the old one.
///
/// # Errors
/// If something of the owner's is in its way, or the file system refuses: then the old set is in its place. If what is
/// the owner's cannot be carried over: then the new set is in its place, and the rest lies in the old folder, for the next
/// run to carry over.
pub fn publish(place: &Place, stage: &Path) -> io::Result<()> {
    let known = known(place.folder())?;
    for name in FILES {
        if in_folder(stage, name) && in_folder(place.folder(), name) && !owns(known.as_ref(), name) {
            let path = place.folder().join(name);
            let problem = format!("{}: is no result of an earlier run, and would be replaced", path.display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, problem));
        }
    }
    for name in SCRATCH {
        absent(fs::remove_file(stage.join(name)))?;
    }
    files::sync_folder(stage)?;
    if !is_folder(place.folder()) {
        fs::rename(stage, place.folder())?;
        return files::sync_folder(place.parent());
    }
    match exchange(stage, place.folder()) {
        Ok(()) => {
            files::sync_folder(place.parent())?;
            carry_over(place, stage)?;
            // The next run removes what is left of it.
            let _ = place.discard(stage);
        }
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            move_aside(place, stage)?;
            carry_over(place, &place.replaced())?;
            let _ = place.discard(&place.replaced());
        }
        Err(e) => return Err(e),
    }
    Ok(())
}

/// The exchange in two steps: a run that is killed in between is completed by [`recover`].
pub fn move_aside(place: &Place, stage: &Path) -> io::Result<()> {
    fs::rename(place.folder(), place.replaced())?;
    fs::rename(stage, place.folder()).or_else(|error| fs::rename(place.replaced(), place.folder()).and(Err(error)))?;
    files::sync_folder(place.parent())
}

/// Exchanges two folders in one step.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map_err(|error| match error {
        // An old kernel, or a file system that cannot do so.
        Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => ErrorKind::Unsupported.into(),
        other => other.into(),
    })
}

/// Exchanges two folders in one step.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Completes what a killed run began: afterwards the folder is a whole set or none, everything of its owner's is in it, and
/// nothing lies beside it.
///
/// # Errors
/// Those of the operating system.
pub fn recover(place: &Place) -> io::Result<()> {
    let (new, old) = (place.staged(), place.replaced());
    if is_folder(&old) && !is_folder(place.folder()) {
        let finished = is_folder(&new) && !new.join(UNFINISHED).exists();
        fs::rename(if finished { &new } else { &old }, place.folder())?;
    }
    if is_folder(&old) {
        retire(place, &old)?;
    }
    match is_folder(&new) {
        true if new.join(UNFINISHED).exists() => place.discard(&new),
        true => retire(place, &new),
        false => Ok(()),
    }
}

/// Carries over what is its owner's, and removes the rest.
fn retire(place: &Place, old: &Path) -> io::Result<()> {
    carry_over(place, old)?;
    place.discard(old)
}

/// The manifest in a folder; none where there is none that is a run's.
fn known(folder: &Path) -> io::Result<Option<Listed>> {
    match listed(folder) {
        Err(PipelineError::Reading { source, .. }) => Err(source),
        other => Ok(other.ok().flatten()),
    }
}

/// Moves everything that is its owner's from an old folder into that of the results.
fn carry_over(place: &Place, old: &Path) -> io::Result<()> {
    let known = known(old)?;
    for entry in fs::read_dir(old)? {
        let name = entry?.file_name();
        let ours = |name: &str| owns(known.as_ref(), name) || SCRATCH.contains(&name) || files::is_temporary(name);
        if name.to_str().is_some_and(ours) {
            continue;
        }
        let there = place.folder().join(&name);
        if there.symlink_metadata().is_ok() {
            let problem = format!("{}: is in the way of {}", there.display(), old.join(&name).display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, problem));
        }
        fs::create_dir_all(place.folder())?;
        fs::rename(old.join(&name), there)?;
    }
    if is_folder(place.folder()) {
        files::sync_folder(place.folder())?;
    }
    Ok(())
}

/// Whether there is such a folder; a link to one is none.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|facts| facts.is_dir())
}

fn in_folder(folder: &Path, name: &str) -> bool {
    folder.join(name).symlink_metadata().is_ok()
}

/// Accepts that a file does not exist: it was moved or removed already.
pub fn absent(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}
