//! What `secateurs` and `cargo xtask` show of a command line that clap has read, and whether they show it in colour.

use crate::output;
use std::io::{self, IsTerminal};

/// Whether standard error is a terminal on which the user wants colours.
pub fn has_colour() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none()
}

/// Shows what is wrong with the command line, or the help that it asks for, and gives the exit code.
///
/// # Errors
/// If standard output cannot be written.
pub fn show(error: &clap::Error) -> io::Result<u8> {
    let text = error.render().to_string();
    let to_error = error.use_stderr();
    let terminal = if to_error { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    let coloured = terminal && wants_colour() && output::escape(&text) == text;
    match (coloured, to_error) {
        (true, _) => drop(error.print()),
        (false, true) => output::message("", "", text.trim_end()),
        (false, false) => output::print(&text),
    }
    output::finish().map(|()| u8::try_from(error.exit_code()).unwrap_or(2))
}
