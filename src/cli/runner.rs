//! `secateurs runner`: a program on the device of a profile, for cargo's `CARGO_TARGET_<TRIPLE>_RUNNER`.

use super::failure::Failure;
use crate::device::{self, AnswerLimits, Argument, DeviceError};
use crate::output;
use crate::profile;
use std::path::{Path, PathBuf};

/// The device, and the program to run there.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile
    #[arg(long, value_name = "TOML")]
    profile: PathBuf,
    /// The program
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,
    /// Its arguments; a file of this machine that one names is copied, and the argument names the copy there
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs it; its exit code becomes ours.
pub fn run(args: &Args) -> Result<(), Failure> {
    let profile = profile::read(&args.profile)?;
    // Not cargo's setting: that is where this command stands.
    let runner = device::connect(&profile)?;
    let argument = |text: &String| match Path::new(text) {
        path if path.is_file() => Argument::File(path.into()),
        _ => Argument::Text(text.clone()),
    };
    let arguments: Vec<Argument> = args.arguments.iter().map(argument).collect();
    match runner.run_within(&args.program, &arguments, &AnswerLimits::ATTENDED) {
        Ok(output) => {
            output::print_bytes(&output);
            Ok(())
        }
        Err(DeviceError::Failed { code: Some(code), output, .. }) => {
            output::print_bytes(&output);
            Err(Failure::Program(u8::try_from(code).unwrap_or(1)))
        }
        Err(error) => Err(error.into()),
    }
}
