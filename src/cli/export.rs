//! `secateurs export`: writes a model as safetensors or ONNX.

use super::failure::Failure;
use super::input::ModelArgs;
use crate::emit::onnx;
use crate::files::{self, Inputs};
use crate::model;
use crate::output;
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
    let bytes = match args.format {
        Format::Safetensors => model::to_bytes(&args.model.load()?).map_err(Failure::internal)?,
        Format::Onnx => {
            let loaded = args.model.deployed()?;
            let side = args.model.imgsz(&loaded)?;
            let file = onnx::file(&loaded, side, side).map_err(Failure::input)?;
            for problem in onnx::tensorrt::refused(&file) {
                output::message("", "warning", &format!(": TensorRT would refuse {problem}"));
            }
            file.encode_to_vec()
        }
    };
    files::write_except(&args.output, &bytes, &inputs).map_err(fail)
}
