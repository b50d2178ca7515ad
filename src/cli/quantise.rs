//! `secateurs quantise`: quantizes a model to int8 or f16.

use super::failure::Failure;
use super::input::{ModelArgs, warn};
use super::terminal;
use crate::data::{Dataset, LabelTask, Need, OpenOptions};
use crate::files::{self, Inputs};
use crate::graph::Dtype;
use crate::model::{self, Model};
use crate::quantise::{quantise, ranges, to_f16};
use crate::vision::Preprocess;
use std::path::{Path, PathBuf};

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
    /// Split of the dataset
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,
    /// Images to measure the ranges on, evenly spread over the split
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    images: u16,
    /// The model file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let data = args.data.as_deref();
    let data = match Dtype::from_name(&args.dtype) {
        Some(Dtype::Int8) => Some(data.ok_or_else(|| {
            Failure::Usage("int8 needs images: name their dataset with --data data.yaml (f16 needs none)".into())
        })?),
        _ => None,
    };
    let inputs = Inputs::new(std::iter::once(&args.model.model).chain(&args.data));
    let fail = |e: std::io::Error| Failure::writing(&args.output, &e);
    files::check_writable(&args.output, &inputs).map_err(fail)?;
    let model = args.model.load()?;
    let side = args.model.imgsz(&model)?;
    let mut quantized = match data {
        Some(data) => {
            let images = images(args, data, &model, side)?;
            let bar = terminal::bar("Calibrating");
            bar.set_length(images.len() as u64);
            let found = ranges(&model, &images, (side, side), &mut |done, _| bar.set_position(done as u64));
            bar.finish_and_clear();
            quantise(&model, &found.map_err(Failure::input)?)
        }
        None => to_f16(&model),
    };
    quantized.info.imgsz = Some(side);
    let bytes = model::to_bytes(&quantized).map_err(Failure::internal)?;
    files::write_except(&args.output, &bytes, &inputs).map_err(fail)
}

/// Images as the network reads them.
fn images(args: &Args, data: &Path, model: &Model, side: usize) -> Result<Vec<Vec<f32>>, Failure> {
    let task = LabelTask::named(model.graph.head.task());
    let options = OpenOptions { labels: Need::Ignored, task, ..OpenOptions::default() };
    let dataset = Dataset::open_with(data, &args.split, &options).map_err(Failure::input)?;
    warn(&dataset.notes);
    let step = (dataset.items.len() / usize::from(args.images)).max(1);
    let preprocess = Preprocess::new(model).map_err(Failure::input)?;
    let load = |item: &crate::data::Item| {
        let image = item.image.load().map_err(Failure::input)?;
        let mut tensor = vec![0.0; preprocess.channels() * side * side];
        preprocess.write(&image, side, &mut tensor);
        Ok(tensor)
    };
    dataset.items.iter().step_by(step).take(args.images.into()).map(load).collect()
}
