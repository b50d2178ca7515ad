//! The source of `secateurs` that the inference binary, and for an xtask crate the worker, is built from: the package
//! that the workspace's lock file names, else the one that this program was built from and carries.

use super::process::{Failure, write_file};
use cargo_metadata::Metadata;
use flate2::{Compression, write::GzEncoder};
use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file of the package: its path with `/`, and its bytes.
type File = (String, Cow<'static, [u8]>);

/// The files of this program's own package that a build takes.
static CARRIED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/package.rs"));

/// Folders of the package that a build takes, and the files beside them.
const FOLDERS: [&str; 2] = ["src", "targets"];
const BESIDE: [&str; 3] = ["Cargo.toml", "Cargo.lock", "build.rs"];

/// The source of the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its version.
    pub version: String,
    origin: Origin,
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// In a folder of somebody's own: this repository, or a path dependency. It is built where it is.
    Checkout(PathBuf),
    /// In cargo's folders of downloaded or vendored packages, in which nothing is built.
    Downloaded(PathBuf),
    /// In this program.
    Carried,
}

impl Package {
    /// The package among those of a workspace, or the carried one.
    pub fn of(metadata: &Metadata) -> Self {
        let named = metadata.packages.iter().find(|package| *package.name == "secateurs");
        match named {
            Some(package) => {
                let folder = package.manifest_path.parent().map(|folder| folder.as_std_path().to_owned());
                let folder = folder.unwrap_or_default();
                let downloaded = package.source.is_some();
                let origin = if downloaded { Origin::Downloaded(folder) } else { Origin::Checkout(folder) };
                Self { version: package.version.to_string(), origin }
            }
            None => Self { version: env!("CARGO_PKG_VERSION").into(), origin: Origin::Carried },
        }
    }

    /// A folder in which it can be built. Where that is none of the caller's, the files are laid into the cache first,
    /// under a name that says whose bytes they are.
    ///
    /// # Errors
    /// If they cannot be read or written.
    pub fn folder(&self, cache: &Path) -> Result<PathBuf, Failure> {
        match &self.origin {
            Origin::Checkout(folder) => Ok(folder.clone()),
            Origin::Downloaded(_) | Origin::Carried => lay_out(&self.files()?, cache, &self.version),
        }
    }

    /// Packs what a build takes as `FILE.tar.gz` with one folder `secateurs-VERSION` in it.
    ///
    /// # Errors
    /// If a file cannot be read, or the archive cannot be written.
    pub fn pack(&self, to: &Path) -> Result<(), Failure> {
        let files = self.files()?;
        let archive = archive(&format!("secateurs-{}", self.version), &files).map_err(|e| Failure::writing(to, &e))?;
        write_file(to, &mut archive.as_slice(), false)
    }

    fn files(&self) -> Result<Vec<File>, Failure> {
        match &self.origin {
            Origin::Checkout(folder) | Origin::Downloaded(folder) => read(folder),
            Origin::Carried => Ok(carried()),
        }
    }
}

fn carried() -> Vec<File> {
    CARRIED.iter().map(|(name, bytes)| ((*name).to_owned(), Cow::Borrowed(*bytes))).collect()
}

/// The files of a package in a folder that a build takes.
fn read(folder: &Path) -> Result<Vec<File>, Failure> {
    let fail = |path: &Path, e: io::Error| Failure::Workspace(format!("{}: {e}", path.display()));
    let mut files = Vec::new();
    let mut pending = FOLDERS.map(|name| folder.join(name)).to_vec();
    while let Some(inside) = pending.pop() {
        for entry in fs::read_dir(&inside).map_err(|e| fail(&inside, e))? {
            let path = entry.map_err(|e| fail(&inside, e))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                let name: Vec<_> = name.components().map(|part| part.as_os_str().to_string_lossy()).collect();
                files.push((name.join("/"), fs::read(&path).map_err(|e| fail(&path, e))?));
            }
        }
    }
    for name in BESIDE {
        let path = folder.join(name);
        // A dependency from git has the lock file of its workspace only.
        if path.is_file() {
            files.push((name.to_owned(), fs::read(&path).map_err(|e| fail(&path, e))?));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes))).collect())
}

/// An archive of files below one folder. Its bytes depend on theirs alone.
fn archive(folder: &str, files: &[File]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, bytes) in files {
        let bytes = alone(name, bytes);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{folder}/{name}"), &*bytes)?;
    }
    builder.into_inner()?.finish()
}

/// Lays files into a folder of the cache that no other bytes can have.
fn lay_out(files: &[File], cache: &Path, version: &str) -> Result<PathBuf, Failure> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let folder = cache.join("package").join(format!("secateurs-{version}-{:016x}", hasher.finish()));
    for (name, bytes) in files {
        let path = folder.join(name);
        let bytes = alone(name, bytes);
        // Cargo goes by times: a file that is right already keeps its own.
        if fs::read(&path).is_ok_and(|there| there == *bytes) {
            continue;
        }
        if let Some(inside) = path.parent() {
            fs::create_dir_all(inside).map_err(|e| Failure::writing(inside, &e))?;
        }
        write_file(&path, &mut &*bytes, false)?;
    }
    Ok(folder)
}

/// A manifest that stands alone: without the other members of its workspace, and without targets whose files stay behind.
fn alone<'a>(name: &str, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    const LEFT_OUT: [&str; 3] = ["[[test]]", "[[bench]]", "[[example]]"];
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|_| name == "Cargo.toml") else { return bytes.into() };
    let mut keep = true;
    let mut alone = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            keep = !LEFT_OUT.contains(&line.trim());
        }
        if keep {
            alone += if line.starts_with("members = ") { "members = []" } else { line };
            alone.push('\n');
        }
    }
    alone.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_package_is_what_a_build_takes() {
        let names: Vec<&str> = CARRIED.iter().map(|(name, _)| *name).collect();
        for name in ["Cargo.toml", "Cargo.lock", "build.rs", "src/lib.rs", "src/bin/infer/main.rs"] {
            assert!(names.contains(&name), "{name} is not carried: {names:?}");
        }
        assert!(names.is_sorted() && names.iter().all(|name| !name.contains("..") && !name.starts_with('/')));
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = read(here).unwrap();
        assert!(read == carried(), "the folder and the carried files differ");
    }

    #[test]
    fn a_manifest_stands_alone() {
        let text = "[workspace]\nmembers = [\"xtask\"]\n[package]\nname = \"a\"\n\n[[test]]\nname = \"it\"\n\
                    path = \"tests/it\"\n\n[[bin]]\nname = \"b\"\n[[bench]]\nname = \"x\"\n[profile.release]\nd = 1\n";
        let expected = "[workspace]\nmembers = []\n[package]\nname = \"a\"\n\n[[bin]]\nname = \"b\"\n\
                        [profile.release]\nd = 1\n";
        assert_eq!(String::from_utf8_lossy(&alone("Cargo.toml", text.as_bytes())), expected);
        assert_eq!(*alone("src/Cargo.toml", b"members = 1"), *b"members = 1");
    }

    #[test]
    fn files_are_laid_out_once_and_packed_the_same_every_time() {
        let cache = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &'static str| -> File { (name.to_owned(), text.as_bytes().into()) };
        let files = [file("Cargo.toml", "[package]\n"), file("src/a/b.rs", "// b")];
        let folder = lay_out(&files, cache.path(), "1.2.3").unwrap();
        let time = |name: &str| fs::metadata(folder.join(name)).unwrap().modified().unwrap();
        let before = time("src/a/b.rs");
        assert_eq!(fs::read_to_string(folder.join("src/a/b.rs")).unwrap(), "// b");
        assert_eq!(lay_out(&files, cache.path(), "1.2.3").unwrap(), folder);
        assert_eq!(time("src/a/b.rs"), before);
        let other = [file("Cargo.toml", "[package]\nname = \"b\"\n")];
        assert_ne!(lay_out(&other, cache.path(), "1.2.3").unwrap(), folder);
        let packed = archive("secateurs-1.2.3", &files).unwrap();
        assert_eq!(packed, archive("secateurs-1.2.3", &files).unwrap());
        let unpacked = cache.path().join("unpacked");
        tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice())).unpack(&unpacked).unwrap();
        assert_eq!(fs::read_to_string(unpacked.join("secateurs-1.2.3/src/a/b.rs")).unwrap(), "// b");
    }
}
