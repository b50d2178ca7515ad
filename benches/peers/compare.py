"""Our CPU engine against other runtimes on the same model, in alternating rounds of separate processes.

    compare.py --model F [--imgsz N] [--threads T] [--rounds 5] [--runs 60] [--isa NAME] [--peers ort,openvino,ncnn]

Run it with the interpreter that setup.sh --all made. All sides get the same network: the peers run what `secateurs export`
writes, ncnn by way of pnnx, everything in f32 (peer openvino-native: in the precision that OpenVINO chooses itself).
`--isa avx2` on a CPU with AVX-512 holds us and OpenVINO to AVX2; ONNX Runtime and ncnn cannot be held.
Of the other figures the one that counts is CPU time per frame, since wall time depends on what else the machine does;
ratios are taken within a round and the median over the rounds is printed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PEERS = ["ort", "openvino", "ncnn", "openvino-native"]


def run(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def peer(name, onnx, size):
    native = ["--native"] if name == "openvino-native" else []
    return [sys.executable, HERE / "peer.py", onnx, "--runtime", name.split("-")[0], *native, *size]


def measure(args):
    """What every side measured in every round."""
    with tempfile.TemporaryDirectory() as folder:
        ours = args.infer or args.secateurs
        onnx = pathlib.Path(folder) / "model.onnx"
        model = ["--model", args.model, "--imgsz", args.imgsz]
        run([args.secateurs, "export", *model, "--format", "onnx", "-o", onnx])
        if "ncnn" in args.peers:
            shape = f"inputshape=[1,3,{args.imgsz},{args.imgsz}]"
            run([pathlib.Path(sys.executable).parent / "pnnx", onnx, shape, "fp16=0"], cwd=folder)
        size = ["--threads", args.threads, "--runs", args.runs]
        isa = ["--isa", args.isa] if args.isa else []
        sides = {"ours": [ours, "bench", *model, *size, *isa, "--json"]}
        sides |= {name: peer(name, onnx, [*size, "--imgsz", args.imgsz]) for name in args.peers}
        held = {"ONEDNN_MAX_CPU_ISA": args.isa.upper()} if args.isa else {}
        rounds = []
        for number in range(args.rounds):
            # Who goes first changes every round.
            order = list(sides)[number % len(sides) :] + list(sides)[: number % len(sides)]
            rounds.append({name: json.loads(run(sides[name], env=os.environ | held)) for name in order})
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--peers", type=lambda names: names.split(","), default=["ort", "openvino", "ncnn"])
    parser.add_argument("--secateurs", default=target / "release" / "secateurs")
    parser.add_argument("--infer", help="measure this secateurs-infer instead of the worker")
    parser.add_argument("--isa", help="instruction set of ours and OpenVINO's kernels, such as avx2")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"unknown peers {', '.join(sorted(unknown))}: expected some of {', '.join(PEERS)}")

    rounds = measure(args)
    keys = ("cpu_p50_ms", "p50_ms")
    table = {}
    for name in ["ours", *args.peers]:
        row = {key: statistics.median(r[name][key] for r in rounds) for key in keys}
        # Our time over theirs, within a round.
        row |= {f"{key}_ratio": sorted(r["ours"][key] / r[name][key] for r in rounds) for key in keys}
        row["memory_mib"] = (
            rounds[0][name]["peak_memory_bytes"] / 2**20
            if name == "ours"
            else max(r[name]["resident_growth_mib"] for r in rounds)
        )
        row["runtime"] = "secateurs" if name == "ours" else rounds[0][name]["runtime"]
        table[name] = row
    if args.json:
        print(json.dumps({"imgsz": args.imgsz, "threads": args.threads, "rounds": args.rounds, "sides": table}))
        return
    print(f"{args.model}, {args.imgsz} px, {args.threads} thread(s), medians of {args.rounds} rounds x {args.runs} frames")
    print(f"{'':28} {'CPU ms':>9} {'wall ms':>9} {'MiB':>7}   ours over it: CPU (least - most), wall")
    for name, row in table.items():
        line = f"{row['runtime']:28} {row['cpu_p50_ms']:9.2f} {row['p50_ms']:9.2f} {row['memory_mib']:7.1f}"
        if name != "ours":
            cpu, wall = row["cpu_p50_ms_ratio"], row["p50_ms_ratio"]
            line += f"   {statistics.median(cpu):.2f}x ({cpu[0]:.2f} - {cpu[-1]:.2f}), {statistics.median(wall):.2f}x"
        print(line)


if __name__ == "__main__":
    main()
