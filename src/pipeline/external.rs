//! A benchmark command of the user (`trtexec`, `benchncnn`, a script around one) in place of our runtime.
//!
//! The command gets the path of an ONNX file where `{model}` stands among its words, runs the network on the device by
//! whatever means, and prints the milliseconds of its frames: numbers between white space, brackets or commas; words
//! between them are passed over. It answers for the device; nothing here can tell whether that was steady.

use super::PipelineError;
use crate::bench::{PairedTimes, Samples};
use crate::device::{AnswerLimits, DeviceError, answer};
use crate::emit::onnx;
use crate::files;
use crate::model::Model;
use crate::pipeline::PairedLatency;
use crate::session::SessionError;
use std::path::Path;
use std::process::{Command, Stdio};

/// The place of the model's path among the words.
pub const MODEL: &str = "{model}";

/// How often the command runs at most for each network of a comparison.
const MOST_RUNS: usize = 20;

/// Milliseconds of the frames of a model that the command prints; at least one.
///
/// # Errors
/// If the model cannot be exported, or the command fails or prints no number.
pub fn frames(command: &[String], model: &Model, imgsz: usize, folder: &Path) -> Result<Vec<f64>, PipelineError> {
    let bytes = onnx::export(model, imgsz, imgsz).map_err(PipelineError::stage("benchmark command"))?;
    let own = files::temporary_folder(folder).map_err(|e| PipelineError::writing(folder, &e))?;
    let path = own.join("bench.onnx");
    let written = files::write_atomic(&path, &bytes).map_err(|e| PipelineError::writing(&path, &e));
    let times = written.map(|()| run(command, &path));
    let _ = std::fs::remove_dir_all(&own);
    let times = times?;
    times.map_err(PipelineError::Session)
}

/// Refuses a command whose program is not there.
///
/// # Errors
/// Names the program.
pub fn check(command: &[String]) -> Result<(), PipelineError> {
    let Some(program) = command.first().filter(|word| !word.contains(MODEL)) else { return Ok(()) };
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
    let words: Vec<String> = command.iter().map(|word| word.replace(MODEL, &place)).collect();
    let odd = |program: &str, problem: &str| SessionError::Output { program: program.into(), problem: problem.into() };
    let (program, words) = words.split_first().ok_or_else(|| odd("[bench] command", "is empty"))?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stderr(Stdio::inherit());
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

/// Runs the command for two models in turn until there are so many frames of each.
///
/// # Errors
/// As [`frames`].
pub fn versus(
    command: &[String],
    baseline: &Model,
    cut: &Model,
    imgsz: usize,
    runs: usize,
    folder: &Path,
) -> Result<PairedLatency, PipelineError> {
    let (mut a, mut b) = (Samples::default(), Samples::default());
    let mut turn = 0;
    // A B B A: neither always follows the other.
    while turn == 0 || (a.wall.len().min(b.wall.len()) < runs && turn < MOST_RUNS) {
        let order = [(baseline, true), (cut, false)];
        for (model, is_baseline) in if turn % 2 == 0 { order } else { [order[1], order[0]] } {
            let times = frames(command, model, imgsz, folder)?;
            if is_baseline { &mut a } else { &mut b }.wall.extend(times);
        }
        turn += 1;
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
        let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let echo = words(&["/bin/sh", "-c", "test \"$1\" = a/b.onnx && echo 2.5", "sh", "{model}"]);
        assert_eq!(run(&echo, Path::new("a/b.onnx")).unwrap(), vec![2.5]);
        let refused = |words: &[String]| run(words, Path::new("x")).unwrap_err().to_string();
        assert!(refused(&echo).contains("ended with exit code 1"));
        assert!(refused(&words(&["/bin/true"])).contains("printed no milliseconds"));
        assert!(refused(&words(&["/bin/sh", "-c", "yes 1.5"])).contains("printed more than"));
        assert!(run(&words(&["/bin/none"]), Path::new("x")).is_err());
        for (program, expected) in
            [("sh", None), ("/bin/sh", None), ("/bin/none", Some("is no file")), ("no-bench", Some("PATH"))]
        {
            let refused = check(&words(&[program, "{model}"])).err().map(|e| e.to_string());
            assert_eq!(refused.is_some(), expected.is_some(), "{program}: {refused:?}");
            assert!(refused.unwrap_or_default().contains(expected.unwrap_or_default()), "{program}");
        }
    }
}
