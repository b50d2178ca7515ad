//! Rules of the house that no compiler checks: modules import only lower floors, `unsafe` stays in the kernels,
//! files stay readable, and every one says what it is for.

use std::fs;
use std::path::{Path, PathBuf};

/// Every top-level module, floor by floor; within a floor a module may import those before it.
const FLOORS: [&[&str]; 7] = [
    &["files", "graph", "kernels", "board"],
    &["model", "engine", "vision"],
    &["detector", "zoo", "import", "profile", "device", "backend"],
    &["group", "surgery", "memory", "search", "latency", "quantise", "repair", "importance"],
    &["data", "eval", "train"],
    &["bench", "session", "emit", "report"],
    &["pipeline"],
];

/// Imports that go up although the rule forbids it, each with its reason: none.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Where `unsafe` may be: the kernels, and the allocator with which a test counts what the engine takes.
const UNSAFE: [&str; 2] = ["src/kernels", "tests/engine_memory.rs"];

const MAX_LINES: usize = 700;

/// A source file of this repository.
struct File {
    path: PathBuf,
    text: String,
    /// The text without comments, strings and character literals; lines stay where they are.
    code: String,
}

fn files_under(folders: &[&str]) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = code_of(&text);
                files.push(File { path: path.strip_prefix(root).unwrap().into(), text, code });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Replaces comments, strings and character literals by spaces.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => block_comment(rest),
            [b'"', ..] => string(rest),
            [b'r', b'"' | b'#', ..] if !word_before => raw_string(rest),
            [b'\'', b'\\', ..] => 3 + rest[3..].iter().position(|b| *b == b'\'').unwrap_or(0),
            // A character of up to four bytes; anything else is a lifetime.
            [b'\'', ..] => rest[1..].iter().take(5).skip(1).position(|b| *b == b'\'').map_or(0, |end| end + 3),
            _ => 0,
        };
        let is_lifetime =
            rest[0] == b'\'' && text[at + 1..].chars().nth(1) != Some('\'') && rest.get(1) != Some(&b'\\');
        let length = if is_lifetime { 0 } else { length.min(rest.len()) };
        out[at..at + length].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at += length.max(1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = &rest[2 + hashes..];
    body.windows(end.len()).position(|w| w == end).map_or(rest.len(), |found| 2 + hashes + found + end.len())
}

/// The modules that follow `prefix` in the code: `crate::a::b` and `crate::{a::b, c}`, with their lines.
fn modules_after(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(first_names(list).into_iter().map(|name| (line, name))),
            None => found.push((line, ident(rest))),
        }
    }
    found
}

fn ident(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first name of each entry of a braced list whose opening brace is gone.
fn first_names(list: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (1, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            names.push(ident(list[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn place(module: &str) -> Option<usize> {
    FLOORS.iter().flat_map(|floor| floor.iter()).position(|name| *name == module)
}

/// The top-level module that a path below `src` belongs to.
fn room(path: &Path) -> Option<String> {
    let inside = path.strip_prefix("src").ok()?;
    let first = inside.components().next()?.as_os_str().to_string_lossy().into_owned();
    let name = first.strip_suffix(".rs").map_or(first.clone(), str::to_owned);
    (name != "lib" && name != "bin").then_some(name)
}

fn fail_if_any(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn modules_import_only_lower_floors() {
    let mut problems = Vec::new();
    for file in files_under(&["src"]) {
        let Some(here) = room(&file.path) else { continue };
        let path = file.path.display();
        let Some(own) = place(&here) else {
            problems
                .push(format!("{path}: `{here}` has no floor yet: enter it in tests/floors.rs and ARCHITECTURE.md"));
            continue;
        };
        for (line, other) in modules_after(&file.code, "crate::") {
            match place(&other) {
                Some(floor) if floor <= own || EXCEPTIONS.contains(&(&here, &other)) => {}
                Some(_) => problems.push(format!("{path}:{line}: `{here}` imports `{other}`, which stands above it")),
                None => problems.push(format!("{path}:{line}: `crate::{other}` is no module with a floor")),
            }
        }
    }
    fail_if_any(problems);
}

/// Whether a place lies in a macro's definition: its paths count where it is called.
fn in_macro(code: &str, at: usize) -> bool {
    let start = code[..at].rfind("macro_rules!");
    start.is_some_and(|start| !code[start..at].contains("\n}"))
}

/// `super` leads upward inside a room; who leaves the room says `crate`, so that the test above sees it.
#[test]
fn super_stays_in_the_room() {
    let mut problems = Vec::new();
    for file in files_under(&["src"]) {
        if room(&file.path).is_none() {
            continue;
        }
        // `src/room/mod.rs` and `src/room.rs` are one level deep, `src/room/part.rs` two.
        let depth = file.path.components().count() - if file.path.ends_with("mod.rs") { 2 } else { 1 };
        let inline_modules = file.code.find("mod tests {").unwrap_or(file.code.len());
        for (at, _) in file.code.match_indices("super::") {
            if file.code[..at].ends_with("super::") || in_macro(&file.code, at) {
                continue;
            }
            let mut chain = 0;
            let mut rest = &file.code[at..];
            while let Some(next) = rest.strip_prefix("super::") {
                (chain, rest) = (chain + 1, next);
            }
            let allowed = depth - 1 + usize::from(at > inline_modules);
            if chain > allowed {
                let line = file.code[..at].matches('\n').count() + 1;
                problems
                    .push(format!("{}:{line}: leaves its room through `super`, write `crate::`", file.path.display()));
            }
        }
    }
    fail_if_any(problems);
}

#[test]
fn every_module_has_one_floor() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: Vec<String> =
        code_of(&lib).lines().filter_map(|line| Some(ident(line.strip_prefix("pub mod ")?))).collect();
    let problems: Vec<String> =
        declared.iter().filter(|m| place(m).is_none()).map(|m| format!("src/lib.rs: `{m}` has no floor")).collect();
    fail_if_any(problems);
    assert!(declared.len() > 5, "src/lib.rs declares {} modules", declared.len());
    let mut names: Vec<&str> = FLOORS.concat();
    names.sort_unstable();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "a module has two floors: {names:?}");
}

#[test]
fn unsafe_stays_where_it_must_be() {
    let mut problems = Vec::new();
    for file in files_under(&["src", "xtask", "tests", "benches"]) {
        if UNSAFE.iter().any(|allowed| file.path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in file.code.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == "unsafe") {
                problems.push(format!(
                    "{}:{}: unsafe outside {}",
                    file.path.display(),
                    number + 1,
                    UNSAFE.join(" and ")
                ));
            }
        }
    }
    fail_if_any(problems);
}

/// The macros panic where the output is closed, and let control characters through: binaries write by their `output`.
#[test]
fn nothing_prints_past_the_one_place_for_text() {
    let mut problems = Vec::new();
    for file in files_under(&["src/bin", "xtask/src"]) {
        for (number, line) in file.code.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '!');
            if words.any(|word| ["print!", "println!", "eprint!", "eprintln!"].contains(&word)) {
                problems.push(format!("{}:{}: expected a function of `output`", file.path.display(), number + 1));
            }
        }
    }
    fail_if_any(problems);
}

#[test]
fn features_appear_on_module_lines_only() {
    let mut problems = Vec::new();
    for file in files_under(&["src"]) {
        let code = code_of(&file.text);
        let mut lines = code.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            if !line.contains("cfg(feature") && !line.contains("cfg(not(feature") && !line.contains("cfg_attr(feature")
            {
                continue;
            }
            let next = lines.clone().map(|(_, line)| line.trim()).find(|line| !line.starts_with("#["));
            if !next.is_some_and(|line| line.starts_with("mod ") || line.starts_with("pub mod ")) {
                problems.push(format!(
                    "{}:{}: a feature decides about something else than a module",
                    file.path.display(),
                    number + 1
                ));
            }
        }
    }
    fail_if_any(problems);
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut problems = Vec::new();
    let files = files_under(&["src", "xtask", "tests", "benches"]);
    for file in &files {
        let (path, lines) = (file.path.display(), file.text.lines().count());
        if lines > MAX_LINES {
            problems.push(format!("{path}: {lines} lines, at most {MAX_LINES}"));
        }
        if !file.text.starts_with("//! ") {
            problems.push(format!("{path}: does not open with `//!`"));
        }
    }
    fail_if_any(problems);
    assert!(files.len() > 50, "only {} files were found", files.len());
}

#[test]
fn the_rules_see_what_they_should() {
    let text = "//! crate::pipeline\nuse crate::{graph::{Op, Node}, model};\nlet s = \"crate::emit\"; /* crate::data */\n\
                let q = '\"'; let r = r#\"crate::eval \" \"#; fn f<'a>(x: &'a crate::engine::Engine) -> char { '\\'' }\n";
    let names: Vec<(usize, String)> = modules_after(&code_of(text), "crate::");
    let expected = [(2, "graph"), (2, "model"), (4, "engine")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(names, expected);
    assert!(place("pipeline") > place("report") && place("report") > place("graph"));
    assert_eq!(room(Path::new("src/search/solve.rs")).as_deref(), Some("search"));
    assert_eq!(room(Path::new("src/detector.rs")).as_deref(), Some("detector"));
    assert_eq!(room(Path::new("src/bin/secateurs/main.rs")), None);
}
