//! Detections of a real network on the emulated GPU: f16 against f32, int8 against the CPU's int8.

use super::Prepared;
use crate::data::{Dataset, Item};
use crate::engine::{Device, Engine, Options};
use crate::graph::{Dtype, Graph};
use crate::import;
use crate::kernels::Isa;
use crate::kernels::cuda::emulated;
use crate::model::{Info, Model, Tensor, Weights};
use crate::quantise;
use crate::vision::{FindBuffers, Letterbox, NmsOptions, Outputs, decode_all, find, find_with, least_logit};
use crate::zoo::{Task, yolo11};
use std::env;
use std::path::PathBuf;

/// Side of the images: emulation takes seconds for one.
const SIDE: usize = 160;

/// Photos of an ordinary run; `SECATEURS_PHOTOS` names another number.
const PHOTOS: usize = 6;

/// The least score that a cell must have to be compared, that of `detect`.
const SHOWN: f32 = 0.25;

/// How far boxes (pixels of the network's image) and scores in f16 may be from those in f32.
const BOX: f32 = 0.3;
const SCORE: f32 = 5e-3;

/// A network and some photos.
struct Scene {
    model: Model,
    photos: Prepared,
    /// By photo: the network's input.
    inputs: Vec<Vec<f32>>,
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
        input
    };
    let inputs = dataset.items.iter().map(read).collect();
    Some(Scene { model, photos: Prepared::new(&dataset, SIDE).unwrap(), inputs })
}

/// The decoded outputs for every photo, `[4 + classes, cells]`, before any box suppresses another.
fn decoded(scene: &Scene, model: &Model, device: Device) -> Vec<Vec<f32>> {
    let mut engine = Engine::new(model, SIDE, SIDE, &Options { device, threads: 2, ..Options::default() }).unwrap();
    let decode = |input: &Vec<f32>| {
        engine.run(input).unwrap();
        let outputs: Vec<&[f32]> = (0..model.graph.outputs.len()).map(|i| engine.output(i)).collect();
        decode_all(&model.graph.head, (SIDE, SIDE), &outputs)
    };
    scene.inputs.iter().map(decode).collect()
}

/// The greatest distances of boxes and of scores, over all cells where a class is shown by either.
fn apart(classes: usize, found: &[f32], wanted: &[f32]) -> (usize, f32, f32) {
    let cells = wanted.len() / (4 + classes);
    let at = |all: &[f32], row: usize, cell: usize| all[row * cells + cell];
    let (mut shown, mut bbox, mut score) = (0, 0.0f32, 0.0f32);
    for cell in 0..cells {
        let far = |row: usize| (at(found, row, cell) - at(wanted, row, cell)).abs();
        let most = (4..4 + classes).map(|row| at(found, row, cell).max(at(wanted, row, cell))).fold(0.0, f32::max);
        if most >= SHOWN {
            shown += 1;
            // The sides of a box from its centre and size.
            bbox = bbox.max(far(0).max(far(1)) + far(2).max(far(3)) / 2.0);
            score = (4..4 + classes).map(far).fold(score, f32::max);
        }
    }
    (shown, bbox, score)
}

/// Of 95 steps of YOLO11n two pools, both upsamplings, the copy of attention's values and that of a member of a concat
/// are done by other launches.
#[test]
fn a_frame_takes_fewer_launches_than_there_are_steps() {
    if emulated::device().is_none() {
        return;
    }
    let graph = yolo11::network(yolo11::Scale::of('n').unwrap(), Task::Detect, 80).unwrap();
    let weights: Weights = graph.params().into_iter().map(|p| (p.key, Tensor::filled(p.shape, 0.01))).collect();
    for dtype in [Dtype::F32, Dtype::F16] {
        let graph = Graph { dtype, ..graph.clone() };
        let model = Model::new(graph, weights.clone(), Info::default()).unwrap();
        let options = Options { device: Device::Cuda(0), ..Options::default() };
        let steps = Engine::new(&model, 64, 64, &options).unwrap().profile(&[0.5; 3 * 64 * 64]).unwrap();
        // Without the copies of the image and of the results.
        assert_eq!(steps.len() - 2, 89, "{dtype:?}");
    }
}

#[test]
fn photos_have_the_same_detections_by_chosen_cells_as_by_all_outputs() {
    let Some(Scene { model, inputs, .. }) = scene() else { return };
    let ranges = quantise::ranges(&model, &inputs, (SIDE, SIDE), &mut |_, _| ()).unwrap();
    let (f16, int8) = (quantise::to_f16(&model), quantise::quantise(&model, &ranges));
    let (head, size, options) = (&model.graph.head, (SIDE, SIDE), NmsOptions::default());
    let mut all = 0;
    for model in [&model, &f16, &int8] {
        let on_gpu = Options { device: Device::Cuda(0), ..Options::default() };
        let mut engine = Engine::new(model, SIDE, SIDE, &on_gpu).unwrap();
        for input in inputs.iter().take(3) {
            let outputs = |engine: &Engine| -> Vec<Vec<f32>> {
                (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect()
            };
            engine.select_cells(None).unwrap();
            engine.run(input).unwrap();
            let whole = outputs(&engine);
            let wanted = find(head, size, &whole.iter().map(Vec::as_slice).collect::<Vec<_>>(), &options);
            engine.select_cells(Some(least_logit(options.score))).unwrap();
            engine.run_in_place().unwrap();
            let (own, cells) = (outputs(&engine), engine.cells_of(0));
            assert!(cells.is_some_and(|cells| cells.numbers.len() >= wanted.len()));
            let own: Vec<&[f32]> = own.iter().map(Vec::as_slice).collect();
            let (mut found, mut buffers) = (Vec::new(), FindBuffers::default());
            find_with(head, size, Outputs { values: &own, cells }, &options, &mut buffers, |detection, extra| {
                found.push((detection, extra.clone()));
            });
            assert_eq!(found, wanted);
            all += found.len();
        }
    }
    assert!(all >= 3, "{all} objects");
}

#[test]
fn f16_finds_what_f32_finds() {
    let Some(scene) = scene() else { return };
    let (f32, f16) = (&scene.model, quantise::to_f16(&scene.model));
    let [found, wanted] = [(&f16, Device::Cuda(0)), (f32, Device::Cpu)].map(|(model, on)| decoded(&scene, model, on));
    let mut all = 0;
    for (photo, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let (shown, bbox, score) = apart(f32.graph.classes(), found, wanted);
        assert!(bbox <= BOX && score <= SCORE, "photo {photo}: boxes {bbox} px apart, scores {score}");
        all += shown;
    }
    assert!(all >= scene.inputs.len(), "{all} cells");
    let found = scene.photos.find_on(Device::Cuda(0), &f16, 1, &|_| ()).unwrap();
    let wanted = scene.photos.find(f32, 2, &|_| ()).unwrap();
    let [found, wanted] = [found, wanted].map(|all| scene.photos.score(&all).map50_95);
    assert!((found - wanted).abs() <= 2e-3, "mAP50-95 {found}, in f32 {wanted}");
}

#[test]
fn int8_finds_what_the_int8_of_the_cpu_finds_to_the_bit() {
    let Some(Scene { model, photos, inputs }) = scene() else { return };
    let ranges = quantise::ranges(&model, &inputs, (SIDE, SIDE), &mut |_, _| ()).unwrap();
    let model = quantise::quantise(&model, &ranges);
    let wanted = photos.find(&model, 2, &|_| ()).unwrap();
    let found = photos.find_on(Device::Cuda(0), &model, 1, &|_| ()).unwrap();
    assert!(wanted.iter().filter(|detected| detected.score >= f64::from(SHOWN)).count() >= inputs.len());
    assert!(Isa::detect().fuses(), "this CPU rounds products and sums apart from each other");
    assert_eq!(found, wanted);
}
