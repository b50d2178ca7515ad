//! What computes a network, and what users say of it: the option `--device` of every program.

use super::cuda::open;
use crate::kernels::cuda::{self, CudaError};
use std::fmt;
use std::str::FromStr;

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The machine's CUDA device of this number, counted from 0.
    Cuda(u32),
}

/// Engines that share a CUDA device: while one of them waits for it, the CPU prepares images for another one.
const SHARING: usize = 4;

impl Device {
    /// Whether it is a CUDA device.
    pub fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda(_))
    }

    /// How many engines share many images, where `threads` threads prepare and read them: on the CPU one on each thread,
    /// on a CUDA device a few.
    pub fn engines(self, threads: usize) -> usize {
        let threads = threads.max(1);
        if self.is_cuda() { threads.min(SHARING) } else { threads }
    }

    /// What it is, whatever its number: `cpu`, or name and compute capability of a CUDA device.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn name(self) -> Result<String, CudaError> {
        Ok(self.open()?.0)
    }

    /// Its name, and what keeps it open.
    fn open(self) -> Result<(String, Option<cuda::Device>), CudaError> {
        let Self::Cuda(ordinal) = self else { return Ok(("cpu".into(), None)) };
        let device = open(ordinal)?;
        let (major, minor) = device.capability()?;
        Ok((format!("{} (compute capability {major}.{minor})", device.name()), Some(device)))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// What a user wants to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A CUDA device, where this program has code for one and can use it; else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number, or the process's own, and nothing else.
    Cuda(Option<u32>),
}

/// CUDA devices have lesser numbers.
const MAX_DEVICES: u32 = 1024;

impl FromStr for DeviceChoice {
    type Err = String;

    /// Reads `auto`, `cpu`, `cuda` or `cuda:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |number: &str| {
            number.parse().ok().filter(|number| *number < MAX_DEVICES).map(|number| Self::Cuda(Some(number)))
        };
        let choice = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(None)),
            other => other.strip_prefix("cuda:").and_then(number),
        };
        let most = MAX_DEVICES - 1;
        let expected = || format!("expected auto, cpu, cuda, or cuda:N with a number from 0 to {most}");
        choice.ok_or_else(expected)
    }
}

/// A device that was chosen and can be used.
pub struct OpenDevice {
    /// The device.
    pub device: Device,
    /// What it is, as [`Device::name`] says.
    pub name: String,
    /// Where any CUDA device would have been taken: why it is the CPU.
    pub instead: Option<CudaError>,
    /// While this is open, the driver does not set up a context for every engine anew.
    _held: Option<cuda::Device>,
}

impl DeviceChoice {
    /// The device; `own` is the number of the CUDA device that is taken where none is named: 0, but of several processes
    /// on a machine each may have another one.
    ///
    /// # Errors
    /// If a CUDA device was asked for and cannot be used.
    pub fn open(self, own: u32) -> Result<OpenDevice, CudaError> {
        let of = |device: Device| device.open().map(|(name, _held)| OpenDevice { device, name, instead: None, _held });
        match self {
            Self::Cpu => of(Device::Cpu),
            Self::Cuda(number) => of(Device::Cuda(number.unwrap_or(own))),
            Self::Auto => match of(Device::Cuda(own)) {
                Err(problem) => Ok(OpenDevice { instead: Some(problem), ..of(Device::Cpu)? }),
                opened => opened,
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::emulated;

    #[test]
    fn devices_are_read_and_nothing_else() {
        let cases = [
            ("auto", Some(DeviceChoice::Auto)),
            ("cpu", Some(DeviceChoice::Cpu)),
            ("cuda", Some(DeviceChoice::Cuda(None))),
            ("cuda:3", Some(DeviceChoice::Cuda(Some(3)))),
            ("cuda:1023", Some(DeviceChoice::Cuda(Some(1023)))),
            ("gpu", None),
            ("", None),
            ("cuda:", None),
            ("cuda:-1", None),
            ("cuda:1024", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse().ok(), expected, "{text}");
            assert!(expected.is_none_or(|choice| choice.to_string() == text), "{text}");
        }
        assert_eq!(
            "gpu".parse::<DeviceChoice>().unwrap_err(),
            "expected auto, cpu, cuda, or cuda:N with a number from 0 to 1023"
        );
    }

    #[test]
    fn auto_takes_the_first_device_and_what_was_asked_for_is_never_replaced() {
        if emulated::device().is_none() {
            return;
        }
        let open = |text: &str| text.parse::<DeviceChoice>().unwrap().open(0);
        let found = open("auto").unwrap();
        assert_eq!((found.device, found.instead), (Device::Cuda(0), None));
        assert!(found.name.contains("(compute capability 8."), "{}", found.name);
        assert_eq!(open("cuda").unwrap().name, found.name);
        let cpu = open("cpu").unwrap();
        assert_eq!((cpu.device, &cpu.name[..]), (Device::Cpu, "cpu"));
        // The emulated driver has two devices, of which the second is too old.
        assert!(matches!(open("cuda:1"), Err(CudaError::TooOld { .. })));
        let problem = open("cuda:7").err().unwrap().to_string();
        assert_eq!(problem, "the NVIDIA driver has no device of number 7: it has 2, counted from 0");
    }
}
