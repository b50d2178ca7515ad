//! Boxes and captions on images.

use super::boxes::Xyxy;
use super::{Image, glyphs};

/// The colour of a class: neighbours differ clearly.
pub fn colour(class: usize) -> [u8; 3] {
    // Steps of the golden angle around the colour wheel.
    let hue = (class as f32 * 137.508) % 360.0 / 60.0;
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let k = (offset + hue) % 6.0;
        (255.0 * (1.0 - k.min(4.0 - k).clamp(0.0, 1.0))) as u8
    })
}

/// Thickness of lines and side of a glyph's dot, pixels.
fn thickness(image: &Image) -> i64 {
    1 + image.width().max(image.height()) as i64 / 400
}

/// Fills the pixels from (`x0`, `y0`) up to (`x1`, `y1`) that lie in the image.
fn fill(image: &mut Image, [x0, y0, x1, y1]: [i64; 4], colour: [u8; 3]) {
    let (width, height) = (image.width() as i64, image.height() as i64);
    let data = image.data_mut();
    for y in y0.max(0)..y1.min(height) {
        for x in x0.max(0)..x1.min(width) {
            let at = 3 * (y * width + x) as usize;
            data[at..at + 3].copy_from_slice(&colour);
        }
    }
}

/// Whole pixels of a box; what is not a number becomes 0.
fn pixels(bbox: Xyxy) -> [i64; 4] {
    bbox.0.map(|side| side.round().clamp(-1e6, 1e6) as i64)
}

/// Draws the outline of a box as far as it lies in the image.
pub fn outline(image: &mut Image, bbox: Xyxy, colour: [u8; 3]) {
    let thick = thickness(image);
    let [x0, y0, x1, y1] = pixels(bbox);
    fill(image, [x0, y0, x1, y0 + thick], colour);
    fill(image, [x0, y1 - thick, x1, y1], colour);
    fill(image, [x0, y0, x0 + thick, y1], colour);
    fill(image, [x1 - thick, y0, x1, y1], colour);
}

/// Mixes a colour half and half into the pixels of a box that are chosen by column and row.
pub fn tint(image: &mut Image, bbox: Xyxy, chosen: &dyn Fn(usize, usize) -> bool, colour: [u8; 3]) {
    let (width, height) = (image.width(), image.height());
    let [x0, y0, x1, y1] = pixels(bbox).map(|side| side.max(0) as usize);
    for (x, y) in (y0..y1.min(height)).flat_map(|y| (x0..x1.min(width)).map(move |x| (x, y))) {
        if chosen(x, y) {
            let at = 3 * (y * width + x);
            image.data_mut()[at..at + 3].iter_mut().zip(colour).for_each(|(p, c)| *p = p.midpoint(c));
        }
    }
}

/// Draws a spot around a place.
pub fn dot(image: &mut Image, place: [f32; 2], colour: [u8; 3]) {
    let radius = thickness(image) + 1;
    let [x, y, ..] = pixels(Xyxy([place[0], place[1], 0.0, 0.0]));
    fill(image, [x - radius, y - radius, x + radius, y + radius], colour);
}

/// Draws a straight line as far as it lies in the image.
pub fn line(image: &mut Image, from: [f32; 2], to: [f32; 2], colour: [u8; 3]) {
    let thick = thickness(image);
    let length = (to[0] - from[0]).abs().max((to[1] - from[1]).abs());
    let steps = if length.is_finite() { (length.ceil() as usize).clamp(1, 1 << 16) } else { 0 };
    for i in 0..=steps {
        let share = i as f32 / steps.max(1) as f32;
        let at = [0, 1].map(|axis| from[axis] + share * (to[axis] - from[axis]));
        let [x, y, ..] = pixels(Xyxy([at[0], at[1], 0.0, 0.0]));
        fill(image, [x, y, x + thick, y + thick], colour);
    }
}

/// Draws the closed line through some points as far as it lies in the image.
pub fn polygon(image: &mut Image, points: &[[f32; 2]], colour: [u8; 3]) {
    for (from, to) in points.iter().zip(points.iter().cycle().skip(1)) {
        line(image, *from, *to, colour);
    }
}

/// The most characters of a caption.
const MAX_CAPTION: usize = 60;

/// Writes a line on a bar of the colour above a box, or in its top where there is no room above.
pub fn caption(image: &mut Image, bbox: Xyxy, text: &str, colour: [u8; 3]) {
    let dot = thickness(image);
    let characters = text.chars().take(MAX_CAPTION);
    let (width, height) =
        (dot * (1 + (glyphs::WIDTH as i64 + 1) * characters.clone().count() as i64), dot * (glyphs::HEIGHT as i64 + 2));
    let [left, top, ..] = pixels(bbox);
    let left = left.min(image.width() as i64 - width).max(0);
    let top = if top >= height { top - height } else { top.max(0) };
    fill(image, [left, top, left + width, top + height], colour);
    let [red, green, blue] = colour.map(u32::from);
    let ink = if 3 * red + 6 * green + blue > 1200 { [0; 3] } else { [255; 3] };
    for (place, character) in characters.enumerate() {
        for (row, bits) in glyphs::rows(character).into_iter().enumerate() {
            for column in (0..glyphs::WIDTH).filter(|column| bits >> (glyphs::WIDTH - 1 - column) & 1 == 1) {
                let x = left + dot * (1 + ((glyphs::WIDTH + 1) * place + column) as i64);
                let y = top + dot * (1 + row as i64);
                fill(image, [x, y, x + dot, y + dot], ink);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_stays_in_the_image_and_leaves_the_middle() {
        let mut image = Image::new(8, 6, vec![0; 144]);
        outline(&mut image, Xyxy([1.0, 1.0, 7.0, 5.0]), [9; 3]);
        let at = |image: &Image, x: usize, y: usize| image.data()[3 * (8 * y + x)];
        assert_eq!([at(&image, 1, 1), at(&image, 6, 4), at(&image, 3, 3), at(&image, 0, 0)], [9, 9, 0, 0]);
        outline(&mut image, Xyxy([-50.0, f32::NAN, 1e9, 50.0]), [7; 3]);
        outline(&mut image, Xyxy([5.0, 5.0, 2.0, 2.0]), [7; 3]);
    }

    #[test]
    fn polygons_dots_and_tints_stay_in_the_image() {
        let mut image = Image::new(8, 6, vec![0; 144]);
        polygon(&mut image, &[[1.0, 1.0], [6.0, 1.0], [6.0, 4.0], [1.0, 4.0]], [9; 3]);
        let at = |image: &Image, x: usize, y: usize| image.data()[3 * (8 * y + x)];
        assert_eq!([at(&image, 1, 1), at(&image, 4, 1), at(&image, 6, 3), at(&image, 3, 3)], [9, 9, 9, 0]);
        polygon(&mut image, &[[f32::NAN, 1e30], [-1e9, 4.0], [f32::INFINITY, 3.0]], [7; 3]);
        dot(&mut image, [f32::NAN, -1e30], [7; 3]);
        tint(&mut image, Xyxy([-5.0, 0.0, 1e9, f32::INFINITY]), &|x, y| (x, y) == (3, 3), [200; 3]);
        assert_eq!(at(&image, 3, 3), 100);
    }

    #[test]
    fn a_caption_stays_in_the_image() {
        let inked = |bbox: Xyxy, text: &str| {
            let mut image = Image::new(40, 30, vec![9; 3600]);
            caption(&mut image, bbox, text, [200, 220, 30]);
            let rows: Vec<usize> =
                (0..30).filter(|y| image.data()[120 * y..120 * (y + 1)].iter().any(|v| *v != 9)).collect();
            (rows.first().copied(), rows.last().copied(), image.data().iter().filter(|v| **v == 0).count() > 10)
        };
        assert_eq!(inked(Xyxy([5.0, 20.0, 20.0, 28.0]), "cat 0.9"), (Some(11), Some(19), true), "above the box");
        assert_eq!(inked(Xyxy([5.0, 3.0, 20.0, 28.0]), "cat 0.9"), (Some(3), Some(11), true), "in the box");
        assert_eq!(inked(Xyxy([-90.0, f32::NAN, f32::INFINITY, 2.0]), &"long ".repeat(500)).0, Some(0));
        assert_eq!(inked(Xyxy([5.0, 900.0, 20.0, 950.0]), "x").0, None);
    }

    #[test]
    fn the_first_classes_have_different_colours() {
        let colours: std::collections::BTreeSet<_> = (0..20).map(colour).collect();
        assert_eq!(colours.len(), 20);
    }
}
