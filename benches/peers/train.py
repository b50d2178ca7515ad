"""A training step of our CPU backend against PyTorch's, in alternating rounds of separate processes.

    train.py --model F [--imgsz 320] [--batch 4] [--threads 1] [--rounds 5] [--steps 6]

Build the example first: cargo build --release --example train_step. Run it with the interpreter that setup.sh --all made,
with torch installed. F is a model file of ours; PyTorch gets the network from the graph in its metadata. A step is
forward pass, backward pass for a gradient of the outputs that is a formula on both sides, and SGD with momentum. The
first step of a process is left out; the figure is the median over steps and rounds of the CPU time per step.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


def spread(count, factor):
    import torch

    return ((torch.arange(count) * 37 % 101).float() / 101.0 - 0.5) * factor


def forward(graph, weights, image):
    """The graph of a model file in training mode; running statistics are moved."""
    import torch
    import torch.nn.functional as F

    tensors = []
    for node in graph["nodes"]:
        op = node["op"]
        inputs = [tensors[i] for i in node["inputs"]]
        kind = op["op"]
        if kind == "input":
            y = image
        elif kind == "conv":
            bias = weights[op["bias"]] if op.get("bias") else None
            y = F.conv2d(inputs[0], weights[op["weight"]], bias, op["stride"], op["padding"], 1, op["groups"])
            if op.get("norm"):
                prefix, eps = op["norm"]["prefix"], op["norm"]["eps"]
                mean, var, gamma, beta = (
                    weights[f"{prefix}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
                )
                y = F.batch_norm(y, mean, var, gamma, beta, True, 0.03, eps)
            y = {"silu": F.silu, "relu": F.relu, "identity": lambda y: y}[op["act"]](y)
        elif kind == "slice":
            y = inputs[0][:, op["start"] : op["start"] + op["len"]]
        elif kind == "concat":
            y = torch.cat(inputs, 1)
        elif kind == "add":
            y = inputs[0] + inputs[1]
        elif kind == "max-pool":
            y = F.max_pool2d(inputs[0], op["kernel"], op["stride"], op["padding"])
        elif kind == "avg-pool":
            y = F.avg_pool2d(inputs[0], op["kernel"], op["stride"])
        elif kind == "upsample":
            y = F.interpolate(inputs[0], scale_factor=op["factor"], mode="nearest")
        elif kind == "global-avg-pool":
            y = inputs[0].mean((2, 3), keepdim=True)
        elif kind in ("attention", "values"):
            heads, key, head, areas = op["heads"], op["key_dim"], op["head_dim"], op.get("areas", 1)
            n, _, h, w = inputs[0].shape
            # Areas are runs of positions that attend within themselves.
            packed = inputs[0].view(n, heads, 2 * key + head, areas, h * w // areas).transpose(2, 3)
            q, k, v = packed.split([key, key, head], 3)
            if kind == "attention":
                mixing = ((q.transpose(-2, -1) @ k) * op["scale"]).softmax(-1)
                v = v @ mixing.transpose(-2, -1)
            y = v.transpose(2, 3).reshape(n, heads * head, h, w)
        else:
            sys.exit(f"operator {kind} is not known here")
        tensors.append(y)
    return [tensors[i] for i in graph["outputs"]]


def torch_steps(args):
    import torch
    from safetensors import safe_open

    torch.set_num_threads(args.threads)
    file = safe_open(args.model, "pt")
    graph = json.loads(file.metadata()["secateurs.graph"])
    weights = {key: file.get_tensor(key) for key in file.keys()}
    trained = {key: w.requires_grad_() for key, w in weights.items() if "running_" not in key}
    kernels = [w for w in trained.values() if w.dim() > 1]
    others = [w for w in trained.values() if w.dim() <= 1]
    groups = [{"params": kernels, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    channels = graph["nodes"][0]["op"]["channels"]
    shape = (args.batch, channels, args.imgsz, args.imgsz)
    image = (spread(args.batch * channels * args.imgsz**2, 1.0) + 0.5).view(shape)
    wall, cpu, first = [], [], None
    for _ in range(args.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        outputs = forward(graph, weights, image)
        total = sum((o * spread(o.numel(), 1e-3).view(o.shape)).sum() for o in outputs)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - cpu_start) * 1e3)
        first = total.item() if first is None else first
    squares = sum((w.detach().double() ** 2).sum().item() for w in weights.values())
    print(json.dumps({"wall_ms": wall, "cpu_ms": cpu, "first": first, "squares": squares}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--example", default=target / "release" / "examples" / "train_step")
    parser.add_argument("--torch", action="store_true", help="PyTorch's side alone, as one JSON object")
    args = parser.parse_args()
    if args.torch:
        return torch_steps(args)

    numbers = [str(n) for n in (args.imgsz, args.batch, args.threads, args.steps)]
    ours = [str(args.example), args.model, *numbers]
    theirs = [sys.executable, __file__, "--torch", "--model", args.model, "--imgsz", numbers[0], "--batch", numbers[1]]
    theirs += ["--threads", numbers[2], "--steps", numbers[3]]
    environment = {**os.environ, "CANDLE_NUM_THREADS": "1", "RAYON_NUM_THREADS": numbers[2]}
    rounds = []
    for number in range(args.rounds):
        # Who goes first changes every round.
        order = [("ours", ours), ("torch", theirs)][:: 1 if number % 2 == 0 else -1]
        done = {}
        for who, command in order:
            run = subprocess.run(command, capture_output=True, text=True, env=environment)
            if run.returncode != 0:
                sys.exit(f"{' '.join(command)}: exit code {run.returncode}\n{run.stderr}")
            done[who] = json.loads(run.stdout)
        rounds.append(done)

    for key in ("cpu_ms", "wall_ms"):
        median = {who: [statistics.median(r[who][key][1:]) for r in rounds] for who in ("ours", "torch")}
        ratios = [a / b for a, b in zip(median["ours"], median["torch"])]
        ours, theirs = (statistics.median(median[who]) for who in ("ours", "torch"))
        print(f"{key:8} ours {ours:8.1f}  torch {theirs:8.1f}  ratio {statistics.median(ratios):.3f}  {ratios}")
    for key in ("first", "squares"):
        print(f"{key:8} ours {rounds[0]['ours'][key]:.6f}  torch {rounds[0]['torch'][key]:.6f}")


if __name__ == "__main__":
    main()
