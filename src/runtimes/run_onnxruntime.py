"""Runs ONNX files in ONNX Runtime, and answers in the formats of trtexec.

    run_onnxruntime.py about PROVIDER
    run_onnxruntime.py time PROVIDER THREADS FRAMES WARMUP MODEL...
    run_onnxruntime.py profile PROVIDER THREADS FRAMES WARMUP MODEL
    run_onnxruntime.py outputs PROVIDER THREADS MODEL FILE...

Frames of several models are interleaved (A B B A). Inputs are files of little-endian f32. Ends with 60 where ONNX
Runtime is not installed, with 61 where it refuses a model.
"""

import json
import os
import sys
import tempfile
import time

try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(60)

PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


def session(model, provider, threads, profile=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return ort.InferenceSession(model, options, providers=PROVIDERS[provider])
    except Exception as error:
        print(error, file=sys.stderr)
        sys.exit(61)


def feed(runtime, path=None):
    first = runtime.get_inputs()[0]
    if path is None:
        return {first.name: np.full(first.shape, 0.5, np.float32)}
    return {first.name: np.fromfile(path, "<f4").reshape(first.shape)}


def about(provider):
    wanted = PROVIDERS[provider][0]
    if wanted not in ort.get_available_providers():
        print(f"ONNX Runtime {ort.__version__} has no {wanted} here", file=sys.stderr)
        sys.exit(60)
    print(f"{ort.__version__}\n{wanted}")


def timed(provider, threads, frames, warmup, *models):
    runs = [(session(model, provider, int(threads)), []) for model in models]
    feeds = [feed(runtime) for runtime, _ in runs]
    for _ in range(int(warmup)):
        for (runtime, _), image in zip(runs, feeds):
            runtime.run(None, image)
    for frame in range(int(frames)):
        pairs = list(zip(runs, feeds))
        for (runtime, times), image in pairs if frame % 2 == 0 else reversed(pairs):
            start = time.perf_counter()
            runtime.run(None, image)
            times.append(1e3 * (time.perf_counter() - start))
    for _, times in runs:
        print(json.dumps([{"latencyMs": each} for each in times]))


def profile(provider, threads, frames, warmup, model):
    with tempfile.TemporaryDirectory() as folder:
        runtime = session(model, provider, int(threads), os.path.join(folder, "profile"))
        image = feed(runtime)
        for _ in range(int(warmup) + int(frames)):
            runtime.run(None, image)
        with open(runtime.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    layers = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            layers.setdefault(name.removesuffix("_kernel_time"), []).append(event["dur"] / 1e3)
    # Of each layer the frames after the warm-up.
    times = {name: sorted(each[-int(frames):]) for name, each in layers.items()}
    table = [{"name": name, "averageMs": sum(each) / len(each), "medianMs": each[len(each) // 2]}
             for name, each in times.items()]
    print(json.dumps([{"count": int(frames)}, *table]))


def outputs(provider, threads, model, *files):
    runtime = session(model, provider, int(threads))
    names = [output.name for output in runtime.get_outputs()]
    for file in files:
        found = runtime.run(None, feed(runtime, file))
        parts = []
        for name, values in zip(names, found):
            dimensions = "x".join(map(str, values.shape))
            text = ",".join("%.9g" % value for value in values.astype(np.float32).ravel().tolist())
            parts.append('{"name":%s,"dimensions":"%s","values":[%s]}' % (json.dumps(name), dimensions, text))
        print(f"[{','.join(parts)}]")
    # On another machine these are copies, and there may be many.
    for file in set(files):
        os.remove(file)


if __name__ == "__main__":
    TASKS = {"about": about, "time": timed, "profile": profile, "outputs": outputs}
    TASKS[sys.argv[1]](*sys.argv[2:])
