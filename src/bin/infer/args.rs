//! A small command line: a command, its words, and `--flags`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Version,
    Info,
    Bench,
    Detect(Vec<PathBuf>),
    /// The machine.
    Device,
    /// A stretch of frames for `cargo xtask prune`.
    Window,
    /// The layers of the networks of a file.
    Table(PathBuf),
}

/// Where networks run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Choice {
    /// A CUDA device where there is one, else the processor.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// What the user typed, checked.
#[derive(Debug, PartialEq)]
pub struct Args {
    pub command: Command,
    pub model: Option<PathBuf>,
    pub against: Option<PathBuf>,
    pub save: Option<PathBuf>,
    pub json: bool,
    pub profile: bool,
    pub pin: bool,
    pub threads: usize,
    /// Whether there may be more threads than processors.
    pub force_threads: bool,
    pub imgsz: Option<usize>,
    pub runs: usize,
    pub warmup: usize,
    pub score: f32,
    pub iou: f32,
    pub phases: bool,
    pub root: PathBuf,
    pub device: Choice,
}

/// A command line that makes no sense.
#[derive(Debug, PartialEq)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the command line, without the name of the program.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, Usage> {
    let mut args = Args {
        command: Command::Help,
        model: None,
        against: None,
        save: None,
        json: false,
        profile: false,
        pin: false,
        threads: 1,
        force_threads: false,
        imgsz: None,
        runs: 300,
        warmup: 20,
        score: 0.25,
        iou: 0.7,
        phases: false,
        root: "/".into(),
        device: Choice::Auto,
    };
    let mut plain: Vec<OsString> = Vec::new();
    let mut given: Vec<String> = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        if text == "--" {
            plain.extend(words.by_ref());
            break;
        }
        if !text.starts_with('-') || text == "-" {
            plain.push(word);
            continue;
        }
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value = || {
            let value = attached.clone().or_else(|| words.next());
            value.ok_or_else(|| Usage(format!("{name} needs a value")))
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(Args { command: Command::Help, ..args }),
            "--version" | "-V" => return Ok(Args { command: Command::Version, ..args }),
            "--json" if attached.is_none() => args.json = true,
            "--pin" if attached.is_none() => args.pin = true,
            "--profile" if attached.is_none() => args.profile = true,
            "--force-threads" if attached.is_none() => args.force_threads = true,
            "--phases" if attached.is_none() => args.phases = true,
            "--root" => args.root = value()?.into(),
            "--device" => args.device = device(&value()?)?,
            "--model" => args.model = Some(value()?.into()),
            "--against" => args.against = Some(value()?.into()),
            "--save" => args.save = Some(value()?.into()),
            "--threads" => args.threads = number(&name, &value()?, 1, 1024)?,
            "--imgsz" => args.imgsz = Some(number(&name, &value()?, 1, 4096)?),
            "--runs" => args.runs = number(&name, &value()?, 1, 1_000_000)?,
            "--warmup" => args.warmup = number(&name, &value()?, 0, 1_000_000)?,
            "--score" => args.score = share(&name, &value()?)?,
            "--iou" => args.iou = share(&name, &value()?)?,
            _ => return Err(Usage(format!("unknown option {name}"))),
        }
        given.push(name);
    }
    let mut plain = plain.into_iter();
    let Some(command) = plain.next() else { return Err(Usage("no command".into())) };
    let rest: Vec<PathBuf> = plain.map(PathBuf::from).collect();
    let (command, own): (Command, &[&str]) = match command.to_string_lossy().as_ref() {
        "detect" if rest.is_empty() => return Err(Usage("detect needs at least one image".into())),
        "detect" => (Command::Detect(rest), &["--save", "--score", "--iou"]),
        name @ ("bench" | "info" | "window" | "device") if !rest.is_empty() => {
            return Err(Usage(format!("{name} takes no `{}`", rest[0].display())));
        }
        "table" if rest.len() == 1 => (Command::Table(rest[0].clone()), &[]),
        "table" => return Err(Usage("table needs one file of networks".into())),
        "window" => (Command::Window, &["--runs", "--warmup", "--against", "--phases", "--root", "--pin"]),
        "device" => (Command::Device, &["--root"]),
        "bench" => (Command::Bench, &["--runs", "--warmup", "--against", "--profile", "--pin"]),
        "info" => (Command::Info, &[]),
        "help" => (Command::Help, &[]),
        other => return Err(Usage(format!("unknown command `{other}`"))),
    };
    let common = ["--json", "--threads", "--force-threads", "--imgsz", "--model", "--device"];
    if args.profile && args.device == Choice::Cuda {
        return Err(Usage("--profile holds layers against the processor's peak: it needs --device cpu".into()));
    }
    let stray = given.iter().find(|name| !common.contains(&name.as_str()) && !own.contains(&name.as_str()));
    match stray {
        Some(name) if command != Command::Help => Err(Usage(format!("{name} does not belong to this command"))),
        _ => Ok(Args { command, ..args }),
    }
}

fn number(name: &str, value: &OsString, least: usize, most: usize) -> Result<usize, Usage> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|n| (least..=most).contains(n));
    let value = value.to_string_lossy();
    number.ok_or_else(|| Usage(format!("{name} {value}: expected a whole number from {least} to {most}")))
}

fn device(value: &OsString) -> Result<Choice, Usage> {
    match value.to_str() {
        Some("auto") => Ok(Choice::Auto),
        Some("cpu") => Ok(Choice::Cpu),
        Some("cuda") => Ok(Choice::Cuda),
        _ => Err(Usage(format!("--device {}: expected auto, cpu or cuda", value.to_string_lossy()))),
    }
}

fn share(name: &str, value: &OsString) -> Result<f32, Usage> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|n| (0.0..=1.0).contains(n));
    number.ok_or_else(|| Usage(format!("{name} {}: expected a number from 0 to 1", value.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_may_stand_anywhere() {
        let args = read("--json detect a.jpg --save=out b.png --score 0.5").unwrap();
        assert_eq!(args.command, Command::Detect(vec!["a.jpg".into(), "b.png".into()]));
        assert_eq!((args.json, args.save, args.score), (true, Some("out".into()), 0.5));
        let args = read("bench --runs 7 --against uncut.safetensors").unwrap();
        assert_eq!((args.command, args.runs, args.against), (Command::Bench, 7, Some("uncut.safetensors".into())));
        assert_eq!(read("detect -- --odd.jpg").unwrap().command, Command::Detect(vec!["--odd.jpg".into()]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases = [
            ("", "no command"),
            ("detect", "detect needs at least one image"),
            ("bench --runs", "--runs needs a value"),
            ("bench --runs 0", "--runs 0: expected a whole number from 1 to 1000000"),
            ("bench --save out", "--save does not belong to this command"),
            ("bench x", "bench takes no `x`"),
            ("detect a.jpg --score 2", "--score 2: expected a number from 0 to 1"),
            ("prune", "unknown command `prune`"),
            ("info --fast", "unknown option --fast"),
            ("info --device gpu", "--device gpu: expected auto, cpu or cuda"),
            (
                "bench --profile --device cuda",
                "--profile holds layers against the processor's peak: it needs --device cpu",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line).unwrap_err(), expected, "{line}");
        }
    }
}
