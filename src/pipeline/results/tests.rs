//! The folder of the results: replaced as a set, locked, repaired after a kill.

use super::*;
use crate::bundle::{BASELINE, BENCH, BINARY, MODEL, PLAN, REPORT_HTML, REPORT_JSON};
use std::collections::BTreeMap;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name != LOCK).collect();
    names.sort();
    names
}

/// Replaces the set by files with one text, and a manifest of them.
fn put(results: &Results, text: &str, names: &[&'static str]) -> Result<(), PipelineError> {
    let hash = sha256(text.as_bytes());
    let files: BTreeMap<&str, &str> = names.iter().map(|name| (*name, hash.as_str())).collect();
    let manifest = serde_json::json!({ "files": files, "inputs": {} }).to_string();
    let mut new: Vec<New> =
        names.iter().map(|name| New { name, bytes: text.as_bytes(), program: *name == BINARY }).collect();
    new.push(New { name: MANIFEST, bytes: manifest.as_bytes(), program: false });
    results.replace(&new, &[])
}

/// The text that all files of the set have; fails if they are of several sets.
fn text_of(folder: &Path) -> String {
    let results = Results { folder: folder.into(), made: vec![], lock: None };
    let listed = results.listed().unwrap().unwrap();
    let mut texts = listed.files.keys().map(|name| String::from_utf8(results.read(&listed, name).unwrap()).unwrap());
    let first = texts.next().unwrap();
    assert!(texts.all(|text| text == first), "files of several runs in {}", folder.display());
    first
}

#[test]
fn a_set_replaces_another_and_leaves_what_is_not_its_own() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("a/out");
    let results = Results::open(&folder, false).unwrap();
    put(&results, "first", &[MODEL, REPORT_JSON, BINARY, BENCH]).unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::create_dir(folder.join(".cache")).unwrap();
    assert_eq!(text_of(&folder), "first");
    // What the second run does not make is removed: nobody takes the old binary for one of the new model.
    put(&results, "second", &[MODEL, REPORT_JSON]).unwrap();
    assert_eq!(text_of(&folder), "second");
    assert_eq!(names(&folder), [".cache", "manifest.json", "model.safetensors", "notes.txt", "report.json"]);
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
    // Kept files are neither written again nor removed.
    let new = New { name: PLAN, bytes: b"plan", program: false };
    results.replace(&[new], &[MODEL, REPORT_JSON]).unwrap();
    assert_eq!(fs::read_to_string(folder.join(MODEL)).unwrap(), "second");
}

#[test]
fn files_of_the_user_are_never_replaced() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path();
    let results = Results::open(folder, false).unwrap();
    fs::write(folder.join(REPORT_JSON), "mine").unwrap();
    let refused = results.check(&Inputs::default()).unwrap_err().to_string();
    assert!(refused.contains("report.json: is no result of an earlier run"), "{refused}");
    fs::remove_file(folder.join(REPORT_JSON)).unwrap();
    put(&results, "first", &[MODEL]).unwrap();
    results.check(&Inputs::default()).unwrap();
    let refused = results.check(&Inputs::new([folder.join(MODEL)])).unwrap_err().to_string();
    assert!(refused.contains("model.safetensors: is an input"), "{refused}");
    // A binary that the manifest does not list is kept, and everything is kept if the manifest is not ours.
    fs::write(folder.join(BINARY), "mine").unwrap();
    assert!(results.check(&Inputs::default()).is_err());
    put(&results, "second", &[MODEL]).unwrap();
    assert_eq!(fs::read_to_string(folder.join(BINARY)).unwrap(), "mine");
    fs::write(folder.join(MANIFEST), "[]").unwrap();
    assert!(results.check(&Inputs::default()).unwrap_err().to_string().contains("is no manifest"));
}

#[test]
fn what_was_changed_afterwards_is_not_read_as_a_result() {
    let base = tempfile::tempdir().unwrap();
    let results = Results::open(base.path(), false).unwrap();
    put(&results, "first", &[MODEL, REPORT_JSON]).unwrap();
    let listed = results.listed().unwrap().unwrap();
    assert_eq!(results.read(&listed, MODEL).unwrap(), b"first");
    fs::write(base.path().join(MODEL), "other").unwrap();
    let refused = results.read(&listed, MODEL).unwrap_err().to_string();
    assert!(refused.contains("model.safetensors: is not what the run wrote"), "{refused}");
    assert!(results.read(&listed, PLAN).unwrap_err().to_string().contains("not in manifest.json"));
}

#[test]
fn one_run_has_the_folder_and_an_empty_one_goes_with_it() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("a/b");
    let first = Results::open(&folder, false).unwrap();
    let second = Results::open(&folder, false).unwrap_err();
    assert!(matches!(&second, PipelineError::Input(text) if text.contains("another run of secateurs")), "{second}");
    // Its caller holds it.
    Results::open(&folder, true).unwrap();
    drop(first);
    assert!(!base.path().join("a").exists(), "nothing is left of a run without results");
    let again = Results::open(&folder, false).unwrap();
    put(&again, "first", &[MODEL]).unwrap();
    drop(again);
    assert_eq!(text_of(&folder), "first");
    assert!(Results::open(&folder, false).is_ok(), "the lock goes with the run");
    // A file is no folder: the user must choose another one.
    let file = folder.join(MODEL);
    for open in [Results::open(&file, false), Results::look(&file)] {
        let error = open.unwrap_err();
        assert!(error.to_string().contains("is a file, expected a folder"), "{error}");
        assert!(
            matches!(&error, PipelineError::Writing { source, .. } if source.kind() == io::ErrorKind::NotADirectory)
        );
    }
}

/// Copies a folder as a killed run would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), there).unwrap();
        }
    }
}

/// Every state between the old set and the new one, and every one on the way back: the next run makes one set of it.
#[test]
fn a_run_killed_at_any_moment_leaves_one_set_for_the_next() {
    let base = tempfile::tempdir().unwrap();
    let old = base.path().join("old");
    let results = Results::open(&old, false).unwrap();
    put(&results, "first", &[MODEL, BASELINE, REPORT_JSON, BINARY]).unwrap();
    let hash = sha256(b"second");
    let manifest =
        serde_json::json!({ "files": { MODEL: hash, BASELINE: hash, PLAN: hash, REPORT_JSON: hash }, "inputs": {} });
    let manifest = manifest.to_string();
    let text = |name| New { name, bytes: b"second", program: false };
    let manifest = New { name: MANIFEST, bytes: manifest.as_bytes(), program: false };
    let new = [text(MODEL), text(BASELINE), text(PLAN), text(REPORT_JSON), manifest];
    let mut journal = Journal {
        put: new.iter().map(|file| file.name.to_owned()).collect(),
        remove: vec![BINARY.into()],
        old: BTreeSet::new(),
    };
    for (direction, expected) in [(READY, "second"), (UNDO, "first")] {
        for steps in 0..=new.len() + 1 {
            let folder = base.path().join(format!("{direction}-{steps}"));
            copy(&old, &folder);
            let killed = Results { folder: folder.clone(), made: vec![], lock: None };
            journal.old.clear();
            killed.stage(&folder.join(READY), &new, &mut journal).unwrap();
            let names: Vec<&String> = journal.put.iter().chain(&journal.remove).collect();
            for (number, name) in names.iter().enumerate().take(if direction == READY { steps } else { 4 }) {
                if number < new.len() {
                    fs::rename(folder.join(READY).join(name), folder.join(name)).unwrap();
                } else {
                    fs::remove_file(folder.join(name)).unwrap();
                }
            }
            if direction == UNDO {
                fs::rename(folder.join(READY), folder.join(UNDO)).unwrap();
                for name in names.iter().take(steps) {
                    let old = folder.join(UNDO).join(OLD).join(name);
                    let _ = if old.exists() {
                        fs::rename(old, folder.join(name))
                    } else {
                        fs::remove_file(folder.join(name))
                    };
                }
            }
            drop(Results::open(&folder, false).unwrap());
            assert_eq!(text_of(&folder), expected, "{direction} after {steps} steps");
            assert_eq!(folder.join(BINARY).exists(), expected == "first", "{direction} after {steps} steps");
            assert_eq!(folder.join(PLAN).exists(), expected == "second", "{direction} after {steps} steps");
            assert!(!folder.join(READY).exists() && !folder.join(UNDO).exists());
        }
    }
}

/// A name that a file cannot take breaks the replacement off in the middle: the old set is whole again.
#[test]
fn a_replacement_that_fails_is_taken_back() {
    let base = tempfile::tempdir().unwrap();
    let results = Results::open(base.path(), false).unwrap();
    put(&results, "first", &[MODEL, REPORT_JSON, BINARY]).unwrap();
    let before = names(base.path());
    // A folder with something in it cannot be renamed over.
    fs::create_dir_all(base.path().join(REPORT_HTML).join("inside")).unwrap();
    let error = put(&results, "second", &[MODEL, BASELINE, REPORT_HTML, REPORT_JSON]).unwrap_err();
    assert!(matches!(error, PipelineError::Writing { .. }), "{error}");
    fs::remove_dir_all(base.path().join(REPORT_HTML)).unwrap();
    assert_eq!((text_of(base.path()), names(base.path())), ("first".into(), before));
}

#[test]
fn a_journal_cannot_name_files_elsewhere() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("out");
    fs::create_dir_all(folder.join(READY)).unwrap();
    fs::write(base.path().join("victim"), "precious").unwrap();
    fs::write(folder.join(READY).join(JOURNAL), r#"{"put":[],"remove":["../victim"],"old":[]}"#).unwrap();
    assert!(Results::open(&folder, false).is_err());
    assert_eq!(fs::read_to_string(base.path().join("victim")).unwrap(), "precious");
}

#[test]
fn room_is_asked_for_before_it_is_needed() {
    let base = tempfile::tempdir().unwrap();
    let results = Results::look(base.path()).unwrap();
    results.check_room(1).unwrap();
    let error = results.check_room(u64::MAX).unwrap_err();
    assert!(matches!(&error, PipelineError::Room { needed: u64::MAX, .. }), "{error}");
    assert!(error.to_string().contains("MiB are free"), "{error}");
    assert_eq!(room(&base.path().join("not/yet")).is_some(), room(base.path()).is_some());
}
