//! `prune` for several targets: one after the other, each with its own bundle, and a page that compares them.
//!
//! What does not depend on the device (importance, loss curves) comes from the cache after the first. A target that fails
//! does not keep the others from theirs.

use super::caller::Driver;
use super::options::Options;
use super::process::Failure;
use super::prune::{folder, one};
use super::worker::{Worker, run_worker};
use super::workspace::Workspace;

/// The page beside the bundles.
const INDEX: &str = "index.html";

/// Prunes for every target that the options name.
///
/// # Errors
/// The worst failure of a target; every other one has been shown.
pub fn run(driver: Driver, options: &Options) -> Result<(), Failure> {
    let workspace = Workspace::find(driver)?;
    if driver == Driver::Xtask {
        options.progress.stage("Building", "the worker (secateurs)");
    }
    let worker = workspace.worker(options.cuda)?;
    let [name] = &options.targets[..] else { return all(&workspace, &worker, options) };
    one(&workspace, &worker, options, name)
}

fn all(workspace: &Workspace, worker: &Worker, options: &Options) -> Result<(), Failure> {
    let progress = options.progress;
    let mut failures: Vec<(&str, Failure)> = Vec::new();
    for (at, name) in options.targets.iter().enumerate() {
        progress.stage("Target", &format!("{name} ({} of {})", at + 1, options.targets.len()));
        if let Err(failure) = one(workspace, worker, options, name) {
            progress.failure(&failure);
            failures.push((name, failure));
        }
    }
    if !options.dry_run {
        index(workspace, worker, options, &failures)?;
    }
    let codes: Vec<String> =
        failures.iter().map(|(name, failure)| format!("{name} (exit code {})", failure.code())).collect();
    if !codes.is_empty() {
        progress.stage("Failed", &codes.join(", "));
    }
    // They have been shown, each where it happened.
    let worst = failures.iter().map(|(_, failure)| failure.code()).max_by_key(|code| severity(*code));
    worst.map_or(Ok(()), |code| Err(Failure::Worker(code)))
}

/// How bad an exit code is: the later in the table of them the worse, and an internal error above all.
fn severity(code: u8) -> u8 {
    if code == 1 { u8::MAX } else { code }
}

/// Has the worker write the page that compares the bundles.
fn index(
    workspace: &Workspace,
    worker: &Worker,
    options: &Options,
    failures: &[(&str, Failure)],
) -> Result<(), Failure> {
    let base = options.out.clone().unwrap_or_else(|| workspace.dist());
    let page = base.join(INDEX);
    let mut command = worker.command("index");
    command.arg("--out").arg(&page);
    for name in &options.targets {
        let failed = failures.iter().find(|(failed, _)| failed == name);
        let code = failed.map_or(0, |(_, failure)| failure.code());
        command.arg("--bundle").arg(format!("{name}={code}={}", folder(workspace, options, name).display()));
    }
    options.progress.stage("Writing", &page.display().to_string());
    run_worker(&mut command)
}
