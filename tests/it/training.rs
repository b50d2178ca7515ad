//! The training loop: it learns, it goes on from a checkpoint to the same bits, and it says when it fails.

use secateurs::data::{Dataset, Item, Label};
use secateurs::model::{Info, Model};
use secateurs::train::Device;
use secateurs::train::{Augment, FitConfig, FitEvent, TrainError, fit, init};
use secateurs::zoo::yolo11::{Scale, detect};
use std::path::Path;

const SIDE: usize = 64;

/// Squares of two colours on grey, one or two in an image.
pub fn squares(folder: &Path, images: usize) -> Dataset {
    let items = (0..images).map(|i| {
        let path = folder.join(format!("{i}.png"));
        let mut picture = image::RgbImage::from_pixel(SIDE as u32, SIDE as u32, image::Rgb([100, 110, 105]));
        let labels = (0..1 + i % 2).map(|k| {
            let (class, size) = ((i + k) % 2, 16 + (i * 7 + k * 5) % 12);
            let (x, y) = (k * 32 + (i * 5) % 5, (i * 11) % (SIDE - size));
            let colour = if class == 0 { [220, 30, 30] } else { [20, 60, 230] };
            for (dx, dy) in (0..size).flat_map(|dx| (0..size).map(move |dy| (dx, dy))) {
                picture.put_pixel((x + dx) as u32, (y + dy) as u32, image::Rgb(colour));
            }
            let part = |v: usize| v as f32 / SIDE as f32;
            Label {
                class,
                cx: part(x) + part(size) / 2.0,
                cy: part(y) + part(size) / 2.0,
                w: part(size),
                h: part(size),
            }
        });
        let labels = labels.collect();
        picture.save(&path).unwrap();
        Item { labels, ..Item::new(path.into()) }
    });
    Dataset { items: items.collect(), names: vec!["red".into(), "blue".into()], ..Dataset::default() }
}

pub fn small_model() -> Model {
    let scale = Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let graph = detect(scale, 2).unwrap();
    let weights = init(&graph, 3);
    Model::new(graph, weights, Info::default()).unwrap()
}

fn config() -> FitConfig {
    FitConfig { epochs: 4, batch: 4, imgsz: SIDE.into(), lr: 4e-3, mosaic_until: 2, threads: 2, ..FitConfig::default() }
}

/// The message of a training that must fail.
fn failure(model: &Model, set: &Dataset, config: &FitConfig) -> String {
    match run(model, None, set, config) {
        Ok((_, losses)) => panic!("expected an error; losses {losses:?}"),
        Err(error) => error.to_string(),
    }
}

/// The trained model and the loss of every epoch.
fn run(
    model: &Model,
    teacher: Option<&Model>,
    set: &Dataset,
    config: &FitConfig,
) -> Result<(Model, Vec<f64>), TrainError> {
    let mut losses = Vec::new();
    let trained = fit(model, teacher, set, config, &Device::Cpu, &mut |event| {
        if let FitEvent::Epoch { terms, .. } = event {
            losses.push(terms.sum());
        }
    })?;
    Ok((trained, losses))
}

#[test]
fn the_loss_falls_from_fresh_weights() {
    let folder = tempfile::tempdir().unwrap();
    let set = squares(folder.path(), 16);
    let config = FitConfig { epochs: 24, ..config() };
    let (trained, losses) = run(&small_model(), None, &set, &config).unwrap();
    // It first rises: while no cell fits an object, hardly any loss is assigned.
    let highest = losses.iter().copied().fold(0.0, f64::max);
    assert_eq!(losses.len(), 24);
    assert!(losses[23] < 0.7 * highest, "{losses:?}");
    assert_ne!(trained.weights, small_model().weights);
}

#[test]
fn a_training_that_was_stopped_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let set = squares(folder.path(), 10);
    let model = small_model();
    let whole = run(&model, Some(&model), &set, &config()).unwrap();

    let checkpoint = folder.path().join("run.safetensors");
    let config = FitConfig { checkpoint: Some(checkpoint.clone()), ..config() };
    // Stopped by an error in the third epoch: an image that is gone.
    let gone = |set: &Dataset| std::fs::rename(set.items[0].image.path(), folder.path().join("away.png")).unwrap();
    let mut seen = 0;
    let stopped = {
        let config = FitConfig { cache_bytes: 0, ..config.clone() };
        fit(&model, Some(&model), &set, &config, &Device::Cpu, &mut |event| {
            if let FitEvent::Epoch { .. } = event {
                seen += 1;
                if seen == 2 {
                    gone(&set);
                }
            }
        })
    };
    assert!(stopped.is_err() && seen == 2, "{seen}");
    std::fs::rename(folder.path().join("away.png"), set.items[0].image.path()).unwrap();

    // The file is a model by itself.
    assert_eq!(secateurs::model::load(&checkpoint).unwrap().graph, model.graph);
    let mut resumed_at = None;
    let resumed = fit(&model, Some(&model), &set, &config, &Device::Cpu, &mut |event| {
        if let FitEvent::Resumed { epochs, .. } = event {
            resumed_at = Some(epochs);
        }
    });
    assert_eq!(resumed_at, Some(2));
    assert_eq!(resumed.unwrap().weights, whole.0.weights);
    // Finished: nothing is left to do, and the result is the same again.
    assert_eq!(run(&model, Some(&model), &set, &config).unwrap().0.weights, whole.0.weights);

    let other = FitConfig { lr: 1e-3, ..config };
    let refused = run(&model, Some(&model), &set, &other).map(|(_, losses)| losses);
    let problem = refused.unwrap_err().to_string();
    assert!(problem.contains("(lr 0.004 instead of 0.001)"), "{problem}");
}

#[test]
fn divergence_is_an_error_that_says_where_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let set = squares(folder.path(), 8);
    let mut model = small_model();
    if let Some(kernel) = model.weights.get_mut("model.0.conv.weight") {
        kernel.data_mut().fill(f32::MAX);
    }
    let error = failure(&model, &set, &config());
    assert!(error.contains("diverged at step") && error.contains("lower learning rate"), "{error}");
    let mut rates = Vec::new();
    let failed = fit(&model, None, &set, &config(), &Device::Cpu, &mut |event| {
        if let FitEvent::RolledBack { epochs: 0, rate, .. } = event {
            rates.push(rate);
        }
    });
    assert!(failed.is_err() && rates.len() == 3 && rates.windows(2).all(|w| w[1] < w[0]), "{rates:?}");
}

#[test]
fn a_distilled_student_comes_closer_to_its_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let set = squares(folder.path(), 8);
    let teacher = small_model();
    let mut student = small_model();
    student.weights = init(&student.graph, 4);
    let mut distill = Vec::new();
    let config = FitConfig { distill: 10.0, mosaic_until: 0, augment: Augment::NONE, ..config() };
    fit(&student, Some(&teacher), &set, &config, &Device::Cpu, &mut |event| {
        if let FitEvent::Epoch { terms, .. } = event {
            distill.push(terms.distill);
        }
    })
    .unwrap();
    assert!(distill[3] < 0.9 * distill[0], "{distill:?}");
}

#[test]
fn settings_and_data_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let set = squares(folder.path(), 2);
    let model = small_model();
    let cases: [(FitConfig, &str); 4] = [
        (FitConfig { batch: 0, ..config() }, "`batch`"),
        (FitConfig { imgsz: 100.into(), ..config() }, "multiples of 32"),
        (FitConfig { lr: f64::NAN, ..config() }, "`lr`"),
        (FitConfig { ema_decay: 1.5, ..config() }, "`ema_decay`"),
    ];
    for (config, message) in cases {
        let error = failure(&model, &set, &config);
        assert!(error.contains(message), "{error}");
    }
    let mut wrong = squares(folder.path(), 2);
    wrong.items[1].labels[0].class = 7;
    assert!(failure(&model, &wrong, &config()).contains("class 7"));
    let empty = Dataset::default();
    assert!(run(&model, None, &empty, &config()).is_err());
}
