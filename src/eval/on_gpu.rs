//! Detections of a real network on the emulated GPU: f16 against f32, int8 against the CPU's int8.

use super::{Detected, Prepared};
use crate::data::{Dataset, Item};
use crate::engine::Device;
use crate::import;
use crate::model::Model;
use crate::quantise;
use crate::vision::Letterbox;
use std::env;
use std::path::PathBuf;

/// Side of the images: emulation takes seconds for one.
const SIDE: usize = 160;

/// Photos of an ordinary run; `SECATEURS_PHOTOS` names another number.
const PHOTOS: usize = 6;

/// The least score that a detection must have to be compared, that of `detect`.
const SHOWN: f64 = 0.25;

/// How far boxes (pixels of the network's image) and scores may be apart.
const BOX: f64 = 0.3;
const SCORE: f64 = 5e-3;

/// A network and some photos.
struct Scene {
    model: Model,
    photos: Prepared,
    /// By photo: the network's input, and pixels of the photo for one of it.
    inputs: Vec<Vec<f32>>,
    scales: Vec<f64>,
}

/// The network and some photos of the validation set. `None` where they are not there.
fn scene() -> Option<Scene> {
    let root = env::var_os("SECATEURS_DATA").map(PathBuf::from);
    let Some(root) = root.filter(|root| root.join("models/yolo11n-coco.pt").is_file()) else {
        crate::output::message("", "skipped", ": SECATEURS_DATA names no folder with models/yolo11n-coco.pt");
        return None;
    };
    let model = import::load(&root.join("models/yolo11n-coco.pt")).unwrap();
    let mut dataset = Dataset::open(&root.join("coco-mini/data.yaml"), "val").unwrap();
    let photos = env::var("SECATEURS_PHOTOS").ok().and_then(|text| text.parse().ok()).unwrap_or(PHOTOS);
    dataset.items.truncate(photos);
    // The annotations are of all photos, the labels of each.
    dataset.annotations = None;
    let read = |item: &Item| {
        let (image, mut input) = (item.image.load().unwrap(), vec![0.0; 3 * SIDE * SIDE]);
        Letterbox::new(image.width(), image.height(), SIDE, SIDE).forward(&image, &mut input);
        (input, image.width().max(image.height()) as f64 / SIDE as f64)
    };
    let (inputs, scales) = dataset.items.iter().map(read).unzip();
    Some(Scene { model, photos: Prepared::new(&dataset, SIDE).unwrap(), inputs, scales })
}

/// At least `share` of the detections that are shown have one of the other network within the bounds, or are hardly shown.
/// Not all of them: where two boxes of an object score the same but for a rounding, either may suppress the other, and in
/// int8 a value between two integers may go either way after a layer in f32, which the next layers spread.
fn assert_same(name: &str, share: f64, scales: &[f64], found: &[Detected], wanted: &[Detected]) {
    let shown = |all: &[Detected]| all.iter().filter(|d| d.score >= SHOWN).cloned().collect::<Vec<Detected>>();
    let (mut compared, mut apart) = (0u32, Vec::new());
    for (ones, others) in [(shown(wanted), found), (shown(found), wanted)] {
        for one in ones {
            let far = |other: &Detected| {
                let sides = one.bbox.0.iter().zip(other.bbox.0).map(|(a, b)| (a - b).abs());
                sides.fold(0.0, f64::max) / scales[one.image]
            };
            let same = others.iter().filter(|other| (other.image, other.class) == (one.image, one.class));
            let near = same.min_by(|a, b| far(a).total_cmp(&far(b)));
            let close = near.is_some_and(|near| far(near) <= BOX && (near.score - one.score).abs() <= SCORE);
            if !close && one.score - SHOWN >= SCORE {
                apart.push((one, near.copied()));
            }
            compared += 1;
        }
    }
    assert!(compared as usize >= scales.len(), "{name}: {compared} detections");
    let most = (1.0 - share) * f64::from(compared);
    assert!(apart.len() as f64 <= most, "{name}: {} of {compared} are apart: {apart:?}", apart.len());
}

#[test]
fn f16_finds_what_f32_finds() {
    let Some(Scene { model, photos, scales, .. }) = scene() else { return };
    let wanted = photos.find(&model, 2, &|_| ()).unwrap();
    let found = photos.find_on(Device::Cuda, &quantise::to_f16(&model), 1, &|_| ()).unwrap();
    assert_same("f16", 0.95, &scales, &found, &wanted);
    let [found, wanted] = [found, wanted].map(|all| photos.score(&all).map50_95);
    assert!((found - wanted).abs() <= 2e-3, "mAP50-95 {found}, in f32 {wanted}");
}

#[test]
fn int8_finds_what_the_int8_of_the_cpu_finds() {
    let Some(Scene { model, photos, inputs, scales }) = scene() else { return };
    let ranges = quantise::ranges(&model, &inputs, (SIDE, SIDE), &mut |_, _| ()).unwrap();
    let model = quantise::quantise(&model, &ranges);
    let wanted = photos.find(&model, 2, &|_| ()).unwrap();
    let found = photos.find_on(Device::Cuda, &model, 1, &|_| ()).unwrap();
    assert_same("int8", 0.7, &scales, &found, &wanted);
}
