//! `devices`: the profiles that are there, and new ones.

use super::caller::Driver;
use super::process::Failure;
use super::profiles;
use super::target;
use super::workspace::Workspace;
use crate::output;
use clap::Subcommand;
use std::fs;
use std::path::Path;

/// What to do with profiles.
#[derive(Subcommand)]
pub enum Action {
    /// All profiles, each with what it is for; those that come with secateurs and are not here last
    List,
    /// The text of a profile, with the sources of its figures
    Show {
        /// Name of the profile
        name: String,
    },
    /// A new profile, as a copy of another one to be edited
    New {
        /// Name of the new profile
        name: String,
        /// Name of the profile to start from: one of this workspace, or one that comes with secateurs [default: NAME where
        /// it comes with secateurs, else generic-aarch64]
        #[arg(long, value_name = "NAME")]
        from: Option<String>,
    },
}

/// Does it.
///
/// # Errors
/// If there is no such profile, or the new one is there already.
pub fn run(driver: Driver, action: &Action) -> Result<(), Failure> {
    let folder = Workspace::find(driver)?.targets();
    match action {
        Action::List => {
            let here = target::names(&folder);
            for name in &here {
                output::print(&format!("{name:<18} {}\n", purpose(&text(&folder, name)?)));
            }
            let others: Vec<_> = profiles::SHIPPED.iter().filter(|(name, _)| !here.iter().any(|h| h == name)).collect();
            if !others.is_empty() {
                let command = driver.name();
                output::print(&format!("\nNot in this workspace; {command} devices new NAME writes one of them:\n"));
            }
            for (name, text) in others {
                output::print(&format!("{name:<18} {}\n", purpose(text)));
            }
            Ok(())
        }
        Action::Show { name } => {
            output::print(&text(&folder, name)?);
            Ok(())
        }
        Action::New { name, from } => {
            let path = create(&folder, name, from.as_deref())?;
            let command = driver.name();
            output::print(&format!("{path}: edit it, then: {command} doctor --target {name}\n"));
            Ok(())
        }
    }
}

/// The text of a profile of this workspace, or of one that comes with secateurs.
fn text(folder: &Path, name: &str) -> Result<String, Failure> {
    let path = match (target::find(folder, name), profiles::shipped(name)) {
        (Ok(path), _) => path,
        (Err(_), Some(text)) => return Ok(text.to_owned()),
        (Err(unknown), None) => return Err(unknown),
    };
    fs::read_to_string(&path).map_err(|e| Failure::Profile(format!("{}: {e}", path.display())))
}

/// The first sentence of a profile's comment.
fn purpose(text: &str) -> String {
    let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let comment = comment.join(" ");
    comment.split_inclusive(". ").next().unwrap_or_default().trim().trim_end_matches('.').to_owned()
}

fn create(folder: &Path, name: &str, from: Option<&str>) -> Result<String, Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(good) {
        return Err(Failure::Profile(format!("`{name}` is no name for a profile: letters, digits, - and _")));
    }
    let text = match (from, profiles::shipped(name)) {
        (None, Some(text)) => text.to_owned(),
        (from, _) => copied(folder, name, from.unwrap_or("generic-aarch64"))?,
    };
    let path = folder.join(format!("{name}.toml"));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::File::options().write(true).create_new(true).open(&path))
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|e| Failure::Profile(format!("{}: {e}", path.display())))?;
    Ok(path.display().to_string())
}

/// The text of a profile for another device, which says where it comes from.
fn copied(folder: &Path, name: &str, from: &str) -> Result<String, Failure> {
    // What the copied profile says of itself would be wrong of the new one.
    let own = |line: &&str| !line.starts_with("name = ") && !line.starts_with("board = ");
    let text = text(folder, from)?;
    let body: Vec<&str> = text.lines().skip_while(|line| line.starts_with('#')).filter(own).collect();
    let head = format!("# {name}: say here what it is, and where its figures come from. Started from `{from}`.");
    let body = body.join("\n").replace(&format!("targets/{from}.local.toml"), &format!("targets/{name}.local.toml"));
    Ok(format!("{head}\n{body}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("targets")
    }

    #[test]
    fn every_profile_says_what_it_is_for_and_those_of_boards_name_their_sources() {
        for name in target::names(&shipped()) {
            let text = text(&shipped(), &name).unwrap();
            assert!(purpose(&text).len() > 10, "{name}: {}", purpose(&text));
            assert!(!text.contains("gflops = ") || text.contains("Sources:") || name == "host", "{name}");
        }
        assert!(purpose("# Pi: four cores. Use\n# a cooler.\n[device]").starts_with("Pi: four cores"));
    }

    #[test]
    fn a_new_profile_is_a_copy_that_says_whose() {
        let folder = std::env::temp_dir().join(format!("secateurs-devices-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(shipped().join("rpi5.toml"), folder.join("rpi5.toml")).unwrap();
        create(&folder, "my-board", Some("rpi5")).unwrap();
        let text = fs::read_to_string(folder.join("my-board.toml")).unwrap();
        assert!(text.starts_with("# my-board:") && text.contains("targets/my-board.local.toml"), "{text}");
        assert!(text.contains("[budget]") && !text.contains("board = "), "{text}");
        for (name, from) in [("my-board", "rpi5"), ("../evil", "rpi5"), ("other", "none"), ("", "rpi5")] {
            assert_eq!(create(&folder, name, Some(from)).unwrap_err().code(), 3, "{name} from {from}");
        }
        // One that comes with the program is written as it is, also into a workspace that has none yet.
        let empty = folder.join("targets");
        create(&empty, "jetson", None).unwrap();
        assert_eq!(fs::read_to_string(empty.join("jetson.toml")).ok().as_deref(), profiles::shipped("jetson"));
        create(&empty, "own", None).unwrap();
        assert!(fs::read_to_string(empty.join("own.toml")).unwrap().contains("Started from `generic-aarch64`"));
        fs::remove_dir_all(folder).unwrap();
    }
}
