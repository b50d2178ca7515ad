//! `secateurs detect`: what is in images.

use super::failure::Failure;
use super::input::{ModelArgs, ThreadArgs, warn};
use super::output;
use secateurs::detector::Predictor;
use secateurs::detector::pictures::{self, Listed, SaveNames};
use secateurs::engine::Options;
use secateurs::profile::Ratio;
use secateurs::vision::{Image, ImageError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where to look for what.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Images (JPEG, PNG, WebP, BMP or TIFF), folders of them, or patterns such as 'photos/*.jpg'
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
    let listed = pictures::list(&args.images);
    listed.notes.iter().for_each(|note| output::tell("", "note", &format!(": {note}")));
    let names = args.save.as_deref().map(|folder| names(folder, &listed)).transpose()?;
    let model = args.model.load()?;
    let options = Options { threads: args.threads.count(), ..Options::default() };
    let mut predictor = Predictor::new(&model, args.model.imgsz(&model)?, &options)?;
    predictor.set_thresholds(args.score.get() as f32, args.iou.get() as f32);
    let all = listed.images.len();
    let mut bad = 0;
    for (position, image) in listed.images.into_iter().enumerate() {
        // What only prints may stop where nobody reads on.
        if names.is_none() && output::is_closed() {
            break;
        }
        let opened = image.and_then(|path| match Image::open_partial(&path) {
            Ok((pixels, cut_off)) => {
                if cut_off {
                    warn([ImageError::CutOff { path: path.clone() }]);
                }
                Ok((path, pixels))
            }
            Err(error) => Err(error.to_string()),
        });
        match opened {
            Ok((path, mut pixels)) => {
                let found = predictor.find(&path, &pixels, &model)?;
                if let Some(names) = &names {
                    found.save_as(&mut pixels, names.path(position), names.inputs()).map_err(unsaved)?;
                }
                if args.json { output::print_json(&found)? } else { output::print(&found.to_string()) }
            }
            Err(problem) if all == 1 => return Err(Failure::Input(problem)),
            Err(problem) => {
                output::tell("", "error", &format!(": {problem}"));
                bad += 1;
            }
        }
    }
    if bad > 0 {
        return Err(Failure::Input(format!("{bad} of {all} images could not be used")));
    }
    Ok(())
}

/// Where the images with their boxes go, those that cannot be read included.
fn names(folder: &Path, listed: &Listed) -> Result<SaveNames, Failure> {
    let images: Vec<&Path> = listed.paths().collect();
    SaveNames::new(folder, &images).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            Failure::Usage(format!("--save {}: {error}", folder.display()))
        }
        _ => Failure::writing(folder, &error),
    })
}

fn unsaved(error: ImageError) -> Failure {
    match error {
        ImageError::Io { path, source } => Failure::writing(&path, &source),
        error => error.into(),
    }
}
