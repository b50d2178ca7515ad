//! `cargo xtask devices`: the profiles that are there, and new ones.

use crate::output;
use crate::process::Failure;
use crate::target;
use crate::workspace::Workspace;
use clap::Subcommand;
use std::fs;
use std::path::Path;

/// What to do with profiles.
#[derive(Subcommand)]
pub enum Action {
    /// All profiles, each with what it is for
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
        /// Name of the profile to start from
        #[arg(long, value_name = "NAME", default_value = "generic-aarch64")]
        from: String,
    },
}

/// Does it.
///
/// # Errors
/// If there is no such profile, or the new one is there already.
pub fn run(action: &Action) -> Result<(), Failure> {
    let folder = Workspace::find()?.root.join("targets");
    match action {
        Action::List => {
            for name in target::names(&folder) {
                output::print(&format!("{name:<18} {}\n", purpose(&text(&folder, &name)?)));
            }
            Ok(())
        }
        Action::Show { name } => {
            output::print(&text(&folder, name)?);
            Ok(())
        }
        Action::New { name, from } => {
            let path = create(&folder, name, from)?;
            output::print(&format!("{path}: edit it, then: cargo xtask doctor --target {name}\n"));
            Ok(())
        }
    }
}

fn text(folder: &Path, name: &str) -> Result<String, Failure> {
    let path = target::find(folder, name)?;
    fs::read_to_string(&path).map_err(|e| Failure::Profile(format!("{}: {e}", path.display())))
}

/// The first sentence of a profile's comment.
fn purpose(text: &str) -> String {
    let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let comment = comment.join(" ");
    comment.split_inclusive(". ").next().unwrap_or_default().trim().trim_end_matches('.').to_owned()
}

fn create(folder: &Path, name: &str, from: &str) -> Result<String, Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(good) {
        return Err(Failure::Profile(format!("`{name}` is no name for a profile: letters, digits, - and _")));
    }
    // What the copied profile says of itself would be wrong of the new one.
    let own = |line: &&str| !line.starts_with("name = ") && !line.starts_with("board = ");
    let text = text(folder, from)?;
    let body: Vec<&str> = text.lines().skip_while(|line| line.starts_with('#')).filter(own).collect();
    let head = format!("# {name}: say here what it is, and where its figures come from. Started from `{from}`.");
    let body = body.join("\n").replace(&format!("targets/{from}.local.toml"), &format!("targets/{name}.local.toml"));
    let path = folder.join(format!("{name}.toml"));
    let file = fs::File::options().write(true).create_new(true).open(&path);
    let written =
        file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{head}\n{body}\n").as_bytes()));
    written.map_err(|e| Failure::Profile(format!("{}: {e}", path.display())))?;
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../targets")
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
        create(&folder, "my-board", "rpi5").unwrap();
        let text = fs::read_to_string(folder.join("my-board.toml")).unwrap();
        assert!(text.starts_with("# my-board:") && text.contains("targets/my-board.local.toml"), "{text}");
        assert!(text.contains("[budget]") && !text.contains("board = "), "{text}");
        for (name, from) in [("my-board", "rpi5"), ("../evil", "rpi5"), ("other", "none"), ("", "rpi5")] {
            assert_eq!(create(&folder, name, from).unwrap_err().code(), 3, "{name} from {from}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
