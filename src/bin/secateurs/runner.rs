//! `secateurs runner`: a program on the device of a profile, for cargo's `CARGO_TARGET_<TRIPLE>_RUNNER`.

use super::failure::Failure;
use super::output;
use secateurs::device::{self, DeviceError, Limits, Word};
use secateurs::profile;
use std::path::{Path, PathBuf};

/// Where to run what.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile
    #[arg(long, value_name = "TOML")]
    profile: PathBuf,
    /// The program
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,
    /// Its words; those that name a file of this machine are copied, and name the copy there
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Runs it; its exit code becomes ours.
pub fn run(args: &Args) -> Result<(), Failure> {
    let profile = profile::read(&args.profile)?;
    // Not cargo's setting: that is where this command stands.
    let runner = device::connect(&profile)?;
    let word = |text: &String| match Path::new(text) {
        path if path.is_file() => Word::File(path.into()),
        _ => Word::Text(text.clone()),
    };
    let words: Vec<Word> = args.words.iter().map(word).collect();
    match runner.run_within(&args.program, &words, &Limits::ATTENDED) {
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
