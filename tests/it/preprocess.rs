//! A network is trained, judged and used on the same inputs, of one channel or three, normalised or not.

use secateurs::data::{Dataset, Item, Label};
use secateurs::detector::{Detector, Predictor};
use secateurs::engine::Options;
use secateurs::eval::{Prepared, accuracy};
use secateurs::graph::{Activation, Builder, Conv, Graph, Head, Op};
use secateurs::model::{Info, Model, Normalise, Tensor};
use secateurs::vision::{Image, NmsOptions};
use secateurs::zoo::yolo11::{Scale, detect};
use std::collections::BTreeMap;
use std::path::Path;

const SIDE: usize = 32;

/// A photo, wider than high: a shade of grey in the middle square, white and black bars beside it, and a colour.
fn photo(grey: u8) -> Image {
    let pixels = (0..40).flat_map(|_| {
        (0..80).flat_map(move |x| match x {
            0..20 => [255, 255, 0],
            20..60 => [grey, grey / 2, grey / 3],
            _ => [0, 0, 255],
        })
    });
    Image::new(80, 40, pixels.collect())
}

/// A classifier that adds up its input: class 0 where the sum is above `threshold` times the area.
fn sums(channels: usize, threshold: f32, normalise: Option<Normalise>) -> Model {
    let conv = Conv {
        weight: "fc.weight".into(),
        bias: Some("fc.bias".into()),
        norm: None,
        c_in: channels,
        c_out: 2,
        kernel: SIDE,
        stride: 1,
        padding: 0,
        groups: 1,
        act: Activation::Identity,
    };
    let area = SIDE * SIDE;
    let mut builder = Builder::default();
    let input = builder.push("images", Op::Input { channels }, &[]);
    let out = builder.push("fc", Op::Conv(conv), &[input]);
    let graph = builder.finish(vec![out], Head::Classify { nc: 2 }).unwrap();
    let kernel: Vec<f32> = (0..2 * channels * area).map(|i| f32::from(u8::from(i < channels * area))).collect();
    let weights = BTreeMap::from([
        ("fc.weight".to_owned(), Tensor::new(vec![2, channels, SIDE, SIDE], kernel)),
        ("fc.bias".to_owned(), Tensor::new(vec![2], vec![-threshold * area as f32, 0.0])),
    ]);
    Model::new(graph, weights, Info { imgsz: Some(SIDE.into()), normalise, ..Info::default() }).unwrap()
}

fn dataset(folder: &Path, images: &[(Image, usize)]) -> Dataset {
    let items = images.iter().enumerate().map(|(i, (image, class))| {
        let path = folder.join(format!("{i}.png"));
        image.save(&path).unwrap();
        Item { labels: vec![Label::whole(*class)], ..Item::new(path.into()) }
    });
    Dataset { names: vec!["bright".into(), "dark".into()], items: items.collect(), ..Dataset::default() }
}

fn first(model: &Model, image: &Image) -> usize {
    let mut predictor = Predictor::new(model, SIDE, &Options::default()).unwrap();
    let Predictor::Classifier(classifier) = &mut predictor else { panic!("a classifier") };
    classifier.classify(image).unwrap()[0].0
}

#[test]
fn accuracy_is_that_of_the_answers_which_the_classifier_ships() {
    let folder = tempfile::tempdir().unwrap();
    // Brightness of the middle square, as its means are: the bars beside it would tip every one of these answers.
    let shift = Normalise { mean: [0.4, 0.2, 0.1333], deviation: [1.0; 3] };
    for (channels, threshold, normalise) in [(3, 0.0, Some(shift)), (3, 0.7333, None), (1, 0.26, None)] {
        let model = sums(channels, threshold, normalise);
        let images: Vec<(Image, usize)> =
            [30u8, 80, 95, 110, 140, 250].iter().map(|grey| (photo(*grey), usize::from(*grey < 102))).collect();
        let found = accuracy(&model, &dataset(folder.path(), &images), SIDE, 2, &|_| {}).unwrap();
        let shipped = images.iter().filter(|(image, class)| first(&model, image) == *class).count();
        assert_eq!(shipped, 6, "{channels} channels, normalised: {}", normalise.is_some());
        assert_eq!(found.accuracy, 1.0, "{channels} channels, normalised: {}", normalise.is_some());
    }
}

/// A detector that reads `channels`, with random weights.
fn detector(channels: usize) -> Model {
    let graph = detect(Scale { depth: 0.34, width: 0.0625, max_channels: 256, c3k_everywhere: false }, 2).unwrap();
    let mut nodes = serde_json::to_value(&graph).unwrap();
    let text = nodes.to_string().replacen(r#""channels":3"#, &format!(r#""channels":{channels}"#), 1);
    nodes = serde_json::from_str(&text.replacen(r#""c_in":3"#, &format!(r#""c_in":{channels}"#), 1)).unwrap();
    let graph: Graph = serde_json::from_value(nodes).unwrap();
    let weights = secateurs::train::init(&graph, 3);
    Model::new(graph, weights, Info { imgsz: Some(SIDE.into()), ..Info::default() }).unwrap()
}

#[test]
fn grey_detectors_find_in_eval_what_they_find_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let images = [(photo(90), 0), (photo(200), 1)];
    let mut set = dataset(folder.path(), &images);
    set.items.iter_mut().for_each(|item| item.labels[0] = Label { w: 0.5, h: 0.5, ..item.labels[0] });
    for channels in [1, 3] {
        let model = detector(channels);
        let judged = Prepared::new(&set, SIDE).unwrap().find(&model, 1, &|_| {}).unwrap();
        let mut detector = Detector::new(&model, SIDE, &Options::default()).unwrap();
        detector.options = NmsOptions::EVALUATION;
        let mut used = Vec::new();
        for (image, _) in &images {
            used.extend(detector.detect(image).unwrap().into_iter().map(|object| object.detection));
        }
        assert!(!used.is_empty() && judged.len() == used.len(), "{} {}", judged.len(), used.len());
        for (judged, used) in judged.iter().zip(&used) {
            assert_eq!((judged.class, judged.score as f32), (used.class, used.score), "{channels} channels");
        }
    }
}

#[test]
fn inputs_that_no_image_fills_are_refused() {
    let model = detector(4);
    let error = Detector::new(&model, SIDE, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("reads 4 channels, expected 3"), "{error}");
    let error = Predictor::new(&sums(2, 0.0, None), SIDE, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("reads 2 channels, expected 3"), "{error}");
}

/// Pillow 13.0: `resize` of the short side with its bilinear filter (of the long side what torchvision computes), then the
/// middle as torchvision's `CenterCrop` takes it.
#[test]
fn the_square_of_a_classifier_is_that_of_pillow_to_the_bit() {
    let noise = |width: usize, height: usize| {
        let value = |i: usize| ((i * 7919 + i / 13 * 104_729) % 251) as u8;
        Image::new(width, height, (0..3 * width * height).map(value).collect())
    };
    let small = noise(6, 11).centre_square(4);
    let wanted = [
        148, 98, 173, 139, 147, 98, 115, 80, 144, 95, 138, 113, 183, 145, 139, 127, 83, 152, 98, 119, 87, 164, 104,
        148, 82, 138, 119, 72, 126, 107, 124, 105, 149, 169, 154, 135, 140, 90, 169, 89, 112, 127, 155, 116, 181, 149,
        139, 154,
    ];
    assert_eq!(small.data(), wanted);
    for ([width, height, side], digest) in [
        ([640, 427, 224], "1f081aa6a4153fd66df0e879d715a2822db0a5a2c8af02a527d683ffc1493ccf"),
        ([333, 500, 64], "a6a79b0e7758a1cc5acb69d4954d778a07ca02d362b62230bfe0304be1d61678"),
        ([50, 40, 224], "87c859efde71a1aeabad24e18792a99db7f8de331c5307b2755933393ce7eac3"),
    ] {
        let square = noise(width, height).centre_square(side);
        assert_eq!(secateurs::bundle::sha256(square.data()), digest, "{width} x {height} to {side}");
    }
}
