//! The names that a checkpoint may ask for, and what applying them means here.

use super::value::{Dtype, Global, Kind};
use std::sync::Arc;

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

/// Where a name that is not allowed comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A function, or something of Python's own that runs programs or opens files.
    Code,
    /// A class of the author's own program, or of a library.
    Foreign,
    /// The programs of YOLOv5, and those that began as a copy of it.
    Yolov5,
}

/// Modules of Python itself, and of what runs programs: a class among them is not that of a network.
const PYTHON: &[&str] = &[
    "__builtin__",
    "_io",
    "_posixsubprocess",
    "_pyio",
    "_socket",
    "asyncio",
    "bdb",
    "bz2",
    "builtins",
    "cloudpickle",
    "code",
    "codecs",
    "codeop",
    "commands",
    "concurrent",
    "ctypes",
    "dill",
    "distutils",
    "doctest",
    "email",
    "fileinput",
    "ftplib",
    "functools",
    "glob",
    "gzip",
    "http",
    "httplib",
    "importlib",
    "inspect",
    "io",
    "joblib",
    "linecache",
    "logging",
    "lzma",
    "mailbox",
    "marshal",
    "mmap",
    "multiprocessing",
    "nt",
    "ntpath",
    "operator",
    "os",
    "pathlib",
    "pdb",
    "pickle",
    "pip",
    "pkgutil",
    "platform",
    "popen2",
    "posix",
    "posixpath",
    "profile",
    "pty",
    "pydoc",
    "requests",
    "runpy",
    "setuptools",
    "shelve",
    "shutil",
    "signal",
    "site",
    "smtplib",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tarfile",
    "telnetlib",
    "tempfile",
    "threading",
    "timeit",
    "trace",
    "types",
    "unittest",
    "urllib",
    "urllib2",
    "urllib3",
    "uuid",
    "venv",
    "webbrowser",
    "xmlrpc",
    "zipfile",
    "zipimport",
];

/// Tells where a name that is not allowed comes from.
pub(super) fn origin(module: &str, name: &str) -> Origin {
    let program = module.split('.').next().unwrap_or_default();
    let simple = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match program {
        _ if !simple => Origin::Code,
        "models" if ["models.yolo", "models.common", "models.experimental"].contains(&module) => Origin::Yolov5,
        "__main__" | "__mp_main__" => Origin::Foreign,
        "" => Origin::Code,
        _ if PYTHON.contains(&program) || !name.starts_with(|c: char| c.is_ascii_uppercase()) => Origin::Code,
        _ => Origin::Foreign,
    }
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

    #[test]
    fn code_is_told_from_classes_of_others() {
        for (module, name, expected) in [
            ("os", "system", Origin::Code),
            ("subprocess", "Popen", Origin::Code),
            ("builtins", "eval", Origin::Code),
            ("torch", "load", Origin::Code),
            ("types", "CodeType", Origin::Code),
            ("ultralytics.nn.tasks", "os.system", Origin::Code),
            ("__main__", "os.system", Origin::Code),
            ("", "", Origin::Code),
            ("__main__", "Net", Origin::Foreign),
            ("src.model", "Net", Origin::Foreign),
            ("torch.optim.sgd", "SGD", Origin::Foreign),
            ("models.resnet", "ResNet", Origin::Foreign),
            ("models.yolo", "DetectionModel", Origin::Yolov5),
            ("models.common", "Conv", Origin::Yolov5),
        ] {
            assert_eq!(origin(module, name), expected, "{module} {name}");
        }
    }
}
