//! The crates that the inference binary is built of, for its bill of materials: what cargo resolves for its features
//! and target, with the hashes of the lock file that the build goes by.
//!
//! `cargo tree` is asked, and not `cargo metadata`: the latter resolves a whole workspace, whose other members may turn
//! on more features than this binary is built with. Dependencies of build scripts are left out: no byte of them is in
//! the binary.

use super::process::Failure;
use cargo_metadata::MetadataCommand;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use toml_edit::{DocumentMut, Item};

/// The crates of a binary, as the worker reads them.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Crates {
    /// Triple of the machine that it is built for.
    pub target: String,
    /// Features of `secateurs` that it is built with.
    pub features: Vec<String>,
    /// The crates; the first is the package of the binary.
    pub crates: Vec<Crate>,
}

/// A crate of a binary.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, where the package names one.
    pub license: Option<String>,
    /// Where it comes from as in `Cargo.lock`; none for a folder.
    pub source: Option<String>,
    /// SHA-256 of the package's archive, from `Cargo.lock`.
    pub sha256: Option<String>,
    /// Whether only procedural macros need it, or it is one.
    pub build_only: bool,
    /// Positions of the crates that it depends on, ascending.
    pub dependencies: BTreeSet<usize>,
}

/// Asks cargo for the crates of the inference binary, whose package lies in a folder.
///
/// # Errors
/// If cargo cannot be run, does not know the target, or has no lock file.
pub fn list(folder: &Path, triple: &str, features: Vec<String>) -> Result<Crates, Failure> {
    let manifest = folder.join("Cargo.toml");
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.arg("tree").arg("--manifest-path").arg(&manifest).args(["--package", "secateurs"]);
    command.args(["--no-default-features", "--features", &features.join(","), "--target", triple]);
    command.args(["--edges", "normal", "--charset", "ascii", "--prefix", "depth", "--format", FORMAT]);
    let fail = |problem: String| Failure::Program { program: "cargo tree".into(), problem };
    let output = command.output().map_err(|e| fail(format!("cannot be started: {e}")))?;
    if !output.status.success() {
        return Err(fail(format!("fails: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let mut crates = parse(&String::from_utf8_lossy(&output.stdout)).map_err(fail)?;
    let metadata = MetadataCommand::new().manifest_path(&manifest).no_deps().exec();
    let root = metadata.map_err(|e| Failure::Workspace(format!("cargo metadata: {e}")))?.workspace_root;
    let lock = root.join("Cargo.lock");
    let text = fs::read_to_string(&lock).map_err(|e| Failure::Workspace(format!("{lock}: {e}")))?;
    let locked = locked(&text).map_err(|problem| Failure::Workspace(format!("{lock}: {problem}")))?;
    for one in &mut crates {
        if let Some((source, sha256)) = locked.get(&(one.name.clone(), one.version.clone())) {
            (one.source, one.sha256) = (source.clone(), sha256.clone());
        }
    }
    Ok(Crates { target: triple.to_owned(), features, crates })
}

/// How `cargo tree` shows a package: name, version and remarks, then the licence.
const FORMAT: &str = "{p}\t{l}";
/// A package whose own dependencies stand elsewhere in the tree.
const AGAIN: &str = " (*)";
const MACRO: &str = "(proc-macro)";

/// Reads the lines of `cargo tree`: the depth, then the package. The first is the root.
fn parse(tree: &str) -> Result<Vec<Crate>, String> {
    let mut crates: Vec<Crate> = Vec::new();
    let mut macros = BTreeSet::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut above: Vec<usize> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let fail = || format!("has a line that is no package: `{}`", line.escape_debug());
        let (package, license) = line.split_once('\t').ok_or_else(fail)?;
        let (depth, package) = package.split_at(package.bytes().take_while(u8::is_ascii_digit).count());
        let depth: usize = depth.parse().map_err(|_| fail())?;
        let mut parts = package.split(' ');
        let (Some(name), Some(version)) = (parts.next(), parts.next().and_then(|text| text.strip_prefix('v'))) else {
            return Err(fail());
        };
        let at = *places.entry(package).or_insert_with(|| {
            let license = license.strip_suffix(AGAIN).unwrap_or(license).trim();
            let license = (!license.is_empty()).then(|| license.to_owned());
            crates.push(Crate { name: name.to_owned(), version: version.to_owned(), license, ..Crate::default() });
            crates.len() - 1
        });
        if package.contains(MACRO) {
            macros.insert(at);
        }
        if depth > above.len() {
            return Err(fail());
        }
        above.truncate(depth);
        if let Some(parent) = above.last() {
            crates[*parent].dependencies.insert(at);
        }
        above.push(at);
    }
    if crates.is_empty() {
        return Err("names no package".into());
    }
    let linked = linked(&crates, &macros);
    for (at, one) in crates.iter_mut().enumerate() {
        one.build_only = !linked.contains(&at);
    }
    Ok(crates)
}

/// The crates that the root reaches without a procedural macro on the way.
fn linked(crates: &[Crate], macros: &BTreeSet<usize>) -> BTreeSet<usize> {
    let (mut linked, mut pending) = (BTreeSet::new(), vec![0]);
    while let Some(at) = pending.pop() {
        if !macros.contains(&at) && linked.insert(at) {
            pending.extend(&crates[at].dependencies);
        }
    }
    linked
}

/// Source and SHA-256 of every package of a lock file, by name and version.
fn locked(text: &str) -> Result<BTreeMap<(String, String), (Option<String>, Option<String>)>, String> {
    let document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    let packages = document.get("package").and_then(Item::as_array_of_tables);
    let packages = packages.ok_or("has no packages: expected the lock file of cargo")?;
    let text = |table: &toml_edit::Table, key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
    let package = |table| {
        Some(((text(table, "name")?, text(table, "version")?), (text(table, "source"), text(table, "checksum"))))
    };
    Ok(packages.iter().filter_map(package).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0infer v0.1.0 (/a b)\tMIT OR Apache-2.0\n1bytes v1.2.3\tMIT\n1serde v1.0.0\tMIT/Apache-2.0\n\
        2serde_derive v1.0.0 (proc-macro)\tMIT\n3quote v1.0.1\tMIT\n4ident v1.0.2\t\n3ident v1.0.2\t\n\
        1json v2.0.0+x\tMIT\n2serde v1.0.0\tMIT/Apache-2.0 (*)\n2ident v1.0.2\t\n";

    #[test]
    fn a_tree_becomes_a_list_with_what_is_linked() {
        let crates = parse(TREE).unwrap();
        let shown: Vec<_> = crates
            .iter()
            .map(|one| {
                format!("{} {} {:?} {} {:?}", one.name, one.version, one.license, one.build_only, one.dependencies)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "infer 0.1.0 Some(\"MIT OR Apache-2.0\") false {1, 2, 6}",
                "bytes 1.2.3 Some(\"MIT\") false {}",
                "serde 1.0.0 Some(\"MIT/Apache-2.0\") false {3}",
                "serde_derive 1.0.0 Some(\"MIT\") true {4, 5}",
                "quote 1.0.1 Some(\"MIT\") true {5}",
                "ident 1.0.2 None false {}",
                "json 2.0.0+x Some(\"MIT\") false {2, 5}",
            ]
        );
        for wrong in ["", "0infer\n", "infer v1\tMIT\n", "0infer 1\tMIT\n", "0infer v1\tMIT\n2deep v1\tMIT\n"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hashes_are_those_of_the_lock_file() {
        let text = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\n\
                    checksum = \"abc\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
        let locked = locked(text).unwrap();
        assert_eq!(locked[&("a".into(), "1.0.0".into())], (Some("registry+x".into()), Some("abc".into())));
        assert_eq!(locked[&("b".into(), "2.0.0".into())], (None, None));
        assert!(super::locked("version = 4\n").unwrap_err().contains("no packages"));
        assert!(super::locked("= 4\n").is_err());
    }

    /// What this package's own inference binary is built of.
    #[test]
    fn the_lean_runtime_has_no_crate_of_the_tools() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let host = crate::driver::cross::facts(&Default::default()).unwrap().triple;
        let found = list(here, &host, vec!["runtime".into()]).unwrap().crates;
        let of = |name: &str| found.iter().find(|one| one.name == name);
        assert_eq!(found[0].name, "secateurs");
        let serde = of("serde").unwrap();
        assert!(
            serde.sha256.as_ref().is_some_and(|hash| hash.len() == 64) && !serde.build_only && serde.license.is_some()
        );
        assert!(of("serde_derive").unwrap().build_only);
        for absent in ["candle-core", "clap", "tempfile", "minisign"] {
            assert!(of(absent).is_none(), "{absent}");
        }
    }
}
