//! A whole step of YOLO11n on the emulated driver against the reference's.

mod loss;
mod ranks;

use super::*;
use crate::import;
use crate::kernels::cuda::emulated;
use crate::model::tensors;
use crate::quantise::{self, Ranges};
use crate::ranks::{Ranks, Share};
use crate::train::Int8Epochs;
use crate::train::autograd::Autograd;
use crate::train::labels::Labels;
use crate::train::loss::Target;
use crate::vision::NormalisedXywh;
use safetensors::SafeTensors;
use std::env;
use std::path::{Path, PathBuf};

/// A path below the data folder, as the tests in tests/it find it.
fn data(path: &str) -> Option<PathBuf> {
    let root = env::var_os("SECATEURS_DATA").map(PathBuf::from);
    let full = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data")).join(path);
    if !full.exists() {
        assert!(env::var_os("CI").is_none(), "{} is missing, and in CI nothing skips", full.display());
        crate::output::message("", "skipped", &format!(": {} is not there (SECATEURS_DATA)", full.display()));
        return None;
    }
    Some(full)
}

/// The batch of the reference's step.
fn batch(path: &Path, golden: &Weights) -> Batch {
    let bytes = std::fs::read(path).unwrap();
    let ints = |key: &str| {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(key).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    let boxes = golden["bboxes"].data().chunks_exact(4);
    let targets = ints("batch_idx").into_iter().zip(ints("cls")).zip(boxes).map(|((image, class), bbox)| Target {
        image: image as usize,
        class: class as usize,
        bbox: NormalisedXywh(bbox.try_into().unwrap()),
    });
    let labels = Labels { targets: targets.collect(), ..Labels::default() };
    Batch {
        images: golden["input"].data().to_vec(),
        share: Share::new(&Ranks::default(), golden["input"].shape()[0]),
        labels,
    }
}

/// The distance of two vectors by the length of the second.
fn close(what: &str, found: &[f32], wanted: &[f32], tolerance: f64) {
    let error: f64 = found.iter().zip(wanted).map(|(f, w)| f64::from(f - w).powi(2)).sum();
    let size: f64 = wanted.iter().map(|w| f64::from(*w).powi(2)).sum();
    assert_eq!(found.len(), wanted.len(), "{what}");
    assert!(error.sqrt() <= tolerance * size.sqrt(), "{what}: {} of {}", error.sqrt(), size.sqrt());
}

#[test]
fn one_step_on_the_emulated_device_equals_the_reference() {
    let (Some(path), Some(weights)) = (data("golden/train-step.safetensors"), data("models/yolo11n-bccd.safetensors"))
    else {
        return;
    };
    if emulated::device().is_none() {
        return;
    }
    let golden = tensors(&path, &std::fs::read(&path).unwrap()).unwrap();
    let model = import::load(&weights).unwrap();
    let batch = batch(&path, &golden);
    let config = FitConfig {
        optimizer: Rule::Sgd { momentum: 0.937, nesterov: true },
        weight_decay: 5e-4,
        clip: 1e9,
        imgsz: 160.into(),
        ..FitConfig::default()
    };
    let cuda = Cuda { ordinal: 0, mixed: false };
    let mut stepper = OnCuda::new(&model, None, (&config, &[batch.size()], 300), cuda).unwrap();
    let at = At { epoch: 0, step: 0, steps: 1, epochs: 1 };
    let terms = stepper.backward(&batch, at).unwrap();
    for (found, wanted) in [terms.box_, terms.cls, terms.dfl].into_iter().zip(golden["loss_items"].data()) {
        assert!((found - f64::from(*wanted)).abs() < 1e-4 * found, "{found}, expected {wanted}");
    }
    let gradients = stepper.engine.gradients().unwrap();
    let mut seen = 0;
    for (key, wanted) in golden.iter().filter_map(|(key, wanted)| Some((key.strip_prefix("grad.")?, wanted))) {
        // The reference itself is this far from its own f64 computation.
        close(key, gradients[key].data(), wanted.data(), 3e-4);
        seen += 1;
    }
    assert_eq!(seen, 19);
    // Through the host, as ranks of a data-parallel training exchange them.
    let length = stepper.gradients().unwrap().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let norm = stepper.update(0.01).unwrap();
    assert!((norm - 29.665_438_7).abs() < 1e-3 && (length - norm).abs() < 1e-3, "norms: {norm}, {length}");
    let state = stepper.state().unwrap();
    let mut seen = 0;
    for (key, wanted) in &golden {
        let (key, tolerance) = match (key.strip_prefix("after_nesterov."), key.strip_prefix("bn_after.")) {
            (Some(key), _) => (key, 1e-5),
            (_, Some(key)) => (key, 1e-4),
            _ => continue,
        };
        let Some(found) = state.raw.get(key) else { continue };
        close(key, found.data(), wanted.data(), tolerance);
        seen += 1;
    }
    assert!(seen > 100, "{seen} tensors");
    // What is restored is what was saved.
    stepper.restore(&State::new(&model.weights)).unwrap();
    stepper.restore(&state).unwrap();
    assert_eq!(stepper.state().unwrap(), state);
}

/// The same batch, first with statistics of the batch, then with the running ones that stay.
#[test]
fn steps_that_train_for_int8_are_those_of_the_cpu() {
    let (Some(path), Some(weights)) = (data("golden/train-step.safetensors"), data("models/yolo11n-bccd.safetensors"))
    else {
        return;
    };
    if emulated::device().is_none() {
        return;
    }
    let golden = tensors(&path, &std::fs::read(&path).unwrap()).unwrap();
    let model = import::load(&weights).unwrap();
    let batch = batch(&path, &golden);
    let int8 = Int8Epochs { epochs: 2, ..Int8Epochs::default() };
    let config = FitConfig {
        optimizer: Rule::Sgd { momentum: 0.937, nesterov: true },
        imgsz: 160.into(),
        epochs: 2,
        int8,
        ..FitConfig::default()
    };
    let image = golden["input"].data()[..3 * 160 * 160].to_vec();
    let ranges = quantise::ranges(&model, &[image], (160, 160), &mut |_, _| ()).unwrap();
    let mut cpu = Autograd::new(&model, None, &config, &candle_core::Device::Cpu).unwrap();
    let cuda = Cuda { ordinal: 0, mixed: false };
    let mut cuda = OnCuda::new(&model, None, (&config, &[batch.size()], 300), cuda).unwrap();
    let (mut plain, mut statistics) = ([0.0; 2], Weights::new());
    // A layer at a time, early and late ones: hardly any value lies so near to a step that the last bits of it decide.
    let at = At { epoch: 0, step: 0, steps: 1, epochs: 2 };
    for (layer, range) in ranges.iter().step_by(24) {
        let one = Ranges::from([(layer.clone(), *range)]);
        let [cpu, cuda] = [&mut cpu as &mut dyn Stepper, &mut cuda].map(|stepper| {
            let [plain, rounded] = [&Ranges::new(), &one].map(|ranges| {
                stepper.set_int8(ranges).unwrap();
                stepper.backward(&batch, at).unwrap().sum()
            });
            (plain, rounded)
        });
        let (effect, off) = ((cpu.1 - cpu.0).abs(), (cuda.1 - cpu.1).abs());
        assert!(off < 1e-5 * cpu.0 + 0.03 * effect, "{layer}: {cpu:?} on the CPU, {cuda:?} on CUDA");
    }
    for epoch in [0, 1] {
        let at = At { epoch, step: 0, steps: 1, epochs: 2 };
        let mut both = [&mut cpu as &mut dyn Stepper, &mut cuda].map(|stepper| {
            stepper.set_int8(&Ranges::new()).unwrap();
            plain[epoch] = stepper.backward(&batch, at).unwrap().sum();
            stepper.set_int8(&ranges).unwrap();
            let terms = stepper.backward(&batch, at).unwrap();
            (terms.sum(), stepper.gradients().unwrap().to_vec(), stepper)
        });
        let [(wanted, gradients, _), (found, own, _)] = &both;
        // With all layers the last bits decide for some values, and the layers behind read another number: through eighty of
        // them what comes out differs, but by less than what rounding does.
        let (off, effect) = ((found - wanted).abs(), (wanted - plain[epoch]).abs());
        assert!(effect > 3e-3 * wanted && off < effect, "{found}, expected {wanted}; unrounded {}", plain[epoch]);
        let length = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let (wanted, found) = (length(gradients), length(own));
        assert!((found - wanted).abs() < 0.15 * wanted, "a gradient of {found}, expected {wanted}");
        both.iter_mut().for_each(|(.., stepper)| assert!(stepper.update(1e-4).unwrap() > 0.0));
        let [wanted, found] = both.map(|(.., stepper)| stepper.state().unwrap());
        for (wanted, found) in [(&wanted.raw, &found.raw), (&wanted.average, &found.average)] {
            let first = wanted.iter().filter(|(key, _)| key.starts_with("model.0."));
            first.for_each(|(key, wanted)| close(key, found[key].data(), wanted.data(), 1e-3));
        }
        assert_eq!(found.updates, wanted.updates);
        // Of both epochs the first takes statistics anew, and the second keeps them.
        let running = |state: &State| -> Weights {
            let keys = state.raw.iter().filter(|(key, _)| key.contains(".running_"));
            keys.map(|(key, tensor)| (key.clone(), tensor.clone())).collect()
        };
        assert_eq!(running(&found) == statistics, epoch == 1, "epoch {epoch}");
        statistics = running(&found);
    }
}
