//! Images, letterbox, decoding and suppression: against the golden files, and on whatever may come.

use crate::support;
use proptest::prelude::*;
use safetensors::SafeTensors;
use secateurs::graph::Head;
use secateurs::vision::{Candidate, Detection, Image, Letterbox, NmsOptions, Xyxy, decode_all, detect, nms};
use serde_json::Value;
use std::path::Path;

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
        let bbox = Xyxy([0.1 * w as f32, 0.2 * h as f32, 0.7 * w as f32, 0.9 * h as f32]);
        let back = letterbox.to_source(letterbox.to_input(bbox));
        for (a, b) in bbox.0.iter().zip(back.0) {
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
        let bbox = Xyxy([x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]);
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
                    bbox.0.iter().zip(&row).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3),
                    "{name}: {bbox:?} {row:?}"
                );
            }
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

/// Values of a golden tensor.
fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn decoding_equals_the_reference() {
    let Some(path) = support::data("golden/forward-yolo11n-coco.safetensors") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let head = Head::Detect { nc: 80, reg_max: 16, strides: vec![8, 16, 32] };
    for (prefix, size) in [("sq", (320, 320)), ("rect", (256, 320))] {
        let raw: Vec<Vec<f32>> = (0..3).map(|i| floats(&file, &format!("{prefix}.head.{i}"))).collect();
        let parts: Vec<&[f32]> =
            raw.iter().flat_map(|level| <[&[f32]; 2]>::from(level.split_at(level.len() / 144 * 64))).collect();
        let ours = decode_all(&head, size, &parts);
        let theirs = floats(&file, &format!("{prefix}.decoded"));
        assert_eq!(ours.len(), theirs.len());
        let cells = ours.len() / 84;
        for (at, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let slack = if at < 4 * cells { 5e-4 } else { 2e-6 };
            assert!((a - b).abs() < slack, "{prefix} row {} cell {}: {a} for {b}", at / cells, at % cells);
        }
        // The quick way gives the boxes that the whole tensor gives.
        for options in [NmsOptions::default(), NmsOptions::EVALUATION] {
            let quick = detect(&head, size, &parts, &options);
            let slow = nms(candidates(&ours, cells, options.score, options.multi_label), &options);
            assert_eq!(quick.len(), slow.len(), "{prefix} {options:?}");
            for (a, b) in quick.iter().zip(&slow) {
                assert_eq!((a.class, a.score), (b.detection.class, b.detection.score));
                assert!(a.bbox.0.iter().zip(b.detection.bbox.0).all(|(a, b)| (a - b).abs() < 1e-3));
            }
        }
    }
}

#[test]
fn unreadable_images_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let picture = Image::new(8, 8, (0..192).map(|v| v as u8).collect());
    let (png, jpeg) = (folder.path().join("a.png"), folder.path().join("a.jpg"));
    picture.save(&png).unwrap();
    picture.save(&jpeg).unwrap();
    assert_eq!(Image::open(&png).unwrap(), picture);
    assert_eq!(Image::open(&jpeg).unwrap().width(), 8);
    let png = std::fs::read(png).unwrap();
    // A header that promises 65,535 x 65,535 pixels, with its checksum.
    let mut vast = png.clone();
    vast[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
    let sum = vast[12..29].iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xEDB8_8320 } else { sum >> 1 })
    });
    vast[29..33].copy_from_slice(&(!sum).to_be_bytes());
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"GIF89a, no more"),
        ("half", &png[..png.len() / 2]),
        ("start", &png[..8]),
        ("vast", &vast),
    ];
    for (name, bytes) in cases {
        let error = Image::decode(Path::new(name), bytes).unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains("not a readable image"), "{error}");
    }
    let missing = Image::open(Path::new("nowhere/x.jpg")).unwrap_err().to_string();
    assert!(missing.starts_with("nowhere/x.jpg"), "{missing}");
    assert!(picture.save(&jpeg.join("below-a-file.png")).is_err());
}

#[test]
fn images_are_turned_upright() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    // Left half black, right half white.
    Image::new(16, 8, (0..384).map(|i| if i / 3 % 16 < 8 { 0 } else { 255 }).collect()).save(&path).unwrap();
    let plain = std::fs::read(&path).unwrap();
    let mut turned = plain[..2].to_vec();
    turned.extend([0xFF, 0xE1, 0, 34]);
    turned.extend(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0");
    turned.extend(&plain[2..]);
    let image = Image::decode(&path, &turned).unwrap();
    assert_eq!((image.width(), image.height()), (8, 16), "a quarter turn clockwise");
    let row = |y: usize| image.data()[24 * y];
    assert!(row(1) < 60 && row(14) > 190, "left became top: {} {}", row(1), row(14));
}

#[test]
fn all_kinds_of_pixels_become_rgb() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let check = |expected: [u8; 3]| assert_eq!(Image::open(&path).unwrap().data(), expected);
    image::GrayImage::from_pixel(1, 1, image::Luma([77])).save(&path).unwrap();
    check([77; 3]);
    image::RgbaImage::from_pixel(1, 1, image::Rgba([1, 2, 3, 0])).save(&path).unwrap();
    check([1, 2, 3]);
    image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(1, 1, image::Rgb([65535u16, 0, 32896])).save(&path).unwrap();
    check([255, 0, 128]);
}

proptest! {
    #[test]
    fn any_image_fits_any_input(w in 1usize..400, h in 1usize..400, input_w in 1usize..200, input_h in 1usize..200) {
        let image = Image::new(w, h, vec![255; 3 * w * h]);
        let letterbox = Letterbox::new(w, h, input_w, input_h);
        let mut tensor = vec![9.0; 3 * input_w * input_h];
        letterbox.forward(&image, &mut tensor);
        // White content, grey border, and nothing else.
        prop_assert!(tensor.iter().all(|v| *v == 1.0 || *v == 114.0 / 255.0));
        let [x0, y0, x1, y1] = letterbox.to_input(Xyxy([0.0, 0.0, w as f32, h as f32])).0;
        let white = tensor[..input_w * input_h].iter().filter(|v| **v == 1.0).count();
        prop_assert_eq!(white, ((x1 - x0).round() * (y1 - y0).round()) as usize);
        prop_assert!(x0 >= 0.0 && y0 >= 0.0 && x1 <= input_w as f32 + 1e-3 && y1 <= input_h as f32 + 1e-3);
    }

    #[test]
    fn suppression_keeps_its_promises(
        raw in prop::collection::vec((0usize..3, 0f32..1.0, 0f32..50.0, 0f32..50.0, 1f32..30.0, 1f32..30.0), 0..60),
        overlap in 0.1f32..0.9,
        agnostic: bool,
        max_det in 1usize..20,
    ) {
        let all: Vec<Candidate> = raw.iter().enumerate().map(|(cell, (class, score, x, y, w, h))| {
            Candidate { detection: Detection { class: *class, score: *score, bbox: Xyxy([*x, *y, x + w, y + h]) }, cell }
        }).collect();
        let options = NmsOptions { score: 0.2, iou: overlap, multi_label: false, agnostic, max_det };
        let kept = nms(all.clone(), &options);
        prop_assert!(kept.len() <= max_det && kept.iter().all(|k| all.contains(k) && k.detection.score > 0.2));
        prop_assert!(kept.windows(2).all(|w| w[0].detection.score >= w[1].detection.score));
        let rivals = |a: &Candidate, b: &Candidate| agnostic || a.detection.class == b.detection.class;
        // The shift that keeps classes apart rounds coordinates.
        let over = |a: &Candidate, b: &Candidate, slack: f32| rivals(a, b) && a.detection.bbox.iou(&b.detection.bbox) > overlap + slack;
        for (i, one) in kept.iter().enumerate() {
            prop_assert!(!kept[..i].iter().any(|better| over(better, one, 1e-3)));
        }
        if kept.len() < max_det {
            for gone in all.iter().filter(|c| c.detection.score > 0.2 && !kept.contains(c)) {
                prop_assert!(kept.iter().any(|k| k.detection.score >= gone.detection.score && over(k, gone, -1e-3)), "{gone:?} went for nothing");
            }
        }
    }

    #[test]
    fn outputs_of_any_kind_give_finite_boxes(
        values in prop::collection::vec(prop_oneof![8 => -9f32..9.0, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(f32::NEG_INFINITY), 1 => Just(f32::MAX)], 4 * (4 * 2 + 3)),
        lengths in prop::collection::vec(0usize..40, 2),
        score in prop_oneof![Just(0.0f32), Just(1.0), Just(f32::NAN), 0f32..1.0],
    ) {
        let head = Head::Detect { nc: 3, reg_max: 2, strides: vec![8] };
        let (boxes, classes) = values.split_at(32);
        for multi_label in [false, true] {
            let options = NmsOptions { score, multi_label, ..NmsOptions::default() };
            for found in detect(&head, (16, 16), &[boxes, classes], &options) {
                prop_assert!(found.class < 3 && found.score > score && found.score <= 1.0);
                prop_assert!(found.bbox.is_finite(), "{found:?}");
            }
            let cut = [&boxes[..lengths[0].min(32)], &classes[..lengths[1].min(12)]];
            detect(&head, (16, 16), &cut, &options);
            detect(&head, (16, 16), &cut[..1], &options);
        }
    }
}
