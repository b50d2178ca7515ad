//! The signature of a bundle: `manifest.json.minisig`, in the format of minisign, which the program `minisign` checks
//! too.
//!
//! Ed25519 over the BLAKE2b-512 of the manifest, and again over that signature with the trusted comment. The manifest
//! has the SHA-256 of every other file, so that one signature covers the bundle. Of the four lines of the file only the
//! first, the untrusted comment, is covered by no signature; where this module signed, it is a fixed text, so that a
//! change of any byte is noticed. The format: <https://jedisct1.github.io/minisign/#signature-format>.
//!
//! Nothing here asks for a password: pipelines have nobody to answer.

use super::{MANIFEST, SIGNATURE};
use crate::files;
use ct_codecs::{Base64, Decoder};
use minisign::{SecretKey, SecretKeyBox, SignatureBox};
use std::fmt;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// The largest key, password or signature that is read; minisign's own have some hundred bytes.
pub const MAX_FILE: u64 = 64 << 10;

/// What the base64 of a secret key begins with that a password protects: the bytes `EdSc`.
const PROTECTED: &str = "RWRTY";
/// Bytes of a secret key, and of the checksum at its end.
const KEY_BYTES: usize = 158;
const CHECKSUM_BYTES: usize = 32;
/// Its algorithms where no password protects it: Ed25519, none, BLAKE2b.
const PLAIN: &[u8] = b"Ed\0\0B2";
/// Characters of the base64 of a signature: two bytes of algorithm, eight of key number, 64 of Ed25519.
const SIGNATURE_DIGITS: usize = 100;
/// Those of the signature over signature and comment.
const GLOBAL_DIGITS: usize = 88;
/// Those of a public key: two bytes of algorithm, eight of key number, 32 of Ed25519.
const KEY_DIGITS: usize = 56;
/// What the base64 of a public key begins with: the bytes `Ed`.
const KEY_START: &str = "RW";
/// The last part of the trusted comment of a signature that this module made, before the version.
const BY: &str = "\tsecateurs ";

/// A key that cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is no key of the kind that is needed.
    #[error("{at}: is no minisign {expected} key: {problem}")]
    Format {
        /// The file, or what was given in its place.
        at: String,
        /// `secret` or `public`.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A password protects it, and none was given.
    #[error("{}: is protected by a password, and none was given", path.display())]
    Protected {
        /// The file.
        path: PathBuf,
    },
    /// The password is not that of the key.
    #[error("{}: the password is not that of this key", path.display())]
    Password {
        /// The file.
        path: PathBuf,
    },
    /// Its parts do not belong together, or this machine has no random numbers.
    #[error("{SIGNATURE}: cannot be made: {0}")]
    Signing(String),
}

/// A secret key, ready to sign.
pub struct Signer(SecretKey);

impl Signer {
    /// Opens a secret key file, as `minisign -G` writes it. A password is needed where the key is protected by one, and
    /// not looked at where it is not.
    ///
    /// # Errors
    /// If the file is no secret key, or the password is missing or wrong.
    pub fn open(path: &Path, password: Option<&str>) -> Result<Self, KeyError> {
        let text = text(path)?;
        let format = |problem: String| KeyError::Format { at: path.display().to_string(), expected: "secret", problem };
        let digits = text.lines().nth(1).unwrap_or_default().trim();
        let key = SecretKeyBox::from(text.clone());
        let opened = match (digits.starts_with(PROTECTED), password) {
            (true, None) => return Err(KeyError::Protected { path: path.into() }),
            (true, Some(password)) => key.into_secret_key(Some(password.to_owned())),
            (false, _) => match unchecked(digits) {
                Some(key) => Ok(key),
                None => key.into_unencrypted_secret_key(),
            },
        };
        opened.map(Self).map_err(|error| match error.kind() {
            minisign::ErrorKind::Verify if digits.starts_with(PROTECTED) => KeyError::Password { path: path.into() },
            _ => format(error.to_string()),
        })
    }

    /// The number of the key, as minisign shows it.
    pub fn id(&self) -> String {
        id(self.0.keynum())
    }

    /// Signs a manifest: the text of `manifest.json.minisig`. `epoch` is the time that the trusted comment has, seconds
    /// since 1970; the current one if absent.
    ///
    /// # Errors
    /// If the parts of the key do not belong together, or this machine has no random numbers.
    pub fn sign(&self, manifest: &[u8], epoch: Option<u64>) -> Result<String, KeyError> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let version = env!("CARGO_PKG_VERSION");
        let trusted = format!("timestamp:{}\tfile:{MANIFEST}\thashed{BY}{version}", epoch.unwrap_or_else(now));
        let untrusted = comment(&self.id());
        // With the public half the result is checked.
        let public = minisign::PublicKey::from_secret_key(&self.0).map_err(|e| KeyError::Signing(e.to_string()))?;
        let signed = minisign::sign(Some(&public), &self.0, Cursor::new(manifest), Some(&trusted), Some(&untrusted));
        signed.map(SignatureBox::into_string).map_err(|e| KeyError::Signing(e.to_string()))
    }
}

impl fmt::Debug for Signer {
    /// Never the secret.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Signer({})", self.id())
    }
}

/// A key without a password as the program `minisign` writes it: with zeros in the place of its checksum, which the crate
/// takes for damage. That both parts belong together is found out when it signs.
fn unchecked(digits: &str) -> Option<SecretKey> {
    let bytes = Base64::decode_to_vec(digits, None).ok().filter(|bytes| bytes.len() == KEY_BYTES)?;
    let (algorithms, checksum) = (&bytes[..6], &bytes[KEY_BYTES - CHECKSUM_BYTES..]);
    let plain = algorithms == PLAIN && checksum.iter().all(|byte| *byte == 0);
    plain.then(|| SecretKey::from_bytes(&bytes).ok()).flatten()
}

/// The untrusted comment of a signature that this module makes.
fn comment(id: &str) -> String {
    format!("signature of a secateurs bundle with key {id}")
}

/// The public half of a key.
#[derive(Clone, Debug)]
pub struct PublicKey(minisign::PublicKey);

impl PublicKey {
    /// A public key: a file as `minisign -G` writes it, or the base64 in its second line.
    ///
    /// # Errors
    /// If it is neither.
    pub fn open(text_or_path: &str) -> Result<Self, KeyError> {
        if text_or_path.len() == KEY_DIGITS && text_or_path.starts_with(KEY_START) && !Path::new(text_or_path).exists()
        {
            return Self::parse(text_or_path, text_or_path);
        }
        let text = text(Path::new(text_or_path))?;
        let digits = text.lines().nth(1).or(text.lines().next()).unwrap_or_default();
        Self::parse(text_or_path, digits.trim())
    }

    fn parse(at: &str, digits: &str) -> Result<Self, KeyError> {
        let format = |problem: String| KeyError::Format { at: at.to_owned(), expected: "public", problem };
        if digits.len() != KEY_DIGITS || !digits.starts_with(KEY_START) {
            let problem = format!("expected {KEY_DIGITS} characters of base64 that begin with {KEY_START}");
            return Err(format(problem));
        }
        minisign::PublicKey::from_base64(digits).map(Self).map_err(|e| format(e.to_string()))
    }

    /// The number of the key, as minisign shows it.
    pub fn id(&self) -> String {
        id(self.0.keynum())
    }
}

/// A signature in the form that minisign writes. Only [`Signature::check`] says what it is one of.
#[derive(Clone)]
pub struct Signature(SignatureBox);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Signature({})", self.id())
    }
}

impl Signature {
    /// Reads the four lines of a signature file.
    ///
    /// # Errors
    /// Says in what it is not what minisign, or this module, would have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let format = |problem: &str| format!("is no signature of minisign: {problem}");
        let text = std::str::from_utf8(bytes).map_err(|e| format(&e.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(format(&format!("is larger than {MAX_FILE} bytes")));
        }
        // The crate trusts in the lengths.
        let lines: Vec<&str> = text.split('\n').collect();
        let [_, signature, _, global, ""] = lines[..] else { return Err(format("expected four lines")) };
        if signature.len() != SIGNATURE_DIGITS || global.len() != GLOBAL_DIGITS {
            return Err(format(&format!("expected {SIGNATURE_DIGITS} and {GLOBAL_DIGITS} characters of base64")));
        }
        let read = SignatureBox::from_string(text).map_err(|e| format(&e.to_string()))?;
        let trusted = read.trusted_comment().map_err(|e| format(&e.to_string()))?;
        let untrusted = read.untrusted_comment().map_err(|e| format(&e.to_string()))?;
        if read.to_string() != text {
            return Err(format("minisign would write it in other bytes"));
        }
        if !read.is_prehashed() {
            return Err("is a signature of the old kind, over the whole file: sign with minisign 0.8 or later".into());
        }
        if trusted.contains(BY) && untrusted != comment(&id(read.keynum())) {
            return Err("is not what secateurs wrote: its first line was changed".into());
        }
        Ok(Self(read))
    }

    /// The number of the key that it claims.
    pub fn id(&self) -> String {
        id(self.0.keynum())
    }

    /// Whether it is one of these bytes with this key.
    ///
    /// # Errors
    /// Says what it is instead.
    pub fn check(&self, manifest: &[u8], key: &PublicKey) -> Result<(), String> {
        if self.id() != key.id() {
            return Err(format!("is a signature with key {}, expected one with {}", self.id(), key.id()));
        }
        minisign::verify(&key.0, &self.0, Cursor::new(manifest), true, false, false)
            .map_err(|e| format!("is no signature of {MANIFEST} with key {}: {e}", key.id()))
    }
}

/// The number of a key, as minisign shows it: 16 hex digits.
fn id(number: &[u8]) -> String {
    number.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

fn text(path: &Path) -> Result<String, KeyError> {
    let fail = |source| KeyError::Io { path: path.into(), source };
    let bytes = files::read(path, MAX_FILE).map_err(fail)?;
    String::from_utf8(bytes).map_err(|_| fail(io::Error::new(io::ErrorKind::InvalidData, "is no text in UTF-8")))
}

#[cfg(test)]
mod tests;
