"""Layers with weights of 16 and 8 bits (`cgru.quantize`) against the same layers in float32, and against the best peer.

For each size, number of rows and kind: the time of float32 over that of the kind, both in this process, by turns. A
size's kinds take their own caches' worth of memory, so beside each stands what float32's weights would take at the rate
at which one thread reads as many bytes from wherever the processor keeps them: the roofline of a single row. Then one
large cell where everybody reads the weights from far away, against every peer's float32, each in a process of its own.

    python benchmarks/small_weights.py --threads 1,2 --json benchmarks/results/small_weights.json
    CGRU_ISA=avx2 python benchmarks/small_weights.py --no-dots
"""

import statistics
import sys

import numpy as np
from harness import Contest, parse, parser
from report import Report, progress, table
from scipy.linalg import blas

import cgru
from cgru import kernels
from cgru.cli import timing
from cgru.cli.case import Case

KINDS = ("float16", "bfloat16", "int8")
UNITS = (128, 256, 512, 768, 1024)
ROWS = (1, 8, 64)
INPUTS = 64
MULTIPLICATIONS = 3e8  # of a call, some
CELL = (1, 100, 512, 1024)
PEERS = ("torch", "onnxruntime", "openvino")


def read_rate(size):
    """Bytes a second at which one thread of BLAS adds up the absolute values of so many bytes of float32."""
    values = np.ones(size // 4, np.float32)
    blas.sasum(values)
    fastest = min(timing.burst(lambda: blas.sasum(values), 0.02))
    return size / fastest * 1e9


def layers_of(units):
    """dict name -> layer: float32 and the kinds."""
    layer = cgru.GRU(units, reset_after=True, return_sequences=True, input_size=INPUTS, seed=0)
    return {"float32": layer} | {kind: cgru.quantize(layer, kind) for kind in KINDS}


def measure(units, rows, threads, rounds):
    """dict name -> us of a step, the median of interleaved calls."""
    cgru.set_num_threads(threads)
    steps = max(20, min(100, int(MULTIPLICATIONS / (3 * units * (units + INPUTS) * rows))))
    x = np.random.default_rng(0).standard_normal((rows, steps, INPUTS), np.float32)
    calls = [lambda layer=layer: layer(x) for layer in layers_of(units).values()]
    for call in calls:  # how to share it is learnt
        timing.burst(call, 0.1)
    found = timing.interleave(calls, 3 * rounds)
    return {name: statistics.median(times) / steps / 1e3 for name, times in zip(layers_of(1), found, strict=True)}


def main():
    made = parser(__doc__, PEERS, rounds=9)
    made.add_argument("--no-dots", action="store_true", help="int8 without the CPU's instructions for it")
    made.add_argument("--narrow", action="store_true", help="16 bits as they are in all calls, as in a single step")
    options = parse(made)
    if options.narrow:
        kernels.tune(near_bytes=0, many_rows=sys.maxsize)
    if options.no_dots:
        kernels.tune(dots=0)
    with Contest(options, ["cgru", *(f"cgru.{kind}" for kind in KINDS), *options.peers]) as contest:
        report = Report(contest, sys.argv[0])
        report.print_conditions()
        print(f"here: {kernels.isa}, instructions for int8: {'yes' if kernels.tune()['dots'] else 'no'}")
        rows, cells = [], []
        for threads in options.threads:
            for units in UNITS[:2] if options.quick else UNITS:
                size = 12 * units * units
                rate = read_rate(size)
                for n in ROWS:
                    progress(f"{threads} threads, {units} units, {n} rows")
                    times = measure(units, n, threads, options.rounds)
                    ratios = {kind: times["float32"] / times[kind] for kind in KINDS}
                    cells.append({"threads": threads, "units": units, "rows": n, "us": times, "read_rate": rate})
                    roofline = size / rate * 1e6 if n == 1 else None
                    shown = [f"{ratio:.2f}" for ratio in ratios.values()]
                    rows.append([threads, units, n, times["float32"], roofline, *shown])
        progress("")
        table(["threads", "units", "rows", "float32, us a step", "reading U, us", *KINDS], rows)
        report.add("small_weights", cells)
        case = Case(*CELL, mode="inference", reset_after=True)
        entries = contest.measure(case, check=False)
        peers = [entry for entry in entries if not entry.label.startswith("cgru")]
        best = min(peers, key=lambda entry: entry.median, default=None)
        print(f"{CELL}, inference" + (f"; the ratio is to the best peer, {best.label}" if best else ""))
        table(
            ["contestant", "threads", "us", "ratio"],
            [[e.label, e.worker.threads, e.median / 1e3, best and f"{best.median / e.median:.2f}"] for e in entries],
        )
        report.add("far_weights", [[e.label, e.worker.threads, e.median / 1e3] for e in entries])
        return report.exit_status()


if __name__ == "__main__":
    sys.exit(main())
