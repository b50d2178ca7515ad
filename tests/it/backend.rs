//! The candle backend against the reference: forward passes, and one whole training step.

use crate::forward::yolo;
use crate::support::data;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use secateurs::backend::{Mode, Net};
use secateurs::graph::NodeId;
use secateurs::model::{self, Model, Weights};
use secateurs::train::loss::{self, HeadView, Target};
use secateurs::train::optim;
use secateurs::vision::NormalisedXywh;
use std::path::Path;

fn read(path: &Path) -> Weights {
    model::tensors(path, &std::fs::read(path).unwrap()).unwrap()
}

fn on_cpu(tensor: &model::Tensor) -> Tensor {
    Tensor::from_slice(tensor.data(), tensor.shape(), &Device::Cpu).unwrap()
}

#[test]
fn the_candle_backend_agrees_with_the_golden_forward_passes() {
    crate::forward::check(by_candle);
    crate::forward::check_tasks(by_candle);
}

#[test]
fn the_candle_backend_agrees_with_every_golden_family() {
    let by_candle = |model: &Model, input: &[f32], (height, width): (usize, usize), keep: &[NodeId]| {
        let net = Net::new(model, &Device::Cpu).unwrap().frozen();
        let input = Tensor::from_slice(input, (1, 3, height, width), &Device::Cpu).unwrap();
        let flat = |y: &Tensor| y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut kept = vec![Vec::new(); keep.len()];
        let mut hook = |id, y: Tensor| {
            keep.iter().zip(&mut kept).filter(|(wanted, _)| **wanted == id).for_each(|(_, slot)| *slot = flat(&y));
            Ok(y)
        };
        let outputs = net.forward_with(&input, Mode::Eval, &mut hook).unwrap();
        (outputs.iter().map(flat).collect(), kept)
    };
    crate::families::goldens::check(by_candle);
}

fn by_candle(model: &model::Model, input: &[f32], height: usize, width: usize) -> Vec<Vec<f32>> {
    let net = Net::new(model, &Device::Cpu).unwrap().frozen();
    let input = Tensor::from_slice(input, (1, 3, height, width), &Device::Cpu).unwrap();
    let outputs = net.forward(&input, Mode::Eval).unwrap();
    outputs.iter().map(|y| y.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

/// The reference's weights after one step, its gradients and its statistics.
#[test]
fn one_step_equals_the_reference() {
    let (Some(golden), Some(model)) = (data("golden/train-step.safetensors"), yolo("models/yolo11n-bccd.safetensors"))
    else {
        return;
    };
    let bytes = std::fs::read(&golden).unwrap();
    let ints = |key: &str| {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(key).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    let golden = read(&golden);
    let boxes = golden["bboxes"].data().chunks_exact(4);
    let targets = ints("batch_idx").into_iter().zip(ints("cls")).zip(boxes).map(|((image, class), bbox)| Target {
        image: image as usize,
        class: class as usize,
        bbox: NormalisedXywh(bbox.try_into().unwrap()),
    });
    let targets: Vec<Target> = targets.collect();

    for (nesterov, after) in [(false, "after_plain"), (true, "after_nesterov")] {
        let net = Net::new(&model, &Device::Cpu).unwrap();
        let outputs = net.forward(&on_cpu(&golden["input"]), Mode::Train).unwrap();
        let values: Vec<Vec<f32>> = outputs.iter().map(|o| o.flatten_all().unwrap().to_vec1().unwrap()).collect();
        let views = outputs.iter().zip(&values).map(|(output, data)| {
            let (n, c, h, w) = output.dims4().unwrap();
            HeadView { data, shape: [n, c, h, w] }
        });
        let loss = loss::detect(&model.graph.head, &views.collect::<Vec<_>>(), &targets).unwrap();
        for (found, wanted) in [loss.box_, loss.cls, loss.dfl].into_iter().zip(golden["loss_items"].data()) {
            assert!((found - f64::from(*wanted)).abs() < 1e-4 * found, "{found}, expected {wanted}");
        }
        let pairs = outputs.iter().zip(&loss.grads);
        let products = pairs.map(|(output, grad)| {
            let grad = Tensor::from_slice(grad, output.shape(), &Device::Cpu).unwrap();
            (output * grad).unwrap().sum_all().unwrap()
        });
        let sum = products.reduce(|a, b| (a + b).unwrap()).unwrap();
        let grads = sum.backward().unwrap();
        let norm = optim::grad_norm(net.params(), &grads).unwrap();
        assert!((norm - 29.665_438_7).abs() < 1e-3, "norm of all gradients: {norm}");

        let close = |what: &str, found: &[f32], wanted: &[f32], tolerance: f64| {
            let error: f64 = found.iter().zip(wanted).map(|(f, w)| f64::from(f - w).powi(2)).sum();
            let size: f64 = wanted.iter().map(|w| f64::from(*w).powi(2)).sum();
            assert_eq!(found.len(), wanted.len(), "{what}");
            assert!(error.sqrt() <= tolerance * size.sqrt(), "{what}: {} of {}", error.sqrt(), size.sqrt());
        };
        let mut gradients = 0;
        for (key, wanted) in golden.iter().filter_map(|(key, wanted)| Some((key.strip_prefix("grad.")?, wanted))) {
            let (_, var) = net.params().iter().find(|(k, _)| k == key).unwrap();
            let found: Vec<f32> = grads.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            // The reference itself is this far from its own f64 computation.
            close(key, &found, wanted.data(), 3e-4);
            gradients += 1;
        }
        assert_eq!(gradients, 19);
        let rule = optim::Rule::Sgd { momentum: 0.937, nesterov };
        optim::Optimizer::new(rule, 5e-4).step(net.params(), &grads, 0.01, 1.0).unwrap();
        let stepped = net.to_model().unwrap().weights;
        let mut seen = 0;
        for (key, wanted) in &golden {
            let (key, statistics) = match (key.strip_prefix(after), key.strip_prefix("bn_after")) {
                (Some(key), _) => (key, false),
                (_, Some(key)) => (key, true),
                _ => continue,
            };
            let key = key.trim_start_matches('.');
            let Some(found) = stepped.get(key) else { continue };
            close(key, found.data(), wanted.data(), if statistics { 1e-4 } else { 1e-5 });
            seen += 1;
        }
        assert!(seen > 100, "{seen}");
    }
}
