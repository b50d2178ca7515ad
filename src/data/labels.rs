//! Label files: one object a line, `class cx cy w h`, or `class x1 y1 x2 y2 …` for an outline, all normalised to the image.

use super::DataError;
use crate::files;
use std::path::{Component, Path, PathBuf};

/// The largest label file that is read, bytes.
const MAX_FILE: u64 = 64 << 20;

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

/// The labels of a file; none where there is no file.
pub(super) fn read(path: &Path, classes: usize) -> Result<Vec<Label>, DataError> {
    let bytes = match files::read(path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(DataError::Io { path: path.into(), source }),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut labels = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let label =
            parse(line, classes).map_err(|problem| DataError::Line { path: path.into(), line: number + 1, problem })?;
        // The same line twice is a slip of the tool that wrote it.
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    Ok(labels)
}

fn parse(line: &str, classes: usize) -> Result<Label, String> {
    let mut fields = line.split_whitespace();
    let class = fields.next().unwrap_or_default();
    let class = class.parse::<f64>().ok().filter(|c| c.fract() == 0.0 && *c >= 0.0 && *c < classes as f64);
    let class = class.ok_or_else(|| {
        format!(
            "class `{}`, expected 0 to {}",
            line.split_whitespace().next().unwrap_or_default(),
            classes.saturating_sub(1)
        )
    })?;
    let values = fields.map(|field| match field.parse::<f32>() {
        Ok(value) if (-SLACK..=1.0 + SLACK).contains(&value) => Ok(value.clamp(0.0, 1.0)),
        _ => Err(format!("`{field}`, expected a number from 0 to 1")),
    });
    let values = values.collect::<Result<Vec<f32>, _>>()?;
    let (cx, cy, w, h) = match values[..] {
        [cx, cy, w, h] => (cx, cy, w, h),
        _ if values.len() >= 6 && values.len().is_multiple_of(2) => {
            let range = |axis: usize| {
                let of = values.iter().skip(axis).step_by(2).copied();
                (of.clone().fold(f32::MAX, f32::min), of.fold(f32::MIN, f32::max))
            };
            let ((x0, x1), (y0, y1)) = (range(0), range(1));
            ((x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0)
        }
        _ => {
            return Err(format!(
                "{} values after the class, expected 4 (a box) or an even number from 6 on (an outline)",
                values.len()
            ));
        }
    };
    if w <= 0.0 || h <= 0.0 {
        return Err(format!("a box of {w} x {h}, expected a positive width and height"));
    }
    Ok(Label { class: class as usize, cx, cy, w, h })
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
        assert_eq!(parse("1 0.5 0.5 0.5 0.25", 2), Ok(label));
        assert_eq!(parse("1 0.25 0.375 0.75 0.375 0.75 0.625 0.25 0.625", 2), Ok(label));
        for bad in [
            "2 .5 .5 .1 .1",
            "-1 .5 .5 .1 .1",
            "x .5 .5 .1 .1",
            "0 .5 .5 .1",
            "0 .5 .5 0 .1",
            "0 NaN .5 .1 .1",
            "0 7 .5 .1 .1",
            "0",
        ] {
            assert!(parse(bad, 2).is_err(), "{bad}");
        }
    }
}
