#!/bin/sh
# Builds the inference binary where it will run, and writes it to standard output. Cargo's progress goes to standard error.
# Arguments: the package, a model to embed or -, the architecture of the GPU or -, and arguments of cargo.
set -e
PATH=$HOME/.cargo/bin:$PATH:/usr/local/cuda/bin
export PATH
unset CARGO_BUILD_TARGET CARGO_TARGET_DIR
if ! command -v cargo >/dev/null; then
    echo "the device has no cargo: https://rustup.rs installs it there" >&2
    exit 1
fi
package=$1 model=$2 gpu=$3
shift 3
work=$(cd "$(dirname "$0")" && pwd)/on-device
mkdir -p "$work"
rm -rf "$work"/secateurs-*
tar -xzf "$package" -C "$work"
if [ "$gpu" != - ]; then
    if command -v nvcc >/dev/null; then
        SECATEURS_CUDA_ARCH=$gpu
        export SECATEURS_CUDA_ARCH
        set -- "$@" --features cuda
    else
        echo "the device has no nvcc: no code for its GPU ($gpu)" >&2
    fi
fi
unset SECATEURS_MODEL
if [ "$model" != - ]; then
    SECATEURS_MODEL=$(cd "$(dirname "$model")" && pwd)/$(basename "$model")
    export SECATEURS_MODEL
fi
cd "$work"/secateurs-*
cargo build --release --locked --bin secateurs-infer --target-dir "$work/target" "$@" >&2
cat "$work/target/release/secateurs-infer"
