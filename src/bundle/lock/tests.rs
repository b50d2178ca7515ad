//! What is written is read back to the same, and what is no lock is refused with its place.

use super::*;

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn input(path: &str) -> Input {
    Input { path: path.into(), sha256: HASH.into() }
}

/// A target with a name and text in it that TOML must quote.
fn sample(odd: &str) -> LockedTarget {
    let floats = Value::Array(vec![Value::Float(0.5), Value::Float(1e-7)]);
    let profile = [
        ("budget.latency-ratio".to_owned(), Value::Float(0.7)),
        (format!("budget.floors.{}", text::key(odd)), Value::Float(1.0)),
        ("bench.command".to_owned(), Value::Array(vec![Value::String(odd.into()), Value::String("b".into())])),
        ("device.pin".to_owned(), Value::Boolean(true)),
        ("model.imgsz".to_owned(), floats),
    ];
    let group = |before, kept: &[usize]| LockedGroup { before, width: kept.len(), kept: kept.into() };
    LockedTarget {
        inputs: LockedInputs {
            version: "0.1.0".into(),
            seed: i64::MAX as u64,
            features: vec!["cuda".into()],
            compiler: Some("rustc 1.95.0".into()),
            cuda: false,
            skip_bad_images: true,
            model: input("models/best.pt"),
            data: Some(input(odd)),
            profile_file: input("targets/host.toml"),
            profile: profile.into(),
        },
        imgsz: 640.into(),
        board: odd.into(),
        plan: [("a".to_owned(), group(4, &[0, 3])), (odd.to_owned(), group(2, &[]))].into(),
        files: [("model.safetensors".to_owned(), HASH.to_owned())].into(),
        manifest: HASH.into(),
        measured: Measured { p50_ms: Some(12.345_678_901), peak_memory_bytes: 7, ..Measured::default() },
    }
}

#[test]
fn a_lock_is_read_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LOCK);
    assert_eq!(Lock::read(&path).unwrap(), None);
    let names = ["rpi5", "a \"quoted\\\" name", "line\nbreak", "", "ü.[x]", "jetson"];
    let mut expected = Lock::default();
    for name in names {
        enter(&path, name, &sample(name)).unwrap();
        expected.targets.insert(name.into(), sample(name));
        assert_eq!(Lock::read(&path).unwrap().unwrap(), expected, "{name:?}");
    }
    // Entering one target again changes its lines alone; entering the same changes nothing.
    let before = std::fs::read_to_string(&path).unwrap();
    let other = LockedTarget { imgsz: 320.into(), ..sample("rpi5") };
    enter(&path, "rpi5", &other).unwrap();
    let after = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<_> = before.lines().zip(after.lines()).filter(|(a, b)| a != b).collect();
    assert_eq!(changed, [("imgsz = 640", "imgsz = 320")]);
    enter(&path, "rpi5", &sample("rpi5")).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
}

#[test]
fn the_text_of_a_target_is_made_for_a_diff() {
    insta::assert_snapshot!(lock_text("host", &sample("x y")), @r##"
    # Written by secateurs; made to be committed. `prune --locked` applies these plans, and fails where an input is
    # another.
    lock-version = 1

    [target.host]
    board = "x y"
    compiler = "rustc 1.95.0"
    cuda = false
    features = ["cuda"]
    imgsz = 640
    manifest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    profile-sha256 = "4c1d7cc39edb3d6648b53857fc2ad95c050d331ff7c854be1c5ebdaf4170c75d"
    seed = 9223372036854775807
    skip-bad-images = true
    version = "0.1.0"

    [target.host.data]
    path = "x y"
    sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

    [target.host.files]
    "model.safetensors" = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

    [target.host.measured]
    p50-ms = 12.345678901
    params = 0
    peak-memory-bytes = 7

    [target.host.model]
    path = "models/best.pt"
    sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

    [target.host.plan]
    a = { before = 4, kept = [0, 3], width = 2 }
    "x y" = { before = 2, kept = [], width = 0 }

    [target.host.profile]
    bench.command = ["x y", "b"]
    budget.floors."x y" = 1.0
    budget.latency-ratio = 0.7
    device.pin = true
    model.imgsz = [0.5, 1e-7]

    [target.host.profile-file]
    path = "targets/host.toml"
    sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    "##);
}

#[test]
fn what_is_no_lock_is_refused_with_its_place() {
    let good = lock_text("host", &sample("x"));
    for (from, to, expected) in [
        ("lock-version = 1", "lock-version = 2", "has lock-version 2"),
        ("lock-version = 1\n", "", "missing field `lock-version`"),
        ("imgsz = 640", "imgsz = '640'", "line 10: invalid type"),
        ("imgsz = 640", "imgsz = 640\nimgsize = 3", "unknown field `imgsize`"),
        ("imgsz = 640", "imgsz 640", "line 10"),
        ("kept = [0, 3]", "kept = [3, 0]", "plan a: expected 2 ascending positions of channels below 4"),
        ("kept = [0, 3]", "kept = [0, 4]", "plan a: expected 2 ascending"),
        ("kept = [0, 3]", "kept = [0]", "plan a: expected 2 ascending"),
        ("latency-ratio = 0.7", "latency-ratio = 0.8", "not those of `profile-sha256`"),
        (HASH, "0123", "`0123` is no SHA-256"),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1);
        let error = Lock::parse(Path::new("s.lock"), &text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.starts_with("s.lock: "), "{to}: {error}");
    }
}

#[test]
fn a_lock_that_is_laid_out_in_another_way_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LOCK);
    let text = lock_text("host", &sample("x")).replace("[target.host]", "[target.'host']");
    std::fs::write(&path, &text).unwrap();
    let error = enter(&path, "host", &sample("y")).unwrap_err().to_string();
    assert!(error.contains("remove target host by hand"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn paths_are_relative_to_the_lock_where_they_lie_in_its_folder() {
    let root = Path::new("/ws/app");
    for (path, expected) in [
        (None, "demo"),
        (Some("drawn:20"), "drawn:20"),
        (Some("/ws/app/data/data.yaml"), "data/data.yaml"),
        (Some("/ws/app/targets/../best.pt"), "best.pt"),
        (Some("/ws/app/demo"), "./demo"),
        (Some("/ws/other/best.pt"), "/ws/other/best.pt"),
    ] {
        let input = Input::new(path.map(Path::new), root, HASH.into());
        assert_eq!(input.path, expected);
        let embedded = matches!(path, None | Some("drawn:20"));
        assert_eq!(input.file(root).is_none(), embedded, "{path:?}");
    }
}

#[test]
fn every_difference_is_named_with_both_values() {
    let locked = sample("x").inputs;
    assert_eq!(locked.differences(&locked), []);
    let mut now = locked.clone();
    now.model.path = "moved.pt".into();
    now.compiler = None;
    assert_eq!(locked.differences(&now), [], "places do not count, nor a compiler that is not known");
    now.seed = 3;
    now.compiler = Some("rustc 2.0.0".into());
    now.model.sha256 = HASH.replace('0', "f");
    now.profile.insert("budget.latency-ratio".into(), Value::Float(0.5));
    now.profile.remove("device.pin");
    now.profile.insert("search.grid".into(), Value::Integer(4));
    let found: Vec<String> = locked.differences(&now).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "seed: 9223372036854775807 is locked, now 3",
            "compiler: rustc 1.95.0 is locked, now rustc 2.0.0",
            "profile budget.latency-ratio: 0.7 is locked, now 0.5",
            "profile device.pin: true is locked, now nothing",
            "profile search.grid: nothing is locked, now 4",
            "model: models/best.pt (SHA-256 0123456789abcdef...) is locked, now moved.pt (SHA-256 f123456789abcdef...)",
        ]
    );
}
