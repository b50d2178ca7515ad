//! Writes the model that `SECATEURS_MODEL` names, an empty file without one, to the file that the inference binary
//! embeds; with the feature `cuda` it also compiles the kernels of the CUDA engine, and with `driver` it lists the files
//! of the package that the driver carries along.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const KERNELS: &str = "src/kernels/cuda/kernels.cu";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SECATEURS_MODEL");
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    let target = out.join("model.safetensors");
    let mut result = match env::var_os("SECATEURS_MODEL").filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::copy(&path, &target).map(|_| ()).map_err(|e| format!("SECATEURS_MODEL={}: {e}", path.display()))
        }
        None => fs::write(&target, b"").map_err(|e| format!("{}: {e}", target.display())),
    };
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        result = result.and_then(|()| compile_kernels(&out.join("kernels.fatbin")));
    }
    if env::var_os("CARGO_FEATURE_DRIVER").is_some() {
        result = result.and_then(|()| list_package(&out.join("package.rs")));
    }
    if let Err(problem) = result {
        println!("cargo::error={problem}");
    }
}

/// Writes an array of all files that a build of the package takes, sorted: each one's name and bytes.
fn list_package(target: &Path) -> Result<(), String> {
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).ok_or("CARGO_MANIFEST_DIR is not set")?;
    let mut files: Vec<PathBuf> = ["Cargo.toml", "Cargo.lock", "build.rs"].iter().map(|name| root.join(name)).collect();
    files.retain(|file| file.is_file());
    let mut folders = vec![root.join("src"), root.join("targets")];
    while let Some(folder) = folders.pop() {
        println!("cargo::rerun-if-changed={}", folder.display());
        for entry in fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
            let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let mut names = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&root).map_err(|e| e.to_string())?;
        let parts: Vec<_> = name.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        names.push((parts.join("/"), file.display().to_string()));
    }
    names.sort();
    let lines = names.iter().map(|(name, path)| format!("    ({name:?}, include_bytes!({path:?})),\n"));
    let text = format!("&[\n{}]\n", lines.collect::<String>());
    fs::write(target, text).map_err(|e| format!("{}: {e}", target.display()))
}

/// Compiles the kernels to a fat binary: code for the architecture of `SECATEURS_CUDA_ARCH` (`sm_87`), or
/// `CUDA_COMPUTE_CAP` (`87`), and PTX, which newer devices compile when it is loaded. Without either: code for Jetson
/// Orin on 64-bit ARM, PTX for every device since Ampere elsewhere. A kernel whose registers do not suffice is an error.
fn compile_kernels(target: &Path) -> Result<(), String> {
    for name in ["SECATEURS_CUDA_ARCH", "CUDA_COMPUTE_CAP", "NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=src/kernels/cuda");
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let named = set("SECATEURS_CUDA_ARCH").map(|arch| arch.trim_start_matches("sm_").to_owned());
    let named = named.or_else(|| set("CUDA_COMPUTE_CAP").map(|version| version.replace('.', "")));
    let arm = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
    let code = match named.or_else(|| arm.then(|| "87".into())) {
        Some(version) if version.parse().is_ok_and(|number: u32| (10..80).contains(&number)) => {
            return Err(format!("CUDA architecture sm_{version}: the kernels need instructions of sm_80"));
        }
        Some(version) if version.len() >= 2 && version.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            format!("arch=compute_{version},code=[sm_{version},compute_{version}]")
        }
        Some(version) => return Err(format!("CUDA architecture `{version}`: expected one such as sm_87")),
        None => "arch=compute_80,code=compute_80".into(),
    };
    let nvcc = set("NVCC").map(PathBuf::from).or_else(|| Some(Path::new(&set("CUDA_HOME")?).join("bin/nvcc")));
    let nvcc = nvcc.unwrap_or_else(|| "nvcc".into());
    let training = env::var_os("CARGO_FEATURE_TOOLS").map(|_| "-DCARRY_TRAINING");
    let output = Command::new(&nvcc)
        .args(["-fatbin", "-O3", "-Xptxas", "-v", "-gencode", &code])
        .args(training)
        .arg("-o")
        .arg(target)
        .arg(KERNELS)
        .output()
        .map_err(|e| {
            format!(
                "the feature `cuda` needs NVIDIA's compiler: {} cannot be started ({e}); `cargo xtask doctor --target \
                 jetson` says how to get it",
                nvcc.display()
            )
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} {KERNELS}: {}", nvcc.display(), text.trim().replace('\n', " | ")));
    }
    // Registers, shared memory and spills of every kernel, for the build's log.
    println!("{text}");
    match text.lines().filter(|line| line.contains("spill") && !line.contains(" 0 bytes spill stores")).count() {
        0 => Ok(()),
        count => Err(format!("{KERNELS}: {count} kernels spill registers: raise `RESIDENT` of product.h")),
    }
}
