//! Optimizers on candle variables: SGD with momentum, and AdamW (Loshchilov and Hutter, 2019). Both compute what
//! PyTorch's do.
//!
//! Weight decay acts on kernels only, that is on parameters with more than one axis: biases and normalisation are left
//! alone. State is kept by parameter key, so that it can be saved and found again.

use crate::model::{Tensor, Weights};
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Var};
use std::collections::BTreeMap;

/// The optimizer and its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent.
    Sgd {
        /// Momentum: share of the last step that is added to the next.
        momentum: f64,
        /// Whether the gradient looks ahead by the momentum.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of the running mean of gradients and of their squares.
        betas: [f64; 2],
        /// Added to the root of the second.
        eps: f64,
    },
}

impl Rule {
    /// AdamW with its usual constants.
    pub const ADAM_W: Self = Self::AdamW { betas: [0.9, 0.999], eps: 1e-8 };

    /// Names of the tensors that are kept per parameter.
    pub(super) fn slots(self) -> &'static [&'static str] {
        match self {
            Self::Sgd { .. } => &["momentum"],
            Self::AdamW { .. } => &["mean", "square"],
        }
    }
}

/// An optimizer with its state.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    steps: u64,
    slots: BTreeMap<String, Vec<candle_core::Tensor>>,
}

impl Optimizer {
    /// An optimizer that has made no step.
    pub fn new(rule: Rule, weight_decay: f64) -> Self {
        Self { rule, weight_decay, steps: 0, slots: BTreeMap::new() }
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves every parameter that has a gradient; gradients are multiplied by `scale` first (see [`clip_scale`]).
    ///
    /// # Errors
    /// Those of candle.
    pub fn step(&mut self, params: &[(String, Var)], grads: &GradStore, lr: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        for (key, var) in params {
            let Some(grad) = grads.get(var.as_tensor()) else { continue };
            let grad = if scale == 1.0 { grad.clone() } else { (grad * scale)? };
            let value = var.as_detached_tensor();
            let decay = if var.dims().len() > 1 { self.weight_decay } else { 0.0 };
            let slots = match self.slots.get_mut(key) {
                Some(slots) => slots,
                None => {
                    let zeros = self.rule.slots().iter().map(|_| value.zeros_like()).collect::<Result<Vec<_>>>()?;
                    self.slots.entry(key.clone()).or_insert(zeros)
                }
            };
            let moved = match self.rule {
                Rule::Sgd { momentum, nesterov } => {
                    let grad = if decay == 0.0 { grad } else { (grad + (&value * decay)?)? };
                    slots[0] = ((&slots[0] * momentum)? + &grad)?;
                    let step = if nesterov { (grad + (&slots[0] * momentum)?)? } else { slots[0].clone() };
                    (value - (step * lr)?)?
                }
                Rule::AdamW { betas: [b1, b2], eps } => {
                    slots[0] = ((&slots[0] * b1)? + (&grad * (1.0 - b1))?)?;
                    slots[1] = ((&slots[1] * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
                    let correction = |b: f64| 1.0 - b.powf(self.steps as f64);
                    let root = (slots[1].sqrt()? * (1.0 / correction(b2).sqrt()))?;
                    let step = (&slots[0] / (root + eps)?)?;
                    ((value * (1.0 - lr * decay))? - (step * (lr / correction(b1)))?)?
                }
            };
            var.set(&moved)?;
        }
        Ok(())
    }

    /// The state as tensors, `{slot}/{key}`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn state(&self) -> Result<Weights> {
        let mut state = Weights::new();
        for (key, tensors) in &self.slots {
            for (slot, tensor) in self.rule.slots().iter().zip(tensors) {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                state.insert(format!("{slot}/{key}"), Tensor::new(tensor.dims(), values));
            }
        }
        Ok(state)
    }

    /// Takes up the state of an optimizer of the same rule after `steps` steps; other tensors are left alone.
    ///
    /// # Errors
    /// Those of candle.
    pub fn restore(&mut self, steps: u64, state: &Weights, device: &Device) -> Result<()> {
        self.steps = steps;
        self.slots.clear();
        let first = self.rule.slots()[0];
        for key in state.keys().filter_map(|k| k.strip_prefix(first)?.strip_prefix('/')) {
            let slots = self.rule.slots().iter().filter_map(|slot| state.get(&format!("{slot}/{key}")));
            let slots = slots.map(|t| candle_core::Tensor::from_slice(t.data(), t.shape(), device));
            let slots = slots.collect::<Result<Vec<_>>>()?;
            if slots.len() == self.rule.slots().len() {
                self.slots.insert(key.to_owned(), slots);
            }
        }
        Ok(())
    }
}

/// Moves every value toward zero by `by`, and no further: the proximal step of an L1 penalty.
///
/// # Errors
/// Those of candle.
pub fn shrink(var: &Var, by: f64) -> Result<()> {
    let value = var.as_detached_tensor();
    let left = (value.abs()? - by)?.relu()?;
    var.set(&(left * value.sign()?)?)
}

/// Euclidean norm of all gradients together.
///
/// # Errors
/// Those of candle.
pub fn grad_norm(params: &[(String, Var)], grads: &GradStore) -> Result<f64> {
    let mut sum = 0.0;
    for (_, var) in params {
        if let Some(grad) = grads.get(var.as_tensor()) {
            sum += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    Ok(sum.sqrt())
}

/// The factor that brings a gradient of this norm down to `limit`, at most 1.
pub fn clip_scale(norm: f64, limit: f64) -> f64 {
    (limit / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps on `sum(w * g)`, whose gradient is `g`, for a kernel `[1, 2]` and a bias `[2]`.
    fn two_steps(rule: Rule, scale: f64) -> [Vec<f32>; 2] {
        let start = Tensor::new([1, 2], vec![1.0, -2.0]);
        let kernel = Var::from_slice(start.data(), (1, 2), &Device::Cpu).unwrap();
        let bias = Var::from_slice(start.data(), 2, &Device::Cpu).unwrap();
        let params = [("k".to_owned(), kernel.clone()), ("b".to_owned(), bias.clone())];
        let mut optimizer = Optimizer::new(rule, 0.1);
        for g in [[0.5f32, -0.25], [1.0, 0.5]] {
            let g = candle_core::Tensor::new(&g, &Device::Cpu).unwrap();
            let loss =
                [kernel.flatten_all().unwrap(), bias.as_tensor().clone()].map(|p| (p * &g).unwrap().sum_all().unwrap());
            let grads = (&loss[0] + &loss[1]).unwrap().backward().unwrap();
            // Saved and restored in between: must make no difference.
            let mut again = Optimizer::new(rule, 0.1);
            again.restore(optimizer.steps(), &optimizer.state().unwrap(), &Device::Cpu).unwrap();
            again.step(&params, &grads, 0.1, scale).unwrap();
            optimizer = again;
        }
        [kernel.flatten_all().unwrap().to_vec1().unwrap(), bias.to_vec1().unwrap()]
    }

    #[test]
    fn steps_follow_the_published_rules() {
        // The rules in f64, written out.
        let sgd = |momentum: f64, nesterov: bool, decay: f64, scale: f64| {
            [1.0f64, -2.0]
                .iter()
                .zip([[0.5, 1.0], [-0.25, 0.5]])
                .map(|(start, grads)| {
                    let (mut w, mut buffer) = (*start, 0.0);
                    for g in grads {
                        let g = g * scale + decay * w;
                        buffer = momentum * buffer + g;
                        w -= 0.1 * if nesterov { g + momentum * buffer } else { buffer };
                    }
                    w
                })
                .collect::<Vec<_>>()
        };
        let adam = |decay: f64, scale: f64| {
            [1.0f64, -2.0]
                .iter()
                .zip([[0.5, 1.0], [-0.25, 0.5]])
                .map(|(start, grads)| {
                    let (mut w, mut mean, mut square) = (*start, 0.0, 0.0);
                    for (g, t) in grads.into_iter().zip([1, 2]) {
                        let g = g * scale;
                        w *= 1.0 - 0.1 * decay;
                        mean = 0.9 * mean + 0.1 * g;
                        square = 0.999 * square + 0.001 * g * g;
                        let root = (square / (1.0 - 0.999f64.powi(t))).sqrt();
                        w -= 0.1 * (mean / (1.0 - 0.9f64.powi(t))) / (root + 1e-8);
                    }
                    w
                })
                .collect::<Vec<_>>()
        };
        let cases: [(Rule, f64, [Vec<f64>; 2]); 4] = [
            (Rule::Sgd { momentum: 0.0, nesterov: false }, 1.0, [sgd(0.0, false, 0.1, 1.0), sgd(0.0, false, 0.0, 1.0)]),
            (Rule::Sgd { momentum: 0.9, nesterov: false }, 0.5, [sgd(0.9, false, 0.1, 0.5), sgd(0.9, false, 0.0, 0.5)]),
            (Rule::Sgd { momentum: 0.9, nesterov: true }, 1.0, [sgd(0.9, true, 0.1, 1.0), sgd(0.9, true, 0.0, 1.0)]),
            (Rule::ADAM_W, 0.5, [adam(0.1, 0.5), adam(0.0, 0.5)]),
        ];
        for (rule, scale, wanted) in cases {
            for (found, wanted) in two_steps(rule, scale).iter().flatten().zip(wanted.iter().flatten()) {
                assert!((f64::from(*found) - wanted).abs() < 1e-5, "{rule:?}: {found}, expected {wanted}");
            }
        }
    }

    #[test]
    fn shrinking_stops_at_zero() {
        let var = Var::from_slice(&[3.0f32, -4.0, 0.25, -0.5, 0.0], 5, &Device::Cpu).unwrap();
        shrink(&var, 0.5).unwrap();
        assert_eq!(var.to_vec1::<f32>().unwrap(), [2.5, -3.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn clipping_limits_the_norm_and_leaves_small_gradients_alone() {
        let var = Var::from_slice(&[3.0f32, 4.0], 2, &Device::Cpu).unwrap();
        let grads = (var.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap().backward().unwrap();
        let norm = grad_norm(&[("w".into(), var)], &grads).unwrap();
        assert!((norm - 5.0).abs() < 1e-6);
        assert!((clip_scale(norm, 1.0) * norm - 1.0).abs() < 1e-5);
        assert_eq!(clip_scale(norm, 10.0), 1.0);
    }
}
