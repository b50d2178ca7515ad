//! A normalising flow over the plane (Dinh et al., "Density estimation using Real NVP", ICLR 2017): the density that
//! the residuals of keypoints are measured by. Its couplings and their gradient are written out.

use std::f64::consts::TAU;

/// Couplings of a flow.
const COUPLINGS: usize = 6;
/// Layers of the networks in a coupling.
const LAYERS: usize = 3;
/// The most values of a layer's output.
const MAX_WIDTH: usize = 1 << 12;

/// An affine map: weights `[out][in]`, and `out` biases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// Row after row.
    pub weights: Vec<f64>,
    /// One per row.
    pub bias: Vec<f64>,
}

/// Three affine maps with SiLU between them: from the plane to the plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// The maps in order.
    pub layers: [Linear; LAYERS],
}

/// One coupling: the axis that is kept gives scale and shift of the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coupling {
    /// 1 for the axis that is kept, 0 for the other.
    pub mask: [f64; 2],
    /// Logarithm of the scale, before a hyperbolic tangent.
    pub scale: Network,
    /// The shift.
    pub shift: Network,
}

/// A flow from residuals to a standard normal distribution.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// From the normal distribution to the residuals: density runs through them backwards.
    pub couplings: [Coupling; COUPLINGS],
}

/// Everything that a network computed: input, and inputs and outputs of its activations.
struct NetworkPass {
    values: [Vec<f64>; LAYERS],
    before: [Vec<f64>; LAYERS],
}

/// What a coupling computed.
struct CouplingPass {
    z: [f64; 2],
    scale: NetworkPass,
    shift: NetworkPass,
    s: [f64; 2],
    t: [f64; 2],
}

/// The density of a residual, and what its gradient needs.
pub struct Pass {
    /// Natural logarithm of the density.
    pub log_density: f64,
    /// Where the residual ends.
    z: [f64; 2],
    /// Couplings in the order in which they were run through: the last of the flow first.
    couplings: Vec<CouplingPass>,
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Linear {
    fn run(&self, input: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(input.len().max(1)).zip(&self.bias);
        rows.map(|(row, bias)| row.iter().zip(input).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
    }

    /// The gradient of the input; adds that of the parameters.
    fn back(&self, input: &[f64], d_output: &[f64], grad: Option<&mut Self>) -> Vec<f64> {
        let mut d_input = vec![0.0; input.len()];
        for (row, d) in self.weights.chunks_exact(input.len().max(1)).zip(d_output) {
            d_input.iter_mut().zip(row).for_each(|(sum, w)| *sum += d * w);
        }
        if let Some(grad) = grad {
            for (row, d) in grad.weights.chunks_exact_mut(input.len().max(1)).zip(d_output) {
                row.iter_mut().zip(input).for_each(|(sum, x)| *sum += d * x);
            }
            grad.bias.iter_mut().zip(d_output).for_each(|(sum, d)| *sum += d);
        }
        d_input
    }
}

impl Network {
    fn run(&self, input: [f64; 2]) -> (NetworkPass, [f64; 2]) {
        let mut pass = NetworkPass { values: Default::default(), before: Default::default() };
        let mut value = input.to_vec();
        for (i, layer) in self.layers.iter().enumerate() {
            let before = layer.run(&value);
            pass.values[i] = value;
            value = before.iter().map(|x| x * logistic(*x)).collect();
            pass.before[i] = before;
        }
        let last = &pass.before[LAYERS - 1];
        let output = [0, 1].map(|axis| last.get(axis).copied().unwrap_or_default());
        (pass, output)
    }

    fn back(&self, pass: &NetworkPass, d_output: [f64; 2], mut grad: Option<&mut Self>) -> [f64; 2] {
        let mut d = d_output.to_vec();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            if i + 1 < LAYERS {
                let slope = |x: f64| logistic(x) * (1.0 + x * (1.0 - logistic(x)));
                d.iter_mut().zip(&pass.before[i]).for_each(|(d, x)| *d *= slope(*x));
            }
            d = layer.back(&pass.values[i], &d, grad.as_mut().map(|grad| &mut grad.layers[i]));
        }
        [0, 1].map(|axis| d.get(axis).copied().unwrap_or_default())
    }
}

impl Flow {
    /// Reads a flow from named tensors, `mask` and `s.0.0.weight` to `t.5.4.bias`; `None` where one is missing or of
    /// another size. `tensor` gives the values of a name.
    pub fn read(tensor: impl Fn(&str) -> Option<Vec<f64>>) -> Option<Self> {
        let masks = tensor("mask").filter(|mask| mask.len() == 2 * COUPLINGS)?;
        let mut flow = Self::default();
        for (i, coupling) in flow.couplings.iter_mut().enumerate() {
            coupling.mask = [masks[2 * i], masks[2 * i + 1]];
            for (name, network) in [("s", &mut coupling.scale), ("t", &mut coupling.shift)] {
                let mut inputs = 2;
                for (number, layer) in network.layers.iter_mut().enumerate() {
                    let name = |what: &str| format!("{name}.{i}.{}.{what}", 2 * number);
                    (layer.weights, layer.bias) = (tensor(&name("weight"))?, tensor(&name("bias"))?);
                    let outputs = layer.bias.len();
                    if !(1..=MAX_WIDTH).contains(&outputs) || layer.weights.len() != inputs * outputs {
                        return None;
                    }
                    inputs = outputs;
                }
                if inputs != 2 {
                    return None;
                }
            }
        }
        Some(flow)
    }

    /// A flow of the same sizes with nothing in it, to add gradients to.
    pub fn zeros_like(&self) -> Self {
        let mut zeros = self.clone();
        zeros.parameters_mut(&mut |values| values.fill(0.0));
        zeros
    }

    /// Calls `f` with all weights and all biases.
    pub fn parameters_mut(&mut self, f: &mut dyn FnMut(&mut [f64])) {
        for coupling in &mut self.couplings {
            for network in [&mut coupling.scale, &mut coupling.shift] {
                for layer in &mut network.layers {
                    f(&mut layer.weights);
                    f(&mut layer.bias);
                }
            }
        }
    }

    /// Adds the parameters of a flow of the same sizes, times a factor.
    pub fn add(&mut self, other: &Self, factor: f64) {
        for (coupling, theirs) in self.couplings.iter_mut().zip(&other.couplings) {
            for (network, theirs) in [(&mut coupling.scale, &theirs.scale), (&mut coupling.shift, &theirs.shift)] {
                for (layer, theirs) in network.layers.iter_mut().zip(&theirs.layers) {
                    layer.weights.iter_mut().zip(&theirs.weights).for_each(|(sum, v)| *sum += factor * v);
                    layer.bias.iter_mut().zip(&theirs.bias).for_each(|(sum, v)| *sum += factor * v);
                }
            }
        }
    }

    /// The density of a residual.
    pub fn log_density(&self, residual: [f64; 2]) -> Pass {
        let (mut z, mut log_density) = (residual, 0.0);
        let mut couplings = Vec::with_capacity(COUPLINGS);
        for coupling in self.couplings.iter().rev() {
            let mask = coupling.mask;
            let kept = [mask[0] * z[0], mask[1] * z[1]];
            let ((scale, s), (shift, t)) = (coupling.scale.run(kept), coupling.shift.run(kept));
            let s: [f64; 2] = std::array::from_fn(|i| s[i].tanh() * (1.0 - mask[i]));
            let t: [f64; 2] = std::array::from_fn(|i| t[i] * (1.0 - mask[i]));
            let next = std::array::from_fn(|i| (1.0 - mask[i]) * (z[i] - t[i]) * (-s[i]).exp() + kept[i]);
            log_density -= s[0] + s[1];
            couplings.push(CouplingPass { z, scale, shift, s, t });
            z = next;
        }
        log_density -= (z[0] * z[0] + z[1] * z[1]) / 2.0 + TAU.ln();
        Pass { log_density, z, couplings }
    }

    /// `factor` times the gradient of the logarithm of the density with respect to the residual; adds that of the
    /// parameters to `grad`.
    pub fn add_gradient(&self, pass: &Pass, factor: f64, mut grad: Option<&mut Self>) -> [f64; 2] {
        let mut d = pass.z.map(|z| -factor * z);
        for (i, (coupling, pass)) in self.couplings.iter().zip(pass.couplings.iter().rev()).enumerate() {
            let (mask, s) = (coupling.mask, pass.s);
            let open = |axis: usize| 1.0 - mask[axis];
            let shrink: [f64; 2] = std::array::from_fn(|axis| d[axis] * open(axis) * (-s[axis]).exp());
            let d_t = std::array::from_fn(|axis| -shrink[axis] * open(axis));
            let d_s = std::array::from_fn(|axis| {
                let slope = 1.0 - s[axis] * s[axis];
                (-shrink[axis] * (pass.z[axis] - pass.t[axis]) - factor) * open(axis) * slope
            });
            let mut grad = grad.as_mut().map(|grad| &mut grad.couplings[i]);
            let from_scale = coupling.scale.back(&pass.scale, d_s, grad.as_mut().map(|grad| &mut grad.scale));
            let from_shift = coupling.shift.back(&pass.shift, d_t, grad.as_mut().map(|grad| &mut grad.shift));
            d = std::array::from_fn(|axis| shrink[axis] + mask[axis] * (d[axis] + from_scale[axis] + from_shift[axis]));
        }
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let value = |name: &str, i: usize| {
            let seed = name.bytes().fold(i as u64 + 7, |h, b| h.wrapping_mul(1_099_511_628_211) ^ u64::from(b));
            (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1u32 << 24) - 0.5
        };
        let tensor = |name: &str| {
            let widths = [2, 5, 4, 2];
            let layer = name.split('.').nth(2).map_or(0, |n| n.parse::<usize>().unwrap() / 2);
            Some(match name {
                "mask" => (0..12).map(|i| f64::from(u8::from((i / 2 + i) % 2 == 1))).collect(),
                _ if name.ends_with("bias") => (0..widths[layer + 1]).map(|i| value(name, i)).collect(),
                _ => (0..widths[layer] * widths[layer + 1]).map(|i| value(name, i)).collect(),
            })
        };
        let flow = Flow::read(tensor).unwrap();
        assert!(Flow::read(|name| tensor(name).filter(|_| name != "t.5.4.bias")).is_none());
        let at = [0.7, -0.4];
        let mut grad = flow.zeros_like();
        let d = flow.add_gradient(&flow.log_density(at), 2.0, Some(&mut grad));
        for axis in 0..2 {
            let moved = |step: f64| {
                let mut moved = at;
                moved[axis] += step;
                2.0 * flow.log_density(moved).log_density
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((difference - d[axis]).abs() < 1e-7, "{axis}: {difference}, {}", d[axis]);
        }
        // Every parameter, one after the other.
        let mut all = Vec::new();
        grad.parameters_mut(&mut |values| all.extend_from_slice(values));
        let moved = |number: usize, step: f64| {
            let (mut moved, mut first) = (flow.clone(), 0);
            moved.parameters_mut(&mut |values| {
                if let Some(value) = number.checked_sub(first).and_then(|at| values.get_mut(at)) {
                    *value += step;
                }
                first += values.len();
            });
            2.0 * moved.log_density(at).log_density
        };
        for (number, d) in all.iter().enumerate() {
            let difference = (moved(number, 1e-5) - moved(number, -1e-5)) / 2e-5;
            assert!((difference - d).abs() < 1e-7, "{number}: {difference}, {d}");
        }
        assert!(all.iter().filter(|d| d.abs() > 1e-6).count() > 100);
    }
}
