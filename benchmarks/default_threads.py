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
from cgru import kernels
from cgru.cli import timing
from cgru.cli.case import Case, draw

ROWS, STEPS = (1, 2, 4, 8, 16, 32, 64), (1, 10, 100, 1000)
SIZES = ((8, 16), (16, 32), (24, 80), (40, 96), (64, 128), (128, 256), (128, 384))
FORMS = tuple(itertools.product(("inference", "training"), (True, False)))
MOST_FLOPS = 3e9  # of the products of a call: some 60 ms with one thread
WARM = 12  # calls before any is counted: the choice may learn from them
BURST = 0.003  # s of the calls of a round, one at least
ROUNDS, PAIRS, LIMIT = (12, 48), 30, 1.10
# Limits of kernels.tune that keep threads from work that does not pay, as far as there are such.
FORCED = {"thread_work", "small_work", "cold_work", "team_work", "measured"}


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
    """Bursts of a call with the default number of threads and with limits.

    `ways` names them: the number of threads for `cgru.set_num_threads`, None for the default, and whether to share all
    calls among them, whatever they cost.
    """

    def __init__(self, case, ways):
        self.call, self.ways, self.limits = call_of(case), ways, kernels.tune()
        for name in ways:
            self.choose(name)
            timing.single_calls(self.call, BURST, WARM)
        self.choose("one")
        seconds = statistics.median(timing.single_calls(self.call, BURST, 2)) / 1e9
        self.repeat = max(1, round(BURST / seconds))
        self.seconds = self.repeat * seconds

    def choose(self, name):
        number, always = self.ways[name]
        cgru.set_num_threads(number)
        kernels.tune(**self.limits | (dict.fromkeys(FORCED & set(self.limits), 0) if always else {}))

    def measure(self, names, rounds):
        """{name: ns of a call in each round}."""
        times = {name: [] for name in names}
        try:
            for count in range(rounds):
                for name in timing.turns(names, count):
                    self.choose(name)
                    times[name].append(sum(timing.single_calls(self.call, 0, self.repeat)) / self.repeat)
        finally:
            kernels.tune(**self.limits)
        return times


def measure(case, ways, seconds):
    """What JSON says of a case, after the first run."""
    calls = Calls(case, ways)
    fits = int(seconds / (len(ways) * calls.seconds)) // 4 * 4
    times = calls.measure(ways, min(max(fits, ROUNDS[0]), ROUNDS[1]))
    better, ratio = timing.chosen_and_scored(times, "default")
    medians = {name: statistics.median(each) / 1e3 for name, each in times.items()}
    return {"case": case.as_dict(), "microseconds": medians, "better": better, "ratio": ratio, "bound": None}


def measure_again(found, ways, pairs=PAIRS):
    """Run the pairs of a cell that was slow, and put their median ratio and its lower bound into what was found."""
    better = found["better"]
    times = Calls(Case(**found["case"]), ways).measure(("default", better), pairs)
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
    made.add_argument(
        "--forced", action="store_true", help="beside the limits also two threads for every call, whatever it costs"
    )
    made.add_argument("--minutes", type=float, default=20, help="in all; a fifth is for second runs (default: 20)")
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
    ways = {"default": (2 * cpus if options.oversubscribe else None, False), "one": (1, False), "two": (2, False)}
    if options.forced:
        ways["forced"] = 2, True
    record = Record(__file__, options)
    record.conditions |= {"ways": ways, "usable_cpus": cpus}
    record.print_conditions()
    start, seconds, cases, found = time.monotonic(), 60 * options.minutes, cells(), []
    if options.quick:
        cases, options.seconds = [case for case in cases if case.flops < 1e8][:8], 0.1
    with busy_process(options.beside):
        for number, case in enumerate(cases, 1):
            if time.monotonic() > start + 0.8 * seconds:
                break
            found.append(measure(case, ways, options.seconds))
            progress(f"{number}/{len(cases)} {title(case)}: {found[-1]['ratio']:.2f} of {found[-1]['better']}")
            record.add("cells", found)
        for each in [each for each in found if each["ratio"] > LIMIT]:
            if time.monotonic() > start + seconds:
                break
            measure_again(each, ways)
            progress(f"again {title(Case(**each['case']))}: {each['again']:.2f}, lower bound {each['bound']:.2f}")
    summary = summarise(found)
    record.add("cells", found)
    record.add("summary", summary)
    show(found, summary, len(cases), ways, options.all)
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


def show(found, summary, wanted, ways, whole):
    """Print the cells, the worst first, and what they say together."""
    rows = []
    for each in sorted(found, key=lambda each: -each["ratio"])[: None if whole else 20]:
        times = each["microseconds"]
        again = [each.get("again"), each["bound"]] if each["bound"] is not None else [None, None]
        rows.append([
            title(Case(**each["case"])), *times.values(), each["better"],
            *(ratio and f"{ratio:.2f}" for ratio in (each["ratio"], *again)), "slower" if counts(each) else "",
        ])  # fmt: skip
    table(["N,T,D,H; us", *ways, "better", "ratio", "again", "lower bound", ""], rows)
    missing = f" of {wanted}: the time was over" if len(found) < wanted else ""
    print(f"\n{len(found)} cells{missing}; {summary['slower']} slower by default than {LIMIT:.2f} of the better limit")
    unsure = sum(each["ratio"] > LIMIT and each["bound"] is None for each in found)
    if unsure:
        print(f"{unsure} of these have not run again: the time was over")
    print(f"ratio: geometric mean {summary['geometric_mean']:.3f}, median {summary['median']:.2f}, "
          f"worst {summary['worst']:.2f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
