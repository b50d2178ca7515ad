//! What a run is locked by: its inputs, as the command line and the profile give them.

use super::Args;
use crate::bundle::{Input, LOCK, Lock, LockedInputs, LockedTarget, profile_values, sha256};
use crate::cli::failure::Failure;
use crate::engine::Device;
use crate::files;
use crate::pipeline::Locking;
use crate::profile::Profile;
use std::path::{Path, PathBuf};

/// The largest profile that is read, bytes.
const MAX_PROFILE: u64 = 1 << 20;

/// The inputs of a run, and what they must be with `--locked`. `profile` has the flags of the command line in it, and
/// nothing that a machine has changed; `device` computes.
///
/// # Errors
/// If the lock or the profile cannot be read, or nothing is locked for this target.
pub fn locking(args: &Args, profile: &Profile, device: Device) -> Result<Locking, Failure> {
    let path = args.lock.as_deref().map_or_else(|| PathBuf::from(LOCK), absolute);
    let root = path.parent().unwrap_or(Path::new("")).to_owned();
    let target = match &args.profile {
        Some(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        None => profile.device.name.clone(),
    };
    let nowhere = || Input { path: String::new(), sha256: String::new() };
    let read = |path: &PathBuf| {
        let bytes = files::read(path, MAX_PROFILE).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
        Ok::<_, Failure>(Input::new(Some(path), &root, sha256(&bytes)))
    };
    let profile_file = args.profile.as_ref().map(read).transpose()?.unwrap_or_else(nowhere);
    let mut features = profile.device.features.clone();
    features.extend(profile.device.cuda.is_some().then(|| "cuda".to_owned()));
    features.sort();
    features.dedup();
    let inputs = LockedInputs {
        version: env!("CARGO_PKG_VERSION").into(),
        seed: profile.search.seed,
        features,
        compiler: args.compiler.clone(),
        cuda: device.is_cuda(),
        skip_bad_images: args.skip_bad_images,
        // The job reads these two.
        model: nowhere(),
        data: None,
        profile_file,
        profile: profile_values(profile),
    };
    let locked = if args.locked { Some(entry(&path, &target)?) } else { None };
    Ok(Locking { target, inputs, locked, path })
}

/// What is locked for a target.
fn entry(path: &Path, target: &str) -> Result<LockedTarget, Failure> {
    let place = path.display();
    let lock = Lock::read(path).map_err(Failure::lock)?;
    let Some(mut lock) = lock else {
        return Err(Failure::Locked(format!(
            "{place}: there is no such file, and --locked needs one: run prune without it"
        )));
    };
    lock.targets.remove(target).ok_or_else(|| {
        let names: Vec<&str> = lock.targets.keys().map(String::as_str).collect();
        let names = if names.is_empty() { "nothing".into() } else { names.join(", ") };
        Failure::Locked(format!("{place}: has no target `{target}`, only {names}: run prune without --locked"))
    })
}

/// A path that stays the same when the folder of the results is replaced, in which this program may have been started.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
