//! Devices that misbehave, and folders of the user that lie where ours do.

use assert_cmd::Command;
use secateurs::bench::TableSpec;
use secateurs::zoo::yolo11::{Scale, detect};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn worker(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    command.current_dir(folder.path()).timeout(Duration::from_secs(60));
    command
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn program(path: &Path, text: &str) {
    put(path, text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_device_that_prints_for_ever_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let connect = "[device]\nname = \"d\"\n[connect]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"yes\"]\n";
    put(&folder.path().join("yes.toml"), &format!("{connect}[budget]\nlatency-ratio = 0.9\n"));
    let output = worker(&folder).args(["runner", "--profile", "yes.toml", "/bin/true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains("the device printed more than"), "{}", said(&output));
}

/// What a session leaves alone in the folder of a profile, even where that is the user's home.
#[test]
fn over_ssh_only_what_we_made_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (home, bin) = (folder.path().join("home"), folder.path().join("bin"));
    // The last argument is the script; the device is this machine.
    let ssh = format!("#!/bin/sh\nfor last; do :; done\ncd '{}' && exec sh -c \"$last\"\n", home.display());
    program(&bin.join("ssh"), &ssh);
    program(&folder.path().join("hello"), "#!/bin/sh\necho hello\n");
    let names = ["s-expressions", "s-1-ab-2", "s-2-ab-3x", "s-77-zz-1", "s--ab-1", "s-4-ab-5-6", "plain"];
    for name in names {
        put(&home.join(name).join("thesis.txt"), "mine");
    }
    // Our mark, but not a name of ours; a name of ours, but another's mark.
    put(&home.join("s-expressions/.secateurs-session"), "s-expressions\n");
    put(&home.join("s-1-ab-2/.secateurs-session"), "s-9-ab-9\n");
    symlink(home.join("plain"), home.join("s-5-ab-6")).unwrap();
    put(&home.join("plain/.secateurs-session"), "s-5-ab-6\n");
    // What a session left before a reboot.
    put(&home.join("s-6-1a2b-0/.secateurs-session"), "s-6-1a2b-0\n");
    put(&home.join("s-6-1a2b-0/keeper"), "none\n");
    fs::create_dir(home.join("empty")).unwrap();
    let list = || {
        let entries = fs::read_dir(&home).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let before = list();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for place in [".", "empty", "new", "new"] {
        let text = format!(
            "[device]\nname = \"d\"\n[connect]\nkind = \"ssh\"\nhost = \"pi@x\"\nfolder = \"{place}\"\n[budget]\nlatency-ratio = 0.9\n"
        );
        put(&folder.path().join("dev.toml"), &text);
        let output =
            worker(&folder).env("PATH", &path).args(["runner", "--profile", "dev.toml", "hello"]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hello\n"[..]), "{}", said(&output));
        let left: Vec<String> = before.iter().filter(|name| *name != "s-6-1a2b-0").cloned().collect();
        assert_eq!(list(), left, "folder = {place}");
        assert!(names.iter().all(|name| home.join(name).join("thesis.txt").is_file()));
    }
}

#[test]
fn a_table_that_would_never_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let scale = Scale { depth: 0.3, width: 0.05, max_channels: 256, c3k_everywhere: false };
    let graph = detect(scale, 2).unwrap();
    let sane = TableSpec { size: (32, 32), threads: 1, networks: vec![graph.clone()], rounds: 1, seed: 1 };
    // Kernels of many GiB, which the structure alone allows.
    let wide = detect(Scale { width: 16.0, max_channels: 1 << 20, ..scale }, 2).unwrap();
    let cases = [
        (TableSpec { rounds: usize::MAX, ..sane.clone() }, "the number of rounds is 18446744073709551615"),
        (TableSpec { rounds: 0, ..sane.clone() }, "the number of rounds is 0, expected a whole number from 1 to 1000"),
        (TableSpec { networks: vec![], rounds: usize::MAX, ..sane.clone() }, "the number of networks is 0"),
        (TableSpec { threads: 1 << 40, ..sane.clone() }, "the number of threads is"),
        (TableSpec { size: (1 << 40, 32), ..sane.clone() }, "the height of the image is"),
        (TableSpec { networks: vec![wide; 8], ..sane.clone() }, "the memory of all networks together is"),
    ];
    let run = |spec: &TableSpec| {
        fs::write(folder.path().join("t.json"), serde_json::to_vec(spec).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs-infer"));
        command.current_dir(folder.path()).timeout(Duration::from_secs(60));
        command.args(["table", "t.json"]).output().unwrap()
    };
    for (spec, expected) in cases {
        let output = run(&spec);
        assert_eq!(output.status.code(), Some(9), "{expected}: {}", said(&output));
        let text = format!("t.json: {expected}");
        assert!(said(&output).contains(&text), "{expected} is not in: {}", said(&output));
    }
    assert_eq!(run(&sane).status.code(), Some(0));
}

#[test]
fn threads_beyond_the_cpus_are_capped_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    secateurs::model::save(&super::cli::small_model(), &folder.path().join("small.safetensors")).unwrap();
    let most = secateurs::kernels::available();
    let asked = (4 * most).max(8);
    let bench = |program: &str, forced: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(folder.path()).timeout(Duration::from_secs(120));
        command.args(["bench", "--model", "small.safetensors", "--imgsz", "32", "--runs", "20", "--json", "--threads"]);
        let output = command.arg(asked.to_string()).args(forced).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (found["threads"].as_u64().unwrap() as usize, said(&output).contains(&format!("--threads {asked}: there are")))
    };
    for program in [env!("CARGO_BIN_EXE_secateurs-infer"), env!("CARGO_BIN_EXE_secateurs")] {
        assert_eq!(bench(program, &[]), (most, true), "{program}");
        // These end too: threads that wait let others have the CPU.
        assert_eq!(bench(program, &["--force-threads"]), (asked, false), "{program}");
    }
}
