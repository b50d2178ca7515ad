//! Images of a split that show what int8 layers read, and others that judge the ranges that follow.

use super::Item;
use crate::size::ImageSize;
use crate::vision::{ImageError, Preprocess};

/// The most images that are held back.
const HELD_BACK: usize = 256;

/// The calibration images and those that are held back, both evenly spread. Where there are few, a quarter is held
/// back; of a single image there is only that.
pub fn split(items: &[Item], calibration: usize) -> (Vec<&Item>, Vec<&Item>) {
    let most = (items.len() - items.len() / 4).max(1);
    let count = calibration.min(most).max(1);
    let chosen = |at: usize| (at + 1) * count / items.len().max(1) > at * count / items.len().max(1);
    let of = |wanted: bool| -> Vec<&Item> {
        items.iter().enumerate().filter(|(at, _)| chosen(*at) == wanted).map(|(_, item)| item).collect()
    };
    let (calibration, rest) = (of(true), of(false));
    let held_back = if rest.is_empty() { calibration.clone() } else { spread(&rest, HELD_BACK) };
    (calibration, held_back)
}

/// At most `count` items, evenly spread.
pub fn spread<'a>(items: &[&'a Item], count: usize) -> Vec<&'a Item> {
    items.iter().step_by(items.len().div_ceil(count.max(1)).max(1)).copied().collect()
}

/// Images as a network reads them, `[C, height, width]` each.
///
/// # Errors
/// Names the image that cannot be read.
pub fn tensors(preprocess: Preprocess, items: &[&Item], size: ImageSize) -> Result<Vec<Vec<f32>>, ImageError> {
    let load = |item: &&Item| {
        let mut tensor = vec![0.0; preprocess.channels() * size.area()];
        preprocess.write(&item.image.load()?, size, &mut tensor);
        Ok(tensor)
    };
    items.iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Picture;

    #[test]
    fn images_are_held_back_whatever_their_number() {
        for all in 1..400usize {
            let image = |at: usize| Picture::File(format!("{at}.png").into());
            let items: Vec<Item> = (0..all).map(|at| Item::new(image(at))).collect();
            let (calibration, held_back) = split(&items, 64);
            assert!((1..=64).contains(&calibration.len()), "{all}: {}", calibration.len());
            assert!(!held_back.is_empty() && held_back.len() <= HELD_BACK, "{all}: {}", held_back.len());
            let shared = held_back.iter().any(|item| calibration.contains(item));
            assert_eq!(shared, all < 4, "{all} images: {} and {}", calibration.len(), held_back.len());
        }
        assert!(split(&[], 64).0.is_empty());
    }
}
