//! What is labelled beside boxes while it moves with a picture: outlines, keypoints, angles.

use super::loss::{Masks, Shapes, Target};
use crate::vision::polygon::area;

/// The largest number of objects that one plane can tell apart.
const MAX_VALUE: usize = u8::MAX as usize;

/// Shapes of the objects of a batch, object after object in the order of its targets; as shares of the canvas.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Moved {
    /// None.
    #[default]
    Boxes,
    /// Outlines, cut at the edges.
    Outlines(Vec<Vec<[f32; 2]>>),
    /// Keypoints: x, y and how visible; 0 where they left the canvas.
    Keypoints(Vec<Vec<[f32; 3]>>),
    /// Angles in radians; the targets are the boxes before they are turned.
    Angles(Vec<f32>),
}

impl Moved {
    /// Puts the shapes of the next image behind these.
    pub fn append(&mut self, next: Self) {
        match (&mut *self, next) {
            (Self::Outlines(all), Self::Outlines(next)) => all.extend(next),
            (Self::Keypoints(all), Self::Keypoints(next)) => all.extend(next),
            (Self::Angles(all), Self::Angles(next)) => all.extend(next),
            (Self::Boxes, next) => *self = next,
            _ => {}
        }
    }

    /// One plane of pixels per image of a batch, or per object where an image has very many; nothing without outlines.
    /// Small objects lie over large ones.
    pub fn planes(&self, targets: &[Target], images: usize, size: [usize; 2]) -> (Vec<u8>, bool) {
        let Self::Outlines(outlines) = self else { return (Vec::new(), true) };
        let len = size[0] * size[1];
        // By image: positions among the targets, as the loss counts the objects of an image.
        let mut of_image: Vec<Vec<usize>> = vec![Vec::new(); images];
        for (at, target) in targets.iter().enumerate() {
            if let Some(list) = of_image.get_mut(target.image) {
                list.push(at);
            }
        }
        let overlap = of_image.iter().all(|objects| objects.len() <= MAX_VALUE);
        let mut planes = vec![0; len * if overlap { images } else { targets.len() }];
        if !overlap {
            for (outline, plane) in outlines.iter().zip(planes.chunks_exact_mut(len.max(1))) {
                fill(outline, size, plane, 1);
            }
            return (planes, false);
        }
        for (objects, plane) in of_image.iter().zip(planes.chunks_exact_mut(len.max(1))) {
            let mut order: Vec<(usize, usize)> = objects.iter().copied().enumerate().collect();
            let area = |at: usize| outlines.get(at).map_or(0.0, |outline| area(outline));
            order.sort_by(|a, b| area(b.1).total_cmp(&area(a.1)));
            for (number, at) in order {
                if let Some(outline) = outlines.get(at) {
                    fill(outline, size, plane, number as u8 + 1);
                }
            }
        }
        (planes, true)
    }

    /// These shapes as the loss takes them; `planes` are those of [`Moved::planes`].
    pub fn shapes<'a>(&'a self, planes: &'a (Vec<u8>, bool), size: [usize; 2]) -> Shapes<'a> {
        match self {
            Self::Boxes => Shapes::Boxes,
            Self::Outlines(_) => Shapes::Masks(Masks { size, planes: &planes.0, overlap: planes.1 }),
            Self::Keypoints(points) => Shapes::Keypoints(points),
            Self::Angles(angles) => Shapes::Angles(angles),
        }
    }
}

/// Gives the pixels whose middle lies inside a polygon (shares of the plane) a value.
fn fill(outline: &[[f32; 2]], [h, w]: [usize; 2], plane: &mut [u8], value: u8) {
    for (row, pixels) in plane.chunks_exact_mut(w.max(1)).enumerate() {
        let y = (row as f32 + 0.5) / h as f32;
        let mut crossings: Vec<f32> = Vec::new();
        for (i, [bx, by]) in outline.iter().enumerate() {
            let [ax, ay] = outline[(i + outline.len() - 1) % outline.len()];
            if (ay <= y) != (*by <= y) {
                crossings.push(ax + (y - ay) / (by - ay) * (bx - ax));
            }
        }
        crossings.sort_by(f32::total_cmp);
        for pair in crossings.chunks_exact(2) {
            let at = |x: f32| ((x * w as f32 - 0.5).ceil().max(0.0) as usize).min(w);
            pixels[at(pair[0])..at(pair[1])].fill(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::NormalisedXywh;

    #[test]
    fn small_objects_lie_over_large_ones_under_their_number() {
        let square = |low: f32, high: f32| vec![[low, low], [high, low], [high, high], [low, high]];
        let target = |image| Target { image, class: 0, bbox: NormalisedXywh([0.5, 0.5, 1.0, 1.0]) };
        let targets = [target(0), target(1), target(0)];
        let moved = Moved::Outlines(vec![square(0.25, 0.75), square(0.0, 0.5), square(0.0, 1.0)]);
        let (planes, overlap) = moved.planes(&targets, 2, [4, 4]);
        assert!(overlap);
        assert_eq!(planes[..16], [2, 2, 2, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(planes[16..], [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let many = vec![target(0); 256];
        let (planes, overlap) = Moved::Outlines(vec![square(0.0, 0.5); 256]).planes(&many, 1, [2, 2]);
        assert!(!overlap && planes.len() == 256 * 4 && planes[..4] == [1, 0, 0, 0]);
    }
}
