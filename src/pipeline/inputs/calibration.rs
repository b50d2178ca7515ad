//! The calibration images: training images that show what the layers compute. Importance, repair and quantization read
//! them; their labels serve the criteria that need gradients of the loss.

use super::baseline::Baseline;
use super::data::Data;
use crate::board;
use crate::data::LabelTask;
use crate::engine::Device;
use crate::memory::{self, Deployed};
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::size::ImageSize;
use crate::train::Labels;
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
    /// What every image shows: objects as shares of the letterboxed image, or its class as a whole.
    labels: Vec<Labels>,
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
        let asked = job.ranks.by_first(|| affordable(baseline, job.calibration_images, progress))?.max(1);
        let count = asked.min(all);
        progress.stage("Loading", format!("{count} of {all} training images for calibration"));
        let mut items = sample(&mut StdRng::seed_from_u64(job.seed), all, count).into_vec();
        items.sort_unstable();
        let flip = data.train.keypoints.as_ref().and_then(|shape| shape.flip.as_deref());
        // Keypoints can only be mirrored where it is known which becomes which.
        let known = flip.is_some() || baseline.labels() != LabelTask::Pose;
        let mirrors = baseline.augment().mirror > 0.0 && !baseline.classifies() && known;
        let more = if mirrors { asked - count } else { 0 };
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for (done, index) in items.iter().enumerate() {
            let item = &data.train.items[*index];
            let image = item.image.load()?;
            let mut tensor = vec![0.0; preprocess.channels() * size.area()];
            preprocess.write(&image, size, &mut tensor);
            let mirrored = (done < more).then(|| mirror_image(&tensor, size.width));
            images.extend([Some(tensor), mirrored].into_iter().flatten());
            if baseline.classifies() {
                let class = item
                    .class()
                    .ok_or_else(|| PipelineError::Input(format!("{} has no class as a whole", item.image.display())))?;
                labels.push(Labels::of_class(class));
            } else {
                let both = [Some(false), (done < more).then_some(true)].into_iter().flatten();
                labels.extend(both.map(|mirrored| Labels::letterboxed(item, &image, flip, size, mirrored)));
            }
            progress.step(done + 1, count);
        }
        let mut digest = Sha256::new();
        images.iter().for_each(|image| digest.update(bytemuck::cast_slice::<f32, u8>(image)));
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { images, items, sha256, labels })
    }

    /// The labels of an image, as of a batch of one.
    pub fn labels(&self, image: usize) -> &Labels {
        &self.labels[image]
    }

    /// Identifies the labels.
    pub fn labels_text(&self) -> String {
        format!("{:?}", self.labels)
    }
}

/// The mirror image of a tensor `[C, H, width]`.
fn mirror_image(image: &[f32], width: usize) -> Vec<f32> {
    image.chunks_exact(width).flat_map(|row| row.iter().rev().copied()).collect()
}

/// How many of the images that are asked for this machine's memory can hold, with the tensors that live at one time while
/// the baseline and the pruned network walk through all of them.
fn affordable(baseline: &Baseline, asked: usize, progress: &dyn Progress) -> Result<usize, PipelineError> {
    let (graph, groups, ImageSize { height, width }) = (&baseline.model.graph, &baseline.groups, baseline.imgsz);
    let here = Deployed { graph, size: (height, width), device: Device::Cpu };
    let live = memory::live_sets(&here, groups).during(Task::Memory)?;
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
