//! Label files: one object a line, `class cx cy w h`, or what else the task needs ([`LabelKind`]), all normalised to
//! the image.

use super::shapes::{self, LabelKind, Shape, Shapes};
use super::{DataError, text};
use crate::files;
use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The largest label file that is read, bytes.
const MAX_FILE: u64 = 16 << 20;

/// How far outside the image a coordinate may lie: annotation tools round.
const SLACK: f32 = 0.01;

/// An object: its class and its box, normalised to the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Class number.
    pub class: usize,
    /// Centre, 0 to 1 from the left.
    pub cx: f32,
    /// Centre, 0 to 1 from the top.
    pub cy: f32,
    /// Width as a share of the image's.
    pub w: f32,
    /// Height as a share of the image's.
    pub h: f32,
}

impl Label {
    /// The class of a whole picture.
    pub fn whole(class: usize) -> Self {
        Self { class, cx: 0.5, cy: 0.5, w: 1.0, h: 1.0 }
    }
}

/// The label file of an image: the last folder `images` of its path becomes `labels`, the suffix `.txt`.
pub(super) fn path_of(image: &Path) -> PathBuf {
    let parts: Vec<Component> = image.components().collect();
    let last = parts.iter().rposition(|part| part.as_os_str() == "images");
    let swap =
        |(i, part): (usize, &Component)| if Some(i) == last { "labels".into() } else { part.as_os_str().to_owned() };
    parts.iter().enumerate().map(swap).collect::<PathBuf>().with_extension("txt")
}

/// What reading the label files of a split has come upon.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Images without a label file.
    pub missing: usize,
    /// Where the first of these was looked for.
    pub looked: Option<PathBuf>,
    /// Lines whose values were a hair outside the image.
    clipped: usize,
    /// Lines with a box of no size.
    empty: usize,
    /// Lines that stood there before.
    repeated: usize,
    /// The first lines that cannot be used.
    bad: Vec<(PathBuf, usize, String)>,
    /// Their number.
    bad_lines: usize,
}

/// The lines that are shown of those that cannot be used.
const MAX_SHOWN: usize = 20;

impl Tally {
    /// The labels of a file, and their shapes; none where there is no file.
    pub fn read(&mut self, path: &Path, classes: usize, kind: LabelKind) -> Result<(Vec<Label>, Shapes), DataError> {
        let mut shapes = Shapes::none_of(kind);
        let bytes = match files::read(path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.missing += 1;
                self.looked.get_or_insert_with(|| path.into());
                return Ok((Vec::new(), shapes));
            }
            Err(source) => return Err(DataError::Io { path: path.into(), source }),
        };
        let text = text::decode(path, &bytes)?;
        let (mut labels, mut seen) = (Vec::new(), HashSet::new());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match parse(line, classes, kind) {
                Ok(Line { label, shape, clipped }) => {
                    self.clipped += usize::from(clipped);
                    // The same line twice is a slip of the tool that wrote it.
                    if label.w <= 0.0 || label.h <= 0.0 {
                        self.empty += 1;
                    } else if seen.insert(content(&label, &shape)) {
                        labels.push(label);
                        shapes.push(shape);
                    } else {
                        self.repeated += 1;
                    }
                }
                Err(problem) => {
                    self.bad_lines += 1;
                    if self.bad.len() < MAX_SHOWN {
                        self.bad.push((path.into(), number + 1, problem));
                    }
                }
            }
        }
        Ok((labels, shapes))
    }

    /// Refuses a split with lines that cannot be used, and names them all at once.
    pub fn check(&mut self) -> Result<(), DataError> {
        match std::mem::take(&mut self.bad) {
            bad if bad.is_empty() => Ok(()),
            bad => Err(DataError::Lines(BadLines { bad, all: self.bad_lines })),
        }
    }

    /// What the user should know, a line each.
    pub fn notes(&self, images: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(looked) = &self.looked {
            let (missing, looked) = (self.missing, looked.display());
            notes.push(format!("{missing} of {images} images have no label file (the first looked for is {looked})"));
        }
        for (count, what) in [
            (self.empty, "with a box of no width or height were left out"),
            (self.clipped, "with values a hair outside the image were clipped to it"),
            (self.repeated, "that stand there twice count once"),
        ] {
            if count > 0 {
                notes.push(format!("{count} label lines {what}"));
            }
        }
        notes
    }
}

/// Label lines that cannot be used: file, line number from 1, and what is wrong.
#[derive(Debug)]
pub struct BadLines {
    /// The first of them.
    pub bad: Vec<(PathBuf, usize, String)>,
    /// How many there are.
    pub all: usize,
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.all > 1 {
            write!(f, "{} label lines cannot be used:", self.all)?;
        }
        for (path, line, problem) in &self.bad {
            write!(f, "{}{}:{line}: {problem}", if self.all > 1 { "\n  " } else { "" }, path.display())?;
        }
        match self.all - self.bad.len() {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// A line of a label file.
#[derive(Debug, PartialEq)]
struct Line {
    label: Label,
    shape: Shape,
    /// Whether a value was outside the image.
    clipped: bool,
}

/// A label as values that can be compared.
fn content(label: &Label, shape: &Shape) -> (usize, [u32; 4], Vec<u32>) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
    let shape = match shape {
        Shape::None => Vec::new(),
        Shape::Outline(points) => bits(points.as_flattened()),
        Shape::Keypoints(points) => bits(points.as_flattened()),
        Shape::Corners(points) => bits(points.as_flattened()),
    };
    (label.class, [label.cx, label.cy, label.w, label.h].map(f32::to_bits), shape)
}

fn parse(line: &str, classes: usize, kind: LabelKind) -> Result<Line, String> {
    if line.contains(',') {
        return Err("has commas, expected spaces between the values".into());
    }
    let mut fields = line.split_whitespace();
    let class = fields.next().unwrap_or_default();
    let number = class.parse::<f64>().ok().filter(|c| c.fract() == 0.0 && *c >= 0.0 && *c < classes as f64);
    let number = number.ok_or_else(|| match classes {
        0 => format!("class `{}`, but the dataset names no class", shown(class)),
        _ => format!("class `{}`, expected 0 to {}", shown(class), classes - 1),
    })?;
    let mut clipped = false;
    let mut values = Vec::new();
    for (at, field) in fields.enumerate() {
        match field.parse::<f32>() {
            Ok(value) if shapes::is_visibility(kind, at) => match value {
                0.0..=2.0 => values.push(value + 0.0),
                _ => return Err(format!("`{}`, expected 0, 1 or 2 (how visible a keypoint is)", shown(field))),
            },
            // Adding zero makes the negative zero one.
            Ok(value) if (-SLACK..=1.0 + SLACK).contains(&value) => {
                let inside = value.clamp(0.0, 1.0) + 0.0;
                clipped |= inside != value;
                values.push(inside);
            }
            _ => return Err(format!("`{}`, expected a number from 0 to 1", shown(field))),
        }
    }
    let ([cx, cy, w, h], shape) = shapes::read(kind, &values)?;
    Ok(Line { label: Label { class: number as usize, cx, cy, w, h }, shape, clipped })
}

/// A field as it may be shown.
fn shown(field: &str) -> String {
    field.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lie_beside_images() {
        let cases = [
            ("a/images/train/x.jpg", "a/labels/train/x.txt"),
            ("images/images/x.png", "images/labels/x.txt"),
            ("b/x.jpeg", "b/x.txt"),
        ];
        for (image, label) in cases {
            assert_eq!(path_of(Path::new(image)), Path::new(label));
        }
    }

    #[test]
    fn lines_are_read_or_refused() {
        let label = Label { class: 1, cx: 0.5, cy: 0.5, w: 0.5, h: 0.25 };
        let parse = |line, classes| super::parse(line, classes, LabelKind::Boxes);
        let line = |clipped| Ok(Line { label, shape: Shape::None, clipped });
        assert_eq!(parse("1 0.5 0.5 0.5 0.25", 2), line(false));
        assert_eq!(parse("1 0.25 0.375 0.75 0.375 0.75 0.625 0.25 0.625", 2), line(false));
        let full = Label { class: 0, cx: 0.5, cy: 0.0, w: 1.0, h: 1.0 };
        assert_eq!(parse("0 .5 -0.001 1.009 1", 1), Ok(Line { label: full, shape: Shape::None, clipped: true }));
        assert_eq!(parse("0 .5 -0 1 1", 1), Ok(Line { label: full, shape: Shape::None, clipped: false }));
        for bad in [
            "2 .5 .5 .1 .1",
            "-1 .5 .5 .1 .1",
            "x .5 .5 .1 .1",
            "0 .5 .5 .1",
            "0,.5,.5,.1,.1",
            "0 0,5 0,5 0,1 0,1",
            "0 NaN .5 .1 .1",
            "0 7 .5 .1 .1",
            "0",
        ] {
            assert!(parse(bad, 2).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_task_has_lines_of_its_own() {
        let pose = LabelKind::Keypoints { count: 2, dims: 3 };
        let flat = LabelKind::Keypoints { count: 2, dims: 2 };
        let outline = "0 0.25 0.25 0.75 0.25 0.5 0.75";
        let corners = "0 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5";
        let points = "0 0.5 0.5 0.5 0.5 0.5 0.25 2 0 0 0";
        let two = "0 0.5 0.5 0.5 0.5 0.5 0.25 0 0";
        let good = [
            (LabelKind::Outlines, outline, Shape::Outline(vec![[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]])),
            (LabelKind::Corners, corners, Shape::Corners([[0.5, 0.25], [0.75, 0.5], [0.5, 0.75], [0.25, 0.5]])),
            (pose, points, Shape::Keypoints(vec![[0.5, 0.25, 2.0], [0.0, 0.0, 0.0]])),
            (flat, two, Shape::Keypoints(vec![[0.5, 0.25, 2.0], [0.0, 0.0, 0.0]])),
        ];
        for (kind, line, shape) in good {
            let label = Label { class: 0, cx: 0.5, cy: 0.5, w: 0.5, h: 0.5 };
            assert_eq!(parse(line, 1, kind), Ok(Line { label, shape, clipped: false }), "{line}");
        }
        for (kind, line, said) in [
            (LabelKind::Outlines, "0 .5 .5 .1 .1", "4 values after the class, expected an even number from 6 on"),
            (LabelKind::Corners, outline, "6 values after the class, expected 8 (the corners"),
            (LabelKind::Corners, "0 .5 .5 .1 .1", "4 values after the class, expected 8 (the corners"),
            (pose, "0 .5 .5 .1 .1", "4 values after the class, expected 10 (a box and 2 keypoints of 3 values)"),
            (pose, two, "8 values after the class, expected 10"),
            (pose, "0 .5 .5 .5 .5 .5 .25 3 0 0 0", "`3`, expected 0, 1 or 2"),
            (pose, "0 .5 .5 .5 .5 .5 2 2 0 0 0", "`2`, expected a number from 0 to 1"),
        ] {
            let problem = parse(line, 1, kind).unwrap_err();
            assert!(problem.starts_with(said), "{line}: {problem}");
        }
    }

    #[test]
    fn many_lines_are_told_apart_in_linear_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let line = |i: usize| format!("0 0.{:05} 0.5 0.1 0.{:03}\n", i % 100_000, 100 + i / 100_000);
        let text: String = (0..400_000).chain(0..10).map(line).collect();
        std::fs::write(&path, text).unwrap();
        let start = std::time::Instant::now();
        let mut tally = Tally::default();
        assert_eq!(tally.read(&path, 1, LabelKind::Boxes).unwrap().0.len(), 400_000);
        assert_eq!(tally.repeated, 10);
        // Comparing each with each took a minute.
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
