//! The metrics of masks, keypoints and rotated boxes against every golden file, figure by figure.

use crate::support;
use secateurs::eval::{Detected, MaskPairs, Overlap, PoseArea, PosePairs, Rle, RotatedPairs, Truth, coco, ultralytics};
use secateurs::vision::{Gaussian, Rotated, Xywh};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// All golden suites of a kind.
fn suites(kind: &str) -> Vec<(String, Value)> {
    let Some(folder) = support::data("golden/eval") else { return vec![] };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let name = |path: &std::path::Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.retain(|path| name(path).starts_with(kind) && name(path) != "obb-labels");
    assert!(paths.len() >= 2, "{kind}: {paths:?}");
    paths.iter().map(|p| (name(p), serde_json::from_slice(&std::fs::read(p).unwrap()).unwrap())).collect()
}

/// Objects and detections of a suite, with classes and images numbered in the order of their ids.
struct Suite {
    name: String,
    golden: Value,
    classes: BTreeMap<i64, usize>,
    /// Width and height of every image.
    sizes: Vec<[usize; 2]>,
    truths: Vec<Truth>,
    found: Vec<Detected>,
}

impl Suite {
    fn new((name, golden): (String, Value)) -> Self {
        let list = |key: &str| golden[key].as_array().unwrap().clone();
        let images: BTreeMap<i64, [usize; 2]> = list("images")
            .iter()
            .map(|i| (i[0].as_i64().unwrap(), [1, 2].map(|k| i[k].as_u64().unwrap() as usize)))
            .collect();
        let class = |o: &Value| o["category_id"].as_i64().unwrap();
        let ids: BTreeSet<i64> = list("gts").iter().chain(&list("dets")).map(class).collect();
        let classes: BTreeMap<i64, usize> = ids.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        let place = |o: &Value| {
            let image = o["image_id"].as_i64().unwrap();
            (images.keys().position(|id| *id == image).unwrap(), classes[&class(o)])
        };
        let bbox = |o: &Value| Xywh(o.get("bbox").map_or([0.0; 4], |bbox| numbers(bbox).try_into().unwrap()));
        let truth = |o: &Value| {
            let (image, class) = place(o);
            let area = o["area"].as_f64().unwrap_or(1.0);
            Truth { image, class, bbox: bbox(o), area, crowd: o["iscrowd"].as_i64() == Some(1) }
        };
        let found = |o: &Value| {
            let (image, class) = place(o);
            Detected { image, class, bbox: bbox(o), score: o["score"].as_f64().unwrap() }
        };
        Self {
            truths: list("gts").iter().map(truth).collect(),
            found: list("dets").iter().map(found).collect(),
            sizes: images.values().copied().collect(),
            name,
            classes,
            golden,
        }
    }

    fn list(&self, key: &str) -> &[Value] {
        self.golden[key].as_array().unwrap()
    }

    fn same_coco(&self, stats: &[f64], per_class: &[coco::ClassStats]) {
        for (i, (a, b)) in stats.iter().zip(numbers(&self.golden["pycocotools_stats"])).enumerate() {
            assert!((a - b).abs() < 1e-6, "{}, figure {i}: {a} for {b}", self.name);
        }
        assert_eq!(stats.len(), self.golden["stat_names"].as_array().unwrap().len());
        for (id, theirs) in self.golden["pycocotools_per_class"].as_object().unwrap() {
            let class = &per_class[self.classes[&id.parse::<i64>().unwrap()]];
            for (key, value) in [("AP", class.ap), ("AP50", class.ap50), ("AP75", class.ap75), ("AR", class.ar100)] {
                let expected = theirs[key].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-6, "{}, {id}, {key}: {value} for {expected}", self.name);
            }
        }
    }

    /// Whether the suite has ultralytics' figures, which are then ours.
    fn same_ultralytics(&self, overlap: &dyn Overlap) -> bool {
        let theirs = &self.golden["ultralytics"];
        if theirs.is_null() {
            return false;
        }
        let ours = ultralytics::evaluate_by(&self.truths, &self.found, overlap);
        let near = |key: &str, found: f64, wanted: f64| {
            assert!((found - wanted).abs() < 1e-6, "{} {key}: {found} for {wanted}", self.name);
        };
        near("map", ours.map50_95, theirs["map"].as_f64().unwrap());
        near("map50", ours.map50, theirs["map50"].as_f64().unwrap());
        let classes = numbers(&theirs["classes"]);
        for (i, id) in classes.into_iter().enumerate() {
            let (ap, ap50) = ours.per_class[&self.classes[&(id as i64)]];
            near("ap", ap, theirs["ap"][i].as_f64().unwrap());
            near("ap50", ap50, theirs["ap50"][i].as_f64().unwrap());
        }
        true
    }
}

/// The pixels of an annotation: outlines, or run lengths as numbers.
fn mask(value: &Value, [width, height]: [usize; 2]) -> Rle {
    if let Some(counts) = value.get("counts") {
        return Rle::from_counts(numbers(counts).into_iter().map(|v| v as usize), width * height);
    }
    let outline = |polygon: &Value| {
        let points: Vec<[f64; 2]> = numbers(polygon).chunks_exact(2).map(|p| [p[0], p[1]]).collect();
        Rle::from_outline(&points, [width, height])
    };
    let parts: Vec<Rle> = value.as_array().unwrap().iter().map(outline).collect();
    Rle::union(&parts, width * height)
}

#[test]
fn masks_are_judged_as_by_the_references() {
    if support::data("golden/eval").is_none() {
        return;
    }
    let mut both = 0;
    for suite in suites("mask").into_iter().map(Suite::new) {
        let size = |image: usize| suite.sizes[image];
        let mut truth_masks = Vec::new();
        for (truth, annotation) in suite.truths.iter().zip(suite.list("gts")) {
            let found = mask(&annotation["segmentation"], size(truth.image));
            if let Some(counts) = annotation.get("raster_counts") {
                let wanted: Vec<usize> = numbers(counts).into_iter().map(|v| v as usize).collect();
                assert_eq!(found.counts(), wanted, "{}: {}", suite.name, annotation["segmentation"]);
            }
            assert_eq!(found.area() as f64, truth.area, "{}", suite.name);
            truth_masks.push(found);
        }
        let mut found_masks = Vec::new();
        for (found, detection) in suite.found.iter().zip(suite.list("dets")) {
            let [w, h] = size(found.image);
            let found = mask(&detection["segmentation"], [w, h]);
            let text = detection["compressed"].as_str().unwrap();
            assert_eq!(Rle::from_text(text, w * h).as_ref(), Some(&found), "{}: {text}", suite.name);
            assert_eq!(found.area() as u64, detection["area"].as_u64().unwrap(), "{}", suite.name);
            found_masks.push(found);
        }
        let overlap = MaskPairs { truths: &suite.truths, truth_masks: &truth_masks, found_masks: &found_masks };
        let ours = coco::evaluate_by(suite.classes.len(), &suite.truths, &suite.found, &overlap);
        suite.same_coco(&ours.stats, &ours.per_class);
        both += usize::from(suite.same_ultralytics(&overlap));
    }
    assert!(both > 0);
}

#[test]
fn keypoints_are_judged_as_by_the_references() {
    if support::data("golden/eval").is_none() {
        return;
    }
    let mut both = 0;
    for suite in suites("keypoints").into_iter().map(Suite::new) {
        let triples = |o: &Value| -> Vec<[f64; 3]> {
            numbers(&o["keypoints"]).chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect()
        };
        let truth_points: Vec<Vec<[f64; 3]>> = suite.list("gts").iter().map(triples).collect();
        let pairs = |o: &Value| triples(o).into_iter().map(|[x, y, _]| [x, y]).collect();
        let found_points: Vec<Vec<[f64; 2]>> = suite.list("dets").iter().map(pairs).collect();
        let overlap = PosePairs {
            truths: &suite.truths,
            found: &suite.found,
            truth_points: &truth_points,
            found_points: &found_points,
            sigmas: &numbers(&suite.golden["sigmas"]),
            area: PoseArea::Annotated,
        };
        let ours = coco::evaluate_poses(suite.classes.len(), &suite.truths, &suite.found, &overlap);
        suite.same_coco(&ours.stats, &ours.per_class);
        both += usize::from(suite.same_ultralytics(&PosePairs { area: PoseArea::Box, ..overlap }));
    }
    assert!(both > 0);
}

fn xywhr(value: &Value) -> [f64; 5] {
    numbers(value).try_into().unwrap()
}

fn gaussian([x, y, w, h, r]: [f64; 5]) -> Gaussian {
    Gaussian::new([x, y], [w, h], r)
}

#[test]
fn rotated_boxes_are_judged_as_by_ultralytics() {
    if support::data("golden/eval").is_none() {
        return;
    }
    for suite in suites("obb").into_iter().map(Suite::new) {
        let boxes = |key: &str| -> Vec<[f64; 5]> { suite.list(key).iter().map(|o| xywhr(&o["xywhr"])).collect() };
        let truths: Vec<Gaussian> = boxes("gts").into_iter().map(gaussian).collect();
        let found: Vec<Gaussian> = boxes("dets").into_iter().map(gaussian).collect();
        let areas: Vec<f64> = boxes("dets").iter().map(|b| b[2] * b[3]).collect();
        let overlap = RotatedPairs { truths: &truths, found: &found, areas: &areas };
        // The matrix of one image, in the order of the file.
        let image = suite.golden["probiou_image"].as_i64().unwrap();
        let of = |key: &str| -> Vec<usize> {
            let all = suite.list(key).iter().enumerate();
            all.filter(|(_, o)| o["image_id"].as_i64() == Some(image)).map(|(at, _)| at).collect()
        };
        let rows = suite.golden["probiou"].as_array().unwrap();
        assert_eq!(rows.len(), of("gts").len());
        for (truth, row) in of("gts").into_iter().zip(rows) {
            for (one, wanted) in of("dets").into_iter().zip(numbers(row)) {
                let found = overlap.of(one, truth);
                assert!((found - wanted).abs() < 5e-6, "{}: {truth} {one}: {found} for {wanted}", suite.name);
            }
        }
        assert!(suite.same_ultralytics(&overlap));
    }
}

#[test]
fn corners_become_the_boxes_of_the_reference() {
    let Some(path) = support::data("golden/eval/obb-labels.json") else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["corners"].as_array().unwrap().iter().zip(golden["xywhr"].as_array().unwrap());
    let mut count = 0;
    for (corners, wanted) in cases {
        let corners: Vec<[f32; 2]> =
            corners.as_array().unwrap().iter().map(|p| [0, 1].map(|i| p[i].as_f64().unwrap() as f32)).collect();
        let [x, y, w, h, r] = xywhr(wanted).map(|v| v as f32);
        let found = Rotated::around(&corners);
        let wanted = Rotated { centre: [x, y], size: [w, h], angle: r };
        // Equal boxes overlap by 0.9997. Around what is no rectangle two can be nearly the smallest; ours is the smaller.
        let area = found.size[0] * found.size[1];
        assert!(found.overlap(&wanted) > 0.998 || area <= w * h, "{corners:?}: {found:?} for {wanted:?}");
        assert!((area - w * h).abs() < 2e-3 * w * h, "{found:?} for {wanted:?}");
        count += 1;
    }
    assert!(count >= 48);
}
