//! `verify`: a bundle is what one run wrote, to the byte, holds its budgets, and is no worse than an earlier one.

use crate::bundles::{PUBLIC, change_model, change_report, copy, copy_files, files, lock_of_the_bundle, reseal, run};
use crate::surgery::narrow;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use secateurs::bundle::sign::PublicKey;
use secateurs::bundle::{
    BASELINE, BINARY, LOCK, MANIFEST, MODEL, ONNX, PLAN, PROFILE, REPORT_HTML, verify, verify_signed,
};
use secateurs::model::{self, Info, Model, Tensor};
use std::fs;
use std::path::Path;

#[test]
fn a_bundle_is_verified_to_the_byte() {
    let folder = copy();
    let out = folder.path().join("out");
    let whole = verify(&out).unwrap();
    assert_eq!(whole.listed.files.len(), 9);
    let (code, text) = run("verify out", folder.path());
    assert!(code == 0 && text.contains("11 files") && text.contains("2.20 MiB: holds"), "{code} {text}");
    assert!(text.contains("claims key 8845142233C5952E, and is not checked without --key"), "{text}");
    assert!(text.contains("there is no secateurs.lock above it"), "{text}");
    let (code, text) = run("verify out --measure --message-format json", folder.path());
    assert!(code == 0 && text.contains(r#""reason":"verified""#), "{code} {text}");
    every_flipped_byte_is_found(&out);
    a_swapped_a_renamed_and_a_truncated_file_are_found(&out);
}

fn every_flipped_byte_is_found(out: &Path) {
    let mut random = StdRng::seed_from_u64(1);
    let key = PublicKey::open(PUBLIC).unwrap();
    let names = files(out);
    assert_eq!(names.len(), 11, "{names:?}");
    for flip in 0..200 {
        let path = &names[flip % names.len()];
        let good = fs::read(path).unwrap();
        let (at, bit) = (random.random_range(0..good.len()), random.random_range(0..8));
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        fs::write(path, bad).unwrap();
        let faults = verify_signed(out, &key).expect_err(&format!("{}: byte {at}, bit {bit}", path.display()));
        assert!(faults.iter().any(|fault| fault.file == *path), "{faults:?}");
        fs::write(path, good).unwrap();
    }
    verify_signed(out, &key).unwrap();
}

fn a_swapped_a_renamed_and_a_truncated_file_are_found(out: &Path) {
    let says = |expected: &str| {
        let faults = verify(out).expect_err(expected);
        assert!(faults.iter().any(|fault| fault.to_string().contains(expected)), "{expected}: {faults:?}");
    };
    let with = |name: &str, bytes: &[u8], expected: &str| {
        let good = fs::read(out.join(name)).unwrap();
        fs::write(out.join(name), bytes).unwrap();
        says(expected);
        fs::write(out.join(name), good).unwrap();
    };
    with(BINARY, b"#!/bin/sh\n", "secateurs-infer: is not what the run wrote");
    let manifest = fs::read(out.join(MANIFEST)).unwrap();
    with(MANIFEST, &manifest[..manifest.len() / 2], "manifest.json: is no manifest of a run");
    with(MANIFEST, b"{\"files\": {}, \"inputs\": {}}", "has no digest of itself");
    fs::rename(out.join(PLAN), out.join("plan.bak")).unwrap();
    says("plan.toml: No such file");
    fs::rename(out.join("plan.bak"), out.join(PLAN)).unwrap();
    fs::write(out.join(ONNX), "of another run").unwrap();
    says("model.onnx: is not in manifest.json");
    fs::remove_file(out.join(ONNX)).unwrap();
    let page = fs::read(out.join(REPORT_HTML)).unwrap();
    fs::remove_file(out.join(REPORT_HTML)).unwrap();
    says("report.html: No such file");
    fs::write(out.join(REPORT_HTML), page).unwrap();
    // The model of another bundle, under hashes that agree.
    fs::copy(out.join(BASELINE), out.join(MODEL)).unwrap();
    reseal(out);
    says("secateurs-infer: carries another model than model.safetensors");
}

/// What was changed is sealed again, so that no hash gives it away.
#[test]
fn a_report_must_follow_from_its_profile_and_its_figures() {
    let folder = copy();
    let (folder, out) = (folder.path(), folder.path().join("out"));
    let profile = fs::read_to_string(out.join(PROFILE)).unwrap();
    fs::write(out.join(PROFILE), profile.replace("memory-mib = 2.2", "memory-mib = 9.2")).unwrap();
    let (code, text) = run("verify out", folder);
    assert!(code == 9 && text.contains("profile.toml: is not what the run wrote"), "{code} {text}");
    reseal(&out);
    let (code, text) = run("verify out", folder);
    assert!(
        code == 9 && text.contains("report.json: was judged by other budgets than those of profile"),
        "{code} {text}"
    );
    fs::write(out.join(PROFILE), &profile).unwrap();

    change_report(&out, |report| report.last_mut().peak_memory_bytes = 99 << 20);
    let (code, text) = run("verify out", folder);
    assert!(code == 9 && text.contains("has a verdict that does not follow from its figures"), "{code} {text}");
    change_report(&out, |report| report.verdict.memory_ok = false);
    let (code, _) = run("verify out", folder);
    assert_eq!(code, 5, "a missed budget that is told");
    let whole = verify(&out).unwrap().report;
    assert_eq!(whole.last().peak_memory_bytes, 99 << 20);
}

#[test]
fn a_latency_that_was_never_measured_is_refused_unless_allowed() {
    let folder = copy();
    change_report(&folder.path().join("out"), |report| {
        (report.baseline.latency, report.last_mut().latency) = (None, None);
        report.verdict.simulated = Some("it is emulated".into());
    });
    let (code, text) = run("verify out", folder.path());
    assert!(code == 7 && text.contains("it is emulated"), "{code} {text}");
    let (code, text) = run("verify out --allow-simulated", folder.path());
    assert_eq!(code, 0, "{text}");
}

/// The lock of the bundle: what `prune` and `finish` enter at the root of a workspace.
#[test]
fn a_bundle_is_held_against_the_lock_above_it() {
    let folder = copy();
    let (folder, out) = (folder.path(), folder.path().join("out"));
    let path = folder.join(LOCK);
    fs::copy(lock_of_the_bundle(), &path).unwrap();
    let (code, text) = run("verify out", folder);
    assert!(code == 0 && text.contains("as ") && text.contains(LOCK), "{code} {text}");
    // Another seed, and another figure, both in the report; nothing gives them away but the lock.
    change_report(&out, |report| {
        report.seed += 1;
        report.last_mut().params += 1;
    });
    let (code, text) = run("verify out", folder);
    for expected in ["seed: 0 is locked, now 1", "params: ", "manifest.json: "] {
        assert!(code == 9 && text.contains(&format!("{LOCK}: {expected}")), "{code} {expected} {text}");
    }
    let (code, text) = run("verify out --no-lock", folder);
    assert_eq!(code, 0, "{text}");
    let other = folder.join("other.lock");
    let text = fs::read_to_string(&path).unwrap().replace("[target.host", "[target.board");
    fs::write(&other, text).unwrap();
    for (lock, expected) in [("other.lock", "has no target"), ("none.lock", "none.lock: is missing")] {
        let (code, text) = run(&format!("verify out --lock {lock}"), folder);
        assert!(code == 9 && text.contains(expected), "{code} {text}");
    }
}

#[test]
fn a_bundle_that_is_slower_or_less_accurate_than_an_earlier_one_is_refused() {
    let folder = copy();
    let (folder, out, old) = (folder.path(), folder.path().join("out"), folder.path().join("old"));
    let (code, text) = run("verify out --max-slower 3", folder);
    assert!(code == 2 && text.contains("--against"), "{code} {text}");
    let (code, text) = run("verify out --against none", folder);
    assert!(code == 9 && text.contains("manifest.json: No such file"), "{code} {text}");

    // The earlier one has a network of a third of the channels: whatever the machine does, it is faster.
    copy_files(&out, &old);
    let graph = narrow(&model::load(&out.join(BASELINE)).unwrap().graph, 0.35);
    let weights = graph.params().into_iter().map(|p| (p.key, Tensor::filled(p.shape, 0.01))).collect();
    let small = model::to_bytes(&Model::new(graph, weights, Info::default()).unwrap()).unwrap();
    change_model(&old, &small);
    let (code, text) = run("verify out --against old", folder);
    assert!(code == 5 && text.contains("1.020x allowed: is missed"), "{code} {text}");
    let (code, text) = run("verify out --against old --max-slower 1000%", folder);
    assert!(
        code == 0 && text.contains("11.000x allowed: holds") && text.contains("0.005 less allowed: holds"),
        "{code} {text}"
    );

    change_report(&old, |report| report.last_mut().map50_95 += 0.01);
    let (code, text) = run("verify out --against old --max-slower 1000%", folder);
    assert!(code == 6 && text.contains("0.005 less allowed: is missed"), "{code} {text}");
    let (code, text) = run("verify out --against old --max-slower 1000% --max-map-drop 0.011", folder);
    assert!(code == 0 && text.contains("0.011 less allowed: holds"), "{code} {text}");
    change_report(&old, |report| report.data = "other.yaml".into());
    let (code, text) = run("verify out --against old --max-slower 1000%", folder);
    assert!(code == 9 && text.contains("was evaluated on other data"), "{code} {text}");
}
