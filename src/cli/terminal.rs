//! Reports progress and results: in cargo's style on standard error, or as one JSON object a line on standard output.

use crate::ranks::Ranks;
use crate::{console, output};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::{self, IsTerminal};

/// The format of messages.
#[derive(Args, Clone, Copy, Debug)]
pub struct TerminalArgs {
    /// Format of progress and results
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub message_format: Format,
}

impl TerminalArgs {
    /// Whether standard output is for programs.
    pub fn is_json(self) -> bool {
        self.message_format == Format::Json
    }
}

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Stages in cargo's style and progress bars on standard error, results on standard output
    Human,
    /// One JSON object a line on standard output
    Json,
}

/// Where progress goes.
pub struct Terminal {
    format: Format,
    /// Whether nothing is shown: of several ranks the first one speaks.
    silent: bool,
    colour: bool,
    stage: String,
    bar: Option<ProgressBar>,
    /// The share of the stage that was reported last, in twentieths.
    reported: usize,
}

impl Terminal {
    /// A terminal in the given format.
    pub fn new(args: TerminalArgs) -> Self {
        let colour = console::has_colour();
        #[cfg(unix)]
        if args.message_format == Format::Human && io::stderr().is_terminal() {
            super::interrupt::listen();
        }
        Self { format: args.message_format, silent: false, colour, stage: String::new(), bar: None, reported: 0 }
    }

    /// A terminal that shows nothing but on the first of several ranks.
    pub fn of_rank(args: TerminalArgs, ranks: &Ranks) -> Self {
        let mut terminal = Self::new(args);
        terminal.silent = !ranks.is_first();
        terminal
    }

    /// A stage begins: a verb and what it works on.
    pub fn stage(&mut self, verb: &str, what: &str) {
        self.clear();
        self.stage = verb.to_owned();
        match self.format {
            _ if self.silent => {}
            Format::Json => line(&json!({ "reason": "stage", "stage": verb, "detail": what })),
            Format::Human => {
                let colour = if self.colour { "\x1b[1;32m" } else { "" };
                output::message(colour, &format!("{verb:>12}"), &format!(" {what}"));
            }
        }
    }

    /// A note on a line of its own.
    pub fn note(&mut self, text: &str) {
        match (self.format, &self.bar) {
            _ if self.silent => {}
            (Format::Json, _) => line(&json!({ "reason": "note", "text": text })),
            (Format::Human, Some(bar)) => bar.suspend(|| output::message("", "", &format!("{:>12} {text}", ""))),
            (Format::Human, None) => output::message("", "", &format!("{:>12} {text}", "")),
        }
    }

    /// Part of the stage is done.
    pub fn progress(&mut self, done: usize, all: usize) {
        match self.format {
            _ if self.silent => {}
            Format::Json => {
                let twentieths = 20 * done / all.max(1);
                if twentieths > self.reported {
                    self.reported = twentieths;
                    line(&json!({ "reason": "progress", "stage": self.stage, "done": done, "of": all }));
                }
            }
            Format::Human => {
                let stage = &self.stage;
                let bar = self.bar.get_or_insert_with(|| bar(stage));
                bar.set_length(all as u64);
                bar.set_position(done as u64);
                if done >= all {
                    self.clear();
                }
            }
        }
    }

    /// A result: `text` for people, where there is any, and `value` for programs.
    pub fn result(&mut self, text: &str, value: Value) {
        self.clear();
        match self.format {
            _ if self.silent => {}
            Format::Json => line(&value),
            Format::Human if text.is_empty() => {}
            Format::Human => output::print(&format!("{}\n", text.trim_end())),
        }
    }

    fn clear(&mut self) {
        self.reported = 0;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(value: &Value) {
    // A value is JSON already: nothing can be wrong with it.
    let _ = output::print_json(value);
}

/// A bar on standard error; invisible where that is no terminal.
pub fn bar(stage: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {pos}/{len}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(stage.to_owned());
    bar
}
