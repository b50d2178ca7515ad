//! The inference binary: one model, embedded when it was built, and what it takes to run it.
//!
//! It is the lean runtime alone, so that it stays small and starts fast.

mod args;

use args::{Args, Choice, Command, Usage};
use secateurs::bench::{self, BenchError};
use secateurs::board::{Board, State};
use secateurs::detector::{DetectorError, Finder, input_side};
use secateurs::engine::{self, Device, EngineError, HAS_CUDA, cuda_device};
use secateurs::files;
use secateurs::kernels::available;
use secateurs::model::{self, FileError, Model};
use secateurs::vision::{Image, ImageError};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The model file that `SECATEURS_MODEL` named when this was built; empty without one.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model.safetensors"));

const HELP: &str = "\
Runs a pruned network: finds objects in images, and measures how fast it does.

Usage: secateurs-infer COMMAND

Commands:
  detect IMAGE...   Find objects in JPEG or PNG images, or name what a classifier sees
  bench             Measure the time per frame
  info              Say what the model is
  device            Say what the machine is and what it is doing

  window            A stretch of frames and the machine meanwhile, as JSON (for cargo xtask prune)
  table FILE        The layers of many networks, timed in turn, as JSON (for cargo xtask prune)

Options:
  --json            One JSON object a line instead of text
  --threads N       Threads of the network, at most one for each processor [default: 1]
  --force-threads   More threads than processors, where --threads says so
  --imgsz N         Side of the square input image, pixels [default: the model's own]
  --model FILE      A model file instead of the embedded model
  --device NAME     cpu, cuda, or auto: CUDA where this binary has it and a device is there [default: auto]
  --help, --version

detect:
  --save DIR        Also save every image with its boxes drawn
  --score X         Least score of a detection, 0 to 1 [default: 0.25]
  --iou X           Boxes of a class that overlap more than this are one object [default: 0.7]

bench:
  --runs N          Frames on the clock [default: 300]
  --warmup N        Frames before the clock starts [default: 20]
  --against FILE    Run another model in turn with this one, and give the ratio of their times
  --pin             Keep every thread on a processor of its own
  --profile         Time every layer, and hold it against the machine's measured peak

window, as bench, and:
  --phases          Also time the way from a photo to its detections

device, window:
  --root DIR        Read /proc and /sys below this folder [default: /]

Examples:
  secateurs-infer detect street.jpg --save out
  secateurs-infer bench --runs 1000 --json

Exit codes: 0 done, 1 internal error, 2 wrong usage, 7 the CUDA device cannot be used, 9 an input cannot be used.
";

/// Why it ended early.
enum Failure {
    Usage(Usage),
    Device(EngineError),
    Input(String),
    Output(io::Error),
    Internal(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Device(_) => 7,
            Self::Input(_) => 9,
            Self::Output(_) | Self::Internal(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Usage(usage) => write!(f, "{usage}\n  help: secateurs-infer --help lists commands and options"),
            Self::Device(error) => write!(f, "{error}\n  help: --device cpu runs on the processor"),
            Self::Input(problem) | Self::Internal(problem) => f.write_str(problem),
            Self::Output(problem) => write!(f, "cannot write: {problem}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Input(error.to_string())
    }
}

impl From<DetectorError> for Failure {
    fn from(error: DetectorError) -> Self {
        match error {
            DetectorError::Engine(error @ EngineError::Cuda(_)) => Self::Device(error),
            _ => Self::Input(error.to_string()),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Input(error.to_string())
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Engine(error @ EngineError::Cuda(_)) => Self::Device(error),
            BenchError::Detector(error) => error.into(),
            _ => Self::Input(error.to_string()),
        }
    }
}

fn main() -> ExitCode {
    let done = args::parse(std::env::args_os().skip(1)).map_err(Failure::Usage).and_then(run);
    match done {
        // A reader that has seen enough (`| head`) is no error.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Threads beyond the processors only delay each other.
fn capped(args: Args) -> Args {
    let most = available();
    if args.threads <= most || args.force_threads {
        return args;
    }
    let asked = args.threads;
    eprintln!(
        "note: --threads {asked}: there are {most} processors, {most} threads are used (--force-threads: {asked})"
    );
    Args { threads: most, ..args }
}

fn run(args: Args) -> Result<(), Failure> {
    let args = capped(args);
    let mut out = io::stdout().lock();
    match &args.command {
        Command::Help => write!(out, "{HELP}")?,
        Command::Version => writeln!(out, "secateurs-infer {}", env!("CARGO_PKG_VERSION"))?,
        Command::Info => info(&args, &load(&args)?, &mut out)?,
        Command::Bench => run_bench(&args, &load(&args)?, &mut out)?,
        Command::Device => device(&args, &mut out)?,
        Command::Window => run_window(&args, &load(&args)?, &mut out)?,
        Command::Table(path) => run_table(&args, path, &mut out)?,
        Command::Detect(images) => detect(&args, &load(&args)?, images, &mut out)?,
    }
    Ok(out.flush()?)
}

fn load(args: &Args) -> Result<Model, Failure> {
    match &args.model {
        Some(path) => Ok(model::load(path)?),
        None if EMBEDDED.is_empty() => {
            Err(Failure::Input("this binary was built without a model: name one with --model FILE".into()))
        }
        None => Ok(model::from_bytes(Path::new("the embedded model"), EMBEDDED)?),
    }
}

/// Where networks run. A device that is only hoped for and cannot be used is told about, and the processor runs them.
fn place(args: &Args) -> Result<Device, Failure> {
    match args.device {
        Choice::Cpu => Ok(Device::Cpu),
        Choice::Cuda => cuda_device().map(|_| Device::Cuda).map_err(Failure::Device),
        Choice::Auto if !HAS_CUDA => Ok(Device::Cpu),
        Choice::Auto => Ok(cuda_device().map_or_else(
            |problem| {
                eprintln!("note: {problem}; running on the processor");
                Device::Cpu
            },
            |_| Device::Cuda,
        )),
    }
}

fn imgsz(args: &Args, model: &Model) -> Result<usize, Failure> {
    input_side(model, args.imgsz).map_err(|e| Failure::Usage(Usage(e.to_string())))
}

fn info(args: &Args, model: &Model, out: &mut dyn Write) -> Result<(), Failure> {
    let side = imgsz(args, model)?;
    let cost = model.graph.cost(side, side).map_err(|e| Failure::Input(e.to_string()))?;
    let device = match place(args)? {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda => format!("cuda: {}", cuda_device().map_err(Failure::Device)?),
    };
    if args.json {
        let value = serde_json::json!({
            "names": model.info.names, "imgsz": side, "params": cost.params, "macs": cost.macs,
            "provenance": model.info.provenance, "device": device,
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    let names = &model.info.names;
    writeln!(out, "{} parameters, {:.3} G multiply-accumulates at {side} px", cost.params, cost.macs as f64 / 1e9)?;
    writeln!(out, "{} classes: {}", model.graph.classes(), names.join(", "))?;
    for (key, value) in &model.info.provenance {
        writeln!(out, "{key}: {value}")?;
    }
    writeln!(out, "device: {device}")?;
    Ok(())
}

fn device(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let gpu = match place(args)? {
        Device::Cpu => None,
        Device::Cuda => Some(cuda_device().map_err(Failure::Device)?),
    };
    let (board, state) = (Board { gpu, ..Board::read(&args.root) }, State::read(&args.root));
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "board": board, "state": state }))?;
        return Ok(());
    }
    writeln!(out, "{}", board.fingerprint())?;
    if board.emulated {
        writeln!(out, "emulated: times mean nothing")?;
    }
    let facts = serde_json::to_value(&state)?;
    for (name, value) in facts.as_object().into_iter().flatten() {
        writeln!(out, "  {name}: {value}")?;
    }
    Ok(())
}

fn options(args: &Args, model: &Model) -> Result<bench::Options, Failure> {
    let imgsz = imgsz(args, model)?;
    // The layers of a profile are held against the processor's peak.
    let device = if args.profile { Device::Cpu } else { place(args)? };
    let Args { threads, pin, warmup, runs, .. } = *args;
    Ok(bench::Options { imgsz, threads, pin, warmup, runs, device })
}

fn run_window(args: &Args, model: &Model, out: &mut dyn Write) -> Result<(), Failure> {
    let other = args.against.as_ref().map(|path| model::load(path)).transpose()?;
    let window = bench::window(model, other.as_ref(), &options(args, model)?, args.phases, &args.root)?;
    serde_json::to_writer(&mut *out, &window)?;
    Ok(writeln!(out)?)
}

/// The largest file of networks that is read.
const MAX_TABLE: u64 = 256 << 20;

fn run_table(args: &Args, path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let input = |problem: &dyn fmt::Display| Failure::Input(format!("{}: {problem}", path.display()));
    let bytes = files::read(path, MAX_TABLE).map_err(|e| input(&e))?;
    let spec: bench::TableSpec = serde_json::from_slice(&bytes).map_err(|e| input(&e))?;
    let times = bench::time_table(&spec, place(args)?).map_err(|e| input(&e))?;
    serde_json::to_writer(&mut *out, &times)?;
    Ok(writeln!(out)?)
}

fn run_bench(args: &Args, model: &Model, out: &mut dyn Write) -> Result<(), Failure> {
    let options = options(args, model)?;
    if args.profile {
        let profile = bench::profile(model, &options)?;
        if args.json {
            serde_json::to_writer(&mut *out, &profile)?;
            writeln!(out)?;
        } else {
            write!(out, "{profile}")?;
        }
        return Ok(());
    }
    let measured = match &args.against {
        Some(path) => bench::versus(model, &model::load(path)?, &options)?,
        None => bench::measure(model, &options)?,
    };
    if args.json {
        serde_json::to_writer(&mut *out, &measured)?;
        writeln!(out)?;
    } else {
        write!(out, "{measured}")?;
    }
    Ok(())
}

fn detect(args: &Args, model: &Model, images: &[PathBuf], out: &mut dyn Write) -> Result<(), Failure> {
    let options = engine::Options { threads: args.threads, device: place(args)?, ..engine::Options::default() };
    let mut finder = Finder::new(model, imgsz(args, model)?, &options)?;
    finder.set_thresholds(args.score, args.iou);
    for path in images {
        let mut image = Image::open(path)?;
        let found = finder.find(path, &image, model)?;
        if let Some(folder) = &args.save {
            found.save(&mut image, folder).map_err(|e| Failure::Input(e.to_string()))?;
        }
        if args.json {
            serde_json::to_writer(&mut *out, &found)?;
            writeln!(out)?;
        } else {
            write!(out, "{found}")?;
        }
    }
    Ok(())
}
