//! A small command line: a command, its arguments, and `--flags`.

use secateurs::engine::DeviceChoice;
use secateurs::kernels::Isa;
use secateurs::size::{ImageSize, ImageSizeError, MAX_BATCH};
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
    /// A window of frames for `cargo xtask prune`.
    Window,
    /// The layers of the networks of a file.
    Table(PathBuf),
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
    /// Whether there may be more threads than CPUs.
    pub force_threads: bool,
    pub imgsz: Option<ImageSize>,
    pub batch: usize,
    pub runs: usize,
    pub warmup: usize,
    pub score: f32,
    pub iou: f32,
    pub phases: bool,
    pub root: PathBuf,
    pub device: DeviceChoice,
    /// The instruction set of the CPU's kernels, if not the best.
    pub isa: Option<Isa>,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for Args {
    fn default() -> Self {
        Self {
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
            batch: 1,
            runs: 300,
            warmup: 20,
            score: 0.25,
            iou: 0.7,
            phases: false,
            root: "/".into(),
            device: DeviceChoice::Auto,
            isa: None,
        }
    }
}

/// Reads the command line, without the name of the program.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Args, Usage> {
    let mut args = Args::default();
    let mut plain: Vec<OsString> = Vec::new();
    let mut given: Vec<String> = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        if text == "--" {
            plain.extend(arguments.by_ref());
            break;
        }
        if !text.starts_with('-') || text == "-" {
            plain.push(argument);
            continue;
        }
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
            None => (text, None),
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(Args { command: Command::Help, ..args }),
            "--version" | "-V" => return Ok(Args { command: Command::Version, ..args }),
            _ => args.set(&name, attached, &mut arguments)?,
        }
        given.push(name);
    }
    let (command, own) = command(plain)?;
    let common = ["--json", "--threads", "--force-threads", "--imgsz", "--model", "--device"];
    let stray = given.iter().find(|name| !common.contains(&name.as_str()) && !own.contains(&name.as_str()));
    match stray {
        Some(name) if command != Command::Help => Err(Usage(format!("{name} does not belong to this command"))),
        _ => Ok(Args { command, ..args }),
    }
}

impl Args {
    /// Sets an option. Its value is `attached` with `=`, or the next argument.
    fn set(
        &mut self,
        name: &str,
        attached: Option<OsString>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Usage> {
        let is_switch = attached.is_none();
        let mut value =
            || attached.clone().or_else(|| rest.next()).ok_or_else(|| Usage(format!("{name} needs a value")));
        match name {
            "--json" if is_switch => self.json = true,
            "--pin" if is_switch => self.pin = true,
            "--profile" if is_switch => self.profile = true,
            "--force-threads" if is_switch => self.force_threads = true,
            "--phases" if is_switch => self.phases = true,
            "--root" => self.root = value()?.into(),
            "--device" => self.device = device(&value()?)?,
            "--isa" => self.isa = Some(isa(&value()?)?),
            "--model" => self.model = Some(value()?.into()),
            "--against" => self.against = Some(value()?.into()),
            "--save" => self.save = Some(value()?.into()),
            "--threads" => self.threads = number(name, &value()?, 1, 1024)?,
            "--imgsz" => self.imgsz = Some(size(name, &value()?)?),
            "--batch" => self.batch = number(name, &value()?, 1, MAX_BATCH)?,
            "--runs" => self.runs = number(name, &value()?, 1, 1_000_000)?,
            "--warmup" => self.warmup = number(name, &value()?, 0, 1_000_000)?,
            "--score" => self.score = share(name, &value()?)?,
            "--iou" => self.iou = share(name, &value()?)?,
            _ => return Err(Usage(format!("unknown option {name}"))),
        }
        Ok(())
    }
}

/// The command that the arguments without dashes name, and the options that it alone has.
fn command(plain: Vec<OsString>) -> Result<(Command, &'static [&'static str]), Usage> {
    let mut plain = plain.into_iter();
    let Some(command) = plain.next() else { return Err(Usage("no command".into())) };
    let rest: Vec<PathBuf> = plain.map(PathBuf::from).collect();
    Ok(match command.to_string_lossy().as_ref() {
        "detect" if rest.is_empty() => return Err(Usage("detect needs at least one image".into())),
        "detect" => (Command::Detect(rest), &["--save", "--score", "--iou"]),
        name @ ("bench" | "info" | "window" | "device") if !rest.is_empty() => {
            return Err(Usage(format!("{name} takes no `{}`", rest[0].display())));
        }
        "table" if rest.len() == 1 => (Command::Table(rest[0].clone()), &[]),
        "table" => return Err(Usage("table needs one file of networks".into())),
        "window" => (Command::Window, &["--runs", "--warmup", "--batch", "--against", "--phases", "--root", "--pin"]),
        "device" => (Command::Device, &["--root"]),
        "bench" => (Command::Bench, &["--runs", "--warmup", "--batch", "--against", "--profile", "--pin", "--isa"]),
        "info" => (Command::Info, &[]),
        "help" => (Command::Help, &[]),
        other => return Err(Usage(format!("unknown command `{other}`"))),
    })
}

fn number(name: &str, value: &OsString, least: usize, most: usize) -> Result<usize, Usage> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|n| (least..=most).contains(n));
    let value = value.to_string_lossy();
    number.ok_or_else(|| Usage(format!("{name} {value}: expected an integer from {least} to {most}")))
}

fn size(name: &str, value: &OsString) -> Result<ImageSize, Usage> {
    let text = value.to_string_lossy();
    text.parse().map_err(|problem: ImageSizeError| Usage(format!("{name} {text}: {problem}")))
}

fn isa(value: &OsString) -> Result<Isa, Usage> {
    let text = value.to_string_lossy();
    text.parse().map_err(|problem: String| Usage(format!("--isa {text}: {problem}")))
}

fn device(value: &OsString) -> Result<DeviceChoice, Usage> {
    let text = value.to_string_lossy();
    text.parse().map_err(|problem: String| Usage(format!("--device {text}: {problem}")))
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
        assert_eq!(read("bench --imgsz 384,640").unwrap().imgsz, Some([384, 640].into()));
        assert_eq!(read("detect -- --odd.jpg").unwrap().command, Command::Detect(vec!["--odd.jpg".into()]));
    }

    #[test]
    fn an_instruction_set_is_one_that_the_cpu_has() {
        assert_eq!(read("bench --isa portable").unwrap().isa, Some(Isa::Portable));
        let problem = read("bench --isa mmx").unwrap_err();
        assert!(problem.starts_with("--isa mmx: expected an instruction set of this CPU: "), "{problem}");
        assert!(problem.ends_with("portable"), "{problem}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("", "no command"),
            ("detect", "detect needs at least one image"),
            ("bench --runs", "--runs needs a value"),
            ("bench --runs 0", "--runs 0: expected an integer from 1 to 1000000"),
            (
                "bench --imgsz 384,",
                "--imgsz 384,: expected pixels from 1 to 4096: one side of a square, such as 640, or height and width, \
                 such as 384,640 or 384x640",
            ),
            ("bench --batch 65", "--batch 65: expected an integer from 1 to 64"),
            ("detect a.jpg --batch 2", "--batch does not belong to this command"),
            ("bench --save out", "--save does not belong to this command"),
            ("bench x", "bench takes no `x`"),
            ("detect a.jpg --score 2", "--score 2: expected a number from 0 to 1"),
            ("prune", "unknown command `prune`"),
            ("info --fast", "unknown option --fast"),
            ("info --device gpu", "--device gpu: expected auto, cpu, cuda, or cuda:N with a number from 0 to 1023"),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line).unwrap_err(), expected, "{line}");
        }
    }
}
