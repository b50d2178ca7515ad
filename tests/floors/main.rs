//! Rules of the house that no compiler checks: modules import only lower floors, no two files import each other, `unsafe`
//! stays where it is tested, files and functions stay readable, and every file says what it is for.

mod imports;
mod source;

use source::{Token, behind, files_under, follows, is_name, tokens};
use std::fs;
use std::path::Path;

/// Every top-level module, floor by floor; within a floor a module may import those before it.
const FLOORS: [&[&str]; 8] = [
    &["files", "output", "size", "graph", "kernels", "board", "ranks"],
    &["model", "engine", "vision"],
    &["detector", "zoo", "import", "profile", "device", "backend", "training"],
    &["group", "surgery", "memory", "search", "latency", "quantise", "repair", "importance"],
    &["data", "eval", "train"],
    &["console", "bench", "detection", "session", "emit", "runtimes", "report", "bundle", "build"],
    &["driver", "pipeline"],
    &["cli"],
];

/// Imports that go up although the rule forbids it, each with its reason: none.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Where `unsafe` may be: the kernels, the training operators of the CPU, and the allocators with which tests count what
/// the engine and a camera's loop take.
const UNSAFE: [&str; 4] = ["src/kernels", "src/backend/cpu", "tests/engine_memory.rs", "tests/camera_memory.rs"];

/// The size of what fits one sitting, tests included.
const MAX_LINES: usize = 500;
const MAX_FUNCTION: usize = 80;
const MAX_ARGUMENTS: usize = 7;

/// The modules that follow `crate::` in the code, as `crate::a::b` or `crate::{a::b, c}`, with their lines.
fn modules_of_crate(tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if !follows(tokens, at, &["crate", ":", ":"]) || (at > 0 && [":", "$"].contains(&tokens[at - 1].text.as_str()))
        {
            continue;
        }
        let first = at + 3;
        if !follows(tokens, first, &["{"]) {
            found.push((tokens[first].line, tokens[first].text.clone()));
            continue;
        }
        let end = behind(tokens, first) - 1;
        let mut next = first + 1;
        while next < end {
            found.push((tokens[next].line, tokens[next].text.clone()));
            while next < end && tokens[next].text != "," {
                next = if tokens[next].text == "{" { behind(tokens, next) } else { next + 1 };
            }
            next += 1;
        }
    }
    found
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
            problems.push(format!("{path}: `{here}` has no floor yet: enter it in tests/floors and ARCHITECTURE.md"));
            continue;
        };
        for (line, other) in modules_of_crate(&file.tokens) {
            match place(&other) {
                Some(floor) if floor <= own || EXCEPTIONS.contains(&(&here, &other)) => {}
                Some(_) => problems.push(format!("{path}:{line}: `{here}` imports `{other}`, which stands above it")),
                None => problems.push(format!("{path}:{line}: `crate::{other}` is no module with a floor")),
            }
        }
    }
    fail_if_any(problems);
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
        for (at, chain, inline) in supers(&file.tokens) {
            if chain > depth - 1 + inline {
                let line = file.tokens[at].line;
                problems
                    .push(format!("{}:{line}: leaves its room through `super`, write `crate::`", file.path.display()));
            }
        }
    }
    fail_if_any(problems);
}

/// Every chain of `super::`: its place, its length, and the modules within the file that it stands in. Those of macros
/// are left out: their paths count where they are called.
fn supers(tokens: &[Token]) -> Vec<(usize, usize, usize)> {
    let mut found = Vec::new();
    let mut modules: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        modules.retain(|end| *end > at);
        if tokens[at].text == "mod" && tokens.get(at + 2).is_some_and(|open| open.text == "{") {
            modules.push(behind(tokens, at + 2));
        }
        if follows(tokens, at, &["macro_rules", "!"]) {
            at = behind(tokens, at + 3);
            continue;
        }
        let start = at;
        while follows(tokens, at, &["super", ":", ":"]) {
            at += 3;
        }
        match (at - start) / 3 {
            0 => at += 1,
            chain => found.push((start, chain, modules.len())),
        }
    }
    found
}

#[test]
fn every_module_has_one_floor() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: Vec<String> =
        lib.lines().filter_map(|line| Some(line.strip_prefix("pub mod ")?.trim_end_matches(';').to_owned())).collect();
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
        for token in file.tokens.iter().filter(|token| token.text == "unsafe") {
            problems.push(format!("{}:{}: unsafe outside {}", file.path.display(), token.line, UNSAFE.join(" and ")));
        }
    }
    fail_if_any(problems);
}

/// The macros panic where the output is closed, and let control characters through: text goes through `output`.
#[test]
fn nothing_prints_past_the_one_place_for_text() {
    let mut problems = Vec::new();
    for file in files_under(&["src", "xtask/src"]) {
        for (at, token) in file.tokens.iter().enumerate() {
            let prints = ["print", "println", "eprint", "eprintln"].contains(&token.text.as_str());
            if prints && follows(&file.tokens, at + 1, &["!"]) {
                problems.push(format!("{}:{}: expected a function of `output`", file.path.display(), token.line));
            }
        }
    }
    fail_if_any(problems);
}

#[test]
fn features_appear_on_module_lines_only() {
    let mut problems = Vec::new();
    for file in files_under(&["src"]) {
        let mut at = 0;
        while at < file.tokens.len() {
            if !follows(&file.tokens, at, &["#"]) {
                at += 1;
                continue;
            }
            // All attributes of an item, then the item.
            let (start, mut features) = (at, false);
            while follows(&file.tokens, at, &["#"]) {
                let open = at + 1 + usize::from(follows(&file.tokens, at + 1, &["!"]));
                let end = behind(&file.tokens, open);
                let attribute = &file.tokens[open..end];
                let cfg = attribute.get(1).is_some_and(|name| ["cfg", "cfg_attr"].contains(&name.text.as_str()));
                features |= cfg && attribute.iter().any(|token| token.text == "feature");
                at = end;
            }
            if features && !follows(&file.tokens, at, &["mod"]) && !follows(&file.tokens, at, &["pub", "mod"]) {
                let (path, line) = (file.path.display(), file.tokens[start].line);
                problems.push(format!("{path}:{line}: a feature decides about something else than a module"));
            }
        }
    }
    fail_if_any(problems);
}

#[test]
fn no_two_files_import_each_other() {
    let files = files_under(&["src", "xtask"]);
    let roots = ["src/lib.rs", "src/bin/infer/main.rs", "xtask/src/main.rs"];
    fail_if_any(roots.iter().flat_map(|root| imports::loops(&files, root)).collect());
}

#[test]
fn files_and_functions_are_short_and_say_what_they_are_for() {
    let mut problems = Vec::new();
    let files = files_under(&["src", "xtask", "tests", "benches", "examples"]);
    for file in &files {
        let (path, lines) = (file.path.display(), file.text.lines().count());
        if lines > MAX_LINES {
            problems.push(format!("{path}: {lines} lines, at most {MAX_LINES}"));
        }
        if !file.text.starts_with("//! ") {
            problems.push(format!("{path}: does not open with `//!`"));
        }
        for function in functions(&file.tokens) {
            let place = format!("{path}:{}: `{}`", function.line, function.name);
            if function.lines > MAX_FUNCTION {
                problems.push(format!("{place} has {} lines, at most {MAX_FUNCTION}", function.lines));
            }
            if function.arguments > MAX_ARGUMENTS {
                problems.push(format!("{place} has {} arguments, at most {MAX_ARGUMENTS}", function.arguments));
            }
        }
    }
    fail_if_any(problems);
    assert!(files.len() > 50, "only {} files were found", files.len());
}

/// A function and its size.
#[derive(Debug, PartialEq)]
struct Function {
    name: String,
    line: usize,
    lines: usize,
    arguments: usize,
}

/// Every function with a body or without.
fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let Some(name) = tokens.get(at + 1).filter(|name| tokens[at].text == "fn" && is_name(name)) else { continue };
        let is_open = |text: &str| tokens[at..].iter().position(|token| token.text == text).map(|place| at + place);
        let Some(open) = is_open("(") else { continue };
        let close = behind(tokens, open) - 1;
        let end = tokens[close..].iter().position(|token| token.text == "{" || token.text == ";");
        let end = behind(tokens, end.map_or(close, |place| close + place)).clamp(1, tokens.len()) - 1;
        let lines = tokens[end].line + 1 - tokens[at].line;
        found.push(Function {
            name: name.text.clone(),
            line: tokens[at].line,
            lines,
            arguments: arguments(&tokens[open + 1..close]),
        });
    }
    found
}

/// How many arguments stand between two brackets.
fn arguments(tokens: &[Token]) -> usize {
    let (mut count, mut angles, mut at, mut pending) = (0, 0, 0, false);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "(" | "[" | "{" => {
                (at, pending) = (behind(tokens, at), true);
                continue;
            }
            "<" => angles += 1,
            ">" if at == 0 || tokens[at - 1].text != "-" => angles -= 1,
            "," if angles == 0 => {
                (count, pending, at) = (count + usize::from(pending), false, at + 1);
                continue;
            }
            _ => {}
        }
        (at, pending) = (at + 1, true);
    }
    count + usize::from(pending)
}

#[test]
fn the_rules_see_what_they_should() {
    let text = "//! crate::pipeline\nuse crate::{graph::{Op, Node}, model};\nlet s = \"crate::emit\"; /* crate::data */\n\
                let q = '\"'; let r = r#\"crate::eval \" \"#; fn f<'a>(x: &'a crate::engine::Engine) -> char { '\\'' }\n";
    let all = tokens(text).unwrap();
    let expected = [(2, "graph"), (2, "model"), (4, "engine")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(modules_of_crate(&all), expected);
    let text = "fn a(&self, b: Map<u8, (u8, u8)>, c: impl Fn(u8, u8) -> Vec<u8>,) {\n\n}\nfn none();";
    let sizes: Vec<(usize, usize, usize)> =
        functions(&tokens(text).unwrap()).iter().map(|f| (f.line, f.lines, f.arguments)).collect();
    assert_eq!(sizes, [(1, 3, 3), (4, 1, 0)]);
    let chains =
        supers(&tokens("use super::super::a; mod b { use super::c; } macro_rules! m { () => { super::d } }").unwrap());
    assert_eq!(chains.iter().map(|(_, chain, inline)| (*chain, *inline)).collect::<Vec<_>>(), [(2, 0), (1, 1)]);
    assert!(place("pipeline") > place("report") && place("report") > place("graph"));
    assert_eq!(room(Path::new("src/search/solve.rs")).as_deref(), Some("search"));
    assert_eq!(room(Path::new("src/detector.rs")).as_deref(), Some("detector"));
    assert_eq!(room(Path::new("src/bin/infer/main.rs")), None);
}
