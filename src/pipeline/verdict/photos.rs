//! The validation images on which two detectors disagree most, with what they find drawn in.

use crate::eval::{Detected, Prepared};
use crate::model::Model;
use crate::pipeline::error::PipelineError;
use crate::pipeline::inputs::Inputs;
use crate::report::Photo;
use crate::vision::{Image, Xyxy, draw};

/// Images in a report.
const PHOTOS: usize = 4;

/// Detections count from this score on.
const CONFIDENT: f64 = 0.25;

/// Longer side and quality of the images in a report.
const SIDE: usize = 360;
const QUALITY: u8 = 65;

/// Overlap from which two detections of a class are the same object.
const SAME: f64 = 0.5;

/// Chooses and draws; nothing for networks that find no boxes.
pub fn photos(inputs: &Inputs, prepared: &Prepared, shipped: &Model) -> Result<Vec<Photo>, PipelineError> {
    let (baseline, val) = (&inputs.baseline.model, &inputs.data.val);
    if baseline.graph.head.boxes().is_none() {
        return Ok(Vec::new());
    }
    let find = |model: &Model| {
        let found = prepared.find(model, rayon::current_num_threads(), &|_| {});
        let mut by_image = vec![Vec::new(); val.items.len()];
        for one in found?.into_iter().filter(|f| f.score >= CONFIDENT) {
            by_image[one.image].push(one);
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
    let chosen = ranked.into_iter().filter(|(count, _)| *count > 0).take(PHOTOS);
    chosen
        .map(|(disagreement, image)| {
            let picture = &val.items[image].image;
            let original = picture.load()?;
            let draw =
                |found: &[Detected]| drawn(&original, found, &val.names).jpeg(QUALITY).map(|bytes| base64(&bytes));
            Ok(Photo {
                name: picture.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                disagreement,
                found_before: before[image].len(),
                found_after: after[image].len(),
                before: draw(&before[image]).map_err(PipelineError::Photo)?,
                after: draw(&after[image]).map_err(PipelineError::Photo)?,
            })
        })
        .collect()
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

fn drawn(original: &Image, found: &[Detected], names: &[String]) -> Image {
    let mut image = original.shrunk(SIDE);
    let scale = image.width() as f64 / original.width() as f64;
    for one in found {
        let [x, y, w, h] = one.bbox.0.map(|v| v * scale);
        let bbox = Xyxy([x, y, x + w, y + h].map(|v| v as f32));
        let name = names.get(one.class).map_or("?", String::as_str);
        draw::outline(&mut image, bbox, draw::colour(one.class));
        draw::caption(&mut image, bbox, &format!("{name} {:.2}", one.score), draw::colour(one.class));
    }
    image
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
