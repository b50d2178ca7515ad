//! `secateurs detect`: what is in images.

use super::failure::Failure;
use super::input::{ModelArgs, ThreadArgs};
use secateurs::detector::Finder;
use secateurs::engine::Options;
use secateurs::profile::Ratio;
use secateurs::vision::Image;
use std::io::{self, Write};
use std::path::PathBuf;

/// Where to look for what.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// JPEG or PNG files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Also save every image with its boxes drawn
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Least score of a detection, 0 to 1
    #[arg(long, value_name = "X", default_value = "0.25")]
    score: Ratio,
    /// Boxes of a class that overlap more than this are one object
    #[arg(long, value_name = "X", default_value = "0.7")]
    iou: Ratio,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.load()?;
    let options = Options { threads: args.threads.count(), ..Options::default() };
    let mut finder = Finder::new(&model, args.model.imgsz(&model)?, &options)?;
    finder.set_thresholds(args.score.get() as f32, args.iou.get() as f32);
    let mut out = io::stdout().lock();
    for path in &args.images {
        let mut image = Image::open(path)?;
        let found = finder.find(path, &image, &model)?;
        if let Some(folder) = &args.save {
            found.save(&mut image, folder)?;
        }
        if args.json {
            serde_json::to_writer(&mut out, &found)?;
            writeln!(out)?;
        } else {
            write!(out, "{found}")?;
        }
    }
    Ok(out.flush()?)
}
