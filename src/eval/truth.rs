//! Ground truth from label files or from COCO annotations.

use super::error::EvalError;
use super::objects::Truth;
use crate::data::{Dataset, Item, Label};
use crate::files;
use crate::vision::{NormalisedXywh, Xywh};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// The largest annotation file that is read, bytes.
const MAX_FILE: u64 = 1 << 30;

/// Truth from the label files; `sides` are the images' widths and heights.
pub(super) fn labelled(dataset: &Dataset, sides: &[[usize; 2]]) -> Vec<Truth> {
    let of = |(image, (item, sides)): (usize, (&Item, &[usize; 2]))| {
        let truth = move |label: &Label| {
            let bbox = NormalisedXywh([label.cx, label.cy, label.w, label.h]).to_pixels(sides.map(|side| side as f64));
            Truth { image, class: label.class, bbox, area: bbox.area(), crowd: false }
        };
        item.labels.iter().map(truth).collect::<Vec<_>>()
    };
    dataset.items.iter().zip(sides).enumerate().flat_map(of).collect()
}

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoObject>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
struct CocoObject {
    image_id: i64,
    category_id: i64,
    bbox: Xywh,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
}

/// Truth from a COCO file: images by file name; categories by name where the dataset knows all their names, else in the
/// order of their ids.
pub(super) fn annotated(path: &Path, dataset: &Dataset) -> Result<Vec<Truth>, EvalError> {
    let fail = |problem: String| EvalError::Annotations { path: path.into(), problem };
    let bytes = files::read(path, MAX_FILE).map_err(|e| fail(e.to_string()))?;
    let mut coco: Coco = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
    coco.categories.sort_by_key(|c| c.id);
    let named = |category: &CocoCategory| dataset.names.iter().position(|name| *name == category.name);
    let by_name: Option<Vec<usize>> = coco.categories.iter().map(named).collect();
    let classes = match by_name {
        Some(classes) => classes,
        None if coco.categories.len() == dataset.names.len() => (0..dataset.names.len()).collect(),
        None => {
            let (found, expected) = (coco.categories.len(), dataset.names.len());
            return Err(fail(format!("has {found} categories with other names than the {expected} of the dataset")));
        }
    };
    let classes: HashMap<i64, usize> = coco.categories.iter().map(|c| c.id).zip(classes).collect();
    let place = |(place, item): (usize, &Item)| Some((item.image.path().file_name()?.to_str()?.to_owned(), place));
    let places: HashMap<String, usize> = dataset.items.iter().enumerate().filter_map(place).collect();
    let image = |i: &CocoImage| Some((i.id, *places.get(i.file_name.rsplit('/').next()?)?));
    let images: HashMap<i64, usize> = coco.images.iter().filter_map(image).collect();
    if images.len() < dataset.items.len() {
        let (found, expected) = (images.len(), dataset.items.len());
        return Err(fail(format!("knows {found} of the {expected} images; without the file the label files are used")));
    }
    let truth = |o: &CocoObject| {
        let (image, class) = (*images.get(&o.image_id)?, *classes.get(&o.category_id)?);
        let area = o.area.unwrap_or(o.bbox.area());
        Some(Truth { image, class, bbox: o.bbox, area, crowd: o.iscrowd != 0 })
    };
    Ok(coco.annotations.iter().filter_map(truth).collect())
}
