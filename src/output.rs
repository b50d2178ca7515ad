//! The one place where text reaches the terminal, for all binaries.
//!
//! Names of files, classes, layers and devices are other people's: control characters in them, which could move the
//! cursor, colour or hide text, are escaped. A standard output that fails does not stop the program, whose files matter
//! more; [`finish`] reports it at the end.

use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first error of standard output; nothing is written after it.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

fn failed() -> MutexGuard<'static, Option<io::Error>> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a character could do something to a terminal, or to the order in which text is read there.
fn is_unsafe(c: char) -> bool {
    let turns_text =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns_text || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Text whose lines are ours: control characters but ends of lines and tabulators become `\u{1b}` and the like.
pub fn escape(text: &str) -> Cow<'_, str> {
    let bad = |c: char| is_unsafe(c) && c != '\n' && c != '\t';
    if !text.contains(bad) {
        return text.into();
    }
    text.chars().map(|c| if bad(c) { c.escape_default().to_string() } else { c.into() }).collect::<String>().into()
}

/// A name on one line, in which ends of lines and tabulators are escaped as well.
pub fn line(name: &str) -> String {
    let safe = |c: char| if is_unsafe(c) { c.escape_default().to_string() } else { c.into() };
    name.chars().map(safe).collect()
}

/// The same in JSON, where a program reads back what was there.
fn escape_json(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return text.into();
    }
    // Outside strings JSON has none of these, and below U+0020 they are escaped already.
    text.chars()
        .map(|c| if is_unsafe(c) { format!("\\u{:04x}", u32::from(c)) } else { c.into() })
        .collect::<String>()
        .into()
}

/// Writes the output of another program to standard output, byte by byte as it is.
pub fn print_bytes(bytes: &[u8]) {
    let mut failed = failed();
    if failed.is_none() {
        let mut out = io::stdout().lock();
        *failed = out.write_all(bytes).and_then(|()| out.flush()).err();
    }
}

/// Writes text to standard output as it stands.
pub fn print(text: &str) {
    print_bytes(escape(text).as_bytes());
}

/// Writes a line of JSON to standard output: all of it or nothing.
///
/// # Errors
/// If the value cannot be put into JSON.
pub fn print_json(value: &impl Serialize) -> serde_json::Result<()> {
    let text = serde_json::to_string(value)?;
    print_bytes(format!("{}\n", escape_json(&text)).as_bytes());
    Ok(())
}

/// Writes a line to standard error, with a label in a colour (an ANSI sequence, or nothing).
pub fn message(colour: &str, label: &str, text: &str) {
    let plain = if colour.is_empty() { "" } else { "\x1b[0m" };
    // Nothing is left to say it to.
    let _ = writeln!(io::stderr(), "{colour}{label}{plain}{}", escape(text));
}

/// Whether standard output takes nothing more: what only prints may stop.
pub fn is_closed() -> bool {
    failed().is_some()
}

/// The error of standard output, if there was one. A reader that has seen enough (`| head`) is none.
///
/// # Errors
/// Those of the operating system.
pub fn finish() -> io::Result<()> {
    print_bytes(&[]);
    match failed().take() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(io::Error::new(error.kind(), format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_drive_a_terminal_is_escaped() {
        let cases = [
            ("plain \u{e9}\u{4e2d}\n\tline", "plain \u{e9}\u{4e2d}\n\tline"),
            ("\x1b[2Jgone", "\\u{1b}[2Jgone"),
            ("bell\x07 back\x08 return\r", "bell\\u{7} back\\u{8} return\\r"),
            ("\u{9b}31m \x7f", "\\u{9b}31m \\u{7f}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
        ];
        for (text, expected) in cases {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn json_is_escaped_and_reads_back() {
        let name = "\x1b[31m\u{9b}x\x7f\u{202e}\n\u{e9}";
        let text = serde_json::to_string(name).unwrap();
        let escaped = escape_json(&text);
        assert!(!escaped.contains(is_unsafe), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), name);
    }
}
