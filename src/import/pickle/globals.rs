//! The names that a checkpoint may ask for, and what applying them means here.

use super::value::{Dtype, Global};
use std::sync::Arc;

/// What applying an allowed name to arguments gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An empty ordered dictionary.
    Dict,
    /// The items of its first argument.
    Items,
    /// A tensor.
    Tensor,
    /// Its first argument.
    First,
    /// Names a storage's element type.
    Storage(Dtype),
    /// An inert object.
    Class,
}

/// The allow-list. A module that ends in `.` stands for all modules below it.
const CLASSES: &[(&str, &[&str])] = &[
    ("ultralytics.nn.", &[]),
    ("ultralytics.utils.", &[]),
    ("ultralytics.utils", &["IterableSimpleNamespace", "SimpleClass"]),
    ("torch.nn.modules.", &[]),
    ("torch.nn.parameter", &["Parameter", "Buffer"]),
    ("torch", &["device", "dtype", "float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool"]),
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("pathlib", &["Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    ("pathlib._local", &["Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    ("datetime", &["datetime", "date", "time", "timedelta", "timezone"]),
    ("collections", &["defaultdict", "deque", "Counter"]),
    ("numpy", &["dtype", "ndarray", "float64", "float32", "int64", "int32"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("_codecs", &["encode"]),
    ("builtins", &["int", "float", "bool", "str", "dict", "slice", "complex", "bytearray", "bytes", "object"]),
    ("__builtin__", &["int", "float", "bool", "str", "dict", "slice", "complex", "bytearray", "bytes", "object"]),
    ("copy_reg", &["_reconstructor"]),
    ("copyreg", &["_reconstructor"]),
];

/// The global of a module and a name, or nothing if the allow-list does not have it.
pub(super) fn allowed(module: &Arc<str>, name: &Arc<str>) -> Option<Global> {
    let kind = kind(module, name)?;
    Some(Global { module: module.clone(), name: name.clone(), kind })
}

fn kind(module: &str, name: &str) -> Option<Kind> {
    let special = match (module, name) {
        ("collections", "OrderedDict") => Kind::Dict,
        ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => Kind::Items,
        ("torch._utils", "_rebuild_tensor_v2") => Kind::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Kind::First,
        ("torch", storage) if storage.ends_with("Storage") => Kind::Storage(storage_dtype(storage)?),
        _ => {
            let identifier = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let listed = CLASSES.iter().any(|(allowed, names)| match allowed.strip_suffix('.') {
                Some(prefix) => {
                    module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                }
                None => *allowed == module && names.contains(&name),
            });
            return (listed && identifier(name)).then_some(Kind::Class);
        }
    };
    Some(special)
}

fn storage_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::Int(8),
        "IntStorage" => Dtype::Int(4),
        "ShortStorage" => Dtype::Int(2),
        "CharStorage" | "ByteStorage" | "BoolStorage" => Dtype::Int(1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_checkpoints_need_is_allowed() {
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("ultralytics.nn.modules.block", "C3k2"),
            ("torch.nn.modules.conv", "Conv2d"),
            ("torch", "HalfStorage"),
        ] {
            assert!(allowed(&module.into(), &name.into()).is_some(), "{module} {name}");
        }
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("__builtin__", "exec"),
            ("builtins", "getattr"),
            ("subprocess", "Popen"),
            ("torch", "load"),
            ("torch", "StrangeStorage"),
            ("torch.nn", "Module"),
            ("torch.nn.modulesx", "Conv2d"),
            ("ultralyticsx.nn.tasks", "DetectionModel"),
            ("ultralytics.nn.tasks", "os.system"),
            ("", ""),
        ] {
            assert!(allowed(&module.into(), &name.into()).is_none(), "{module} {name}");
        }
    }
}
