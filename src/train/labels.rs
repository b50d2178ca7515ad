//! What the images of a batch show, as the losses read it.

use super::augment::{Shown, letterboxed};
use super::loss::Target;
use super::shapes::Moved;
use crate::data::Item;
use crate::size::ImageSize;
use crate::vision::Image;

/// The labels of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// The objects of all images; none for a classifier.
    pub targets: Vec<Target>,
    /// What is labelled beside their boxes, in their order.
    pub shapes: Moved,
    /// The class of every image; empty for a head that finds objects.
    pub classes: Vec<usize>,
}

impl Labels {
    /// The objects of one image in its letterbox of this size, or in the mirror image of that. `flip` says
    /// which keypoint becomes which in a mirror.
    pub fn letterboxed(item: &Item, image: &Image, flip: Option<&[usize]>, size: ImageSize, mirrored: bool) -> Self {
        let shown = Shown { image, labels: &item.labels, shapes: &item.shapes, flip };
        let placed = letterboxed(shown, size, mirrored);
        Self { targets: placed.targets, shapes: placed.shapes, classes: Vec::new() }
    }

    /// The class of one image as a whole.
    pub fn of_class(class: usize) -> Self {
        Self { classes: vec![class], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Label, Shapes};

    /// In a wide picture, so that there is a border above and below.
    #[test]
    fn shapes_stand_in_the_letterbox_and_in_its_mirror_image() {
        let image = Image::new(40, 20, vec![0; 3 * 40 * 20]);
        let label = Label { class: 2, cx: 0.25, cy: 0.5, w: 0.5, h: 0.5 };
        let corners = [[0.0, 0.25], [0.5, 0.25], [0.5, 0.75], [0.0, 0.75]];
        let of = |shapes: Shapes, mirrored: bool| {
            let item = Item { labels: vec![label], shapes, ..Item::new(std::path::PathBuf::from("none.png").into()) };
            Labels::letterboxed(&item, &image, Some(&[1, 0]), ImageSize::square(40), mirrored)
        };
        let x = |v: f32, mirrored: bool| if mirrored { 1.0 - v } else { v };
        for mirrored in [false, true] {
            let found = of(Shapes::Outlines(vec![corners.to_vec()]), mirrored);
            let target = found.targets[0];
            let [cx, cy, w, h] = target.bbox.0;
            assert_eq!((found.targets.len(), target.class, target.image), (1, 2, 0));
            for (found, wanted) in [(cx, x(0.25, mirrored)), (cy, 0.5), (w, 0.5), (h, 0.25)] {
                assert!((found - wanted).abs() < 1e-6, "{target:?}");
            }
            let Moved::Outlines(outlines) = &found.shapes else { panic!("{found:?}") };
            let middle = outlines[0].iter().fold([0.0; 2], |[a, b], [x, y]| [a + x / 4.0, b + y / 4.0]);
            assert!((middle[0] - cx).abs() < 1e-6 && (middle[1] - cy).abs() < 1e-6, "{middle:?}");

            // The left point becomes the right one.
            let points = vec![vec![[0.0, 0.5, 2.0], [0.5, 0.5, 1.0]]];
            let Moved::Keypoints(points) = of(Shapes::Keypoints(points), mirrored).shapes else { panic!() };
            let wanted = if mirrored { [[0.5, 0.5, 1.0], [1.0, 0.5, 2.0]] } else { [[0.0, 0.5, 2.0], [0.5, 0.5, 1.0]] };
            for (found, wanted) in points[0].iter().zip(wanted) {
                assert!((found[0] - wanted[0]).abs() < 1e-6 || found[2] == 0.0, "{points:?}");
            }

            let Moved::Angles(angles) = of(Shapes::Corners(vec![corners]), mirrored).shapes else { panic!() };
            assert!(angles[0].sin().abs() < 1e-4 || angles[0].cos().abs() < 1e-4, "{angles:?}");
        }
    }
}
