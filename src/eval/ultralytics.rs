//! Mean average precision by ultralytics' rules: no cap on detections, no size ranges, matches by best
//! overlap, and the area under the interpolated precision-recall curve by trapezoids over 101 points with sentinels at
//! both ends.

use super::objects::{Detected, Truth, thresholds};
use super::overlap::{Guarded, Overlap};
use std::collections::BTreeMap;

/// The figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Mean AP over thresholds and classes that have objects.
    pub map50_95: f64,
    /// Mean AP at 0.50.
    pub map50: f64,
    /// AP over all thresholds and at 0.50, by class with objects.
    pub per_class: BTreeMap<usize, (f64, f64)>,
}

/// Evaluates boxes; crowd regions are left out, as label files do not have them.
pub fn evaluate(truths: &[Truth], found: &[Detected]) -> Stats {
    evaluate_by(truths, found, &Guarded { truths, found })
}

/// Evaluates detections by another overlap than that of boxes.
pub fn evaluate_by(truths: &[Truth], found: &[Detected], overlap: &dyn Overlap) -> Stats {
    let mut objects: BTreeMap<usize, usize> = BTreeMap::new();
    truths.iter().filter(|t| !t.crowd).for_each(|t| *objects.entry(t.class).or_default() += 1);
    let right = matches(truths, found, overlap);
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| found[*b].score.total_cmp(&found[*a].score));
    let ap = |class: usize, objects: usize| {
        let mine: Vec<usize> = order.iter().copied().filter(|d| found[*d].class == class).collect();
        let at = |t: usize| average_precision(mine.iter().map(|d| right[*d][t]), objects);
        let all: Vec<f64> = (0..10).map(at).collect();
        (all.iter().sum::<f64>() / 10.0, all[0])
    };
    let per_class: BTreeMap<usize, (f64, f64)> =
        objects.into_iter().map(|(class, objects)| (class, ap(class, objects))).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| per_class.values().map(of).sum::<f64>() / per_class.len().max(1) as f64;
    Stats { map50_95: mean(|c| c.0), map50: mean(|c| c.1), per_class }
}

/// For every detection and threshold whether it is the one match of an object.
fn matches(truths: &[Truth], found: &[Detected], overlap: &dyn Overlap) -> Vec<[bool; 10]> {
    let mut right = vec![[false; 10]; found.len()];
    let mut images: BTreeMap<usize, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    let labelled = truths.iter().enumerate().filter(|(_, t)| !t.crowd);
    labelled.for_each(|(g, t)| images.entry(t.image).or_default().0.push(g));
    found.iter().enumerate().for_each(|(d, f)| images.entry(f.image).or_default().1.push(d));
    images.values_mut().for_each(|(_, mine)| mine.sort_by(|a, b| found[*b].score.total_cmp(&found[*a].score)));
    for (objects, detections) in images.values() {
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (rank, d) in detections.iter().enumerate() {
            for g in objects.iter().filter(|g| truths[**g].class == found[*d].class) {
                pairs.push((overlap.of(*d, *g), *g, rank));
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (t, threshold) in thresholds().into_iter().enumerate() {
            // Every detection bids for the object it overlaps most; of several bids the better score wins.
            let mut bids: BTreeMap<usize, usize> = BTreeMap::new();
            for (_, g, d) in pairs.iter().filter(|p| p.0 >= threshold) {
                bids.entry(*d).or_insert(*g);
            }
            let mut taken = Vec::new();
            for (d, g) in bids {
                if !taken.contains(&g) {
                    taken.push(g);
                    right[detections[d]][t] = true;
                }
            }
        }
    }
    right
}

fn average_precision(right: impl Iterator<Item = bool>, objects: usize) -> f64 {
    let (mut hits, mut seen) = (0.0, 0.0);
    let mut curve = vec![(0.0, 1.0)];
    for right in right {
        seen += 1.0;
        hits += f64::from(u8::from(right));
        curve.push((hits / (objects as f64 + 1e-16), hits / seen));
    }
    if curve.len() == 1 {
        return 0.0;
    }
    // Nothing is known beyond the recall that was reached.
    let reached = curve[curve.len() - 1].0;
    curve.extend([(reached, 0.0), (1.0, 0.0)]);
    for i in (1..curve.len()).rev() {
        curve[i - 1].1 = curve[i - 1].1.max(curve[i].1);
    }
    let values: Vec<f64> = (0..=100).map(|i| interpolate(&curve, f64::from(i) / 100.0)).collect();
    values.windows(2).map(|w| (w[0] + w[1]) / 2.0 / 100.0).sum()
}

/// Linear interpolation; at a repeated abscissa the last value counts.
fn interpolate(curve: &[(f64, f64)], x: f64) -> f64 {
    let above = curve.partition_point(|(at, _)| *at <= x);
    let (x0, y0) = curve[above.max(1) - 1];
    match curve.get(above) {
        Some((x1, y1)) if *x1 > x0 => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
        _ => y0,
    }
}
