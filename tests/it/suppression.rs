//! Suppression of duplicates, task by task, against every golden file that tells which boxes are kept.

use crate::support;
use safetensors::SafeTensors;
use secateurs::detector::Mask;
use secateurs::vision::{Candidate, Detection, Letterbox, NmsOptions, Rotated, Xyxy, nms, nms_rotated};
use std::collections::BTreeSet;

struct Golden {
    name: String,
    bytes: Vec<u8>,
}

/// All forward files of model families.
fn goldens() -> Vec<Golden> {
    let Some(folder) = support::data("golden/families") else { return vec![] };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let name = |path: &std::path::Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.retain(|path| name(path).ends_with("-forward"));
    paths.iter().map(|path| Golden { name: name(path), bytes: std::fs::read(path).unwrap() }).collect()
}

fn floats(file: &SafeTensors, key: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(key).unwrap();
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

fn ints(file: &SafeTensors, key: &str) -> Vec<usize> {
    let data = file.tensor(key).unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize).collect()
}

/// The best class of every cell of a decoded tensor `[1, 4 + nc + extra, cells]`.
fn candidates(decoded: &[f32], cells: usize, nc: usize, score: f32) -> Vec<(Candidate, [f32; 4])> {
    let mut found = Vec::new();
    for cell in 0..cells {
        let at = |row: usize| decoded[row * cells + cell];
        let class = (0..nc).fold(0, |best, class| if at(4 + class) > at(4 + best) { class } else { best });
        let [x, y, w, h] = [0, 1, 2, 3].map(at);
        let bbox = Xyxy([x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]);
        if at(4 + class) > score {
            let detection = Detection { class, score: at(4 + class), bbox };
            found.push((Candidate { detection, cell }, [x, y, w, h]));
        }
    }
    found
}

#[test]
fn the_kept_boxes_of_every_task_are_the_references() {
    let mut rotated = 0;
    for golden in goldens() {
        let file = SafeTensors::deserialize(&golden.bytes).unwrap();
        if !file.names().contains(&"one2many.nms_anchor") {
            continue;
        }
        let (shape, decoded) = floats(&file, "one2many.decoded");
        let nc = file.tensor("one2many.scores").unwrap().shape()[1];
        let cells = shape[2];
        let options = NmsOptions::default();
        let candidates = candidates(&decoded, cells, nc, options.score);
        let kept: Vec<Candidate> = if golden.name.contains("-obb") {
            rotated += 1;
            let angle = &decoded[(4 + nc) * cells..];
            let turn = |(candidate, [x, y, w, h]): (Candidate, [f32; 4])| {
                (candidate, Rotated { centre: [x, y], size: [w, h], angle: angle[candidate.cell] })
            };
            let kept = nms_rotated(candidates.into_iter().map(turn).collect(), &options);
            kept.into_iter().map(|(candidate, _)| candidate).collect()
        } else {
            nms(candidates.into_iter().map(|(candidate, _)| candidate).collect(), &options)
        };
        let (rows, wanted) = floats(&file, "one2many.nms");
        let ours: BTreeSet<(usize, usize)> = kept.iter().map(|c| (c.cell, c.detection.class)).collect();
        let class = |row: &[f32]| row[5] as usize;
        let theirs: BTreeSet<(usize, usize)> = ints(&file, "one2many.nms_anchor")
            .into_iter()
            .zip(wanted.chunks_exact(rows[1]))
            .map(|(cell, row)| (cell, class(row)))
            .collect();
        assert_eq!(ours, theirs, "{}", golden.name);
        assert!(kept.is_sorted_by(|a, b| a.detection.score >= b.detection.score), "{}", golden.name);
    }
    assert!(rotated > 0 || support::data("golden/families").is_none());
}

#[test]
fn a_rotated_box_that_goes_still_suppresses() {
    let boxes = [(0.0, 0.9), (4.0, 0.8), (8.0, 0.7), (40.0, 0.6)];
    let candidate = |(cell, (x, score)): (usize, (f32, f32))| {
        let detection = Detection { class: 0, score, bbox: Xyxy::default() };
        (Candidate { detection, cell }, Rotated { centre: [x, 0.0], size: [20.0, 10.0], angle: 0.3 })
    };
    let all: Vec<_> = boxes.into_iter().enumerate().map(candidate).collect();
    let (near, far) = (all[0].1.overlap(&all[1].1), all[0].1.overlap(&all[2].1));
    assert!(far < near, "{far} {near}");
    // Neighbours overlap too much, the first and the third do not; the second goes and takes the third with it.
    let options = NmsOptions { iou: (far + near) / 2.0, ..NmsOptions::default() };
    let cells = |kept: Vec<(Candidate, Rotated)>| kept.iter().map(|(c, _)| c.cell).collect::<Vec<_>>();
    assert_eq!(cells(nms_rotated(all.clone(), &options)), [0, 3]);
    // Another class is another matter, unless asked.
    let mut mixed = all.clone();
    mixed[1].0.detection.class = 1;
    assert_eq!(cells(nms_rotated(mixed.clone(), &options)), [0, 1, 2, 3]);
    assert_eq!(cells(nms_rotated(mixed, &NmsOptions { agnostic: true, ..options })), [0, 3]);
    assert_eq!(cells(nms_rotated(all.clone(), &NmsOptions { max_det: 1, ..options })), [0]);
    let mut wrong = all;
    wrong[0].1.angle = f32::NAN;
    assert_eq!(cells(nms_rotated(wrong, &options)), [1, 3]);
}

#[test]
fn masks_have_the_pixels_of_the_reference() {
    let mut compared = 0;
    for golden in goldens() {
        let file = SafeTensors::deserialize(&golden.bytes).unwrap();
        for branch in ["one2many", "one2one"] {
            let key = |what: &str| format!("{branch}.{what}");
            if !file.names().iter().any(|name| **name == key("mask_area")) {
                continue;
            }
            let (shape, decoded) = floats(&file, &key("decoded"));
            let (_, prototypes) = floats(&file, "proto");
            let [_, masks, h, w] = file.tensor("proto").unwrap().shape().to_vec().try_into().unwrap();
            let (rows_name, anchors) =
                if branch == "one2many" { ("nms", "nms_anchor") } else { ("final", "final_anchor") };
            let (_, rows) = floats(&file, &key(rows_name));
            let first = shape[1] - masks;
            let areas = ints(&file, &key("mask_area"));
            let pixels = file.tensor(&key("mask")).unwrap();
            for (i, (anchor, area)) in ints(&file, &key(anchors)).into_iter().zip(areas).enumerate() {
                let coefficients: Vec<f32> = (first..shape[1]).map(|row| decoded[row * shape[2] + anchor]).collect();
                let bbox = Xyxy(rows[6 * i..6 * i + 4].try_into().unwrap());
                let letterbox = Letterbox::new(160, 160, 160, 160);
                let mask = Mask::new(&coefficients, (&prototypes, [h, w]), 160, &letterbox, bbox);
                assert!(mask.area().abs_diff(area) <= 4, "{} {branch} {i}: {} for {area}", golden.name, mask.area());
                if let Some(theirs) = pixels.data().chunks_exact(160 * 160).nth(i) {
                    let differ = (0..160 * 160).filter(|p| mask.at(p % 160, p / 160) != (theirs[*p] != 0)).count();
                    assert!(differ <= 4, "{} {branch} {i}: {differ} pixels differ", golden.name);
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 0 || support::data("golden/families").is_none());
}
