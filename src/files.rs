//! Reading with a bound, writing without half-written results.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The whole file, refused when it is larger than `limit` bytes. Only regular files are read, and links to them: a pipe
/// would be waited for, and a device need not end.
///
/// # Errors
/// Those of the operating system, `FileTooLarge` over the limit, `InvalidInput` for what is no regular file.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opens a regular file for reading.
///
/// # Errors
/// Those of the operating system, and `InvalidInput` for what is no regular file.
pub fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    // Opening a pipe must not wait for who writes into it.
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = match options.open(path) {
        // A socket cannot even be opened.
        Err(_) if fs::metadata(path).is_ok_and(|is| !is.is_file() && !is.is_dir()) => return Err(irregular()),
        opened => opened?,
    };
    let is = file.metadata()?;
    if is.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder, expected a file"));
    }
    if !is.is_file() {
        return Err(irregular());
    }
    Ok(file)
}

fn irregular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "is a pipe, a socket or a device, expected a regular file")
}

/// Writes to a temporary name beside `path`, then renames: a reader sees the old file or the whole new one.
/// Missing folders are made.
///
/// # Errors
/// Those of the operating system; the temporary file is then removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "is not a file name"))?;
    let temporary: PathBuf = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/model.bin");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"two");
        assert_eq!(read(&path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
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
}
