//! The emulated driver of tests/cuda/driver.c, compiled on first use.

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
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| compiler().map(|compiler| build(&compiler)));
    if library.is_none() {
        assert!(env::var_os("CI").is_none(), "there is no C compiler to build the emulated CUDA driver with");
        crate::output::message("", "skipped", ": there is no C compiler to build the emulated CUDA driver with");
    }
    library.as_ref().map(|library| Device::open(library, b"emulated", ordinal))
}

/// A C compiler for the CPU that this test runs on.
fn compiler() -> Option<String> {
    let own = format!("{}-linux-gnu-gcc", env::consts::ARCH);
    let names = env::var("CC").ok().into_iter().chain([own, "cc".into()]);
    names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()))
}

/// Builds it under a name with a hash of its sources, complete or not at all.
fn build(compiler: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernels = ["kernels.cu", "device.h", "tiles.h", "product.h", "f16.h", "attention.h", "peaks.h"];
    let training = ["tensors.h", "conv.h", "norm.h", "window.h", "attention.h", "update.h"];
    let mut sources = ["tests/cuda/driver.c", "tests/cuda/emulate.h"].map(|path| root.join(path)).to_vec();
    sources.extend(kernels.map(|name| root.join("src/kernels/cuda").join(name)));
    sources.extend(training.map(|name| root.join("src/kernels/cuda/train").join(name)));
    let mut hasher = DefaultHasher::new();
    sources.iter().for_each(|path| fs::read(path).unwrap().hash(&mut hasher));
    let folder = Path::new(env!("OUT_DIR"));
    let library = folder.join(format!("libcuda-{:016x}.so", hasher.finish()));
    if !library.exists() {
        let temporary = folder.join(format!("libcuda-{}.so", std::process::id()));
        let mut command = Command::new(compiler);
        command.args(["-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]);
        // In software a fused multiply-add takes many instructions.
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("fma") {
            command.arg("-mfma");
        }
        command
            .args(["-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-maybe-uninitialized", "-I"])
            .arg(root.join("src/kernels/cuda"));
        command.arg("-o").arg(&temporary).arg(&sources[0]).args(["-lm", "-lpthread"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::rename(temporary, &library).unwrap();
    }
    library
}
