//! A bundle against its own lock, and against one that differs in one thing at a time.

use super::*;
use crate::bundle::Listed;
use crate::bundle::lock::{Input, LockedInputs};
use crate::profile::{self, Profile};
use crate::report::{Budget, Report, Search, Stage, Verdict};
use std::path::Path;

fn report() -> Report {
    let stage = Stage { map50_95: 0.5, params: 100, peak_memory_bytes: 1 << 20, ..Stage::default() };
    Report {
        version: "1.2.3".into(),
        target: "host".into(),
        device: "a CPU".into(),
        imgsz: 160.into(),
        batch: 1,
        head: None,
        threads: 1,
        seed: 7,
        model: "m".into(),
        data: "d".into(),
        budget: Budget::default(),
        floors: BTreeMap::new(),
        importance: "l1".into(),
        baseline: stage.clone(),
        pruned: stage.clone(),
        repaired: stage,
        tuned: None,
        training: None,
        dtype: Default::default(),
        quantized: None,
        controls: BTreeMap::new(),
        search: Search::default(),
        table_errors: vec![],
        groups: vec![],
        layers: vec![],
        full_precision: Vec::new(),
        runtime: None,
        front: vec![],
        memory: vec![],
        photos: vec![],
        verdict: Verdict { simulated: Some("emulated".into()), ..Verdict::default() },
        seconds: BTreeMap::new(),
    }
}

/// The values of a profile: `memory-mib` and the defaults.
fn profile() -> Profile {
    profile::parse(Path::new("profile.toml"), "[budget]\nmemory-mib = 2.5\n").unwrap()
}

const PLAN: &str = "model-sha256 = \"m\"\n[[group]]\nname = \"g\"\nbefore = 4\nwidth = 2\nkept = [0, 3]\n";

fn bundle() -> Verified {
    let hashes = |pairs: &[(&str, char)]| {
        pairs.iter().map(|(name, digit)| ((*name).to_owned(), digit.to_string().repeat(64))).collect()
    };
    Verified {
        listed: Listed::new(hashes(&[("model.safetensors", 'a')]), hashes(&[("model", 'b'), ("data", 'c')])),
        manifest: b"manifest".to_vec(),
        signature: None,
        profile: profile(),
        report: report(),
        plan_text: PLAN.into(),
        model: vec![],
        bytes: 0,
    }
}

fn locked() -> LockedTarget {
    let input = |digit: char| Input { path: "x".into(), sha256: digit.to_string().repeat(64) };
    let group = LockedGroup { before: 4, width: 2, kept: vec![0, 3] };
    LockedTarget {
        inputs: LockedInputs {
            version: "1.2.3".into(),
            seed: 7,
            features: vec![],
            compiler: None,
            cuda: false,
            skip_bad_images: false,
            model: input('b'),
            data: Some(input('c')),
            profile_file: input('d'),
            profile: profile_values(&profile()),
        },
        imgsz: 160.into(),
        board: "a CPU".into(),
        plan: [("g".to_owned(), group)].into(),
        files: [("model.safetensors".to_owned(), "a".repeat(64))].into(),
        manifest: sha256(b"manifest"),
        measured: measured(&report()),
    }
}

#[test]
fn a_bundle_agrees_with_its_own_lock() {
    assert_eq!(differences(&locked(), &bundle()).unwrap(), []);
    // A board with fewer CPUs than were asked for is no other run; more threads than that are.
    let threads = |count: i64| {
        let mut locked = locked();
        locked.inputs.profile.insert("device.threads".into(), Value::Integer(count));
        differences(&locked, &bundle()).unwrap().len()
    };
    assert_eq!((threads(64), threads(0)), (0, 1));
}

#[test]
fn every_locked_value_is_compared_and_named() {
    let cases: [(&str, fn(&mut LockedTarget)); 16] = [
        ("file model.safetensors", |l| l.files = [("model.safetensors".to_owned(), "e".repeat(64))].into()),
        ("file secateurs-infer", |l| drop(l.files.insert("secateurs-infer".into(), "e".repeat(64)))),
        ("version of secateurs", |l| l.inputs.version = "1.2.4".into()),
        ("seed", |l| l.inputs.seed = 8),
        ("model", |l| l.inputs.model.sha256 = "e".repeat(64)),
        ("data (pictures, labels, classes)", |l| l.inputs.data.as_mut().unwrap().sha256 = "e".repeat(64)),
        ("profile budget.memory-mib", |l| {
            l.inputs.profile.insert("budget.memory-mib".into(), Value::Float(3.0));
        }),
        ("profile budget.latency-ms", |l| {
            l.inputs.profile.insert("budget.latency-ms".into(), Value::Float(1.0));
        }),
        ("plan g (width, channels before)", |l| l.plan.get_mut("g").unwrap().width = 3),
        ("plan g (kept channels)", |l| l.plan.get_mut("g").unwrap().kept = vec![1, 3]),
        ("plan g (width, channels before)", |l| l.plan.clear()),
        ("image size", |l| l.imgsz = 192.into()),
        ("device that measured", |l| l.board = "another".into()),
        ("simulated", |l| l.measured.simulated = None),
        ("map50-95", |l| l.measured.map50_95 = Some(0.6)),
        ("manifest.json", |l| l.manifest = "e".repeat(64)),
    ];
    for (what, change) in cases {
        let mut changed = locked();
        change(&mut changed);
        let found = differences(&changed, &bundle()).unwrap();
        assert_eq!(found.iter().map(|one| one.what.as_str()).collect::<Vec<_>>(), [what]);
        assert!(found[0].to_string().contains(" is locked, now "), "{}", found[0]);
    }
    let mut broken = bundle();
    broken.plan_text = "group = 3".into();
    assert!(differences(&locked(), &broken).unwrap_err().contains("invalid type"));
}
