//! The emulated driver of tests/cuda/driver.c and the stand-in for NCCL of tests/cuda/nccl.c, compiled on first use.

use super::nccl::{Nccl, NcclError};
use super::{CudaError, Device};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// A device that runs the kernels on this CPU. `None` where no C compiler is; with `CI` set that is a failure.
pub(crate) fn device() -> Option<Device> {
    device_of(0).map(|device| device.unwrap())
}

/// The device of this number; the emulated driver has two, of which the second is too old.
pub(crate) fn device_of(ordinal: u32) -> Option<Result<Device, CudaError>> {
    driver().map(|library| Device::open(library, b"emulated", ordinal))
}

/// The emulated driver.
pub(crate) fn driver() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let kernels = ["kernels.cu", "device.h", "tiles.h", "product.h", "f16.h", "attention.h", "cells.h", "peaks.h"];
        let training = [
            "tensors.h",
            "conv.h",
            "loss.h",
            "norm.h",
            "rounding.h",
            "window.h",
            "attention.h",
            "samples.h",
            "squares.h",
            "update.h",
        ];
        let mut sources = ["driver.c", "emulate.h", "stream.h"].map(|name| format!("tests/cuda/{name}")).to_vec();
        sources.extend(kernels.map(|name| format!("src/kernels/cuda/{name}")));
        sources.extend(training.map(|name| format!("src/kernels/cuda/train/{name}")));
        let mut arguments = vec!["-ffp-contract=off".to_owned()];
        // In software a fused multiply-add takes many instructions.
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("fma") {
            arguments.push("-mfma".into());
        }
        arguments.extend(
            ["-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-maybe-uninitialized", "-lm"].map(Into::into),
        );
        build("libcuda", &sources, &arguments)
    });
    library.as_deref()
}

/// The stand-in for NCCL.
pub(crate) fn nccl() -> Option<Result<Nccl, NcclError>> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    LIBRARY.get_or_init(|| nccl_library(&[])).as_ref().map(|library| Nccl::open(library))
}

/// The stand-in for NCCL, compiled with these definitions.
pub(crate) fn nccl_library(definitions: &[&str]) -> Option<PathBuf> {
    let sources = ["nccl.c", "stream.h"].map(|name| format!("tests/cuda/{name}"));
    build("libnccl", &sources, &definitions.iter().map(|definition| format!("-D{definition}")).collect::<Vec<_>>())
}

/// A C compiler for the CPU that this test runs on.
fn compiler() -> Option<String> {
    let own = format!("{}-linux-gnu-gcc", env::consts::ARCH);
    let names = env::var("CC").ok().into_iter().chain([own, "cc".into()]);
    let found =
        names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()));
    if found.is_none() {
        assert!(env::var_os("CI").is_none(), "there is no C compiler to build the emulated CUDA driver with");
        crate::output::message("", "skipped", ": there is no C compiler to build the emulated CUDA driver with");
    }
    found
}

/// Builds a library from the first of its sources, under a name with a hash of all of them, complete or not at all.
fn build(name: &str, sources: &[String], arguments: &[String]) -> Option<PathBuf> {
    let compiler = compiler()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut hasher = DefaultHasher::new();
    sources.iter().for_each(|path| fs::read(root.join(path)).unwrap().hash(&mut hasher));
    arguments.hash(&mut hasher);
    let folder = Path::new(env!("OUT_DIR"));
    let library = folder.join(format!("{name}-{:016x}.so", hasher.finish()));
    if !library.exists() {
        let temporary = folder.join(format!("{name}-{}-{:016x}.so", std::process::id(), hasher.finish()));
        let mut command = Command::new(compiler);
        command.args(["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-I"]);
        command.arg(root.join("src/kernels/cuda")).arg("-o").arg(&temporary).arg(root.join(&sources[0]));
        let output = command.args(arguments).arg("-lpthread").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::rename(temporary, &library).unwrap();
    }
    Some(library)
}
