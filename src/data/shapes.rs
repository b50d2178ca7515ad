//! What label files say about an object beside its box: an outline, keypoints, or the corners of a rotated box. Which
//! of them a line holds cannot be told from its values alone; the task says it.

/// A task that reads labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelTask {
    /// Boxes.
    #[default]
    Detect,
    /// Outlines.
    Segment,
    /// Keypoints, as `kpt_shape` of the data's description shapes them.
    Pose,
    /// Rotated boxes.
    Obb,
    /// Classes of whole pictures.
    Classify,
}

impl LabelTask {
    /// Every task with the name that ultralytics gives it.
    pub const ALL: [(&'static str, Self); 5] = [
        ("detect", Self::Detect),
        ("segment", Self::Segment),
        ("pose", Self::Pose),
        ("obb", Self::Obb),
        ("classify", Self::Classify),
    ];

    /// By the name that ultralytics gives a task; boxes where there is none of that name.
    pub fn named(task: &str) -> Self {
        Self::ALL.iter().find(|(name, _)| *name == task).map_or(Self::Detect, |(_, task)| *task)
    }

    /// The name that ultralytics gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Segment => "segment",
            Self::Pose => "pose",
            Self::Obb => "obb",
            Self::Classify => "classify",
        }
    }
}

/// What labels are for, and so what a line of a label file must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelKind {
    /// `class cx cy w h`, or `class x1 y1 x2 y2 ...` for an outline, of which the box is taken.
    #[default]
    Boxes,
    /// `class x1 y1 x2 y2 ...`: an outline of three points and more.
    Outlines,
    /// `class cx cy w h`, then every keypoint: `x y`, or `x y v` with v 0 (not labelled), 1 (hidden) or 2 (visible).
    Keypoints {
        /// Number of keypoints.
        count: usize,
        /// Values of each: 2 or 3.
        dims: usize,
    },
    /// `class x1 y1 x2 y2 x3 y3 x4 y4`: the corners of a rotated box, in their order.
    Corners,
}

/// How the keypoints of a dataset are shaped (`kpt_shape`, `flip_idx`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeypointShape {
    /// Keypoints per object.
    pub count: usize,
    /// Values of each: 2 (x, y), or 3 (and whether it is visible).
    pub dims: usize,
    /// For every keypoint the one that it becomes in a mirrored picture (left eye, right eye); without it pictures are
    /// not mirrored.
    pub flip: Option<Vec<usize>>,
}

/// What is labelled in a picture beside the boxes, object after object; all values are shares of the picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Shapes {
    /// Nothing.
    #[default]
    None,
    /// Outlines.
    Outlines(Vec<Vec<[f32; 2]>>),
    /// Keypoints: x, y, and 0 (not labelled), 1 (hidden) or 2 (visible).
    Keypoints(Vec<Vec<[f32; 3]>>),
    /// Rotated boxes: four corners in their order.
    Corners(Vec<[[f32; 2]; 4]>),
}

/// The shape of one object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    None,
    Outline(Vec<[f32; 2]>),
    Keypoints(Vec<[f32; 3]>),
    Corners([[f32; 2]; 4]),
}

impl Shapes {
    /// None of what a task labels yet.
    pub(super) fn of(task: LabelTask) -> Self {
        match task {
            LabelTask::Detect | LabelTask::Classify => Self::None,
            LabelTask::Segment => Self::Outlines(Vec::new()),
            LabelTask::Pose => Self::Keypoints(Vec::new()),
            LabelTask::Obb => Self::Corners(Vec::new()),
        }
    }

    /// None of a kind yet.
    pub(super) fn none_of(kind: LabelKind) -> Self {
        match kind {
            LabelKind::Boxes => Self::None,
            LabelKind::Outlines => Self::Outlines(Vec::new()),
            LabelKind::Keypoints { .. } => Self::Keypoints(Vec::new()),
            LabelKind::Corners => Self::Corners(Vec::new()),
        }
    }

    /// Adds the shape of the next object, which is of the same kind.
    pub(super) fn push(&mut self, shape: Shape) {
        match (self, shape) {
            (Self::Outlines(all), Shape::Outline(outline)) => all.push(outline),
            (Self::Keypoints(all), Shape::Keypoints(points)) => all.push(points),
            (Self::Corners(all), Shape::Corners(corners)) => all.push(corners),
            _ => {}
        }
    }

    /// Every value, to identify it by.
    pub(super) fn values(&self) -> Vec<f32> {
        match self {
            Self::None => Vec::new(),
            Self::Outlines(all) => all.iter().flatten().flatten().copied().collect(),
            Self::Keypoints(all) => all.iter().flatten().flatten().copied().collect(),
            Self::Corners(all) => all.iter().flatten().flatten().copied().collect(),
        }
    }
}

/// What the values behind a class mean: the box (centre x, centre y, width, height) and the shape.
///
/// # Errors
/// Their number, and the one that the task needs.
pub(super) fn read(kind: LabelKind, values: &[f32]) -> Result<([f32; 4], Shape), String> {
    let pairs = |values: &[f32]| values.chunks_exact(2).map(|p| [p[0], p[1]]).collect::<Vec<_>>();
    let outline = values.len() >= 6 && values.len().is_multiple_of(2);
    let fail = |expected: String| Err(format!("{} values after the class, expected {expected}", values.len()));
    match (kind, values) {
        (LabelKind::Boxes, [cx, cy, w, h]) => Ok(([*cx, *cy, *w, *h], Shape::None)),
        (LabelKind::Boxes, _) if outline => Ok((around(&pairs(values)), Shape::None)),
        (LabelKind::Boxes, _) => fail("4 (a box) or an even number from 6 on (an outline)".into()),
        (LabelKind::Outlines, _) if outline => {
            let points = pairs(values);
            Ok((around(&points), Shape::Outline(points)))
        }
        (LabelKind::Outlines, _) => fail("an even number from 6 on (an outline): the task is `segment`".into()),
        (LabelKind::Corners, [_, _, _, _, _, _, _, _]) => {
            let points = pairs(values);
            Ok((around(&points), Shape::Corners(std::array::from_fn(|i| points[i]))))
        }
        (LabelKind::Corners, _) => fail("8 (the corners of a rotated box): the task is `obb`".into()),
        (LabelKind::Keypoints { count, dims }, [cx, cy, w, h, points @ ..]) if points.len() == count * dims => {
            let point = |p: &[f32]| match *p {
                // A point without a third value counts, unless it is the corner that stands for none.
                [x, y] => [x, y, if x == 0.0 && y == 0.0 { 0.0 } else { 2.0 }],
                _ => [p[0], p[1], p[2]],
            };
            Ok(([*cx, *cy, *w, *h], Shape::Keypoints(points.chunks_exact(dims.max(1)).map(point).collect())))
        }
        (LabelKind::Keypoints { count, dims }, _) => {
            fail(format!("{} (a box and {count} keypoints of {dims} values): the task is `pose`", 4 + count * dims))
        }
    }
}

/// Whether the value at a position behind the class tells how visible a keypoint is, and is no place.
pub(super) fn is_visibility(kind: LabelKind, at: usize) -> bool {
    matches!(kind, LabelKind::Keypoints { dims: 3, .. }) && at >= 4 && (at - 4) % 3 == 2
}

/// Centre and sides of the upright box around points.
fn around(points: &[[f32; 2]]) -> [f32; 4] {
    let range = |axis: usize| {
        let of = points.iter().map(|point| point[axis]);
        (of.clone().fold(f32::MAX, f32::min), of.fold(f32::MIN, f32::max))
    };
    let ((x0, x1), (y0, y1)) = (range(0), range(1));
    [(x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0]
}
