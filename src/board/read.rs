//! Reads what Linux tells of the machine: sysfs, procfs, the device tree.

use super::{Board, State};
use crate::kernels::{Isa, available, computes_f16};
use std::fs;
use std::path::{Path, PathBuf};

/// The largest file that is read: those of sysfs are a page.
const MAX: u64 = 1 << 20;

/// Milliseconds per tick of `/proc/stat`: `USER_HZ` is 100 on every architecture that we build for.
const TICK_MS: f64 = 10.0;

const CPUS: &str = "sys/devices/system/cpu";

pub(super) fn board(root: &Path) -> Board {
    let arch = std::env::consts::ARCH;
    Board {
        model: model(root).unwrap_or_else(|| arch.into()),
        arch: arch.into(),
        cores: text(&root.join(CPUS).join("online")).unwrap_or_else(|| "unknown".into()),
        governor: governor(root),
        power_mode: power_mode(root),
        kernel: text(&root.join("proc/sys/kernel/osrelease")),
        gpu: None,
        rails: None,
        computes_f16: computes_f16(Isa::detect()),
        available: Some(available()),
        runtime: env!("CARGO_PKG_VERSION").into(),
        emulated: emulated(root, arch),
    }
}

pub(super) fn state(root: &Path) -> State {
    let zones: Vec<PathBuf> = folders(&root.join("sys/class/thermal"), "thermal_zone");
    let degrees = |path: &Path| number(path).map(|milli| milli / 1000.0);
    let temperatures = zones.iter().filter_map(|zone| degrees(&zone.join("temp")));
    let headrooms = zones.iter().filter_map(|zone| Some(passive_trip(zone)? - degrees(&zone.join("temp"))?));
    let fastest = folders(&root.join(CPUS), "cpu").into_iter().filter_map(|cpu| {
        let folder = cpu.join("cpufreq");
        let now = number(&folder.join("scaling_cur_freq"))? / 1000.0;
        // Where a CPU has a base frequency, the maximum is that of one core for a moment.
        let most = number(&folder.join("base_frequency")).or_else(|| number(&folder.join("cpuinfo_max_freq")));
        Some((now, most.map(|khz| khz / 1000.0)))
    });
    let fastest = fastest.max_by(|a, b| a.0.total_cmp(&b.0));
    State {
        temperature_c: temperatures.max_by(f64::total_cmp),
        headroom_c: headrooms.min_by(f64::total_cmp),
        mhz: fastest.map(|(now, _)| now),
        max_mhz: fastest.and_then(|(_, most)| most),
        pi_throttled: pi_throttled(root),
        throttle_events: throttle_events(root),
        cooling: cooling(root),
        governor: governor(root),
        power_mode: power_mode(root),
        cores: text(&root.join(CPUS).join("online")),
        busy_ms: busy_ms(root),
    }
}

/// The name of the board (device tree) or of the CPU.
fn model(root: &Path) -> Option<String> {
    if let Some(name) = text(&root.join("proc/device-tree/model")) {
        return Some(name);
    }
    let info = text(&root.join("proc/cpuinfo"))?;
    let line = info.lines().find(|l| l.starts_with("model name") || l.starts_with("Model"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Whether the kernel is of another architecture than this program. User-mode emulation passes files through, so they
/// describe the machine beneath: one of x86 has microcode, one of ARM identification registers.
fn emulated(root: &Path, arch: &str) -> bool {
    let cpu = root.join(CPUS).join("cpu0");
    let info = text(&root.join("proc/cpuinfo")).unwrap_or_default();
    let x86 = cpu.join("microcode").exists() || info.lines().any(|line| line.starts_with("vendor_id"));
    let arm = cpu.join("regs/identification").exists() || info.lines().any(|line| line.starts_with("CPU implementer"));
    match arch {
        "x86_64" | "x86" => arm && !x86,
        _ => x86,
    }
}

fn governor(root: &Path) -> Option<String> {
    text(&root.join(CPUS).join("cpu0/cpufreq/scaling_governor"))
}

/// What `nvpmodel` keeps: `pmode:0002`.
fn power_mode(root: &Path) -> Option<String> {
    let status = text(&root.join("var/lib/nvpmodel/status"))?;
    Some(status.rsplit(':').next().unwrap_or(&status).trim().to_owned())
}

fn pi_throttled(root: &Path) -> Option<u32> {
    let platform = root.join("sys/devices/platform");
    let parents = [platform.join("soc")].into_iter().chain(folders(&platform, "soc"));
    let firmware = parents.flat_map(|parent| folders(&parent, "soc"));
    let path = firmware.map(|folder| folder.join("get_throttled")).find(|path| path.exists())?;
    u32::from_str_radix(text(&path)?.trim_start_matches("0x"), 16).ok()
}

/// Counters of throttling: over-current events of Jetson, thermal events of Intel.
fn throttle_events(root: &Path) -> Option<u64> {
    let hwmon = folders(&root.join("sys/class/hwmon"), "hwmon");
    let over_current = hwmon.iter().flat_map(|folder| files(folder, "oc", "_event_cnt"));
    let cpus = folders(&root.join(CPUS), "cpu");
    let thermal = cpus.iter().flat_map(|cpu| files(&cpu.join("thermal_throttle"), "", "_throttle_count"));
    let counts: Vec<u64> = over_current.chain(thermal).filter_map(|path| text(&path)?.parse().ok()).collect();
    (!counts.is_empty()).then(|| counts.iter().fold(0u64, |sum, n| sum.saturating_add(*n)))
}

/// The states of cooling devices that slow CPUs down; fans do not.
fn cooling(root: &Path) -> Option<u64> {
    let slows = |folder: &PathBuf| {
        let kind = text(&folder.join("type")).unwrap_or_default().to_lowercase();
        ["cpu", "processor", "throttle"].iter().any(|name| kind.contains(name))
    };
    let devices = folders(&root.join("sys/class/thermal"), "cooling_device").into_iter().filter(slows);
    let states: Vec<u64> = devices.filter_map(|folder| text(&folder.join("cur_state"))?.parse().ok()).collect();
    (!states.is_empty()).then(|| states.iter().fold(0u64, |sum, n| sum.saturating_add(*n)))
}

/// The temperature at which a zone begins to slow something down.
fn passive_trip(zone: &Path) -> Option<f64> {
    let kinds = files(zone, "trip_point_", "_type");
    let passive = kinds.into_iter().filter(|path| text(path).as_deref() == Some("passive"));
    let trips = passive.filter_map(|path| {
        let temp = path.to_string_lossy().replace("_type", "_temp");
        number(Path::new(&temp)).map(|milli| milli / 1000.0)
    });
    // Boards without a real trip point say 0 or less.
    trips.filter(|degrees| *degrees > 1.0).min_by(f64::total_cmp)
}

/// `MemTotal:       24576000 kB`.
pub(super) fn total_memory(root: &Path) -> Option<f64> {
    let info = text(&root.join("proc/meminfo"))?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// Busy time of all CPUs, and what other tenants of the machine took (steal).
fn busy_ms(root: &Path) -> Option<f64> {
    let stat = text(&root.join("proc/stat"))?;
    let ticks: Vec<f64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum::<f64>();
    (ticks.len() >= 4).then_some(busy * TICK_MS)
}

pub(super) fn text(path: &Path) -> Option<String> {
    let bytes = crate::files::read(path, MAX).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn number(path: &Path) -> Option<f64> {
    text(path)?.parse().ok().filter(|n: &f64| n.is_finite())
}

/// The folders `prefix0`, `prefix1`, ... in their order; for `soc` also `soc:firmware`.
pub(super) fn folders(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let rest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(prefix));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == ':' || c == '@'))
    };
    sorted(parent, named)
}

fn files(folder: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
    };
    sorted(folder, named)
}

fn sorted(folder: &Path, named: impl Fn(&PathBuf) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(named).collect();
    paths.sort();
    paths
}
