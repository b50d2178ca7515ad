//! Energy per frame: machines told by files as Linux writes them, from their rails to the verdict.

use crate::report::{distribution, sample};
use secateurs::bench::{Energy, PairedEnergy, Recording, Samples, Window, energy};
use secateurs::board::{Board, Rails, Reading, State};
use secateurs::model;
use secateurs::pipeline::{self, PairedLatency};
use secateurs::profile::{Connect, Profile};
use secateurs::report::{Budget, Report};
use secateurs::session::{Frames, Session, Unsteady, collect};
use std::convert::Infallible;
use std::fs;
use std::path::Path;

const HWMON: &str = "sys/class/hwmon/hwmon3";
const PACKAGE: &str = "sys/class/powercap/intel-rapl:0";

fn write(root: &Path, files: &[(String, String)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// An INA3221 with its channels: name, millivolts, milliamperes.
fn ina3221(folder: &str, channels: &[(&str, i64, i64)]) -> Vec<(String, String)> {
    let mut files = vec![(format!("{folder}/name"), "ina3221\n".to_owned())];
    for (at, (label, volts, amperes)) in channels.iter().enumerate() {
        let channel = at + 1;
        files.push((format!("{folder}/in{channel}_label"), format!("{label}\n")));
        files.push((format!("{folder}/in{channel}_input"), format!("{volts}\n")));
        files.push((format!("{folder}/curr{channel}_input"), format!("{amperes}\n")));
    }
    // What the chip shows besides: the sum of its shunts.
    files.push((format!("{folder}/in7_label"), "sum of shunt voltages\n".to_owned()));
    files
}

/// A zone of RAPL.
fn zone(folder: &str, name: &str, microjoules: u64, range: u64) -> Vec<(String, String)> {
    let file = |file: &str, text: String| (format!("{folder}/{file}"), text + "\n");
    vec![
        file("name", name.into()),
        file("energy_uj", microjoules.to_string()),
        file("max_energy_range_uj", range.to_string()),
    ]
}

fn machine(parts: &[Vec<(String, String)>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    parts.iter().for_each(|files| write(folder.path(), files));
    folder
}

fn watts(root: &Path) -> Option<(String, f64)> {
    let rails = Rails::find(root)?;
    match rails.read()? {
        Reading::Watts(watts) => Some((rails.names(), watts)),
        Reading::Microjoules(_) => None,
    }
}

/// Scenarios 1 and 2: rails are there, and each counts once. The input of an Orin Nano holds what its other rails draw;
/// an AGX Orin has none for all of it, and one that is a part of another; a rail that two chips name is one rail.
#[test]
fn every_rail_counts_once() {
    let nano = machine(&[
        ina3221(HWMON, &[("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 900), ("VDD_SOC", 5000, 300)]),
        vec![("sys/class/hwmon/hwmon0/name".into(), "tmp451\n".into())],
    ]);
    assert_eq!(watts(nano.path()), Some(("VDD_IN".into(), 10.0)));
    assert_eq!(Board::read(nano.path()).rails.as_deref(), Some("VDD_IN"));
    let agx = machine(&[
        ina3221(HWMON, &[("VDD_GPU_SOC", 20_000, 400), ("VDD_CPU_CV", 20_000, 100), ("VIN_SYS_5V0", 5000, 800)]),
        ina3221("sys/class/hwmon/hwmon4", &[("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 300), ("VDD_CPU_CV", 20_000, 100)]),
    ]);
    let (names, all) = watts(agx.path()).unwrap();
    assert_eq!((names.as_str(), all), ("VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0", 14.0));
    // Of a package the cores are a part, of `psys` the package; memory is none of either.
    let pc = machine(&[
        zone(PACKAGE, "package-0", 1000, 9_999_999),
        zone(&format!("{PACKAGE}:0"), "core", 900, 9_999_999),
        zone(&format!("{PACKAGE}:1"), "dram", 500, 9_999_999),
        zone("sys/class/powercap/intel-rapl:1", "psys", 5000, 9_999_999),
    ]);
    let rails = Rails::find(pc.path()).unwrap();
    assert_eq!(rails.names(), "package-0 + dram");
    assert_eq!(rails.read(), Some(Reading::Microjoules(vec![1000.0, 500.0])));
}

/// Scenario 3: no rails, no figure.
#[test]
fn without_rails_there_is_no_figure() {
    let bare = machine(&[vec![("sys/class/hwmon/hwmon0/name".into(), "coretemp\n".into())]]);
    assert_eq!((Rails::find(bare.path()), Board::read(bare.path()).rails), (None, None));
    assert_eq!(Rails::find(Path::new("/nowhere")), None);
    // Zones of RAPL are there for everyone to see, but only root may read them.
    let locked = machine(&[zone(PACKAGE, "package-0", 1, 10)]);
    fs::remove_file(locked.path().join(PACKAGE).join("energy_uj")).unwrap();
    assert_eq!(Rails::find(locked.path()), None);
}

/// Scenario 4: counters begin again at 0.
#[test]
fn a_counter_that_begins_again_is_followed() {
    let pc = machine(&[zone(PACKAGE, "package-0", 262_143_000_000, 262_143_328_850)]);
    let rails = Rails::find(pc.path()).unwrap();
    let first = rails.read();
    let drawn = |microjoules: u64| {
        write(pc.path(), &zone(PACKAGE, "package-0", microjoules, 262_143_328_850));
        rails.millijoules(&[first.clone(), rails.read()], 100.0)
    };
    assert_eq!(drawn(262_143_100_000), Some(100.0));
    // 328.850 mJ and the step to 0, then 171.149.
    assert_eq!(drawn(171_149), Some(500.0));
    // Nothing was drawn: that is no measurement.
    assert_eq!(drawn(262_143_000_000), None);
}

/// Scenario 5: what cannot be read, and what no machine says.
#[test]
fn values_that_no_machine_draws_give_no_figure() {
    let cases = ["", "x", "-5000", "nan", "inf", "1e300", "99999999999", "5000 mA"];
    for text in cases {
        let board = machine(&[ina3221(HWMON, &[("VDD_IN", 5000, 2000)])]);
        let rails = Rails::find(board.path()).unwrap();
        fs::write(board.path().join(HWMON).join("curr1_input"), text).unwrap();
        assert_eq!(rails.read(), None, "{text:?}");
        assert_eq!(Rails::find(board.path()), None, "{text:?}");
        let pc = machine(&[zone(PACKAGE, "package-0", 5, 1000)]);
        let rails = Rails::find(pc.path()).unwrap();
        fs::write(pc.path().join(PACKAGE).join("energy_uj"), text).unwrap();
        assert_eq!(rails.read(), None, "{text:?}");
    }
    // A counter without a possible range, and names that are none.
    let odd = machine(&[
        zone(PACKAGE, "package-0", 5, 0),
        zone("sys/class/powercap/intel-rapl:1", "package-\u{1b}[2J", 5, 9),
    ]);
    assert_eq!(Rails::find(odd.path()), None);
    let long = "V".repeat(1000);
    assert_eq!(Rails::find(machine(&[ina3221(HWMON, &[(&long, 5000, 2000), ("A\tB", 5000, 1)])]).path()), None);
    // A thousand joules in a millisecond.
    let rails = Rails::find(machine(&[zone(PACKAGE, "package-0", 5, u64::MAX / 100)]).path());
    let reading = |uj: f64| Some(Reading::Microjoules(vec![uj]));
    assert_eq!(rails.unwrap().millijoules(&[reading(0.0), reading(1e9)], 1.0), None);
    assert_eq!((Energy::of(&[]), Energy::of(&[1.0, f64::NAN]), Energy::of(&[1.0, -1.0])), (None, None, None));
}

/// Blocks of two networks on a machine that draws 8 W: the one that takes twice as long takes twice the energy.
/// Scenario 6: a rail that disappears meanwhile leaves no figure.
#[test]
fn blocks_of_frames_are_measured_until_a_rail_disappears() {
    let board = machine(&[ina3221(HWMON, &[("VDD_IN", 5000, 1600)])]);
    let rails = Rails::find(board.path()).unwrap();
    let sleep = |ms: u64| std::thread::sleep(std::time::Duration::from_millis(ms));
    let mut short = || -> Result<(), Infallible> {
        sleep(10);
        Ok(())
    };
    let mut long = || -> Result<(), Infallible> {
        sleep(20);
        Ok(())
    };
    let blocks = energy(&rails, &mut [&mut short, &mut long]).unwrap().unwrap();
    let [a, b] = [&blocks[0], &blocks[1]].map(|blocks| Energy::of(blocks).unwrap());
    // At least the time slept; other load can only make it more.
    assert!(a.blocks == 4 && a.least_mj >= 80.0 && b.least_mj >= 160.0 && b.p50_mj > a.p50_mj, "{a:?}, {b:?}");
    assert!(a.least_mj <= a.p50_mj && a.p50_mj <= a.most_mj && a.judged_mj() >= a.p50_mj);
    let mut frames = 0;
    let mut vanishing = || -> Result<(), Infallible> {
        frames += 1;
        if frames == 40 {
            fs::remove_file(board.path().join(HWMON).join("curr1_input")).unwrap();
        }
        sleep(5);
        Ok(())
    };
    assert_eq!(energy(&rails, &mut [&mut vanishing]).unwrap(), None);
}

fn judged(budget: f64, energy: Option<PairedEnergy>) -> (bool, String) {
    let report =
        Report { budget: Budget { energy_mj: Some(budget), percentile: 95, ..Budget::default() }, ..sample(false) };
    let pair = PairedLatency {
        baseline: distribution(20.0),
        pruned: distribution(10.0),
        ratio: 0.5,
        ratio_bound: None,
        all_windows: None,
        energy,
    };
    let verdict = pipeline::judge(&report, &pair);
    let found = verdict.sentences.iter().find(|sentence| sentence.contains("mJ")).cloned();
    (verdict.latency_ok, found.unwrap_or_default())
}

/// The verdict rests on the bound, where there is one; without rails nothing holds, and simulated nothing is claimed.
#[test]
fn a_budget_of_energy_is_judged_by_what_was_measured() {
    let of = |p50_mj: f64, bound: Option<f64>| Energy {
        p50_mj,
        p50_bound_mj: bound,
        least_mj: 29.0,
        most_mj: 34.0,
        blocks: 40,
    };
    let paired = |bound| PairedEnergy { rails: "VDD_IN".into(), baseline: of(60.0, None), pruned: of(30.0, bound) };
    let cases = [
        (31.0, None, true, "30.00 mJ per frame (29.00 to 34.00 in 40 blocks of VDD_IN) of 31.00 mJ: holds"),
        (
            31.0,
            Some(31.5),
            false,
            "31.50 mJ per frame with 95 % confidence (29.00 to 34.00 in 40 blocks of VDD_IN) of 31.00 mJ: is missed",
        ),
        (32.0, Some(31.5), true, "of 32.00 mJ: holds"),
    ];
    for (budget, bound, holds, expected) in cases {
        let (ok, sentence) = judged(budget, Some(paired(bound)));
        assert!(ok == holds && sentence.contains(expected), "{sentence}");
    }
    let (ok, sentence) = judged(31.0, None);
    assert!(
        !ok && sentence == "energy: no power rails could be read, at most 31.00 mJ per frame: is missed",
        "{sentence}"
    );
    let report = Report { budget: Budget { energy_mj: Some(1.0), ..Budget::default() }, ..sample(false) };
    let simulated = pipeline::judge_simulated(&report, "emulated");
    assert!(simulated.latency_ok && simulated.simulated.is_some());
    assert_eq!(simulated.sentences[0], "energy: not measured on the device (emulated), nothing is claimed");
}

/// Blocks of all windows come together, in their order.
#[test]
fn the_blocks_of_all_windows_count() {
    let mut at = 0.0;
    let collected = collect(200, 100, None, &mut |runs| -> Result<Window, Unsteady> {
        at += 1.0;
        let recording = |mj: f64| Recording {
            peak_memory_bytes: 1,
            samples: Samples { wall: vec![1.0; runs], cpu: vec![1.0; runs] },
            energy_mj: vec![mj, mj + 0.5],
        };
        Ok(Window {
            board: Board::default(),
            states: vec![State::default()],
            elapsed_ms: 1.0,
            own_cpu_ms: 1.0,
            network: recording(at),
            against: Some(recording(10.0 * at)),
            peak_resident_bytes: None,
            rails: Some("VDD_IN".into()),
            phases: None,
        })
    });
    let collected = collected.unwrap();
    assert_eq!(collected.network.energy_mj, [1.0, 1.5, 2.0, 2.5]);
    assert_eq!(collected.against.energy_mj, [10.0, 10.5, 20.0, 20.5]);
}

/// Through a connection: the device's own program reads the rails there. Where the device is not the profile's, the same
/// frames claim nothing.
#[cfg(unix)]
#[test]
fn a_session_measures_the_energy_of_its_device() {
    use std::os::unix::fs::PermissionsExt;
    let board = machine(&[
        ina3221(HWMON, &[("VDD_IN", 5000, 2000), ("VDD_SOC", 5000, 300)]),
        vec![("proc/device-tree/model".into(), "Some Board\0".into())],
    ]);
    let folder = tempfile::tempdir().unwrap();
    let (network, script) = (folder.path().join("small.safetensors"), folder.path().join("on-board"));
    model::save(&crate::cli::small_model(), &network).unwrap();
    fs::write(&script, format!("#!/bin/sh\nexec \"$@\" --root '{}'\n", board.path().display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let connect = Connect::Command { command: vec![script.to_string_lossy().into_owned()] };
    let mut profile = Profile { connect, ..Profile::default() };
    profile.bench.require_idle = false;
    let infer = Path::new(env!("CARGO_BIN_EXE_secateurs-infer"));
    let frames = Frames { imgsz: 32.into(), batch: 1, warmup: 1, runs: 150, phases: false, percentile: None };
    let measure = |profile: &Profile| {
        let session = Session::open(profile, infer).unwrap();
        assert_eq!(session.board().rails.as_deref(), Some("VDD_IN"));
        session.measure_paired(Some(&network), &network, &frames, &mut |_, _| ()).unwrap()
    };
    let record = measure(&profile);
    let found = PairedLatency::of_record(&record).unwrap().energy.unwrap();
    // Two windows of four blocks, at 10 W: a frame takes at least the time of its network.
    assert_eq!((found.rails.as_str(), found.pruned.blocks, found.baseline.blocks), ("VDD_IN", 8, 8));
    assert!(found.pruned.p50_mj > 5.0 * record.measured.latency.p50_ms, "{found:?}, {:?}", record.measured.latency);
    profile.device.board = Some("Another Board".into());
    let elsewhere = measure(&profile);
    assert!(elsewhere.simulated.is_some() && elsewhere.measured.energy.is_none() && elsewhere.measured.rails.is_none());
}
