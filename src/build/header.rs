//! What the head of a model file says: its classes. The tensors are not looked at, and no graph is built.
//!
//! The head of a safetensors file is JSON, behind its length in eight bytes, least byte first. Only its `__metadata__`
//! is read: a reader of whole files would be five more crates in every build script.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The newest version of the format that the runtime of this version reads.
pub const NEWEST: u32 = 4;

/// The most classes that a module is generated for.
const MAX_CLASSES: usize = 100_000;

/// The longest head, bytes: that of the format.
const MAX_HEAD: usize = 100_000_000;

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it does: `detect`, `classify`, ...
    pub task: String,
    /// Class names in the order of their numbers, one for each class. They come from a file, and may be anything.
    pub classes: Vec<String>,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "__metadata__", default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Graph {
    head: GraphHead,
}

#[derive(Deserialize)]
struct GraphHead {
    kind: String,
    nc: usize,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    names: Vec<String>,
}

/// Reads the head of a model file.
///
/// # Errors
/// If it is no model file, or of a newer version.
pub fn read(bytes: &[u8]) -> Result<Header, String> {
    let Head { metadata } = head(bytes).map_err(|problem| format!("not a safetensors file: {problem}"))?;
    let text = |key: &str| metadata.get(key).ok_or_else(|| format!("has no `{key}` in its metadata"));
    let version = text("secateurs.format")?;
    if version.parse::<u32>().ok().is_none_or(|v| v == 0 || v > NEWEST) {
        let version = version.escape_debug();
        return Err(format!("format version `{version}`, this version of secateurs reads 1 to {NEWEST}"));
    }
    let Graph { head } =
        serde_json::from_str(text("secateurs.graph")?).map_err(|e| format!("`secateurs.graph`: {e}"))?;
    let Info { names } = serde_json::from_str(text("secateurs.info")?).map_err(|e| format!("`secateurs.info`: {e}"))?;
    if head.nc == 0 || head.nc > MAX_CLASSES {
        return Err(format!("has {} classes, expected 1 to {MAX_CLASSES}", head.nc));
    }
    let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| format!("class {class}"));
    Ok(Header { task: head.kind, classes: (0..head.nc).map(name).collect() })
}

/// The head of a safetensors file.
fn head(bytes: &[u8]) -> Result<Head, String> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("it is shorter than the length of its head")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_HEAD);
    let text = length.and_then(|length| rest.get(..length)).ok_or("its head is longer than it may be")?;
    serde_json::from_slice(text).map_err(|e| e.to_string())
}
