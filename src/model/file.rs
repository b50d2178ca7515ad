//! The one-file format: safetensors whose metadata holds the graph, the names and the provenance.
//!
//! Any safetensors reader sees the tensors; this module also rebuilds the network. Metadata keys:
//! `secateurs.format` (version), `secateurs.graph` and `secateurs.info` (JSON). Int8 kernels take a byte per
//! value, f16 kernels two; others with many zeros are packed.

use super::int8::{self, Quantized};
use super::sparse::{self, Packed};
use super::{Info, Model, ModelError, Tensor, Weights};
use crate::files;
use crate::graph::Graph;
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The newest version of the format that this build reads. Files with nothing but f32 are written as version 1, those
/// with packed zeros as version 2, those of int8 or f16 networks as version 3, and where some layers have a dtype of their
/// own as version 4.
pub const FORMAT_VERSION: u32 = 4;

/// A model file that cannot be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are not what the format says.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// Graph and tensors do not fit.
    #[error("{path}: {source}")]
    Model {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ModelError,
    },
}

const KEY_FORMAT: &str = "secateurs.format";
const KEY_GRAPH: &str = "secateurs.graph";
const KEY_INFO: &str = "secateurs.info";

/// The largest model file that is read (8 GiB).
pub const MAX_FILE: u64 = 8 << 30;

/// Reads a model file.
///
/// ```
/// use secateurs::model::{load, save};
/// # let demo = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors"));
/// # let model = secateurs::model::from_bytes(std::path::Path::new("demo.safetensors"), demo)?;
/// # let path = std::env::temp_dir().join(format!("secateurs-load-{}.safetensors", std::process::id()));
///
/// save(&model, &path)?;
/// let same = load(&path)?;
/// assert_eq!(same.graph, model.graph);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If the file cannot be read, is not safetensors, is not ours, or its parts do not fit.
pub fn load(path: &Path) -> Result<Model, FileError> {
    let bytes = files::read(path, MAX_FILE).map_err(|source| FileError::Io { path: path.into(), source })?;
    from_bytes(path, &bytes)
}

/// A model from the bytes of its file; `path` only names it in errors.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Model, FileError> {
    let fail = |problem: String| FileError::Format { path: path.into(), problem };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| fail(format!("not a safetensors file: {e}")))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = |key: &str| {
        metadata.get(key).ok_or_else(|| fail(format!("has no `{key}` in its metadata; not a secateurs model")))
    };
    let version = text(KEY_FORMAT)?;
    if version.parse::<u32>().ok().is_none_or(|v| v == 0 || v > FORMAT_VERSION) {
        return Err(fail(format!("format version `{version}`, this build reads 1 to {FORMAT_VERSION}")));
    }
    let graph: Graph = serde_json::from_str(text(KEY_GRAPH)?).map_err(|e| fail(format!("`{KEY_GRAPH}`: {e}")))?;
    let info: Info = serde_json::from_str(text(KEY_INFO)?).map_err(|e| fail(format!("`{KEY_INFO}`: {e}")))?;
    let mut weights = tensors(path, bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail(format!("not a safetensors file: {e}")))?;
    int8::join(&graph, &file, &mut weights).map_err(fail)?;
    sparse::unpack(&graph, &file, &mut weights).map_err(fail)?;
    Model::new(graph, weights, info).map_err(|source| FileError::Model { path: path.into(), source })
}

/// Whether these are the bytes of a file in our own format (as against plain safetensors).
pub fn is_own_format(bytes: &[u8]) -> bool {
    SafeTensors::read_metadata(bytes)
        .is_ok_and(|(_, header)| header.metadata().as_ref().is_some_and(|m| m.contains_key(KEY_FORMAT)))
}

/// Every floating-point tensor of a safetensors file as f32; integer tensors (counters) are left out.
///
/// # Errors
/// If the bytes are not safetensors.
pub fn tensors(path: &Path, bytes: &[u8]) -> Result<Weights, FileError> {
    let fail = |problem: String| FileError::Format { path: path.into(), problem };
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail(format!("not a safetensors file: {e}")))?;
    let mut weights = Weights::default();
    for (key, view) in file.iter() {
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => chunks(data).map(f32::from_le_bytes).collect(),
            Dtype::F64 => chunks(data).map(|b| f64::from_le_bytes(b) as f32).collect(),
            Dtype::F16 => chunks(data).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => chunks(data).map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL => continue,
            other => return Err(fail(format!("tensor `{key}` has type {other:?}, expected a float"))),
        };
        weights.insert(key.to_owned(), Tensor::new(view.shape().to_vec(), values));
    }
    Ok(weights)
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|c| c.try_into().expect("chunks_exact gives N bytes"))
}

/// Writes a model file. The same model always gives the same bytes.
///
/// # Errors
/// If the file cannot be written.
pub fn save(model: &Model, path: &Path) -> Result<(), FileError> {
    let bytes = to_bytes(model).map_err(|problem| FileError::Format { path: path.into(), problem })?;
    files::write_atomic(path, &bytes).map_err(|source| FileError::Io { path: path.into(), source })
}

/// The bytes of a model file.
///
/// # Errors
/// If the tensors are too many for the format.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>, String> {
    let json = |value: serde_json::Result<String>| value.map_err(|e| e.to_string());
    let quantized: BTreeMap<&str, Quantized> = int8::keys(&model.graph)
        .filter_map(|(key, channels)| Some((key, int8::split(model.tensor(key), channels)?)))
        .collect();
    let f16_bytes: BTreeMap<&str, Vec<u8>> =
        f16_keys(&model.graph).filter_map(|key| Some((key, f16_bytes(model.tensor(key))?))).collect();
    let narrow = |key: &str| quantized.contains_key(key) || f16_bytes.contains_key(key);
    let rest = model.weights.iter().filter(|(key, _)| !narrow(key));
    // Only kernels that the graph names are unpacked again; a checkpoint has further tensors.
    let named: HashSet<String> = model.graph.params().into_iter().map(|param| param.key).collect();
    let rest = rest.filter(|(key, _)| named.contains(*key));
    let packed: BTreeMap<&str, Packed> =
        rest.filter_map(|(key, tensor)| Some((key.as_str(), sparse::pack(tensor)?))).collect();
    let version = match (model.graph.dtype.is_f32(), packed.is_empty()) {
        _ if !model.graph.exceptions.is_empty() => 4,
        (false, _) => 3,
        (true, false) => 2,
        (true, true) => 1,
    };
    let metadata = [
        (KEY_FORMAT.to_owned(), version.to_string()),
        (KEY_GRAPH.to_owned(), json(serde_json::to_string(&model.graph))?),
        (KEY_INFO.to_owned(), json(serde_json::to_string(&model.info))?),
    ];
    let mut views = Vec::new();
    let mut put = |key: String, dtype: Dtype, shape: Vec<usize>, bytes| {
        let view = TensorView::new(dtype, shape, bytes).map_err(|e| e.to_string())?;
        views.push((key, view));
        Ok::<(), String>(())
    };
    for (key, tensor) in &model.weights {
        if let Some(Quantized { numbers, scale }) = quantized.get(key.as_str()) {
            put(format!("{key}{}", int8::NUMBERS), Dtype::U8, tensor.shape().to_vec(), numbers)?;
            put(format!("{key}{}", int8::SCALE), Dtype::F32, vec![scale.len()], bytemuck::cast_slice(scale))?;
            continue;
        }
        if let Some(values) = f16_bytes.get(key.as_str()) {
            put(key.clone(), Dtype::F16, tensor.shape().to_vec(), values)?;
            continue;
        }
        match packed.get(key.as_str()) {
            Some(Packed { bits, values }) => {
                put(format!("{key}{}", sparse::BITS), Dtype::U8, vec![bits.len()], bits)?;
                let bytes = bytemuck::cast_slice(values);
                put(format!("{key}{}", sparse::VALUES), Dtype::F32, vec![values.len()], bytes)?;
            }
            None => put(key.clone(), Dtype::F32, tensor.shape().to_vec(), bytemuck::cast_slice(tensor.data()))?,
        }
    }
    let bytes = safetensors::serialize(views, Some(metadata.into_iter().collect())).map_err(|e| e.to_string())?;
    Ok(sorted_header(bytes))
}

/// The keys of the kernels that may be stored as f16.
fn f16_keys(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.convs_in(crate::graph::Dtype::F16).map(|(_, conv)| conv.weight.as_str())
}

/// The bytes of the values as f16; `None` unless f16 holds each value, to the bit.
fn f16_bytes(tensor: &Tensor) -> Option<Vec<u8>> {
    let half = |value: &f32| Some(f16::from_f32(*value)).filter(|half| half.to_f32().to_bits() == value.to_bits());
    let f16_bytes: Option<Vec<f16>> = tensor.data().iter().map(half).collect();
    Some(f16_bytes?.into_iter().flat_map(f16::to_le_bytes).collect())
}

/// Rewrites the JSON header with sorted keys, so that the bytes do not depend on a hash seed.
fn sorted_header(bytes: Vec<u8>) -> Vec<u8> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return bytes };
    let length = u64::from_le_bytes(*length) as usize;
    let (Some(header), Some(body)) = (rest.get(..length), rest.get(length..)) else { return bytes };
    // serde_json's map is ordered by key.
    let Ok(header) = serde_json::from_slice::<serde_json::Value>(header) else { return bytes };
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = Vec::with_capacity(8 + text.len() + body.len());
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(&text);
    out.extend_from_slice(body);
    out
}
