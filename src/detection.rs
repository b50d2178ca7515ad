//! The loop over images of `detect`, for both binaries: reads each image, finds what is in it, prints that, and saves
//! the image with its boxes where asked for. An image that cannot be used is reported, and does not stop the others.

use crate::detector::pictures::{self, Listed, SaveNames};
use crate::detector::{DetectorError, Predictions};
use crate::output;
use crate::vision::{Image, ImageError};
use std::io;
use std::path::{Path, PathBuf};

/// Why it ended early.
pub enum DetectionError {
    /// The folder of `--save` cannot be used: another one must be named.
    Folder(String),
    /// The folder of `--save` cannot be written.
    Unwritable(PathBuf, io::Error),
    /// An image with its boxes cannot be saved.
    Save(ImageError),
    /// Images cannot be used.
    Input(String),
    /// The network cannot run.
    Detector(DetectorError),
    /// What was found cannot be put into JSON.
    Json(serde_json::Error),
}

/// Images, and what becomes of what is found in them.
pub struct Detection {
    listed: Listed,
    /// Names of the images with their boxes, by position; none where nothing is saved.
    names: Option<SaveNames>,
    json: bool,
}

impl Detection {
    /// Lists the images that arguments name, and checks the folder where they are saved with their boxes.
    ///
    /// # Errors
    /// If that folder cannot be written, or an image that is read would be replaced.
    pub fn new(images: &[PathBuf], save: Option<&Path>, json: bool) -> Result<Self, DetectionError> {
        let listed = pictures::list(images);
        listed.notes.iter().for_each(|note| output::message("", "note", &format!(": {note}")));
        let names = save.map(|folder| names(folder, &listed)).transpose()?;
        Ok(Self { listed, names, json })
    }

    /// Goes through the images. `find` gives what is in one.
    ///
    /// # Errors
    /// If `find` fails, an image cannot be saved, or an image cannot be used: at once where it is the only one, else
    /// after the others.
    pub fn run(
        self,
        mut find: impl FnMut(&Path, &Image) -> Result<Predictions, DetectorError>,
    ) -> Result<(), DetectionError> {
        let Self { listed, names, json } = self;
        let all = listed.images.len();
        let mut bad = 0;
        for (position, image) in listed.images.into_iter().enumerate() {
            // What only prints may stop where nobody reads on.
            if names.is_none() && output::is_closed() {
                break;
            }
            let (path, mut pixels) = match image.and_then(open) {
                Ok(opened) => opened,
                Err(problem) if all == 1 => return Err(DetectionError::Input(problem)),
                Err(problem) => {
                    output::message("", "error", &format!(": {problem}"));
                    bad += 1;
                    continue;
                }
            };
            let found = find(&path, &pixels).map_err(DetectionError::Detector)?;
            if let Some(names) = &names {
                let saved = found.save_as(&mut pixels, names.path(position), names.inputs());
                saved.map_err(DetectionError::Save)?;
            }
            if json {
                output::print_json(&found).map_err(DetectionError::Json)?;
            } else {
                output::print(&found.to_string());
            }
        }
        match bad {
            0 => Ok(()),
            bad => Err(DetectionError::Input(format!("{bad} of {all} images could not be used"))),
        }
    }
}

/// Reads an image; one that is cut off is used as far as it goes, with a warning.
fn open(path: PathBuf) -> Result<(PathBuf, Image), String> {
    let (pixels, cut_off) = Image::open_partial(&path).map_err(|error| error.to_string())?;
    if cut_off {
        output::message("", "warning", &format!(": {}", ImageError::CutOff { path: path.clone() }));
    }
    Ok((path, pixels))
}

/// Names for the images with their boxes, also for those that cannot be read.
fn names(folder: &Path, listed: &Listed) -> Result<SaveNames, DetectionError> {
    let images: Vec<&Path> = listed.paths().collect();
    SaveNames::new(folder, &images).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            DetectionError::Folder(format!("--save {}: {error}", folder.display()))
        }
        _ => DetectionError::Unwritable(folder.into(), error),
    })
}
