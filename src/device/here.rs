//! Programs that run on this machine: as they are, or behind a command such as an emulator.

use super::shown::{Shown, stderr};
use super::{AnswerLimits, Argument, DeviceError, Runner, collect};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs programs behind a command; the command may be empty.
pub(super) struct Prefixed {
    command: Vec<String>,
    emulates: bool,
}

impl Prefixed {
    pub(super) fn new(command: Vec<String>) -> Self {
        let name = command.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let emulates = name.to_string_lossy().starts_with("qemu");
        Self { command, emulates }
    }
}

impl Runner for Prefixed {
    fn run_within(
        &self,
        program: &Path,
        arguments: &[Argument],
        limits: &AnswerLimits,
    ) -> Result<Vec<u8>, DeviceError> {
        // A bare name would be looked up in PATH.
        let place = if program.components().count() == 1 { Path::new(".").join(program) } else { program.to_owned() };
        let mut command = match self.command.split_first() {
            None => Command::new(place),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(place);
                command
            }
        };
        let started = self.command.first().map_or_else(|| program.to_owned(), PathBuf::from);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr(limits));
        let child = command.spawn();
        let mut child = child.map_err(|source| DeviceError::Start { program: started.clone(), source })?;
        let shown = Shown::of(&mut child);
        let answer = collect(child, &started, limits);
        shown.finish();
        let answer = answer?;
        if !answer.status.success() {
            return Err(DeviceError::Failed {
                program: program.into(),
                code: answer.status.code(),
                output: answer.output,
            });
        }
        Ok(answer.output)
    }

    fn reach(&self) -> Result<(), DeviceError> {
        let Some(first) = self.command.first() else { return Ok(()) };
        let bare = Path::new(first).components().count() == 1;
        if Path::new(first).is_file() || (bare && in_path(first).is_some()) {
            return Ok(());
        }
        let problem = format!("the profile's command `{first}` is not there");
        Err(DeviceError::Unreachable { host: first.clone(), problem })
    }

    fn emulates(&self) -> bool {
        self.emulates
    }
}

/// User-mode emulation of a triple's architecture.
pub(super) fn qemu(triple: Option<&str>) -> Result<Prefixed, DeviceError> {
    let arch = triple.and_then(|triple| triple.split('-').next()).unwrap_or(std::env::consts::ARCH);
    let names = [format!("qemu-{arch}-static"), format!("qemu-{arch}")];
    let found = names.iter().find_map(|name| in_path(name));
    let Some(qemu) = found else {
        let help = "sudo apt-get install qemu-user-static";
        return Err(DeviceError::Missing { program: names[1].clone(), help });
    };
    let mut command = vec![qemu.to_string_lossy().into_owned()];
    // Where Debian's cross toolchain keeps the C library of that architecture.
    let libraries = format!("/usr/{arch}-linux-gnu");
    if std::env::var_os("QEMU_LD_PREFIX").is_none() && Path::new(&libraries).is_dir() {
        command.extend(["-L".to_owned(), libraries]);
    }
    Ok(Prefixed { command, emulates: true })
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_runs_programs_and_reports_failures() {
        let local = Prefixed::new(vec![]);
        let arguments =
            [Argument::Text("-c".into()), Argument::Text("printf '%s' \"$0\"".into()), Argument::File("a b".into())];
        assert_eq!(local.run(Path::new("/bin/sh"), &arguments).unwrap(), b"a b");
        let fail = [Argument::Text("-c".into()), Argument::Text("exit 7".into())];
        assert!(matches!(local.run(Path::new("/bin/sh"), &fail), Err(DeviceError::Failed { code: Some(7), .. })));
        assert!(matches!(local.run(Path::new("/bin/none"), &[]), Err(DeviceError::Start { .. })));
        assert!(!local.emulates() && local.reach().is_ok());
        let command = |first: &str| Prefixed::new(vec![first.into()]).reach();
        assert!(command("sh").is_ok() && command("/bin/sh").is_ok());
        assert!(matches!(command("/bin/none"), Err(DeviceError::Unreachable { .. })) && command("no-runner").is_err());
    }

    #[test]
    fn a_command_of_the_user_gets_the_program_and_its_words() {
        let command = ["/bin/sh", "-c", "printf '%s|' \"$@\"", "name"].map(str::to_owned).to_vec();
        let printed = Prefixed::new(command).run(Path::new("/bin/true"), &[Argument::Text("a b".into())]).unwrap();
        assert_eq!(printed, b"/bin/true|a b|");
        assert!(Prefixed::new(vec!["/usr/bin/qemu-aarch64-static".into()]).emulates());
    }
}
