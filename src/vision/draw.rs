//! Boxes on images.

use super::Image;

/// The colour of a class: neighbours differ clearly.
pub fn colour(class: usize) -> [u8; 3] {
    // Steps of the golden angle around the colour wheel.
    let hue = (class as f32 * 137.508) % 360.0 / 60.0;
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let k = (offset + hue) % 6.0;
        (255.0 * (1.0 - k.min(4.0 - k).clamp(0.0, 1.0))) as u8
    })
}

/// Draws the outline of a box (left, top, right, bottom in pixels) as far as it lies in the image.
pub fn outline(image: &mut Image, bbox: [f32; 4], colour: [u8; 3]) {
    let (width, height) = (image.width() as i64, image.height() as i64);
    let thick = 1 + width.max(height) / 400;
    let [x0, y0, x1, y1] = bbox.map(|side| side.round().clamp(-1e6, 1e6) as i64);
    let data = image.data_mut();
    let mut fill = |x0: i64, y0: i64, x1: i64, y1: i64| {
        for y in y0.max(0)..y1.min(height) {
            for x in x0.max(0)..x1.min(width) {
                let at = 3 * (y * width + x) as usize;
                data[at..at + 3].copy_from_slice(&colour);
            }
        }
    };
    fill(x0, y0, x1, y0 + thick);
    fill(x0, y1 - thick, x1, y1);
    fill(x0, y0, x0 + thick, y1);
    fill(x1 - thick, y0, x1, y1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_stays_in_the_image_and_leaves_the_middle() {
        let mut image = Image::new(8, 6, vec![0; 144]);
        outline(&mut image, [1.0, 1.0, 7.0, 5.0], [9; 3]);
        let at = |image: &Image, x: usize, y: usize| image.data()[3 * (8 * y + x)];
        assert_eq!([at(&image, 1, 1), at(&image, 6, 4), at(&image, 3, 3), at(&image, 0, 0)], [9, 9, 0, 0]);
        outline(&mut image, [-50.0, f32::NAN, 1e9, 50.0], [7; 3]);
        outline(&mut image, [5.0, 5.0, 2.0, 2.0], [7; 3]);
    }

    #[test]
    fn the_first_classes_have_different_colours() {
        let colours: std::collections::BTreeSet<_> = (0..20).map(colour).collect();
        assert_eq!(colours.len(), 20);
    }
}
