//! What trains: `--device`.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::engine::{HAS_CUDA, count_cuda};
use crate::ranks::{Launched, Ranks};
use crate::train::{Cuda, Device};

/// The device that trains.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct TrainerArgs {
    /// What trains: cpu, cuda, cuda:N for the CUDA device of number N, or auto, which takes the first CUDA device where this
    /// program was built for one and finds it. Of several processes on one machine each takes another device. A CUDA device
    /// that is asked for and missing is an error (exit code 7)
    #[arg(long, value_name = "auto|cpu|cuda[:N]", default_value = "cpu", value_parser = choice)]
    device: Choice,
    /// The same as --device cuda
    #[arg(long, conflicts_with = "device")]
    cuda: bool,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Auto,
    Cpu,
    /// The device of this number; without one the first, or of several ranks on a machine each its own.
    Cuda(Option<u32>),
}

fn choice(text: &str) -> Result<Choice, String> {
    let number = |number: &str| number.parse().ok().filter(|number| *number < 1024).map(|n| Choice::Cuda(Some(n)));
    let found = match text {
        "auto" => Some(Choice::Auto),
        "cpu" => Some(Choice::Cpu),
        "cuda" => Some(Choice::Cuda(None)),
        other => other.strip_prefix("cuda:").and_then(number),
    };
    found.ok_or_else(|| "expected auto, cpu, cuda, or cuda:N with a number from 0 to 1023".into())
}

/// The device of a rank of this number on its machine, of which it sees so many: a launcher may show each rank its own only.
fn own(local: usize, devices: u32) -> u32 {
    u32::try_from(local % (devices.max(1) as usize)).unwrap_or(0)
}

impl TrainerArgs {
    fn choice(&self) -> Choice {
        if self.cuda { Choice::Cuda(None) } else { self.device }
    }

    /// Whether a CUDA device was asked for.
    pub fn is_cuda(&self) -> bool {
        matches!(self.choice(), Choice::Cuda(_))
    }

    /// Whether a CUDA device may train.
    pub fn may_be_cuda(&self) -> bool {
        self.is_cuda() || (HAS_CUDA && self.choice() == Choice::Auto)
    }

    /// The number of the CUDA device, for a process among several that were launched.
    pub fn ordinal(&self, launched: Option<&Launched>) -> u32 {
        match (self.choice(), launched) {
            (Choice::Cuda(Some(ordinal)), _) => ordinal,
            (_, None) => 0,
            (_, Some(launched)) => own(launched.local.unwrap_or(launched.rank), count_cuda().unwrap_or(0)),
        }
    }

    /// The device, for tensors in f32 or in mixed precision; one that was asked for may be missing. With `auto`, why it is
    /// the CPU is told; of several ranks all train on CUDA devices or none.
    ///
    /// # Errors
    /// If a rank cannot be reached, or the environment of its launcher makes no sense.
    pub fn resolve(&self, mixed: bool, ranks: &Ranks, terminal: &mut Terminal) -> Result<Device, Failure> {
        let launched = if ranks.size() > 1 { Launched::here()? } else { None };
        let cuda = || Device::Cuda(Cuda { ordinal: self.ordinal(launched.as_ref()), mixed });
        Ok(match self.choice() {
            Choice::Cpu => Device::Cpu,
            Choice::Cuda(_) => cuda(),
            Choice::Auto if !HAS_CUDA => Device::Cpu,
            Choice::Auto => {
                let found = cuda().check().err().map(|error| error.to_string());
                let found = ranks.of_all(found).map_err(Failure::from)?;
                match found.into_iter().flatten().next() {
                    None => cuda(),
                    Some(problem) => {
                        terminal.note(&format!("{problem}; the CPU trains"));
                        Device::Cpu
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::CudaError;
    use crate::train::TrainError;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        trainer: TrainerArgs,
    }

    fn read(line: &str) -> Option<Choice> {
        Line::try_parse_from(["train"].into_iter().chain(line.split_whitespace())).ok().map(|l| l.trainer.choice())
    }

    #[test]
    fn devices_are_read_and_nothing_else() {
        let cases = [
            ("", Some(Choice::Cpu)),
            ("--device cpu", Some(Choice::Cpu)),
            ("--device auto", Some(Choice::Auto)),
            ("--device cuda", Some(Choice::Cuda(None))),
            ("--device cuda:3", Some(Choice::Cuda(Some(3)))),
            ("--cuda", Some(Choice::Cuda(None))),
            ("--device gpu", None),
            ("--device cuda:", None),
            ("--device cuda:-1", None),
            ("--device cuda:1024", None),
            ("--device cuda --cuda", None),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn each_rank_of_a_machine_takes_another_device() {
        assert_eq!([0, 1, 7, 8, 9].map(|local| own(local, 8)), [0, 1, 7, 0, 1]);
        // Slurm shows each task its own with `--gpus-per-task=1`; where none is found opening it says so.
        assert_eq!([3, 0].map(|local| own(local, 1)), [0, 0]);
        assert_eq!(own(3, 0), 0);
        let trainer =
            |line: &str| Line::try_parse_from(["train"].into_iter().chain(line.split_whitespace())).unwrap().trainer;
        let launched = Launched { launcher: "torchrun", rank: 5, size: 8, local: Some(1), meeting: None };
        assert_eq!(trainer("--device cuda:3").ordinal(Some(&launched)), 3);
        assert_eq!(trainer("--device cuda").ordinal(None), 0);
        assert!(trainer("--cuda").may_be_cuda() && !trainer("").may_be_cuda());
    }

    #[test]
    fn a_missing_device_that_was_asked_for_is_told_with_what_to_do() {
        assert!(TrainError::Missing(CudaError::NotBuilt).to_string().ends_with("build it with `--features cuda`"));
        let missing = CudaError::NoDevice(" of number 3: it has 1, counted from 0".into());
        let text = TrainError::Missing(missing).to_string();
        assert!(text.starts_with("--device cuda: the NVIDIA driver has no device of number 3"), "{text}");
    }
}
