//! Minimum recall of single classes: how much of what the baseline network finds the pruned one must still find.
//!
//! A detector finds an object with a confidence of 0.25 and more and an IoU of 0.50 and more of the boxes, upright or
//! rotated; a classifier with its likeliest class. Plans are compared by it on calibration images; the verdict is about the
//! validation images, and about masks and keypoints where the network gives them.

use crate::eval::{self, RotatedPairs, Truth, coco};
use crate::graph::Head;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::job::MinRecall;
use crate::size::ImageSize;
use crate::train::Moved;
use crate::vision::{Extra, Gaussian, NmsOptions, Xywh, find};

/// Outputs of a network, image after image.
type Outputs = [Vec<Vec<f32>>];

/// Recall of every class on the calibration images from `first` on, by the outputs for them.
pub fn recall(inputs: &Inputs, first: usize, outputs: &Outputs) -> Vec<Option<f64>> {
    let classes = inputs.data.train.names.len();
    let head = &inputs.baseline.model.graph.head;
    let labels = |image: usize| inputs.calibration.labels(first + image);
    if let Head::Classify { .. } = head {
        let (mut right, mut all) = (vec![0usize; classes], vec![0usize; classes]);
        for (image, output) in outputs.iter().enumerate() {
            for class in labels(image).classes.iter().copied().filter(|class| *class < classes) {
                let likeliest = output[0].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
                all[class] += 1;
                right[class] += usize::from(likeliest == Some(class));
            }
        }
        return right.iter().zip(all).map(|(r, n)| (n > 0).then(|| *r as f64 / n as f64)).collect();
    }
    let ImageSize { height, width } = inputs.baseline.imgsz;
    let (mut truths, mut found) = (Vec::new(), Vec::new());
    // Of rotated boxes the boxes as they are turned.
    let (mut turned, mut found_turned, mut areas) = (Vec::new(), Vec::new(), Vec::new());
    for (image, output) in outputs.iter().enumerate() {
        let labels = labels(image);
        for (at, target) in labels.targets.iter().enumerate() {
            let bbox = target.bbox.to_pixels([width as f64, height as f64]);
            truths.push(Truth { image, class: target.class, bbox, area: bbox.area(), crowd: false });
            if let Moved::Angles(angles) = &labels.shapes {
                let Xywh([x, y, w, h]) = bbox;
                let centre = [x + w / 2.0, y + h / 2.0];
                turned.push(Gaussian::new(centre, [w, h], angles.get(at).copied().map_or(0.0, f64::from)));
            }
        }
        let output: Vec<&[f32]> = output.iter().map(Vec::as_slice).collect();
        for (d, extra) in find(head, inputs.baseline.size(), &output, &NmsOptions::default()) {
            found.push(eval::Detected { image, class: d.class, bbox: d.bbox.into(), score: f64::from(d.score) });
            if let Extra::Rotated(bbox) = extra {
                found_turned.push(bbox.gaussian());
                areas.push(f64::from(bbox.size[0]) * f64::from(bbox.size[1]));
            }
        }
    }
    match head.branch() {
        Head::Obb { .. } if turned.len() == truths.len() && found_turned.len() == found.len() => {
            let overlap = RotatedPairs { truths: &turned, found: &found_turned, areas: &areas };
            coco::class_recall_by(classes, &truths, &found, &overlap, 0.0)
        }
        _ => coco::class_recall(classes, &truths, &found, 0.0),
    }
}

/// By how much a network misses the minimum recalls, added up over the classes; 0 if it holds all. Classes that no image
/// shows, or that the baseline network does not find either, do not count.
pub fn missing(floors: &MinRecall, names: &[String], baseline: &[Option<f64>], other: &[Option<f64>]) -> f64 {
    let of_class = |(name, share): (&String, &f64)| {
        let class = names.iter().position(|known| known == name)?;
        Some((share * baseline[class]? - other[class]?).max(0.0))
    };
    floors.iter().filter_map(of_class).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_adds_up_over_the_classes_with_a_minimum() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let floors = MinRecall::from([("a".into(), 0.9), ("b".into(), 1.0)]);
        let baseline = [Some(0.5), Some(0.8), Some(1.0)];
        let lost = |a, b| missing(&floors, &names, &baseline, &[Some(a), Some(b), Some(0.0)]);
        assert_eq!(lost(0.45, 0.8), 0.0);
        assert!((lost(0.40, 0.9) - 0.05).abs() < 1e-12);
        assert!((lost(0.40, 0.7) - 0.15).abs() < 1e-12);
        assert_eq!(missing(&floors, &names, &[None, Some(0.0), None], &[None, Some(0.0), None]), 0.0);
    }
}
