#!/usr/bin/env bash
# Makes a virtual environment with the runtimes that we are compared with.
#
#   benches/peers/setup.sh [FOLDER]      default: target/peers below the repository
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-${CARGO_TARGET_DIR:-$here/../../target}/peers}
wanted=$here/requirements.txt
# Only when something is missing: a second run needs no network.
if [ -x "$venv/bin/python" ] && cmp -s "$wanted" "$venv/requirements.txt"; then
    exit 0
fi
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
cp "$wanted" "$venv/requirements.txt"
