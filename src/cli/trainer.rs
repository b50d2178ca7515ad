//! What trains: `--device`.

use super::terminal::Terminal;
use crate::engine::HAS_CUDA;
use crate::train::{Cuda, Device};

/// The device that trains.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct TrainerArgs {
    /// What trains: cpu, cuda, cuda:N for the CUDA device of number N, or auto, which takes the first CUDA device where this
    /// program was built for one and finds it. A CUDA device that is asked for and missing is an error (exit code 7)
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
    Cuda(u32),
}

fn choice(text: &str) -> Result<Choice, String> {
    let number = |number: &str| number.parse().ok().filter(|number| *number < 1024).map(Choice::Cuda);
    let found = match text {
        "auto" => Some(Choice::Auto),
        "cpu" => Some(Choice::Cpu),
        "cuda" => Some(Choice::Cuda(0)),
        other => other.strip_prefix("cuda:").and_then(number),
    };
    found.ok_or_else(|| "expected auto, cpu, cuda, or cuda:N with a number from 0 to 1023".into())
}

impl TrainerArgs {
    fn choice(&self) -> Choice {
        if self.cuda { Choice::Cuda(0) } else { self.device }
    }

    /// Whether a CUDA device was asked for.
    pub fn is_cuda(&self) -> bool {
        matches!(self.choice(), Choice::Cuda(_))
    }

    /// The device, for tensors in f32 or in mixed precision; one that was asked for may be missing. With `auto`, why it is
    /// the CPU is told.
    pub fn resolve(&self, mixed: bool, terminal: &mut Terminal) -> Device {
        let cuda = |ordinal: u32| Device::Cuda(Cuda { ordinal, mixed });
        match self.choice() {
            Choice::Cpu => Device::Cpu,
            Choice::Cuda(ordinal) => cuda(ordinal),
            Choice::Auto if !HAS_CUDA => Device::Cpu,
            Choice::Auto => match cuda(0).check() {
                Ok(()) => cuda(0),
                Err(error) => {
                    terminal.note(&format!("{error}; the CPU trains"));
                    Device::Cpu
                }
            },
        }
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
            ("--device cuda", Some(Choice::Cuda(0))),
            ("--device cuda:3", Some(Choice::Cuda(3))),
            ("--cuda", Some(Choice::Cuda(0))),
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
    fn a_missing_device_that_was_asked_for_is_told_with_what_to_do() {
        assert!(TrainError::Missing(CudaError::NotBuilt).to_string().ends_with("build it with `--features cuda`"));
        let missing = CudaError::NoDevice(" of number 3: it has 1, counted from 0".into());
        let text = TrainError::Missing(missing).to_string();
        assert!(text.starts_with("--device cuda: the NVIDIA driver has no device of number 3"), "{text}");
    }
}
