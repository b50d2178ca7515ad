//! What a machine draws: the rails of an INA3221 through hwmon (Jetsons), the energy counters of RAPL through powercap
//! (x86). Every rail counts once: the rail of the whole input stands alone, and parts of a counted rail do not count.
//!
//! Sources: the kernel's `hwmon/ina3221` (millivolts `in[123]_input` and milliamperes `curr[123]_input` of the
//! channels that `in[123]_label` names) and `power/powercap` (`energy_uj` counts microjoules up to
//! `max_energy_range_uj` and begins again at 0; zones lie in zones); NVIDIA's Jetson Linux developer guide (names of
//! the rails).

use super::read::{folders, number, text};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The most volts and amperes of a rail, and watts of a machine, that are believed.
const MOST_VOLTS: f64 = 100.0;
const MOST_AMPERES: f64 = 1000.0;
const MOST_WATTS: f64 = 10_000.0;

/// Chips, channels, zones: more than any machine has.
const MOST_RAILS: usize = 64;

/// Rails that are a part of another one, where that is there.
const PARTS: [(&str, &str); 1] = [("VDDQ_VDD2_1V8AO", "VIN_SYS_5V0")];

/// Where a machine tells what it draws.
#[derive(Clone, Debug, PartialEq)]
pub struct Rails {
    names: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Volts and amperes of every rail, at this moment.
    Momentary(Vec<[PathBuf; 2]>),
    /// Counters of energy: the file, and the microjoules at which it begins again.
    Counted(Vec<(PathBuf, f64)>),
}

/// What the rails say at one moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Watts of all of them together.
    Watts(f64),
    /// Microjoules that each has counted.
    Microjoules(Vec<f64>),
}

impl Rails {
    /// The rails of the machine below a root folder that can be read; none where it shows none.
    pub fn find(root: &Path) -> Option<Self> {
        let found = momentary(root).or_else(|| counted(root))?;
        // What cannot be read now will not be later.
        found.read().map(|_| found)
    }

    /// Their names, in one line.
    pub fn names(&self) -> String {
        self.names.join(" + ")
    }

    /// Reads all of them; none where one is gone or says what cannot be.
    pub fn read(&self) -> Option<Reading> {
        match &self.kind {
            Kind::Momentary(rails) => {
                let within = |value: f64, most: f64| (0.0..=most).contains(&value).then_some(value);
                let watts = |[volts, amperes]: &[PathBuf; 2]| {
                    let volts = within(number(volts)? / 1e3, MOST_VOLTS)?;
                    Some(volts * within(number(amperes)? / 1e3, MOST_AMPERES)?)
                };
                let all = rails.iter().map(watts).sum::<Option<f64>>()?;
                Some(Reading::Watts(within(all, MOST_WATTS)?))
            }
            Kind::Counted(zones) => {
                let count = |(path, range): &(PathBuf, f64)| number(path).filter(|uj| (0.0..=*range).contains(uj));
                zones.iter().map(count).collect::<Option<_>>().map(Reading::Microjoules)
            }
        }
    }

    /// Millijoules that were drawn in so many milliseconds: by the counters between the first and the last reading, or
    /// by the mean of the momentary ones. None where a reading is missing, or they say what no machine draws.
    pub fn millijoules(&self, readings: &[Option<Reading>], elapsed_ms: f64) -> Option<f64> {
        let readings: Vec<&Reading> = readings.iter().map(Option::as_ref).collect::<Option<_>>()?;
        let millijoules = match (&self.kind, readings.first()?, readings.last()?) {
            (Kind::Momentary(_), ..) => {
                let watts = |reading: &&Reading| match reading {
                    Reading::Watts(watts) => Some(*watts),
                    Reading::Microjoules(_) => None,
                };
                readings.iter().map(watts).sum::<Option<f64>>()? / readings.len() as f64 * elapsed_ms
            }
            (Kind::Counted(zones), Reading::Microjoules(first), Reading::Microjoules(last)) => {
                // A counter that is lower than before began again at 0.
                let drawn = |((_, range), (a, b)): (&(PathBuf, f64), (&f64, &f64))| (b - a).rem_euclid(range + 1.0);
                zones.iter().zip(first.iter().zip(last)).map(drawn).sum::<f64>() / 1e3
            }
            _ => return None,
        };
        let believed = millijoules > 0.0 && millijoules <= MOST_WATTS * elapsed_ms;
        believed.then_some(millijoules)
    }
}

/// The channels of the INA3221 chips.
fn momentary(root: &Path) -> Option<Rails> {
    let mut rails = BTreeMap::new();
    for folder in folders(&root.join("sys/class/hwmon"), "hwmon") {
        if text(&folder.join("name")).as_deref() != Some("ina3221") {
            continue;
        }
        for channel in 1..=3 {
            let label =
                text(&folder.join(format!("in{channel}_label"))).filter(|label| label != "NC" && is_name(label));
            let paths = [format!("in{channel}_input"), format!("curr{channel}_input")].map(|name| folder.join(name));
            if let Some(label) = label.filter(|_| paths.iter().all(|path| path.exists()) && rails.len() < MOST_RAILS) {
                // The same name twice is the same rail.
                rails.entry(label).or_insert(paths);
            }
        }
    }
    if let Some(whole) = rails.keys().find(|label| label.ends_with("_IN")).cloned() {
        rails.retain(|label, _| *label == whole);
    }
    let has = |rails: &BTreeMap<String, _>, name: &str| rails.contains_key(name);
    for (part, whole) in PARTS {
        if has(&rails, whole) {
            rails.remove(part);
        }
    }
    let (names, paths): (Vec<_>, Vec<_>) = rails.into_iter().unzip();
    (!names.is_empty()).then_some(Rails { names, kind: Kind::Momentary(paths) })
}

/// Whether a label is the name of a rail, and no more.
fn is_name(label: &str) -> bool {
    label.len() <= 64 && label.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The packages of RAPL and their memory. The cores and the graphics of a package are parts of it, and so is the
/// package of `psys`.
fn counted(root: &Path) -> Option<Rails> {
    let parent = root.join("sys/class/powercap");
    let mut zones = BTreeMap::new();
    for folder in folders(&parent, "intel-rapl:") {
        let Some(name) = text(&folder.join("name")) else { continue };
        let place = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let range = number(&folder.join("max_energy_range_uj")).filter(|range| (1.0..=1e18).contains(range));
        // `package-0` beside `psys`; memory lies in the package's zone without being a part of its count.
        let counts = is_name(&name) && (name.starts_with("package-") || name == "dram");
        if let Some(range) = range.filter(|_| counts && zones.len() < MOST_RAILS) {
            zones.insert(place, (name, (folder.join("energy_uj"), range)));
        }
    }
    let (names, zones): (Vec<_>, Vec<_>) = zones.into_values().unzip();
    (!names.is_empty()).then_some(Rails { names, kind: Kind::Counted(zones) })
}
