//! Datasets in the layout of the YOLO tools: a `data.yaml`, folders or lists of images, one label file per image with
//! boxes, outlines, keypoints or rotated boxes; and classified pictures, a folder per class or as MNIST has them.
//!
//! All of it is untrusted text. Nothing it names is executed or downloaded.

pub mod calibration;
mod compare;
mod content;
pub mod demo;
mod folders;
mod hold_out;
mod idx;
mod labels;
mod picture;
mod places;
mod shapes;
mod text;
mod yaml;

pub use compare::{names_differ, overlap};
pub use content::file_digest;
pub use labels::{BadLines, Label};
pub use picture::{GreySet, Picture};
pub use shapes::{KeypointShape, LabelKind, LabelTask, Shapes};

use crate::vision::ImageError;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// One split of a dataset.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Dataset {
    /// Class names in class order.
    pub names: Vec<String>,
    /// Images with their labels, ordered by path.
    pub items: Vec<Item>,
    /// A COCO annotation file for this split, where the dataset has one (`annotations/instances_<split>.json`): it
    /// knows crowd regions and areas, which label files do not.
    pub annotations: Option<PathBuf>,
    /// How its keypoints are shaped, where it has any.
    pub keypoints: Option<KeypointShape>,
    /// Channels that a network for it reads, where it says so: 3 (red, green, blue) or 1 (brightness).
    pub channels: Option<usize>,
    /// What the user should know about it, a line each: images without labels, files that were left out.
    pub notes: Vec<String>,
}

/// What is asked of a dataset beside its place and its split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// What the labels are for.
    pub labels: Need,
    /// The COCO annotation file, in place of the one that lies with the dataset.
    pub annotations: Option<PathBuf>,
    /// The task that the labels are for.
    pub task: LabelTask,
}

/// Whether a split without any label is of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// It is not: the split is there to train on or to judge by.
    #[default]
    Required,
    /// It is: only the images are looked at.
    Ignored,
}

/// An image and its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its pixels.
    pub image: Picture,
    /// Objects in it; none on a background image. In a classified set one that fills it ([`Label::whole`]).
    pub labels: Vec<Label>,
    /// What is labelled beside the boxes, for each of them.
    pub shapes: Shapes,
}

impl Item {
    /// A picture without an object.
    pub fn new(image: Picture) -> Self {
        Self { image, labels: Vec::new(), shapes: Shapes::None }
    }

    /// The class of the whole picture, where it has one.
    pub fn class(&self) -> Option<usize> {
        match &self.labels[..] {
            [label] if *label == Label::whole(label.class) => Some(label.class),
            _ => None,
        }
    }
}

/// A dataset that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The YAML file is not a dataset.
    #[error("{path}: {problem}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// An IDX file, or a folder of them or of classes, is not a dataset.
    #[error("{path}: {problem}")]
    Idx {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// Lines of label files are wrong.
    #[error("{0}")]
    Lines(BadLines),
    /// No image of a split has an object: what is trained on it learns nothing, and its mAP is undefined.
    #[error("{path}: {problem}; the label file of an image is looked for at {}", looked.display())]
    Unlabelled {
        /// The YAML file.
        path: PathBuf,
        /// How many images, and what is wrong with their label files.
        problem: String,
        /// The first label file that was looked for.
        looked: PathBuf,
    },
    /// A line of a list of images is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What was found and what was expected.
        problem: String,
    },
    /// No image of a split can be read.
    #[error("none of {images} images can be read; {first}")]
    Unreadable {
        /// How many images there are.
        images: usize,
        /// What is wrong with the first.
        first: ImageError,
    },
    /// A split without a single image.
    #[error("{path}: split `{split}` has no images; looked for {} in {looked}", places::endings_read())]
    Empty {
        /// The YAML file.
        path: PathBuf,
        /// The split.
        split: String,
        /// Where the images should have been.
        looked: String,
    },
}

impl Dataset {
    /// Reads one split (`train`, `val`, `test`; `valid` and `validation` are other names of `val`) of the dataset that
    /// a YAML file describes, or that a folder holds: IDX files (MNIST), or classified pictures (`train/CLASS/*.jpg`).
    /// A YAML file whose `path` is a folder of IDX files means it too.
    ///
    /// # Errors
    /// Names the file, and the line where there is one, that cannot be used.
    pub fn open(place: &Path, split: &str) -> Result<Self, DataError> {
        Self::open_with(place, split, &OpenOptions::default())
    }

    /// As [`Dataset::open`], with options.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_with(place: &Path, split: &str, options: &OpenOptions) -> Result<Self, DataError> {
        let split = yaml::canonical(split);
        if place.is_dir() {
            return if folders::is_here(place) { folders::open(place, split) } else { idx::open(place, split) };
        }
        let description = yaml::read(place)?;
        let channels = description.channels;
        if idx::is_here(&description.root) {
            let found = idx::open(&description.root, split)?;
            if found.names.len() != description.names.len() {
                let (named, classes) = (description.names.len(), found.names.len());
                let problem = format!("names {named} classes, the files in `path` have {classes}");
                return Err(DataError::Yaml { path: place.into(), problem });
            }
            return Ok(Self { names: description.names, channels, ..found });
        }
        let (images, mut notes) = description.images(split)?;
        let annotations = match &options.annotations {
            Some(given) => Some(given.clone()),
            None => description.annotations(split, &mut notes)?,
        };
        let kind = description.kind(options.task)?;
        let mut tally = labels::Tally::default();
        let mut items = Vec::with_capacity(images.len());
        for image in images {
            let (labels, shapes) = tally.read(&labels::path_of(&image), description.names.len(), kind)?;
            items.push(Item { image: image.into(), labels, shapes });
        }
        tally.check()?;
        // Annotations are the truth that is judged by; training knows label files only.
        let needed = options.labels == Need::Required && (annotations.is_none() || split == "train");
        if needed && items.iter().all(|item| item.labels.is_empty()) {
            let first = items.first().map_or(Path::new(""), |item| item.image.path());
            let looked = tally.looked.clone().unwrap_or_else(|| labels::path_of(first));
            let count = items.len();
            let problem = match tally.missing {
                missing if missing == count => format!("none of the {count} images of `{split}` has a label file"),
                0 => format!("the label files of the {count} images of `{split}` have no object in them"),
                missing => format!(
                    "{missing} of the {count} images of `{split}` have no label file, those of the others are empty"
                ),
            };
            return Err(DataError::Unlabelled { path: place.into(), problem, looked });
        }
        if options.labels == Need::Required {
            notes.extend(tally.notes(items.len()));
        }
        Ok(Self { names: description.names, items, annotations, keypoints: description.keypoints, channels, notes })
    }

    /// Decodes every image and leaves out those that cannot be read, with a note of how many and why.
    ///
    /// # Errors
    /// If none can be read.
    pub fn skip_unreadable(&mut self) -> Result<(), DataError> {
        let read = |item: &Item| item.image.load().err();
        let failed: Vec<Option<ImageError>> = self.items.par_iter().map(read).collect();
        let mut failures = failed.iter();
        let all = self.items.len();
        self.items.retain(|_| matches!(failures.next(), Some(None)));
        let Some(first) = failed.into_iter().flatten().next() else { return Ok(()) };
        let skipped = all - self.items.len();
        if self.items.is_empty() {
            return Err(DataError::Unreadable { images: all, first });
        }
        self.notes.push(format!("{skipped} of {all} images cannot be read and were left out; the first is {first}"));
        Ok(())
    }
}
