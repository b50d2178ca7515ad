//! The validation images on which two networks disagree most about objects, with what they find drawn in: boxes, upright
//! or rotated, masks and keypoints.

use crate::detector::{Detector, Labelled, Object};
use crate::engine::Options;
use crate::eval::{Detected, EvalError, Validator};
use crate::model::{Info, Model};
use crate::pipeline::error::PipelineError;
use crate::pipeline::inputs::Inputs;
use crate::report::Photo;
use crate::vision::{Image, NmsOptions};

/// Images in a report.
const PHOTOS: usize = 4;

/// Detections count from this score on.
const CONFIDENT: f64 = 0.25;

/// Longer side and quality of the images in a report.
const SIDE: usize = 360;
const QUALITY: u8 = 65;

/// Overlap from which two detections of a class are the same object.
const SAME: f64 = 0.5;

/// Chooses and draws; nothing for networks that find no objects.
pub fn photos(inputs: &Inputs, validator: &Validator, shipped: &Model) -> Result<Vec<Photo>, PipelineError> {
    let (baseline, val) = (&inputs.baseline.model, &inputs.data.val);
    if baseline.graph.head.boxes().is_none() {
        return Ok(Vec::new());
    }
    let find = |model: &Model| {
        let found = validator.find(model, rayon::current_num_threads(), &|_| {})?;
        let mut by_image = vec![Vec::new(); val.items.len()];
        for one in found.boxes().iter().filter(|f| f.score >= CONFIDENT) {
            by_image[one.image].push(*one);
        }
        Ok::<Vec<Vec<Detected>>, PipelineError>(by_image)
    };
    let (before, after) = (find(baseline)?, find(shipped)?);
    let mut ranked: Vec<(usize, usize)> = before
        .iter()
        .zip(&after)
        .map(|(a, b)| unshared(a, b) + unshared(b, a))
        .enumerate()
        .map(|(i, n)| (n, i))
        .collect();
    ranked.sort_by_key(|(count, image)| (std::cmp::Reverse(*count), *image));
    ranked.retain(|(count, _)| *count > 0);
    ranked.truncate(PHOTOS);
    if ranked.is_empty() {
        return Ok(Vec::new());
    }
    let mut pair = [Finder::new(baseline, inputs)?, Finder::new(shipped, inputs)?];
    let photo = |(disagreement, image): (usize, usize)| {
        let picture = &val.items[image].image;
        let original = picture.load()?;
        let [one, other] = &mut pair;
        let ((found_before, before), (found_after, after)) = (one.draw(&original)?, other.draw(&original)?);
        let name = picture.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Photo { name, disagreement, found_before, found_after, before, after })
    };
    ranked.into_iter().map(photo).collect()
}

/// A network that shows what it finds.
struct Finder {
    detector: Detector,
    info: Info,
}

impl Finder {
    fn new(model: &Model, inputs: &Inputs) -> Result<Self, PipelineError> {
        let made = Detector::new(model, inputs.baseline.imgsz, &Options::default());
        let mut detector = made.map_err(EvalError::from)?;
        detector.options = NmsOptions::EVALUATION;
        Ok(Self { detector, info: Info { names: inputs.data.val.names.clone(), ..Info::default() } })
    }

    /// The number of confident objects, and a small JPEG with them, base64.
    fn draw(&mut self, original: &Image) -> Result<(usize, String), PipelineError> {
        let found = self.detector.detect(original).map_err(EvalError::from)?;
        let sure = |object: &&Object| f64::from(object.detection.score) >= CONFIDENT;
        let found: Vec<Labelled> = found.iter().filter(sure).map(|object| Labelled::new(object, &self.info)).collect();
        let mut image = original.shrunk(SIDE);
        let scale = image.width() as f32 / original.width() as f32;
        found.iter().rev().for_each(|object| object.draw(&mut image, scale));
        Ok((found.len(), base64(&image.jpeg(QUALITY).map_err(PipelineError::Photo)?)))
    }
}

/// How many detections have no partner among the others, each partner taken once.
fn unshared(these: &[Detected], others: &[Detected]) -> usize {
    let mut taken = vec![false; others.len()];
    these
        .iter()
        .filter(|one| {
            let partner = (0..others.len())
                .find(|i| !taken[*i] && others[*i].class == one.class && one.bbox.iou(&others[*i].bbox, 0.0) >= SAME);
            partner.is_none_or(|i| std::mem::replace(&mut taken[i], true))
        })
        .count()
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let here = digit <= chunk.len();
            text.push(if here { DIGITS[(word >> (18 - 6 * digit) & 63) as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::Xywh;

    #[test]
    fn base64_is_as_the_standard_says() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn detections_pair_up_once() {
        let found = |class, x| Detected { image: 0, class, bbox: Xywh([x, 0.0, 10.0, 10.0]), score: 0.9 };
        let (a, b) = ([found(1, 0.0), found(1, 1.0), found(2, 50.0)], [found(1, 0.5), found(3, 50.0)]);
        assert_eq!((unshared(&a, &b), unshared(&b, &a)), (2, 1));
        assert_eq!(unshared(&a, &a), 0);
    }
}
