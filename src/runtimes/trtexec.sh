#!/bin/sh
# Drives trtexec: trtexec.sh PROGRAM FOLDER TASK ARGUMENT...
#
#   about                              what it is: its line with the version, then the name of the GPU
#   build KEY ONNX FLAG...             makes FOLDER/KEY.plan, unless it is there
#   time FRAMES WARMUP KEY...          the file of --exportTimes of each engine; the warm-up in milliseconds
#   profile FRAMES WARMUP KEY          the file of --exportProfile
#   outputs KEY FILE...                the file of --exportOutput for each input of little-endian f32
#   forget KEY                         removes FOLDER/KEY.plan
#
# An empty PROGRAM stands for trtexec in PATH, or where JetPack and NVIDIA's packages put it; an empty FOLDER for the
# user's cache. Ends with 60 where trtexec is missing, 61 where an engine cannot be built, 62 where one does not run, 63
# where one is not there, 64 where the folder cannot be used; before 61 and 62 the end of trtexec's log is printed.
set -u
program=$1 folder=$2 task=$3
shift 3
if [ -z "$program" ]; then
    for program in trtexec /usr/src/tensorrt/bin/trtexec /opt/tensorrt/bin/trtexec /usr/local/tensorrt/bin/trtexec; do
        if command -v "$program" >/dev/null 2>&1; then break; fi
    done
fi
command -v "$program" >/dev/null 2>&1 || exit 60
[ -n "$folder" ] || folder=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/secateurs/engines

# The engines that are kept, those used last.
most=64

work=$(mktemp -d "${TMPDIR:-/tmp}/secateurs.XXXXXX") || exit 64
part=
running=
clean() {
    if [ -n "$running" ]; then kill -9 "$running" 2>/dev/null; fi
    rm -rf "$work"
    if [ -n "$part" ]; then rm -f "$part"; fi
}
trap clean EXIT
trap 'exit 129' HUP INT TERM

# trtexec with its log in a file; ends the script with the given code, and the end of the log, where it fails.
run() {
    failure=$1
    shift
    # Waited for as a child, so that a signal to this script ends it as well.
    "$program" "$@" >"$work/log" 2>&1 </dev/null &
    running=$!
    wait "$running"
    code=$?
    running=
    if [ "$code" -ne 0 ]; then
        tail -c 65536 "$work/log"
        echo "ended with code $code"
        exit "$failure"
    fi
}

# An engine that is there; it was used now.
kept() {
    [ -s "$folder/$1.plan" ] || exit 63
    touch "$folder/$1.plan" 2>/dev/null
}

case "$task" in
about)
    "$program" --help 2>&1 </dev/null | grep -m 1 -F '[TensorRT v' | head -c 1024
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | head -c 256)
    [ -n "$gpu" ] || gpu=$(cat /proc/device-tree/model 2>/dev/null | tr -d '\000' | head -c 256)
    printf '\n%s\n' "$gpu"
    ;;
build)
    key=$1 onnx=$2
    shift 2
    mkdir -p "$folder" || exit 64
    if [ -s "$folder/$key.plan" ]; then
        touch "$folder/$key.plan" 2>/dev/null
        echo kept
        exit 0
    fi
    part=$folder/$key.$$.part
    # One frame: the flags that leave it out have another name in every version.
    run 61 --onnx="$onnx" --saveEngine="$part" --timingCacheFile="$folder/timing.cache" \
        --iterations=1 --duration=0 --warmUp=0 "$@"
    [ -s "$part" ] || { echo "no engine was saved"; exit 61; }
    mv "$part" "$folder/$key.plan" || exit 64
    part=
    # Names are digits of a hash, so that lines hold them.
    ls -t "$folder" | grep -x '[0-9a-f]*\.plan' | tail -n +$((most + 1)) | while IFS= read -r old; do
        rm -f "$folder/$old"
    done
    echo built
    ;;
time)
    frames=$1 warmup=$2
    shift 2
    for key in "$@"; do
        kept "$key"
        run 62 --loadEngine="$folder/$key.plan" --iterations="$frames" --duration=0 --warmUp="$warmup" --useSpinWait \
            --exportTimes="$work/times.json"
        cat "$work/times.json" || exit 62
    done
    ;;
profile)
    kept "$3"
    run 62 --loadEngine="$folder/$3.plan" --iterations="$1" --duration=0 --warmUp="$2" --useSpinWait --dumpProfile \
        --separateProfileRun --exportProfile="$work/profile.json"
    cat "$work/profile.json" || exit 62
    ;;
outputs)
    key=$1
    shift
    kept "$key"
    for file in "$@"; do
        # Its list of inputs is split at commas and colons, which a path may have.
        cp "$file" "$work/input" || exit 64
        run 62 --loadEngine="$folder/$key.plan" --loadInputs=images:"$work/input" --iterations=1 --duration=0 \
            --warmUp=0 --exportOutput="$work/output.json"
        cat "$work/output.json" || exit 62
        rm -f "$work/output.json"
    done
    # On another machine these are copies, and there may be many.
    rm -f "$@"
    ;;
forget)
    rm -f "$folder/$1.plan"
    ;;
*)
    echo "no such task: $task"
    exit 64
    ;;
esac
