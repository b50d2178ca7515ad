//! What a latency table depends on beside the networks: the program that runs them and where it runs, by content.

use super::cache::sha256;
use super::external;
use super::job::{Job, Timing};
use crate::board::Board;
use crate::data::file_digest;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// One digest of it. On this machine: the machine, and this very program. On a device: the program that measures there (the
/// device is in the fingerprint). With a command of the user: the content of every file among its words, and the figures
/// that say how layers share a frame; what such a script calls in turn cannot be known.
pub(super) fn conditions(job: &Job) -> String {
    let parts = match &job.timing {
        Timing::Here => {
            let program = env::current_exe().ok().and_then(|path| content(&path));
            vec![format!("{:?}", Board::read(Path::new("/")).fingerprint()), format!("{program:?}")]
        }
        Timing::Device(session) => {
            vec![format!("{:?}", content(session.program())), format!("pins {}", session.pins())]
        }
        Timing::Command(command, speed) => {
            let words = command.iter().enumerate().map(|(at, word)| {
                let place = if at == 0 { program(word) } else { Some(PathBuf::from(word)) };
                let content = place.filter(|_| !word.contains(external::MODEL)).and_then(|path| content(&path));
                format!("{word:?} {content:?}")
            });
            words.chain([format!("{speed:?}")]).collect()
        }
        Timing::Estimate(speed) => vec![format!("{speed:?}")],
    };
    sha256(format!("{parts:?}").as_bytes())
}

/// Where a program is: as it is named, or in one of the folders of `PATH`.
fn program(word: &str) -> Option<PathBuf> {
    if word.contains('/') {
        return Some(word.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(word)).find(|place| place.is_file())
}

/// SHA-256 of a regular file; none where there is no such file.
fn content(path: &Path) -> Option<String> {
    // A folder or a pipe among the words is not read.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(file_digest(path).ok()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
