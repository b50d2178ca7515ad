//! What a run is made from, held against a lock or entered into one; and the plan that an interrupted run goes on from.
//!
//! [`Locking`] is what the caller knows of a run; the job adds the content of model and data, which it reads. With a
//! locked target all of it must be the same, and the locked plan is applied without a search. Otherwise the plan of a run
//! is kept in the cache, under a key of all that it was made from, until the results are in their place: a run that was
//! interrupted goes on from there, and finds the training of that very plan, where measuring anew might choose another.

use super::cache::{self, Entry};
use super::context::Context;
use super::error::PipelineError;
use super::inputs::Opened;
use super::job::{Job, Locking};
use super::plan::{Planned, plan};
use super::progress::Progress;
use super::results::{DRAFT, KEPT, Results};
use super::sizes::{self, Chosen};
use crate::bundle::{
    self, BASELINE, BINARY, Input, Lock, LockedGroup, LockedInputs, LockedTarget, MODEL, ManifestError, PLAN, PROFILE,
    sha256,
};
use crate::files;
use crate::model;
use crate::report::Report;
use crate::surgery::Selection;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Kinds of entries that the cache keeps for one job, until its results are in their place.
const SIZE_OF_JOB: &str = "size";
const PLAN_OF_JOB: &str = "plan";
const KINDS: [&str; 2] = [SIZE_OF_JOB, PLAN_OF_JOB];

/// The inputs of a run, complete.
pub(super) struct Known<'a> {
    locking: &'a Locking,
    pub inputs: LockedInputs,
    /// The key of all that the plan of this run depends on.
    key: String,
}

impl<'a> Known<'a> {
    /// Reads the content of model and data; none where the caller asks for nothing to be locked or kept.
    ///
    /// # Errors
    /// If something cannot be read, or differs from what is locked.
    pub fn read(job: &'a Job, opened: &Opened) -> Result<Option<Self>, PipelineError> {
        let Some(locking) = &job.locking else { return Ok(None) };
        let root = locking.path.parent().unwrap_or(Path::new(""));
        let content = [opened.data.train_content()?, opened.data.val.content()?];
        let inputs = LockedInputs {
            model: Input::new(job.model.as_deref(), root, opened.baseline.sha256.clone()),
            data: Some(Input::new(job.data.as_deref(), root, sha256(content.concat().as_bytes()))),
            ..locking.inputs.clone()
        };
        if let Some(locked) = &locking.locked {
            let differences = locked.inputs.differences(&inputs);
            if !differences.is_empty() {
                return Err(PipelineError::Locked { path: locking.path.clone(), differences });
            }
        }
        let machine = job.timing.source().machine(&job.target);
        let key = cache::key(&[&inputs, &machine, &job.threads, &job.computed_on()?]);
        Ok(Some(Self { locking, inputs, key }))
    }

    /// The image size of a job with several ones: the locked one, that of the interrupted run, or the best.
    ///
    /// # Errors
    /// As choosing it.
    pub fn size(&self, job: &Job, progress: &dyn Progress) -> Result<Chosen, PipelineError> {
        if let Some(locked) = &self.locking.locked {
            return sizes::fixed(job, locked.imgsz, progress);
        }
        let check = |chosen: &Chosen| match job.sizes.contains(&chosen.imgsz) {
            true => Ok(()),
            false => Err(format!("has an image size of {}, which the job does not ask for", chosen.imgsz)),
        };
        let cache = cache::Cache { folder: &job.cache, progress, ranks: &job.ranks };
        Ok(cache.get_or(SIZE_OF_JOB, &self.key, check, || sizes::choose(job, progress))?.0)
    }

    /// The plan of a job: the locked one, that of the interrupted run, or a new one.
    ///
    /// # Errors
    /// If the locked plan is of another network; as planning.
    pub fn plan(&self, ctx: &Context) -> Result<Planned, PipelineError> {
        if let Some(locked) = &self.locking.locked {
            let selection = selection(ctx, &locked.plan).map_err(|problem| {
                let (path, target) = (self.locking.path.display(), &self.locking.target);
                PipelineError::Input(format!("{path}: the plan of `{target}` {problem}: run prune without --locked"))
            })?;
            ctx.progress.stage("Applying", format!("the plan of {}", self.locking.path.display()));
            return Ok(Planned { selection, ..Planned::whole(ctx) });
        }
        let baseline = &ctx.inputs.baseline;
        let check = |planned: &Planned| {
            ctx.prune(&planned.selection).map_err(|e| e.to_string())?;
            planned.table.check(&baseline.model.graph, &baseline.groups, &ctx.fingerprint())
        };
        let (planned, kept) = ctx.cache.get_or(PLAN_OF_JOB, &self.key, check, || plan(ctx))?;
        if kept {
            ctx.progress.message("an earlier run with these inputs was interrupted: its plan is taken".into());
        }
        Ok(planned)
    }

    /// What the cache keeps for this run alone.
    pub fn kept(&self, job: &Job) -> Vec<PathBuf> {
        KINDS.map(|kind| Entry { folder: &job.cache, kind, key: &self.key }.path()).into()
    }
}

/// The channels that a locked plan keeps.
fn selection(ctx: &Context, plan: &BTreeMap<String, LockedGroup>) -> Result<Selection, String> {
    let groups = &ctx.inputs.baseline.groups;
    if plan.len() != groups.groups.len() {
        return Err(format!("has {} groups, the network has {}", plan.len(), groups.groups.len()));
    }
    let kept = groups.groups.iter().map(|group| match plan.get(&group.name) {
        Some(locked) if locked.before == group.width() => Ok(locked.kept.clone()),
        Some(locked) => {
            Err(format!("has {} channels in group `{}`, the network has {}", locked.before, group.name, group.width()))
        }
        None => Err(format!("has no group `{}`", group.name)),
    });
    let selection = Selection(kept.collect::<Result<_, _>>()?);
    ctx.prune(&selection).map_err(|e| format!("cannot be carried out ({e})"))?;
    Ok(selection)
}

/// Refuses a job whose inputs differ from what is locked, where something is.
///
/// # Errors
/// Names every difference; if an input cannot be read.
pub fn check_locked(job: &Job, progress: &dyn Progress) -> Result<(), PipelineError> {
    if job.locking.as_ref().is_none_or(|locking| locking.locked.is_none()) {
        return Ok(());
    }
    Known::read(job, &Opened::read(job, progress)?).map(drop)
}

/// What a job leaves to be done once its results are in their place.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// The target's name and entry in the lock, without the hashes of the bundle.
    entry: Option<(String, LockedTarget)>,
    /// What the cache keeps for this job alone.
    kept: Vec<PathBuf>,
}

impl Pending {
    /// Of a job that has ended.
    pub(super) fn new(known: &Known, job: &Job, report: &Report, selection: &Selection) -> Self {
        let groups = report.groups.iter().zip(&selection.0).map(|(group, kept)| {
            let locked = LockedGroup { before: group.before, width: group.after, kept: kept.clone() };
            (group.name.clone(), locked)
        });
        let entry = LockedTarget {
            inputs: known.inputs.clone(),
            imgsz: report.imgsz,
            board: report.device.clone(),
            plan: groups.collect(),
            files: BTreeMap::new(),
            manifest: sha256(&[]),
            measured: bundle::measured(report),
        };
        Self { entry: Some((known.locking.target.clone(), entry)), kept: known.kept(job) }
    }

    /// SHA-256 of the dataset, where it is known.
    pub(super) fn data(&self) -> Option<&str> {
        let (_, entry) = self.entry.as_ref()?;
        entry.inputs.data.as_ref().map(|data| data.sha256.as_str())
    }

    /// The same as notes of a first stage.
    pub(super) fn notes(&self) -> Result<Vec<(&'static str, Vec<u8>)>, PipelineError> {
        let draft = self.entry.as_ref().map(|(name, entry)| (DRAFT, bundle::lock_text(name, entry).into_bytes()));
        Ok(draft.into_iter().chain([(KEPT, serde_json::to_vec(&self.kept)?)]).collect())
    }

    /// What the first stage of a job left.
    ///
    /// # Errors
    /// If its draft is no lock.
    pub fn read(results: &Results) -> Result<Self, PipelineError> {
        let text = |name| results.note(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let draft = text(DRAFT).map(|draft| Lock::parse(&results.set().join(DRAFT), &draft)).transpose()?;
        let kept = text(KEPT).and_then(|kept| serde_json::from_str(&kept).ok()).unwrap_or_default();
        Ok(Self { entry: draft.and_then(|draft| draft.targets.into_iter().next()), kept })
    }

    /// Enters the bundle in its place into a lock, where one is given, and removes what the cache keeps for this job alone.
    ///
    /// # Errors
    /// If the bundle cannot be read, the job was not to be locked, or the lock cannot be read or written.
    pub fn settle(self, results: &Results, report: &Report, lock: Option<&Path>) -> Result<(), PipelineError> {
        self.forget();
        let Some(lock) = lock else { return Ok(()) };
        let Some((name, entry)) = self.entry else {
            let folder = results.folder().display();
            return Err(PipelineError::Input(format!(
                "{folder}: its first stage left nothing to lock: run prune again"
            )));
        };
        let path = results.folder().join(bundle::MANIFEST);
        let manifest = files::read(&path, model::MAX_FILE).map_err(|e| PipelineError::reading(&path, e))?;
        let fail = |e: ManifestError| PipelineError::Input(format!("{}: {e}", path.display()));
        let listed = bundle::parse(&manifest).map_err(fail)?;
        let lasting = |name: &str| [MODEL, BASELINE, PLAN, PROFILE, BINARY].contains(&name);
        let entry = LockedTarget {
            files: listed.files.into_iter().filter(|(name, _)| lasting(name)).collect(),
            manifest: sha256(&manifest),
            measured: bundle::measured(report),
            ..entry
        };
        Ok(bundle::enter(lock, &name, &entry)?)
    }

    /// Removes what the cache keeps for this job alone.
    fn forget(&self) {
        for path in self.kept.iter().filter(|path| is_kept(path)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file is one that the cache keeps for one job, by its name: a list of them must not remove others.
fn is_kept(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
    let parts = name.and_then(|name| name.split_once('-'));
    parts.is_some_and(|(kind, key)| {
        KINDS.contains(&kind) && key.len() == 16 && key.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The notes beside the results say which files are removed: those of a cache, whatever they name.
    #[test]
    fn notes_cannot_remove_files_elsewhere() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        let (ours, others) = (["plan-0123456789abcdef.json", "size-0123456789abcdef.json"], ["victim", "plan-x.json"]);
        ours.iter().chain(&others).for_each(|name| fs::write(path(name), "precious").unwrap());
        let kept = ours.iter().chain(&others).map(|name| path(name)).collect();
        Pending { entry: None, kept }.forget();
        assert!(ours.iter().all(|name| !path(name).exists()) && others.iter().all(|name| path(name).exists()));
    }
}
