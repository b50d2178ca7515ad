//! `secateurs sign`: signs a finished bundle, where the key is only on another machine than the one that prunes.

use super::failure::Failure;
use super::terminal::{Terminal, TerminalArgs};
use crate::bundle::sign::{KeyError, MAX_FILE, Signer};
use crate::bundle::{self, Fault, MANIFEST, SIGNATURE};
use crate::files;
use crate::pipeline::Results;
use crate::profile::heading;
use std::path::{Path, PathBuf};

/// The environment variable with the password of a secret key. An argument could be read by every user of the machine.
const PASSWORD: &str = "SECATEURS_SIGN_PASSWORD";

/// Which bundle, and the key.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the bundle, such as dist/host
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
    /// Secret key file, as `minisign -G` writes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File with the password of the key [default: the environment variable SECATEURS_SIGN_PASSWORD]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// The key of a run that signs.
#[derive(clap::Args)]
pub struct KeyArgs {
    /// Sign the finished bundle with this secret key file, as `minisign -G` writes it
    #[arg(long, value_name = "FILE", help_heading = heading::OUTPUT)]
    sign: Option<PathBuf>,
    /// File with the password of the key [default: the environment variable SECATEURS_SIGN_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "sign", help_heading = heading::OUTPUT)]
    password_file: Option<PathBuf>,
}

impl KeyArgs {
    /// Whether there is one.
    pub fn is_given(&self) -> bool {
        self.sign.is_some()
    }

    /// Opens the key, if there is one.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn signer(&self) -> Result<Option<Signer>, Failure> {
        self.sign.as_ref().map(|key| open(key, self.password_file.as_deref())).transpose()
    }
}

/// Runs it: only a bundle that is whole is signed.
///
/// # Errors
/// If the bundle is not whole, the key cannot be used, or the signature cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut terminal = Terminal::new(args.terminal);
    let signer = open(&args.key, args.password_file.as_deref())?;
    // Opening the results would make the folder.
    let path = args.bundle.join(MANIFEST);
    files::open(&path).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    let results = Results::open(&args.bundle, false)?;
    let whole = bundle::whole(results.folder()).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
        Failure::Input(lines.join("\n"))
    })?;
    let signature = signer.sign(&whole.manifest, epoch()?)?;
    let path = args.bundle.join(SIGNATURE);
    files::write_atomic(&path, signature.as_bytes()).map_err(|e| Failure::writing(&path, &e))?;
    let value = serde_json::json!({ "reason": "signed", "signature": path.to_string_lossy(), "key": signer.id() });
    terminal.result(&format!("  {:<12}{} with key {}", "signed", path.display(), signer.id()), value);
    Ok(())
}

/// Opens a secret key, with its password if it needs one.
fn open(key: &Path, password_file: Option<&Path>) -> Result<Signer, Failure> {
    let password = match password_file {
        Some(path) => {
            let text = files::read(path, MAX_FILE).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
            let text = String::from_utf8(text)
                .map_err(|_| Failure::Input(format!("{}: is no text in UTF-8", path.display())))?;
            // An editor ends the line.
            let line = text.strip_suffix('\n').unwrap_or(&text);
            Some(line.strip_suffix('\r').unwrap_or(line).to_owned())
        }
        None => std::env::var(PASSWORD).ok(),
    };
    Ok(Signer::open(key, password.as_deref())?)
}

/// The time that reproducible builds are given: <https://reproducible-builds.org/docs/source-date-epoch/>.
///
/// # Errors
/// If it is no number.
pub fn epoch() -> Result<Option<u64>, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    // The end of the year 9999: later ones have no RFC 3339.
    const LAST: u64 = 253_402_300_799;
    let Some(text) = std::env::var_os(NAME) else { return Ok(None) };
    let text = text.to_string_lossy();
    let seconds = text.trim().parse().ok().filter(|seconds| *seconds <= LAST);
    let problem = || Failure::Usage(format!("{NAME} is `{text}`: expected seconds since 1970"));
    seconds.map(Some).ok_or_else(problem)
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Protected { .. } => Self::Advised(
                error.to_string(),
                "give it in a file with --password-file, or in the environment variable SECATEURS_SIGN_PASSWORD",
            ),
            KeyError::Io { .. } | KeyError::Format { .. } | KeyError::Password { .. } => Self::input(error),
            KeyError::Signing(_) => Self::Machine(error.to_string()),
        }
    }
}
