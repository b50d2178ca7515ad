//! How strongly training images are varied: settings, and which of them a dataset forbids.

use crate::graph::{Graph, Head};

/// Grey of empty canvas in inference.
const PAD: f32 = 114.0 / 255.0;

/// How strongly images are varied; all zero leaves them as inference sees them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augment {
    /// Probability of a horizontal mirror.
    pub mirror: f64,
    /// Probability of a vertical mirror.
    pub upside_down: f64,
    /// Size varies by up to this share, up and down.
    pub scale: f64,
    /// Position varies by up to this share of the canvas.
    pub translate: f64,
    /// Hue turns by up to this share of the colour circle, either way.
    pub hue: f64,
    /// Colour saturation varies by up to this share.
    pub saturation: f64,
    /// Brightness varies by up to this share.
    pub brightness: f64,
    /// Grey of empty canvas, 0 to 1.
    pub pad: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Self { mirror: 0.5, scale: 0.25, translate: 0.1, saturation: 0.4, brightness: 0.25, ..Self::NONE }
    }
}

impl Augment {
    /// No variation.
    pub const NONE: Self = Self {
        mirror: 0.0,
        upside_down: 0.0,
        scale: 0.0,
        translate: 0.0,
        hue: 0.0,
        saturation: 0.0,
        brightness: 0.0,
        pad: PAD,
    };

    /// For written signs, light on black: size and place only.
    pub const SIGNS: Self = Self { scale: 0.1, translate: 0.06, pad: 0.0, ..Self::NONE };

    /// That of a network: a classifier of grey pictures reads signs.
    pub fn of(graph: &Graph) -> Self {
        match graph.head {
            Head::Classify { .. } if graph.input_channels() == 1 => Self::SIGNS,
            _ => Self::default(),
        }
    }
}

/// The first class that a mirror image would make another one, or none: its name has the word left or right in it, or
/// is a single letter or a number.
pub fn sided(names: &[String]) -> Option<&str> {
    let is_sided = |name: &str| {
        let mut words = name.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        let sign = name.chars().count() == 1 || (!name.is_empty() && name.chars().all(|c| c.is_ascii_digit()));
        sign || words.any(|word| ["left", "right", "leftward", "rightward"].contains(&word.as_str()))
    };
    names.iter().map(String::as_str).find(|name| is_sided(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_with_sides_are_found_by_their_names() {
        let found = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            sided(&names).map(str::to_owned)
        };
        for name in ["turn left", "Right-arrow", "arrow_left", "7", "42", "B"] {
            assert_eq!(found(&["person", name]).as_deref(), Some(name));
        }
        assert_eq!(found(&["person", "bright", "copyright sign", "cleft", ""]), None);
    }
}
