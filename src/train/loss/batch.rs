//! What the losses read: the outputs of one branch of a head for a batch, and the labels, both checked.

use super::flow::Flow;
use super::{HeadView, LossError, Target};
use crate::graph::{Boxes, Head};
use crate::ranks::Share;

/// Which conventions a branch follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// YOLOv8 to YOLO12: distances are distributions over bins, keypoints `2 raw + cell - 1/2`, angles behind a
    /// sigmoid.
    Distribution,
    /// YOLO26: distances, keypoints (`raw + cell centre`) and angles (radians) are the raw outputs.
    Direct,
}

/// What a branch says about an object beside box and class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    Detect,
    /// The weights of this many mask prototypes.
    Segment {
        /// Number of prototypes.
        masks: usize,
    },
    /// Keypoints.
    Pose {
        /// Keypoints per object.
        keypoints: usize,
        /// 2: x and y; 3: and the logit of being visible.
        dims: usize,
    },
    /// The angle of the box.
    Obb,
}

/// One branch of a head that finds objects, and how its cells are assigned to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Number of classes.
    pub nc: usize,
    /// Bins per box side; 1 where the output is the distance itself.
    pub reg_max: usize,
    /// Pixels per cell, one per level, finest first.
    pub strides: Vec<usize>,
    /// The task.
    pub task: Task,
    /// How the raw outputs are read.
    pub convention: Convention,
    /// Cells that an object may take.
    pub top: usize,
    /// The most that an object keeps once contested cells are decided; no bound where `None`.
    pub keep: Option<usize>,
}

impl Branch {
    /// The branch of a head; of an end-to-end head with both branches the one-to-many branch.
    ///
    /// # Errors
    /// If it finds no boxes.
    pub fn of(head: &Head) -> Result<Self, LossError> {
        let Some(Boxes { nc, reg_max, strides }) = head.boxes() else {
            return Err(LossError::Head { expected: "detect, segment, pose or obb" });
        };
        let task = match head.branch() {
            Head::Segment { masks, .. } => Task::Segment { masks: *masks },
            Head::Pose { keypoints, dims, .. } => Task::Pose { keypoints: *keypoints, dims: *dims },
            Head::Obb { .. } => Task::Obb,
            _ => Task::Detect,
        };
        let convention = if reg_max == 1 { Convention::Direct } else { Convention::Distribution };
        let usual = Self { nc, reg_max, strides: strides.to_vec(), task, convention, top: 10, keep: None };
        Ok(if head.is_one2one() { usual.one2one() } else { usual })
    }

    /// This branch as the one-to-one branch of an end-to-end head: an object takes the best 7 cells, and keeps one.
    pub fn one2one(&self) -> Self {
        Self { top: 7, keep: Some(1), ..self.clone() }
    }

    /// Rows per cell of the task's own outputs.
    pub(super) fn extra(&self) -> usize {
        match self.task {
            Task::Detect => 0,
            Task::Segment { masks } => masks,
            Task::Pose { keypoints, dims } => keypoints * dims,
            Task::Obb => 1,
        }
    }
}

/// The raw outputs of a branch for a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs<'a> {
    /// Box outputs `[N, 4 * reg_max, h, w]` and class logits `[N, nc, h, w]`, pair after pair, finest level first.
    pub boxes: &'a [HeadView<'a>],
    /// The task's own outputs, `[N, rows, h, w]` per level; empty for detection.
    pub extra: &'a [HeadView<'a>],
    /// Segmentation: the prototypes `[N, masks, H, W]`.
    pub prototypes: Option<HeadView<'a>>,
    /// YOLO26's pose: the raw deviations of the keypoints, `[N, 2 * keypoints, h, w]` per level, else empty.
    pub sigmas: &'a [HeadView<'a>],
    /// YOLO26's pose: the flow that the residuals go through.
    pub flow: Option<&'a Flow>,
    /// YOLO26's segmentation: the class logits of every pixel, `[N, nc, h, w]` at the finest level's size.
    pub semantic: Option<HeadView<'a>>,
    /// Which part of a larger batch this is. The terms of all parts add up to those of the whole, and so does what
    /// follows from the gradients.
    pub share: Option<&'a Share>,
}

impl<'a> Outputs<'a> {
    /// The outputs of a graph in its order: pairs, the task's own, and last the prototypes of a segmenting head.
    ///
    /// # Errors
    /// If their number is another.
    pub fn of(branch: &Branch, heads: &'a [HeadView<'a>]) -> Result<Self, LossError> {
        let levels = branch.strides.len();
        let extra = if branch.extra() > 0 { levels } else { 0 };
        let segments = matches!(branch.task, Task::Segment { .. });
        let all = 2 * levels + extra + usize::from(segments);
        if heads.len() != all {
            let found = heads.get(all).or(heads.last()).map_or_else(Vec::new, |v| v.shape.to_vec());
            return Err(LossError::Output { output: heads.len(), found, expected: format!("{all} outputs in all") });
        }
        let (boxes, rest) = heads.split_at(2 * levels);
        let prototypes = if segments { heads.last().copied() } else { None };
        Ok(Self { boxes, extra: &rest[..extra], prototypes, ..Self::default() })
    }
}

/// What is labelled beside the boxes, object after object in the order of the targets.
#[derive(Clone, Copy, Debug, Default)]
pub enum Shapes<'a> {
    /// Nothing.
    #[default]
    Boxes,
    /// The pixels of every object at the size of the prototypes.
    Masks(Masks<'a>),
    /// x and y as shares of the image, and how visible: 0 where the point is not labelled.
    Keypoints(&'a [Vec<[f32; 3]>]),
    /// The angle of every object in radians; the targets are its unturned boxes, as shares of width and height.
    Angles(&'a [f32]),
}

/// Which pixels belong to which object.
#[derive(Clone, Copy, Debug)]
pub struct Masks<'a> {
    /// Rows and columns of a plane.
    pub size: [usize; 2],
    /// The planes, row after row.
    pub planes: &'a [u8],
    /// Whether there is one plane per image, in which the i-th object of the image has the value i + 1; else one plane
    /// per object, in which its pixels are not 0.
    pub overlap: bool,
}

/// One level of one image: raw outputs with their geometry.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    pub boxes: &'a [f32],
    pub classes: &'a [f32],
    pub extra: &'a [f32],
    pub sigmas: &'a [f32],
    pub h: usize,
    pub w: usize,
    pub stride: f64,
    /// Number of this level's first cell among all cells of the image.
    pub first: usize,
}

impl Level<'_> {
    pub fn area(&self) -> usize {
        self.h * self.w
    }

    /// Centre of a cell in cells.
    pub fn centre(&self, cell: usize) -> [f64; 2] {
        [(cell % self.w) as f64 + 0.5, (cell / self.w) as f64 + 0.5]
    }

    /// A value of the task's own output.
    pub fn extra(&self, row: usize, cell: usize) -> f64 {
        f64::from(self.extra[row * self.area() + cell])
    }
}

/// An object of an image, pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truth {
    pub class: usize,
    /// Corners; of a rotated object those of its unturned box.
    pub bbox: [f64; 4],
    /// Radians; 0 where nothing is turned.
    pub angle: f64,
    /// Its position among all labels.
    pub label: usize,
}

impl Truth {
    /// Width and height.
    pub fn size(&self) -> [f64; 2] {
        [self.bbox[2] - self.bbox[0], self.bbox[3] - self.bbox[1]]
    }

    /// Centre x, centre y, width, height, angle.
    pub fn turned(&self) -> [f64; 5] {
        let ([x1, y1, x2, y2], [w, h]) = (self.bbox, self.size());
        [(x1 + x2) / 2.0, (y1 + y2) / 2.0, w, h, self.angle]
    }
}

/// Rotated objects with a side below this many pixels are left out.
const MIN_ROTATED: f64 = 2.0;

/// The outputs of a branch for a batch, checked against the branch and the labels.
pub(super) struct Batch<'a> {
    pub n: usize,
    pub branch: &'a Branch,
    pub outputs: Outputs<'a>,
    pub shapes: Shapes<'a>,
}

/// The part of a view that belongs to an image; nothing of a view without values.
fn one<'a>(view: &HeadView<'a>, image: usize) -> &'a [f32] {
    let len = view.data.len() / view.shape[0].max(1);
    view.data.get(image * len..(image + 1) * len).unwrap_or_default()
}

impl<'a> Batch<'a> {
    pub fn new(branch: &'a Branch, outputs: Outputs<'a>, shapes: Shapes<'a>) -> Result<Self, LossError> {
        let levels = branch.strides.len();
        let wrong = |output: usize, found: &[HeadView<'_>], at: usize, expected: String| {
            let found = found.get(at).map_or_else(Vec::new, |v| v.shape.to_vec());
            LossError::Output { output, found, expected }
        };
        if outputs.boxes.len() != 2 * levels || levels == 0 {
            let expected = format!("{} outputs in all", 2 * levels);
            return Err(wrong(outputs.boxes.len(), outputs.boxes, usize::MAX, expected));
        }
        let n = outputs.boxes[0].shape[0];
        let size = |level: usize| outputs.boxes[2 * level].shape;
        let check = |output: usize, views: &[HeadView<'_>], at: usize, level: usize, channels: usize| {
            let [_, _, h, w] = size(level);
            if views[at].shape != [n, channels, h, w] {
                return Err(wrong(output, views, at, format!("[{n}, {channels}, {h}, {w}]")));
            }
            if views[at].data.len() != views[at].shape.iter().product::<usize>() || views[at].data.is_empty() {
                let expected = format!("as many values, and some; found {}", views[at].data.len());
                return Err(wrong(output, views, at, expected));
            }
            Ok(())
        };
        for i in 0..2 * levels {
            check(i, outputs.boxes, i, i / 2, if i % 2 == 0 { 4 * branch.reg_max } else { branch.nc })?;
        }
        let (extra, sigmas) = (branch.extra(), outputs.sigmas.len());
        let wanted = if extra > 0 { levels } else { 0 };
        if outputs.extra.len() != wanted || (sigmas != 0 && sigmas != levels) {
            let expected = format!("{wanted} outputs of the task");
            return Err(wrong(2 * levels, outputs.extra, usize::MAX, expected));
        }
        for level in 0..wanted {
            check(2 * levels + level, outputs.extra, level, level, extra)?;
        }
        if let Task::Pose { keypoints, .. } = branch.task {
            for level in 0..sigmas {
                check(3 * levels + level, outputs.sigmas, level, level, 2 * keypoints)?;
            }
        }
        let batch = Self { n, branch, outputs, shapes };
        batch.check_planes()?;
        Ok(batch)
    }

    /// Images of the batch, those of other ranks too.
    pub fn images(&self) -> usize {
        self.outputs.share.map_or(self.n, Share::images)
    }

    /// Sums over all images of the batch, of values of those that are here, added in the order of the images.
    pub fn sums<const N: usize>(&self, own: Vec<[f64; N]>) -> Result<[f64; N], LossError> {
        let own = own.into_flattened();
        let all = match self.outputs.share {
            Some(share) => share.gather(own)?,
            None => own,
        };
        Ok(std::array::from_fn(|at| all.iter().skip(at).step_by(N).sum()))
    }

    /// Checks prototypes and the semantic output.
    fn check_planes(&self) -> Result<(), LossError> {
        let check = |view: Option<HeadView<'_>>, channels: usize| {
            let Some(view) = view else { return Ok(()) };
            let [n, c, h, w] = view.shape;
            if [n, c] == [self.n, channels] && h * w > 0 && view.data.len() == n * c * h * w {
                return Ok(());
            }
            let output = self.outputs.boxes.len() + self.outputs.extra.len();
            let expected = format!("[{}, {channels}, h, w] with that many values", self.n);
            Err(LossError::Output { output, found: view.shape.to_vec(), expected })
        };
        check(self.outputs.semantic, self.branch.nc)?;
        match self.branch.task {
            Task::Segment { masks } if self.outputs.prototypes.is_some() => check(self.outputs.prototypes, masks),
            Task::Segment { .. } => Err(LossError::Head { expected: "segment (with its prototypes)" }),
            _ => Ok(()),
        }
    }

    /// Width and height of the images in pixels.
    pub fn size(&self) -> [f64; 2] {
        let [_, _, h, w] = self.outputs.boxes[0].shape;
        [w, h].map(|side| (side * self.branch.strides[0]) as f64)
    }

    pub fn levels(&self, image: usize) -> Vec<Level<'a>> {
        let mut first = 0;
        let outputs = &self.outputs;
        let level = |(number, (pair, stride)): (usize, (&[HeadView<'a>], &usize))| {
            let [_, _, h, w] = pair[0].shape;
            let other = |views: &[HeadView<'a>]| views.get(number).map_or(&[][..], |view| one(view, image));
            let (extra, sigmas) = (other(outputs.extra), other(outputs.sigmas));
            let (boxes, classes) = (one(&pair[0], image), one(&pair[1], image));
            let level = Level { boxes, classes, extra, sigmas, h, w, stride: *stride as f64, first };
            first += h * w;
            level
        };
        outputs.boxes.chunks_exact(2).zip(&self.branch.strides).enumerate().map(level).collect()
    }

    /// The prototypes of an image `[masks, h * w]`, and their rows and columns.
    pub fn prototypes(&self, image: usize) -> (&'a [f32], [usize; 2]) {
        let Some(view) = self.outputs.prototypes else { return (&[], [0, 0]) };
        (one(&view, image), [view.shape[2], view.shape[3]])
    }

    /// The semantic logits of an image `[nc, h * w]`, and their rows and columns.
    pub fn semantic(&self, image: usize) -> Option<(&'a [f32], [usize; 2])> {
        let view = self.outputs.semantic?;
        Some((one(&view, image), [view.shape[2], view.shape[3]]))
    }

    /// The objects of every image, in pixels, with their shapes checked.
    pub fn truths(&self, targets: &[Target]) -> Result<Vec<Vec<Truth>>, LossError> {
        self.check_shapes(targets)?;
        let mut truths = vec![Vec::new(); self.n];
        let [width, height] = self.size();
        for (label, target) in targets.iter().enumerate() {
            target.check(label, self.branch.nc, self.n)?;
            let [cx, cy, w, h] = target.bbox.0.map(f64::from);
            let bbox =
                [(cx - w / 2.0) * width, (cy - h / 2.0) * height, (cx + w / 2.0) * width, (cy + h / 2.0) * height];
            let of_image = &mut truths[target.image];
            let angle = match self.shapes {
                Shapes::Angles(angles) => f64::from(angles[label]),
                _ => 0.0,
            };
            let truth = Truth { class: target.class, bbox, angle, label };
            if self.branch.task != Task::Obb || truth.size().iter().all(|side| *side >= MIN_ROTATED) {
                of_image.push(truth);
            }
        }
        Ok(truths)
    }

    /// Refuses labels of another task than the branch's.
    fn check_shapes(&self, targets: &[Target]) -> Result<(), LossError> {
        let objects = targets.len();
        let fail = |label: usize, problem: String| Err(LossError::Target { label, problem });
        match (self.branch.task, self.shapes) {
            (Task::Detect, _) => Ok(()),
            (Task::Segment { .. }, Shapes::Masks(masks)) => {
                let size = self.prototypes(0).1;
                let planes = if masks.overlap { self.n } else { objects };
                if masks.size != size || masks.planes.len() != planes * size[0] * size[1] {
                    let found = format!("{} values of {:?}", masks.planes.len(), masks.size);
                    return fail(0, format!("the masks have {found}, expected {planes} planes of {size:?}"));
                }
                Ok(())
            }
            (Task::Pose { keypoints, .. }, Shapes::Keypoints(points)) => {
                let odd = |points: &Vec<[f32; 3]>| {
                    points.len() != keypoints || points.iter().flatten().any(|v| !v.is_finite())
                };
                match points.iter().position(odd) {
                    Some(label) => fail(label, format!("expected {keypoints} keypoints with finite values")),
                    None if points.len() != objects => {
                        fail(points.len().min(objects), format!("{} sets of keypoints for {objects}", points.len()))
                    }
                    None => Ok(()),
                }
            }
            (Task::Obb, Shapes::Angles(angles)) => match angles.iter().position(|angle| !angle.is_finite()) {
                Some(label) => fail(label, format!("angle {}", angles[label])),
                None if angles.len() != objects => {
                    fail(angles.len().min(objects), format!("{} angles for {objects} boxes", angles.len()))
                }
                None => Ok(()),
            },
            // Without an object there is nothing to tell.
            (_, Shapes::Boxes) if targets.is_empty() => Ok(()),
            _ => fail(0, "the labels are those of another task".into()),
        }
    }
}
