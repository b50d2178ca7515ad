//! Letterbox and suppression against the golden files.

use crate::support;
use safetensors::SafeTensors;
use secateurs::vision::{Candidate, Detection, Image, Letterbox, NmsOptions, nms};
use serde_json::Value;

#[test]
fn letterboxed_crops_equal_the_reference() {
    let Some(path) = support::data("golden/letterbox.safetensors") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for key in ["a", "b", "c", "d"] {
        let source = file.tensor(&format!("{key}.image")).unwrap();
        let [h, w, _] = source.shape() else { panic!() };
        let image = Image::new(*w, *h, source.data().to_vec());
        let full = file.tensor(&format!("{key}.320.full")).unwrap();
        let mut tensor = vec![0.0; 3 * 320 * 320];
        Letterbox::new(*w, *h, 320, 320).forward(&image, &mut tensor);
        let ours = (0..320 * 320).flat_map(|p| [0, 1, 2].map(|c| (tensor[c * 320 * 320 + p] * 255.0).round() as u8));
        let content = file.tensor(&format!("{key}.640.content")).unwrap();
        let pairs = ours
            .zip(full.data().to_vec())
            .chain(Letterbox::new(*w, *h, 640, 640).resize(&image).into_iter().zip(content.data().to_vec()));
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs, "{key}");
        }
    }
}

#[test]
fn an_exact_halving_averages_blocks() {
    let data: Vec<u8> = (0..4 * 4 * 3).map(|i| (i * 5) as u8).collect();
    let halved = Letterbox::new(4, 4, 2, 2).resize(&Image::new(4, 4, data.clone()));
    let mean = |x: usize, y: usize, c: usize| {
        let at = |dx: usize, dy: usize| u16::from(data[3 * ((2 * y + dy) * 4 + 2 * x + dx) + c]);
        ((at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1) + 2) / 4) as u8
    };
    let expected: Vec<u8> = (0..2)
        .flat_map(|y| (0..2).flat_map(move |x| (0..3).map(move |c| (x, y, c))))
        .map(|(x, y, c)| mean(x, y, c))
        .collect();
    assert_eq!(halved, expected);
}

#[test]
fn boxes_travel_there_and_back() {
    for (w, h) in [(640, 480), (333, 211), (37, 101), (320, 320)] {
        let letterbox = Letterbox::new(w, h, 320, 256);
        let bbox = [0.1 * w as f32, 0.2 * h as f32, 0.7 * w as f32, 0.9 * h as f32];
        let back = letterbox.to_source(letterbox.to_input(bbox));
        for (a, b) in bbox.iter().zip(back) {
            assert!((a - b).abs() <= 0.01 * w.max(h) as f32, "{w} x {h}: {bbox:?} {back:?}");
        }
    }
}

/// Candidates of a decoded tensor `[4 + nc, cells]`, by the rules of the golden file.
fn candidates(tensor: &[f32], cells: usize, conf: f32, multi_label: bool) -> Vec<Candidate> {
    let nc = tensor.len() / cells - 4;
    let mut all = Vec::new();
    for cell in 0..cells {
        let at = |row: usize| tensor[row * cells + cell];
        let (x, y, w, h) = (at(0), at(1), at(2), at(3));
        let bbox = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
        let mut classes: Vec<usize> = (0..nc).filter(|c| at(4 + c) > conf).collect();
        if !multi_label {
            classes.sort_by(|a, b| at(4 + b).total_cmp(&at(4 + a)));
            classes.truncate(1);
        }
        all.extend(
            classes
                .into_iter()
                .map(|class| Candidate { detection: Detection { class, score: at(4 + class), bbox }, cell }),
        );
    }
    all
}

#[test]
fn suppression_equals_the_reference() {
    let Some(path) = support::data("golden/nms.json") else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let bytes = std::fs::read(support::data(case["file"].as_str().unwrap()).unwrap()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor(case["tensor"].as_str().unwrap()).unwrap();
        let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let cells = view.shape()[2];
        let options = NmsOptions {
            score: case["conf"].as_f64().unwrap() as f32,
            iou: case["iou"].as_f64().unwrap() as f32,
            multi_label: case["multi_label"].as_bool().unwrap(),
            agnostic: case["agnostic"].as_bool().unwrap(),
            max_det: case["max_det"].as_u64().unwrap() as usize,
        };
        for (image, result) in case["results"].as_array().unwrap().iter().enumerate() {
            let one = &values[image * values.len() / view.shape()[0]..][..values.len() / view.shape()[0]];
            let kept = nms(candidates(one, cells, options.score, options.multi_label), &options);
            let rows = result["rows"].as_array().unwrap();
            if name.contains("ties") {
                // Equal scores leave the order, and sometimes the choice, open.
                assert!(
                    kept.len().abs_diff(rows.len()) <= 1 + rows.len() / 20,
                    "{name}: {} for {}",
                    kept.len(),
                    rows.len()
                );
                continue;
            }
            assert_eq!(kept.len(), rows.len(), "{name} image {image} {options:?}");
            for (ours, row) in kept.iter().zip(rows) {
                let row: Vec<f64> = row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                let Detection { class, score, bbox } = ours.detection;
                assert_eq!(class, row[5] as usize, "{name}");
                assert!((f64::from(score) - row[4]).abs() < 2e-6, "{name}");
                assert!(
                    bbox.iter().zip(&row).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3),
                    "{name}: {bbox:?} {row:?}"
                );
            }
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}
