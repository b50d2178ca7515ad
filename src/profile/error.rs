//! What is wrong with a profile, and where.

use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// A profile that cannot be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The text breaks the schema; all that is wrong is listed, in the order of the file.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl ProfileError {
    /// The problems in the order of the file; none where the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Io { .. } => &[],
            Self::Invalid(problems) => problems,
        }
    }
}

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line from 1; 0 where the problem is not of one place but of several values together.
    pub line: usize,
    /// Column in characters from 1.
    pub column: usize,
    /// The file as the user named it.
    pub path: PathBuf,
    /// What was found and what was expected.
    pub message: String,
    /// What to write instead, where that can be guessed.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
