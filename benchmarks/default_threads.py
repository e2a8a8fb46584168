"""The number of threads that a call chooses by itself, against one thread and against two.

Both resets, inference and training, over N, T and (D, H): each size in one of the four forms, in turn, with T shortened
where the products of a call would take too long. In each cell the default and the limits of one and of two threads take
turns for some rounds, in this process; a round is a burst of calls. The better of the two limits is chosen on one half
of the rounds, and the default's time over its time is taken from the other half. Where that is above 1.10, the two
run again in 30 pairs: the cell counts if the lower 95 % bound of the median ratio is above 1.10, too.

    python benchmarks/default_threads.py --json benchmarks/results/default_threads.json
    python benchmarks/default_threads.py --pinned
    python benchmarks/default_threads.py --oversubscribe
    python benchmarks/default_threads.py --beside
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from report import Record, progress, table

import cgru
from cgru.cli import timing
from cgru.cli.case import Case, draw

ROWS, STEPS = (1, 2, 4, 8, 16, 32, 64), (1, 10, 100, 1000)
SIZES = ((8, 16), (16, 32), (24, 80), (40, 96), (64, 128), (128, 256), (128, 384))
FORMS = tuple(itertools.product(("inference", "training"), (True, False)))
MOST_FLOPS = 4e9  # of the products of a call: some 80 ms with one thread
BURST = 0.003  # s of the calls of a round, one at least
ROUNDS, PAIRS, LIMIT = (12, 48), 30, 1.10
LIMITS = {"one": 1, "two": 2}


def cells():
    """The cases: at most 200, in an order that has every size early."""
    found = {}
    for (i, N), (j, T), (k, (D, H)) in itertools.product(*map(enumerate, (ROWS, STEPS, SIZES))):
        mode, reset_after = FORMS[(i + j + k) % len(FORMS)]
        step = Case(N, 1, D, H, mode, reset_after).flops
        found[Case(N, max(1, min(T, int(MOST_FLOPS / step))), D, H, mode, reset_after)] = None
    return [list(found)[i] for i in np.random.default_rng(0).permutation(len(found))]


def call_of(case):
    """What is timed."""
    arrays = draw(case)
    layer = cgru.GRU(case.H, return_sequences=True, reset_after=case.reset_after, input_size=case.D, seed=0)
    x, dy = arrays["x"], arrays.get("dy")
    if case.mode == "inference":
        return lambda: layer(x)

    def train():
        _, _, tape = layer.forward(x, training=True)
        return layer.backward(dy, tape)

    return train


class Calls:
    """Bursts of a call with the default number of threads (None) and with limits."""

    def __init__(self, case, default):
        self.call, self.default = call_of(case), default
        for limit in (None, *LIMITS.values()):  # each warm
            self.limit(limit)
            timing.single_calls(self.call, BURST, 2)
        self.limit(1)
        seconds = statistics.median(timing.single_calls(self.call, BURST, 2)) / 1e9
        self.repeat = max(1, round(BURST / seconds))
        self.seconds = self.repeat * seconds

    def limit(self, number):
        cgru.set_num_threads(self.default if number is None else number)

    def measure(self, limits, rounds):
        """{name: ns of a call in each round} for a dict of limits."""
        times = {name: [] for name in limits}
        for count in range(rounds):
            for name in timing.turns(limits, count):
                self.limit(limits[name])
                times[name].append(sum(timing.single_calls(self.call, 0, self.repeat)) / self.repeat)
        return times


def measure(case, default, seconds):
    """What JSON says of a case, after the first run."""
    calls = Calls(case, default)
    fits = int(seconds / (3 * calls.seconds)) // 4 * 4
    times = calls.measure({"default": None, **LIMITS}, min(max(fits, ROUNDS[0]), ROUNDS[1]))
    better, ratio = timing.chosen_and_scored(times, "default")
    medians = {name: statistics.median(each) / 1e3 for name, each in times.items()}
    return {"case": case.as_dict(), "microseconds": medians, "better": better, "ratio": ratio, "bound": None}


def measure_again(found, default, pairs=PAIRS):
    """Run the pairs of a cell that was slow, and put their median ratio and its lower bound into what was found."""
    better = found["better"]
    times = Calls(Case(**found["case"]), default).measure({"default": None, better: LIMITS[better]}, pairs)
    ratios = [ours / theirs for ours, theirs in zip(times["default"], times[better], strict=True)]
    found |= {"again": statistics.median(ratios), "bound": timing.lower_bound(ratios)}


def counts(found):
    """Whether a cell is slower by default: twice above the limit, the second time for sure."""
    return found["ratio"] > LIMIT and (found["bound"] is None or found["bound"] > LIMIT)


@contextlib.contextmanager
def busy_process(wanted):
    """Another process that computes all the time, if wanted."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def options_of(argv=None):
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pinned", action="store_true", help="this process may use one processor alone")
    made.add_argument("--oversubscribe", action="store_true", help="the default is twice as many threads as processors")
    made.add_argument("--beside", action="store_true", help="beside a second process that computes all the time")
    made.add_argument("--minutes", type=float, default=20, help="after which no cell is begun (default: 20)")
    made.add_argument("--seconds", type=float, default=3, help="of a cell, or its least rounds (default: 3)")
    made.add_argument("--all", action="store_true", help="print all cells, not the worst 20")
    made.add_argument("--quick", action="store_true", help="a few cells: does it run? The figures are rough")
    made.add_argument("--json", metavar="FILE", help="write everything that was measured, with versions and machine")
    return made.parse_args(argv)


def main():
    options = options_of()
    if options.pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    default = 2 * cpus if options.oversubscribe else cgru.get_num_threads()
    cgru.set_num_threads(default)
    record = Record(__file__, options)
    record.conditions |= {"default": default, "usable_cpus": cpus}
    record.print_conditions()
    end, cases, found = time.monotonic() + 60 * options.minutes, cells(), []
    if options.quick:
        cases, options.seconds = [case for case in cases if case.flops < 1e8][:8], 0.1
    with busy_process(options.beside):
        for number, case in enumerate(cases, 1):
            if time.monotonic() > end:
                break
            found.append(measure(case, default, options.seconds))
            progress(f"{number}/{len(cases)} {title(case)}: {found[-1]['ratio']:.2f} of {found[-1]['better']}")
            record.add("cells", found)
        for each in [each for each in found if each["ratio"] > LIMIT]:
            if time.monotonic() > end:
                break
            measure_again(each, default)
            progress(f"again {title(Case(**each['case']))}: {each['again']:.2f}, lower bound {each['bound']:.2f}")
    summary = summarise(found)
    record.add("cells", found)
    record.add("summary", summary)
    show(found, summary, len(cases), options.all)
    return 0


def title(case):
    return f"{case.size} {case.mode}, reset {'after' if case.reset_after else 'before'}"


def summarise(found):
    ratios = [each["ratio"] for each in found]
    return {
        "cells": len(found),
        "slower": sum(map(counts, found)),
        "geometric_mean": statistics.geometric_mean(ratios),
        "median": statistics.median(ratios),
        "worst": max(ratios),
    }


def show(found, summary, wanted, whole):
    """Print the cells, the worst first, and what they say together."""
    rows = []
    for each in sorted(found, key=lambda each: -each["ratio"])[: None if whole else 20]:
        times = each["microseconds"]
        again = [each.get("again"), each["bound"]] if each["bound"] is not None else [None, None]
        rows.append([
            title(Case(**each["case"])), times["default"], times["one"], times["two"], each["better"],
            *(ratio and f"{ratio:.2f}" for ratio in (each["ratio"], *again)), "slower" if counts(each) else "",
        ])  # fmt: skip
    table(["N,T,D,H", "default us", "one", "two", "better", "ratio", "again", "lower bound", ""], rows)
    missing = f" of {wanted}: the time was over" if len(found) < wanted else ""
    print(f"\n{len(found)} cells{missing}; {summary['slower']} slower by default than {LIMIT:.2f} of the better limit")
    unsure = sum(each["ratio"] > LIMIT and each["bound"] is None for each in found)
    if unsure:
        print(f"{unsure} of these have not run again: the time was over")
    print(f"ratio: geometric mean {summary['geometric_mean']:.3f}, median {summary['median']:.2f}, "
          f"worst {summary['worst']:.2f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
