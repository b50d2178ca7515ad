//! `secateurs detect`: what is in images.

use super::failure::Failure;
use super::input::{ModelArgs, ThreadArgs};
use crate::detection::{Detection, DetectionError};
use crate::detector::Predictor;
use crate::engine::Options;
use crate::profile::Ratio;
use crate::vision::ImageError;
use std::path::PathBuf;

/// The model, and the images to find objects in.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Images (JPEG, PNG, WebP, BMP or TIFF), folders of them, or patterns such as 'photos/*.jpg'
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Also save each image with its boxes drawn, in this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Minimum score of a detection, 0 to 1
    #[arg(long, value_name = "X", default_value = "0.25")]
    score: Ratio,
    /// Suppress boxes of a class whose IoU with a better one is larger, 0 to 1
    #[arg(long, value_name = "X", default_value = "0.7")]
    iou: Ratio,
    /// Print one JSON object per image and line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let detection = Detection::new(&args.images, args.save.as_deref(), args.json)?;
    let model = args.model.deployed()?;
    let options = Options { threads: args.threads.count(), ..Options::default() };
    let mut predictor = Predictor::new(&model, args.model.imgsz(&model)?, &options)?;
    predictor.set_thresholds(args.score.get() as f32, args.iou.get() as f32);
    Ok(detection.run(|path, image| predictor.find(path, image, &model))?)
}

impl From<DetectionError> for Failure {
    fn from(error: DetectionError) -> Self {
        match error {
            DetectionError::Folder(problem) => Self::Usage(problem),
            DetectionError::Unwritable(path, source) | DetectionError::Save(ImageError::Io { path, source }) => {
                Self::writing(&path, &source)
            }
            DetectionError::Save(error) => error.into(),
            DetectionError::Input(problem) => Self::Input(problem),
            DetectionError::Detector(error) => error.into(),
            DetectionError::Json(error) => error.into(),
        }
    }
}
