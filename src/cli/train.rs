//! `secateurs train`: trains a network of the zoo from scratch, or a model file further.

mod arch;

use super::device::DeviceArgs;
use super::failure::Failure;
use super::input::{figure, figures, task_figures};
use super::interrupt;
use super::terminal::{Terminal, TerminalArgs};
use super::together::together;
use crate::data::{Dataset, LabelTask, OpenOptions, demo, overlap};
use crate::detector::check_size;
use crate::engine::Device;
use crate::eval::Score;
use crate::files::{self, Inputs};
use crate::model::{self, Model};
use crate::pipeline::Event;
use crate::profile::{HoldOut, TogetherFlags};
use crate::ranks::Ranks;
use crate::size::ImageSize;
use crate::train::optim::Rule;
use crate::train::{Augment, FitConfig, FitEvent, Recipe, Record};
use crate::{eval, pipeline, train};
use arch::{Arch, Start};
use clap::ValueEnum;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// The network, and the images to train it on.
#[derive(clap::Args)]
pub struct Args {
    /// The network: a published name such as yolo26n, yolo11n-seg, yolo12s, yolov9c or yolov5nu; yolo11:DEPTH,WIDTH,MAX
    /// for other scales of that, also with -seg, -pose, -obb or -cls behind it; simple-cnn for MNIST; or a model file
    /// to train further, whose class branch is built anew where the data has other classes
    #[arg(long, value_name = "NAME|FILE")]
    arch: String,
    /// YAML file of the dataset, or a folder with one folder of pictures per class (train/CLASS/*.jpg) or MNIST's
    /// files; `demo` or `drawn:N` draws N pictures instead
    #[arg(long, value_name = "YAML|DIR")]
    data: String,
    /// Size of the input image, pixels: one side of a square, or height and width, such as 384,640 [default: the
    /// model's own, 160 for drawn pictures, 28 for simple-cnn, else 640]
    #[arg(long, value_name = "N|H,W")]
    imgsz: Option<ImageSize>,
    /// Epochs: passes over the training images
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: u32,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: u32,
    /// Highest learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    lr: f64,
    /// Optimizer
    #[arg(long, value_name = "NAME", default_value = "adamw")]
    optimizer: Optimizer,
    /// Epochs, from the first on, whose images are mosaics of four
    #[arg(long, value_name = "N", default_value_t = 0)]
    mosaic: u32,
    /// Images that choose the best epoch and are not trained on: a share of the training images, or a split of the
    /// dataset other than val; 0 takes the last epoch
    #[arg(long, value_name = "X|SPLIT", value_parser = HoldOut::parse, default_value = "0")]
    hold_out: HoldOut,
    /// End after so many epochs without a better one on the held-back images; 0 waits for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    patience: u32,
    /// Epochs in which the learning rate rises
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    warmup: f64,
    /// The first modules of the network that keep their weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    freeze: u32,
    /// Share of a classifier's target that all classes get in equal parts
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    label_smoothing: f64,
    /// Further threads that prepare images; 0 lets those do it that train
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: u16,
    /// Write event files for TensorBoard into this folder while training
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// L1 penalty on the scales of the normalisations, which drives those of unimportant channels to zero
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    sparsity: f64,
    /// Seed of the initial weights, of the order of the images and of their augmentation
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads; 0 takes one per CPU. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,
    /// Leave out images that cannot be read and report how many, instead of ending at the first
    #[arg(long)]
    skip_bad_images: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    together: TogetherFlags,
    /// Mixed precision: on a CUDA device tensors are in f16, sums, statistics and weights in f32
    #[arg(long)]
    amp: bool,
    /// The model file to write. During training, FILE.part is the checkpoint that an interrupted training resumes from
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// The optimizers.
#[derive(Clone, Copy, ValueEnum)]
enum Optimizer {
    /// Adam with decoupled weight decay
    Adamw,
    /// Stochastic gradient descent with Nesterov momentum
    Sgd,
}

/// Pictures of the drawn set where no number is given, and those to judge by.
const DRAWN: (usize, usize) = (2400, 300);

/// Runs it, on all ranks that were started.
pub fn run(args: &Args) -> Result<(), Failure> {
    together(args.terminal.is_json(), Some(&args.device), |ranks| run_on(ranks, args))
}

fn run_on(ranks: &Ranks, args: &Args) -> Result<(), Failure> {
    let mut terminal = Terminal::of_rank(args.terminal, ranks);
    let opened = args.device.open_first(ranks, &mut terminal)?;
    if args.amp && !opened.device.is_cuda() {
        return Err(Failure::Usage("--amp is for a CUDA device: give --device cuda".into()));
    }
    let device = train::Device::of(opened.device, args.amp);
    let arch = Arch::read(&args.arch)?;
    let (task, own) = (arch.labels(), arch.side());
    let inputs = Inputs::new([&args.arch, &args.data]);
    let part = part(&args.output);
    for path in [&args.output, &part].into_iter().filter(|_| ranks.is_first()) {
        let fail = |e: std::io::Error| Failure::writing(path, &e);
        files::check_writable(path, &inputs).map_err(fail)?;
    }
    let (data, drawn) = ranks.in_turn(|| data(args, task, &mut terminal))?;
    let open = |split: &str| {
        let options = OpenOptions { task, ..OpenOptions::default() };
        let mut set = Dataset::open_with(&data, split, &options).map_err(Failure::input)?;
        if args.skip_bad_images {
            set.skip_unreadable().map_err(Failure::input)?;
        }
        Ok::<_, Failure>(set)
    };
    let (train, val) = (open("train")?, open("val")?);
    let Start { model: mut start, renamed, told } = arch.start(&args.arch, &train, args.seed)?;
    for note in train.notes.iter().chain(&val.notes).chain(&overlap(&train, &val)).chain(&renamed) {
        terminal.note(&format!("warning: {note}"));
    }
    told.iter().for_each(|note| terminal.note(note));
    let size = size(args, &start, if drawn { demo::SIDE } else { own })?;
    start.info.imgsz = Some(size);
    let config = FitConfig { ranks: ranks.clone(), ..config(args, &start, size, part.clone()) };
    let names = start.info.names.clone();
    let (config, note) = recipe(args, &open)?.apply(config, &names);
    note.iter().for_each(|note| terminal.note(note));
    let images = train.items.len();
    let work = format!("{}: {} epochs over {images} images of {size} px", args.arch, args.epochs);
    let shared = if ranks.size() > 1 { format!(", on {} ranks", ranks.size()) } else { String::new() };
    terminal.stage("Training", &(work + &shared));
    let table = table(&args.output);
    let record = || {
        Record::new(table.clone(), args.tensorboard.as_deref())
            .map_err(|e| Failure::writing(args.tensorboard.as_deref().unwrap_or(&table), &e))
    };
    let mut record = ranks.is_first().then(record).transpose()?;
    let mut recorded = Ok(());
    let mut report = |event: FitEvent| {
        if let (Some(record), true) = (&mut record, recorded.is_ok()) {
            recorded = record.note(&event);
            if let Err(problem) = &recorded {
                terminal.note(&format!("warning: {}: {problem}; the epochs are not recorded", table.display()));
            }
        }
        if let FitEvent::Step { at, .. } = event {
            terminal.progress(at.epoch * at.steps + at.step + 1, at.epochs * at.steps);
        }
        event.message().iter().for_each(|text| terminal.note(text));
    };
    let mut trained = train::fit(&start, None, &train, &config, &device, &mut report)?;
    let facts = [
        ("secateurs", env!("CARGO_PKG_VERSION").to_owned()),
        ("arch", args.arch.clone()),
        ("data", args.data.clone()),
        ("epochs", args.epochs.to_string()),
        ("batch", args.batch.to_string()),
        ("lr", args.lr.to_string()),
        ("sparsity", args.sparsity.to_string()),
        ("seed", args.seed.to_string()),
    ];
    trained.info.provenance.extend(facts.map(|(key, value)| (key.to_owned(), value)));
    if ranks.is_first() {
        let bytes = model::to_bytes(&trained).map_err(Failure::internal)?;
        files::write_except(&args.output, &bytes, &inputs).map_err(|e| Failure::writing(&args.output, &e))?;
        // Only a finished training no longer needs its checkpoint.
        train::discard(&part);
    }
    evaluate((ranks, opened.device), (&args.output, &trained), &val, size, &mut terminal)
}

/// Size of the images.
fn size(args: &Args, start: &Model, usual: usize) -> Result<ImageSize, Failure> {
    let size = args.imgsz.or(start.info.imgsz).unwrap_or(ImageSize::square(usual));
    check_size(size, &start.graph).map_err(|e| Failure::Usage(e.to_string()))
}

fn config(args: &Args, start: &Model, imgsz: ImageSize, checkpoint: PathBuf) -> FitConfig {
    FitConfig {
        epochs: args.epochs as usize,
        batch: args.batch as usize,
        imgsz,
        lr: args.lr,
        optimizer: match args.optimizer {
            Optimizer::Adamw => Rule::ADAM_W,
            Optimizer::Sgd => Rule::Sgd { momentum: 0.937, nesterov: true },
        },
        sparsity: args.sparsity,
        augment: Augment::of(&start.graph),
        seed: args.seed,
        threads: args.threads.into(),
        checkpoint: Some(checkpoint),
        stop: interrupt::stop(),
        ..FitConfig::default()
    }
}

/// How the training varies images and chooses between epochs. `open` reads a split of the data.
fn recipe(args: &Args, open: &dyn Fn(&str) -> Result<Dataset, Failure>) -> Result<Recipe, Failure> {
    let (mosaics, epochs) = (args.mosaic as usize, args.epochs as usize);
    Ok(Recipe {
        mosaic: if mosaics > 0 { 1.0 } else { 0.0 },
        close_mosaic: epochs.saturating_sub(mosaics),
        warmup: args.warmup,
        freeze: args.freeze as usize,
        label_smoothing: args.label_smoothing,
        sync_batch_norm: args.together.sync_batch_norm,
        workers: args.workers.into(),
        hold_out: match &args.hold_out {
            HoldOut::Share(share) if share.get() > 0.0 => train::HoldOut::Share(share.get()),
            HoldOut::Share(_) => train::HoldOut::None,
            HoldOut::Split(name) => train::held_split(open(name)?)?,
        },
        patience: args.patience as usize,
        ..Recipe::default()
    })
}

/// Evaluates the trained model on the validation images, and shows the result.
fn evaluate(
    (ranks, device): (&Ranks, Device),
    (output, trained): (&Path, &Model),
    val: &Dataset,
    size: ImageSize,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    terminal.stage("Evaluating", &format!("{} images", val.items.len()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Of two branches the one that is deployed.
    let trained = &trained.deployed(None).map_err(Failure::internal)?;
    let validator = eval::Validator::shared(&trained.graph.head, val, size, ranks)?.on(device);
    let (text, found) = match validator.evaluate(trained, threads)? {
        Score::Classes(found) => (format!("  {:<12}{:.4}", "accuracy", found.accuracy), serde_json::to_value(found)?),
        Score::Shapes(found) => {
            let rows = [("boxes", found.boxes), (found.metric().judged(), Some(found.shapes))];
            let rows = rows.into_iter().filter_map(|(of, row)| Some((of, row?)));
            let row = |(of, row): (&str, eval::Figures)| {
                format!("  {of:<14}mAP50-95 {}, mAP50 {}", figure(row.map50_95), figure(row.map50))
            };
            (rows.map(row).collect::<Vec<_>>().join("\n"), task_figures(&found)?)
        }
        Score::Boxes(found) => {
            let (strict, loose) = (figure(found.map50_95), figure(found.map50));
            let text = format!("  {:<12}{strict}\n  {:<12}{loose}", "mAP50-95", "mAP50");
            (text, figures(&found)?)
        }
    };
    let value = serde_json::json!({ "reason": "trained", "output": output.to_string_lossy(), "val": found });
    terminal.result(&text, value);
    Ok(())
}

/// The dataset, and whether it is a drawn one.
fn data(args: &Args, task: LabelTask, terminal: &mut Terminal) -> Result<(PathBuf, bool), Failure> {
    let count = match demo::named(&args.data, DRAWN.0) {
        Some(count) => count.map_err(|e| Failure::Usage(format!("--data {e}")))?,
        None => return Ok((PathBuf::from(&args.data), false)),
    };
    terminal.stage("Drawing", &format!("{count} pictures to train on, {} to judge by", DRAWN.1));
    let folder = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let progress = RefCell::new(|event| {
        if let Event::Message(text) = event {
            terminal.note(&text);
        }
    });
    Ok((pipeline::drawn_for(task, &folder.join(".cache"), (count, DRAWN.1), &progress)?, true))
}

/// The checkpoint that an interrupted training resumes from.
fn part(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// The table of the epochs.
fn table(output: &Path) -> PathBuf {
    output.with_extension("results.csv")
}
