//! What squares of gradients take on a device, and what they are not given.

use super::*;
use crate::kernels::cuda::emulated;
use crate::model::{Info, Weights};
use crate::training::tests::graphs::random_model;
use crate::zoo::yolo11::{Scale, detect};

#[test]
fn a_batch_is_halved_until_it_fits_and_what_does_not_fit_is_told() {
    let Some(device) = emulated::device() else { return };
    let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
    let (size, free) = ((320, 320), |batch| GradientSquares::bytes(&graph, (320, 320), batch).unwrap());
    assert!(free(1) < free(2) && free(2) < free(4) && free(4) < free(7));
    for (batch, free, fits) in
        [(7, free(7), 7), (7, free(7) - 1, 4), (7, free(4) - 1, 2), (4, free(1), 1), (0, free(1), 1)]
    {
        let plan = Plan::fitting(&graph, size, batch, free).unwrap();
        assert_eq!((plan.batch, plan.bytes <= free), (fits, true), "{batch} images, {free} bytes");
    }
    assert!(matches!(
        Plan::fitting(&graph, size, 3, free(1) - 1),
        Err(TrainingError::Memory { batch: 3, fits: None, .. })
    ));
    // The emulated device has 8 GiB.
    let side =
        (1..).map(|n| 640 * n).find(|side| Plan::new(&graph, (*side, *side), 1).unwrap().bytes > 8 << 30).unwrap();
    let needed = GradientSquares::bytes(&graph, (side, side), 4).unwrap() >> 20;
    let model = Model { graph, weights: Weights::new(), info: Info::default() };
    let Err(problem) = GradientSquares::new(device, &model, (side, side), 4) else { panic!("{side} px fit") };
    let free = "8192 MiB are free; not even one image would fit";
    assert_eq!(problem.to_string(), format!("a step of 4 images needs {needed} MiB of GPU memory, {free}"));
}

#[test]
fn what_does_not_go_together_is_told() {
    let Some(device) = emulated::device() else { return };
    let (model, [_, c, h, w], _) = random_model(3, 2);
    let mut squares = GradientSquares::new(device, &model, (h, w), 2).unwrap();
    let image = vec![0.5; c * h * w];
    let problem = squares.forward(&[vec![0.5; 3]]).unwrap_err().to_string();
    assert_eq!(problem, format!("the images of a step have 3 values, expected {}", c * h * w));
    let three = [image.clone(), image.clone(), image.clone()];
    let problem = squares.forward(&three).unwrap_err().to_string();
    let values = c * h * w;
    assert_eq!(problem, format!("the images of a step have {} values, expected at most {}", 3 * values, 2 * values));
    let outputs = squares.forward(&[image]).unwrap();
    let mut gradients = outputs.clone();
    gradients[0].push(0.0);
    let Err(TrainingError::Length { what, found, .. }) = squares.backward(&gradients) else { panic!("taken") };
    assert_eq!((what, found), ("gradients", outputs.concat().len() + 1));
    let found = squares.backward(&outputs).unwrap();
    assert!(squares.forward(&[]).unwrap().concat().is_empty());
    assert!(!found.is_empty());
}
