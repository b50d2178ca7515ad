//! The calibration images: training images that show what the layers compute. Importance, repair and quantization read
//! them; their labels serve the criteria that need gradients of the loss.

use super::baseline::Baseline;
use super::data::Data;
use crate::board;
use crate::data::Item;
use crate::memory;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::size::ImageSize;
use crate::train::loss::Target;
use crate::vision::{Image, Letterbox, NormalisedXywh, Xyxy};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Networks that walk through the calibration images side by side.
const NETWORKS: f64 = 2.0;

/// The share of this machine's memory that calibration may take, and the images that are used whatever memory there is.
const CALIBRATION_SHARE: f64 = 0.4;
const LEAST_IMAGES: usize = 16;

/// Calibration images with their labels.
pub struct CalibrationSet {
    /// Letterboxed images, `[C, height, width]` each; those that are mirrored stand in pairs, original first, before the
    /// others.
    pub images: Vec<Vec<f32>>,
    /// Which training images those are, ascending.
    pub items: Vec<usize>,
    /// Identifies the images, without their labels.
    pub sha256: String,
    /// Class and box of the objects of every image, normalised to the letterboxed image.
    labels: Vec<Vec<Target>>,
    /// The class of every image; empty for a detector.
    classes: Vec<usize>,
}

impl CalibrationSet {
    /// Chooses and loads the images. Where there are fewer than asked for, mirrored ones join them, if objects may be
    /// mirrored.
    ///
    /// # Errors
    /// Names the image that cannot be used.
    pub fn load(job: &Job, baseline: &Baseline, data: &Data, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let preprocess = baseline.preprocess()?;
        let (all, size) = (data.train.items.len(), baseline.imgsz);
        let asked = affordable(baseline, job.calibration_images, progress)?.max(1);
        let count = asked.min(all);
        progress.stage("Loading", format!("{count} of {all} training images for calibration"));
        let mut items = sample(&mut StdRng::seed_from_u64(job.seed), all, count).into_vec();
        items.sort_unstable();
        let (mut images, mut labels, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        for (done, index) in items.iter().enumerate() {
            let item = &data.train.items[*index];
            let image = item.image.load()?;
            let mut tensor = vec![0.0; preprocess.channels() * size.area()];
            let letterbox = preprocess.write(&image, size, &mut tensor);
            if baseline.classifies() {
                classes.push(item.class().ok_or_else(|| {
                    PipelineError::Input(format!("{} has no class as a whole", item.image.display()))
                })?);
            }
            labels.push(targets(item, &image, &letterbox, size));
            images.push(tensor);
            progress.step(done + 1, count);
        }
        if baseline.augment().mirror > 0.0 && classes.is_empty() {
            (images, labels) = mirrored(images, labels, size.width, asked - count);
        }
        let mut digest = Sha256::new();
        images.iter().for_each(|image| digest.update(bytemuck::cast_slice::<f32, u8>(image)));
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { images, items, sha256, labels, classes })
    }

    /// The labels of an image, as of a batch of one.
    pub fn targets(&self, image: usize) -> Vec<Target> {
        self.labels[image].clone()
    }

    /// The class of an image; none for a detector.
    pub fn class(&self, image: usize) -> Option<usize> {
        self.classes.get(image).copied()
    }

    /// Identifies the labels.
    pub fn labels_text(&self) -> String {
        format!("{:?} {:?}", self.labels, self.classes)
    }
}

/// The objects of an image, in the coordinates of the letterboxed one.
fn targets(item: &Item, image: &Image, letterbox: &Letterbox, size: ImageSize) -> Vec<Target> {
    let (w, h) = (image.width() as f32, image.height() as f32);
    let [across, down] = [size.width as f32, size.height as f32];
    let labels = item.labels.iter().map(|label| {
        let half = [label.w / 2.0, label.h / 2.0];
        let corners =
            [(label.cx - half[0]) * w, (label.cy - half[1]) * h, (label.cx + half[0]) * w, (label.cy + half[1]) * h];
        let [x0, y0, x1, y1] = letterbox.to_input(Xyxy(corners)).0;
        Target {
            image: 0,
            class: label.class,
            bbox: NormalisedXywh([
                (x0 + x1) / 2.0 / across,
                (y0 + y1) / 2.0 / down,
                (x1 - x0) / across,
                (y1 - y0) / down,
            ]),
        }
    });
    labels.collect()
}

/// Images with their labels.
type Labelled = (Vec<Vec<f32>>, Vec<Vec<Target>>);

/// Puts the mirror image behind each of the first `more` images, or behind all if there are fewer.
fn mirrored(images: Vec<Vec<f32>>, labels: Vec<Vec<Target>>, width: usize, more: usize) -> Labelled {
    let (mut all, mut all_labels) = (Vec::new(), Vec::new());
    for (number, (image, labels)) in images.into_iter().zip(labels).enumerate() {
        let mirrored = (number < more).then(|| {
            let rows = image.chunks_exact(width);
            let other_side = |target: &Target| Target { bbox: target.bbox.mirrored(), ..*target };
            let image: Vec<f32> = rows.flat_map(|row| row.iter().rev().copied()).collect();
            (image, labels.iter().map(other_side).collect::<Vec<_>>())
        });
        for (image, labels) in std::iter::once((image, labels)).chain(mirrored) {
            all.push(image);
            all_labels.push(labels);
        }
    }
    (all, all_labels)
}

/// How many of the images that are asked for this machine's memory can hold, with the tensors that live at one time while
/// the baseline and the pruned network walk through all of them.
fn affordable(baseline: &Baseline, asked: usize, progress: &dyn Progress) -> Result<usize, PipelineError> {
    let (graph, groups, ImageSize { height, width }) = (&baseline.model.graph, &baseline.groups, baseline.imgsz);
    let live = memory::live_sets(graph, groups, height, width).during(Task::Memory)?;
    let full = |group| groups.group(group).width();
    let tensors = live.iter().map(|set| set.bytes(full)).fold(0.0, f64::max);
    let image = (size_of::<f32>() * graph.input_channels() * height * width) as f64;
    let each = NETWORKS * tensors + image;
    let Some(total) = board::total_memory(Path::new("/")) else { return Ok(asked) };
    let most = ((CALIBRATION_SHARE * total / each) as usize).max(LEAST_IMAGES);
    if most < asked {
        progress.message(format!("{most} calibration images in place of {asked}: more would not fit into memory"));
    }
    Ok(asked.min(most))
}
