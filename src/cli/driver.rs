//! `secateurs driver`: what `cargo xtask` asks the worker, which alone knows profiles and pruning options.

use super::failure::Failure;
use super::prune;
use crate::output;
use crate::profile::{self, Profile};
use crate::runtimes::Runtime;
use std::path::PathBuf;

/// The questions.
#[derive(clap::Subcommand)]
pub enum Question {
    /// Help of the pruning options that `cargo xtask prune` hands on
    Options,
    /// The values of a profile, as JSON
    Profile {
        /// Device profile
        #[arg(long, value_name = "TOML")]
        profile: PathBuf,
    },
    /// Whether the runtime of a profile is on its device: its name, version and machine, as JSON
    Runtime {
        /// Device profile
        #[arg(long, value_name = "TOML")]
        profile: PathBuf,
    },
    /// Whether the arguments of `prune` are right: the profile with its flags applied, as JSON
    #[command(override_usage = "cargo xtask prune --target <NAME> [OPTIONS]")]
    Check(Box<prune::Args>),
}

/// Answers on standard output. `command` gives the command line of the worker.
pub fn run(question: &Question, command: impl FnOnce() -> clap::Command) -> Result<(), Failure> {
    match question {
        Question::Options => {
            output::print(&options(command()));
            Ok(())
        }
        Question::Profile { profile } => answer(&profile::read(profile)?),
        Question::Runtime { profile } => {
            let runtime = Runtime::open(&profile::read(profile)?, None)?;
            if let Some(why) = runtime.simulated() {
                return Err(Failure::Device(format!("the device itself cannot be asked ({why})")));
            }
            let (name, on) = (runtime.name(), runtime.fingerprint());
            let value = serde_json::json!({ "reason": "runtime", "name": name, "on": on });
            Ok(output::print_json(&value)?)
        }
        Question::Check(args) => {
            // A key that cannot be used is found out before the work.
            args.key.signer()?;
            answer(&args.resolve()?.profile)
        }
    }
}

fn answer(profile: &Profile) -> Result<(), Failure> {
    Ok(output::print_json(&serde_json::json!({ "reason": "profile", "profile": profile }))?)
}

/// The help of `prune`, without its usage and without the options that the driver gives itself.
fn options(command: clap::Command) -> String {
    let prune = command.get_subcommands().find(|command| command.get_name() == "prune").cloned();
    let own = |arg: clap::Arg| {
        let given = ["profile", "binary", "cache", "help"].contains(&arg.get_id().as_str());
        if given { arg.hide(true) } else { arg }
    };
    let prune = prune.unwrap_or_default().disable_help_flag(true).mut_args(own);
    prune.help_template("{all-args}").render_help().to_string()
}
