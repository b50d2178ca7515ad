//! The idle check of a measurement on a device: machines that are throttled or busy, told by files as Linux
//! writes them, and a session that must not be fooled by any.

use secateurs::bench::{Distribution, Recording, Samples, Window};
use secateurs::board::{Board, State};
use secateurs::session::{Unsteady, collect};
use std::fs;
use std::path::Path;

/// Files below the root of a machine.
type Files = &'static [(&'static str, &'static str)];

const PI_WORD: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";
const JETSON_EVENTS: &str = "sys/class/hwmon/hwmon1/oc1_event_cnt";

/// A board that does nothing but measure.
const PI: Files = &[
    ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
    ("proc/stat", "cpu  1000 0 100 90000 0 0 0 0 0 0\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "2400000\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    (PI_WORD, "0\n"),
    ("sys/class/thermal/thermal_zone0/temp", "61000\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "80000\n"),
    ("sys/class/thermal/cooling_device0/type", "pwm-fan\n"),
    ("sys/class/thermal/cooling_device0/cur_state", "3\n"),
];

const JETSON: Files = &[
    ("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0"),
    ("proc/stat", "cpu  5000 0 100 90000 0 0 0 0 0 0\n"),
    ("sys/devices/system/cpu/online", "0-5\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1510400\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1510400\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n"),
    ("var/lib/nvpmodel/status", "pmode:0000"),
    (JETSON_EVENTS, "7\n"),
    ("sys/class/thermal/thermal_zone0/temp", "52000\n"),
    ("sys/class/thermal/cooling_device1/type", "cpu-throttle-alert\n"),
    ("sys/class/thermal/cooling_device1/cur_state", "0\n"),
];

/// A server, which tells little.
const PC: Files = &[
    ("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some Xeon\n"),
    ("proc/stat", "cpu  1000 0 100 90000 0 0 0 0 0 0\n"),
    ("sys/devices/system/cpu/online", "0-1\n"),
    ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "4\n"),
];

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Frames of a steady machine: 10 ms with a little jitter, 100 of them.
fn steady() -> Vec<f64> {
    (0..100).map(|i| 10.0 + 0.1 * f64::from(i * 37 % 10)).collect()
}

/// A window on a machine, with some files changed in the middle of it. The machine's own clock of busy time goes on
/// by what the measuring process takes.
fn window(machine: Files, middle: Files, end: Files, wall: Vec<f64>) -> Window {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, machine);
    let elapsed_ms: f64 = wall.iter().sum();
    let mut states = vec![State::read(root)];
    let busy = |name: &str| machine.iter().find(|(path, _)| *path == name).map(|(_, text)| *text).unwrap_or_default();
    let first: u64 = busy("proc/stat").split_whitespace().nth(1).unwrap().parse().unwrap();
    let stat = format!("cpu  {} 0 100 90000 0 0 0 0 0 0\n", first + (elapsed_ms / 10.0) as u64);
    write(root, &[("proc/stat", &stat)]);
    write(root, middle);
    states.push(State::read(root));
    write(root, end);
    states.push(State::read(root));
    let cpu = wall.clone();
    Window {
        board: Board::read(root),
        states,
        elapsed_ms,
        own_cpu_ms: elapsed_ms,
        network: Recording { peak_memory_bytes: 1, samples: Samples { wall, cpu }, energy_mj: vec![] },
        against: None,
        peak_resident_bytes: None,
        rails: None,
        phases: None,
    }
}

/// A session that only ever sees the same window.
fn session(window: &Window, require_idle: bool) -> Result<usize, Unsteady> {
    let mut taken = 0;
    let collected = collect(300, 100, Some(require_idle), &mut |_| -> Result<Window, Unsteady> {
        taken += 1;
        assert!(taken <= 9, "the session does not end");
        Ok(window.clone())
    });
    if let Err(unsteady) = &collected {
        assert_eq!((taken, unsteady.tries), (3, 3));
    }
    collected.map(|collected| collected.network.samples.wall.len())
}

#[test]
fn windows_of_idle_machines_count() {
    // Raised before, and not since: what happened before the window is no matter of the window.
    let past = [(PI_WORD, "0x50000\n")].map(|(path, text)| (path, text));
    let mut pi_with_a_past = PI.to_vec();
    pi_with_a_past.retain(|(path, _)| *path != PI_WORD);
    pi_with_a_past.extend(past);
    let pi_with_a_past: Files = pi_with_a_past.leak();
    for machine in [PI, JETSON, PC, pi_with_a_past] {
        assert_eq!(session(&window(machine, &[], &[], steady()), true), Ok(300), "{machine:?}");
    }
    // Other load is allowed where only shares are claimed.
    let busy = window(PC, &[], &[("proc/stat", "cpu  1900 0 100 90000 0 0 0 0 0 0\n")], steady());
    assert_eq!(session(&busy, false), Ok(300));
}

#[test]
fn windows_of_throttled_or_busy_machines_do_not_count() {
    const FREQUENCY: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq";
    let cases: Vec<(&str, Files, Files, Files, Vec<f64>)> = vec![
        ("under-voltage", PI, &[(PI_WORD, "0x50001\n")], &[(PI_WORD, "0x50000\n")], steady()),
        ("frequency is capped", PI, &[], &[(PI_WORD, "0x20002\n")], steady()),
        ("throttled", PI, &[(PI_WORD, "0x40004\n")], &[], steady()),
        ("soft temperature limit", PI, &[], &[(PI_WORD, "0x80008\n")], steady()),
        ("was for a moment: under-voltage", PI, &[], &[(PI_WORD, "0x10000\n")], steady()),
        ("85 degrees", PI, &[("sys/class/thermal/thermal_zone0/temp", "85000\n")], &[], steady()),
        ("1500 MHz of 2400 MHz", PI, &[(FREQUENCY, "1500000\n")], &[(FREQUENCY, "2400000\n")], steady()),
        ("the clock fell from 1510 MHz", JETSON, &[], &[(FREQUENCY, "1420000\n")], steady()),
        ("throttling events", JETSON, &[], &[(JETSON_EVENTS, "8\n")], steady()),
        ("against heat", JETSON, &[("sys/class/thermal/cooling_device1/cur_state", "2\n")], &[], steady()),
        ("power mode changed from 0000 to 0001", JETSON, &[], &[("var/lib/nvpmodel/status", "pmode:0001")], steady()),
        (
            "governor changed from schedutil to powersave",
            JETSON,
            &[],
            &[("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")],
            steady(),
        ),
        ("set of CPUs changed", JETSON, &[], &[("sys/devices/system/cpu/online", "0-3\n")], steady()),
        (
            "throttling events",
            PC,
            &[],
            &[("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "5\n")],
            steady(),
        ),
        ("other programs took", PC, &[], &[("proc/stat", "cpu  1140 0 100 90000 0 0 0 0 0 0\n")], steady()),
        ("other programs took", PC, &[], &[("proc/stat", "cpu  1104 0 100 90000 0 0 0 40 0 0\n")], steady()),
        ("no frames", PI, &[], &[], vec![]),
    ];
    assert!(cases.len() >= 12);
    for (expected, machine, middle, end, wall) in cases {
        let refused = session(&window(machine, middle, end, wall), true).expect_err(expected).to_string();
        assert!(refused.contains(expected), "`{expected}` is not in: {refused}");
    }
}

/// Frames are never discarded for being slow, or for getting slower: with them the bound says what users will see.
#[test]
fn slow_frames_alone_discard_no_window() {
    let slower = |slow: &dyn Fn(usize) -> bool| {
        let wall = steady().into_iter().enumerate().map(|(i, ms)| if slow(i) { ms * 1.6 } else { ms });
        window(PI, &[], &[], wall.collect())
    };
    for window in [slower(&|i| i % 10 == 0), slower(&|i| i >= 50), slower(&|i| i == 99)] {
        assert_eq!(session(&window, true), Ok(300));
    }
    // One frame in ten is slow: so is the 95th percentile, and its bound.
    let stalls = slower(&|i| i % 10 == 0);
    let collected =
        collect(1000, 100, Some(true), &mut |_| -> Result<Window, Unsteady> { Ok(stalls.clone()) }).unwrap();
    let samples = &collected.network.samples;
    let found = Distribution::of(&samples.wall, &samples.cpu);
    assert!(found.p95_ms >= 16.0 && found.p95_bound_ms.is_none_or(|ms| ms >= 16.0), "{found:?}");
}

/// One bad window costs itself; its frames are in no figure but that of all windows.
#[test]
fn a_discarded_window_is_taken_again() {
    let good = window(PI, &[], &[], steady());
    let bad = window(PI, &[(PI_WORD, "0x40004\n")], &[], vec![99.0; 100]);
    let mut turn = 0;
    let collected = collect(300, 100, Some(true), &mut |_| -> Result<Window, Unsteady> {
        turn += 1;
        Ok(if turn % 3 == 0 { good.clone() } else { bad.clone() })
    });
    let collected = collected.unwrap();
    assert_eq!((turn, collected.windows.len(), collected.discarded.len()), (9, 3, 6));
    assert!(collected.network.samples.wall.iter().all(|ms| *ms < 20.0));
    let all = &collected.everything.samples.wall;
    assert_eq!((all.len(), all.iter().filter(|ms| **ms == 99.0).count()), (900, 600));
}

#[test]
fn what_a_machine_tells_is_read_and_nothing_is_guessed() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(State::read(folder.path()), State::default());
    write(folder.path(), PI);
    let state = State::read(folder.path());
    assert_eq!((state.temperature_c, state.headroom_c), (Some(61.0), Some(19.0)));
    assert_eq!((state.mhz, state.max_mhz, state.pi_throttled), (Some(2400.0), Some(2400.0), Some(0)));
    // A fan is no throttling, and the busy time is in milliseconds.
    assert_eq!((state.cooling, state.busy_ms), (None, Some(11000.0)));
    assert_eq!(Board::read(folder.path()).model, "Raspberry Pi 5 Model B Rev 1.0");
    // Files that hold something else are as good as not there.
    write(
        folder.path(),
        &[(PI_WORD, "zz\n"), ("proc/stat", "intr 5\n"), ("sys/class/thermal/thermal_zone0/temp", "x")],
    );
    let state = State::read(folder.path());
    assert_eq!((state.pi_throttled, state.busy_ms, state.temperature_c), (None, None, None));
}
