//! The folder of the results: replaced as a whole, locked, repaired after a kill.

use super::*;
use crate::bundle::{self, BASELINE, BENCH, BINARY, MANIFEST, MODEL, PLAN, REPORT_HTML, REPORT_JSON, sha256};
use std::collections::BTreeMap;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

/// Replaces the set by files with one text, and a manifest of them.
fn put(results: &Results, text: &str, names: &[&'static str]) -> Result<(), PipelineError> {
    let hash = sha256(text.as_bytes());
    let files: BTreeMap<&str, &str> = names.iter().map(|name| (*name, hash.as_str())).collect();
    let digest = bundle::unsealed();
    let manifest = bundle::seal(&serde_json::json!({ "digest": digest, "files": files, "inputs": {} }).to_string());
    let mut new: Vec<New> =
        names.iter().map(|name| New { name, bytes: text.as_bytes(), program: *name == BINARY }).collect();
    new.push(New { name: MANIFEST, bytes: manifest.as_bytes(), program: false });
    results.replace(&new, &[], &[])
}

/// The text that all files of the set have; fails if they are of several sets.
fn text_of(folder: &Path) -> String {
    let results = Results::look(folder).unwrap();
    let listed = super::swap::listed(&results.set()).unwrap().unwrap();
    let mut texts = listed.files.iter().map(|(name, hash)| {
        let text = fs::read_to_string(results.set().join(name)).unwrap();
        assert_eq!(sha256(text.as_bytes()), *hash, "{name} is not what the manifest says");
        text
    });
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
    fs::create_dir_all(folder.join(".cache/deep")).unwrap();
    assert_eq!(text_of(&folder), "first");
    // What the second run does not make is removed: nobody takes the old binary for one of the new model.
    put(&results, "second", &[MODEL, REPORT_JSON]).unwrap();
    assert_eq!(text_of(&folder), "second");
    assert_eq!(names(&folder), [".cache", "manifest.json", "model.safetensors", "notes.txt", "report.json"]);
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
    // Kept files are neither written again nor removed.
    let new = New { name: PLAN, bytes: b"plan", program: false };
    results.replace(&[new], &[MODEL, REPORT_JSON], &[]).unwrap();
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
    // Where the new set has one of that name, the old set stays.
    let refused = put(&results, "third", &[MODEL, BINARY]).unwrap_err().to_string();
    assert!(refused.contains("secateurs-infer: is no result of an earlier run"), "{refused}");
    assert_eq!(
        (text_of(folder).as_str(), fs::read_to_string(folder.join(BINARY)).unwrap().as_str()),
        ("second", "mine")
    );
    fs::write(folder.join(MANIFEST), "[]").unwrap();
    assert!(results.check(&Inputs::default()).unwrap_err().to_string().contains("is no manifest"));
}

#[test]
fn what_was_changed_afterwards_is_not_read_as_a_result() {
    let base = tempfile::tempdir().unwrap();
    let results = Results::open(base.path(), false).unwrap();
    put(&results, "first", &[MODEL, REPORT_JSON]).unwrap();
    let faults = || bundle::pruned(base.path()).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>();
    let says = |name: &str, text: &str| faults().iter().any(|fault| fault.contains(&format!("{name}: {text}")));
    assert!(says(PLAN, "is not in manifest.json") && !says(MODEL, ""), "{:?}", faults());
    fs::write(base.path().join(MODEL), "other").unwrap();
    assert!(says(MODEL, "is not what the run wrote") && !says(PLAN, "is not what"), "{:?}", faults());
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

/// What lies in and beside the folder when a run is killed. `.out.new` and `.out.old` are what they are named after, but that
/// `new` may be the old set, too: both are exchanged.
#[test]
fn a_run_killed_at_any_moment_leaves_one_set_for_the_next() {
    let base = tempfile::tempdir().unwrap();
    let path = |name: &str| base.path().join(name);
    for (name, files) in [("first", &[MODEL, BASELINE, BINARY][..]), ("second", &[MODEL, BASELINE, PLAN])] {
        put(&Results::open(&path(name), false).unwrap(), name, files).unwrap();
    }
    fs::write(path("first/notes.txt"), "mine").unwrap();
    fs::create_dir_all(path("first/.cache/deep")).unwrap();
    let unfinished = || {
        copy(&path("second"), &path("case/.out.new"));
        fs::write(path("case/.out.new").join(UNFINISHED), "").unwrap();
    };
    let first_without = |name: &str| {
        copy(&path("first"), &path("case/.out.new"));
        copy(&path("second"), &path("case/out"));
        fs::rename(path("case/.out.new").join(name), path("case/out").join(name)).unwrap();
    };
    type Case<'a> = (&'a str, &'a str, &'a dyn Fn());
    let cases: [Case; 10] = [
        ("before anything", "first", &|| copy(&path("first"), &path("case/out"))),
        ("an empty new folder", "first", &|| {
            copy(&path("first"), &path("case/out"));
            fs::create_dir(path("case/.out.new")).unwrap();
        }),
        ("half of the new folder is written", "first", &|| {
            copy(&path("first"), &path("case/out"));
            unfinished();
            fs::remove_file(path("case/.out.new").join(MANIFEST)).unwrap();
        }),
        ("the new folder is written", "first", &|| {
            copy(&path("first"), &path("case/out"));
            unfinished();
        }),
        ("the new folder is finished", "first", &|| {
            copy(&path("first"), &path("case/out"));
            copy(&path("second"), &path("case/.out.new"));
        }),
        ("both are exchanged", "second", &|| {
            copy(&path("second"), &path("case/out"));
            copy(&path("first"), &path("case/.out.new"));
        }),
        ("one thing of the owner's is carried over", "second", &|| first_without("notes.txt")),
        ("another thing is carried over", "second", &|| first_without(".cache")),
        ("the old folder is aside", "second", &|| {
            copy(&path("first"), &path("case/.out.old"));
            copy(&path("second"), &path("case/.out.new"));
        }),
        ("the old folder is aside, the new one in its place", "second", &|| {
            copy(&path("first"), &path("case/.out.old"));
            copy(&path("second"), &path("case/out"));
        }),
    ];
    for (moment, expected, lay) in cases {
        let _ = fs::remove_dir_all(path("case"));
        fs::create_dir(path("case")).unwrap();
        lay();
        drop(Results::open(&path("case/out"), false).unwrap());
        assert_eq!(text_of(&path("case/out")), expected, "{moment}");
        assert_eq!(names(&path("case")), ["out"], "{moment}");
        assert_eq!(path("case/out").join(BINARY).exists(), expected == "first", "{moment}");
        assert_eq!(fs::read_to_string(path("case/out/notes.txt")).unwrap(), "mine", "{moment}");
        assert!(path("case/out/.cache/deep").is_dir(), "{moment}");
    }
}

/// The two steps in place of an exchange, where the file system knows none.
#[test]
fn folders_that_cannot_be_exchanged_are_replaced_in_two_steps() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("out");
    put(&Results::open(&folder, false).unwrap(), "first", &[MODEL, BINARY]).unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let place = Place::of(&folder).unwrap();
    put(&Results::open(&base.path().join("other"), false).unwrap(), "second", &[MODEL]).unwrap();
    fs::rename(base.path().join("other"), place.staged()).unwrap();
    swap::move_aside(&place, &place.staged()).unwrap();
    drop(Results::open(&folder, false).unwrap());
    assert_eq!((text_of(&folder), names(base.path())), ("second".into(), vec!["out".to_owned()]));
    assert_eq!(names(&folder), ["manifest.json", "model.safetensors", "notes.txt"]);
}

/// The first stage leaves its set beside the folder; the second one completes it there, and the folder changes once.
#[test]
fn two_stages_replace_the_folder_once() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("out");
    put(&Results::open(&folder, false).unwrap(), "first", &[MODEL, BINARY]).unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let before = names(&folder);
    let held = FileLock::try_at(&Place::of(&folder).unwrap().lock()).unwrap();
    let first = Results::open(&folder, true).unwrap();
    let kept = New { name: KEPT, bytes: b"[]", program: false };
    let model = New { name: MODEL, bytes: b"second", program: false };
    let manifest = serde_json::json!({ "files": { MODEL: sha256(b"second") }, "inputs": {} }).to_string();
    let manifest = New { name: MANIFEST, bytes: manifest.as_bytes(), program: false };
    first.replace(&[model, manifest], &[], &[kept]).unwrap();
    drop(first);
    assert_eq!((text_of(&folder), names(&folder)), ("first".into(), before));
    let second = Results::finish(&folder, true).unwrap();
    assert_eq!(second.note(KEPT).unwrap(), b"[]");
    assert_eq!(fs::read(second.set().join(MODEL)).unwrap(), b"second");
    let both = serde_json::json!({ "files": { MODEL: sha256(b"second"), BENCH: sha256(b"second") }, "inputs": {} });
    let both = both.to_string();
    let new = [
        New { name: BENCH, bytes: b"second", program: false },
        New { name: MANIFEST, bytes: both.as_bytes(), program: false },
    ];
    second.replace(&new, &[MODEL], &[]).unwrap();
    drop((second, held));
    assert_eq!(text_of(&folder), "second");
    assert_eq!(names(&folder), ["bench.json", "manifest.json", "model.safetensors", "notes.txt"]);
    // Without a first stage, the set in the folder is the one to complete.
    let again = Results::finish(&folder, true).unwrap();
    assert_eq!(again.set(), again.folder());
}

/// What is in the way of the owner's files stops the rest from being removed.
#[test]
fn what_cannot_be_carried_over_is_kept() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("out");
    put(&Results::open(&folder, false).unwrap(), "second", &[MODEL]).unwrap();
    let place = Place::of(&folder).unwrap();
    fs::create_dir(place.staged()).unwrap();
    fs::write(place.staged().join("notes.txt"), "mine").unwrap();
    fs::write(folder.join("notes.txt"), "newer").unwrap();
    let refused = Results::open(&folder, false).unwrap_err().to_string();
    assert!(refused.contains("notes.txt: is in the way of"), "{refused}");
    assert_eq!(fs::read_to_string(place.staged().join("notes.txt")).unwrap(), "mine");
    fs::remove_file(folder.join("notes.txt")).unwrap();
    drop(Results::open(&folder, false).unwrap());
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
}

/// A set that cannot be written leaves the old one, and nothing beside it.
#[test]
fn a_replacement_that_fails_is_taken_back() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("out");
    let results = Results::open(&folder, false).unwrap();
    put(&results, "first", &[MODEL, REPORT_JSON, BINARY]).unwrap();
    let before = names(&folder);
    // Something of the owner's has the name of a file of the new set.
    fs::create_dir_all(folder.join(REPORT_HTML).join("inside")).unwrap();
    let error = put(&results, "second", &[MODEL, BASELINE, REPORT_HTML, REPORT_JSON]).unwrap_err();
    assert!(matches!(error, PipelineError::Writing { .. }), "{error}");
    assert!(folder.join(REPORT_HTML).join("inside").is_dir());
    fs::remove_dir_all(folder.join(REPORT_HTML)).unwrap();
    assert_eq!((text_of(&folder), names(&folder)), ("first".into(), before.clone()));
    drop(results);
    assert_eq!(names(base.path()), ["out"]);
    // A file stands where the new folder should be made.
    fs::write(base.path().join(".out.new"), "in the way").unwrap();
    let results = Results::open(&folder, false).unwrap();
    assert!(put(&results, "second", &[MODEL]).is_err());
    assert_eq!((text_of(&folder), names(&folder)), ("first".into(), before));
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
