//! `init`: writes what a workspace lacks to prune for a device. What is there is never replaced; a configuration file gets
//! a key more, an ignore list a line more.

use super::caller::Driver;
use super::process::{Failure, Progress, write_file};
use super::workspace::Workspace;
use super::{profiles, target};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Table, value};

const BUILD_SCRIPT: &str = include_str!("init/build.rs.txt");
const WORKFLOW: &str = include_str!("init/ci.yml");

/// What cargo's alias `xtask` stands for.
const ALIAS: &str = "secateurs";

/// What must not be committed: bundles, and connections to devices.
const IGNORED: [&str; 2] = ["/dist/", "/targets/*.local.toml"];

/// What to write.
#[derive(clap::Args)]
pub struct Args {
    /// The board beside this machine; `cargo secateurs devices list` shows all that come with secateurs
    #[arg(long, value_name = "NAME", default_value = "jetson")]
    board: String,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// A file that is to be written or completed.
#[derive(Debug, PartialEq)]
struct Change {
    path: PathBuf,
    /// All of it, after the change.
    text: String,
    /// What is new in it.
    added: String,
}

/// What a workspace lacks, and what its owner should know.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    changes: Vec<Change>,
    notes: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// If the board is unknown, a file of the workspace cannot be read or is no TOML, or a file cannot be written.
pub fn run(driver: Driver, args: &Args) -> Result<(), Failure> {
    let workspace = Workspace::find(driver)?;
    let plan = plan(&workspace.root, &args.board)?;
    let progress = Progress::Human;
    for change in &plan.changes {
        let shown = change.path.strip_prefix(&workspace.root).unwrap_or(&change.path).display().to_string();
        if args.dry_run {
            progress.stage("Would write", &shown);
            let lines = change.added.lines().map(|line| format!("    + {line}\n"));
            crate::output::print(&lines.collect::<String>());
            continue;
        }
        progress.stage("Writing", &shown);
        let folder = change.path.parent().unwrap_or(&workspace.root);
        fs::create_dir_all(folder).map_err(|e| Failure::writing(folder, &e))?;
        write_file(&change.path, &mut change.text.as_bytes(), false)?;
    }
    plan.notes.iter().for_each(|note| progress.stage("Note", note));
    if plan.changes.is_empty() {
        progress.stage("Finished", "nothing is missing");
    } else if !args.dry_run {
        progress.stage("Finished", "next: cargo xtask prune --target host, then read build.rs");
    }
    Ok(())
}

/// What a workspace lacks.
fn plan(root: &Path, board: &str) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let board_text = profiles::shipped(board).ok_or_else(|| {
        let names: Vec<&str> = profiles::SHIPPED.iter().map(|(name, _)| *name).collect();
        Failure::Profile(format!(
            "--board {board}: no such profile comes with secateurs (there are {})",
            names.join(", ")
        ))
    })?;
    let host = profiles::shipped("host").unwrap_or_default();
    let names = target::names(&root.join("targets"));
    for (name, text) in [("host", host), (board, board_text)] {
        if !names.iter().any(|known| known == name) {
            plan.add(root.join("targets").join(format!("{name}.toml")), text);
        }
    }
    alias(root, &mut plan)?;
    ignore(&root.join(".gitignore"), &mut plan)?;
    let manifest = root.join("Cargo.toml");
    let text = read(&manifest)?.unwrap_or_default();
    if table(&manifest, &text)?.contains_key("package") {
        if !root.join("build.rs").exists() {
            plan.add(root.join("build.rs"), BUILD_SCRIPT);
        }
    } else {
        plan.notes.push("the workspace has no package at its root: build.rs belongs beside the one that ships".into());
    }
    let workflow = root.join(".github/workflows/secateurs.yml");
    if !workflow.exists() {
        plan.add(workflow, WORKFLOW);
    }
    // Two targets may be the same.
    plan.changes.dedup_by(|a, b| a.path == b.path);
    Ok(plan)
}

impl Plan {
    /// A new file.
    fn add(&mut self, path: PathBuf, text: &str) {
        self.changes.push(Change { path, text: text.to_owned(), added: text.to_owned() });
    }
}

/// The alias that makes `cargo xtask` the driver, unless the workspace has an xtask of its own.
fn alias(root: &Path, plan: &mut Plan) -> Result<(), Failure> {
    // Cargo reads the old name first where both are there.
    let names = [".cargo/config", ".cargo/config.toml"].map(|name| root.join(name));
    let path = names.iter().find(|path| path.exists()).unwrap_or(&names[1]).clone();
    let text = read(&path)?.unwrap_or_default();
    let mut document = table(&path, &text)?;
    let aliases = document.entry("alias").or_insert_with(|| Item::Table(Table::new()));
    let Some(aliases) = aliases.as_table_like_mut() else {
        return Err(Failure::Input(format!("{}: `alias` is no table", path.display())));
    };
    match aliases.get("xtask") {
        Some(found) if found.as_str() == Some(ALIAS) => {}
        Some(_) => plan.notes.push(format!(
            "{}: `cargo xtask` is yours: call secateurs::driver::main() (feature `driver`) in it, or use cargo secateurs",
            path.display()
        )),
        None => {
            aliases.insert("xtask", value(ALIAS));
            let added = format!("[alias]\nxtask = \"{ALIAS}\"\n");
            plan.changes.push(Change { path, text: document.to_string(), added });
        }
    }
    Ok(())
}

/// The lines that the ignore list lacks.
fn ignore(path: &Path, plan: &mut Plan) -> Result<(), Failure> {
    let text = read(path)?.unwrap_or_default();
    let has = |line: &str| text.lines().any(|there| there.trim().trim_matches('/') == line.trim_matches('/'));
    let missing: Vec<&str> = IGNORED.into_iter().filter(|line| !has(line)).collect();
    if !missing.is_empty() {
        let added: String = missing.iter().map(|line| format!("{line}\n")).collect();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        plan.changes.push(Change { path: path.into(), text: format!("{text}{end}{added}"), added });
    }
    Ok(())
}

/// A file's text; none where there is no file.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::Input(format!("{}: {e}", path.display()))),
    }
}

fn table(path: &Path, text: &str) -> Result<DocumentMut, Failure> {
    text.parse().map_err(|e| Failure::Input(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            fs::write(root.path().join(name), text).unwrap();
        }
        root
    }

    fn written(root: &Path, board: &str) -> Plan {
        let plan = plan(root, board).unwrap();
        for change in &plan.changes {
            fs::create_dir_all(change.path.parent().unwrap()).unwrap();
            fs::write(&change.path, &change.text).unwrap();
        }
        plan
    }

    #[test]
    fn a_bare_workspace_gets_everything_once() {
        let root = workspace(&[("Cargo.toml", "[package]\nname = \"camera\"\n")]);
        let plan = written(root.path(), "jetson");
        let name = |change: &Change| change.path.strip_prefix(root.path()).unwrap().display().to_string();
        let names: Vec<String> = plan.changes.iter().map(name).collect();
        let expected = [
            "targets/host.toml",
            "targets/jetson.toml",
            ".cargo/config.toml",
            ".gitignore",
            "build.rs",
            ".github/workflows/secateurs.yml",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            fs::read_to_string(root.path().join(".cargo/config.toml")).unwrap(),
            "[alias]\nxtask = \"secateurs\"\n"
        );
        assert_eq!(super::plan(root.path(), "jetson").unwrap(), Plan::default(), "a second time nothing is missing");
        assert_eq!(super::plan(root.path(), "host").unwrap(), Plan::default());
    }

    #[test]
    fn what_is_there_is_kept() {
        let config = "# ours\n[build]\ntarget-dir = \"out\" # here\n\n[alias]\nb = \"build\"\n";
        let files = [
            ("Cargo.toml", "[package]\nname = \"camera\"\n"),
            ("targets/host.toml", "mine"),
            (".cargo/config.toml", config),
            (".gitignore", "/target\ndist"),
            ("build.rs", "fn main() {}"),
            (".github/workflows/secateurs.yml", "mine"),
        ];
        let root = workspace(&files);
        written(root.path(), "rpi5");
        let text = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        for name in ["targets/host.toml", "build.rs", ".github/workflows/secateurs.yml"] {
            assert!(files.iter().any(|(file, before)| file == &name && text(name) == *before), "{name}");
        }
        assert_eq!(text(".cargo/config.toml"), format!("{config}xtask = \"secateurs\"\n"));
        assert_eq!(text(".gitignore"), "/target\ndist\n/targets/*.local.toml\n");
        assert_eq!(text("targets/rpi5.toml"), profiles::shipped("rpi5").unwrap());
    }

    #[test]
    fn an_xtask_of_their_own_and_files_that_are_no_toml_are_left_alone() {
        let own = "[alias]\nxtask = \"run -p xtask --\"\n";
        let root = workspace(&[("Cargo.toml", "[workspace]\n"), (".cargo/config", own)]);
        let plan = written(root.path(), "jetson");
        assert_eq!(fs::read_to_string(root.path().join(".cargo/config")).unwrap(), own);
        assert!(plan.notes.len() == 2 && plan.notes[0].contains("secateurs::driver::main()"), "{:?}", plan.notes);
        assert!(!root.path().join("build.rs").exists());
        let root = workspace(&[("Cargo.toml", "[package]\n"), (".cargo/config.toml", "alias = 3\n")]);
        assert_eq!(super::plan(root.path(), "jetson").unwrap_err().code(), 9);
        let root = workspace(&[("Cargo.toml", "[package")]);
        assert_eq!(super::plan(root.path(), "jetson").unwrap_err().code(), 9);
        assert_eq!(super::plan(root.path(), "toaster").unwrap_err().code(), 3);
    }
}
