//! What computes: `--device`.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::engine::{DeviceChoice, OpenDevice};

/// The device that computes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DeviceArgs {
    /// What runs and trains networks: cpu; cuda, the first NVIDIA GPU; cuda:N, the GPU of number N, counted from 0; or
    /// auto, the first GPU where this program was built for one (feature `cuda`) and finds it, else the CPU, and says
    /// which. A GPU that is asked for and missing is an error (exit code 7)
    #[arg(long, value_name = "auto|cpu|cuda[:N]", default_value = "cpu")]
    device: DeviceChoice,
    /// The same as --device cuda
    #[arg(long, conflicts_with = "device", hide = true)]
    cuda: bool,
}

impl DeviceArgs {
    fn choice(&self) -> DeviceChoice {
        if self.cuda { DeviceChoice::Cuda(None) } else { self.device }
    }

    /// The device. `tell` gets what it is, where that is more than the CPU that was asked for.
    ///
    /// # Errors
    /// If a GPU was asked for and cannot be used.
    pub fn open(&self, tell: &mut dyn FnMut(&str)) -> Result<OpenDevice, Failure> {
        let choice = self.choice();
        let opened = choice.open(0).map_err(|problem| Failure::Device(format!("--device {choice}: {problem}")))?;
        match &opened.instead {
            Some(problem) => tell(&format!("the CPU: {problem}")),
            None if opened.device.is_cuda() => tell(&format!("{}: {}", opened.device, opened.name)),
            None => {}
        }
        Ok(opened)
    }

    /// As [`DeviceArgs::open`], told as the first stage of a command.
    ///
    /// # Errors
    /// As [`DeviceArgs::open`].
    pub fn open_first(&self, terminal: &mut Terminal) -> Result<OpenDevice, Failure> {
        self.open(&mut |what| terminal.stage("Using", what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Device;
    use crate::kernels::cuda::emulated;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        device: DeviceArgs,
    }

    /// What is opened, or the exit code, and what is told.
    fn open(line: &str) -> (Result<Device, u8>, String) {
        let args = Line::try_parse_from(["eval"].into_iter().chain(line.split_whitespace())).unwrap().device;
        let mut told = String::new();
        match args.open(&mut |text| told += text) {
            Ok(opened) => (Ok(opened.device), told),
            Err(Failure::Device(problem)) => (Err(Failure::Device(String::new()).code()), problem),
            Err(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn a_gpu_is_told_and_one_that_is_asked_for_and_missing_is_an_error() {
        for line in ["--device gpu", "--device", "--device cuda --cuda", "--device cuda:1024"] {
            assert!(Line::try_parse_from(["eval"].into_iter().chain(line.split_whitespace())).is_err(), "{line}");
        }
        for line in ["", "--device cpu"] {
            assert_eq!(open(line), (Ok(Device::Cpu), String::new()), "{line}");
        }
        if emulated::device().is_none() {
            return;
        }
        for line in ["--device auto", "--device cuda", "--device cuda:0", "--cuda"] {
            let (device, told) = open(line);
            assert_eq!(device, Ok(Device::Cuda(0)), "{line}");
            assert!(told.starts_with("cuda:0: emulated") && told.ends_with("(compute capability 8.7)"), "{told}");
        }
        let missing = "--device cuda:9: the NVIDIA driver has no device of number 9: it has 2, counted from 0";
        assert_eq!(open("--device cuda:9"), (Err(7), missing.into()));
        let (device, problem) = open("--device cuda:1");
        assert!(device == Err(7) && problem.contains("too old"), "{problem}");
    }
}
