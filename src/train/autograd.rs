//! Training steps on candle tensors: losses in plain Rust, gradients by autograd.

use super::batch::Batch;
use super::config::{At, FitConfig, TrainError};
use super::loss;
use super::objective::{Outputs, objective};
use super::optim::{self, Optimizer, clip_scale, grad_norm};
use super::schedule::Ema;
use super::stepper::{State, Stepper};
use super::terms::Terms;
use crate::backend::{Mode, Net};
use crate::model::{Model, Weights};
use crate::quantise::Ranges;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A network, its teacher and its optimizer on a device of candle.
pub(super) struct Autograd<'a> {
    model: &'a Model,
    net: Net,
    teacher: Option<Net>,
    optimizer: Optimizer,
    /// Keys of the scales of the normalisations, where they shall become sparse.
    scales: HashSet<String>,
    /// Keys of the parameters that keep their values.
    frozen: BTreeSet<String>,
    /// By key of a kernel: 0 where it must remain zero, 1 elsewhere.
    masks: BTreeMap<String, Tensor>,
    ema: Ema,
    /// The ranges of the layers that compute as in int8.
    int8: Ranges,
    /// Of the last backward pass.
    grads: Option<GradStore>,
    /// The same in one slice, where somebody has asked for it.
    flat: Option<Vec<f32>>,
    config: &'a FitConfig,
    device: &'a Device,
}

impl<'a> Autograd<'a> {
    /// Begins at the weights of a model.
    pub fn new(
        model: &'a Model,
        teacher: Option<&Model>,
        config: &'a FitConfig,
        device: &'a Device,
    ) -> Result<Self, TrainError> {
        let teacher = teacher.filter(|_| config.distill > 0.0);
        let mut scales = HashSet::new();
        if config.sparsity > 0.0 {
            let norms = model.graph.convs().filter_map(|(_, conv)| conv.norm.as_ref());
            scales.extend(norms.map(|norm| norm.keys()[0].clone()));
        }
        Ok(Self {
            model,
            net: Net::new(model, device)?,
            teacher: teacher.map(|teacher| Net::new(teacher, device)).transpose()?.map(Net::frozen),
            optimizer: Optimizer::new(config.optimizer, config.weight_decay),
            scales,
            frozen: config.frozen(&model.graph)?,
            masks: if config.keep_zeros { masks(model, device)? } else { BTreeMap::new() },
            ema: Ema::new(model.weights.clone(), config.ema_decay),
            int8: Ranges::new(),
            grads: None,
            flat: None,
            config,
            device,
        })
    }

    /// The images of a batch, `[N, C, height, width]`.
    fn images(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let size = self.config.imgsz;
        let channels = batch.images.len() / (batch.size() * size.area()).max(1);
        Tensor::from_slice(&batch.images, (batch.size(), channels, size.height, size.width), self.device)
    }

    /// Which statistics normalisations use in a step.
    fn statistics(&mut self, at: At) -> Mode {
        let statistics = self.config.int8.statistics(at);
        self.net.set_momentum(statistics.momentum);
        if statistics.anew {
            self.ema.updates = 0;
        }
        if statistics.settled { Mode::Eval } else { Mode::Train }
    }

    /// Takes the gradients of the last backward pass, as the caller left them.
    fn take_grads(&mut self) -> Result<Option<GradStore>, TrainError> {
        let (grads, flat) = (self.grads.take(), self.flat.take());
        let Some(mut store) = grads else { return Ok(None) };
        let Some(flat) = flat else { return Ok(Some(store)) };
        let mut start = 0;
        for (_, var) in self.net.params() {
            let part = &flat[start..start + var.elem_count()];
            start += var.elem_count();
            if store.get(var.as_tensor()).is_some() {
                store.insert(var.as_tensor(), Tensor::from_slice(part, var.dims(), self.device)?);
            }
        }
        Ok(Some(store))
    }
}

impl Stepper for Autograd<'_> {
    fn backward(&mut self, batch: &Batch, at: At) -> Result<Terms, TrainError> {
        (self.grads, self.flat) = (None, None);
        let images = self.images(batch)?;
        for net in [Some(&mut self.net), self.teacher.as_mut()].into_iter().flatten() {
            net.set_share(batch.share.clone());
        }
        let mode = self.statistics(at);
        let outputs = self.net.forward(&images, mode)?;
        let taught = self.teacher.as_ref().map(|teacher| Outputs::read(&teacher.forward(&images, Mode::Eval)?));
        let weight = loss::one2many_weight(at.epoch, at.epochs);
        let (values, taught) = (Outputs::read(&outputs)?, taught.transpose()?);
        let head = &self.model.graph.head;
        let (values, share) = ((&values, taught.as_ref()), Some(&batch.share));
        let (terms, grads) = objective(head, values, &batch.labels, (self.config, weight), share)?;
        let terms = terms.over(batch.share.ranks())?;
        if !terms.sum().is_finite() {
            return Ok(terms);
        }
        // The gradient of `sum(output * gradient)` is what the chain rule passes down from the loss.
        let mut sum = Tensor::zeros((), candle_core::DType::F32, self.device)?;
        for (output, grad) in outputs.iter().zip(&grads) {
            let grad = Tensor::from_slice(grad, output.shape(), self.device)?;
            sum = (sum + (output * grad)?.sum_all()?)?;
        }
        let mut grads = sum.backward()?;
        for (_, var) in self.net.params().iter().filter(|(key, _)| self.frozen.contains(key)) {
            grads.remove(var.as_tensor());
        }
        self.grads = Some(grads);
        Ok(terms)
    }

    fn gradients(&mut self) -> Result<&mut [f32], TrainError> {
        if self.flat.is_none() {
            let params = self.net.params();
            let mut flat = Vec::with_capacity(params.iter().map(|(_, var)| var.elem_count()).sum());
            for (_, var) in params {
                let missing = if self.grads.is_some() { 0.0 } else { f32::NAN };
                match self.grads.as_ref().and_then(|grads| grads.get(var.as_tensor())) {
                    Some(grad) => flat.extend(grad.flatten_all()?.to_vec1::<f32>()?),
                    None => flat.resize(flat.len() + var.elem_count(), missing),
                }
            }
            self.flat = Some(flat);
        }
        Ok(self.flat.as_deref_mut().unwrap_or_default())
    }

    fn update(&mut self, lr: f64) -> Result<f64, TrainError> {
        let Some(grads) = self.take_grads()? else { return Ok(f64::NAN) };
        let params = self.net.params();
        let norm = grad_norm(params, &grads)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.optimizer.step(params, &grads, lr, clip_scale(norm, self.config.clip))?;
        for (key, var) in params {
            if self.scales.contains(key) && !self.frozen.contains(key) {
                optim::shrink(var, lr * self.config.sparsity)?;
            }
            if let Some(mask) = self.masks.get(key) {
                var.set(&(var.as_detached_tensor() * mask)?)?;
            }
        }
        self.ema.update(&self.net.to_model()?.weights);
        Ok(norm)
    }

    fn set_int8(&mut self, ranges: &Ranges) -> Result<(), TrainError> {
        self.int8.clone_from(ranges);
        self.net.set_int8(ranges);
        Ok(())
    }

    fn state(&self) -> Result<State, TrainError> {
        Ok(State {
            raw: self.net.to_model()?.weights,
            average: self.ema.weights.clone(),
            updates: self.ema.updates,
            slots: self.optimizer.state()?,
            steps: self.optimizer.steps(),
        })
    }

    fn restore(&mut self, state: &State) -> Result<(), TrainError> {
        let Model { graph, info, .. } = self.model;
        self.net = Net::new(&Model::new(graph.clone(), state.raw.clone(), info.clone())?, self.device)?;
        self.net.set_int8(&self.int8);
        self.optimizer.restore(state.steps, &state.slots, self.device)?;
        self.ema.weights.clone_from(&state.average);
        self.ema.updates = state.updates;
        (self.grads, self.flat) = (None, None);
        Ok(())
    }

    fn average(&self) -> Result<Weights, TrainError> {
        Ok(self.ema.weights.clone())
    }
}

/// Masks of all kernels that have zeros.
fn masks(model: &Model, device: &Device) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let kernels = model.weights.iter().filter(|(_, t)| t.shape().len() > 1 && t.data().contains(&0.0));
    let mask = |(key, tensor): (&String, &crate::model::Tensor)| {
        let values: Vec<f32> = tensor.data().iter().map(|v| if *v == 0.0 { 0.0 } else { 1.0 }).collect();
        Ok((key.clone(), Tensor::from_vec(values, tensor.shape(), device)?))
    };
    kernels.map(mask).collect()
}
