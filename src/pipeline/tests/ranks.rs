//! A job that ranks share: the same model, figures and cache as of one process. The ranks are threads here.

use super::job;
use crate::data::demo;
use crate::importance::{self, Covariances, Criterion, Pattern};
use crate::model;
use crate::pipeline::context::Context;
use crate::pipeline::inputs::{DEMO_MODEL, Inputs};
use crate::pipeline::job::{Job, Tune};
use crate::pipeline::results::Results;
use crate::pipeline::run::{Done, run};
use crate::ranks::{Ranks, on_threads};
use crate::report::Budget;
use std::fs;
use std::path::Path;

/// A folder with a model and pictures, of which one calibrates no rank of four alone.
fn inputs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    demo::write(&folder.path().join("set"), 10, 5).unwrap();
    fs::write(folder.path().join("model.safetensors"), DEMO_MODEL).unwrap();
    folder
}

/// A job whose latencies are estimated: nothing depends on the machine.
fn estimated(folder: &Path, ranks: Ranks) -> Job {
    let place = folder.join(format!("on-{}", ranks.size()));
    Job {
        budget: Budget { latency_ratio: Some(0.7), percentile: 95, ..Budget::default() },
        calibration_images: 10,
        tune: Tune { epochs: 1, batch: 5, ..Tune::default() },
        out: place.join("out"),
        cache: place.join("cache"),
        ranks,
        ..job(folder)
    }
}

/// Does a job on one of its ranks.
fn done(job: &Job) -> Result<Option<Done>, String> {
    let open = if job.ranks.is_first() { Results::open(&job.out, false) } else { Results::look(&job.out) };
    run(job, &open.map_err(|e| e.to_string())?, &()).map_err(|e| e.to_string())
}

/// The model's file, the report without times, and the entry of the cache with ranking and loss curves, of a job on so
/// many ranks.
fn shipped(folder: &Path, size: usize, change: impl Fn(&mut Job) + Sync) -> (Vec<u8>, String, Option<Vec<u8>>) {
    let mut all = on_threads(size, |ranks| {
        let mut job = estimated(folder, ranks);
        change(&mut job);
        let done = done(&job).unwrap();
        done.map(|mut done| {
            done.report.seconds.clear();
            // What a training tells of its loss is a sum over ranks; it decides nothing.
            let epochs = done.report.training.iter_mut().flat_map(|training| &mut training.epochs);
            epochs.for_each(|epoch| epoch.loss = (epoch.loss * 1e9).round() / 1e9);
            (model::to_bytes(&done.model).unwrap(), serde_json::to_string_pretty(&done.report).unwrap())
        })
    });
    // Nothing is written by a job that ranks no channels: its folder may not be there.
    let cache = folder.join(format!("on-{size}/cache"));
    let entries = fs::read_dir(&cache).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut kept = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("importance-"));
    let kept = kept.next().map(|path| fs::read(path).unwrap());
    let _ = fs::remove_dir_all(folder.join(format!("on-{size}")));
    assert!(all[1..].iter().all(Option::is_none), "only the first rank has results");
    let (model, report) = all.swap_remove(0).unwrap();
    (model, report, kept)
}

#[test]
fn ranks_share_a_job_and_find_the_same() {
    let folder = inputs();
    type Change = (fn(&mut Job), &'static [usize]);
    let changes: [Change; 4] = [
        (|_| {}, &[2, 4]),
        (|job| job.criterion = Criterion::Fisher, &[2]),
        (|job| (job.criterion, job.tune.epochs) = (Criterion::Activation, 0), &[4]),
        (|job| (job.pattern, job.tune.epochs) = (Some(Pattern::TwoOfFour), 0), &[2]),
    ];
    for (number, (change, sizes)) in changes.into_iter().enumerate() {
        let (model, report, kept) = shipped(folder.path(), 1, change);
        assert_eq!(kept.is_some(), number < 3);
        for size in sizes {
            let found = shipped(folder.path(), *size, change);
            let lines = report.lines().zip(found.1.lines());
            let other: Vec<_> = lines.filter(|(one, other)| one != other).take(5).collect();
            assert!(found.1 == report, "job {number} on {size} ranks: {other:.200?}");
            assert!(found.0 == model && found.2 == kept, "job {number} on {size} ranks");
        }
    }
}

#[test]
fn second_moments_have_the_same_bits_on_one_two_and_four_ranks() {
    let folder = inputs();
    let found = |size: usize| -> Covariances {
        let mut all = on_threads(size, |ranks| {
            let job = estimated(folder.path(), ranks);
            let inputs = Inputs::gather(&job, &()).map_err(|e| e.to_string()).unwrap();
            let ctx = Context::new(&job, &inputs, &());
            importance::covariances(&inputs.baseline.model, &ctx.calibration()).unwrap()
        });
        assert_eq!(all.len(), size);
        all.pop().unwrap()
    };
    let alone = found(1);
    for size in [2, 3, 4] {
        for (node, covariance) in found(size) {
            // Sums of three ranks are rounded in another order.
            let (one, other) = (alone[&node].variances(), covariance.variances());
            let apart = one.iter().zip(&other).map(|(a, b)| (a - b).abs() / a.max(1e-12)).fold(0.0, f64::max);
            assert!(apart <= if size == 3 { 1e-5 } else { 0.0 }, "node {node} on {size} ranks: {apart:e}");
            // All of them, at once.
            let same = alone[&node].inverse(0.03).unwrap() == covariance.inverse(0.03).unwrap();
            assert!(same || size == 3, "node {node} on {size} ranks");
        }
    }
}

#[test]
fn a_rank_with_other_files_or_none_ends_all() {
    let folder = inputs();
    let other = tempfile::tempdir().unwrap();
    demo::write(&other.path().join("set"), 10, 5).unwrap();
    let mut model = model::load(&folder.path().join("model.safetensors")).unwrap();
    model.weights.values_mut().next().unwrap().data_mut()[0] += 0.01;
    model::save(&model, &other.path().join("model.safetensors")).unwrap();
    let ended = |model: &Path| {
        on_threads(2, |ranks| {
            let mut job = estimated(folder.path(), ranks);
            if !job.ranks.is_first() {
                job.model = Some(model.to_owned());
            }
            done(&job).map(|_| ()).unwrap_err()
        })
    };
    for text in ended(&other.path().join("model.safetensors")) {
        assert!(text.contains("rank 1 has another model"), "{text}");
    }
    let texts = ended(&other.path().join("none.safetensors"));
    assert!(texts[0].contains("rank 1 has ended") && texts[1].contains("none.safetensors"), "{texts:?}");
    // What cannot be shared is refused before any work.
    let texts = on_threads(2, |ranks| {
        let tune = Tune { epochs: 1, batch: 1, ..Tune::default() };
        done(&Job { tune, ..estimated(folder.path(), ranks) }).map(|_| ()).unwrap_err()
    });
    assert!(texts.iter().all(|text| text.contains("cannot be shared by 2 ranks")), "{texts:?}");
}
