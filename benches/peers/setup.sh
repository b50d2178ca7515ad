#!/usr/bin/env bash
# Makes a virtual environment with the runtimes that we are compared with.
#
#   benches/peers/setup.sh [FOLDER]         ONNX Runtime and CycloneDX, for tests; default: target/peers below the repository
#   benches/peers/setup.sh --all [FOLDER]   and OpenVINO, ncnn and PyTorch, for the comparisons: some gigabytes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lists=("$here/requirements.txt")
if [ "${1:-}" = --all ]; then
    lists+=("$here/more.txt")
    shift
fi
venv=${1:-${CARGO_TARGET_DIR:-$here/../../target}/peers}
# Only when something is missing: a second run needs no network.
for list in "${lists[@]}"; do
    done=$venv/$(basename "$list")
    if [ -x "$venv/bin/python" ] && cmp -s "$list" "$done"; then continue; fi
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
    cp "$list" "$done"
done
