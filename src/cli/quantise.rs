//! `secateurs quantise`: quantizes a model to int8 or f16.

use super::device::DeviceArgs;
use super::failure::Failure;
use super::input::{ModelArgs, using, warn};
use super::terminal;
use super::together::together;
use crate::data::{Dataset, LabelTask, Need, OpenOptions};
use crate::engine::Device;
use crate::files::{self, Inputs};
use crate::graph::Dtype;
use crate::model::{self, Model};
use crate::output;
use crate::pipeline::{Event, Int8Options, MAX_DROP, to_int8};
use crate::quantise::{RangeMethod, to_f16};
use crate::ranks::Ranks;
use crate::size::ImageSize;
use indicatif::ProgressBar;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of all calibration methods together.
const BEST: &str = "best";

/// The model to quantize, and the images that give the ranges of its layers' inputs.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Data type of weights and inputs
    #[arg(long, value_name = "NAME", default_value = "int8", value_parser = ["int8", "f16"])]
    dtype: String,
    /// YAML file of the dataset, in the format of ultralytics: its images give the ranges of the layers' inputs (int8
    /// needs it)
    #[arg(long, value_name = "YAML")]
    data: Option<PathBuf>,
    /// Split of the dataset; other images of it than those that give the ranges are held back, to choose by
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,
    /// Images to measure the ranges on, evenly spread over the split
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    images: u16,
    /// How the ranges follow from the images; `best` compares all on images that were held back
    #[arg(long, value_name = "NAME", default_value = BEST,
          value_parser = [BEST, "min-max", "percentile", "entropy", "mse"])]
    calibration: String,
    /// Ranges around zero, as TensorRT takes them: the layers' inputs lose up to one of 8 bits
    #[arg(long)]
    symmetric: bool,
    /// The most mAP50-95 (accuracy of a classifier) that int8 may lose on held-back images; the layers that lose most
    /// stay in f16 or f32
    #[arg(long, value_name = "DROP", default_value_t = MAX_DROP, value_parser = share)]
    max_map_drop: f64,
    #[command(flatten)]
    device: DeviceArgs,
    /// The model file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn share(text: &str) -> Result<f64, String> {
    let drop = text.parse().ok().filter(|drop| (0.0..=1.0).contains(drop));
    drop.ok_or_else(|| format!("is `{text}`, expected a number from 0 to 1"))
}

/// Runs it, on all ranks that were started.
pub fn run(args: &Args) -> Result<(), Failure> {
    together(false, |ranks| run_on(ranks, args))
}

fn run_on(ranks: &Ranks, args: &Args) -> Result<(), Failure> {
    let data = args.data.as_deref();
    let data = match Dtype::from_name(&args.dtype) {
        Some(Dtype::Int8) => Some(data.ok_or_else(|| {
            Failure::Usage("int8 needs images: name their dataset with --data data.yaml (f16 needs none)".into())
        })?),
        _ => None,
    };
    let inputs = Inputs::new(std::iter::once(&args.model.model).chain(&args.data));
    let fail = |e: std::io::Error| Failure::writing(&args.output, &e);
    if ranks.is_first() {
        files::check_writable(&args.output, &inputs).map_err(fail)?;
    }
    let opened = args.device.open(&mut |what| using(what, ranks))?;
    let model = args.model.load()?;
    let size = args.model.imgsz(&model)?;
    let mut quantized = match data {
        Some(data) => int8((ranks, opened.device), (args, data), &model, size)?,
        None => to_f16(&model),
    };
    quantized.info.imgsz = Some(size);
    if !ranks.is_first() {
        return Ok(());
    }
    let bytes = model::to_bytes(&quantized).map_err(Failure::internal)?;
    files::write_except(&args.output, &bytes, &inputs).map_err(fail)
}

/// The model in int8.
fn int8(
    (ranks, device): (&Ranks, Device),
    (args, data): (&Args, &Path),
    model: &Model,
    size: ImageSize,
) -> Result<Model, Failure> {
    let task = LabelTask::named(model.graph.head.task());
    let options = OpenOptions { labels: Need::Ignored, task, ..OpenOptions::default() };
    let dataset = Dataset::open_with(data, &args.split, &options).map_err(Failure::input)?;
    if ranks.is_first() {
        warn(&dataset.notes);
    }
    let methods: Vec<RangeMethod> = match RangeMethod::from_name(&args.calibration) {
        Some(method) => vec![method],
        None => RangeMethod::ALL.map(|(_, method)| method).to_vec(),
    };
    let options = Int8Options {
        methods: &methods,
        symmetric: args.symmetric,
        images: args.images.into(),
        max_drop: args.max_map_drop,
        baseline: None,
        lost_ms: BTreeMap::new(),
        device,
        ranks: ranks.clone(),
    };
    let bar = if ranks.is_first() { terminal::bar("Calibrating") } else { ProgressBar::hidden() };
    let progress = RefCell::new(|event: Event| match event {
        Event::Stage(verb, _) => bar.set_prefix(verb),
        Event::Progress(done, all) => {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
        Event::Message(_) if !ranks.is_first() => {}
        Event::Message(text) => bar.suspend(|| output::message("", "note", &format!(": {text}"))),
    });
    let done = to_int8(model, &dataset, size, &options, &progress);
    bar.finish_and_clear();
    Ok(done?.model)
}
