//! The arguments of `prune`: its own options, which are about building, and those that it hands to the
//! worker as they are. The worker alone defines, checks and explains the latter.

use super::process::Progress;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// The options that this driver reads. Hidden ones are the worker's, which also gets them and explains them.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true, max_term_width = 100, next_help_heading = "Building")]
struct Own {
    /// Device profile: NAME stands for targets/NAME.toml; several, separated by commas, are pruned for one after the other
    #[arg(long = "target", value_name = "NAME", value_delimiter = ',', required = true)]
    targets: Vec<String>,
    /// Where the inference binary is built; on-device needs cargo there, and sends the package over the connection
    #[arg(long, value_name = "WHERE", default_value = "here")]
    build: Place,
    /// Fail if nvcc is missing, instead of building without code for the device's GPU
    #[arg(long)]
    require_gpu: bool,
    #[arg(long, value_name = "DIR", hide = true)]
    out: Option<PathBuf>,
    #[arg(long, hide = true)]
    cuda: bool,
    #[arg(long, value_name = "DEVICE", hide = true)]
    device: Option<String>,
    #[arg(long, hide = true)]
    require_device: bool,
    #[arg(long, hide = true)]
    dry_run: bool,
    #[arg(long, value_name = "FILE", hide = true)]
    sign: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    password_file: Option<PathBuf>,
    #[arg(long, value_name = "FORMAT", hide = true)]
    message_format: Option<String>,
}

/// Where to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// On this machine, for the device
    Here,
    /// On the device itself
    OnDevice,
}

/// What the user typed.
#[derive(Debug)]
pub struct Options {
    /// Names of the device profiles, at least one.
    pub targets: Vec<String>,
    /// Where the inference binary is built.
    pub build: Place,
    /// Whether it must have code for the device's GPU.
    pub require_gpu: bool,
    /// Folder of the results.
    pub out: Option<PathBuf>,
    /// Whether the worker computes on a CUDA device.
    pub cuda: bool,
    /// Whether latency must be measured on the device itself.
    pub require_device: bool,
    /// Whether nothing is done but to check.
    pub dry_run: bool,
    /// The key that signs the bundle, and the file with its password.
    pub key: (Option<PathBuf>, Option<PathBuf>),
    /// How progress is reported.
    pub progress: Progress,
    /// Arguments of the worker's `prune`, as they were typed.
    pub forwarded: Vec<OsString>,
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Request {
    /// A run.
    Run(Box<Options>),
    /// The help.
    Help,
}

/// Reads the arguments of `prune` of a program: `cargo xtask`.
///
/// # Errors
/// If an option of this driver is missing or wrong.
pub fn parse(program: &str, arguments: &[OsString]) -> Result<Request, clap::Error> {
    if arguments.iter().take_while(|text| *text != "--").any(|text| text == "--help" || text == "-h") {
        return Ok(Request::Help);
    }
    let (own, forwarded) = split(arguments);
    let found = command(program).try_get_matches_from(std::iter::once("prune".into()).chain(own))?;
    let own = Own::from_arg_matches(&found)?;
    let progress = if own.message_format.as_deref() == Some("json") { Progress::Json } else { Progress::Human };
    let Own {
        mut targets, build, require_gpu, out, cuda, device, require_device, dry_run, sign, password_file, ..
    } = own;
    // A target that is named twice is pruned for once.
    let mut seen = std::collections::BTreeSet::new();
    targets.retain(|name| seen.insert(name.clone()));
    Ok(Request::Run(Box::new(Options {
        targets,
        build,
        require_gpu,
        out,
        cuda: cuda || device.is_some_and(|device| device.starts_with("cuda")),
        require_device,
        dry_run,
        key: (sign, password_file),
        progress,
        forwarded,
    })))
}

/// The help of this driver's own options.
pub fn help(program: &str) -> String {
    command(program).help_template("Usage: {usage}\n\n{all-args}").render_help().to_string()
}

fn command(program: &str) -> clap::Command {
    let name = format!("{program} prune");
    Own::command().override_usage(format!("{name} --target <NAME> [OPTIONS]")).bin_name(name)
}

/// Arguments of this driver, and those of the worker in the order in which they were typed. Options of both go to both,
/// but for `--dry-run`, which is no part of a run.
fn split(arguments: &[OsString]) -> (Vec<OsString>, Vec<OsString>) {
    let command = Own::command();
    let known = |name: &str| command.get_arguments().find(|arg| arg.get_long() == Some(name));
    let (mut own, mut forwarded) = (Vec::new(), Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            forwarded.push(argument.clone());
            forwarded.extend(arguments.cloned());
            break;
        }
        let (name, attached) = text.split_once('=').map_or((&*text, false), |(name, _)| (name, true));
        let Some(option) = name.strip_prefix("--").and_then(known) else {
            forwarded.push(argument.clone());
            continue;
        };
        let mut given = vec![argument.clone()];
        if option.get_action().takes_values() && !attached {
            given.extend(arguments.next().cloned());
        }
        if is_shared(option) {
            forwarded.extend(given.iter().cloned());
        }
        own.extend(given);
    }
    (own, forwarded)
}

/// Whether the worker gets an option of this driver, too. The folder of the results has another default here.
fn is_shared(option: &Arg) -> bool {
    option.is_hide_set() && !["out", "dry_run"].contains(&option.get_id().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typed for every flag that the worker shall get.
    const TYPED: [(&str, &str); 17] = [
        ("model", "a.pt"),
        ("data", "a.yaml"),
        ("imgsz", "96"),
        ("dtype", "int8"),
        ("head", "one2many"),
        ("latency-ms", "3"),
        ("latency-ratio", "0.5"),
        ("memory-mib", "7"),
        ("params", "1000"),
        ("file-mib", "2"),
        ("floor", "person=0.9"),
        ("strategy", "2:4"),
        ("epochs", "0"),
        ("importance", "l1"),
        ("calibration-images", "16"),
        ("threads", "3"),
        ("seed", "9"),
    ];

    fn read(arguments: &[&str]) -> Result<Options, clap::Error> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        match parse("cargo xtask", &arguments)? {
            Request::Run(options) => Ok(*options),
            Request::Help => panic!("{arguments:?} asks for help"),
        }
    }

    #[test]
    fn every_flag_reaches_the_worker() {
        for (flag, value) in TYPED {
            let typed = format!("--{flag}={value}");
            assert_eq!(read(&["--target", "host", &typed]).unwrap().forwarded, [typed.as_str()]);
            let typed = format!("--{flag}");
            assert_eq!(read(&[&typed, value, "--target=host"]).unwrap().forwarded, [typed.as_str(), value]);
        }
        // Those that nobody knows, too: the worker refuses them.
        for typed in ["--modle=a.pt", "--skip-bad-images", "-x", "--", "plain"] {
            assert_eq!(read(&["--target", "host", typed]).unwrap().forwarded, [typed]);
        }
    }

    #[test]
    fn options_of_both_reach_both() {
        let typed = [
            "--epochs",
            "0",
            "--device=cuda:1",
            "--out=a b",
            "--message-format",
            "json",
            "--require-device",
            "--dry-run",
        ];
        let options =
            read(&[&typed[..], &["--target", "pi", "--build", "on-device", "--require-gpu"]].concat()).unwrap();
        assert_eq!(
            options.forwarded,
            ["--epochs", "0", "--device=cuda:1", "--message-format", "json", "--require-device"]
        );
        assert_eq!(
            (&options.targets[..], options.build, options.progress),
            (&["pi".to_owned()][..], Place::OnDevice, Progress::Json)
        );
        assert_eq!(options.out.as_deref(), Some(std::path::Path::new("a b")));
        let several = read(&["--target", "rpi5,jetson", "--target=host,rpi5"]).unwrap();
        assert_eq!(several.targets, ["rpi5", "jetson", "host"]);
        assert!(options.cuda && options.require_device && options.require_gpu && options.dry_run);
        let options = read(&["--target", "pi", "--sign", "a.key", "--password-file=b"]).unwrap();
        assert_eq!(options.forwarded, ["--sign", "a.key", "--password-file=b"]);
        assert_eq!(options.key, (Some("a.key".into()), Some("b".into())));
    }

    #[test]
    fn wrong_options_of_the_driver_are_refused_and_help_is_recognised() {
        for arguments in [&["--epochs", "3"][..], &["--target"], &["--target", "a", "--build", "there"]] {
            assert_eq!(read(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
        for arguments in [&["--help"][..], &["--target", "host", "-h"]] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert!(matches!(parse("cargo xtask", &arguments), Ok(Request::Help)));
        }
        let text = help("cargo secateurs");
        assert!(
            text.contains("Usage: cargo secateurs prune")
                && text.contains("--build")
                && !text.contains("--message-format"),
            "{text}"
        );
    }
}
