//! Times training steps of a model file: forward and backward pass and an SGD step, for a gradient of the outputs that
//! is a formula, so that another framework can be given the same. `benches/peers/train.py` compares it with PyTorch.
//!
//!     train_step MODEL IMGSZ BATCH THREADS STEPS

use candle_core::{DType, Device, Tensor};
use secateurs::backend::{Mode, Net};
use secateurs::kernels::clock;
use secateurs::model;
use secateurs::train::optim::{Optimizer, Rule};
use std::path::Path;
use std::time::Instant;

/// Values of a period of 101 around zero.
fn spread(count: usize, factor: f32) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 % 101) as f32 / 101.0 - 0.5) * factor).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, numbers @ ..] = &words[..] else { return Err("expected MODEL IMGSZ BATCH THREADS STEPS".into()) };
    let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [side, batch, threads, steps] = numbers[..] else { return Err("expected IMGSZ BATCH THREADS STEPS".into()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let model = model::load(Path::new(model))?;
    let net = Net::new(&model, &Device::Cpu)?;
    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 5e-4);
    let shape = (batch, model.graph.input_channels(), side, side);
    let pixels = spread(batch * model.graph.input_channels() * side * side, 1.0);
    let images = Tensor::from_vec(pixels.into_iter().map(|v| v + 0.5).collect::<Vec<f32>>(), shape, &Device::Cpu)?;
    let (mut wall, mut cpu, mut first) = (Vec::new(), Vec::new(), 0.0);
    for step in 0..steps {
        let (start, cpu_start) = (Instant::now(), clock::cpu_millis());
        // In the pool, as the trainer does it: from outside, every operation would be waited for by itself.
        let sum = pool.install(|| train(&net, &images, &mut optimizer))?;
        wall.push(start.elapsed().as_secs_f64() * 1e3);
        cpu.push(clock::cpu_millis() - cpu_start);
        if step == 0 {
            first = sum;
        }
    }
    let weights = net.to_model()?.weights;
    let squares = weights.values().flat_map(|t| t.data()).map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
    println!("{}", serde_json::json!({ "wall_ms": wall, "cpu_ms": cpu, "first": first, "squares": squares }));
    Ok(())
}

/// One step; gives the weighted sum of the outputs before it.
fn train(net: &Net, images: &Tensor, optimizer: &mut Optimizer) -> candle_core::Result<f32> {
    let outputs = net.forward(images, Mode::Train)?;
    let mut sum = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    for output in &outputs {
        let grad = Tensor::from_vec(spread(output.elem_count(), 1e-3), output.shape(), &Device::Cpu)?;
        sum = (sum + (output * grad)?.sum_all()?)?;
    }
    let grads = sum.backward()?;
    optimizer.step(net.params(), &grads, 1e-3, 1.0)?;
    sum.to_scalar()
}
