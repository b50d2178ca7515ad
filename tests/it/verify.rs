//! `verify`: a bundle is what one run wrote, to the byte, holds its budgets, and is no worse than an earlier one.

use crate::results::{built, worker};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use secateurs::bundle::{BINARY, MANIFEST, MODEL, PLAN, PROFILE, REPORT_HTML, verify};
use std::fs;
use std::path::Path;

/// Prunes the demo and finishes the bundle in `out`.
fn bundle(folder: &Path) {
    fs::write(folder.join("host.toml"), "[bench]\nruns = 4\nwarmup = 0\nquiet = false\n").unwrap();
    let arguments = "prune --profile host.toml --memory-mib 2.2 --epochs 0 --calibration-images 16 --out out";
    let (code, text) = worker(&arguments.split(' ').collect::<Vec<_>>(), folder);
    assert_eq!(code, 0, "{text}");
    let (code, text) = worker(&["verify", "out"], folder);
    assert!(code == 9 && text.contains("secateurs-infer: is not in manifest.json"), "{code} {text}");
    built(&folder.join("built"), &folder.join("out").join(MODEL));
    let (code, text) = worker(&["finish", "--out", "out", "--binary", "built"], folder);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_bundle_is_verified_to_the_byte_and_held_against_an_earlier_one() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path();
    bundle(folder);
    let out = folder.join("out");
    let whole = verify(&out).unwrap();
    assert_eq!(whole.listed.files.len(), 8);
    let check = |arguments: &str| worker(&arguments.split(' ').collect::<Vec<_>>(), folder);
    let (code, text) = check("verify out");
    assert!(code == 0 && text.contains("9 files") && text.contains("2.20 MiB: holds"), "{code} {text}");
    let (code, text) = check("verify out --measure --message-format json");
    assert!(code == 0 && text.contains(r#""reason":"verified""#), "{code} {text}");

    every_flipped_byte_is_found(&out);
    a_swapped_a_renamed_and_a_truncated_file_are_found(&out);

    // Held against itself.
    let (code, text) = check("verify out --against out --max-slower 900%");
    assert!(code == 0 && text.contains("against"), "{code} {text}");
    let (code, text) = check("verify out --max-slower 3");
    assert!(code == 2 && text.contains("--against"), "{code} {text}");
    // A profile that was changed after the run.
    let profile = fs::read_to_string(out.join(PROFILE)).unwrap();
    fs::write(out.join(PROFILE), profile.replace("memory-mib = 2.2", "memory-mib = 9.2")).unwrap();
    let (code, text) = check("verify out");
    assert!(code == 9 && text.contains("profile.toml: is not what the run wrote"), "{code} {text}");
}

fn every_flipped_byte_is_found(out: &Path) {
    let mut random = StdRng::seed_from_u64(1);
    let names: Vec<_> = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()).collect();
    let names: Vec<_> = names.into_iter().filter(|path| path.is_file() && !path.ends_with(".secateurs.lock")).collect();
    assert_eq!(names.len(), 9, "{names:?}");
    for flip in 0..200 {
        let path = &names[flip % names.len()];
        let good = fs::read(path).unwrap();
        let (at, bit) = (random.random_range(0..good.len()), random.random_range(0..8));
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        fs::write(path, bad).unwrap();
        let faults = verify(out).expect_err(&format!("{}: byte {at}, bit {bit}", path.display()));
        assert!(faults.iter().any(|fault| fault.file == *path), "{faults:?}");
        fs::write(path, good).unwrap();
    }
    verify(out).unwrap();
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
    fs::write(out.join("model.onnx"), "of another run").unwrap();
    says("model.onnx: is not in manifest.json");
    fs::remove_file(out.join("model.onnx")).unwrap();
    let page = fs::read(out.join(REPORT_HTML)).unwrap();
    fs::remove_file(out.join(REPORT_HTML)).unwrap();
    says("report.html: No such file");
    fs::write(out.join(REPORT_HTML), page).unwrap();
}
