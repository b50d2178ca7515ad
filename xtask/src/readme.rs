//! Keeps the README's transcript of the demo what the demo prints: it is compared with a run, numbers, paths and the
//! CPU's name masked, or written anew.
//!
//! How many plans are tried depends on the machine: lines that are equal once masked count once, and the comparison of
//! plans, which needs two of them, may be missing. Notes that the README does not have (a window taken again, say)
//! count as little.

use secateurs::driver::{Failure, Workspace};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// First and last words of what the README shows.
const FIRST: &str = "Importing the embedded demo";
const INDENT: &str = "    ";
/// What the line about the epoch that ships begins with.
const TUNING: &str = "tuning ";
/// What stands before a note, in place of a stage's name.
const NOTE: &str = "             ";

/// Compare the README's transcript of the demo with a run, or write it anew
#[derive(clap::Args)]
pub struct Args {
    /// Compare, with all numbers masked; without it the README gets the new transcript
    #[arg(long)]
    check: bool,
    /// What `cargo xtask prune --target host` printed, in place of a run
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Runs it.
pub fn run(workspace: &Workspace, args: &Args) -> Result<(), Failure> {
    let readme = workspace.root.join("README.md");
    let fail = |path: &PathBuf, e: std::io::Error| Failure::Workspace(format!("{}: {e}", path.display()));
    let text = fs::read_to_string(&readme).map_err(|e| fail(&readme, e))?;
    let log = match &args.log {
        Some(path) => fs::read_to_string(path).map_err(|e| fail(path, e))?,
        None => demo(workspace)?,
    };
    let shown =
        shown(&text).ok_or_else(|| Failure::Workspace(format!("{}: no line with \"{FIRST}\"", readme.display())))?;
    let printed = transcript(&log);
    if printed.is_empty() {
        return Err(Failure::Workspace(format!("the run printed no line with \"{FIRST}\"")));
    }
    if !args.check {
        let block: String = printed.iter().map(|line| format!("{INDENT}{line}\n")).collect();
        let old: String = shown.iter().map(|line| format!("{INDENT}{line}\n")).collect();
        return fs::write(&readme, text.replacen(&old, &block, 1)).map_err(|e| fail(&readme, e));
    }
    let wanted = masked(&shown);
    let found = masked(&without_other_notes(printed, &wanted));
    match wanted.iter().zip(&found).find(|(wanted, found)| wanted != found) {
        Some((wanted, found)) => Err(differs(wanted, found)),
        None if wanted.len() > found.len() => Err(differs(&wanted[found.len()], "(nothing more)")),
        None if found.len() > wanted.len() => Err(differs("(nothing more)", &found[wanted.len()])),
        None => Ok(()),
    }
}

fn differs(wanted: &str, found: &str) -> Failure {
    Failure::Workspace(format!(
        "the README's transcript is not what the demo prints\n  README: {wanted}\n  demo:   {found}\n  \
         `cargo xtask readme` writes it anew"
    ))
}

/// What the demo prints now.
fn demo(workspace: &Workspace) -> Result<String, Failure> {
    let out = workspace.target.join("readme-demo/host");
    let program = std::env::current_exe().map_err(|e| Failure::Workspace(format!("cannot find itself: {e}")))?;
    let mut command = Command::new(&program);
    command.args(["prune", "--target", "host", "--out"]).arg(out).stdin(Stdio::null());
    let fail = |problem: String| Failure::Program { program: program.display().to_string(), problem };
    let output = command.output().map_err(|e| fail(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(fail(format!("{}\n{text}", output.status)));
    }
    Ok(text.into_owned())
}

/// The lines of the README's block.
fn shown(readme: &str) -> Option<Vec<String>> {
    let lines: Vec<&str> = readme.lines().collect();
    let first = lines.iter().position(|line| line.starts_with(INDENT) && line.contains(FIRST))?;
    let block = lines[first..].iter().map_while(|line| line.strip_prefix(INDENT));
    Some(block.map(str::to_owned).collect())
}

/// A run's own lines, without cargo's.
fn transcript(log: &str) -> Vec<String> {
    let cargo = ["Compiling", "Finished", "Blocking", "Downloading", "Downloaded", "Locking", "Updating", "Running"];
    log.lines()
        .skip_while(|line| !line.contains(FIRST))
        // The failure of a missed budget comes last.
        .take_while(|line| !line.starts_with("error: "))
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty() && !cargo.iter().any(|word| line.trim_start().starts_with(word)))
        .collect()
}

/// Leaves out the notes of a run, which are indented further than stages, that the README does not have.
fn without_other_notes(printed: Vec<String>, wanted: &[String]) -> Vec<String> {
    let note = |line: &str| line.starts_with(NOTE);
    printed.into_iter().filter(|line| !note(line) || wanted.contains(&mask(line))).collect()
}

/// Lines that a run on any machine prints alike.
fn masked(lines: &[String]) -> Vec<String> {
    let words = ["Comparing # plans", "nats per confident", "on the held-back images"];
    let optional = |line: &str| words.iter().any(|words| line.contains(words));
    let mut all: Vec<String> = lines.iter().map(|line| mask(line)).filter(|line| !optional(line)).collect();
    all.dedup();
    all
}

fn mask(line: &str) -> String {
    // Which epoch is the best one, or that none is, depends on the last bits of a sum.
    if line.trim_start().starts_with(TUNING) {
        return TUNING.to_owned();
    }
    // Whether a budget of time holds depends on what else the machine does.
    let line = line.trim_end_matches(", over the budget").replace(": is missed", ": holds");
    let cpu = |line: &str| {
        let (before, after) = line.split_once(" networks on ")?;
        let end = after.find(", 1 thread")?;
        Some(format!("{before} networks on CPU{}", &after[end..]))
    };
    let line = cpu(&line).unwrap_or(line);
    let words = line.split_whitespace().map(|word| number(word.rsplit('/').next().unwrap_or(word)));
    words.collect::<Vec<_>>().join(" ")
}

/// A word with every number replaced.
fn number(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word.chars().peekable();
    while let Some(c) = rest.next() {
        if !c.is_ascii_digit() {
            out.push(c);
            continue;
        }
        out.push('#');
        while rest.next_if(|c| c.is_ascii_digit() || *c == '.').is_some() {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn runs_of_two_machines_agree_and_other_words_do_not() {
        let one = "   Compiling x v1.0\n       Importing the embedded demo\n          Timing 30 networks on A (R) CPU, 1 \
                   thread, 160 px\n plan 1: 0.701x, 2.8 MiB, over the budget\n plan 2: 0.6x, 2 MiB\n Comparing 2 plans\n \
                   Writing dist/host\n budget 0.67x of 0.70x: holds\n";
        let two = "       Importing the embedded demo\n Timing 8 networks on B, 1 thread, 160 px\n plan 1: 0.68x, 2 MiB\n\
                   \n    Finished `release`\n Writing /tmp/a/host\n budget 0.7x of 0.70x: holds\n";
        assert_eq!(masked(&transcript(one)), masked(&transcript(two)));
        let noted = two.replace(" Writing", "             3 windows were taken again: throttled\n Writing");
        let wanted = masked(&transcript(one));
        assert_eq!(masked(&without_other_notes(transcript(&noted), &wanted)), wanted);
        let missed = two.replace("holds\n", "is missed\nerror: 0.7x of 0.70x: is missed\n  help: run again\n");
        assert_eq!(masked(&transcript(one)), masked(&transcript(&missed)));
        let tuned =
            |chosen: &str, why: &str| format!("{one}             {chosen} on the held-back images\n  tuning   {why}\n");
        let kept = masked(&transcript(&tuned("epoch 2 of 4 is kept: 0.46 -> 0.48", "epoch 2 ships")));
        let none = transcript(&tuned("none of 4 epochs is better", "the repaired model ships"));
        assert_eq!(masked(&without_other_notes(none, &kept)), kept);
        assert_ne!(kept, masked(&transcript(one)));
        let other = two.replace("latency", "time").replace("Writing", "Wrote");
        assert_ne!(masked(&transcript(one)), masked(&transcript(&other)));
        assert_eq!(masked(&lines("a 1.5 ms\na 2.5 ms\nb")), ["a # ms", "b"]);
    }

    #[test]
    fn the_block_of_a_readme_is_found() {
        let readme = "text\n\n    cargo xtask\n\n       Importing the embedded demo\n      p50 1\n\nmore\n";
        assert_eq!(shown(readme).unwrap(), ["   Importing the embedded demo", "  p50 1"]);
        assert_eq!(shown("nothing"), None);
    }
}
