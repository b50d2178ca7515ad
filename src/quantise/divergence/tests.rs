//! What a head predicts for its objects: values, gradients, and the curvature where both sides agree.

use super::*;

const SIZE: (usize, usize) = (32, 48);

/// Heads of two levels and the lengths of their outputs.
fn heads() -> Vec<(Head, Vec<usize>)> {
    let strides = vec![8, 16];
    let lengths = |reg_max: usize, extra: usize, prototypes: usize| {
        let cells = [4 * 6, 2 * 3];
        let pairs = cells.iter().flat_map(|cells| [4 * reg_max * cells, 2 * cells]);
        let extra = cells.iter().filter(|_| extra > 0).map(|cells| extra * cells);
        pairs.chain(extra).chain((prototypes > 0).then_some(prototypes * 8 * 12)).collect()
    };
    let mut all = Vec::new();
    for reg_max in [4, 1] {
        let (nc, strides) = (2, strides.clone());
        let segment = Head::Segment { nc, reg_max, strides: strides.clone(), masks: 3 };
        all.push((segment, lengths(reg_max, 3, 3)));
        let pose = Head::Pose { nc, reg_max, strides: strides.clone(), keypoints: 2, dims: 3 };
        all.push((pose, lengths(reg_max, 6, 0)));
        all.push((Head::Obb { nc, reg_max, strides }, lengths(reg_max, 1, 0)));
    }
    all
}

/// Sensible values: distances above zero, classes from unlikely to likely.
fn outputs(lengths: &[usize], seed: usize) -> Vec<Vec<f32>> {
    let value = |output: usize, i: usize| ((i * 37 + output * 11 + seed * 61) % 103) as f32 / 51.0;
    let of = |(output, len): (usize, &usize)| (0..*len).map(|i| value(output, i)).collect();
    let mut all: Vec<Vec<f32>> = lengths.iter().enumerate().map(of).collect();
    for output in [1, 3] {
        all[output].iter_mut().for_each(|v| *v = 4.0 * *v - 7.0);
    }
    all
}

fn views(outputs: &[Vec<f32>]) -> Vec<&[f32]> {
    outputs.iter().map(Vec::as_slice).collect()
}

#[test]
fn the_gradient_of_what_a_task_predicts_agrees_with_differences() {
    for (head, lengths) in heads() {
        let (reference, found) = (outputs(&lengths, 1), outputs(&lengths, 2));
        let run = |found: &[Vec<f32>]| {
            let mut grads: Vec<Vec<f64>> = lengths.iter().map(|len| vec![0.0; *len]).collect();
            let mut add = |output: usize, at: usize, slope: f64| grads[output][at] += slope;
            let total = task_divergence(&head, SIZE, &views(&reference), &views(found), Some(&mut add));
            (total, grads)
        };
        let (total, grads) = run(&found);
        assert!(total > 0.0, "{head:?}");
        assert!(task_divergence(&head, SIZE, &views(&reference), &views(&reference), None) < 1e-9);
        let mut moved_any = false;
        for (output, len) in lengths.iter().enumerate() {
            for at in (0..*len).step_by(5) {
                let moved = |step: f32| {
                    let mut moved = found.clone();
                    moved[output][at] += step;
                    run(&moved).0
                };
                let (difference, grad) = ((moved(1e-2) - moved(-1e-2)) / 2e-2, grads[output][at]);
                assert!(
                    (difference - grad).abs() < 1e-3 * (1.0 + grad.abs()),
                    "{head:?} {output} {at}: {difference} {grad}"
                );
                moved_any |= grad != 0.0;
            }
        }
        assert!(moved_any, "{head:?}");
    }
}

#[test]
fn the_curvature_is_that_of_the_divergence() {
    for (head, lengths) in heads() {
        let reference = outputs(&lengths, 1);
        let direction = outputs(&lengths, 3);
        let step = 1e-2;
        let along = |sign: f32| {
            let of = |(r, d): (&Vec<f32>, &Vec<f32>)| r.iter().zip(d).map(|(r, d)| r + sign * step * d).collect();
            let moved: Vec<Vec<f32>> = reference.iter().zip(&direction).map(of).collect();
            task_divergence(&head, SIZE, &views(&reference), &views(&moved), None)
        };
        let measured = (along(1.0) + along(-1.0)) / f64::from(step * step);
        let mut expected = 0.0;
        predictions(&head, SIZE, &views(&reference), &mut |prediction| {
            let mut slope = 0.0;
            let mut add = |output: usize, at: usize, d: f64| slope += d * f64::from(direction[output][at]);
            prediction.pass_down(&views(&reference), 1.0, &mut add);
            expected += prediction.weight * prediction.curvature(&views(&reference)) * slope * slope;
        });
        assert!(expected > 0.0 && (measured - expected).abs() < 0.03 * expected, "{head:?}: {measured} {expected}");
    }
}

#[test]
fn what_a_task_adds_counts_in_the_divergence_of_outputs() {
    for (head, lengths) in heads() {
        let reference = outputs(&lengths, 1);
        assert!(kl_divergence(&head, SIZE, &reference, &reference) < 1e-9);
        // The task's own output alone.
        let mut other = reference.clone();
        other[4].iter_mut().for_each(|v| *v += 0.5);
        assert!(kl_divergence(&head, SIZE, &reference, &other) > 1e-5, "{head:?}");
    }
}
