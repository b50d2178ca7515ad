//! `secateurs bench`: time per frame and peak memory on this machine.

use super::failure::Failure;
use super::input::{ModelArgs, ThreadArgs};
use crate::bench::{Options, measure, measure_paired, profile};
use crate::engine::Device;
use crate::kernels::Isa;
use crate::output;
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;

/// The model to measure, and for how many frames.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Frames that are timed
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Frames before the timed ones
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    warmup: u32,
    /// Interleave the frames with those of another model, and give the ratio of their times
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    against: Option<PathBuf>,
    /// Images of a frame, those of several cameras: all times are then those of the whole batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// Bind each thread to a CPU
    #[arg(long)]
    pin: bool,
    /// Time every layer, and compare it with the measured peak FLOP/s
    #[arg(long)]
    profile: bool,
    /// Instruction set of the kernels: avx512, avx2, neon or portable [default: the best that the CPU has]
    #[arg(long, value_name = "NAME")]
    isa: Option<Isa>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.deployed()?;
    let options = Options {
        imgsz: args.model.imgsz(&model)?,
        threads: args.threads.count(),
        pin: args.pin,
        warmup: args.warmup as usize,
        runs: args.runs as usize,
        device: Device::Cpu,
        isa: args.isa,
        batch: args.batch.into(),
    };
    if args.profile {
        let profile = profile(&model, &options)?;
        return show(&profile, args.json);
    }
    let measured = match &args.against {
        Some(path) => measure_paired(&model, &args.model.deployed_from(path)?, &options)?,
        None => measure(&model, &options)?,
    };
    show(&measured, args.json)
}

fn show(figures: &(impl Serialize + Display), json: bool) -> Result<(), Failure> {
    if json {
        output::print_json(figures)?
    } else {
        output::print(&figures.to_string())
    }
    Ok(())
}
