//! Images of a training split that training does not see: they choose between the epochs.

use super::{Dataset, Item};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use std::collections::BTreeSet;

impl Dataset {
    /// Two parts of a split: the images to train on, and a share of them (0 to 1, at least one image and never all)
    /// held back, drawn by the seed. One of these shows an object, if any image does. Both keep their order; a split of
    /// one image is not parted.
    pub fn hold_out(&self, share: f64, seed: u64) -> (Self, Self) {
        let all = self.items.len();
        let count = ((all as f64 * share).round() as usize).max(1).min(all.saturating_sub(1));
        let mut order = sample(&mut StdRng::seed_from_u64(seed), all, all).into_vec();
        let shows = |at: &usize| !self.items[*at].labels.is_empty();
        if let Some(first) = order.iter().position(shows).filter(|first| *first >= count && count > 0) {
            order.swap(first, 0);
        }
        let chosen: BTreeSet<usize> = order.into_iter().take(count).collect();
        let part = |held: bool| {
            let items = self.items.iter().enumerate().filter(|(at, _)| chosen.contains(at) == held);
            let items: Vec<Item> = items.map(|(_, item)| item.clone()).collect();
            // An annotation file is about the whole split.
            Self { items, annotations: None, notes: Vec::new(), ..self.clone() }
        };
        (part(false), part(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Label;
    use std::path::PathBuf;

    fn set(count: usize) -> Dataset {
        let item = |i: usize| Item::new(PathBuf::from(format!("{i:03}.png")).into());
        Dataset { items: (0..count).map(item).collect(), ..Dataset::default() }
    }

    #[test]
    fn every_image_is_in_one_part_and_the_seed_decides_in_which() {
        for (count, share, expected) in
            [(100, 0.1, 10), (8, 0.1, 1), (3, 0.01, 1), (4, 1.0, 3), (1, 0.5, 0), (0, 0.5, 0)]
        {
            let whole = set(count);
            let (train, held) = whole.hold_out(share, 7);
            assert_eq!((train.items.len(), held.items.len()), (count - expected, expected), "{count} {share}");
            let mut both: Vec<_> = train.items.iter().chain(&held.items).map(|item| item.image.path()).collect();
            both.sort();
            assert_eq!(both, whole.items.iter().map(|item| item.image.path()).collect::<Vec<_>>());
            assert_eq!(whole.hold_out(share, 7), (train, held));
        }
        assert_ne!(set(100).hold_out(0.1, 7).1, set(100).hold_out(0.1, 8).1);
        for labelled in 0..20 {
            let mut whole = set(20);
            whole.items[labelled].labels.push(Label::whole(0));
            assert!(whole.hold_out(0.05, 7).1.items.iter().any(|item| !item.labels.is_empty()), "{labelled}");
        }
    }
}
