//! Batches of augmented images, each a function of the seed, the epoch and its number.

use super::augment::{self, Placed, Shown};
use super::config::{FitConfig, TrainError};
use super::labels::Labels;
use super::variation::Augment;
use crate::board::available_memory;
use crate::data::{Dataset, Item, Shapes};
use crate::graph::Head;
use crate::model::Model;
use crate::ranks::Share;
use crate::vision::{Image, Preprocess};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Images and what they show: those of a batch that are this rank's.
pub struct Batch {
    /// `[size, C, height, width]` as the network reads it: see [`Preprocess`].
    pub images: Vec<f32>,
    /// Which images of the batch these are.
    pub share: Share,
    /// What they show; images are counted from the first of this rank.
    pub labels: Labels,
}

impl Batch {
    /// Number of images.
    pub fn size(&self) -> usize {
        self.share.range().len()
    }
}

/// Makes batches of a dataset; decoded images are kept in memory up to a bound.
pub(super) struct Loader<'a> {
    dataset: &'a Dataset,
    config: &'a FitConfig,
    augment: Augment,
    preprocess: Preprocess,
    /// Whether the network classifies whole images.
    classifies: bool,
    cache: Vec<OnceLock<Arc<Image>>>,
    cached: AtomicUsize,
    /// Bytes that the cache may take.
    room: usize,
}

impl<'a> Loader<'a> {
    /// Refuses an empty dataset, labels that the graph's head has no use for, and more ranks than images of a batch.
    pub fn new(dataset: &'a Dataset, model: &Model, config: &'a FitConfig) -> Result<Self, TrainError> {
        let classifies = matches!(model.graph.head, Head::Classify { .. });
        let preprocess = Preprocess::new(model).map_err(|e| TrainError::Unfit(e.to_string()))?;
        if classifies && config.mosaic_until > 0 {
            return Err(TrainError::Unfit(
                "mosaics put four images into one, and a classifier names whole images".into(),
            ));
        }
        check_data(dataset, model)?;
        // Without knowing which keypoint becomes which, a mirrored picture would teach the wrong ones.
        let flips = dataset.keypoints.as_ref().is_some_and(|shape| shape.flip.is_some());
        let augment = match model.graph.head.branch() {
            Head::Pose { .. } if !flips => Augment { mirror: 0.0, upside_down: 0.0, ..config.augment },
            _ => config.augment,
        };
        let cache = dataset.items.iter().map(|_| OnceLock::new()).collect();
        // All ranks may be on this machine.
        let ranks = config.ranks.size();
        let room = match config.cache_bytes {
            usize::MAX => available_memory(Path::new("/")) / (2 * ranks),
            bytes => bytes,
        };
        let loader =
            Self { dataset, config, augment, preprocess, classifies, cache, cached: AtomicUsize::new(0), room };
        match loader.sizes().last() {
            Some(least) if *least < ranks => Err(TrainError::Setting {
                setting: "batch",
                problem: format!("gives batches of {least} images, which cannot be shared by {ranks} ranks"),
            }),
            _ => Ok(loader),
        }
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        self.dataset.items.len().div_ceil(self.config.batch)
    }

    /// The sizes of batches that occur.
    pub fn sizes(&self) -> Vec<usize> {
        let (images, batches) = (self.dataset.items.len(), self.batches());
        let mut sizes = vec![images.div_ceil(batches), images / batches];
        sizes.dedup();
        sizes
    }

    /// The most objects that an image of a batch may show: those of four images, where there are mosaics.
    pub fn most_objects(&self) -> usize {
        let most = self.dataset.items.iter().map(|item| item.labels.len()).max().unwrap_or(0);
        if self.config.mosaic_until > 0 { 4 * most } else { most }
    }

    /// The sizes of this rank's shares of them.
    pub fn own_sizes(&self) -> Vec<usize> {
        let share = |size: usize| Share::new(&self.config.ranks, size).range().len();
        let mut sizes: Vec<usize> = self.sizes().into_iter().map(share).collect();
        sizes.dedup();
        sizes
    }

    /// This rank's share of a batch of an epoch, whose [`order`](Self::order) is given. Every image of the dataset is
    /// in one batch of the epoch; batches differ in size by at most one.
    pub fn batch(&self, order: &[usize], epoch: usize, index: usize) -> Result<Batch, TrainError> {
        let batches = self.batches();
        let whole = &order[index * order.len() / batches..(index + 1) * order.len() / batches];
        let share = Share::new(&self.config.ranks, whole.len());
        let chosen = &whole[share.range()];
        let area = self.config.imgsz.area();
        let len = self.preprocess.channels() * area;
        let mut images = vec![0.0; chosen.len() * len];
        let targets = images
            .par_chunks_exact_mut(len)
            .enumerate()
            .map(|(i, input)| {
                let mut rgb = vec![0.0; 3 * area];
                let targets = self.image(epoch, chosen[i], i, &mut rgb)?;
                self.preprocess.adapt(&rgb, input);
                Ok(targets)
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        if self.classifies {
            let classes = chosen.iter().filter_map(|item| self.dataset.items[*item].class()).collect();
            return Ok(Batch { images, share, labels: Labels { classes, ..Labels::default() } });
        }
        let mut objects = Placed::default();
        for placed in targets {
            objects.targets.extend(placed.targets);
            objects.shapes.append(placed.shapes);
        }
        let Placed { targets, shapes } = objects;
        Ok(Batch { images, share, labels: Labels { targets, shapes, classes: Vec::new() } })
    }

    /// The images of an epoch in their order.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dataset.items.len()).collect();
        order.shuffle(&mut self.rng(epoch, usize::MAX));
        order
    }

    fn rng(&self, epoch: usize, item: usize) -> StdRng {
        let mut seed = [0u8; 32];
        for (part, value) in seed.chunks_exact_mut(8).zip([self.config.seed, epoch as u64, item as u64]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        StdRng::from_seed(seed)
    }

    fn image(&self, epoch: usize, item: usize, index: usize, canvas: &mut [f32]) -> Result<Placed, TrainError> {
        let (size, augment) = (self.config.imgsz, &self.augment);
        let mut rng = self.rng(epoch, item);
        let mosaic = self.config.mosaic;
        if epoch < self.config.mosaic_until && (mosaic >= 1.0 || rng.random_range(0.0..1.0) < mosaic) {
            let count = self.dataset.items.len();
            let [b, c, d] = std::array::from_fn(|_| rng.random_range(0..count));
            let items = [item, b, c, d];
            let [a, b, c, d] = items.map(|item| self.load(item));
            let images = [a?, b?, c?, d?];
            let parts = std::array::from_fn(|i| self.shown(&images[i], items[i]));
            return Ok(augment::mosaic(parts, augment, &mut rng, size, index, canvas));
        }
        let image = self.load(item)?;
        Ok(augment::single(self.shown(&image, item), augment, &mut rng, size, index, canvas))
    }

    fn shown<'b>(&'b self, image: &'b Image, item: usize) -> Shown<'b> {
        let Item { labels, shapes, .. } = &self.dataset.items[item];
        let flip = self.dataset.keypoints.as_ref().and_then(|shape| shape.flip.as_deref());
        Shown { image, labels, shapes, flip }
    }

    fn load(&self, item: usize) -> Result<Arc<Image>, TrainError> {
        if let Some(image) = self.cache[item].get() {
            return Ok(image.clone());
        }
        let image = self.dataset.items[item].image.load()?;
        let image = Arc::new(self.preprocess.part(&image, self.config.imgsz).into_owned());
        let bytes = image.data().len();
        if self.cached.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.room {
            let _ = self.cache[item].set(image.clone());
        } else {
            self.cached.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(image)
    }
}

/// Refuses an empty dataset, and labels that the head of a model has no use for.
///
/// # Errors
/// Names the first image that does not fit.
pub(super) fn check_data(dataset: &Dataset, model: &Model) -> Result<(), TrainError> {
    let unfit = |problem: String| Err(TrainError::Unfit(problem));
    let (classes, head) = (model.graph.classes(), &model.graph.head);
    if dataset.items.is_empty() {
        return unfit("the dataset has no images".into());
    }
    for item in &dataset.items {
        let image = item.image.display();
        if let Some(label) = item.labels.iter().find(|l| l.class >= classes) {
            return unfit(format!("{image} has class {}, the model {classes} classes", label.class));
        }
    }
    let classifies = matches!(head, Head::Classify { .. });
    if let Some(item) = dataset.items.iter().find(|item| classifies && item.class().is_none()) {
        return unfit(format!("it is a classifier, and {} has no class as a whole", item.image.display()));
    }
    if let Some(item) = dataset.items.iter().find(|item| !fits(head.branch(), item)) {
        let (image, task) = (item.image.display(), head.task());
        return unfit(format!("its task is `{task}`, and the labels of {image} are not those of it"));
    }
    Ok(())
}

/// Whether the labels of an item are those of a head's task.
fn fits(head: &Head, item: &Item) -> bool {
    let objects = item.labels.len();
    match (head, &item.shapes) {
        (Head::Segment { .. }, Shapes::Outlines(all)) => all.len() == objects,
        (Head::Obb { .. }, Shapes::Corners(all)) => all.len() == objects,
        (Head::Pose { keypoints, .. }, Shapes::Keypoints(all)) => {
            all.len() == objects && all.iter().all(|points| points.len() == *keypoints)
        }
        (Head::Segment { .. } | Head::Obb { .. } | Head::Pose { .. }, _) => objects == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Label;
    use crate::graph::{Builder, Op};
    use crate::model::{Info, Normalise};
    use std::collections::BTreeMap;

    #[test]
    fn without_variation_a_classifier_trains_on_what_it_ships_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.png");
        let image = Image::new(6, 4, (0..72u8).map(|v| v.wrapping_mul(31)).collect());
        image.save(&path).unwrap();
        let item = Item { labels: vec![Label::whole(1)], ..Item::new(path.into()) };
        let dataset = Dataset { names: vec!["a".into(); 3], items: vec![item], ..Dataset::default() };
        for (channels, normalise) in [(3, Some(Normalise::IMAGENET)), (3, None), (1, None)] {
            let mut builder = Builder::default();
            let input = builder.push("images", Op::Input { channels }, &[]);
            let graph = builder.finish(vec![input], Head::Classify { nc: channels }).unwrap();
            let model = Model { graph, weights: BTreeMap::new(), info: Info { normalise, ..Info::default() } };
            let config = FitConfig { imgsz: 4.into(), augment: Augment::NONE, ..FitConfig::default() };
            let item = Item { labels: vec![Label::whole(0)], ..dataset.items[0].clone() };
            let dataset = Dataset { items: vec![item], ..dataset.clone() };
            let batch = Loader::new(&dataset, &model, &config).unwrap().batch(&[0], 0, 0).unwrap();
            let mut wanted = vec![0.0; channels * 16];
            Preprocess::new(&model).unwrap().write(&image, 4, &mut wanted);
            assert_eq!(batch.images.len(), wanted.len());
            for (found, wanted) in batch.images.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 1e-5, "{channels} channels: {found} {wanted}");
            }
            let config = FitConfig { mosaic_until: 1, ..config };
            assert!(Loader::new(&dataset, &model, &config).is_err(), "a mosaic has four classes");
        }
    }
}
