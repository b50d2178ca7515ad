//! Places the model that `SECATEURS_MODEL` names where the inference binary embeds it; an empty file without one.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SECATEURS_MODEL");
    let Some(out) = env::var_os("OUT_DIR") else { return };
    let target = Path::new(&out).join("model.safetensors");
    let result = match env::var_os("SECATEURS_MODEL").filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::copy(&path, &target).map(|_| ()).map_err(|e| format!("SECATEURS_MODEL={}: {e}", path.display()))
        }
        None => fs::write(&target, b"").map_err(|e| format!("{}: {e}", target.display())),
    };
    if let Err(problem) = result {
        println!("cargo::error={problem}");
    }
}
