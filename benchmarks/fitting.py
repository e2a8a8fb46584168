"""What an epoch of `Sequential.fit` takes: rows of mixed lengths against rows of one length, and frozen layers.

* Lengths: 512 rows, D=32, GRU(128), batches of 32; time of an epoch per valid step. "mixed" has 10 to 200 steps in
  shuffled batches, "sorted" the same rows in batches of like lengths, "equal" as many steps in rows of one length.
* Frozen: three layers of GRU(128) and a Dense, 128 rows of 100 steps; time of an epoch with some of them frozen.

    python benchmarks/fitting.py
    python benchmarks/fitting.py --threads 1 --rounds 9
"""

import argparse
import statistics

import numpy as np

import cgru
from cgru.cli import timing

D, H, K = 32, 128, 10


def model_of(layers):
    model = cgru.Sequential([*layers, cgru.Dense(K, "softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def lengths(options):
    """Print the time per valid step of each kind of rows, and the ratio to rows of one length."""
    rng = np.random.default_rng(0)
    rows, longest = (64, 40) if options.quick else (512, 200)
    mixed = rng.integers(10, longest + 1, rows)
    equal = np.full(rows, round(mixed.mean()))
    calls, steps = {}, {}
    for name, given in (("equal", equal), ("mixed", mixed), ("sorted", np.sort(mixed)[::-1])):
        x = rng.standard_normal((rows, given.max(), D)).astype("float32")
        y = rng.integers(0, K, rows)
        model, shuffle = model_of([cgru.GRU(H)]), name == "mixed"
        calls[name] = lambda m=model, x=x, y=y, n=given, s=shuffle: m.fit(x, y, lengths=n, shuffle=s, verbose=0)
        steps[name] = int(given.sum())
    show("lengths", options, calls, steps, "equal")


def frozen(options):
    """Print the time of an epoch with layers frozen, and the ratio to one with all of them trained."""
    rng = np.random.default_rng(0)
    rows, longest = (32, 20) if options.quick else (128, 100)
    x, y = rng.standard_normal((rows, longest, D)).astype("float32"), rng.integers(0, K, rows)
    calls = {}
    kinds = {"none": [], "first": [0], "second": [1], "first two": [0, 1], "all but Dense": [0, 1, 2]}
    for name, which in kinds.items():
        model = model_of([cgru.GRU(H, return_sequences=i < 2) for i in range(3)])
        for i in which:
            model.layers[i].trainable = False
        calls[name] = lambda m=model: m.fit(x, y, verbose=0)
    show("frozen", options, calls, dict.fromkeys(calls, rows * longest), "none")


def show(title, options, calls, steps, base):
    for call in calls.values():
        call()
    times = dict(zip(calls, timing.interleave(list(calls.values()), options.rounds), strict=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{title:<14} {'ms an epoch':>12} {'ns a step':>10} {'ratio':>7}   (quarters of the ratio)")
    for name, median in medians.items():
        ratios = [a / steps[name] / (b / steps[base]) for a, b in zip(times[name], times[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<14} {median / 1e6:>12.2f} {median / steps[name]:>10.1f} {middle:>7.3f}   ({low:.3f} {high:.3f})")


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, help="(default: as cgru chooses)")
    made.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    made.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    options = made.parse_args()
    if options.threads:
        cgru.set_num_threads(options.threads)
    lengths(options)
    frozen(options)


if __name__ == "__main__":
    main()
