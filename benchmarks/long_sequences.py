"""What `recompute` saves and costs: long sequences with tapes of few steps, which backward computes again.

* Time: forward and backward (of x, too) of a GRU in turns, with the tape of all steps, and with the states of every
  k-th step alone; the ratio of the medians, and the quarters of the ratio of each round.
* Memory: the peak of a fresh process that makes one update from one sequence of 16 features through 128 units without
  `return_sequences`: by `forward`, `backward` and `optimizer.apply`, and by `model.fit`. The input is part of it.

    python benchmarks/long_sequences.py
    python benchmarks/long_sequences.py --parts memory --steps 1000000
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import numpy as np
from report import Record, progress, table

import cgru
from cgru.cli import timing

PARTS = ("time", "memory")
CELLS = ((1, 50_000, 16, 128), (8, 10_000, 16, 128), (32, 2_000, 64, 128), (1, 50_000, 16, 32), (1, 3_000, 64, 512))
QUICK = ((1, 2_000, 4, 8),)
KS = ("auto", 2048)
FEATURES, UNITS, CLASSES = 16, 128, 10

UPDATE = """
import json, re, resource, sys, time
import numpy as np
import cgru

steps, features, units, classes, by, recompute = json.loads(sys.argv[1])
x = np.random.default_rng(0).standard_normal((1, steps, features), np.float32)
options = {"recompute": recompute} if recompute else {}
start = time.perf_counter()
if by == "layer":
    layer = cgru.GRU(units, seed=0)
    y, h, tape = layer.forward(x, training=True, **options)
    dx, dh0, gradients = layer.backward(y, tape)
    cgru.optimizers.Adam().apply(layer, gradients)
else:
    model = cgru.Sequential([cgru.GRU(units), cgru.Dense(classes, activation="softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, [0], verbose=0, **options)
seconds = time.perf_counter() - start
try:
    with open("/proc/self/status") as file:
        peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", file.read())[1])
except FileNotFoundError:  # on Linux this counts what the parent had when it started the program, too
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([peak, seconds]))
"""


def calls_of(cell, reset_after):
    """{title: a call of forward and backward}; the first one has the tape of all steps."""
    N, T, D, H = cell
    x = np.random.default_rng(0).standard_normal((N, T, D), np.float32)
    layer = cgru.GRU(H, reset_after=reset_after, input_size=D, seed=0)
    dy = np.ones((N, H), np.float32)

    def train(recompute):
        _, _, tape = layer.forward(x, training=True, recompute=recompute)
        layer.backward(dy, tape)

    return {title: lambda k=k: train(k) for title, k in {"all": None, **{f"k={k}": k for k in KS}}.items()}


def time(options):
    """Print and return the times of all cells, for each number of threads and reset."""
    found = []
    for threads in options.threads:
        cgru.set_num_threads(threads)
        for cell in QUICK if options.quick else options.cells:
            for reset_after in (True, False):
                title = f"{','.join(map(str, cell))}, reset {'after' if reset_after else 'before'}"
                progress(f"{title}, threads {threads}")
                calls = calls_of(cell, reset_after)
                for call in calls.values():
                    call()
                times = timing.interleave(list(calls.values()), options.rounds)
                for name, own in zip(calls, times, strict=True):
                    pairs = [a / b for a, b in zip(own, times[0], strict=True)]
                    low, _, high = statistics.quantiles(pairs, n=4)
                    ms, whole = (statistics.median(each) / 1e6 for each in (own, times[0]))
                    row = {"cell": title, "threads": threads, "tape": name, "ms": ms, "ratio": ms / whole}
                    found.append(row | {"low": low, "high": high})
    rows = [[*list(row.values())[:4], *(f"{row[name]:.2f}" for name in ("ratio", "low", "high"))] for row in found]
    table(["N,T,D,H", "threads", "tape", "ms", "of all", "quarters", ""], rows)
    return found


def memory(options):
    """Print and return the peaks of fresh processes."""
    found, steps = [], 2_000 if options.quick else options.steps
    for by in ("layer", "fit"):
        for recompute in ("auto",) if options.most else ("auto", None):
            progress(f"memory by {by}, recompute={recompute}")
            case = json.dumps([steps, FEATURES, UNITS, CLASSES, by, recompute])
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads[0])}
            done = subprocess.run(
                [sys.executable, "-c", UPDATE, case], env=environment, capture_output=True, text=True, check=False
            )
            row = {"by": by, "recompute": recompute or "no", "bytes": None, "seconds": None}
            if done.returncode:  # too much for this machine
                print(f"recompute={recompute} by {by} failed: {done.stderr[-300:]}", file=sys.stderr)
            else:
                kilobytes, row["seconds"] = json.loads(done.stdout)
                row["bytes"] = kilobytes * (1 if sys.platform == "darwin" else 1024)
            found.append(row)
    print(f"one update from {steps:,} steps of {FEATURES} features, {UNITS} units: peak of fresh processes")
    rows = [[row["by"], row["recompute"], row["bytes"] and row["bytes"] / 1e6, row["seconds"]] for row in found]
    table(["by", "recompute", "MB", "s"], rows)
    return found


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    made.add_argument("--cells", nargs="+", metavar="N,T,D,H", help="instead of the grid")
    made.add_argument("--steps", type=int, default=10**6, help="of the sequence for the memory (default: 1000000)")
    made.add_argument("--most", type=int, metavar="MB", help="recompute alone; fail where its peak of memory is above")
    made.add_argument("--threads", default="1,2", metavar="N,M", help="(default: 1,2)")
    made.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    made.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    made.add_argument("--json", metavar="FILE", help="write everything that was measured, with versions and machine")
    options = made.parse_args()
    options.threads = [int(part) for part in options.threads.split(",")]
    options.cells = [tuple(map(int, text.split(","))) for text in options.cells] if options.cells else CELLS
    record = Record(__file__, options)
    record.print_conditions()
    for part in options.parts:
        record.add(part, {"time": time, "memory": memory}[part](options))
        print(flush=True)
    peaks = [row["bytes"] for row in record.results.get("memory", [])]
    if options.most and not all(peak is not None and peak < options.most * 10**6 for peak in peaks):
        sys.exit(f"expected peaks below {options.most} MB, got {peaks} bytes")


if __name__ == "__main__":
    main()
