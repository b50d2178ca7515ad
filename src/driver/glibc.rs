//! Versions of the C library: what a device has, and what a program needs.

use super::process::Failure;
use std::path::Path;

/// A version of the C library, such as 2.34.
pub type Glibc = (u32, u32);

/// Reads `2.34`.
pub fn parse(text: &str) -> Option<Glibc> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

/// Refuses a program that needs a newer C library than the device has, where that is known.
///
/// # Errors
/// If the file cannot be read, or needs a newer one.
pub fn check(program: &Path, has: Option<Glibc>) -> Result<(), Failure> {
    let Some(has) = has else { return Ok(()) };
    let bytes = std::fs::read(program).map_err(|e| Failure::Workspace(format!("{}: {e}", program.display())))?;
    match needed(&bytes) {
        Some(needs) if needs > has => Err(Failure::Toolchain(format!(
            "{} needs glibc {}.{}, the device has {}.{}: install cargo-zigbuild, which links against that version \
             (pip install ziglang && cargo install --locked cargo-zigbuild)",
            program.display(),
            needs.0,
            needs.1,
            has.0,
            has.1
        ))),
        _ => Ok(()),
    }
}

/// The newest version of the C library that the symbols of a program ask for.
fn needed(program: &[u8]) -> Option<Glibc> {
    const MARK: &[u8] = b"GLIBC_";
    let starts = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let version = |(at, _): (usize, &[u8])| {
        let rest = &program[at + MARK.len()..];
        let text: String = rest.iter().take(8).map(|b| char::from(*b)).take_while(|c| *c != '\0').collect();
        parse(&text)
    };
    starts.filter_map(version).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_that_a_program_needs_is_read_from_its_symbols() {
        let program = b"..\0GLIBC_2.17\0fmod\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0";
        assert_eq!(needed(program), Some((2, 34)));
        assert_eq!(needed(b"static"), None);
        assert_eq!(parse("2.36"), Some((2, 36)));
    }
}
