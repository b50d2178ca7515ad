//! The metrics against their references, figure by figure.

use crate::support;
use secateurs::eval::{Found, Truth, coco, ultralytics};
use serde_json::Value;
use std::collections::BTreeMap;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn bbox(value: &Value) -> [f64; 4] {
    numbers(&value["bbox"]).try_into().unwrap()
}

/// A golden suite: classes and images numbered in the order of their ids.
fn suite(golden: &Value) -> (BTreeMap<i64, usize>, Vec<Truth>, Vec<Found>) {
    let number = |ids: Vec<i64>| -> BTreeMap<i64, usize> {
        let sorted: std::collections::BTreeSet<i64> = ids.into_iter().collect();
        sorted.into_iter().enumerate().map(|(i, id)| (id, i)).collect()
    };
    let images = number(golden["images"].as_array().unwrap().iter().map(|i| i[0].as_i64().unwrap()).collect());
    let classes = number(golden["categories"].as_array().unwrap().iter().map(|c| c.as_i64().unwrap()).collect());
    let place = |o: &Value| {
        (images[&o["image_id"].as_i64().unwrap()], classes.get(&o["category_id"].as_i64().unwrap()).copied())
    };
    let truth = |o: &Value| {
        let (image, class) = place(o);
        Some(Truth {
            image,
            class: class?,
            bbox: bbox(o),
            area: o["area"].as_f64().unwrap(),
            crowd: o["iscrowd"].as_i64() == Some(1),
        })
    };
    let found = |o: &Value| {
        let (image, class) = place(o);
        Some(Found { image, class: class?, bbox: bbox(o), score: o["score"].as_f64().unwrap() })
    };
    let truths = golden["gts"].as_array().unwrap().iter().filter_map(truth).collect();
    let found = golden["dets"].as_array().unwrap().iter().filter_map(found).collect();
    (classes, truths, found)
}

fn suites() -> Vec<Value> {
    let Some(folder) = support::data("golden/map") else { return vec![] };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.retain(|p| p.file_name().unwrap().to_string_lossy().starts_with("map-"));
    paths.iter().map(|p| serde_json::from_slice(&std::fs::read(p).unwrap()).unwrap()).collect()
}

#[test]
fn all_suites_equal_pycocotools() {
    let suites = suites();
    assert!(suites.is_empty() || suites.len() == 34, "{}", suites.len());
    for golden in suites {
        let name = golden["name"].as_str().unwrap_or("real").to_owned();
        let (classes, truths, found) = suite(&golden);
        let ours = coco::evaluate(classes.len(), &truths, &found);
        for (i, (a, b)) in ours.stats.iter().zip(numbers(&golden["pycocotools_stats"])).enumerate() {
            assert!((a - b).abs() < 1e-6, "{name}, figure {i}: {a} for {b}");
        }
        for (id, theirs) in golden["pycocotools_per_class"].as_object().unwrap() {
            let class = &ours.per_class[classes[&id.parse::<i64>().unwrap()]];
            for (key, value) in [("AP", class.ap), ("AP50", class.ap50), ("AP75", class.ap75), ("AR100", class.ar100)] {
                let expected = theirs[key].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-6, "{name}, class {id}, {key}: {value} for {expected}");
            }
        }
    }
}

#[test]
fn all_suites_without_crowds_and_ties_equal_ultralytics() {
    let mut compared = 0;
    for golden in suites() {
        let name = golden["name"].as_str().unwrap_or("real").to_owned();
        if golden["ultralytics"].is_null() || name.contains("ties") {
            continue;
        }
        let (_, truths, found) = suite(&golden);
        let ours = ultralytics::evaluate(&truths, &found);
        for (key, value) in [("map", ours.map50_95), ("map50", ours.map50)] {
            let expected = golden["ultralytics"][key].as_f64().unwrap();
            // Real detections have equal scores, whose order the reference leaves open; in one crowded suite one match of 98 differs.
            let slack = if name.contains("over100-dets") || name.contains("coco") { 0.011 } else { 1e-6 };
            assert!((value - expected).abs() < slack, "{name}, {key}: {value} for {expected}");
        }
        compared += 1;
    }
    assert!(compared > 15 || support::data("golden/map").is_none(), "{compared}");
}
