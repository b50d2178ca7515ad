//! The keys of what is kept between runs: each changes with every input of what it stands for, one at a time, by
//! content.

mod device;
mod ranks;

use super::cache::Cache;
use super::context::Context;
use super::inputs::Inputs;
use super::{DEMO_MODEL, Event, Job, Timing, Tune, finetune, plan, verdict};
use crate::bundle::sha256;
use crate::data::demo;
use crate::engine::Device;
use crate::graph::Dtype;
use crate::importance::{self, Criterion, Sampling};
use crate::latency::Speed;
use crate::model::{self, Model};
use crate::ranks::RankError;
use crate::repair::Method;
use crate::report::{Budget, Stage};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

fn job(folder: &Path) -> Job {
    Job {
        target: "host".into(),
        model: Some(folder.join("model.safetensors")),
        data: Some(folder.join("set/data.yaml")),
        imgsz: Some(64.into()),
        sizes: Vec::new(),
        batch: 1,
        dtype: Dtype::F32,
        head: None,
        threads: 1,
        budget: Budget { memory_mib: Some(1.0), percentile: 95, ..Budget::default() },
        floors: Default::default(),
        pattern: None,
        grid: 8,
        min_keep: 0.125,
        criterion: Criterion::Reconstruction,
        calibration_images: 3,
        seed: 0,
        repair: Method::LeastSquares,
        tune: Tune { epochs: 1, batch: 2, ..Tune::default() },
        device: Device::Cpu,
        skip_bad_images: false,
        warmup: 1,
        runs: 2,
        timing: Timing::Estimate(Speed { gflops: 8.0, bandwidth: 8.0 }),
        locking: None,
        ranks: Default::default(),
        out: folder.join("out"),
        cache: folder.join("cache"),
    }
}

/// A folder with a model and three pictures, all of which calibrate.
fn inputs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    demo::write(&folder.path().join("set"), 3, 1).unwrap();
    fs::write(folder.path().join("model.safetensors"), DEMO_MODEL).unwrap();
    folder
}

fn gather(job: &Job) -> Inputs {
    Inputs::gather(job, &()).unwrap()
}

fn sampling(job: &Job) -> Sampling {
    Sampling { shares: vec![0.5], grid: job.grid, images: 2, device: Device::Cpu }
}

/// The key of the importance, of the training and of the latency table.
fn keys(job: &Job) -> [String; 3] {
    let inputs = gather(job);
    let ctx = Context::new(job, &inputs, &());
    let importance = plan::importance_key(&ctx, job.criterion, &sampling(job));
    let training = finetune::config(&ctx, &inputs.baseline.model, "tuned").unwrap().0.checkpoint.unwrap();
    let levels = plan::all_levels(&ctx);
    [importance, training.display().to_string(), plan::table_key(&ctx, &levels)]
}

#[test]
fn every_input_changes_the_keys_of_what_depends_on_it() {
    let folder = inputs();
    let place = |name: &str| folder.path().join(name);
    let read = |name: &str| fs::read(place(name)).unwrap();
    let base = job(folder.path());
    let fisher = Job { criterion: Criterion::Fisher, ..base.clone() };
    let (known, known_fisher) = (keys(&base), keys(&fisher));
    assert_eq!(keys(&base), known, "the same inputs have the same keys");

    let (label, picture) = ("set/labels/train/00001.txt", "set/images/train/00001.png");
    let (labels, pixels, weights) = (read(label), read(picture), read("model.safetensors"));
    let check = |job: &Job, known: &[String; 3], expected: [bool; 3], what: &str| {
        let found = keys(job);
        let changed: [bool; 3] = std::array::from_fn(|at| found[at] != known[at]);
        assert_eq!(changed, expected, "importance, training, table after another {what}");
    };
    // Labels: the training reads them, and so do the criteria that need gradients.
    fs::write(place(label), "2 0.5 0.5 0.25 0.25\n").unwrap();
    check(&base, &known, [false, true, false], "label");
    check(&fisher, &known_fisher, [true, true, false], "label");
    fs::write(place(label), &labels).unwrap();
    // A picture under the same name.
    fs::write(place(picture), read("set/images/val/00000.png")).unwrap();
    check(&base, &known, [true, true, false], "picture");
    fs::write(place(picture), &pixels).unwrap();
    // A weight of the model under the same name.
    let mut other: Model = model::load(&place("model.safetensors")).unwrap();
    other.weights.values_mut().next().unwrap().data_mut()[0] += 0.01;
    model::save(&other, &place("model.safetensors")).unwrap();
    check(&base, &known, [true, true, false], "weight");
    fs::write(place("model.safetensors"), weights).unwrap();
    check(&base, &known, [false; 3], "nothing");

    let with = |change: fn(&mut Job)| {
        let mut job = base.clone();
        change(&mut job);
        job
    };
    let settings: [(fn(&mut Job), [bool; 3], &str); 16] = [
        (|j| j.criterion = Criterion::L1, [true, false, false], "criterion"),
        (|j| j.imgsz = Some(96.into()), [true, true, true], "image size"),
        (|j| j.batch = 4, [false, false, true], "images per run"),
        (|j| j.seed = 1, [true, true, true], "seed"),
        (|j| j.grid = 4, [true, false, true], "grid"),
        (|j| j.calibration_images = 2, [true, false, false], "number of calibration images"),
        (|j| j.min_keep = 0.5, [false, false, true], "least share"),
        (|j| j.threads = 2, [false, false, true], "number of threads"),
        (|j| j.dtype = Dtype::F16, [false, false, true], "dtype"),
        (|j| j.timing = Timing::Here, [false, false, true], "place of timing"),
        (|j| j.tune.epochs = 2, [false, true, false], "number of epochs"),
        (|j| j.tune.batch = 1, [false, true, false], "batch"),
        (|j| j.tune.lr = 0.5, [false, true, false], "learning rate"),
        (|j| j.tune.distill = 0.5, [false, true, false], "distillation"),
        (|j| j.tune.sparsity = 0.5, [false, true, false], "sparsity"),
        (
            |j| j.pattern = Some(crate::importance::Pattern::TwoOfFour),
            [false, true, false],
            "pattern, whose zeros are kept",
        ),
    ];
    for (change, expected, what) in settings {
        check(&with(change), &known, expected, what);
    }
    // Neither the output folder nor the budget changes a key.
    check(&with(|j| j.out = "elsewhere".into()), &known, [false; 3], "output folder");
    check(&with(|j| j.budget.memory_mib = Some(0.5)), &known, [false; 3], "budget");
}

#[test]
fn the_content_of_a_benchmark_command_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (script, settings) = (folder.path().join("bench.sh"), folder.path().join("settings"));
    let speed = Speed { gflops: 8.0, bandwidth: 8.0 };
    let of = |arguments: &[&Path], speed: Speed| {
        let arguments = arguments.iter().map(|argument| argument.display().to_string()).collect();
        sha256(format!("{:?}", Timing::Command(arguments, speed).source().conditions()).as_bytes())
    };
    let arguments: [&Path; 4] = [Path::new("sh"), &script, &settings, Path::new("{model}")];
    let mut seen = HashSet::new();
    for (first, second) in [("echo 1", "a"), ("echo 2", "a"), ("echo 2", "b")] {
        fs::write(&script, first).unwrap();
        fs::write(&settings, second).unwrap();
        assert!(seen.insert(of(&arguments, speed)), "{first} {second}");
        assert!(!seen.insert(of(&arguments, speed)), "the same again");
    }
    assert!(seen.insert(of(&arguments, Speed { bandwidth: 9.0, ..speed })));
    assert!(seen.insert(of(&arguments[..3], speed)));
    // The program itself, which is found through `PATH` or named.
    assert_ne!(of(&[Path::new("sh")], speed), of(&[Path::new("no-such-program")], speed));
}

#[test]
fn an_entry_that_is_whole_but_of_another_network_is_computed_anew() {
    let folder = inputs();
    let job = Job { criterion: Criterion::L1, ..job(folder.path()) };
    let inputs = gather(&job);
    let notes = RefCell::new(Vec::new());
    let progress = RefCell::new(|event| {
        if let Event::Message(text) = event {
            notes.borrow_mut().push(text);
        }
    });
    let ctx = Context::new(&job, &inputs, &progress);
    let sensitivity = || plan::sensitivity(&ctx, job.criterion).map_err(|e| e.to_string()).unwrap();
    let first = sensitivity();
    let path = fs::read_dir(&job.cache).unwrap().next().unwrap().unwrap().path();
    let good = fs::read_to_string(&path).unwrap();
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("importance-"));
    // Sealed anew, as a faulty build would have written it.
    let mut other = plan::GroupSensitivity { ranking: first.ranking.clone(), curves: first.curves.clone() };
    other.ranking.0[0].pop();
    let name = path.file_stem().unwrap().to_str().unwrap();
    let key = name.strip_prefix("importance-").unwrap();
    fs::remove_file(&path).unwrap();
    let cache = Cache { folder: &job.cache, progress: &(), ranks: &job.ranks };
    cache.get_or::<_, RankError>("importance", key, |_| Ok(()), || Ok(other)).unwrap();
    let second = sensitivity();
    assert_eq!((&second.ranking, &second.curves), (&first.ranking, &first.curves));
    assert_eq!(fs::read_to_string(&path).unwrap(), good);
    let notes = notes.borrow();
    assert!(notes.len() == 1 && notes[0].contains("computed anew") && notes[0].contains("channels of"), "{notes:?}");
}

#[test]
fn the_chosen_plan_is_certified_under_the_measured_losses() {
    let folder = inputs();
    let budget = Budget { latency_ratio: Some(0.7), percentile: 95, ..Budget::default() };
    let job = Job { criterion: Criterion::L1, calibration_images: 3, budget, ..job(folder.path()) };
    let inputs = gather(&job);
    let (ctx, groups) = (Context::new(&job, &inputs, &()), &inputs.baseline.groups);
    let planned = plan::plan(&ctx).map_err(|e| e.to_string()).unwrap();
    let curves = plan::sensitivity(&ctx, job.criterion).map_err(|e| e.to_string()).unwrap().curves;
    // By the losses as they were measured, whichever losses it was found with. A narrower group never costs less.
    let levels = plan::all_levels(&ctx);
    let widths = planned.selection.widths();
    let loss_of = |group: usize| {
        let full = groups.groups[group].width();
        let wider = levels[group].iter().filter(|width| **width >= widths[group]);
        wider.map(|width| curves.loss(group, *width, full)).fold(0.0, f64::max)
    };
    let loss: f64 = (0..widths.len()).map(loss_of).sum();
    let search = planned.search;
    let (found, bound, gap) = (search.loss.unwrap(), search.lower_bound.unwrap(), search.gap.unwrap());
    assert!((found - loss).abs() <= 1e-9 * loss, "{found} {loss}");
    assert!(bound > 0.0 && bound <= found && (gap - (found - bound) / found).abs() < 1e-12, "{search:?}");
    let ms = planned.table.predict(&inputs.baseline.model.graph, groups, &widths);
    assert!((search.predicted_ms.unwrap() - ms).abs() < 1e-9 * ms);
    assert_eq!(plan::Planned::whole(&ctx).search.gap, None);
}

#[test]
fn the_rules_of_compare_get_what_their_criterion_reads() {
    let folder = inputs();
    let job = job(folder.path());
    let inputs = gather(&job);
    let (ctx, groups) = (Context::new(&job, &inputs, &()), &inputs.baseline.groups);
    let scores = |criterion| {
        let statistics = plan::collect(&ctx, criterion).map_err(|e| e.to_string()).unwrap();
        importance::scores(criterion, &inputs.baseline.model, groups, &statistics).unwrap()
    };
    let mut all: Vec<(&str, Vec<Vec<f64>>)> = Vec::new();
    for (name, criterion) in Criterion::ALL {
        let found = scores(criterion);
        let finite = found.iter().flatten().all(|score| score.is_finite() && *score >= 0.0);
        assert!(finite && found.iter().any(|group| group.iter().any(|score| *score > 0.0)), "{name}");
        for (group, scores) in groups.groups.iter().zip(&found) {
            assert_eq!(scores.len(), group.width(), "{name}");
        }
        if let Some((other, _)) = all.iter().find(|(_, known)| *known == found) {
            panic!("{name} scores as {other}");
        }
        all.push((name, found));
    }
}

#[test]
fn accuracy_that_is_undefined_holds_no_budget() {
    let stage = |map: f64, recall: &[(&str, f64)]| Stage {
        map50_95: map,
        recall: recall.iter().map(|(class, recall)| ((*class).to_owned(), *recall)).collect(),
        ..Stage::default()
    };
    let floors = |floors: &[(&str, f64)]| floors.iter().map(|(class, share)| ((*class).to_owned(), *share)).collect();
    let judge = |min_map, max_map_drop, floor: &[(&str, f64)], before: &Stage, after: &Stage| {
        let asked = Budget { min_map, max_map_drop, ..Budget::default() };
        let mut found = verdict::accuracy(&asked, &floors(floor), before, after);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    let (good, less) = (stage(0.5, &[("a", 0.8)]), stage(0.45, &[("a", 0.7)]));
    let (none, nan) = (stage(-1.0, &[]), stage(f64::NAN, &[]));
    for (min_map, drop, floor, before, after, holds, words) in [
        (Some(0.4), None, &[][..], &good, &less, true, "0.4500, at least 0.4000"),
        (Some(0.46), None, &[], &good, &less, false, "0.4500, at least 0.4600"),
        (Some(0.0), None, &[], &none, &none, false, "is undefined"),
        (Some(0.0), None, &[], &nan, &nan, false, "is undefined"),
        (None, Some(0.06), &[], &good, &less, true, "0.0500 lower"),
        (None, Some(0.04), &[], &good, &less, false, "0.0500 lower"),
        (None, Some(0.04), &[], &none, &none, false, "is undefined"),
        (None, Some(0.04), &[], &none, &good, false, "is undefined"),
        (None, Some(0.04), &[], &good, &none, false, "is undefined"),
        (None, None, &[("a", 0.8)], &good, &less, true, "recall of a 0.7000"),
        (None, None, &[("a", 0.9)], &good, &less, false, "recall of a 0.7000"),
        (None, None, &[("b", 0.0)], &good, &less, false, "recall of b is undefined"),
        (None, None, &[("a", 0.9)], &stage(0.5, &[("a", 0.0)]), &less, false, "finds none"),
    ] {
        let (what, ok) = judge(min_map, drop, floor, before, after);
        assert!(ok == holds && what.contains(words), "{words}: {what} {ok}");
    }
    // A classifier has no mAP, and is judged by its accuracy.
    let right = |share| Stage { accuracy: Some(share), ..stage(f64::NAN, &[]) };
    assert!(judge(None, Some(0.02), &[], &right(0.9), &right(0.89)).1);
    assert!(!judge(Some(0.9), None, &[], &right(0.9), &right(0.89)).1);
}
