//! Reading with a bound, and the one way to write a file.
//!
//! A regular file is written under a fresh temporary name beside it and renamed, so that a reader sees the old file or
//! the whole new one, also after a loss of power. A symbolic link is kept, its target is replaced; what is no regular
//! file (a pipe, a device) is written through. [`Inputs`] names what must never be replaced, [`Place`] what lies beside a
//! folder that is replaced as a whole.

mod place;

pub use place::{FileLock, Place, UNFINISHED};

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

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

/// Files that are only read. Writing to one of them, by whatever name, is refused.
#[derive(Clone, Debug, Default)]
pub struct Inputs(BTreeSet<Identity>);

/// What makes two names name one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    #[cfg(unix)]
    Node(u64, u64),
    Name(PathBuf),
}

impl Inputs {
    /// These files. Those that do not exist are left out.
    pub fn new<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let mut inputs = Self::default();
        paths.into_iter().for_each(|path| inputs.add(path.as_ref()));
        inputs
    }

    /// One more file.
    pub fn add(&mut self, path: &Path) {
        self.0.extend(identities(path));
    }

    /// Whether the name is that of one of the files, through links or otherwise.
    pub fn contains(&self, path: &Path) -> bool {
        identities(path).any(|identity| self.0.contains(&identity))
    }
}

fn identities(path: &Path) -> impl Iterator<Item = Identity> {
    #[cfg(unix)]
    let node = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).ok().filter(Metadata::is_file).map(|facts| Identity::Node(facts.dev(), facts.ino()))
    };
    #[cfg(not(unix))]
    let node = None;
    let name = fs::canonicalize(path).ok().filter(|name| name.is_file()).map(Identity::Name);
    node.into_iter().chain(name)
}

/// Writes a file as the head of this module says. Missing folders are made.
///
/// # Errors
/// Those of the operating system; the temporary file is then removed, and what was there before is whole.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_except(path, bytes, &Inputs::default())
}

/// As [`write_atomic`], but refuses to replace one of the inputs.
///
/// # Errors
/// As [`write_atomic`], and `AlreadyExists` for an input.
pub fn write_except(path: &Path, bytes: &[u8], inputs: &Inputs) -> io::Result<()> {
    let old = existing(path, inputs)?;
    if old.as_ref().is_some_and(|facts| !facts.is_file()) {
        return write_through(path, bytes);
    }
    replace(&target(path)?, bytes, old.as_ref())
}

/// Whether [`write_except`] could write this file, found out before the work that it is for: nothing changes.
///
/// # Errors
/// As [`write_except`].
pub fn check_writable(path: &Path, inputs: &Inputs) -> io::Result<()> {
    match existing(path, inputs)? {
        Some(facts) if !facts.is_file() => Ok(()),
        _ => check_folder(folder_of(&target(path)?)),
    }
}

/// Whether files could be written in this folder, or in one made for it: nothing changes, but that what killed runs left
/// there is removed.
///
/// # Errors
/// Those of the operating system.
pub fn check_folder(folder: &Path) -> io::Result<()> {
    match fs::metadata(folder) {
        Ok(facts) if facts.is_dir() => {
            clean_once(folder);
            create_new(folder).and_then(|(temporary, _)| fs::remove_file(temporary))
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, "is a file, expected a folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::read_link(folder).is_err() => {
            folder.parent().map_or(Ok(()), |_| check_folder(folder_of(folder)))
        }
        Err(error) => Err(error),
    }
}

/// What lies at a name that is to be written, unless nothing may be.
fn existing(path: &Path, inputs: &Inputs) -> io::Result<Option<Metadata>> {
    use io::ErrorKind::{AlreadyExists, InvalidInput, IsADirectory};
    if inputs.contains(path) {
        return Err(io::Error::new(AlreadyExists, "is an input, and would be replaced: name another file"));
    }
    let found = fs::metadata(path).ok();
    let ends_as_folder =
        path.as_os_str().as_encoded_bytes().last().is_some_and(|b| std::path::is_separator(*b as char));
    if ends_as_folder || found.as_ref().is_some_and(Metadata::is_dir) {
        return Err(io::Error::new(IsADirectory, "is a folder, expected the name of a file"));
    }
    if path.file_name().is_none() {
        return Err(io::Error::new(InvalidInput, "is not the name of a file"));
    }
    Ok(found)
}

/// Writes to a pipe or a device as it stands.
fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes)?;
    file.flush()
}

/// The most symbolic links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

/// The name behind all symbolic links, also where nothing has that name yet.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = folder_of(&path).join(link),
            // No link, or nothing there.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("is a symbolic link that leads in a circle"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, bytes: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    clean_once(folder);
    let (temporary, file) = create_new(folder)?;
    let done = fill(file, bytes, old).and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done.and_then(|()| sync_folder(folder))
}

fn fill(mut file: File, bytes: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    file.write_all(bytes)?;
    if let Some(old) = old {
        // The mode is its owner's choice. A file system without modes has none to keep.
        let _ = file.set_permissions(old.permissions());
    }
    file.sync_all()
}

/// Serialises a path for people and programs: text, in which what is not UTF-8 is replaced.
///
/// # Errors
/// Those of the serialiser.
pub fn lossy<S: serde::Serializer>(path: impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}

/// As [`lossy`], where there may be no path.
///
/// # Errors
/// Those of the serialiser.
pub fn lossy_option<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// Makes the names in a folder outlast a loss of power; file systems that cannot do so are left alone.
///
/// # Errors
/// If the disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let done = File::open(folder).and_then(|folder| folder.sync_all());
    done.or_else(|e| if matches!(e.kind(), InvalidInput | PermissionDenied | Unsupported) { Ok(()) } else { Err(e) })
}

/// Opens a temporary file that nobody had before, so never one that somebody else laid there, nor a link.
fn create_new(folder: &Path) -> io::Result<(PathBuf, File)> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..100 {
        let temporary = folder.join(temporary_name());
        match fs::OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Makes a folder of its own for something that will be renamed; a killed run's is removed by the next one. What killed
/// runs left there before is removed.
///
/// # Errors
/// Those of the operating system.
pub fn temporary_folder(parent: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(parent)?;
    clean_once(parent);
    let folder = parent.join(temporary_name());
    fs::create_dir(&folder).map(|()| folder)
}

/// A name for something temporary, in the pattern that [`clean`] knows: which processes its process id is one of, the
/// process id, and a number. Each call gives another.
pub fn temporary_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".secateurs-{}-{}-{number}.tmp", processes(), std::process::id())
}

/// Tells apart where process ids are counted: the boot of the machine and the container.
fn processes() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        fs::read("/proc/sys/kernel/random/boot_id").ok().hash(&mut hasher);
        fs::read_link("/proc/self/ns/pid").ok().hash(&mut hasher);
        format!("{:08x}", hasher.finish() as u32)
    })
}

/// What is older is no longer being written, whoever wrote it.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Whether a name is one of [`temporary_name`]'s, and who made it: whether its process can be asked for here, and its
/// id.
fn maker(name: &str) -> Option<(bool, u32)> {
    let parts: Vec<&str> = name.strip_prefix(".secateurs-")?.strip_suffix(".tmp")?.split('-').collect();
    let [tag, process, number] = parts.try_into().ok()?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let whole = tag.len() == 8 && tag.bytes().all(|b| b.is_ascii_hexdigit()) && digits(number) && digits(process);
    let process = process.parse().ok().filter(|_| whole && !number.is_empty())?;
    Some((tag == processes(), process))
}

/// Whether a name is one of [`temporary_name`]'s, of this or another process.
pub fn is_temporary(name: &str) -> bool {
    maker(name).is_some()
}

/// Removes what killed runs left in a folder: files and folders named by [`temporary_name`] whose process has ended, or
/// that are a day old. Everything else is kept.
pub fn clean(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some((here, process)) = entry.file_name().to_str().and_then(maker) else { continue };
        let Ok(facts) = entry.metadata() else { continue };
        let asked = here && Path::new("/proc/self").exists();
        let ended = asked && !Path::new(&format!("/proc/{process}")).exists();
        let old = facts.modified().ok().and_then(|then| then.elapsed().ok()).is_some_and(|age| age > OLD);
        if process != std::process::id() && (ended || old) {
            let _ = if facts.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        }
    }
}

/// As [`clean`], the first time that this process writes into the folder.
fn clean_once(folder: &Path) {
    static CLEANED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let name = fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
    if CLEANED.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        clean(folder);
    }
}

#[cfg(test)]
mod tests;
