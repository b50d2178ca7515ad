//! Softmax cross-entropy.

use super::{HeadView, LossError};

/// A classification loss and its gradient.
#[derive(Clone, Debug)]
pub struct Classification {
    /// Mean cross-entropy over the batch, in nats.
    pub loss: f64,
    /// `d loss / d logits`, in the layout of the logits.
    pub grad: Vec<f32>,
    /// Images whose largest logit is their label's.
    pub correct: usize,
}

/// Mean softmax cross-entropy of logits `[N, nc, 1, 1]` against one label per image.
///
/// # Errors
/// If the shapes do not fit, or a label is not a class.
pub fn classify(logits: HeadView<'_>, labels: &[usize]) -> Result<Classification, LossError> {
    classify_smoothed(logits, labels, 0.0, labels.len())
}

/// As [`classify`], with a share of every target spread over all classes in equal parts (Szegedy et al., "Rethinking
/// the Inception Architecture", 2016). The mean is over `images`, of which others may have some.
///
/// # Errors
/// As [`classify`].
pub fn classify_smoothed(
    logits: HeadView<'_>,
    labels: &[usize],
    smoothing: f64,
    images: usize,
) -> Result<Classification, LossError> {
    let [n, nc, h, w] = logits.shape;
    if [n, h, w] != [labels.len(), 1, 1] || logits.data.len() != n * nc || logits.data.is_empty() {
        let expected = format!("[{}, classes, 1, 1] with that many values", labels.len());
        return Err(LossError::Output { output: 0, found: logits.shape.to_vec(), expected });
    }
    let mut result = Classification { loss: 0.0, grad: Vec::with_capacity(logits.data.len()), correct: 0 };
    for (label, (row, &class)) in logits.data.chunks_exact(nc).zip(labels).enumerate() {
        let wanted = *row.get(class).ok_or_else(|| LossError::Target {
            label,
            problem: format!("class {class} of a head with {nc} classes"),
        })?;
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp: Vec<f64> = row.iter().map(|x| f64::from(x - top).exp()).collect();
        let sum: f64 = exp.iter().sum();
        let all = row.iter().map(|x| f64::from(x - top)).sum::<f64>() / nc as f64;
        let mean = if smoothing == 0.0 { 0.0 } else { smoothing * (all - f64::from(wanted - top)) };
        result.loss += (sum.ln() - f64::from(wanted - top) - mean) / images as f64;
        result.correct += usize::from(wanted == top);
        let target = |i: usize| (1.0 - smoothing) * f64::from(u8::from(i == class)) + smoothing / nc as f64;
        let grad = exp.iter().enumerate().map(|(i, e)| ((e / sum - target(i)) / images as f64) as f32);
        result.grad.extend(grad);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let base = [0.3f32, -1.2, 2.0, 0.7, 90.0, -90.0, 0.0, 89.5];
        for smoothing in [0.0, 0.1, 1.0] {
            let view = |data: &[f32]| {
                classify_smoothed(HeadView { data, shape: [2, 4, 1, 1] }, &[2, 3], smoothing, 2).unwrap()
            };
            let grad = view(&base).grad;
            for i in 0..base.len() {
                let at = |step: f32| {
                    let mut moved = base;
                    moved[i] += step;
                    view(&moved).loss
                };
                let difference = (at(0.0625) - at(-0.0625)) / 0.125;
                assert!((difference - f64::from(grad[i])).abs() < 1e-3, "{i}: {difference} against {}", grad[i]);
            }
        }
        // Of two classes at even odds any target costs the same.
        let even = HeadView { data: &[0.0; 2], shape: [1, 2, 1, 1] };
        assert!((classify_smoothed(even, &[0], 0.2, 1).unwrap().loss - 2f64.ln()).abs() < 1e-12);
        assert!(classify(HeadView { data: &base, shape: [2, 4, 1, 1] }, &[2, 4]).is_err());
    }
}
