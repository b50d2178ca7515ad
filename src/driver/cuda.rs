//! NVIDIA's compiler, which builds the code of a device's GPU.

use super::cross::in_path;
use std::env;
use std::path::{Path, PathBuf};

/// The commands that bring it.
pub const INSTALL: &str =
    ".ci/cuda-setup    (on Debian, without a GPU; or NVIDIA's CUDA toolkit of your device's release)";

/// Where `.ci/cuda-setup` lays it out, below the user's cache.
const LAID_OUT: &str = "secateurs/cuda-12.4";

/// `nvcc`: the one that `NVCC` names, of `CUDA_HOME`, in the path, where NVIDIA installs it, or of `.ci/cuda-setup`.
pub fn nvcc() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of = |root: PathBuf| Some(root.join("bin/nvcc")).filter(|nvcc| nvcc.is_file());
    let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    set("NVCC")
        .or_else(|| set("CUDA_HOME").and_then(of))
        .or_else(|| in_path("nvcc").then(|| "nvcc".into()))
        .or_else(|| of("/usr/local/cuda".into()))
        .or_else(|| cache().map(|cache| cache.join(LAID_OUT)).filter(|root| complete(root)).and_then(of))
}

/// Whether `.ci/cuda-setup` came to its end.
fn complete(root: &Path) -> bool {
    root.join("complete").is_file()
}
