#!/usr/bin/env bash
# Checks and times everything on this machine's GPU: detections in f32, f16 and int8 against the CPU's, times of whole
# frames, every layer with its share of the GPU's measured peaks, and steps of training in f32 and mixed precision.
#
#   benches/gpu.sh MODEL.safetensors DATA.yaml [IMGSZ]
#
# Needs nvcc (.ci/cuda-setup lays one out) and NVIDIA's driver. Builds the inference binary with CUDA for this machine
# and the worker. Where Python has PyTorch with CUDA and onnx2torch, its CUDA graphs of the same network (from
# `secateurs export`) in f32 and f16 are timed in the same call. Exit code 1: results differ, 7: no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
model=$1 data=$2 imgsz=${3:-640}
target=${CARGO_TARGET_DIR:-target}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

eval "$(.ci/cuda-setup)"
cargo build --release --package secateurs --no-default-features --features cuda --target-dir "$target/infer" --bin secateurs-infer
cargo build --release --package secateurs --bin secateurs
infer=$target/infer/release/secateurs-infer worker=$target/release/secateurs
"$infer" device --device cuda

mapfile -t photos < <(find "$(dirname "$data")/images/val" -name '*.jpg' -o -name '*.png' | sort | head -50)
cp "$model" "$out/f32.safetensors"
"$worker" quantise --model "$model" --dtype f16 -o "$out/f16.safetensors"
"$worker" quantise --model "$model" --dtype int8 --data "$data" --imgsz "$imgsz" -o "$out/int8.safetensors"
for dtype in f32 f16 int8; do
    file=$out/$dtype.safetensors against=$out/f32.safetensors
    [ $dtype = int8 ] && against=$file
    "$infer" detect --device cpu --model "$against" --json "${photos[@]}" >"$out/cpu.jsonl"
    "$infer" detect --device cuda --model "$file" --json "${photos[@]}" >"$out/gpu.jsonl"
    bounds=(0.3 0.005 0.95)
    [ $dtype = f32 ] && bounds=(0.01 0.0001)
    [ $dtype = int8 ] && bounds=(0.3 0.005 0.7)
    echo "$dtype:"
    .ci/same-detections "$out/cpu.jsonl" "$out/gpu.jsonl" ${#photos[@]} "${bounds[@]}"
    "$infer" bench --device cuda --model "$file" --imgsz "$imgsz"
    "$infer" bench --device cuda --profile --model "$file" --imgsz "$imgsz"
done
"$worker" export --model "$model" --imgsz "$imgsz" --format onnx -o "$out/model.onnx"
python3 benches/peers/torch_graph.py "$out/model.onnx" "$imgsz"

# Steps of training: `first` and `squares` must be those of the CPU; forward, backward and update in milliseconds.
cargo build --release --package secateurs --features cuda --target-dir "$target/train" --example train_cuda
cargo build --release --package secateurs --example train_step
for size in 320 "$imgsz"; do
    "$target/release/examples/train_step" "$model" "$size" 16 "$(nproc)" 1
    for kind in f32 mixed; do
        "$target/train/release/examples/train_cuda" "$model" "$size" 16 "$kind" 20
    done
done
