//! Times training steps of a model file on the first CUDA device, with the gradient and the optimizer of the example
//! `train_step`, whose figures `first` and `squares` it must give. Prints one line of JSON.
//!
//!     train_cuda MODEL IMGSZ BATCH f32|mixed STEPS

use secateurs::engine::open_cuda;
use secateurs::model;
use secateurs::training::{Control, Phase, Setup, StepRule, TrainingEngine};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// Values of a period of 101 around zero.
fn spread(count: usize, factor: f32) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 % 101) as f32 / 101.0 - 0.5) * factor).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, side, batch, kind, steps] = &words[..] else {
        return Err("expected MODEL IMGSZ BATCH f32|mixed STEPS".into());
    };
    let (side, batch, steps): (usize, usize, usize) = (side.parse()?, batch.parse()?, steps.parse()?);
    let mixed = match &kind[..] {
        "f32" => false,
        "mixed" => true,
        other => return Err(format!("`{other}`: expected f32 or mixed").into()),
    };
    let model = model::load(Path::new(model))?;
    let setup = Setup {
        size: (side, side),
        batches: &[batch],
        mixed,
        rule: StepRule::Sgd { momentum: 0.9, nesterov: false },
        weight_decay: 5e-4,
        sparsity: 0.0,
        keep_zeros: false,
        frozen: &BTreeSet::new(),
        teacher: None,
        rounded: &BTreeSet::new(),
        loss: None,
        gpus: None,
        sync_batch_norm: false,
    };
    let mut engine = TrainingEngine::new(open_cuda(0)?, &model, &setup)?;
    let loss_scale = if mixed { 1024.0 } else { 1.0 };
    let control = Control {
        rate: 1e-3,
        ema_share: 0.5,
        unscale: 1.0 / loss_scale,
        clip: f32::MAX,
        loss_scale,
        ..Control::default()
    };
    let images: Vec<f32> =
        spread(batch * model.graph.input_channels() * side * side, 1.0).into_iter().map(|v| v + 0.5).collect();
    let (mut wall, mut first) = (Vec::new(), 0.0);
    for step in 0..steps {
        let mut times = [0.0; 3];
        let mut start = Instant::now();
        let mut lap = || std::mem::replace(&mut start, Instant::now()).elapsed().as_secs_f64() * 1e3;
        let (outputs, _) = engine.forward(&images, Phase::Plain)?;
        times[0] = lap();
        let gradients: Vec<Vec<f32>> = outputs.iter().map(|output| spread(output.values.len(), 1e-3)).collect();
        if step == 0 {
            let pairs = outputs.iter().zip(&gradients).flat_map(|(output, g)| output.values.iter().zip(g));
            first = pairs.map(|(value, gradient)| f64::from(*value) * f64::from(*gradient)).sum();
        }
        lap();
        engine.backward(&gradients, loss_scale)?;
        times[1] = lap();
        engine.update(&control)?;
        times[2] = lap();
        wall.push(times);
    }
    let weights = engine.weights()?;
    let squares = weights.values().flat_map(|t| t.data()).map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
    let memory = engine.memory();
    println!(
        "{}",
        serde_json::json!({
            "device": engine.device_name(), "kind": kind, "launches": engine.launches(0), "wall_ms": wall,
            "parameter_bytes": memory.parameters, "tensor_bytes": memory.tensors, "first": first, "squares": squares,
        })
    );
    Ok(())
}
