//! Sets that are drawn, not downloaded: discs, squares and triangles between other shapes, on uneven grounds, with the
//! labels of any task.
//!
//! It is not meant to be easy: sizes differ by a factor of five, shapes are turned, stretched, partly hidden or partly
//! outside, of any colour and pattern, and stars, crosses and half discs must not be taken for them. Every picture
//! depends on a seed and its number only, so that a model can be trained on them here and judged on fresh ones
//! anywhere. The last bits of a picture also depend on the platform's sine and cosine.

mod ground;
mod shape;

use super::{DataError, Label, LabelTask, Shapes};
use crate::files;
use crate::vision::polygon::{clip, extremes};
use crate::vision::{Image, ImageError};
use ground::Canvas;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use shape::{Kind, Mask, Shape};
use std::collections::HashSet;
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

/// The digests of all files of a set, as `sha256sum` reads and writes them.
const SUMS: &str = "sha256sums.txt";

/// Tells the seeds of pictures with one object from those of others.
const CLASS_SERIES: u64 = 1 << 40;

/// Changes whenever the same seed no longer gives the same pictures.
const VERSION: u32 = 1;

/// The share of a shape that must lie inside the picture, and the share that later shapes must leave to be seen.
const MIN_INSIDE: f32 = 0.7;
const MIN_SEEN: f32 = 0.6;

/// Places tried for a shape before it is left out.
const ATTEMPTS: usize = 12;

/// Draws picture `index` of the endless series of `seed`: `size` x `size` pixels, and a box around what lies inside the
/// picture of every disc, square and triangle (the part that others hide counts as there). About one picture in twenty
/// is empty.
pub fn draw(seed: u64, index: u64, size: usize) -> (Image, Vec<Label>) {
    let (image, labels, _) = draw_for(LabelTask::Detect, seed, index, size);
    (image, labels)
}

/// As [`draw`], with what a task labels beside the boxes, which is exact: the outlines inside the picture; as keypoints
/// their points furthest left, top, right and bottom; or the rectangles that are turned as the shapes are. The latter
/// lie inside the picture, which makes other pictures of it.
pub fn draw_for(task: LabelTask, seed: u64, index: u64, size: usize) -> (Image, Vec<Label>, Shapes) {
    let size = size.clamp(8, 4096);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    let mut canvas = Canvas::ground(&mut rng, size);
    let inside = |shape: &Shape| shape.rectangle().iter().flatten().all(|v| (0.0..=size as f32).contains(v));
    let scene = arrange(&mut rng, size, &|shape| task != LabelTask::Obb || inside(shape));
    for (shape, mask) in &scene {
        canvas.paint(&mut rng, shape, mask);
    }
    for _ in 0..rng.random_range(0..3) {
        canvas.scratch(&mut rng);
    }
    let (mut labels, mut shapes) = (Vec::new(), Shapes::of(task));
    for (shape, mask) in &scene {
        let Some(label) = label(shape, mask, size) else { continue };
        labels.push(label);
        let share = |[x, y]: [f32; 2]| [x, y].map(|v| (v / size as f32).clamp(0.0, 1.0));
        let outline = || clip(shape.outline(), [0.0, 0.0, size as f32, size as f32]);
        match &mut shapes {
            Shapes::None => {}
            Shapes::Outlines(all) => all.push(outline().into_iter().map(share).collect()),
            Shapes::Corners(all) => all.push(shape.rectangle().map(share)),
            Shapes::Keypoints(all) => {
                let points = extremes(&outline()).unwrap_or_default().map(share);
                all.push(points.iter().map(|[x, y]| [*x, *y, 2.0]).collect());
            }
        }
    }
    (canvas.develop(&mut rng), labels, shapes)
}

/// Draws picture `index` of another endless series of `seed`, which shows one disc, square or triangle, and gives its
/// class.
pub fn draw_class(seed: u64, index: u64, size: usize) -> (Image, usize) {
    let size = size.clamp(8, 4096);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ CLASS_SERIES);
    rng.set_stream(index);
    let mut canvas = Canvas::ground(&mut rng, size);
    let class = (index % Kind::OBJECTS.len() as u64) as usize;
    let side = size as f32;
    let place = |rng: &mut ChaCha8Rng| side * rng.random_range(0.35..0.65);
    let (x, y) = (place(&mut rng), place(&mut rng));
    let radius = side * rng.random_range(0.15..0.4);
    let shape = Shape { x, y, radius, ..Shape::random(&mut rng, Kind::OBJECTS[class], size) };
    canvas.paint(&mut rng, &shape, &shape.mask(size));
    for _ in 0..rng.random_range(0..3) {
        canvas.scratch(&mut rng);
    }
    (canvas.develop(&mut rng), class)
}

/// Shapes in painting order, all of them accepted and none hidden too much.
fn arrange(rng: &mut ChaCha8Rng, size: usize, accept: &dyn Fn(&Shape) -> bool) -> Vec<(Shape, Mask)> {
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
            if mask.inside < MIN_INSIDE || hides || !accept(&shape) {
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
    let [x0, y0, x1, y1] = mask.bbox.0.map(|v| v / size as f32);
    Some(Label { class, cx: (x0 + x1) / 2.0, cy: (y0 + y1) / 2.0, w: x1 - x0, h: y1 - y0 })
}

/// Writes a dataset of `train` and `val` pictures to `folder` and gives the path of its `data.yaml`, as [`ensure`].
///
/// # Errors
/// If the folder exists with other contents, or cannot be written.
pub fn write(folder: &Path, train: usize, val: usize) -> Result<PathBuf, DataError> {
    ensure(folder, train, val).map(|(yaml, _)| yaml)
}

/// Makes sure that a dataset of `train` and `val` pictures is in `folder`. The folder appears whole or not at all. In
/// one that holds the same set already, pictures whose file or label file is missing, or not as it was written, are
/// drawn again. Gives the path of its `data.yaml`, and how many pictures were drawn again.
///
/// # Errors
/// If the folder exists with other contents, or cannot be written.
pub fn ensure(folder: &Path, train: usize, val: usize) -> Result<(PathBuf, usize), DataError> {
    ensure_for(LabelTask::Detect, folder, train, val)
}

/// As [`ensure`], with the labels of a task. A set of classified pictures is named by its folder, and has a folder of
/// pictures per class.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_for(task: LabelTask, folder: &Path, train: usize, val: usize) -> Result<(PathBuf, usize), DataError> {
    let classifies = task == LabelTask::Classify;
    let marker = if classifies { "drawn.txt" } else { "data.yaml" };
    let (yaml, text) = (folder.join(marker), description(task, train, val));
    let place = if classifies { folder.to_path_buf() } else { yaml.clone() };
    let same = |yaml: &Path| files::read(yaml, 1 << 16).is_ok_and(|found| found == text.as_bytes());
    let all = pictures(task, train, val);
    if same(&yaml) {
        return Ok((place, restore(folder, &all)?));
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let taken = std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "holds something else; expected a new or empty folder",
        );
        return Err(io(folder)(taken));
    }
    // Built inside a private folder, so that the set itself gets the usual access rights.
    let temporary = Beside::new(folder)?;
    let set = temporary.path().join("set");
    let sums: Vec<String> = all.par_iter().map(|one| one.write(&set)).collect::<Result<_, _>>()?;
    let sums_file = set.join(SUMS);
    fs::write(&sums_file, sums.concat()).map_err(io(&sums_file))?;
    let described = set.join(marker);
    fs::write(&described, &text).map_err(io(&described))?;
    match fs::rename(&set, folder) {
        // Another process may have been faster with the same set.
        Err(_) if same(&yaml) => Ok((place, 0)),
        Err(e) => Err(io(folder)(e)),
        Ok(()) => Ok((place, 0)),
    }
}

/// Draws again what is not as the sums of a folder say, and gives how much that was.
fn restore(folder: &Path, all: &[One]) -> Result<usize, DataError> {
    let sums_file = folder.join(SUMS);
    let known = files::read(&sums_file, 1 << 30).unwrap_or_default();
    let known = String::from_utf8_lossy(&known);
    let known: HashSet<&str> = known.split_inclusive('\n').collect();
    let found = |one: &One| one.sums(folder).ok().filter(|sums| sums.split_inclusive('\n').all(|s| known.contains(s)));
    let sums: Vec<Option<String>> = all.par_iter().map(found).collect();
    let again = sums.iter().filter(|sums| sums.is_none()).count();
    if again == 0 {
        return Ok(0);
    }
    let temporary = Beside::new(folder)?;
    let draw = |(one, sums): (&One, Option<String>)| -> Result<String, DataError> {
        if let Some(sums) = sums {
            return Ok(sums);
        }
        let sums = one.write(temporary.path())?;
        for file in one.files() {
            let place = folder.join(&file);
            let parent = place.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(io(parent))?;
            fs::rename(temporary.path().join(&file), &place).map_err(io(&place))?;
        }
        Ok(sums)
    };
    let sums: Vec<String> = all.par_iter().zip(sums).map(draw).collect::<Result<_, _>>()?;
    files::write_atomic(&sums_file, sums.concat().as_bytes()).map_err(io(&sums_file))?;
    Ok(again)
}

/// A private folder beside another one, which is removed unless it got another name.
struct Beside(PathBuf);

impl Beside {
    fn new(folder: &Path) -> Result<Self, DataError> {
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(io(parent))?;
        Ok(Self(files::temporary_folder(parent).map_err(io(parent))?))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> DataError + use<> {
    let path = path.to_path_buf();
    move |source| DataError::Io { path: path.clone(), source }
}

/// A picture of a set.
struct One {
    task: LabelTask,
    split: &'static str,
    number: usize,
    /// Its number in the endless series.
    index: u64,
}

/// All pictures of a set.
fn pictures(task: LabelTask, train: usize, val: usize) -> Vec<One> {
    let splits = [("train", 0, train), ("val", FIRST_VAL, val)].into_iter();
    let of = |(split, first, count): (&'static str, u64, usize)| {
        (0..count).map(move |number| One { task, split, number, index: first + number as u64 })
    };
    splits.flat_map(of).collect()
}

impl One {
    /// Its picture and its labels, in the folder of the set; the picture alone where its folder is its class.
    fn files(&self) -> Vec<PathBuf> {
        if self.task == LabelTask::Classify {
            let class = NAMES[(self.index % NAMES.len() as u64) as usize];
            return vec![Path::new(self.split).join(class).join(format!("{:05}.png", self.number))];
        }
        [("images", "png"), ("labels", "txt")]
            .map(|(kind, ending)| Path::new(kind).join(self.split).join(format!("{:05}.{ending}", self.number)))
            .into()
    }

    /// Draws it into a folder and gives its sums.
    fn write(&self, set: &Path) -> Result<String, DataError> {
        let files: Vec<PathBuf> = self.files().into_iter().map(|file| set.join(file)).collect();
        for folder in files.iter().map(|file| file.parent().unwrap_or(set)) {
            fs::create_dir_all(folder).map_err(io(folder))?;
        }
        match &files[..] {
            [image, label] => write_one(self.task, image, label, self.index)?,
            files => {
                for image in files {
                    save(&draw_class(SEED, self.index, SIDE).0, image)?;
                }
            }
        }
        self.sums(set).map_err(io(set))
    }

    /// The digests of its files, one line each.
    fn sums(&self, set: &Path) -> std::io::Result<String> {
        let mut lines = String::new();
        for file in self.files() {
            let digest = Sha256::digest(files::read(&set.join(&file), 1 << 30)?);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            lines += &format!("{digest}  {}\n", file.display());
        }
        Ok(lines)
    }
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

fn description(task: LabelTask, train: usize, val: usize) -> String {
    let names: String = NAMES.iter().enumerate().map(|(class, name)| format!("  {class}: {name}\n")).collect();
    let labels = match task {
        LabelTask::Detect => "",
        LabelTask::Classify => {
            return format!(
                "Drawn by secateurs: version {VERSION}, seed {SEED}, {SIDE} pixels, {train} + {val} pictures, a folder per class.\n"
            );
        }
        LabelTask::Segment => "# Labels are outlines.\n",
        LabelTask::Obb => "# Labels are rotated boxes.\n",
        // Left becomes right in a mirror, top and bottom stay.
        LabelTask::Pose => {
            "# Keypoints are the points furthest left, top, right and bottom.\nkpt_shape: [4, 3]\nflip_idx: [2, 1, 0, 3]\n"
        }
    };
    format!(
        "# Drawn by secateurs: version {VERSION}, seed {SEED}, {SIDE} pixels, {train} + {val} pictures.\n\
         {labels}path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    )
}

fn write_one(task: LabelTask, image: &Path, label: &Path, index: u64) -> Result<(), DataError> {
    let (picture, labels, shapes) = draw_for(task, SEED, index, SIDE);
    save(&picture, image)?;
    let lines: String = labels.iter().enumerate().map(|(at, label)| line(label, &shapes, at)).collect();
    fs::write(label, lines).map_err(|source| DataError::Io { path: label.into(), source })
}

fn save(picture: &Image, path: &Path) -> Result<(), DataError> {
    picture.save(path).map_err(|e| match e {
        ImageError::Io { path, source } => DataError::Io { path, source },
        other => DataError::Io { path: path.into(), source: std::io::Error::other(other.to_string()) },
    })
}

/// The line of an object in its label file.
fn line(label: &Label, shapes: &Shapes, at: usize) -> String {
    let bbox = [label.cx, label.cy, label.w, label.h];
    let values: Vec<f32> = match shapes {
        Shapes::None => bbox.to_vec(),
        Shapes::Outlines(all) => all[at].as_flattened().to_vec(),
        Shapes::Corners(all) => all[at].as_flattened().to_vec(),
        Shapes::Keypoints(all) => [&bbox, all[at].as_flattened()].concat(),
    };
    let text: String = values.iter().map(|v| format!(" {v:.6}")).collect();
    format!("{}{text}\n", label.class)
}
