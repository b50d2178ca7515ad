//! Writes a YOLO11 detector with made-up weights: speed does not depend on values.
//!
//!     cargo run --release --example untrained -- SCALE OUT.safetensors [odd]
//!
//! `odd` cuts every group of channels to an odd width of about 0.8x, where its attention heads can share it.

use secateurs::group::groups;
use secateurs::model::{Info, Model, Tensor, save};
use secateurs::surgery::{Selection, cut};
use secateurs::zoo::yolo11::{Scale, detect};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [scale, out, rest @ ..] = args.as_slice() else { return Err("expected: SCALE OUT [odd]".into()) };
    let scale = scale.chars().next().and_then(Scale::of).ok_or("no such scale, expected n, s, m, l or x")?;
    let graph = detect(scale, 80)?;
    let weights = graph.params().into_iter().map(|p| (p.key.clone(), tensor(&p.shape, &p.key))).collect();
    let mut model = Model::new(graph, weights, Info::default())?;
    if rest.iter().any(|word| word == "odd") {
        let groups = groups(&model.graph);
        let odd = |width: usize, heads: usize| match heads {
            1 => (width * 4 / 5) | 1,
            heads => ((width / heads * 4 / 5) | 1) * heads,
        };
        let widths: Vec<usize> = groups.groups.iter().map(|g| odd(g.width(), g.heads).min(g.width())).collect();
        model = cut(&model, &groups, &Selection::first(&groups, &widths))?;
    }
    save(&model, Path::new(out))?;
    Ok(())
}

/// Values that keep activations in a sensible range.
fn tensor(shape: &[usize], key: &str) -> Tensor {
    let fan_in: usize = shape[1..].iter().product();
    let value = |i: usize| match key.rsplit('.').next() {
        Some("running_var") => 1.0,
        Some("weight") if fan_in > 1 => ((i * 37 % 101) as f32 / 101.0 - 0.5) / (fan_in as f32).sqrt(),
        _ => 0.1,
    };
    Tensor::new(shape.to_vec(), (0..shape.iter().product()).map(value).collect())
}
