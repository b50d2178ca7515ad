//! The content of a split as one digest, wherever its files lie: the key of cached results.

use super::{DataError, Dataset, Picture};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::Path;

impl Dataset {
    /// SHA-256 in hex digits of class names, pictures, labels and COCO annotations, in their order. Names and places of
    /// files do not count, but for the names that the annotations have of pictures.
    ///
    /// # Errors
    /// Names the picture or the file of annotations that cannot be read.
    pub fn content(&self) -> Result<String, DataError> {
        let pictures: Vec<[u8; 32]> =
            self.items.par_iter().map(|item| digest(&item.image)).collect::<Result<_, _>>()?;
        let mut all = Sha256::new();
        let mut text = |text: &str| {
            all.update((text.len() as u64).to_le_bytes());
            all.update(text);
        };
        text(&self.names.len().to_string());
        self.names.iter().for_each(|name| text(name));
        for (item, picture) in self.items.iter().zip(pictures) {
            all.update(picture);
            all.update((item.labels.len() as u64).to_le_bytes());
            for label in &item.labels {
                all.update((label.class as u64).to_le_bytes());
                [label.cx, label.cy, label.w, label.h].iter().for_each(|v| all.update(v.to_bits().to_le_bytes()));
            }
            all.update((item.shapes.values().len() as u64).to_le_bytes());
            item.shapes.values().iter().for_each(|v| all.update(v.to_bits().to_le_bytes()));
        }
        if let Some(path) = &self.annotations {
            all.update(b"annotations");
            all.update(file_digest(path).map_err(|source| DataError::Io { path: path.clone(), source })?);
        }
        Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Of the bytes of an image file, or of the pixels of a picture in memory.
fn digest(picture: &Picture) -> Result<[u8; 32], DataError> {
    match picture {
        Picture::File(path) => file_digest(path).map_err(|source| DataError::Io { path: path.clone(), source }),
        Picture::Grey(set, number) => {
            let len = set.width * set.height;
            let mut digest = Sha256::new();
            digest.update((set.width as u64).to_le_bytes());
            digest.update(set.pixels.get(number * len..(number + 1) * len).unwrap_or_default());
            Ok(digest.finalize().into())
        }
    }
}

/// SHA-256 of a file of any size.
///
/// # Errors
/// Those of the operating system.
pub fn file_digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = crate::files::open(path)?;
    let (mut digest, mut part) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(length) => digest.update(&part[..length]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Item, Label, Shapes};
    use super::*;
    use std::fs;

    #[test]
    fn pictures_labels_and_names_count_and_places_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            Picture::from(path)
        };
        let label = Label { class: 0, cx: 0.5, cy: 0.5, w: 0.2, h: 0.2 };
        let item = |image, labels: &[Label]| Item { labels: labels.to_vec(), ..Item::new(image) };
        let set = |names: &[&str], items| Dataset {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            items,
            ..Dataset::default()
        };
        let one = set(&["a", "b"], vec![item(put("1", b"one"), &[label]), item(put("2", b"two"), &[])]);
        let content = one.content().unwrap();
        let moved = set(&["a", "b"], vec![item(put("x", b"one"), &[label]), item(put("y", b"two"), &[])]);
        assert_eq!(moved.content().unwrap(), content);
        let shaped = Item { shapes: Shapes::Keypoints(vec![vec![[0.5, 0.5, 2.0]]]), ..one.items[0].clone() };
        let others = [
            set(&["a", "c"], one.items.clone()),
            set(&["a", "b"], vec![item(put("3", b"One"), &[label]), one.items[1].clone()]),
            set(&["a", "b"], vec![item(put("1", b"one"), &[Label { class: 1, ..label }]), one.items[1].clone()]),
            set(&["a", "b"], vec![item(put("1", b"one"), &[Label { w: 0.25, ..label }]), one.items[1].clone()]),
            set(&["a", "b"], vec![item(put("1", b"one"), &[]), item(put("2", b"two"), &[label])]),
            set(&["a", "b"], one.items[..1].to_vec()),
            set(&["a", "b"], vec![shaped, one.items[1].clone()]),
        ];
        for other in others {
            assert_ne!(other.content().unwrap(), content, "{other:?}");
        }
        // What the pictures show may stand in a file of annotations instead of the labels.
        let annotated = |text: &[u8]| {
            let path = folder.path().join("instances.json");
            fs::write(&path, text).unwrap();
            Dataset { annotations: Some(path), ..one.clone() }.content().unwrap()
        };
        assert!(annotated(b"{}") != content && annotated(b"{}") != annotated(b"{ }"));
        let gone = Dataset { annotations: Some(folder.path().join("none.json")), ..one.clone() };
        assert!(gone.content().unwrap_err().to_string().contains("none.json"));
        let gone = set(&["a"], vec![item(Picture::from(folder.path().join("none.png")), &[])]);
        assert!(gone.content().unwrap_err().to_string().contains("none.png"));
    }
}
