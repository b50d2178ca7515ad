//! `cargo xtask doctor`: what a device takes, and what of it is missing here, or there: the runtime that a profile asks for.

use super::caller::Driver;
use super::cross::{self, Facts};
use super::cuda;
use super::process::Failure;
use super::target::{self, Connection, Target};
use super::workspace::Workspace;
use crate::output;

/// The device.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile: NAME stands for targets/NAME.toml
    #[arg(long, value_name = "NAME")]
    target: String,
}

/// One thing that is there or not.
#[derive(Debug, PartialEq)]
struct Finding {
    what: String,
    there: bool,
    /// Whether the job cannot do without it.
    needed: bool,
    /// The command that installs it.
    install: String,
}

/// Prints all findings.
///
/// # Errors
/// If something is missing that the job needs.
pub fn run(driver: Driver, args: &Args) -> Result<(), Failure> {
    let workspace = Workspace::find(driver)?;
    let profile = target::find(&workspace.targets(), &args.target)?;
    let worker = workspace.worker(false)?;
    let target = worker.profile(profile)?;
    let facts = cross::facts(&target.device)?;
    let tool = cross::choose(&facts, target.device.glibc);
    output::print(&format!("{} ({})\n", args.target, facts.triple));
    let mut findings = findings(&facts, &target, tool.is_ok(), cuda::nvcc().is_some());
    if let Some(name) = &target.runtime {
        findings.push(runtime(name, worker.runtime(&target.path), target.connect != Connection::Qemu));
    }
    for finding in &findings {
        let mark = match (finding.there, finding.needed) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "-      ",
        };
        output::print(&format!("  {mark}  {}\n", finding.what));
        if !finding.there {
            output::print(&format!("           {}\n", finding.install));
        }
    }
    match &tool {
        Ok(tool) => output::print(&format!("  builds with {}\n", tool.name())),
        Err(commands) => {
            output::print("  cannot be built for; the first of these that you can run, and those after it:\n");
            commands.iter().for_each(|command| output::print(&format!("    {command}\n")));
        }
    }
    match findings.iter().find(|f| f.needed && !f.there) {
        None => Ok(()),
        Some(missing) => Err(Failure::Toolchain(format!("{} is missing: {}", missing.what, missing.install))),
    }
}

/// Everything that could play a part. `builds` says whether some way to build is there, `nvcc` whether that is.
fn findings(facts: &Facts, target: &Target, builds: bool, nvcc: bool) -> Vec<Finding> {
    let triple = &facts.triple;
    let mut all = Vec::new();
    let mut add = |what: String, there: bool, needed: bool, install: &str| {
        all.push(Finding { what, there, needed, install: install.into() });
    };
    if !facts.native {
        let arm = triple.starts_with("aarch64-");
        let std = format!("rustup target add {triple}");
        add(format!("Rust's standard library for {triple} (rustup)"), facts.rustup_std, !builds, &std);
        let debian = if arm { "sudo .ci/cross-setup" } else { "no script for this architecture" };
        add("Debian's compiler with that library".into(), facts.debian_std, false, debian);
        let gcc = if arm { "sudo apt-get install gcc-aarch64-linux-gnu" } else { "a C compiler of that architecture" };
        add("a linker".into(), facts.linker.is_some(), !builds, gcc);
        let zig = "pip install ziglang && cargo install --locked cargo-zigbuild";
        add("cargo-zigbuild (for an older C library)".into(), facts.zigbuild, false, zig);
        let cross = "cargo install --locked cross, and docker or podman";
        add("cross with a container engine".into(), facts.cross, false, cross);
    }
    if let Some(arch) = &target.device.cuda {
        let what = format!("nvcc, for the GPU ({arch}; without it the binary runs on the CPU only)");
        add(what, nvcc, false, cuda::INSTALL);
    }
    match target.connect {
        Connection::Qemu => {
            let arch = triple.split('-').next().unwrap_or(triple);
            let there = ["", "-static"].iter().any(|end| cross::in_path(&format!("qemu-{arch}{end}")));
            add(format!("qemu for {arch}"), there, true, "sudo apt-get install qemu-user-static");
        }
        Connection::Ssh => {
            add("OpenSSH's client".into(), cross::in_path("ssh"), true, "sudo apt-get install openssh-client");
        }
        Connection::Local | Connection::Command => {}
    }
    all
}

/// The other runtime of a profile, which was asked for on the device; where that is emulated, a job does without.
fn runtime(name: &str, found: Result<String, String>, needed: bool) -> Finding {
    let (what, there, install) = match found {
        Ok(what) => (what, true, String::new()),
        Err(why) => (format!("the runtime of the profile, {name}, on the device"), false, why),
    };
    Finding { what, there, needed, install }
}

#[cfg(test)]
mod tests {
    use super::target::Device;
    use super::*;

    #[test]
    fn the_machine_itself_needs_nothing() {
        let facts = Facts { native: true, triple: "x86_64-unknown-linux-gnu".into(), ..Facts::default() };
        assert_eq!(cross::choose(&facts, None), Ok(cross::Tool::Native));
        assert_eq!(findings(&facts, &Target::default(), true, false), []);
    }

    #[test]
    fn another_runtime_is_there_or_says_why_not() {
        let there = runtime("tensorrt", Ok("TensorRT 10.3.0 (Orin)".into()), true);
        assert!(there.there && there.what == "TensorRT 10.3.0 (Orin)");
        let missing = runtime("tensorrt", Err("TensorRT is not on the device: install JetPack's".into()), true);
        assert!(!missing.there && missing.needed && missing.install.contains("JetPack"), "{missing:?}");
    }

    #[test]
    fn what_is_missing_comes_with_a_command() {
        let facts = Facts { triple: "aarch64-unknown-linux-gnu".into(), ..Facts::default() };
        let target = Target { connect: Connection::Ssh, ..Target::default() };
        let found = findings(&facts, &target, false, false);
        let missing: Vec<&Finding> = found.iter().filter(|f| !f.there && f.needed).collect();
        assert!(missing.len() >= 2 && missing.iter().all(|f| !f.install.is_empty()), "{found:?}");
        assert!(missing[0].install.contains("rustup target add aarch64-unknown-linux-gnu"));
        let found = findings(&facts, &target, true, false);
        assert!(found.iter().all(|f| !f.needed || f.what.contains("SSH")), "{found:?}");
        let device = Device { cuda: Some("sm_87".into()), ..Device::default() };
        let target = Target { device, ..target };
        let nvcc = |there| findings(&facts, &target, true, there).into_iter().find(|f| f.what.contains("nvcc"));
        assert!(nvcc(false).is_some_and(|f| !f.there && f.install.contains("cuda-setup") && f.what.contains("sm_87")));
        assert!(nvcc(true).is_some_and(|f| f.there));
    }
}
