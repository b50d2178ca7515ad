"""Times an ONNX file as a CUDA graph of PyTorch, in f32 and f16.

    torch_graph.py MODEL.onnx IMGSZ

Prints the median milliseconds of a frame, the copies of the image and of the outputs included, from and to page-locked
memory. Says so and ends well where PyTorch, a GPU or onnx2torch is missing.
"""

import statistics
import sys
import time


def frame(torch, network, side, dtype):
    """Median milliseconds of a frame."""
    network = network.cuda().to(dtype).to(memory_format=torch.channels_last)
    host = torch.rand(1, 3, side, side).pin_memory()
    image = host.cuda().to(dtype).to(memory_format=torch.channels_last)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            network(image)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        found = network(image)
    outputs = [found] if torch.is_tensor(found) else list(found)
    results = [torch.empty(output.shape, dtype=output.dtype).pin_memory() for output in outputs]
    times = []
    for _ in range(300):
        start = time.perf_counter()
        image.copy_(host, non_blocking=True)
        graph.replay()
        for result, output in zip(results, outputs):
            result.copy_(output, non_blocking=True)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[50:])


def main():
    try:
        import onnx2torch
        import torch
    except ImportError as missing:
        print(f"no comparison with PyTorch: {missing}")
        return
    if not torch.cuda.is_available():
        print("no comparison with PyTorch: it sees no GPU")
        return
    path, side = sys.argv[1], int(sys.argv[2])
    for dtype in (torch.float32, torch.float16):
        millis = frame(torch, onnx2torch.convert(path).eval(), side, dtype)
        print(f"PyTorch {torch.__version__}, CUDA graph, {dtype}: {millis:.3f} ms a frame")


if __name__ == "__main__":
    main()
