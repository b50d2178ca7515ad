//! The COCO metric of boxes, masks and keypoints, from matching per image, class and size to interpolated precision.
//! What overlaps how much is an [`Overlap`]'s to say.
//!
//! Detections are matched greedily, best score first, each to the object it overlaps most that is still free; crowd
//! regions and objects outside the size range only absorb. Precision is read at 101 recalls. Equal scores keep the
//! order they came in.

use super::objects::{Detected, Truth, thresholds};
use super::overlap::{BoxPairs, Overlap};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Square pixels that bound the sizes: all, small, medium, large.
const RANGES: [(f64, f64); 4] = [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10)];

/// Detections per image and class that count.
const MAX_DETECTIONS: [usize; 3] = [1, 10, 100];

/// The same where keypoints are compared.
const MAX_POSES: usize = 20;

/// The figures. −1 where nothing of the kind exists.
#[derive(Clone, Debug, PartialEq)]
pub struct CocoStats {
    /// AP, AP50, AP75, AP small, medium, large; AR at 1, 10, 100 detections; AR small, medium, large.
    pub stats: [f64; 12],
    /// By class.
    pub per_class: Vec<ClassStats>,
}

/// Figures of one class, all sizes, 100 detections. −1 where the class has no object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassStats {
    /// AP over all thresholds.
    pub ap: f64,
    /// AP at 0.50.
    pub ap50: f64,
    /// AP at 0.75.
    pub ap75: f64,
    /// Average recall.
    pub ar100: f64,
}

/// The figures of keypoints. -1 where nothing of the kind exists; small objects have none.
#[derive(Clone, Debug, PartialEq)]
pub struct PoseStats {
    /// AP, AP50, AP75, AP medium, large; AR, AR50, AR75, AR medium, large.
    pub stats: [f64; 10],
    /// By class; the average recall is that of 20 detections.
    pub per_class: Vec<ClassStats>,
}

/// What is judged.
#[derive(Clone, Copy)]
struct Set<'a> {
    truths: &'a [Truth],
    found: &'a [Detected],
    overlap: &'a dyn Overlap,
    /// Detections per image and class that are looked at.
    most: usize,
}

/// Positions of objects and detections of a class, by image.
type ByImage = BTreeMap<usize, (Vec<usize>, Vec<usize>)>;

/// One image's matches for a class and a size range.
struct Matched {
    scores: Vec<f64>,
    /// By threshold, then detection: whether it hit something, and whether it counts neither way.
    hit: Vec<Vec<bool>>,
    ignored: Vec<Vec<bool>>,
    /// Objects that count.
    objects: usize,
}

/// Precision at 101 recalls by threshold, and the recall reached; `None` where no object counts.
struct Curve {
    precision: Vec<[f64; 101]>,
    recall: Vec<f64>,
}

/// For every class, its objects and detections by image.
fn by_class(classes: usize, set: &Set<'_>) -> Vec<ByImage> {
    let mut by_class: Vec<ByImage> = vec![BTreeMap::new(); classes];
    for (at, truth) in set.truths.iter().enumerate().filter(|(_, t)| t.class < classes) {
        by_class[truth.class].entry(truth.image).or_default().0.push(at);
    }
    for (at, one) in set.found.iter().enumerate().filter(|(_, f)| f.class < classes) {
        by_class[one.class].entry(one.image).or_default().1.push(at);
    }
    by_class
}

/// Detections matched once, to compute AP on many choices of images.
pub struct Matches {
    /// By class, then image.
    classes: Vec<BTreeMap<usize, Matched>>,
}

impl Matches {
    /// Matches all boxes.
    pub fn new(classes: usize, truths: &[Truth], found: &[Detected]) -> Self {
        Self::by(classes, truths, found, &BoxPairs { truths, found })
    }

    /// Matches all detections by another overlap than that of boxes.
    pub fn by(classes: usize, truths: &[Truth], found: &[Detected], overlap: &dyn Overlap) -> Self {
        Self::of(classes, &Set { truths, found, overlap, most: MAX_DETECTIONS[2] })
    }

    /// Matches all keypoints by their similarity.
    pub fn of_poses(classes: usize, truths: &[Truth], found: &[Detected], overlap: &dyn Overlap) -> Self {
        Self::of(classes, &Set { truths, found, overlap, most: MAX_POSES })
    }

    fn of(classes: usize, set: &Set<'_>) -> Self {
        let of_class = |images: &ByImage| {
            images.iter().map(|(image, (truths, found))| (*image, match_image(set, truths, found, RANGES[0]))).collect()
        };
        Self { classes: by_class(classes, set).par_iter().map(of_class).collect() }
    }

    /// AP over all thresholds on these images, each as often as it is named; −1 where none has an object.
    pub fn ap(&self, images: &[usize]) -> f64 {
        let curve = |class: &BTreeMap<usize, Matched>| {
            let chosen: Vec<&Matched> = images.iter().filter_map(|image| class.get(image)).collect();
            accumulate(&chosen, MAX_DETECTIONS[2])
        };
        let curves: Vec<Curve> = self.classes.iter().filter_map(curve).collect();
        precision(curves.iter(), None)
    }
}

/// Evaluates boxes. Images are told apart by number; classes from `classes` on are ignored.
pub fn evaluate(classes: usize, truths: &[Truth], found: &[Detected]) -> CocoStats {
    evaluate_by(classes, truths, found, &BoxPairs { truths, found })
}

/// Evaluates detections by another overlap than that of boxes; otherwise as [`evaluate`].
pub fn evaluate_by(classes: usize, truths: &[Truth], found: &[Detected], overlap: &dyn Overlap) -> CocoStats {
    let set = Set { truths, found, overlap, most: MAX_DETECTIONS[2] };
    summarise(&curves(classes, &set, &RANGES, &MAX_DETECTIONS))
}

/// Evaluates keypoints, by their similarity; otherwise as [`evaluate`].
pub fn evaluate_poses(classes: usize, truths: &[Truth], found: &[Detected], overlap: &dyn Overlap) -> PoseStats {
    let set = Set { truths, found, overlap, most: MAX_POSES };
    let curves = curves(classes, &set, &[RANGES[0], RANGES[2], RANGES[3]], &[MAX_POSES]);
    let all = |range: usize| curves.iter().filter_map(move |class| class[range][0].as_ref());
    let (at50, at75) = (Some(0), Some(5));
    let stats = [
        precision(all(0), None),
        precision(all(0), at50),
        precision(all(0), at75),
        precision(all(1), None),
        precision(all(2), None),
        recall(all(0), None),
        recall(all(0), at50),
        recall(all(0), at75),
        recall(all(1), None),
        recall(all(2), None),
    ];
    PoseStats { stats, per_class: curves.iter().map(|class| class_stats(class[0][0].as_ref())).collect() }
}

/// The curves `[class][range][most detections]`.
fn curves(classes: usize, set: &Set<'_>, ranges: &[(f64, f64)], most: &[usize]) -> Vec<Vec<Vec<Option<Curve>>>> {
    let of_class = |images: &ByImage| {
        let of_range = |range: &(f64, f64)| {
            let matched: Vec<Matched> =
                images.values().map(|(truths, found)| match_image(set, truths, found, *range)).collect();
            let matched: Vec<&Matched> = matched.iter().collect();
            most.iter().map(|most| accumulate(&matched, *most)).collect()
        };
        ranges.iter().map(of_range).collect()
    };
    by_class(classes, set).par_iter().map(of_class).collect()
}

/// Share of every class's objects that are found with a confidence of `least` and more, at IoU 0.50; none where a class
/// has no objects.
pub fn class_recall(classes: usize, truths: &[Truth], found: &[Detected], least: f64) -> Vec<Option<f64>> {
    class_recall_by(classes, truths, found, &BoxPairs { truths, found }, least)
}

/// As [`class_recall`], by another overlap than that of boxes.
pub fn class_recall_by(
    classes: usize,
    truths: &[Truth],
    found: &[Detected],
    overlap: &dyn Overlap,
    least: f64,
) -> Vec<Option<f64>> {
    let set = Set { truths, found, overlap, most: MAX_DETECTIONS[2] };
    let of_class = |images: &ByImage| {
        let (mut hits, mut objects) = (0, 0);
        for (truths, detected) in images.values() {
            let sure: Vec<usize> = detected.iter().copied().filter(|at| found[*at].score >= least).collect();
            let matched = match_image(&set, truths, &sure, RANGES[0]);
            hits += matched.hit[0].iter().zip(&matched.ignored[0]).filter(|(hit, ignored)| **hit && !**ignored).count();
            objects += matched.objects;
        }
        (objects > 0).then(|| hits as f64 / objects as f64)
    };
    by_class(classes, &set).iter().map(of_class).collect()
}

fn match_image(set: &Set<'_>, truths: &[usize], found: &[usize], (least, most): (f64, f64)) -> Matched {
    let outside = |area: f64| area < least || area > most;
    let ignores = |at: usize| set.truths[at].crowd || outside(set.truths[at].area) || set.overlap.ignores(at);
    let mut truths: Vec<(usize, bool)> = truths.iter().map(|at| (*at, ignores(*at))).collect();
    truths.sort_by_key(|(_, ignored)| *ignored);
    let mut found = found.to_vec();
    found.sort_by(|a, b| set.found[*b].score.total_cmp(&set.found[*a].score));
    found.truncate(set.most);
    let overlap = |f: &usize| truths.iter().map(|(t, _)| set.overlap.of(*f, *t)).collect();
    let overlaps: Vec<Vec<f64>> = found.iter().map(overlap).collect();
    let (mut hit, mut ignored) = (Vec::new(), Vec::new());
    for threshold in thresholds() {
        let mut taken = vec![false; truths.len()];
        let (mut hits, mut ignores) = (vec![false; found.len()], vec![false; found.len()]);
        for (d, one) in found.iter().enumerate() {
            let mut best = threshold.min(1.0 - 1e-10);
            let mut target = None;
            for (g, (truth, ignore)) in truths.iter().enumerate() {
                if taken[g] && !set.truths[*truth].crowd {
                    continue;
                }
                // Objects that count come first: once one is matched, ignored ones cannot take over.
                if *ignore && target.is_some_and(|t: usize| !truths[t].1) {
                    break;
                }
                if overlaps[d][g] >= best {
                    (best, target) = (overlaps[d][g], Some(g));
                }
            }
            match target {
                Some(g) => {
                    (hits[d], ignores[d]) = (true, truths[g].1);
                    taken[g] = true;
                }
                None => ignores[d] = outside(set.overlap.area(*one)),
            }
        }
        hit.push(hits);
        ignored.push(ignores);
    }
    let objects = truths.iter().filter(|(_, ignored)| !ignored).count();
    Matched { scores: found.iter().map(|f| set.found[*f].score).collect(), hit, ignored, objects }
}

fn accumulate(images: &[&Matched], most: usize) -> Option<Curve> {
    let objects: usize = images.iter().map(|m| m.objects).sum();
    if objects == 0 {
        return None;
    }
    let mut order: Vec<(f64, usize, usize)> = Vec::new();
    for (image, matched) in images.iter().enumerate() {
        order.extend(matched.scores.iter().take(most).enumerate().map(|(d, score)| (*score, image, d)));
    }
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut curve = Curve { precision: Vec::new(), recall: Vec::new() };
    for t in 0..thresholds().len() {
        let (mut right, mut wrong) = (0.0, 0.0);
        let mut points: Vec<(f64, f64)> = Vec::with_capacity(order.len());
        for (_, image, d) in &order {
            if !images[*image].ignored[t][*d] {
                if images[*image].hit[t][*d] {
                    right += 1.0;
                } else {
                    wrong += 1.0;
                }
            }
            points.push((right / objects as f64, right / (right + wrong + f64::EPSILON)));
        }
        for i in (1..points.len()).rev() {
            points[i - 1].1 = points[i - 1].1.max(points[i].1);
        }
        let at = |i: usize| {
            // Multiples of the rounded step, as the reference has them: recalls can lie right on one.
            let recall = if i == 100 { 1.0 } else { i as f64 * 0.01 };
            points.get(points.partition_point(|(r, _)| *r < recall)).map_or(0.0, |(_, precision)| *precision)
        };
        curve.precision.push(std::array::from_fn(at));
        curve.recall.push(points.last().map_or(0.0, |(recall, _)| *recall));
    }
    Some(curve)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    if count == 0 { -1.0 } else { sum / count as f64 }
}

fn precision<'a>(curves: impl Iterator<Item = &'a Curve> + Clone, threshold: Option<usize>) -> f64 {
    let rows = curves
        .flat_map(|c| c.precision.iter().enumerate())
        .filter(|(t, _)| threshold.is_none_or(|wanted| wanted == *t));
    mean(rows.flat_map(|(_, row)| row.iter().copied()))
}

fn recall<'a>(curves: impl Iterator<Item = &'a Curve>, threshold: Option<usize>) -> f64 {
    let values = curves.flat_map(|c| c.recall.iter().enumerate());
    mean(values.filter(|(t, _)| threshold.is_none_or(|wanted| wanted == *t)).map(|(_, recall)| *recall))
}

fn class_stats(curve: Option<&Curve>) -> ClassStats {
    let one = curve.into_iter();
    ClassStats {
        ap: precision(one.clone(), None),
        ap50: precision(one.clone(), Some(0)),
        ap75: precision(one.clone(), Some(5)),
        ar100: recall(one, None),
    }
}

fn summarise(curves: &[Vec<Vec<Option<Curve>>>]) -> CocoStats {
    let all = |range: usize, most: usize| curves.iter().filter_map(move |class| class[range][most].as_ref());
    let (at50, at75) = (Some(0), Some(5));
    let stats = [
        precision(all(0, 2), None),
        precision(all(0, 2), at50),
        precision(all(0, 2), at75),
        precision(all(1, 2), None),
        precision(all(2, 2), None),
        precision(all(3, 2), None),
        recall(all(0, 0), None),
        recall(all(0, 1), None),
        recall(all(0, 2), None),
        recall(all(1, 2), None),
        recall(all(2, 2), None),
        recall(all(3, 2), None),
    ];
    CocoStats { stats, per_class: curves.iter().map(|class| class_stats(class[0][2].as_ref())).collect() }
}
