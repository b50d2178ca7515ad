//! Writes a target into a lock, and leaves the bytes of the other targets alone.
//!
//! A target is the run of lines from its first header, `[target.NAME]`, up to the next target's. Comments and blank lines
//! before that header belong to the next target. What comes out is read again before it is written: if it does not say
//! what it should, somebody laid the file out in another way, and it is left as it is.

use super::read::text_of;
use super::text::{key, line, profile_digest, quoted};
use super::{Input, LOCK_VERSION, Lock, LockError, LockedGroup, LockedTarget, Measured};
use crate::files;
use crate::size::ImageSize;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::fs::File;
use std::path::Path;

/// Writes a target into the lock of a path, in place of what it says about the target so far. The file is made where
/// there is none. Another process that enters a target meanwhile is waited for.
///
/// # Errors
/// If it cannot be read or written, or is no lock, or is laid out in another way than this writes it: then it is as it
/// was.
pub fn enter(path: &Path, name: &str, target: &LockedTarget) -> Result<(), LockError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Goes with the handle; a file system without locks has none.
    let _held = File::open(folder).and_then(|folder| folder.lock().map(|()| folder)).ok();
    let old = text_of(path)?;
    let mut expected = old.as_deref().map_or(Ok(Lock::default()), |text| Lock::parse(path, text))?;
    expected.targets.insert(name.to_owned(), target.clone());
    let text = replaced(old.as_deref().unwrap_or(&head()), name, &block(name, target));
    if !Lock::parse(path, &text).is_ok_and(|read| read == expected) {
        let problem = format!("is not laid out as secateurs writes it: remove target {} by hand", key(name));
        return Err(LockError::Format { path: path.into(), problem });
    }
    files::write_atomic(path, text.as_bytes()).map_err(|source| LockError::Io { path: path.into(), source })
}

/// A lock of one target.
pub fn text(name: &str, target: &LockedTarget) -> String {
    replaced(&head(), name, &block(name, target))
}

/// What a lock without targets says.
fn head() -> String {
    format!(
        "# Written by secateurs; made to be committed. `prune --locked` applies these plans, and fails where an input is\n\
         # another.\n\
         lock-version = {LOCK_VERSION}\n"
    )
}

/// The text of a lock with the lines of one target replaced.
fn replaced(text: &str, name: &str, block: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let blank = |line: &str| line.trim().is_empty();
    let comment = |line: &str| blank(line) || line.trim_start().starts_with('#');
    let name = key(name);
    let owners: Vec<Option<&str>> = lines
        .iter()
        .scan(None, |owner, line| {
            *owner = header(line).or(*owner);
            Some(*owner)
        })
        .collect();
    let own = |at: &usize| owners[*at] == Some(name.as_str());
    let known = (0..lines.len()).find(own);
    let (start, end) = match known {
        Some(start) => {
            let after = (start..lines.len()).find(|at| !own(at)).unwrap_or(lines.len());
            let last = (start..after).rev().find(|at| !comment(lines[*at])).unwrap_or(start);
            (start, last + 1)
        }
        None => {
            let next = (0..lines.len()).find(|at| owners[*at].is_some_and(|other| other > name.as_str()));
            let next = next.unwrap_or(lines.len());
            let above = (0..next).rev().take_while(|at| comment(lines[*at]) && !blank(lines[*at])).count();
            (next - above, next - above)
        }
    };
    let (mut before, after) = (lines[..start].concat(), lines[end..].concat());
    if !before.is_empty() && !before.ends_with('\n') {
        before.push('\n');
    }
    let parted = |text: &str| text.is_empty() || text.ends_with("\n\n") || text.ends_with("\n\r\n");
    // What stands above a target that is replaced may be a comment of its own.
    let above = if known.is_some() || parted(&before) { "" } else { "\n" };
    let below = if after.is_empty() || after.lines().next().is_some_and(blank) { "" } else { "\n" };
    format!("{before}{above}{block}{below}{after}")
}

/// The target that a line begins a table of, as the line writes its name.
fn header(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("[[").or_else(|| line.strip_prefix('['))?.strip_prefix("target.")?;
    let end = match rest.strip_prefix('"') {
        None => rest.find(['.', ']'])?,
        Some(inside) => {
            let mut escaped = false;
            2 + inside.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?
        }
    };
    Some(&rest[..end])
}

/// The lines of a target.
fn block(name: &str, target: &LockedTarget) -> String {
    let LockedTarget { inputs, imgsz, board, plan, files, manifest, measured } = target;
    let mut text = String::new();
    let mut put = |name: &str, value: &dyn Display| {
        let _ = writeln!(text, "{name} = {value}");
    };
    put("board", &quoted(board));
    inputs.compiler.iter().for_each(|compiler| put("compiler", &quoted(compiler)));
    put("cuda", &inputs.cuda);
    let features: Vec<String> = inputs.features.iter().map(|feature| quoted(feature)).collect();
    put("features", &format!("[{}]", features.join(", ")));
    put("imgsz", &size(*imgsz));
    put("manifest", &quoted(manifest));
    put("profile-sha256", &quoted(&profile_digest(&inputs.profile)));
    put("seed", &inputs.seed);
    put("skip-bad-images", &inputs.skip_bad_images);
    put("version", &quoted(&inputs.version));
    let hashes = files.iter().map(|(name, hash)| format!("{} = {}\n", key(name), quoted(hash))).collect();
    let profile = inputs.profile.iter().map(|(name, value)| format!("{name} = {}\n", line(value))).collect();
    let tables: [(&str, String); 7] = [
        ("data", inputs.data.as_ref().map(input).unwrap_or_default()),
        ("files", hashes),
        ("measured", figures(measured)),
        ("model", input(&inputs.model)),
        ("plan", groups(plan)),
        ("profile", profile),
        ("profile-file", input(&inputs.profile_file)),
    ];
    let name = key(name);
    let mut all = format!("[target.{name}]\n{text}");
    for (table, lines) in tables {
        // `profile` and `files` must be there, also without values.
        if !lines.is_empty() || ["files", "profile"].contains(&table) {
            let _ = write!(all, "\n[target.{name}.{table}]\n{lines}");
        }
    }
    all
}

/// One side of a square, or height and width.
fn size(size: ImageSize) -> String {
    match size.is_square() {
        true => size.height.to_string(),
        false => format!("[{}, {}]", size.height, size.width),
    }
}

fn input(input: &Input) -> String {
    format!("path = {}\nsha256 = {}\n", quoted(&input.path), quoted(&input.sha256))
}

fn groups(plan: &BTreeMap<String, LockedGroup>) -> String {
    let group = |(name, group): (&String, &LockedGroup)| {
        let LockedGroup { before, width, kept } = group;
        format!("{} = {{ before = {before}, kept = {kept:?}, width = {width} }}\n", key(name))
    };
    plan.iter().map(group).collect()
}

/// The figures that there are; those that are not finite are none.
fn figures(measured: &Measured) -> String {
    let float = |value: Option<f64>| value.filter(|value| value.is_finite()).map(|value| format!("{value:?}"));
    let values = [
        ("accuracy", float(measured.accuracy)),
        ("latency-ratio", float(measured.latency_ratio)),
        ("map50-95", float(measured.map50_95)),
        ("p50-bound-ms", float(measured.p50_bound_ms)),
        ("p50-ms", float(measured.p50_ms)),
        ("p99-bound-ms", float(measured.p99_bound_ms)),
        ("p99-ms", float(measured.p99_ms)),
        ("params", Some(measured.params.to_string())),
        ("peak-memory-bytes", Some(measured.peak_memory_bytes.to_string())),
        ("simulated", measured.simulated.as_deref().map(quoted)),
    ];
    values.into_iter().filter_map(|(name, value)| Some(format!("{name} = {}\n", value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_takes_its_place_and_the_others_keep_their_bytes() {
        let old = "lock-version = 1\n\n# of b\n[target.b]\nx = 1\n\n[target.b.y]\nz = 2\n\n# of d\n[target.d]\r\nx = 3";
        let b = "# of b\n[target.b]\nx = 1\n\n[target.b.y]\nz = 2\n";
        let d = "# of d\n[target.d]\r\nx = 3";
        for (name, expected) in [
            ("a", format!("lock-version = 1\n\nNEW\n\n{b}\n{d}")),
            ("b", format!("lock-version = 1\n\n# of b\nNEW\n\n{d}")),
            ("c", format!("lock-version = 1\n\n{b}\nNEW\n\n{d}")),
            ("d", format!("lock-version = 1\n\n{b}\n# of d\nNEW\n")),
            ("e", format!("lock-version = 1\n\n{b}\n{d}\n\nNEW\n")),
        ] {
            assert_eq!(replaced(old, name, "NEW\n"), expected, "{name}");
        }
    }

    #[test]
    fn headers_name_their_target() {
        for (line, expected) in [
            ("[target.host]", Some("host")),
            ("[target.host.plan]", Some("host")),
            ("[[target.host.plan]]", Some("host")),
            (r#"[target."my.b\"oard".plan]"#, Some(r#""my.b\"oard""#)),
            (r#"[target."\\"]"#, Some(r#""\\""#)),
            ("[other.host]", None),
            ("[target.", None),
            ("[target.\"", None),
            ("x = 1", None),
        ] {
            assert_eq!(header(line), expected, "{line}");
        }
    }
}
