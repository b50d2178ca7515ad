//! What computes: `--device`.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::engine::{DeviceChoice, HAS_CUDA, OpenDevice, count_cuda};
use crate::ranks::{Launched, Ranks};

/// The device that computes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DeviceArgs {
    /// What runs and trains networks: cpu; cuda, the first NVIDIA GPU; cuda:N, the GPU of number N, counted from 0; or
    /// auto, the first GPU where this program was built for one (feature `cuda`) and finds it, else the CPU, and says
    /// which. Of several processes on a machine each takes another GPU, where none is named. A GPU that is asked for and
    /// missing is an error (exit code 7)
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

    /// Whether it may be a GPU.
    pub fn may_be_cuda(&self) -> bool {
        match self.choice() {
            DeviceChoice::Auto => HAS_CUDA,
            DeviceChoice::Cpu => false,
            DeviceChoice::Cuda(_) => true,
        }
    }

    /// The number of the GPU that a process among several takes.
    pub fn ordinal(&self, launched: &Launched) -> u32 {
        match self.choice() {
            DeviceChoice::Cuda(Some(number)) => number,
            _ => own(launched.local.unwrap_or(launched.rank), count_cuda().unwrap_or(0)),
        }
    }

    /// The device of this rank. `tell` gets what it is, where that is more than the CPU that was asked for. With `auto` all
    /// ranks have GPUs or none.
    ///
    /// # Errors
    /// If a GPU was asked for and cannot be used, a rank cannot be reached, or the environment of its launcher makes no
    /// sense.
    pub fn open(&self, ranks: &Ranks, tell: &mut dyn FnMut(&str)) -> Result<OpenDevice, Failure> {
        let choice = self.choice();
        let launched = if ranks.size() > 1 { Launched::here()? } else { None };
        let own = launched.map_or(0, |launched| self.ordinal(&launched));
        let open = |choice: DeviceChoice| {
            choice.open(own).map_err(|problem| Failure::Device(format!("--device {choice}: {problem}")))
        };
        let mut opened = open(choice)?;
        let mut instead = opened.instead.as_ref().map(ToString::to_string);
        if choice == DeviceChoice::Auto && ranks.size() > 1 {
            instead = ranks.of_all(instead)?.into_iter().flatten().next();
            if instead.is_some() {
                opened = open(DeviceChoice::Cpu)?;
            }
        }
        match instead {
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
    pub fn open_first(&self, ranks: &Ranks, terminal: &mut Terminal) -> Result<OpenDevice, Failure> {
        self.open(ranks, &mut |what| terminal.stage("Using", what))
    }
}

/// The GPU of a rank of this number on its machine, of which it sees so many: a launcher may show each rank its own only.
fn own(local: usize, devices: u32) -> u32 {
    u32::try_from(local % (devices.max(1) as usize)).unwrap_or(0)
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
        match args.open(&Ranks::default(), &mut |text| told += text) {
            Ok(opened) => (Ok(opened.device), told),
            Err(Failure::Device(problem)) => (Err(Failure::Device(String::new()).code()), problem),
            Err(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn each_rank_of_a_machine_takes_another_device() {
        assert_eq!([0, 1, 7, 8, 9].map(|local| own(local, 8)), [0, 1, 7, 0, 1]);
        // Slurm shows each task its own with `--gpus-per-task=1`; where none is found opening it says so.
        assert_eq!([3, 0].map(|local| own(local, 1)), [0, 0]);
        assert_eq!(own(3, 0), 0);
        let device =
            |line: &str| Line::try_parse_from(["train"].into_iter().chain(line.split_whitespace())).unwrap().device;
        let launched = Launched { launcher: "torchrun", rank: 5, size: 8, local: Some(1), meeting: None };
        assert_eq!(device("--device cuda:3").ordinal(&launched), 3);
        assert!(device("--cuda").may_be_cuda() && !device("").may_be_cuda());
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
