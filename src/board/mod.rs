//! The machine that a network runs on, as Linux describes it: what it is ([`Board`]), what it is doing ([`State`]), and
//! whether it was throttled or busy while times were taken ([`judge`]); what it draws ([`Rails`]).
//!
//! Everything is read below a root folder, `/` on a real machine. What a system does not tell is absent, never guessed.
//! Sources: the kernel's sysfs documentation (`cpufreq`, `thermal`, `hwmon`); Raspberry Pi's firmware flags
//! (`vcgencmd get_throttled`); NVIDIA's Jetson Linux developer guide (over-current event counters, `nvpmodel`).

mod available;
mod judge;
mod power;
mod read;

pub use available::available_memory;
pub use judge::{Frames, judge};
pub use power::{Rails, Reading};

use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a machine is. Two with the same board give comparable times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// Name of the board or CPU.
    pub model: String,
    /// Architecture that this program was built for.
    pub arch: String,
    /// CPUs that are online, as the kernel lists them (`0-3`).
    pub cores: String,
    /// Rule by which the kernel sets clock frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Jetson's power mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mode: Option<String>,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The GPU that networks run on, where they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// The power rails whose energy is measured, where it shows any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rails: Option<String>,
    /// Whether the program's kernels compute in f16 there.
    #[serde(default, rename = "halves")]
    pub computes_f16: bool,
    /// CPUs that the program may use there, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<usize>,
    /// Version of the program that measures: it holds the kernels of the networks.
    pub runtime: String,
    /// Whether the program runs under emulation, on a machine of another architecture.
    #[serde(default)]
    pub emulated: bool,
}

impl Board {
    /// Describes the machine below a root folder.
    pub fn read(root: &Path) -> Self {
        Self { rails: Rails::find(root).map(|rails| rails.names()), ..read::board(root) }
    }

    /// In one line; the same only for machines that can be compared.
    pub fn fingerprint(&self) -> String {
        let mut text = format!("{} ({}), cores {}", self.model, self.arch, self.cores);
        let power = [("governor", &self.governor), ("power mode", &self.power_mode)];
        let parts = power.into_iter().chain([("kernel", &self.kernel), ("CUDA", &self.gpu)]);
        for (name, value) in parts {
            if let Some(value) = value {
                text += &format!(", {name} {value}");
            }
        }
        text + &format!(", runtime {}", self.runtime)
    }
}

/// Bytes of memory of the machine below a root folder, if it says.
pub fn total_memory(root: &Path) -> Option<f64> {
    read::total_memory(root)
}

/// What a machine is doing at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Temperature of the hottest sensor, degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// The least temperature at which the kernel slows something down, minus the sensor's: how far away that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom_c: Option<f64>,
    /// Clock frequency of the fastest CPU, MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mhz: Option<f64>,
    /// Frequency that this CPU should sustain, MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mhz: Option<f64>,
    /// Raspberry Pi's throttle flags: bits 0 to 3 under-voltage, frequency capped, throttled, soft temperature limit
    /// now; bits 16 to 19 the same since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pi_throttled: Option<u32>,
    /// Events of over-current and thermal throttling since boot, all counters together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_events: Option<u64>,
    /// How far the kernel's cooling devices slow CPUs down, all together; 0 is not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooling: Option<u64>,
    /// Rule by which the kernel sets clock frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Jetson's power mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mode: Option<String>,
    /// CPUs that are online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<String>,
    /// CPU milliseconds that all programs, and other tenants of the machine, have taken since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_ms: Option<f64>,
}

impl State {
    /// Looks at the machine below a root folder.
    pub fn read(root: &Path) -> Self {
        read::state(root)
    }
}
