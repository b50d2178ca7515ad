//! Instance masks: the pixels of an object.

use crate::size::ImageSize;
use crate::vision::{Letterbox, Xyxy};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Which pixels of an image belong to an object. Serialised as COCO's run lengths: `size` is rows and columns of the
/// image, `counts` alternate between pixels outside and inside, column after column, beginning outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mask {
    /// Columns and rows of the image.
    pub image: [usize; 2],
    /// First column and first row of the part that is stored.
    pub origin: [usize; 2],
    /// Columns and rows of that part.
    pub size: [usize; 2],
    /// Whether a pixel of the part belongs to it, row after row. Pixels elsewhere do not.
    pub inside: Vec<bool>,
}

impl Mask {
    /// The pixels of a box of the image where the weighted sum of the prototypes `([masks, h, w], [h, w])` is above 0;
    /// column c belongs to a box from x1 to x2 where x1 <= c < x2. The prototypes lie over the input;
    /// between them the sum is interpolated.
    pub fn new(
        coefficients: &[f32],
        (prototypes, [h, w]): (&[f32], [usize; 2]),
        size: impl Into<ImageSize>,
        letterbox: &Letterbox,
        bbox: Xyxy,
    ) -> Self {
        let mut mask = Self::default();
        mask.fill(coefficients, (prototypes, [h, w]), size.into(), letterbox, bbox, &mut Vec::new());
        mask
    }

    /// Becomes the mask that [`Mask::new`] gives, in its own memory. `sum` is a buffer.
    pub(super) fn fill(
        &mut self,
        coefficients: &[f32],
        (prototypes, [h, w]): (&[f32], [usize; 2]),
        input: ImageSize,
        letterbox: &Letterbox,
        bbox: Xyxy,
        sum: &mut Vec<f32>,
    ) {
        let image = letterbox.source();
        let [x0, y0] = [0, 1].map(|axis| (bbox.0[axis].ceil().max(0.0) as usize).min(image[axis]));
        let [x1, y1] = [0, 1].map(|axis| (bbox.0[axis + 2].ceil().max(0.0) as usize).min(image[axis]));
        let size = [x1.saturating_sub(x0), y1.saturating_sub(y0)];
        (self.image, self.origin, self.size) = (image, [x0, y0], size);
        self.inside.clear();
        self.inside.reserve(size[0] * size[1]);
        if prototypes.len() != coefficients.len() * h * w || h * w == 0 {
            self.inside.resize(size[0] * size[1], false);
            return;
        }
        sum.clear();
        sum.resize(h * w, 0.0);
        for (coefficient, plane) in coefficients.iter().zip(prototypes.chunks_exact(h * w)) {
            sum.iter_mut().zip(plane).for_each(|(s, p)| *s += coefficient * p);
        }
        // The pair of neighbours along an axis and the share of the second.
        let around = |pixel: f32, cells: usize, side: usize| {
            let at = (pixel * cells as f32 / side as f32 - 0.5).clamp(0.0, cells as f32 - 1.0);
            (at as usize, (at as usize + 1).min(cells - 1), at.fract())
        };
        for y in y0..y0 + size[1] {
            for x in x0..x0 + size[0] {
                let [ix, iy] = letterbox.point_to_input([x as f32 + 0.5, y as f32 + 0.5]);
                let ((left, right, u), (top, bottom, v)) = (around(ix, w, input.width), around(iy, h, input.height));
                let row = |r: usize| sum[r * w + left] * (1.0 - u) + sum[r * w + right] * u;
                self.inside.push(row(top) * (1.0 - v) + row(bottom) * v > 0.0);
            }
        }
    }

    /// Whether a pixel of the image belongs to the object.
    pub fn at(&self, x: usize, y: usize) -> bool {
        let [column, row] = [x.wrapping_sub(self.origin[0]), y.wrapping_sub(self.origin[1])];
        column < self.size[0] && row < self.size[1] && self.inside[row * self.size[0] + column]
    }

    /// Number of pixels.
    pub fn area(&self) -> usize {
        self.inside.iter().filter(|inside| **inside).count()
    }

    /// Lengths of the alternating runs outside and inside, column after column through the whole image.
    pub fn counts(&self) -> Vec<usize> {
        let (mut counts, mut last) = (vec![0], false);
        let mut run = |inside: bool, length: usize| {
            if length > 0 && inside != last {
                last = inside;
                counts.push(0);
            }
            if let Some(count) = counts.last_mut() {
                *count += length;
            }
        };
        let ([width, height], [left, top]) = (self.image, self.origin);
        run(false, left * height);
        for column in 0..self.size[0] {
            run(false, top);
            (0..self.size[1]).for_each(|row| run(self.inside[row * self.size[0] + column], 1));
            run(false, height - top - self.size[1]);
        }
        run(false, (width - left - self.size[0]) * height);
        counts
    }
}

impl Serialize for Mask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Mask", 2)?;
        fields.serialize_field("size", &[self.image[1], self.image[0]])?;
        fields.serialize_field("counts", &self.counts())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_where_the_prototypes_say_inside_its_box() {
        // Prototype 0 is positive in the right half of a 16-pixel input, prototype 1 everywhere.
        let mut prototypes = vec![1.0; 32];
        (0..16).for_each(|i| prototypes[i] = if i % 4 < 2 { -1.0 } else { 1.0 });
        // An image of half the size: every pixel is two of the input.
        let letterbox = Letterbox::new(8, 8, 16, 16);
        let mask = Mask::new(&[2.0, 0.1], (&prototypes, [4, 4]), 16, &letterbox, Xyxy([2.0, 1.0, 6.0, 4.0]));
        assert_eq!((mask.origin, mask.size, mask.area()), ([2, 1], [4, 3], 6));
        assert!((0..8).all(|y| (0..8).all(|x| mask.at(x, y) == ((4..6).contains(&x) && (1..4).contains(&y)))));
        let json = serde_json::to_value(&mask).unwrap();
        assert_eq!(json, serde_json::json!({ "size": [8, 8], "counts": [33, 3, 5, 3, 20] }));
        // The same picture in the middle of an input twice as wide, whose prototypes are grey beside it.
        let mut wide = vec![-1.0; 64];
        for (row, cells) in wide.chunks_exact_mut(8).enumerate() {
            cells[2..6].copy_from_slice(&prototypes[4 * (row % 4)..4 * (row % 4) + 4]);
            cells[2..6].iter_mut().for_each(|v| *v = if row < 4 { *v } else { 1.0 });
        }
        let beside = Letterbox::new(8, 8, 32, 16);
        let same = Mask::new(&[2.0, 0.1], (&wide, [4, 8]), [16, 32], &beside, Xyxy([2.0, 1.0, 6.0, 4.0]));
        assert_eq!(same, mask);
        // Wrong sizes and boxes that are no boxes give nothing.
        assert_eq!(Mask::new(&[1.0], (&prototypes, [4, 4]), 16, &letterbox, Xyxy([0.0, 0.0, 8.0, 8.0])).area(), 0);
        let none = Mask::new(&[1.0, 1.0], (&prototypes, [4, 4]), 16, &letterbox, Xyxy([f32::NAN, 9e9, -5.0, 2.0]));
        assert_eq!(none.area(), 0);
    }
}
