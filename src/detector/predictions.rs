//! Predictions for an image, as JSON, as text, and drawn.

use super::pictures::SaveNames;
use super::{Detail, Mask, Object};
use crate::files::{self, Inputs};
use crate::model::Info;
use crate::vision::{Image, ImageError, Rotated, Xyxy, draw, skeleton};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// What was found in one image, with the names of the classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predictions {
    /// The image file. In JSON, what is not UTF-8 in its name is replaced.
    #[serde(serialize_with = "files::lossy")]
    pub image: PathBuf,
    /// Objects, best first; nothing for a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections: Option<Vec<Labelled>>,
    /// The likeliest classes of the whole image, best first; nothing for a detector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<NamedClass>>,
}

/// A class of a whole image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedClass {
    /// Number of the class.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// Probability, 0 to 1.
    pub score: f32,
}

/// A detection with the name of its class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labelled {
    /// Number of the class.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Where it is, pixels of the image.
    pub bbox: Xyxy,
    /// The object's pixels, where the network segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
    /// x, y and the probability of being visible, where the network finds keypoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keypoints: Option<Vec<[f32; 3]>>,
    /// The box as it is turned, where the network predicts rotation; `bbox` is then the upright one around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Rotated>,
}

impl Predictions {
    /// Names the objects of an image.
    pub fn objects(path: &Path, objects: &[Object], info: &Info) -> Self {
        Self {
            image: path.into(),
            detections: Some(objects.iter().map(|o| Labelled::new(o, info)).collect()),
            classes: None,
        }
    }

    /// Names the classes of an image.
    pub fn classes(path: &Path, classes: &[(usize, f32)], info: &Info) -> Self {
        let named =
            |(class, score): &(usize, f32)| NamedClass { class: *class, name: info.class_name(*class), score: *score };
        Self { image: path.into(), detections: None, classes: Some(classes.iter().map(named).collect()) }
    }

    /// Draws what was found into the image and saves it in a folder under the image file's own name.
    ///
    /// # Errors
    /// If the file cannot be written, or is the image itself.
    pub fn save(&self, pixels: &mut Image, folder: &Path) -> Result<PathBuf, ImageError> {
        let fail = |source| ImageError::Io { path: folder.into(), source };
        let names = SaveNames::new(folder, &[&self.image]).map_err(fail)?;
        self.save_as(pixels, names.path(0), names.inputs())?;
        Ok(names.path(0).into())
    }

    /// Draws what was found into the image, and saves it.
    ///
    /// # Errors
    /// If the file cannot be written, or is one of the inputs.
    pub fn save_as(&self, pixels: &mut Image, path: &Path, inputs: &Inputs) -> Result<(), ImageError> {
        for d in self.detections.iter().flatten().rev() {
            d.draw(pixels, 1.0);
        }
        if let Some(best) = self.classes.iter().flatten().next() {
            let line = format!("{} {:.2}", best.name, best.score);
            draw::caption(pixels, Xyxy::default(), &line, draw::colour(best.class));
        }
        pixels.save_except(path, inputs)
    }
}

/// A name on one line.
fn line(name: &str) -> String {
    name.replace('\n', "\\n").replace('\t', "\\t")
}

/// A keypoint is drawn if it is more likely visible than this.
const VISIBLE: f32 = 0.5;

impl Labelled {
    /// Names an object.
    pub fn new(object: &Object, info: &Info) -> Self {
        let d = object.detection;
        let mut named = Self {
            class: d.class,
            name: info.class_name(d.class),
            score: d.score,
            bbox: d.bbox,
            mask: None,
            keypoints: None,
            rotated: None,
        };
        match &object.detail {
            Detail::Box => {}
            Detail::Mask(mask) => named.mask = Some(mask.clone()),
            Detail::Keypoints(points) => named.keypoints = Some(points.clone()),
            Detail::Rotated(turned) => named.rotated = Some(*turned),
        }
        named
    }

    /// Draws it into its image, or into one that is `scale` times as large: mask, box, limbs and keypoints, name.
    pub fn draw(&self, pixels: &mut Image, scale: f32) {
        let colour = draw::colour(self.class);
        let bbox = self.bbox.map(|v| v * scale);
        let scaled = |point: [f32; 2]| point.map(|v| v * scale);
        if let Some(mask) = &self.mask {
            let source = |v: usize| ((v as f32 + 0.5) / scale) as usize;
            draw::tint(pixels, bbox, &|x, y| mask.at(source(x), source(y)), colour);
        }
        match &self.rotated {
            Some(turned) => draw::polygon(pixels, &turned.corners().map(scaled), colour),
            None => draw::outline(pixels, bbox, colour),
        }
        if let Some(points) = &self.keypoints {
            let seen = |k: usize| points.get(k).filter(|p| p[2] > VISIBLE).map(|[x, y, _]| scaled([*x, *y]));
            for [from, to] in skeleton(points.len()) {
                if let (Some(from), Some(to)) = (seen(*from), seen(*to)) {
                    draw::line(pixels, from, to, colour);
                }
            }
            (0..points.len()).filter_map(seen).for_each(|place| draw::dot(pixels, place, colour));
        }
        draw::caption(pixels, bbox, &format!("{} {:.2}", self.name, self.score), colour);
    }
}

impl fmt::Display for Predictions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(classes) = &self.classes {
            writeln!(f, "{}:", line(&self.image.to_string_lossy()))?;
            return classes.iter().try_for_each(|c| writeln!(f, "  {:5.1} %  {}", 100.0 * c.score, line(&c.name)));
        }
        let detections = self.detections.as_deref().unwrap_or_default();
        writeln!(f, "{}: {} found", line(&self.image.to_string_lossy()), detections.len())?;
        for d in detections {
            let [x0, y0, x1, y1] = d.bbox.0;
            write!(f, "  {:5.1} %  {:<16} {x0:.1},{y0:.1} to {x1:.1},{y1:.1}", 100.0 * d.score, line(&d.name))?;
            if let Some(mask) = &d.mask {
                write!(f, ", {} pixels", mask.area())?;
            }
            if let Some(points) = &d.keypoints {
                let seen = points.iter().filter(|point| point[2] > VISIBLE).count();
                write!(f, ", {seen} of {} keypoints visible", points.len())?;
            }
            if let Some(turned) = &d.rotated {
                write!(f, ", turned by {:.0} degrees", turned.angle.to_degrees())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
