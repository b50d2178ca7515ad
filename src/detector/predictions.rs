//! Predictions for an image, as JSON, as text, and drawn.

use super::pictures::SaveNames;
use super::{Detail, Mask, Object};
use crate::files::{self, Inputs};
use crate::model::Info;
use crate::vision::{Image, ImageError, Rotated, Xyxy, draw};
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
            d.draw(pixels);
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
    fn new(object: &Object, info: &Info) -> Self {
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

    fn draw(&self, pixels: &mut Image) {
        let colour = draw::colour(self.class);
        if let Some(mask) = &self.mask {
            draw::tint(pixels, self.bbox, &|x, y| mask.at(x, y), colour);
        }
        match &self.rotated {
            Some(turned) => draw::polygon(pixels, &turned.corners(), colour),
            None => draw::outline(pixels, self.bbox, colour),
        }
        for [x, y, _] in self.keypoints.iter().flatten().filter(|point| point[2] > VISIBLE) {
            draw::dot(pixels, [*x, *y], colour);
        }
        draw::caption(pixels, self.bbox, &format!("{} {:.2}", self.name, self.score), colour);
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
