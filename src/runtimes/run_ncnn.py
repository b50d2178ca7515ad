"""Runs ONNX files in ncnn, which pnnx converts, and answers in the formats of trtexec.

    run_ncnn.py FOLDER about
    run_ncnn.py FOLDER build KEY ONNX HEIGHT WIDTH CHANNELS
    run_ncnn.py FOLDER time DTYPE THREADS FRAMES WARMUP KEY... SHAPE
    run_ncnn.py FOLDER outputs DTYPE THREADS KEY SHAPE FILE...
    run_ncnn.py FOLDER forget KEY

FOLDER keeps what was converted; an empty one stands for the user's cache. DTYPE is f32 or f16, SHAPE is CxHxW. Frames
of several networks are interleaved (A B B A). Ends with 60 where ncnn or pnnx is not installed, with 61 where a model
cannot be converted or read, with 63 where one is not there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

try:
    import ncnn
    import numpy as np
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(60)

MOST = 64


def converter():
    beside = os.path.join(os.path.dirname(sys.executable), "pnnx")
    found = beside if os.access(beside, os.X_OK) else shutil.which("pnnx")
    if not found:
        print("pnnx is not installed", file=sys.stderr)
        sys.exit(60)
    return found


def place(key, end):
    return os.path.join(FOLDER, f"{key}.{end}")


def about():
    converter()
    print(f"{ncnn.__version__}\nCPU")


def build(key, onnx, height, width, channels):
    os.makedirs(FOLDER, exist_ok=True)
    if os.path.exists(place(key, "param")):
        os.utime(place(key, "param"))
        print("kept")
        return
    with tempfile.TemporaryDirectory() as folder:
        # It writes beside its input, and takes the name's end for the format.
        shutil.copy(onnx, os.path.join(folder, "model.onnx"))
        command = [converter(), "model.onnx", f"inputshape=[1,{channels},{height},{width}]f32", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        files = [os.path.join(folder, f"model.ncnn.{end}") for end in ("bin", "param")]
        if done.returncode or not all(map(os.path.exists, files)):
            print((done.stdout + done.stderr)[-65536:], file=sys.stderr)
            sys.exit(61)
        # The smaller one last: where it is, both are.
        for file, end in zip(files, ("bin", "param")):
            part = place(key, f"{os.getpid()}.part")
            shutil.copy(file, part)
            os.replace(part, place(key, end))
    kept = [name for name in os.listdir(FOLDER) if name.endswith(".param")]
    kept.sort(key=lambda name: os.path.getmtime(os.path.join(FOLDER, name)), reverse=True)
    for old in kept[MOST:]:
        for end in ("param", "bin"):
            path = place(old.removesuffix(".param"), end)
            if os.path.exists(path):
                os.remove(path)
    print("built")


def network(key, dtype, threads):
    if not os.path.exists(place(key, "param")):
        sys.exit(63)
    net = ncnn.Net()
    net.opt.num_threads = int(threads)
    half = dtype == "f16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    if net.load_param(place(key, "param")) or net.load_model(place(key, "bin")):
        print("ncnn cannot read the network", file=sys.stderr)
        sys.exit(61)
    return net


def run(net, image):
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], image)
    return [extractor.extract(name)[1] for name in net.output_names()]


def timed(dtype, threads, frames, warmup, *arguments):
    keys, shape = arguments[:-1], [int(side) for side in arguments[-1].split("x")]
    runs = [(network(key, dtype, threads), []) for key in keys]
    planes = np.full(shape, 0.5, np.float32)
    image = ncnn.Mat(planes)
    for _ in range(int(warmup)):
        for net, _ in runs:
            run(net, image)
    for frame in range(int(frames)):
        for net, times in runs if frame % 2 == 0 else reversed(runs):
            start = time.perf_counter()
            run(net, image)
            times.append(1e3 * (time.perf_counter() - start))
    for _, times in runs:
        print(json.dumps([{"latencyMs": each} for each in times]))


def outputs(dtype, threads, key, shape, *files):
    net = network(key, dtype, threads)
    for file in files:
        planes = np.fromfile(file, "<f4").reshape([int(side) for side in shape.split("x")])
        parts = []
        for number, found in enumerate(run(net, ncnn.Mat(planes))):
            values = np.array(found, dtype=np.float32)
            dimensions = "x".join(map(str, (1, *values.shape)))
            text = ",".join("%.9g" % value for value in values.ravel().tolist())
            parts.append('{"name":"output%d","dimensions":"%s","values":[%s]}' % (number, dimensions, text))
        print(f"[{','.join(parts)}]")
    # On another machine these are copies, and there may be many.
    for file in set(files):
        os.remove(file)


def forget(key):
    for end in ("param", "bin"):
        if os.path.exists(place(key, end)):
            os.remove(place(key, end))


if __name__ == "__main__":
    CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    FOLDER = sys.argv[1] or os.path.join(CACHE, "secateurs", "ncnn")
    TASKS = {"about": about, "build": build, "time": timed, "outputs": outputs, "forget": forget}
    TASKS[sys.argv[2]](*sys.argv[3:])
