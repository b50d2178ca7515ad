//! Profiles: what is read, what is refused and how, and the profiles that ship.

use secateurs::profile::{self, Connect, Millis, ModelFlags, Overrides, Profile, Ratio, Resolved};
use secateurs::size::ImageSize;
use std::path::{Path, PathBuf};

fn parse(text: &str) -> Result<Profile, String> {
    profile::parse(Path::new("targets/board.toml"), text).map_err(|e| e.to_string())
}

#[test]
fn the_profiles_that_ship_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".local.toml") {
            continue;
        }
        let profile = profile::read(&path).unwrap();
        assert_eq!(Some(profile.device.name.as_str()), path.file_stem().and_then(|s| s.to_str()));
        names.push(profile.device.name);
    }
    names.sort();
    let expected = [
        "generic-aarch64",
        "host",
        "jetson",
        "jetson-agx-orin",
        "jetson-orin-nano",
        "jetson-xavier-nx",
        "rk3588",
        "rpi-zero2w",
        "rpi4",
        "rpi5",
        "x86-64-v3",
    ];
    assert_eq!(names, expected);
}

/// What `cargo xtask` builds by.
#[test]
fn the_shipped_profiles_say_what_to_build_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    let device = |name: &str| profile::read(&folder.join(format!("{name}.toml"))).unwrap().device;
    let (host, jetson) = (device("host"), device("jetson"));
    assert_eq!((host.triple, host.glibc, host.cuda), (None, None, None));
    assert_eq!(jetson.triple.as_deref(), Some("aarch64-unknown-linux-gnu"));
    assert_eq!((jetson.target_cpu.as_deref(), jetson.cuda.as_deref()), (Some("cortex-a78ae"), Some("sm_87")));
}

/// What a job writes down says who gave each value, and reads back as the same profile.
#[test]
fn every_value_of_a_resolved_profile_names_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("board.toml");
    std::fs::write(
        &path,
        "[budget]\nlatency-ratio = 0.5\nmemory-mib = 9\nfloors = { cat = 0.5 }\n[search]\ngrid = 4\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("board.local.toml"), "[connect]\nkind = 'ssh'\nhost = 'pi@pi'\n").unwrap();
    let share = Ratio::new(0.8).unwrap();
    let floors = vec![("a \"dog\"\n".to_owned(), share)];
    let flags = Overrides { latency_ratio: Some(share), floors, epochs: Some(0), ..Overrides::default() };
    let mut resolved = Resolved::new(Some(&path), flags).unwrap();
    resolved.profile.device.threads = 4;
    resolved.cap_threads(2);
    let text = resolved.to_toml();
    for (line, source) in [
        ("threads = 2", "CPUs of the device"),
        ("pin = false", "default"),
        ("kind = \"ssh\"", "board.local.toml"),
        ("keep = false", "default"),
        ("latency-ratio = 0.8", "--latency-ratio"),
        ("memory-mib = 9.0", "board.toml"),
        ("[budget.floors]", "board.toml, --floor"),
        ("grid = 4", "board.toml"),
        ("seed = 0", "default"),
        ("epochs = 0", "--epochs"),
    ] {
        let found = text.lines().find(|found| found.starts_with(line)).unwrap_or_else(|| panic!("{line}:\n{text}"));
        assert_eq!(found.rsplit_once("# ").map(|(_, source)| source), Some(source), "{text}");
    }
    assert_eq!(profile::parse(Path::new("profile.toml"), &text).unwrap(), resolved.profile);
}

#[test]
fn an_empty_profile_is_all_defaults_and_named_after_its_file() {
    let mut expected = Profile::default();
    expected.device.name = "board".into();
    assert_eq!(parse("").unwrap(), expected);
}

#[test]
fn every_mistake_is_reported_at_its_place() {
    let text = r#"
[device]
thread = 4
triple = ""
target_cpu = "native"
memory-mib = 16

[conect]
kind = "local"

[budget]
latency-ms = -3
latency-ratio = "0.7"
percentile = 90
memory-mib = 64
grid = 8

[model]
imgsz = 0
batch = 80

[search]
importance = "tayler"
min-keep = 1.5
seed = -1

[finetune]
epochs = 1.5
control = "yes"
"größe" = 1

[bench]
runs = 0
"#;
    insta::assert_snapshot!(parse(text).unwrap_err(), @r#"
    targets/board.toml:3:1: unknown key `thread` in [device] (did you mean `threads`?)
    targets/board.toml:4:10: [device] `triple` is empty
    targets/board.toml:5:1: unknown key `target_cpu` in [device] (did you mean `target-cpu`?)
    targets/board.toml:8:2: unknown section or key `conect` in a profile (did you mean `connect`?)
    targets/board.toml:12:14: [budget] `latency-ms` is -3, expected milliseconds, more than 0
    targets/board.toml:13:17: [budget] `latency-ratio` is a string, expected a number
    targets/board.toml:14:14: [budget] `percentile` is 90, expected 50, 95 or 99
    targets/board.toml:15:14: [budget] `memory-mib` is 64 MiB, more than the device has (16 MiB)
    targets/board.toml:16:1: unknown key `grid` in [budget] (it belongs to [search])
    targets/board.toml:19:9: [model] `imgsz` is 0, expected an integer from 1 to 4096
    targets/board.toml:20:9: [model] `batch` is 80, expected an integer from 1 to 64
    targets/board.toml:23:14: [search] `importance` is `tayler`, expected one of reconstruction, fisher, taylor, l1, l2, bn-scale, fpgm, activation, lamp, random; did you mean `taylor`?
    targets/board.toml:24:12: [search] `min-keep` is 1.5, expected a number from 0 to 1
    targets/board.toml:25:8: [search] `seed` is -1, expected an integer from 0 to 9223372036854775807
    targets/board.toml:28:10: [finetune] `epochs` is a float, expected an integer
    targets/board.toml:29:11: [finetune] `control` is a string, expected true or false
    targets/board.toml:30:1: unknown key `größe` in [finetune] (it has epochs, lr, batch, optimizer, distill, sparsity, control, hold-out, patience, mosaic, close-mosaic, mirror, scale, translate, hsv, warmup, schedule, freeze, label-smoothing, sync-batch-norm, workers, int8-epochs)
    targets/board.toml:33:8: [bench] `runs` is 0, expected an integer from 1 to 1000000
    "#);
}

#[test]
fn all_syntax_errors_are_reported_at_their_places() {
    let text = "[budget]\nlatency-ms = = 3\n\n[bench\nruns = 3\nruns = 4\n";
    insta::assert_snapshot!(parse(text).unwrap_err(), @r"
    targets/board.toml:2:14: extra `=`, expected nothing
    targets/board.toml:2:16: unexpected key or value, expected newline, `#`
    targets/board.toml:4:7: unclosed table, expected `]`
    ");
}

/// What the parser calls things is no help to who wrote the file.
#[test]
fn syntax_errors_are_told_in_plain_words() {
    let cases = [
        ("[budget]\nparams = 3\nparams = 4\n", "targets/board.toml:3:1: `params` is given twice"),
        ("[budget]\nfloors = { a = 1, \"a\" = 2 }\n", "`a` is given twice"),
        ("[budget]\n[model]\n[budget]\n", "`budget` is given twice"),
        ("[budget]\nlatency-ratio =\n", "the value is missing, expected a number"),
        ("[bench]\nquiet = yes\n", "is `yes`, expected a number, true or false, or text in quotes"),
        ("[bench]\nquiet = tru\n", "expected true or false"),
        ("[model]\npath = \"best.pt\n", "a quote is missing"),
        ("[budget]\nlatency-ratio = 0\n", "`latency-ratio` is 0, expected a number more than 0, up to 1"),
    ];
    for (text, expected) in cases {
        let found = parse(text).unwrap_err();
        assert!(found.contains(expected), "{text}: `{expected}` is not in {found}");
        assert!(!found.contains("literal string") && !found.contains("duplicate key"), "{found}");
    }
    // A mark that some editors put in front is no mistake.
    assert_eq!(parse("\u{feff}[budget]\nparams = 3\n").unwrap().budget.params, Some(3));
}

#[test]
fn a_private_file_beside_a_profile_replaces_its_connection_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("board.toml");
    std::fs::write(&path, "[device]\nthreads = 3\n[connect]\nkind = 'qemu'").unwrap();
    let private = folder.path().join("board.local.toml");
    let read = |text: &str| {
        std::fs::write(&private, text).unwrap();
        profile::read(&path)
    };
    let profile = read("[connect]\nkind = 'ssh'\nhost = 'pi@pi'").unwrap();
    assert_eq!((profile.device.threads, profile.connect), (3, ssh("secateurs", &[], false)));
    assert_eq!(read("").unwrap().connect, Connect::Qemu);
    let refused = read("[connect]\nkind = 'ssh'\n[device]\nthreads = 4").unwrap_err().to_string();
    for part in ["board.local.toml", "`host` is missing", "unknown section or key `device`"] {
        assert!(refused.contains(part), "`{part}` is not in {refused}");
    }
}

fn ssh(folder: &str, options: &[&str], keep: bool) -> Connect {
    let options = options.iter().map(|option| option.to_string()).collect();
    Connect::Ssh { host: "pi@pi".into(), folder: folder.into(), options, keep }
}

#[test]
fn connections_ask_for_what_they_need() {
    let cases = [
        ("kind = 'local'", Ok(Connect::Local)),
        ("kind = 'qemu'", Ok(Connect::Qemu)),
        ("kind = 'ssh'\nhost = 'pi@pi'", Ok(ssh("secateurs", &[], false))),
        (
            "kind = 'ssh'\nhost = 'pi@pi'\nfolder = 'a'\noptions = ['-p', '22']\nkeep = true",
            Ok(ssh("a", &["-p", "22"], true)),
        ),
        (
            "kind = 'command'\ncommand = ['run', 'it']",
            Ok(Connect::Command { command: vec!["run".into(), "it".into()] }),
        ),
        ("kind = 'ssh'", Err("targets/board.toml: [connect] `host` is missing: kind = \"ssh\" needs it")),
        (
            "kind = 'local'\nhost = 'pi'",
            Err("targets/board.toml:3:8: [connect] `host` is only for kind = \"ssh\", not \"local\""),
        ),
    ];
    for (text, expected) in cases {
        let found = parse(&format!("[connect]\n{text}")).map(|p| p.connect);
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn paths_are_relative_to_the_profile() {
    let profile = parse("[model]\npath = '../best.pt'\n[data]\npath = '/abs/data.yaml'").unwrap();
    assert_eq!(profile.model.path, Some(PathBuf::from("targets/../best.pt")));
    assert_eq!(profile.data, Some(PathBuf::from("/abs/data.yaml")));
}

#[test]
fn flags_win_and_a_latency_flag_replaces_both_kinds() {
    let profile = parse("[budget]\nlatency-ratio = 0.5\nmemory-mib = 9\n[finetune]\nepochs = 3").unwrap();
    let flags = Overrides { latency: Some(Millis::new(4.0).unwrap()), epochs: Some(0), ..Overrides::default() };
    let both = flags.apply(profile.clone());
    assert_eq!((both.budget.latency.unwrap().get(), both.budget.latency_ratio), (4.0, None));
    assert_eq!(both.finetune.epochs, 0);
    assert_eq!(both.budget.memory, profile.budget.memory);
    assert_eq!(Overrides::default().apply(profile.clone()), profile);
}

#[test]
fn units_refuse_what_they_cannot_be() {
    assert!("1.0".parse::<Ratio>().is_ok());
    for text in ["1.01", "-0.1", "nan", "a"] {
        assert!(text.parse::<Ratio>().is_err(), "{text}");
    }
    for value in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        assert!(Millis::new(value).is_err(), "{value}");
    }
}

#[test]
fn one_image_size_or_several() {
    let sizes = |text: &str| parse(text).map(|p| (p.model.imgsz, p.model.sizes)).map_err(|e| e.to_string());
    let (square, wide, small) = (ImageSize::square, ImageSize { height: 384, width: 640 }, [320, 544].into());
    assert_eq!(sizes("[model]\nimgsz = 320"), Ok((Some(square(320)), vec![square(320)])));
    assert_eq!(sizes("[model]\nimgsz = [384, 640]"), Ok((Some(wide), vec![wide])));
    let several = sizes("[model]\nsizes = [[384, 640], [320, 544], 320]");
    assert_eq!(several, Ok((Some(wide), vec![wide, small, square(320)])));
    assert_eq!(sizes("[model]\nsizes = [640]"), Ok((Some(square(640)), vec![square(640)])));
    assert_eq!(sizes(""), Ok((None, vec![])));
    // The way out of a list that is no height and width stands in the error.
    let several =
        "expected one side of a square or [height, width]; sizes to choose from are `sizes = [[384, 640], 320]`";
    for (text, expected) in [
        ("imgsz = []", several),
        ("imgsz = [640]", several),
        ("imgsz = [640, 512, 416]", several),
        ("imgsz = [[384, 640], 320]", several),
        ("imgsz = [640, 0]", "`imgsz` is 0"),
        ("imgsz = [640, \"a\"]", "expected an integer, or [height, width]"),
        ("imgsz = \"640\"", "expected an integer, or [height, width]"),
        ("sizes = []", "`sizes` is empty"),
        ("sizes = 320", "expected a list of sizes, such as [[384, 640], 320]; a single one is `imgsz`"),
        ("sizes = [[384, 640, 3]]", "is a list of 3, expected one side of a square or [height, width]"),
        ("sizes = [[384, 4097]]", "is 4097, expected an integer from 1 to 4096"),
        ("imgsz = 320\nsizes = [320]", "`sizes` stands beside `imgsz`, expected one of them"),
    ] {
        let error = sizes(&format!("[model]\n{text}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let model = ModelFlags { imgsz: Some(wide), ..ModelFlags::default() };
    let one = Overrides { model, ..Overrides::default() };
    let profile = one.apply(parse("[model]\nsizes = [640, 512]").unwrap());
    assert_eq!((profile.model.imgsz, profile.model.sizes), (Some(wide), vec![wide]));
}

#[test]
fn floors_have_names_of_the_users_choice() {
    let profile = parse("[budget]\nfloors = { person = 0.95, \"stop sign\" = 1 }\n").unwrap();
    let floors: Vec<(&str, f64)> = profile.budget.floors.iter().map(|(name, r)| (name.as_str(), r.get())).collect();
    assert_eq!(floors, [("person", 0.95), ("stop sign", 1.0)]);
    let problems = parse("[budget]\nfloors = { person = 1.5 }\n").unwrap_err();
    assert!(problems.contains("targets/board.toml:2:10") && problems.contains("of `person`"), "{problems}");
    assert!(parse("floors = { person = 0.5 }").unwrap_err().contains("it belongs to [budget]"));
    // A flag wins over the profile, class by class.
    let flag = Overrides { floors: vec![("person".into(), Ratio::new(0.5).unwrap())], ..Overrides::default() };
    let applied = flag.apply(profile).budget.floors;
    assert_eq!((applied["person"].get(), applied["stop sign"].get()), (0.5, 1.0));
}

#[test]
fn the_architecture_of_a_gpu_is_checked() {
    let read = |arch: &str| {
        profile::parse(Path::new("board.toml"), &format!("[device]\ncuda = \"{arch}\"\n[budget]\nlatency-ratio = 0.5"))
    };
    for arch in ["sm_80", "sm_87", "sm_90a", "sm_100"] {
        assert_eq!(read(arch).unwrap().device.cuda.as_deref(), Some(arch));
    }
    for arch in ["87", "sm87", "sm_8", "sm_87ab", "sm_", "sm_87 -o x", "compute_87"] {
        let refused = read(arch).unwrap_err().to_string();
        assert!(refused.contains("board.toml:2:8: [device] `cuda` is") && refused.contains("sm_87"), "{refused}");
    }
    let refused = read("sm_72").unwrap_err().to_string();
    let reason = "`cuda` is `sm_72`, but the CUDA engine needs instructions of Ampere: sm_80, sm_87 or newer";
    assert!(refused.contains(reason), "{refused}");
}

#[test]
fn a_megabyte_of_mistakes_is_told_in_part_and_at_once() {
    let text = "x = \n".repeat(200_000);
    let error = profile::parse(Path::new("board.toml"), &text).unwrap_err();
    assert_eq!(error.problems().len(), 200);
    assert_eq!(error.problems()[0].line, 1);
}
