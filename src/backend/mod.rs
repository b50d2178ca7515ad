//! A graph on candle tensors, on the CPU: gradients for training and importance.
//!
//! The operations are our own ([`cpu`]) with analytic gradients: candle's are slow backward, and some are wrong. What
//! [`composed`] builds of candle operations has gradients that are right; tests hold our own against it.
//!
//! Candle splits its own element-wise operations over threads that wait for each other busily; `CANDLE_NUM_THREADS=1`
//! in the environment keeps it from that where all cores are busy with the operations of this module.

mod composed;
mod cpu;
mod custom_ops;
pub mod ops;
mod rounding;

#[cfg(test)]
mod tests;

use crate::graph::{Attention, Conv, ConvTranspose, NodeId, Norm, Op};
use crate::kernels::InputSteps;
use crate::model::{self, Model};
use crate::ranks::Share;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use cpu::geometry::Geometry;
use cpu::norm::Moments;
use cpu::window::Pool;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Weight of a batch's statistics in the running ones.
pub const MOMENTUM: f64 = 0.03;

/// Whether normalisations use the running statistics or those of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The running statistics, which do not change. Gradients pass through.
    Eval,
    /// The statistics of the batch, which also move the running ones.
    Train,
}

/// Sees the tensor of every node and may replace it.
pub type Hook<'a> = &'a mut dyn FnMut(NodeId, Tensor) -> Result<Tensor>;

/// A model whose tensors are on a device.
pub struct Net {
    model: Model,
    device: Device,
    params: Vec<(String, Var)>,
    index: HashMap<String, usize>,
    /// Running statistics `[C]` by key.
    running: Mutex<BTreeMap<String, Tensor>>,
    /// Whether the operations are those of [`cpu`]; else those that the tests hold against them.
    own: bool,
    frozen: bool,
    /// The images of the next batch as a share of a larger one.
    share: Option<Share>,
    /// By node whether no gradient passes from it to nodes that are not so marked.
    apart: Vec<bool>,
    /// By node the steps of its input where it computes as in int8.
    rounded: Vec<Option<InputSteps>>,
    /// Weight of the next batch's statistics in the running ones.
    momentum: f64,
}

impl Net {
    /// Puts a model on a device.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(model: &Model, device: &Device) -> Result<Self> {
        let (mut params, mut index, mut running) = (Vec::new(), HashMap::new(), BTreeMap::new());
        for param in model.graph.params() {
            let tensor = model.tensor(&param.key);
            let tensor = Tensor::from_slice(tensor.data(), tensor.shape(), device)?;
            if !param.trainable {
                running.insert(param.key, tensor);
            } else if !index.contains_key(&param.key) {
                index.insert(param.key.clone(), params.len());
                params.push((param.key, Var::from_tensor(&tensor)?));
            }
        }
        let apart = model.graph.one2one_only();
        let rounded = vec![None; model.graph.nodes.len()];
        let (model, running, device) = (model.clone(), Mutex::new(running), device.clone());
        let (own, frozen, share, momentum) = (true, false, None, MOMENTUM);
        Ok(Self { model, device, params, index, running, own, frozen, share, apart, rounded, momentum })
    }

    /// The same net without gradients of its parameters: for inference, for teachers, and for gradients of the image or
    /// of masks alone. Tensors are dropped as soon as nothing needs them.
    pub fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    /// The next batches are this rank's share of larger ones: normalisations use the statistics of these. Gradients are
    /// to be summed over all ranks.
    pub fn set_share(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// From now on the convolutions that are named compute with the input and the kernel that they have in int8, the
    /// input quantized to the range given; all others as they are. Gradients pass the rounding unchanged, but for inputs
    /// outside of the range, which get none.
    pub fn set_int8(&mut self, ranges: &BTreeMap<String, [f32; 2]>) {
        let graph = &self.model.graph;
        self.rounded.fill(None);
        for (id, _) in graph.convs() {
            self.rounded[id.index()] = ranges.get(&graph.node(id).name).map(|range| InputSteps::of(*range));
        }
    }

    /// The weight of the next batches' statistics in the running ones: [`MOMENTUM`], where nobody says otherwise.
    pub fn set_momentum(&mut self, momentum: f64) {
        self.momentum = momentum;
    }

    /// The trainable parameters by key, in execution order.
    pub fn params(&self) -> &[(String, Var)] {
        &self.params
    }

    /// The outputs of the graph for images `[N, C, H, W]`. Where an end-to-end head has both branches, the one-to-one
    /// branch passes no gradient to the layers below it, which the other one trains (Wang et al., "YOLOv10", 2024).
    ///
    /// # Errors
    /// Those of candle; sizes that do not fit the graph.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Vec<Tensor>> {
        self.forward_with(images, mode, &mut |_, tensor| Ok(tensor))
    }

    /// As [`forward`](Self::forward), with a hook that sees every node's tensor in execution order and may replace it.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and those of the hook.
    pub fn forward_with(&self, images: &Tensor, mode: Mode, hook: Hook<'_>) -> Result<Vec<Tensor>> {
        let (_, _, h, w) = images.dims4()?;
        let graph = &self.model.graph;
        graph.shapes(h, w).map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        // A tensor is dropped after its last reader; candle keeps what the gradient needs.
        let mut readers: Vec<usize> = graph.consumers().iter().map(Vec::len).collect();
        for output in &graph.outputs {
            readers[output.index()] += 1;
        }
        let mut tensors: Vec<Option<Tensor>> = vec![None; graph.nodes.len()];
        for id in graph.ids() {
            let node = graph.node(id);
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for input in &node.inputs {
                let at = input.index();
                readers[at] -= 1;
                let tensor = if readers[at] == 0 { tensors[at].take() } else { tensors[at].clone() };
                let Some(tensor) = tensor else {
                    candle_core::bail!("layer `{}` reads a tensor that was removed", node.name)
                };
                let leaves = self.apart[id.index()] && !self.apart[at];
                inputs.push(if leaves { tensor.detach() } else { tensor });
            }
            if let (Some(steps), Some(x)) = (self.rounded[id.index()], inputs.first_mut()) {
                *x = x.contiguous()?.apply_op1(rounding::RoundInput(steps))?;
            }
            tensors[id.index()] = Some(hook(id, self.node(id, images, &inputs, mode)?)?);
        }
        let missing = || candle_core::Error::Msg("an output is missing".into());
        graph.outputs.iter().map(|id| tensors[id.index()].clone().ok_or_else(missing)).collect()
    }

    /// The model with the current values, running statistics included.
    ///
    /// # Errors
    /// Those of candle.
    pub fn to_model(&self) -> Result<Model> {
        let mut model = self.model.clone();
        for (key, var) in &self.params {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            model.weights.insert(key.clone(), model::Tensor::new(var.dims(), values));
        }
        for (key, values) in self.running().iter() {
            model.weights.insert(key.clone(), model::Tensor::new(values.dims(), values.to_vec1()?));
        }
        Ok(model)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Tensor>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn param(&self, key: &str) -> Tensor {
        let var = &self.params[self.index[key]].1;
        if self.frozen { var.as_detached_tensor() } else { var.as_tensor().clone() }
    }

    /// The kernel of a convolution, rounded where that computes as in int8.
    fn kernel(&self, id: NodeId, conv: &Conv) -> Result<Tensor> {
        let kernel = self.param(&conv.weight);
        if self.rounded[id.index()].is_some() { kernel.apply_op1(rounding::RoundKernel) } else { Ok(kernel) }
    }

    fn node(&self, id: NodeId, images: &Tensor, inputs: &[Tensor], mode: Mode) -> Result<Tensor> {
        let x = inputs.first().unwrap_or(images);
        match &self.model.graph.node(id).op {
            Op::Input { .. } => Ok(images.clone()),
            Op::Conv(conv) if self.own => self.conv(conv, self.kernel(id, conv)?, x, mode),
            Op::Conv(conv) => self.composed_conv(conv, &self.kernel(id, conv)?, x, mode),
            Op::ConvTranspose(conv) => self.conv_transpose(conv, x),
            Op::Activate { act } => composed::activate(*act, x),
            Op::MaxPool { kernel, stride, padding } if self.own => x
                .contiguous()?
                .apply_op1(custom_ops::MaxPool(Pool { kernel: *kernel, stride: *stride, padding: *padding })),
            Op::MaxPool { kernel, stride, padding } => composed::max_pool(x, *kernel, *stride, *padding),
            Op::AvgPool { kernel, stride } => composed::avg_pool(x, *kernel, *stride),
            Op::Upsample { factor } if self.own => x.contiguous()?.apply_op1(custom_ops::Upsample { factor: *factor }),
            Op::Upsample { factor } => composed::upsample(x, *factor),
            Op::Concat => Tensor::cat(inputs, 1),
            Op::Slice { start, len } if self.own => {
                x.contiguous()?.apply_op1(custom_ops::Slice { start: *start, len: *len })
            }
            Op::Slice { start, len } => x.narrow(1, *start, *len)?.contiguous(),
            Op::Add => match inputs {
                [a, b] => a + b,
                _ => candle_core::bail!("a sum of {} tensors", inputs.len()),
            },
            Op::Attention(attention) => attend(attention, x),
            Op::AttentionValues(attention) => {
                let (n, _, h, w) = x.dims4()?;
                let [_, _, values] = packed(attention, x)?;
                values.reshape((n, attention.heads * attention.head_dim, h, w))
            }
            Op::GlobalAvgPool => x.mean_keepdim((2, 3)),
        }
    }

    /// Images of every part of a batch.
    fn parts(&self, x: &Tensor) -> Result<Vec<usize>> {
        match &self.share {
            Some(share) => Ok(share.parts()),
            None => Ok(vec![x.dim(0)?]),
        }
    }

    fn conv(&self, conv: &Conv, weight: Tensor, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut vectors = Vec::new();
        vectors.extend(conv.bias.iter().map(|bias| self.param(bias)));
        let mut block_norm = None;
        if let Some(norm) = &conv.norm {
            let [gamma, beta, mean, var] = norm.keys();
            vectors.extend([self.param(&gamma), self.param(&beta)]);
            let moments = Arc::new(OnceLock::new());
            if mode == Mode::Eval {
                let running = self.running();
                let given = Moments { mean: running[&mean].to_vec1()?, var: running[&var].to_vec1()? };
                moments.get_or_init(|| given);
            }
            block_norm = Some(custom_ops::BlockNorm {
                eps: norm.eps,
                moments,
                batch: mode == Mode::Train,
                share: self.share.clone(),
            });
        }
        let vectors = match &vectors[..] {
            [] => Tensor::zeros(0, DType::F32, &self.device)?,
            [one] => one.clone(),
            more => Tensor::cat(more, 0)?,
        };
        let block = custom_ops::Block {
            geometry: Geometry::of(conv),
            act: conv.act,
            bias: conv.bias.is_some(),
            fixed: !weight.track_op(),
            tracked: x.track_op() || weight.track_op() || vectors.track_op(),
            parts: self.parts(x)?,
            z: OnceLock::new(),
            norm: block_norm,
        };
        let moments = block.norm.as_ref().map(|n| n.moments.clone());
        let y = x.contiguous()?.apply_op3(&weight, &vectors, block)?;
        if let (Mode::Train, Some(norm), Some(moments)) = (mode, &conv.norm, moments.as_ref().and_then(|m| m.get())) {
            let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &self.device);
            self.update_running(norm, [tensor(&moments.mean)?, tensor(&moments.var)?], &y)?;
        }
        Ok(y)
    }

    fn conv_transpose(&self, conv: &ConvTranspose, x: &Tensor) -> Result<Tensor> {
        let parts = self.parts(x)?;
        let kernels = copies(&self.param(&conv.weight), parts.len())?;
        let bias = conv.bias.as_ref().map(|bias| self.param(bias).reshape((1, conv.c_out, 1, 1))).transpose()?;
        let biases = bias.map(|bias| copies(&bias, parts.len())).transpose()?;
        let (mut outputs, mut first) = (Vec::new(), 0);
        for (part, images) in parts.iter().enumerate().filter(|(_, images)| **images > 0) {
            let y = composed::conv_transpose(&x.narrow(0, first, *images)?, &kernels[part], conv)?;
            outputs.push(match &biases {
                Some(biases) => y.broadcast_add(&biases[part])?,
                None => y,
            });
            first += images;
        }
        Tensor::cat(&outputs, 0)
    }

    fn composed_conv(&self, conv: &Conv, weight: &Tensor, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let shape = (1, conv.c_out, 1, 1);
        let mut y = composed::conv(x, weight, conv)?;
        if let Some(bias) = &conv.bias {
            y = y.broadcast_add(&self.param(bias).reshape(shape)?)?;
        }
        if let Some(norm) = &conv.norm {
            let [gamma, beta, mean, var] = norm.keys();
            let moments = match mode {
                Mode::Train => composed::moments(&y)?,
                Mode::Eval => {
                    let running = self.running();
                    [running[&mean].reshape(shape)?, running[&var].reshape(shape)?]
                }
            };
            if mode == Mode::Train {
                let [mean, var] = &moments;
                self.update_running(norm, [mean.detach().flatten_all()?, var.detach().flatten_all()?], &y)?;
            }
            y = composed::norm(&y, &moments, norm.eps, &self.param(&gamma), &self.param(&beta))?;
        }
        composed::activate(conv.act, &y)
    }

    /// Moves the running statistics toward the moments `[C]` of a batch that gave the outputs `y`.
    fn update_running(&self, norm: &Norm, [mean, var]: [Tensor; 2], y: &Tensor) -> Result<()> {
        // The running variance is the unbiased one.
        let (images, _, h, w) = y.dims4()?;
        let count = (self.share.as_ref().map_or(images, Share::images) * h * w) as f64;
        let unbiased = count / (count - 1.0).max(1.0);
        let [_, _, mean_key, var_key] = norm.keys();
        let mut running = self.running();
        for (key, new, factor) in [(mean_key, mean, 1.0), (var_key, var, unbiased)] {
            let moved = ((&running[&key] * (1.0 - self.momentum))? + (new * (self.momentum * factor))?)?;
            running.insert(key, moved);
        }
        Ok(())
    }
}

/// A tensor for each part of a batch. Their gradients are added as those of other operations are: in pairs, and the
/// pairs' sums in pairs ([`tree`](crate::ranks::tree)).
fn copies(x: &Tensor, parts: usize) -> Result<Vec<Tensor>> {
    if parts < 2 {
        return Ok(vec![x.clone(); parts]);
    }
    let mut all = copies(&x.affine(1.0, 0.0)?, parts / 2)?;
    all.extend(copies(&x.affine(1.0, 0.0)?, parts - parts / 2)?);
    Ok(all)
}

/// Queries, keys and values, each `[N, heads, dim, H * W]`.
fn packed(attention: &Attention, x: &Tensor) -> Result<[Tensor; 3]> {
    let (n, _, h, w) = x.dims4()?;
    let x = x.reshape((n, attention.heads, attention.packed(), h * w))?;
    let part = |start: usize, len: usize| x.narrow(2, start, len)?.contiguous();
    let key = attention.key_dim;
    Ok([part(0, key)?, part(key, key)?, part(2 * key, attention.head_dim)?])
}

fn attend(attention: &Attention, x: &Tensor) -> Result<Tensor> {
    let (n, _, h, w) = x.dims4()?;
    if attention.areas > 1 {
        // Each run of positions is an image of its own.
        let whole = Attention { areas: 1, ..*attention };
        let run = h * w / attention.areas;
        let flat = x.reshape((n, (), 1, h * w))?;
        let areas = (0..attention.areas).map(|area| attend(&whole, &flat.narrow(3, area * run, run)?.contiguous()?));
        return Tensor::cat(&areas.collect::<Result<Vec<_>>>()?, 3)?.reshape((n, (), h, w));
    }
    let [queries, keys, values] = packed(attention, x)?;
    let logits = (queries.transpose(2, 3)?.contiguous()?.matmul(&keys)? * f64::from(attention.scale))?;
    // The row's maximum is a constant: softmax does not depend on it.
    let e = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let weights = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    let mixed = values.matmul(&weights.transpose(2, 3)?.contiguous()?)?;
    mixed.reshape((n, attention.heads * attention.head_dim, h, w))
}
