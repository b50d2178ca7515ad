//! Which file takes names from which: `use` and paths in code, followed through re-exports to the file that defines the
//! name. Handing a name on (`mod`, `pub use`) is no import; using it is. What a module takes from the modules around it
//! (`super`) is left out: these are one unit in Rust, and the outer one holds the contract of its parts.

use super::source::{Source, Token, behind, follows, is_name, without_tests};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The modules of one crate.
pub struct Crate<'a> {
    modules: BTreeMap<Vec<String>, Module<'a>>,
}

/// A file of a crate.
struct Module<'a> {
    path: &'a Path,
    tokens: Vec<Token>,
    defines: BTreeSet<String>,
    uses: Vec<Use>,
}

/// One name that a `use` brings in.
#[derive(Clone, Debug, PartialEq)]
struct Use {
    /// The whole path, `*` last for all names of a module.
    path: Vec<String>,
    /// The name it has here.
    name: String,
    /// Whether it is handed on.
    public: bool,
}

/// Files that take names from each other in a loop, each loop once, and why.
pub fn loops(sources: &[Source], root: &str) -> Vec<String> {
    let whole = Crate::new(sources, root);
    let edges = whole.edges();
    components(&edges)
        .into_iter()
        .map(|files| {
            let ties = edges.iter().filter(|((from, to), _)| files.contains(from) && files.contains(to));
            let ties = ties.map(|((from, to), names)| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                format!("  {} -> {}: {}", from.display(), to.display(), names.join(", "))
            });
            format!("files import each other in a loop:\n{}", ties.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

type Edges<'a> = BTreeMap<(&'a Path, &'a Path), BTreeSet<String>>;

impl<'a> Crate<'a> {
    /// The files below the folder of a crate's root file.
    fn new(sources: &'a [Source], root: &str) -> Self {
        let folder = Path::new(root).parent().unwrap_or(Path::new(""));
        let mut modules = BTreeMap::new();
        for source in sources {
            let Ok(inside) = source.path.strip_prefix(folder) else { continue };
            // The binaries are crates of their own.
            if root == "src/lib.rs" && inside.starts_with("bin") {
                continue;
            }
            let mut module: Vec<String> =
                inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module.iter().any(|part| part == "tests") {
                continue;
            }
            if module.last().is_some_and(|last| last == "mod") || source.path == Path::new(root) {
                module.pop();
            }
            let tokens = without_tests(&source.tokens);
            let (defines, uses) = (definitions(&tokens), uses(&tokens));
            modules.insert(module, Module { path: &source.path, tokens, defines, uses });
        }
        Self { modules }
    }

    /// Who takes which names from whom.
    fn edges(&self) -> Edges<'a> {
        let mut edges = Edges::new();
        for (here, module) in &self.modules {
            for path in taken(module) {
                let Some(to) = self.resolve(here, &path, 0) else { continue };
                if (0..=here.len()).any(|depth| self.modules.get(&here[..depth]).is_some_and(|m| m.path == to)) {
                    continue;
                }
                edges.entry((module.path, to)).or_default().insert(path.last().cloned().unwrap_or_default());
            }
        }
        edges
    }

    /// The file that defines what a path means in a module.
    fn resolve(&self, here: &[String], path: &[String], depth: usize) -> Option<&'a Path> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => here.to_vec(),
            "super" => here[..here.len().checked_sub(1)?].to_vec(),
            name => {
                let child = [here, &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    child
                } else {
                    // A name that a `use` of this file brought in.
                    let brought = self.modules[here].uses.iter().find(|used| used.name == *name)?;
                    let whole = [&brought.path[..], rest].concat();
                    return if depth < 16 && whole != path { self.resolve(here, &whole, depth + 1) } else { None };
                }
            }
        };
        while let Some((next, more)) = rest.split_first() {
            if next == "super" {
                at.pop()?;
                rest = more;
                continue;
            }
            let child = [&at[..], std::slice::from_ref(next)].concat();
            if !self.modules.contains_key(&child) {
                break;
            }
            (at, rest) = (child, more);
        }
        let module = self.modules.get(&at)?;
        let Some(name) = rest.first() else { return Some(module.path) };
        if module.defines.contains(name) || depth >= 16 {
            return Some(module.path);
        }
        if let Some(used) = module.uses.iter().find(|used| used.name == *name) {
            let path = [&used.path[..], &rest[1..]].concat();
            return self.resolve(&at, &path, depth + 1);
        }
        let all = module.uses.iter().filter(|used| used.public && used.name == "*");
        let mut found = all.filter_map(|used| {
            let path = [&used.path[..used.path.len() - 1], rest].concat();
            self.resolve(&at, &path, depth + 1)
        });
        found.next().or(Some(module.path))
    }
}

/// The paths of everything that a file takes from others.
fn taken(module: &Module) -> Vec<Vec<String>> {
    let paths = paths(&module.tokens);
    let occurs = |name: &str| paths.iter().any(|path| path[0] == name);
    let used = module.uses.iter().filter(|used| !used.public || occurs(&used.name));
    used.map(|used| used.path.clone()).chain(paths.iter().filter(|path| path.len() > 1).cloned()).collect()
}

/// Names that a file defines outside any block.
fn definitions(tokens: &[Token]) -> BTreeSet<String> {
    const KINDS: [&str; 8] = ["struct", "enum", "trait", "fn", "const", "static", "type", "union"];
    let mut names = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        if ["(", "[", "{"].contains(&text) {
            at = behind(tokens, at);
            continue;
        }
        let next = tokens.get(at + 1).filter(|next| is_name(next) && !KINDS.contains(&next.text.as_str()));
        if let Some(next) = next.filter(|_| KINDS.contains(&text)) {
            names.insert(next.text.clone());
        }
        if follows(tokens, at, &["macro_rules", "!"]) {
            names.extend(tokens.get(at + 2).map(|name| name.text.clone()));
        }
        at += 1;
    }
    names
}

/// Everything that the `use` lines of a file bring in.
fn uses(tokens: &[Token]) -> Vec<Use> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if tokens[at].text != "use" {
            continue;
        }
        let public = at > 0 && ["pub", ")"].contains(&tokens[at - 1].text.as_str());
        expand(tokens, at + 1, &[], public, &mut found);
    }
    found
}

/// Reads one tree of a `use` and gives the place behind it.
fn expand(tokens: &[Token], mut at: usize, before: &[String], public: bool, found: &mut Vec<Use>) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            ":" => at += 1,
            "{" => {
                let end = behind(tokens, at);
                at += 1;
                while at < end - 1 {
                    at = expand(tokens, at, &path, public, found);
                    at += usize::from(follows(tokens, at, &[","]));
                }
                return end;
            }
            "*" => {
                path.push("*".into());
                found.push(Use { path, name: "*".into(), public });
                return at + 1;
            }
            "as" => {
                let name = tokens[at + 1].text.clone();
                found.push(Use { path, name, public });
                return at + 2;
            }
            _ if is_name(token) => {
                // `self` in braces means the module before them.
                if token.text != "self" || path.is_empty() {
                    path.push(token.text.clone());
                }
                at += 1;
            }
            _ => break,
        }
    }
    if let Some(name) = path.last().cloned() {
        found.push(Use { path, name, public });
    }
    at
}

/// Paths in the code of a file, those of one name too; `use` lines left out.
fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            while at < tokens.len() && tokens[at].text != ";" {
                at += 1;
            }
        }
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text.as_str());
        // Methods and fields, what follows `$crate`, lifetimes, and what is just being declared are no paths of this file.
        if at >= tokens.len() || !is_name(&tokens[at]) || [".", "$", "'", "mod", "fn"].contains(&before) {
            at += 1;
            continue;
        }
        let mut path = vec![tokens[at].text.clone()];
        at += 1;
        while follows(tokens, at, &[":", ":"]) && tokens.get(at + 2).is_some_and(is_name) {
            path.push(tokens[at + 2].text.clone());
            at += 3;
        }
        found.push(path);
    }
    found
}

/// Sets of more than one file, each of which reaches all others of its set.
fn components<'a>(edges: &Edges<'a>) -> Vec<BTreeSet<&'a Path>> {
    let reached = |from: &'a Path| {
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
        while let Some(file) = waiting.pop() {
            let next = edges.keys().filter(|(a, _)| *a == file).map(|(_, b)| *b);
            waiting.extend(next.filter(|file| seen.insert(*file)));
        }
        seen
    };
    let files: BTreeSet<&Path> = edges.keys().map(|(from, _)| *from).collect();
    let reach: BTreeMap<&Path, BTreeSet<&Path>> = files.iter().map(|file| (*file, reached(file))).collect();
    let mut found: Vec<BTreeSet<&Path>> = Vec::new();
    for (file, ahead) in &reach {
        let ring: BTreeSet<&Path> =
            ahead.iter().copied().filter(|other| reach.get(other).is_some_and(|back| back.contains(file))).collect();
        if ring.len() > 1 && !found.contains(&ring) {
            found.push(ring);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::source::tokens;
    use super::*;
    use std::path::PathBuf;

    fn source(path: &str, text: &str) -> Source {
        Source { path: PathBuf::from(path), text: text.into(), tokens: tokens(text).unwrap() }
    }

    #[test]
    fn a_loop_through_a_reexport_is_found_and_handing_on_is_none() {
        let files = |b: &str| {
            vec![
                source("src/lib.rs", "pub mod a;"),
                source("src/a/mod.rs", "mod b; mod c; pub use c::{C, d as e}; pub use b::B; pub struct Own;"),
                source("src/a/b.rs", b),
                source(
                    "src/a/c.rs",
                    "use super::b; pub struct C(b::B); pub fn d() {} #[cfg(test)] mod t { use crate::a::B; }",
                ),
            ]
        };
        for (b, name) in [("use super::C; pub struct B(C);", "C"), ("pub struct B; fn f() { crate::a::e() }", "e")] {
            let found = loops(&files(b), "src/lib.rs");
            assert!(found.len() == 1 && found[0].contains(&format!("src/a/b.rs -> src/a/c.rs: {name}")), "{found:?}");
        }
        for b in ["use super::Own; pub struct B(Own);", "pub struct B; // use super::C"] {
            assert_eq!(loops(&files(b), "src/lib.rs"), Vec::<String>::new());
        }
    }
}
