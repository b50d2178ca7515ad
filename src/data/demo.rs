//! A detection set that is drawn, not downloaded: discs, squares and triangles between other shapes, on uneven grounds.
//!
//! It is not meant to be easy: sizes differ by a factor of five, shapes are turned, stretched, partly hidden or partly outside, of any
//! colour and pattern, and stars, crosses and half discs must not be taken for them. Every picture depends on a seed and its number only,
//! so that a model can be trained on them here and judged on fresh ones anywhere. The last bits of a picture also depend on the
//! platform's sine and cosine.

mod ground;
mod shape;

use super::{DataError, Label};
use crate::files;
use crate::vision::{Image, ImageError};
use ground::Canvas;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use shape::{Kind, Mask, Shape};
use std::fs;
use std::path::{Path, PathBuf};

/// The classes, in order.
pub const NAMES: [&str; 3] = ["disc", "square", "triangle"];

/// Side of the pictures that [`write()`] draws, pixels.
pub const SIDE: usize = 160;

/// Seed of the pictures that [`write()`] draws.
pub const SEED: u64 = 11;

/// Number of the first picture of the validation split; the training split starts at 0.
pub const FIRST_VAL: u64 = 1 << 32;

/// Changes whenever the same seed no longer gives the same pictures.
const VERSION: u32 = 1;

/// The share of a shape that must lie inside the picture, and the share that later shapes must leave to be seen.
const MIN_INSIDE: f32 = 0.7;
const MIN_SEEN: f32 = 0.6;

/// Places tried for a shape before it is left out.
const ATTEMPTS: usize = 12;

/// Draws picture `index` of the endless series of `seed`: `size` x `size` pixels, and a box around what lies inside the picture of every
/// disc, square and triangle (the part that others hide counts as there). About one picture in twenty is empty.
pub fn draw(seed: u64, index: u64, size: usize) -> (Image, Vec<Label>) {
    let size = size.clamp(8, 4096);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    let mut canvas = Canvas::ground(&mut rng, size);
    let scene = arrange(&mut rng, size);
    for (shape, mask) in &scene {
        canvas.paint(&mut rng, shape, mask);
    }
    for _ in 0..rng.random_range(0..3) {
        canvas.scratch(&mut rng);
    }
    let labels = scene.iter().filter_map(|(shape, mask)| label(shape, mask, size)).collect();
    (canvas.develop(&mut rng), labels)
}

/// Shapes in painting order, none of them hidden too much.
fn arrange(rng: &mut ChaCha8Rng, size: usize) -> Vec<(Shape, Mask)> {
    let empty = rng.random_bool(0.05);
    let objects = if empty { 0 } else { rng.random_range(1..=6) };
    let others = rng.random_range(0..=3);
    let mut kinds: Vec<Kind> = (0..objects).map(|_| Kind::OBJECTS[rng.random_range(0..3)]).collect();
    kinds.extend((0..others).map(|_| Kind::OTHERS[rng.random_range(0..3)]));
    for i in (1..kinds.len()).rev() {
        kinds.swap(i, rng.random_range(0..=i));
    }
    let mut scene: Vec<(Shape, Mask)> = Vec::new();
    // The number of the topmost shape at every pixel, and how much of each shape is seen.
    let mut top = vec![usize::MAX; size * size];
    let mut seen: Vec<usize> = Vec::new();
    for kind in kinds {
        for _ in 0..ATTEMPTS {
            let shape = Shape::random(rng, kind, size);
            let mask = shape.mask(size);
            let mut left = seen.clone();
            for pixel in mask.solid() {
                if let Some(under) = left.get_mut(top[pixel]) {
                    *under -= 1;
                }
            }
            let hides =
                scene.iter().zip(&left).any(|((_, m), left)| (*left as f32) < MIN_SEEN * m.solid().count() as f32);
            if mask.inside < MIN_INSIDE || hides {
                continue;
            }
            mask.solid().for_each(|pixel| top[pixel] = scene.len());
            left.push(mask.solid().count());
            seen = left;
            scene.push((shape, mask));
            break;
        }
    }
    scene
}

fn label(shape: &Shape, mask: &Mask, size: usize) -> Option<Label> {
    let class = Kind::OBJECTS.iter().position(|kind| *kind == shape.kind)?;
    let [x0, y0, x1, y1] = mask.bbox.map(|v| v / size as f32);
    Some(Label { class, cx: (x0 + x1) / 2.0, cy: (y0 + y1) / 2.0, w: x1 - x0, h: y1 - y0 })
}

/// Writes a dataset of `train` and `val` pictures to `folder` and gives the path of its `data.yaml`. The folder appears whole or not at
/// all; one that holds the same set already is left as it is.
///
/// # Errors
/// If the folder exists with other contents, or cannot be written.
pub fn write(folder: &Path, train: usize, val: usize) -> Result<PathBuf, DataError> {
    let yaml = folder.join("data.yaml");
    let text = description(train, val);
    let same = |yaml: &Path| files::read(yaml, 1 << 16).is_ok_and(|found| found == text.as_bytes());
    if same(&yaml) {
        return Ok(yaml);
    }
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| DataError::Io { path, source }
    };
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let taken = std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "holds something else; expected a new or empty folder",
        );
        return Err(io(folder)(taken));
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io(parent))?;
    let set = files::temporary_folder(parent).map_err(io(parent))?;
    let done = fill(&set, train, val, &text).and_then(|()| match fs::rename(&set, folder) {
        // Another process may have been faster with the same set.
        Err(_) if same(&yaml) => Ok(()),
        Err(e) => Err(io(folder)(e)),
        Ok(()) => Ok(()),
    });
    // Gone already, where it has its name.
    let _ = fs::remove_dir_all(&set);
    done.map(|()| yaml)
}

fn fill(set: &Path, train: usize, val: usize, text: &str) -> Result<(), DataError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| DataError::Io { path, source }
    };
    for (split, first, count) in [("train", 0, train), ("val", FIRST_VAL, val)] {
        let (images, labels) = (set.join("images").join(split), set.join("labels").join(split));
        fs::create_dir_all(&images).map_err(io(&images))?;
        fs::create_dir_all(&labels).map_err(io(&labels))?;
        let one = |number: usize| {
            write_one(
                &images.join(format!("{number:05}.png")),
                &labels.join(format!("{number:05}.txt")),
                first + number as u64,
            )
        };
        (0..count).into_par_iter().try_for_each(one)?;
    }
    let described = set.join("data.yaml");
    fs::write(&described, text).map_err(io(&described))
}

/// How many pictures to train on a name such as `demo` (then `usual`) or `drawn:500` asks for; `None` where it names
/// something else.
///
/// # Errors
/// If what stands behind `drawn:` is no sensible number.
pub fn named(name: &str, usual: usize) -> Option<Result<usize, String>> {
    let Some(count) = name.strip_prefix("drawn:") else { return (name == "demo").then_some(Ok(usual)) };
    let count = count.parse().ok().filter(|n| (1..=1_000_000).contains(n));
    Some(count.ok_or_else(|| format!("{name}: expected a number from 1 to 1000000 behind `drawn:`")))
}

fn description(train: usize, val: usize) -> String {
    let names: String = NAMES.iter().enumerate().map(|(class, name)| format!("  {class}: {name}\n")).collect();
    format!(
        "# Drawn by secateurs: version {VERSION}, seed {SEED}, {SIDE} pixels, {train} + {val} pictures.\n\
         path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    )
}

fn write_one(image: &Path, label: &Path, index: u64) -> Result<(), DataError> {
    let (picture, labels) = draw(SEED, index, SIDE);
    picture.save(image).map_err(|e| match e {
        ImageError::Io { path, source } => DataError::Io { path, source },
        other => DataError::Io { path: image.into(), source: std::io::Error::other(other.to_string()) },
    })?;
    let line = |l: &Label| format!("{} {:.6} {:.6} {:.6} {:.6}\n", l.class, l.cx, l.cy, l.w, l.h);
    fs::write(label, labels.iter().map(line).collect::<String>())
        .map_err(|source| DataError::Io { path: label.into(), source })
}
