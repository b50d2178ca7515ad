"""Times an ONNX file in one of the runtimes that we are compared with, on the CPU.

    peer.py MODEL.onnx --runtime ort|openvino|ncnn [--threads N] [--runs R] [--native]

All compute in f32; `--native` lets OpenVINO choose its own precision (bf16 where the processor has it). ncnn needs
the files `MODEL.ncnn.param` and `MODEL.ncnn.bin` beside the ONNX file, which `pnnx` makes (compare.py calls it).
Prints one JSON object: median wall and processor time per frame, and by how much the resident memory grew from before
the model was loaded to the end.
"""

import argparse
import json
import pathlib

import numpy as np

from ort import measure


def resident():
    """Peak resident memory of this process, MiB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def onnxruntime(path, image, threads, _):
    from ort import session
    import onnxruntime

    def build():
        runtime = session(path, threads)
        return lambda: runtime.run(None, {"images": image})

    return f"onnxruntime {onnxruntime.__version__}", build


def openvino(path, image, threads, native):
    import openvino

    def build():
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if not native:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        return lambda: request.infer({0: image}, share_inputs=True, share_outputs=True)

    return f"openvino {openvino.__version__.split('-')[0]}{' native' if native else ''}", build


def ncnn(path, image, threads, _):
    import ncnn

    def build():
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        files = [str(pathlib.Path(path).with_suffix(f".ncnn.{end}")) for end in ("param", "bin")]
        if net.load_param(files[0]) or net.load_model(files[1]):
            raise SystemExit(f"ncnn cannot read {files[0]}")
        planes = ncnn.Mat(image[0])

        def run():
            extractor = net.create_extractor()
            extractor.input(net.input_names()[0], planes)
            for name in net.output_names():
                extractor.extract(name)

        run.net = net
        return run

    return f"ncnn {ncnn.__version__}", build


RUNTIMES = {"ort": onnxruntime, "openvino": openvino, "ncnn": ncnn}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runtime", choices=RUNTIMES, required=True)
    parser.add_argument("--imgsz", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--native", action="store_true")
    args = parser.parse_args()

    image = np.random.default_rng(0).random((1, 3, args.imgsz, args.imgsz), dtype=np.float32)
    name, build = RUNTIMES[args.runtime](args.model, image, args.threads, args.native)
    before = resident()
    run = build()
    result = measure(run, args.warmup, args.runs)
    print(json.dumps(result | {"runtime": name, "resident_growth_mib": resident() - before}))


if __name__ == "__main__":
    main()
