//! The drawn set.

use secateurs::data::{DataError, Dataset, demo};
use std::fs;

#[test]
fn a_picture_depends_on_seed_and_number_only() {
    let (image, labels) = demo::draw(3, 5, 64);
    assert_eq!((image.width(), image.height()), (64, 64));
    assert_eq!(demo::draw(3, 5, 64), (image.clone(), labels));
    assert_ne!(demo::draw(4, 5, 64).0, image);
    assert_ne!(demo::draw(3, 6, 64).0, image);
}

#[test]
fn pictures_are_varied_and_labels_sensible() {
    let pictures: Vec<_> = (0..200).map(|index| demo::draw(1, index, 160)).collect();
    let labels: Vec<_> = pictures.iter().flat_map(|(_, labels)| labels).collect();
    for label in &labels {
        let sides = [
            label.cx - label.w / 2.0,
            label.cy - label.h / 2.0,
            1.0 - label.cx - label.w / 2.0,
            1.0 - label.cy - label.h / 2.0,
        ];
        assert!(label.class < 3 && sides.iter().all(|s| *s >= -1e-6), "{label:?}");
        assert!(label.w > 0.02 && label.h > 0.02, "{label:?}");
    }
    for class in 0..3 {
        let share = labels.iter().filter(|l| l.class == class).count() as f64 / labels.len() as f64;
        assert!((0.25..0.42).contains(&share), "class {class}: {share}");
    }
    let empty = pictures.iter().filter(|(_, labels)| labels.is_empty()).count();
    assert!((2..30).contains(&empty), "{empty} empty pictures");
    let mut sizes: Vec<f32> = labels.iter().map(|l| (l.w * l.h).sqrt()).collect();
    sizes.sort_by(f32::total_cmp);
    assert!(sizes[sizes.len() * 95 / 100] > 3.0 * sizes[sizes.len() / 20], "sizes hardly differ");
}

#[test]
fn the_written_set_is_an_ordinary_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new/demo");
    let yaml = demo::write(&place, 6, 3).unwrap();
    for (split, first, count) in [("train", 0, 6), ("val", demo::FIRST_VAL, 3)] {
        let set = Dataset::open(&yaml, split).unwrap();
        assert_eq!((set.names.as_slice(), set.items.len()), (demo::NAMES.map(String::from).as_slice(), count));
        for (index, item) in set.items.iter().enumerate() {
            let (image, labels) = demo::draw(demo::SEED, first + index as u64, demo::SIDE);
            assert_eq!(item.image.load().unwrap(), image);
            assert_eq!(item.labels.len(), labels.len());
            for (a, b) in item.labels.iter().zip(labels) {
                assert_eq!(a.class, b.class);
                assert!([a.cx - b.cx, a.cy - b.cy, a.w - b.w, a.h - b.h].iter().all(|d| d.abs() < 1e-5), "{a:?} {b:?}");
            }
        }
    }
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_set_is_written_once_and_never_over_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("demo");
    let yaml = demo::write(&place, 1, 1).unwrap();
    let image = place.join("images/train/00000.png");
    let written = fs::metadata(&image).unwrap().modified().unwrap();
    assert_eq!(demo::write(&place, 1, 1).unwrap(), yaml);
    assert_eq!(fs::metadata(&image).unwrap().modified().unwrap(), written);
    let error = demo::write(&place, 2, 1).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }) && error.to_string().contains("holds something else"), "{error}");
    assert!(demo::write(&image.join("below-a-file"), 1, 1).is_err());
}
