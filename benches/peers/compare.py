"""Our CPU engine against ONNX Runtime on the same model, in alternating rounds of separate processes.

    compare.py --model F [--imgsz N] [--threads T] [--rounds 5] [--runs 60] [--secateurs PATH]

Run it with the interpreter that setup.sh made. Both sides get the same network: ONNX Runtime runs what
`secateurs export` writes. The figure that counts is CPU time per frame, since wall time depends on what else the
machine does; the ratio is taken within a round and the median over the rounds is printed.
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


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--secateurs", default=target / "release" / "secateurs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        onnx = pathlib.Path(folder) / "model.onnx"
        model = ["--model", args.model, "--imgsz", args.imgsz]
        run([args.secateurs, "export", *model, "--format", "onnx", "-o", onnx])
        size = ["--threads", args.threads, "--runs", args.runs]
        ours = [args.secateurs, "bench", *model, *size, "--json"]
        theirs = [sys.executable, HERE / "ort.py", onnx, *size]
        rounds = []
        for number in range(args.rounds):
            # Who goes first changes every round.
            order = [("ours", ours), ("ort", theirs)][:: 1 if number % 2 == 0 else -1]
            rounds.append({who: json.loads(run(command)) for who, command in order})

    def median(who, key):
        return statistics.median(r[who][key] for r in rounds)

    ratios = {key: [r["ours"][key] / r["ort"][key] for r in rounds] for key in ("cpu_p50_ms", "p50_ms")}
    runtime = rounds[0]["ort"]["runtime"]
    if args.json:
        result = {who: {key: median(who, key) for key in ratios} for who in ("ours", "ort")}
        result["ratio"] = {key: statistics.median(values) for key, values in ratios.items()}
        print(json.dumps(result | {"runtime": runtime, "rounds": args.rounds, "imgsz": args.imgsz, "threads": args.threads}))
        return
    print(f"{args.model}, {args.imgsz} px, {args.threads} thread(s), medians of {args.rounds} rounds x {args.runs} frames")
    print(f"{'':24} {'CPU ms':>9} {'wall ms':>9}")
    for who, label in (("ours", "secateurs"), ("ort", runtime)):
        print(f"{label:24} {median(who, 'cpu_p50_ms'):9.2f} {median(who, 'p50_ms'):9.2f}")
    cpu, wall = ratios["cpu_p50_ms"], ratios["p50_ms"]
    print(f"{'ratio':24} {statistics.median(cpu):8.2f}x {statistics.median(wall):8.2f}x")
    print(f"{'CPU ratio, least - most':24} {min(cpu):.2f}x - {max(cpu):.2f}x")


if __name__ == "__main__":
    main()
