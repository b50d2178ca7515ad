//! What a program of a device says to its standard error is shown, but cannot drive the user's terminal: control
//! characters in it are escaped.

use super::AnswerLimits;
use std::io::{self, Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// The longest piece that is shown at once, bytes.
const PIECE: usize = 8 << 10;

/// How long the last output of a program that has ended is waited for.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Where a program's standard error goes: to the user as it is, where the program is the user's; else through
/// [`Shown`].
pub(super) fn stderr(limits: &AnswerLimits) -> Stdio {
    if limits.time.is_none() { Stdio::inherit() } else { Stdio::piped() }
}

/// A program's standard error on its way to ours.
pub(super) struct Shown(Receiver<()>);

impl Shown {
    /// Shows what a program says from now on, if its standard error is a pipe to here.
    pub(super) fn of(child: &mut Child) -> Self {
        let (done, ended) = mpsc::channel();
        let pipe = child.stderr.take();
        thread::spawn(move || {
            if let Some(pipe) = pipe {
                relay(pipe, &mut io::stderr());
            }
            drop(done);
        });
        Self(ended)
    }

    /// Waits for the last output, but not for what a program left running may say.
    pub(super) fn finish(self) {
        let _ = self.0.recv_timeout(LAST_OUTPUT);
    }
}

fn relay(mut from: impl Read, to: &mut impl Write) {
    let mut piece = vec![0; PIECE];
    // Bytes of a character whose end has not come.
    let mut kept = 0;
    loop {
        let read = match from.read(&mut piece[kept..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(read) if read > 0 => read,
            _ => break,
        };
        let there = kept + read;
        let whole = match std::str::from_utf8(&piece[..there]) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => there,
        };
        let text = escape(&String::from_utf8_lossy(&piece[..whole]));
        // Where nobody can be told, the program still must not wait.
        let _ = to.write_all(text.as_bytes());
        piece.copy_within(whole..there, 0);
        kept = there - whole;
    }
    let _ = to.write_all(escape(&String::from_utf8_lossy(&piece[..kept])).as_bytes());
}

fn escape(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let bad = |c: char| (c.is_control() && c != '\n' && c != '\t') || turns(c);
    text.chars().map(|c| if bad(c) { c.escape_default().to_string() } else { c.into() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one at a time.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            into[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn what_a_device_says_cannot_drive_the_terminal() {
        let cases: [(&[u8], &str); 4] = [
            ("plain caf\u{e9}\n\tline\n".as_bytes(), "plain caf\u{e9}\n\tline\n"),
            (b"\x1b]52;c;cm0=\x07\r", "\\u{1b}]52;c;cm0=\\u{7}\\r"),
            ("\u{9b}31m\u{202e}".as_bytes(), "\\u{9b}31m\\u{202e}"),
            (b"torn \xe4\xb8", "torn \u{fffd}"),
        ];
        for (said, expected) in cases {
            for mut from in [Box::new(said) as Box<dyn Read>, Box::new(Drops(said))] {
                let mut shown = Vec::new();
                relay(&mut from, &mut shown);
                assert_eq!(String::from_utf8(shown).unwrap(), expected);
            }
        }
    }
}
