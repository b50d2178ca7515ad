//! Datasets in the layout of the YOLO tools: a `data.yaml`, folders or lists of images, one label file per image; and
//! classified pictures as MNIST has them.
//!
//! All of it is untrusted text. Nothing it names is executed or downloaded.

pub mod demo;
mod idx;
mod labels;
mod picture;
mod yaml;

pub use labels::Label;
pub use picture::{GreySet, Picture};

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
}

/// An image and its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its pixels.
    pub image: Picture,
    /// Objects in it; none on a background image. In a classified set one that fills it ([`Label::whole`]).
    pub labels: Vec<Label>,
}

impl Item {
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
    /// An IDX file or a folder of them is not a dataset.
    #[error("{path}: {problem}")]
    Idx {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A line of a label file or of a list of images is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What was found and what was expected.
        problem: String,
    },
    /// A split without a single image.
    #[error("{path}: split `{split}` has no images; looked for .jpg, .jpeg and .png in {looked}")]
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
    /// Reads one split (`train`, `val`, `test`) of the dataset that a YAML file describes, or that a folder of IDX files
    /// (MNIST) holds. A YAML file whose `path` is such a folder means it too.
    ///
    /// # Errors
    /// Names the file, and the line where there is one, that cannot be used.
    pub fn open(place: &Path, split: &str) -> Result<Self, DataError> {
        if place.is_dir() {
            return idx::open(place, split);
        }
        let description = yaml::read(place)?;
        if idx::is_here(&description.root) {
            let found = idx::open(&description.root, split)?;
            if found.names.len() != description.names.len() {
                let (named, classes) = (description.names.len(), found.names.len());
                let problem = format!("names {named} classes, the files in `path` have {classes}");
                return Err(DataError::Yaml { path: place.into(), problem });
            }
            return Ok(Self { names: description.names, ..found });
        }
        let images = description.images(split)?;
        let names = description.names;
        let item = |image: PathBuf| {
            let labels = labels::read(&labels::path_of(&image), names.len())?;
            Ok(Item { image: image.into(), labels })
        };
        let items = images.into_iter().map(item).collect::<Result<Vec<_>, DataError>>()?;
        let annotations =
            Some(description.root.join(format!("annotations/instances_{split}.json"))).filter(|p| p.is_file());
        Ok(Self { names, items, annotations })
    }
}
