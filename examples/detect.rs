//! Prints what a detector finds in an image. Needs the lean runtime only; the model is embedded, unless one is named.
//!
//!     cargo run --release --no-default-features --features runtime --example detect -- IMAGE [MODEL.safetensors]

use secateurs::detector::{Predictor, input_size};
use secateurs::engine::Options;
use secateurs::{model, vision::Image};
use std::path::{Path, PathBuf};

/// Finds discs, squares and triangles; `secateurs prune` writes models of this format.
const EMBEDDED: &[u8] = include_bytes!("../src/pipeline/demo.safetensors");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let path = args.next().ok_or("expected: IMAGE [MODEL.safetensors]")?;
    let model = match args.next() {
        Some(file) => model::load(&file)?,
        None => model::from_bytes(Path::new("embedded"), EMBEDDED)?,
    };
    let mut predictor = Predictor::new(&model, input_size(&model, None)?, &Options::default())?;
    print!("{}", predictor.find(&path, &Image::open(&path)?, &model)?);
    Ok(())
}
