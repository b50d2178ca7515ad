//! `secateurs export`: writes a model as safetensors or ONNX, and beside the ONNX file of an int8 model TensorRT's
//! calibration cache.

use super::failure::Failure;
use super::input::ModelArgs;
use crate::emit::onnx;
use crate::files::{self, Inputs};
use crate::model;
use crate::output;
use crate::quantise::symmetric;
use clap::ValueEnum;
use prost::Message;
use std::path::PathBuf;

/// The model, and the file to write.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Format of the file
    #[arg(long, value_name = "NAME")]
    format: Format,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Images of a batch in an ONNX file
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// Ranges around zero for an int8 model, as TensorRT takes them: the layers' inputs lose up to one of 8 bits
    #[arg(long)]
    symmetric: bool,
}

/// The formats.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Model file of secateurs: one safetensors file with the graph in its metadata
    Safetensors,
    /// ONNX with the decoding inside: output `[1, 4 + classes, cells]`, boxes as centre and size in pixels, then scores
    Onnx,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let inputs = Inputs::new([&args.model.model]);
    let fail = |e: std::io::Error| Failure::writing(&args.output, &e);
    files::check_writable(&args.output, &inputs).map_err(fail)?;
    let mut loaded = match args.format {
        Format::Safetensors => args.model.load()?,
        Format::Onnx => args.model.deployed()?,
    };
    if args.symmetric {
        loaded.info.ranges = symmetric(&loaded.info.ranges);
    }
    let bytes = match args.format {
        Format::Safetensors => model::to_bytes(&loaded).map_err(Failure::internal)?,
        Format::Onnx => {
            let size = args.model.imgsz(&loaded)?;
            let file = onnx::batch_file(&loaded, size, args.batch.into()).map_err(Failure::input)?;
            for problem in onnx::tensorrt::refused(&file) {
                output::message("", "warning", &format!(": TensorRT would refuse {problem}"));
            }
            file.encode_to_vec()
        }
    };
    files::write_except(&args.output, &bytes, &inputs).map_err(fail)?;
    // A pipe or a device has no place beside it.
    let beside = args.output.is_file() && matches!(args.format, Format::Onnx);
    match onnx::calibration_cache(&loaded).filter(|_| beside) {
        Some(cache) => {
            let path = args.output.with_extension("cache");
            files::write_except(&path, cache.as_bytes(), &inputs).map_err(|e| Failure::writing(&path, &e))
        }
        None => Ok(()),
    }
}
