//! The loss of detection: assignment, gradients of the outputs, and terms.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Tensors, Uses, array, byte, each, values};
use crate::kernels::cuda::arguments::{Region, count, int};
use crate::kernels::cuda::launch::Launch;

/// Bytes of a cell that an object chooses or takes.
pub const TAKEN_BYTES: usize = 32;

/// Factors of the terms on the device: boxes, classes, distances, the teacher's classes and boxes, and the scale of the
/// loss.
pub const FACTORS_LEN: usize = 8;

/// Terms that the device answers, without their factors: classes, the teacher's classes; overlaps, distances, the
/// teacher's boxes.
pub const TERMS_LEN: usize = 5;

/// The most blocks of a launch that sums up.
const BLOCKS: i64 = 1024;

/// What an assignment is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossShape {
    /// Images.
    pub images: usize,
    /// Height and width of the images in pixels.
    pub size: (usize, usize),
    /// Cells of an image.
    pub cells: usize,
    /// Room for so many objects of an image.
    pub objects: usize,
    /// Bins of a side; 1 where the output is the distance itself.
    pub bins: usize,
    /// Cells that an object chooses, at most 10.
    pub top: usize,
    /// Whether it keeps one only.
    pub keeps_one: bool,
    /// Whether there is a teacher.
    pub taught: bool,
    /// Temperature of the teacher's distributions.
    pub temperature: f32,
    /// The least confidence of the teacher in a cell whose box it teaches.
    pub min_confidence: f32,
}

/// First bytes of the arrays of a branch's loss. Their lengths are those of `train/loss.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossArrays {
    /// Boxes of all cells.
    pub boxes: usize,
    /// Labels.
    pub labels: usize,
    /// The cells that objects choose.
    pub chosen: usize,
    /// The cells that they take.
    pub taken: usize,
    /// The object of every cell.
    pub owners: usize,
    /// The teacher's confidences.
    pub confidences: usize,
    /// Sums of every image.
    pub sums: usize,
    /// Factors of the terms.
    pub factors: usize,
}

/// A level of a branch: outputs, and those of the teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossLevel {
    /// Box outputs.
    pub boxes: Batch,
    /// Class logits.
    pub classes: Batch,
    /// The teacher's.
    pub taught: Option<[Batch; 2]>,
    /// Number of its first cell.
    pub first: usize,
}

impl LossShape {
    fn training(&self, arrays: &LossArrays) -> Training {
        let LossArrays { boxes, labels, chosen, taken, owners, confidences, sums, .. } = *arrays;
        Training {
            arrays: [boxes, labels, chosen, taken, owners, confidences, sums, 0].map(byte),
            height: int(self.size.0),
            width: int(self.size.1),
            cells: int(self.cells),
            objects: int(self.objects),
            bins: int(self.bins),
            top: int(self.top),
            keep: self.keeps_one.into(),
            taught: self.taught.into(),
            scale: self.temperature,
            eps: self.min_confidence,
            ..Training::default()
        }
    }

    /// Values of the labels.
    pub fn labels_len(&self) -> usize {
        self.images * (1 + 5 * self.objects)
    }

    /// Cells of all images.
    pub fn all_cells(&self) -> usize {
        self.images * self.cells
    }

    /// Entries of the cells of all objects.
    pub fn entries(&self) -> usize {
        self.images * self.objects * self.top
    }

    fn regions(&self, arrays: &LossArrays) -> Regions {
        let cells = self.all_cells() as i64;
        let entries = (self.entries() * TAKEN_BYTES) as i64;
        Regions {
            boxes: array(byte(arrays.boxes), 32 * cells),
            labels: values(arrays.labels, self.labels_len() as i64),
            chosen: array(byte(arrays.chosen), entries),
            taken: array(byte(arrays.taken), entries),
            owners: values(arrays.owners, cells),
            confidences: if self.taught { values(arrays.confidences, cells) } else { Region::default() },
            sums: values(arrays.sums, 2 * self.images as i64),
            factors: values(arrays.factors, FACTORS_LEN as i64),
        }
    }
}

struct Regions {
    boxes: Region,
    labels: Region,
    chosen: Region,
    taken: Region,
    owners: Region,
    confidences: Region,
    sums: Region,
    factors: Region,
}

impl Tensors {
    /// Which cells answer for which objects, and the sums of every image: of the scores, and of the teacher's confidences.
    /// There are one to three levels.
    pub fn assign(self, shape: &LossShape, arrays: &LossArrays, levels: &[LossLevel]) -> Vec<Launch> {
        let (training, own) = (shape.training(arrays), shape.regions(arrays));
        let mut launches = Vec::new();
        for level in levels {
            let cells = each(level.boxes.pixels());
            let of = Training { x: level.boxes, first: int(level.first), ..training };
            let uses = Uses { reads: &[self.region(&level.boxes)], writes: &[own.boxes, own.owners] };
            launches.push(self.launch(TrainKernel::Boxes, cells, of, uses));
            if let Some([_, classes]) = level.taught {
                let of = Training { x: classes, first: int(level.first), ..training };
                let uses = Uses { reads: &[self.region(&classes)], writes: &[own.confidences] };
                launches.push(self.launch(TrainKernel::Confidence, cells, of, uses));
            }
        }
        let classes = |level: usize| levels.get(level).map_or_else(Batch::default, |level| level.classes);
        let all = Training { x: classes(0), y: classes(1), z: classes(2), ..training };
        let mut reads: Vec<Region> = levels.iter().map(|level| self.region(&level.classes)).collect();
        reads.extend([own.boxes, own.labels]);
        let blocks = count((shape.images * shape.objects) as i64, 1);
        let uses = Uses { reads: &reads, writes: &[own.chosen] };
        launches.push(self.launch(TrainKernel::Choose, [blocks, 1, 1], all, uses));
        reads.push(own.chosen);
        let uses = Uses { reads: &reads, writes: &[own.taken] };
        launches.push(self.launch(TrainKernel::Settle, each(shape.entries() as i64), all, uses));
        let uses = Uses { reads: &[own.labels], writes: &[own.taken, own.owners] };
        let objects = each((shape.images * shape.objects) as i64);
        launches.push(self.launch(TrainKernel::Keep, objects, all, uses));
        let uses = Uses { reads: &[own.owners, own.taken, own.confidences], writes: &[own.sums] };
        launches.push(self.launch(TrainKernel::ImageSums, [count(shape.images as i64, 1), 1, 1], all, uses));
        launches
    }

    /// Parts of the terms of a level's classes, and of its boxes.
    pub fn loss_parts(level: &LossLevel) -> [usize; 2] {
        let blocks = |len: i64| count(len.max(1), 256) as usize;
        [blocks(level.classes.len()).min(BLOCKS as usize), blocks(level.boxes.pixels())]
    }

    /// The gradient `dx` of a level's class logits, written or added to what is there. Its parts of the terms, two of f64
    /// each, lie from byte `parts` on.
    pub fn class_loss(
        self,
        (shape, arrays): (&LossShape, &LossArrays),
        level: &LossLevel,
        (dx, add): (Batch, bool),
        parts: usize,
    ) -> Launch {
        let own = shape.regions(arrays);
        let blocks = Self::loss_parts(level)[0];
        let taught = level.taught.map(|[_, classes]| classes);
        let training = Training {
            x: level.classes,
            y: taught.unwrap_or_default(),
            z: dx,
            first: int(level.first),
            add: add.into(),
            splits: int(blocks),
            ..Self::gradients(shape, arrays, parts)
        };
        let mut reads = vec![self.region(&level.classes), own.labels, own.taken, own.owners, own.factors];
        reads.extend(taught.map(|classes| self.region(&classes)));
        let writes = [self.region(&dx), array(byte(parts), 16 * blocks as i64)];
        let grid = [count(blocks as i64, 1), 1, 1];
        self.launch(TrainKernel::ClassLoss, grid, training, Uses { reads: &reads, writes: &writes })
    }

    /// The same of its box outputs, with three parts.
    pub fn box_loss(
        self,
        (shape, arrays): (&LossShape, &LossArrays),
        level: &LossLevel,
        (dx, add): (Batch, bool),
        parts: usize,
    ) -> Launch {
        let own = shape.regions(arrays);
        let taught = level.taught.map(|[boxes, _]| boxes);
        let training = Training {
            x: level.boxes,
            y: taught.unwrap_or_default(),
            z: dx,
            first: int(level.first),
            add: add.into(),
            ..Self::gradients(shape, arrays, parts)
        };
        let mut reads = vec![self.region(&level.boxes), own.boxes, own.labels, own.taken, own.owners, own.factors];
        reads.push(own.confidences);
        reads.extend(taught.map(|boxes| self.region(&boxes)));
        let grid = each(level.boxes.pixels());
        let writes = [self.region(&dx), array(byte(parts), 24 * i64::from(grid[0]))];
        self.launch(TrainKernel::BoxLoss, grid, training, Uses { reads: &reads, writes: &writes })
    }

    fn gradients(shape: &LossShape, arrays: &LossArrays, parts: usize) -> Training {
        let mut training = shape.training(arrays);
        (training.arrays[6], training.arrays[7]) = (byte(arrays.factors), byte(parts));
        training
    }

    /// The sums of so many parts of so many terms, from byte `parts` to byte `terms` on.
    pub fn terms(self, (parts, [count, columns]): (usize, [usize; 2]), terms: usize) -> Launch {
        let arrays = [byte(parts), byte(terms), 0, 0, 0, 0, 0, 0];
        let training = Training { arrays, splits: int(count), factor: int(columns), ..Training::default() };
        let reads = [array(byte(parts), 8 * byte(count * columns))];
        let uses = Uses { reads: &reads, writes: &[values(terms, columns as i64)] };
        self.launch(TrainKernel::Terms, [1, 1, 1], training, uses)
    }
}
