"""Runs an ONNX file in ONNX Runtime on the CPU: time per frame, or the difference from expected outputs.

    ort.py MODEL.onnx [--threads N] [--runs R] [--input RAW] [--expect RAW --boxes PX --scores S]
                      [--outputs RAW... --relative R] [--save RAW]

`--expect` holds the first output of a detector or classifier against a file; `--outputs` holds every output against
one, row by row: the difference as a share of the row's largest value, or of 1 where that is less.

`--save` runs all images of the input, one after the other, and writes the first output of each.

RAW files hold little-endian f32 in row-major order. Prints one JSON object; exits with 1 where the difference from
the expected output is larger than allowed.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np
import onnxruntime as ort


def session(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Idle threads must not burn the CPU time that is compared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(run, warmup, runs):
    for _ in range(warmup):
        run()
    wall, cpu = [], []
    for _ in range(runs):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        wall.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (time.process_time() - start_cpu))
    return {"p50_ms": statistics.median(wall), "cpu_p50_ms": statistics.median(cpu)}


def compare(found, path):
    """Largest differences of the four box rows, in pixels, and of the score rows."""
    expected = np.fromfile(path, "<f4").reshape(found.shape)
    difference = np.abs(found.astype(np.float64) - expected)
    if found.ndim == 3:
        return float(difference[:, :4].max()), float(difference[:, 4:].max())
    return 0.0, float(difference.max())


def relative(found, path):
    """Largest difference in a row (all positions of a channel), as a share of the row's size."""
    expected = np.fromfile(path, "<f4").reshape(found.shape)
    rows = tuple(range(2, found.ndim)) if found.ndim > 2 else None
    size = np.maximum(np.abs(expected).max(axis=rows, keepdims=True), 1.0)
    return float((np.abs(found.astype(np.float64) - expected) / size).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--input")
    parser.add_argument("--expect")
    parser.add_argument("--outputs", nargs="+")
    parser.add_argument("--save")
    parser.add_argument("--relative", type=float, default=1e-4)
    parser.add_argument("--boxes", type=float, default=5e-3)
    parser.add_argument("--scores", type=float, default=1e-4)
    args = parser.parse_args()

    runtime = session(args.model, args.threads)
    shape = runtime.get_inputs()[0].shape
    if args.input:
        images = np.fromfile(args.input, "<f4").reshape([-1, *shape])
        image = images[0]
    else:
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
    feed = {"images": image}

    result = {"runtime": f"onnxruntime {ort.__version__}", "threads": args.threads}
    result["metadata"] = runtime.get_modelmeta().custom_metadata_map
    ok = True
    if args.expect:
        boxes, scores = compare(runtime.run(None, feed)[0], args.expect)
        result |= {"box_difference_px": boxes, "score_difference": scores}
        # Written so that NaN fails.
        ok = boxes <= args.boxes and scores <= args.scores
    if args.outputs:
        found = runtime.run(None, feed)
        result["differences"] = [relative(*pair) for pair in zip(found, args.outputs, strict=True)]
        ok = ok and all(difference <= args.relative for difference in result["differences"])
    if args.save:
        np.concatenate([runtime.run(None, {"images": each})[0] for each in images]).astype("<f4").tofile(args.save)
    if args.runs:
        result |= measure(lambda: runtime.run(None, feed), args.warmup, args.runs)
    print(json.dumps(result))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
