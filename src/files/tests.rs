//! What is written, replaced, kept and cleaned up.

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_written_file_is_whole_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/model.bin");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(read(&path, 3).unwrap(), b"two");
    assert_eq!(read(&path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(names(path.parent().unwrap()), ["model.bin"]);
    // Neither a long name nor one that is not UTF-8 is in the way.
    let long = folder.path().join("n".repeat(255));
    write_atomic(&long, b"three").unwrap();
    assert_eq!(fs::read(&long).unwrap(), b"three");
}

#[test]
fn folders_and_names_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(write_atomic(folder.path(), b"x").unwrap_err().kind(), io::ErrorKind::IsADirectory);
    assert_eq!(write_atomic(Path::new(""), b"x").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    fs::write(folder.path().join("file"), "").unwrap();
    let path = |name: &str| folder.path().join(name);
    // Found out before and when writing alike.
    for (name, expected) in [
        ("file/below", io::ErrorKind::NotADirectory),
        ("file/", io::ErrorKind::IsADirectory),
        ("new/", io::ErrorKind::IsADirectory),
        ("..", io::ErrorKind::IsADirectory),
    ] {
        assert_eq!(check_writable(&path(name), &Inputs::default()).unwrap_err().kind(), expected, "{name}");
        assert!(write_atomic(&path(name), b"x").is_err(), "{name}");
    }
    assert_eq!(check_folder(&path("file")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    check_writable(&path("deep/er/model"), &Inputs::default()).unwrap();
    check_writable(&path("file"), &Inputs::default()).unwrap();
    let inputs = Inputs::new([path("file")]);
    assert_eq!(check_writable(&path("file"), &inputs).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    check_folder(&path("deep/er")).unwrap();
    assert_eq!(names(folder.path()), ["file"], "checks leave nothing");
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    #[test]
    fn only_regular_files_are_read_and_pipes_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        symlink(path("pipe"), path("link")).unwrap();
        fs::write(path("file"), b"x").unwrap();
        symlink(path("file"), path("good")).unwrap();
        for name in ["pipe", "link", "socket", "/dev/zero", "/dev/null"] {
            let error = read(&path(name), 8).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
            assert!(error.to_string().contains("expected a regular file"), "{name}: {error}");
        }
        assert_eq!(read(folder.path(), 8).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&path("good"), 8).unwrap(), b"x");
        // What the kernel says about itself has no length, and is read all the same.
        assert!(!cfg!(target_os = "linux") || !read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
    }

    #[test]
    fn links_stay_and_their_targets_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("far")).unwrap();
        fs::write(path("far/model"), "old").unwrap();
        symlink("far/model", path("one")).unwrap();
        symlink("one", path("two")).unwrap();
        symlink("far/new", path("dangling")).unwrap();
        symlink("circle", path("circle")).unwrap();
        write_atomic(&path("two"), b"fresh").unwrap();
        write_atomic(&path("dangling"), b"made").unwrap();
        for link in ["one", "two", "dangling"] {
            assert!(fs::symlink_metadata(path(link)).unwrap().is_symlink(), "{link}");
        }
        assert_eq!(fs::read(path("far/model")).unwrap(), b"fresh");
        assert_eq!(fs::read(path("far/new")).unwrap(), b"made");
        assert!(write_atomic(&path("circle"), b"x").unwrap_err().to_string().contains("circle"));
        assert_eq!(names(&path("far")), ["model", "new"], "nothing temporary is left");
    }

    #[test]
    fn a_pipe_is_written_through_and_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomic(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["pipe"]);
    }

    #[test]
    fn a_file_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_link_under_a_temporary_name_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        // Whatever number comes next, in this process' name.
        for number in 0..2000 {
            let name = format!(".secateurs-{}-{}-{number}.tmp", processes(), std::process::id());
            symlink(&victim, out.join(name)).unwrap();
        }
        // Refused at last, or written under a later number: never through the link.
        let _ = write_atomic(&out.join("image.png"), b"pixels");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(!fs::symlink_metadata(out.join("image.png")).is_ok_and(|facts| facts.is_symlink()));
    }

    #[test]
    fn inputs_are_never_replaced_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("photo.jpg"), "photo").unwrap();
        symlink("photo.jpg", path("link.jpg")).unwrap();
        fs::hard_link(path("photo.jpg"), path("hard.jpg")).unwrap();
        let inputs = Inputs::new([path("photo.jpg"), path("missing.jpg")]);
        for name in ["photo.jpg", "link.jpg", "hard.jpg", "sub/../photo.jpg"] {
            let error = write_except(&path(name), b"boxes", &inputs).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(fs::read(path("photo.jpg")).unwrap(), b"photo");
        write_except(&path("other.jpg"), b"boxes", &inputs).unwrap();
        write_except(&path("missing.jpg"), b"boxes", &inputs).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_killed_runs_left_is_removed_and_nothing_else() {
    // A process that has ended, and one that runs.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let gone = ended.id();
    ended.wait().unwrap();
    let mut running = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tag = processes();
    let left = format!(".secateurs-{tag}-{gone}-0.tmp");
    let left_folder = format!(".secateurs-{tag}-{gone}-1.tmp");
    let kept = [
        format!(".secateurs-{tag}-{}-7.tmp", running.id()),
        format!(".secateurs-{tag}-{}-999999.tmp", std::process::id()),
        // Of another machine or container, and not old.
        format!(".secateurs-00000000-{gone}-0.tmp"),
        format!(".secateurs-{tag}-{gone}-0.tmp.jpg"),
        format!(".secateurs-{tag}-{gone}-.tmp"),
        format!(".secateurs-{tag}-{gone}-x.tmp"),
        format!("secateurs-{tag}-{gone}-0.tmp"),
        ".secateurs-notes.tmp".to_owned(),
    ];
    fs::create_dir_all(folder.path().join(&left_folder).join("inner")).unwrap();
    fs::write(folder.path().join(&left), "half").unwrap();
    kept.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
    // Another machine's, but two days old.
    let old = folder.path().join(format!(".secateurs-00000000-{gone}-1.tmp"));
    let then = std::time::SystemTime::now() - 2 * OLD;
    File::create(&old).unwrap().set_modified(then).unwrap();

    write_atomic(&folder.path().join("result"), b"x").unwrap();
    running.kill().unwrap();
    running.wait().unwrap();
    let mut expected: Vec<String> = kept.into_iter().chain(["result".to_owned()]).collect();
    expected.sort();
    assert_eq!(names(folder.path()), expected);
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read_and_pipes_are_not_waited_for() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    symlink(path("pipe"), path("link")).unwrap();
    fs::write(path("file"), b"x").unwrap();
    symlink(path("file"), path("good")).unwrap();
    for name in ["pipe", "link", "socket", "/dev/zero", "/dev/null"] {
        let error = read(&path(name), 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
        assert!(error.to_string().contains("expected a regular file"), "{name}: {error}");
    }
    assert_eq!(read(folder.path(), 8).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    assert_eq!(read(&path("good"), 8).unwrap(), b"x");
    // What the kernel says about itself has no length, and is read all the same.
    assert!(!cfg!(target_os = "linux") || !read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
}
