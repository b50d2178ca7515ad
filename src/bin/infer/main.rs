//! The inference binary: one model, embedded when it was built, and what it takes to run it.
//!
//! It is the lean runtime alone, so that it is small and starts fast.

mod args;

use args::{Args, Command, Usage};
use secateurs::bench::{self, BenchError};
use secateurs::board::{Board, State};
use secateurs::detection::{Detection, DetectionError};
use secateurs::detector::{DetectorError, Predictor, input_size};
use secateurs::engine::{self, EngineError, HAS_CUDA, OpenDevice};
use secateurs::files;
use secateurs::kernels::available;
use secateurs::model::{self, FileError, Model};
use secateurs::output;
use secateurs::size::ImageSize;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The model file that `SECATEURS_MODEL` named when this was built; empty without one.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model.safetensors"));

const HELP: &str = "\
Runs a pruned network: finds objects in images, and measures how fast it does.

Usage: secateurs-infer COMMAND

Commands:
  detect IMAGE...   Find objects in JPEG or PNG images, or name what a classifier sees; folders of images
                    work too
  bench             Measure the time per frame
  info              Show what the model is
  device            Show what the machine is, and its clocks, temperatures and load

  window            Time a window of frames and read the state of the machine, as JSON (for cargo xtask prune)
  table FILE        Time the layers of many networks, interleaved, as JSON (for cargo xtask prune)

Options:
  --json            One JSON object a line instead of text
  --threads N       Threads of the network, at most one for each CPU [default: 1]
  --force-threads   Start as many threads as --threads says, even if there are fewer CPUs
  --imgsz N|H,W     Side of the square input image, or its height and width, pixels [default: the model's own]
  --model FILE      A model file instead of the embedded model
  --device NAME     cpu; cuda or cuda:N, the first CUDA device or number N; auto: the first one if this binary
                    has code for it and it is there, else the CPU [default: auto]
  --help, --version

detect:
  --save DIR        Also save each image with its boxes drawn, in this folder
  --score X         Minimum score of a detection, 0 to 1 [default: 0.25]
  --iou X           Suppress boxes of a class whose IoU with a better one is larger, 0 to 1 [default: 0.7]

bench:
  --runs N          Frames that are timed [default: 300]
  --warmup N        Frames before the timed ones [default: 20]
  --batch N         Images of a frame, those of several cameras: times are those of the whole batch [default: 1]
  --against FILE    Interleave the frames with those of another model, and give the ratio of their times
  --pin             Bind each thread to a CPU
  --profile         Time every layer, and compare it with the measured peaks: FLOP/s, on a GPU bytes too
  --isa NAME        Instruction set of the CPU's kernels: avx512, avx2, neon or portable [default: the best there is]

window, as bench, and:
  --phases          Also time decoding, preparing and detecting in a photo

device, window:
  --root DIR        Read /proc and /sys below this folder [default: /]

Examples:
  secateurs-infer detect street.jpg --save out
  secateurs-infer bench --runs 1000 --json

Exit codes: 0 done, 1 internal error, 2 wrong usage, 7 the CUDA device cannot be used, 9 an input cannot be used,
10 this machine failed: disk, permission, memory.
";

/// Why it ended early.
enum Failure {
    Usage(Usage),
    Device(EngineError),
    Input(String),
    Machine(String),
    Output(io::Error),
    Internal(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Device(_) => 7,
            Self::Input(_) => 9,
            Self::Machine(_) | Self::Output(_) => 10,
            Self::Internal(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Usage(usage) => write!(f, "{usage}\n  help: secateurs-infer --help lists commands and options"),
            Self::Device(error) => write!(f, "{error}\n  help: --device cpu runs on the CPU"),
            Self::Input(problem) | Self::Machine(problem) | Self::Internal(problem) => f.write_str(problem),
            Self::Output(error) => write!(f, "{error}"),
        }
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

impl From<DetectionError> for Failure {
    fn from(error: DetectionError) -> Self {
        match error {
            DetectionError::Folder(problem) => Self::Usage(Usage(problem)),
            DetectionError::Unwritable(path, error) => Self::Machine(format!("{}: {error}", path.display())),
            DetectionError::Save(error) => Self::Machine(error.to_string()),
            DetectionError::Input(problem) => Self::Input(problem),
            DetectionError::Detector(error) => error.into(),
            DetectionError::Json(error) => error.into(),
        }
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
    let show = |failure: &Failure| output::message("", "error", &format!(": {failure}"));
    let done = done.inspect_err(show);
    // Where the work went wrong, that is what the code says.
    let done = done.and_then(|()| output::finish().map_err(Failure::Output).inspect_err(show));
    done.map_or_else(|failure| ExitCode::from(failure.code()), |()| ExitCode::SUCCESS)
}

/// Limits the threads to the CPUs: more only delay each other.
fn capped(args: Args) -> Args {
    let most = available();
    if args.threads <= most || args.force_threads {
        return args;
    }
    let asked = args.threads;
    let text = format!("--threads {asked}: there are {most} CPUs, {most} threads are used (--force-threads: {asked})");
    output::message("", "note", &format!(": {text}"));
    Args { threads: most, ..args }
}

fn run(args: Args) -> Result<(), Failure> {
    let args = capped(args);
    match &args.command {
        Command::Help => output::print(HELP),
        Command::Version => output::print(&format!("secateurs-infer {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Info => info(&args, &load(&args)?)?,
        Command::Bench => run_bench(&args, &load(&args)?)?,
        Command::Device => device(&args)?,
        Command::Window => run_window(&args, &load(&args)?)?,
        Command::Table(path) => run_table(&args, path)?,
        Command::Detect(images) => detect(&args, images)?,
    }
    Ok(())
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

/// Where networks run. With `--device auto` a CUDA device that cannot be used is reported, and the CPU runs them.
fn place(args: &Args) -> Result<OpenDevice, Failure> {
    let opened = args.device.open(0).map_err(|problem| Failure::Device(problem.into()))?;
    if let Some(problem) = opened.instead.as_ref().filter(|_| HAS_CUDA) {
        output::message("", "note", &format!(": {problem}; running on the CPU"));
    }
    Ok(opened)
}

fn imgsz(args: &Args, model: &Model) -> Result<ImageSize, Failure> {
    input_size(model, args.imgsz).map_err(|e| Failure::Usage(Usage(e.to_string())))
}

fn info(args: &Args, model: &Model) -> Result<(), Failure> {
    let size = imgsz(args, model)?;
    let cost = model.graph.cost(size.height, size.width).map_err(|e| Failure::Input(e.to_string()))?;
    let opened = place(args)?;
    let device = if opened.device.is_cuda() { format!("cuda: {}", opened.name) } else { opened.name };
    if args.json {
        let value = serde_json::json!({
            "names": model.info.names, "imgsz": size, "params": cost.params, "macs": cost.macs,
            "provenance": model.info.provenance, "device": device,
        });
        return Ok(output::print_json(&value)?);
    }
    let names: Vec<String> = model.info.names.iter().map(|name| output::line(name)).collect();
    let mut text = format!(
        "{} parameters, {:.3} G multiply-accumulates at {size} px\n{} classes: {}\n",
        cost.params,
        cost.macs as f64 / 1e9,
        model.graph.classes(),
        names.join(", ")
    );
    for (key, value) in &model.info.provenance {
        text += &format!("{}: {}\n", output::line(key), output::line(value));
    }
    output::print(&format!("{text}device: {device}\n"));
    Ok(())
}

fn device(args: &Args) -> Result<(), Failure> {
    let opened = place(args)?;
    let gpu = opened.device.is_cuda().then_some(opened.name);
    let (board, state) = (Board { gpu, ..Board::read(&args.root) }, State::read(&args.root));
    if args.json {
        return Ok(output::print_json(&serde_json::json!({ "board": board, "state": state }))?);
    }
    let mut text = format!("{}\n", board.fingerprint());
    if board.emulated {
        text += "emulated: times claim nothing\n";
    }
    if let Some(rails) = &board.rails {
        text += &format!("  power rails: {}\n", output::line(rails));
    }
    let facts = serde_json::to_value(&state)?;
    for (name, value) in facts.as_object().into_iter().flatten() {
        text += &format!("  {name}: {value}\n");
    }
    output::print(&text);
    Ok(())
}

fn options(args: &Args, model: &Model) -> Result<bench::Options, Failure> {
    let imgsz = imgsz(args, model)?;
    let device = place(args)?.device;
    let Args { threads, pin, warmup, runs, batch, isa, .. } = *args;
    Ok(bench::Options { imgsz, threads, pin, warmup, runs, device, isa, batch })
}

fn run_window(args: &Args, model: &Model) -> Result<(), Failure> {
    let other = args.against.as_ref().map(|path| model::load(path)).transpose()?;
    let window = bench::window(model, other.as_ref(), &options(args, model)?, args.phases, &args.root)?;
    Ok(output::print_json(&window)?)
}

/// The largest file of networks that is read.
const MAX_TABLE: u64 = 256 << 20;

fn run_table(args: &Args, path: &Path) -> Result<(), Failure> {
    let input = |problem: &dyn fmt::Display| Failure::Input(format!("{}: {problem}", path.display()));
    let bytes = files::read(path, MAX_TABLE).map_err(|e| input(&e))?;
    let spec: bench::TableSpec = serde_json::from_slice(&bytes).map_err(|e| input(&e))?;
    let times = bench::time_table(&spec, place(args)?.device).map_err(|e| input(&e))?;
    Ok(output::print_json(&times)?)
}

fn run_bench(args: &Args, model: &Model) -> Result<(), Failure> {
    let options = options(args, model)?;
    if args.profile {
        return show(&bench::profile(model, &options)?, args.json);
    }
    let measured = match &args.against {
        Some(path) => bench::measure_paired(model, &model::load(path)?, &options)?,
        None => bench::measure(model, &options)?,
    };
    show(&measured, args.json)
}

fn show(figures: &(impl serde::Serialize + fmt::Display), json: bool) -> Result<(), Failure> {
    if json {
        output::print_json(figures)?
    } else {
        output::print(&figures.to_string())
    }
    Ok(())
}

fn detect(args: &Args, images: &[PathBuf]) -> Result<(), Failure> {
    let detection = Detection::new(images, args.save.as_deref(), args.json)?;
    let model = load(args)?;
    let options = engine::Options { threads: args.threads, device: place(args)?.device, ..engine::Options::default() };
    let mut predictor = Predictor::new(&model, imgsz(args, &model)?, &options)?;
    predictor.set_thresholds(args.score, args.iou);
    Ok(detection.run(|path, image| predictor.find(path, image, &model))?)
}
