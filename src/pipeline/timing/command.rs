//! Latencies by a benchmark command of the user (`trtexec`, `benchncnn`, a script around one) in place of our runtime.
//!
//! The command gets the path of an ONNX file where `{model}` stands among its arguments, runs the network on the device by
//! whatever means, and prints the milliseconds of its frames: numbers between white space, brackets or commas; text
//! between them is ignored. It answers for the device; nothing here can tell whether the device was throttled or busy.

use super::content::{content, program};
use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::bench::{PairedTimes, Samples};
use crate::device::{AnswerLimits, DeviceError, answer};
use crate::emit::onnx;
use crate::files;
use crate::latency::{self, LatencyTable, Networks, Sampling, Speed};
use crate::model::Model;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::session::SessionError;
use crate::size::ImageSize;
use prost::Message;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

/// The place of the model's path among the arguments.
const MODEL: &str = "{model}";

/// How often the command runs at most for each network of a comparison.
const MAX_RUNS: usize = 20;

/// Networks that the command times for a latency table.
const TABLE_NETWORKS: usize = 15;

/// A benchmark command.
pub struct Command<'a> {
    /// The program and its arguments.
    pub command: &'a [String],
    /// How the layers share a frame: only the proportions of layers come from these figures.
    pub speed: &'a Speed,
}

impl LatencySource for Command<'_> {
    fn machine(&self, target: &str) -> String {
        format!("{target} by `{}`", self.command.join(" "))
    }

    /// The content of every file among the arguments; what a script calls in turn cannot be known.
    fn conditions(&self) -> Vec<String> {
        let arguments = self.command.iter().enumerate().map(|(at, argument)| {
            let place = if at == 0 { program(argument) } else { Some(PathBuf::from(argument)) };
            let content = place.filter(|_| !argument.contains(MODEL)).and_then(|path| content(&path));
            format!("{argument:?} {content:?}")
        });
        arguments.chain([format!("{:?}", self.speed)]).collect()
    }

    fn check(&self) -> Result<(), PipelineError> {
        check(self.command)
    }

    fn pair(&self, baseline: &Model, other: &Model, spec: &PairSpec) -> Result<Option<PairedLatency>, PipelineError> {
        pair_by_command(self.command, [baseline, other], (spec.imgsz, spec.batch), spec.runs, spec.folder).map(Some)
    }

    fn table(
        &self,
        request: &TableRequest,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatencyTable, PipelineError> {
        let TableRequest { model, groups, levels, sampling, fingerprint, batch, folder } = *request;
        let few = Sampling { networks: TABLE_NETWORKS, ..sampling.clone() };
        let networks = Networks::new(model, groups, levels, &few);
        let (height, width) = sampling.size;
        let (size, mut medians) = (ImageSize { height, width }, Vec::new());
        for network in networks.iter() {
            let mut times = frames(self.command, &network?, (size, batch), folder)?;
            times.sort_by(f64::total_cmp);
            medians.push(times[times.len() / 2]);
            progress(medians.len(), TABLE_NETWORKS);
        }
        let shape = latency::estimate(&model.graph, sampling.size, self.speed, fingerprint);
        Ok(networks.scale(shape.during(Task::LatencyTable)?, &medians))
    }
}

/// Milliseconds of the frames of a model that the command prints; at least one.
fn frames(
    command: &[String],
    model: &Model,
    (size, batch): (ImageSize, usize),
    folder: &Path,
) -> Result<Vec<f64>, PipelineError> {
    let bytes = onnx::batch_file(model, size, batch)?.encode_to_vec();
    let own = files::temporary_folder(folder).map_err(|e| PipelineError::writing(folder, e))?;
    let path = own.join("bench.onnx");
    let written = files::write_atomic(&path, &bytes).map_err(|e| PipelineError::writing(&path, e));
    let times = written.and_then(|()| run(command, &path).map_err(PipelineError::Command));
    let _ = std::fs::remove_dir_all(&own);
    times
}

/// Refuses a command whose program is not there.
fn check(command: &[String]) -> Result<(), PipelineError> {
    let Some(program) = command.first().filter(|argument| !argument.contains(MODEL)) else { return Ok(()) };
    let bare = Path::new(program).components().count() == 1 && !program.contains(std::path::is_separator);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = if bare {
        std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
    } else {
        Path::new(program).is_file()
    };
    let place = if bare { "is in no folder of PATH" } else { "is no file" };
    if found { Ok(()) } else { Err(PipelineError::Input(format!("[bench] command: `{program}` {place}"))) }
}

fn run(command: &[String], model: &Path) -> Result<Vec<f64>, SessionError> {
    let place = model.to_string_lossy();
    let arguments: Vec<String> = command.iter().map(|argument| argument.replace(MODEL, &place)).collect();
    let odd = |program: &str, problem: &str| SessionError::Output { program: program.into(), problem: problem.into() };
    let (program, arguments) = arguments.split_first().ok_or_else(|| odd("[bench] command", "is empty"))?;
    let mut command = process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
    let answer = answer(&mut command, Path::new(program), &AnswerLimits::LONG)?;
    if !answer.status.success() {
        let (code, output) = (answer.status.code(), answer.output);
        return Err(DeviceError::Failed { program: program.into(), code, output }.into());
    }
    let times = numbers(&String::from_utf8_lossy(&answer.output));
    if times.is_empty() { Err(odd(program, "printed no milliseconds")) } else { Ok(times) }
}

/// All positive numbers of a text.
fn numbers(text: &str) -> Vec<f64> {
    let parts = text.split(|c: char| c.is_whitespace() || "[](){},;:=\"".contains(c));
    parts.filter_map(|part| part.parse::<f64>().ok()).filter(|ms| ms.is_finite() && *ms > 0.0).collect()
}

/// Runs a benchmark command for the baseline and a pruned model alternately until it has timed `runs` frames of each, of
/// batches of a size.
///
/// # Errors
/// If a model cannot be exported, or the command fails or prints no number.
pub fn pair_by_command(
    command: &[String],
    [baseline, pruned]: [&Model; 2],
    input: (ImageSize, usize),
    runs: usize,
    folder: &Path,
) -> Result<PairedLatency, PipelineError> {
    let (mut a, mut b) = (Samples::default(), Samples::default());
    let mut round = 0;
    // A B B A: neither always follows the other.
    while round == 0 || (a.wall.len().min(b.wall.len()) < runs && round < MAX_RUNS) {
        let order = [(baseline, true), (pruned, false)];
        for (model, is_baseline) in if round % 2 == 0 { order } else { [order[1], order[0]] } {
            let times = frames(command, model, input, folder)?;
            if is_baseline { &mut a } else { &mut b }.wall.extend(times);
        }
        round += 1;
    }
    // Frames of two runs of a command are no pairs of neighbours.
    let pair = PairedTimes::of(&a, &b);
    let ratio = pair.ratio;
    Ok(PairedLatency { ratio, ratio_bound: None, ..pair.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_found_in_what_tools_print() {
        let cases = [
            ("12.5\n12.75\n", vec![12.5, 12.75]),
            ("[3.5, 4]", vec![3.5, 4.0]),
            ("{\"latencies_ms\": [1.5, 2.5]}", vec![1.5, 2.5]),
            ("min = 7.25 ms, nan, -1, inf", vec![7.25]),
            ("nothing", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(numbers(text), expected, "{text}");
        }
    }

    #[test]
    fn the_command_gets_the_model_and_its_failures_are_told() {
        let arguments = |all: &[&str]| all.iter().map(|argument| argument.to_string()).collect::<Vec<_>>();
        let echo = arguments(&["/bin/sh", "-c", "test \"$1\" = a/b.onnx && echo 2.5", "sh", "{model}"]);
        assert_eq!(run(&echo, Path::new("a/b.onnx")).unwrap(), vec![2.5]);
        let refused = |command: &[String]| run(command, Path::new("x")).unwrap_err().to_string();
        assert!(refused(&echo).contains("ended with exit code 1"));
        assert!(refused(&arguments(&["/bin/true"])).contains("printed no milliseconds"));
        assert!(refused(&arguments(&["/bin/sh", "-c", "yes 1.5"])).contains("printed more than"));
        assert!(run(&arguments(&["/bin/none"]), Path::new("x")).is_err());
        for (program, expected) in
            [("sh", None), ("/bin/sh", None), ("/bin/none", Some("is no file")), ("no-bench", Some("PATH"))]
        {
            let refused = check(&arguments(&[program, "{model}"])).err().map(|e| e.to_string());
            assert_eq!(refused.is_some(), expected.is_some(), "{program}: {refused:?}");
            assert!(refused.unwrap_or_default().contains(expected.unwrap_or_default()), "{program}");
        }
    }
}
