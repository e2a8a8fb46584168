"""What the options of a layer cost: the time of inference and of training with each, over that without any.

Two layers, whose calls take turns: dropout, recurrent_dropout, layer_dropout and zoneout of 0.2, layer_norm, and all of
them at once.

    python benchmarks/options.py
    python benchmarks/options.py --threads 1 --rounds 15
"""

import argparse
import itertools
import statistics

import numpy as np
from report import table

import cgru
from cgru.cli import timing

SIZES, QUICK = ((1, 100, 64, 128), (32, 100, 64, 128), (64, 50, 256, 512)), ((2, 5, 4, 8),)
RATE = 0.2
RATES = ("dropout", "recurrent_dropout", "layer_dropout", "zoneout")
OPTIONS = {"off": {}, **{name: {name: RATE} for name in RATES}, "layer_norm": {"layer_norm": True}}
OPTIONS["all"] = dict(itertools.chain(*(options.items() for options in OPTIONS.values())))


def calls_of(size, reset_after):
    """{"inference", "training": calls of the layers with each of the OPTIONS, in their order}."""
    N, T, D, H = size
    x = np.random.default_rng(0).standard_normal((N, T, D)).astype("float32")
    dy = np.ones((N, T, H), "float32")
    made = {"return_sequences": True, "num_layers": 2, "reset_after": reset_after, "input_size": D, "seed": 0}
    layers = [cgru.GRU(H, **made, **options) for options in OPTIONS.values()]

    def train(layer):
        _, _, tape = layer.forward(x, training=True, seed=1)
        layer.backward(dy, tape)

    return {
        "inference": [lambda layer=layer: layer(x) for layer in layers],
        "training": [lambda layer=layer: train(layer) for layer in layers],
    }


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, help="(default: as cgru chooses)")
    made.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    made.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    options = made.parse_args()
    if options.threads:
        cgru.set_num_threads(options.threads)
    rows = []
    for size, reset_after in itertools.product(QUICK if options.quick else SIZES, (True, False)):
        for mode, calls in calls_of(size, reset_after).items():
            for call in calls:
                call()
            times = timing.interleave(calls, options.rounds)
            ratios = [statistics.median(a / b for a, b in zip(own, times[0], strict=True)) for own in times]
            title = f"{','.join(map(str, size))} {mode}, reset {'after' if reset_after else 'before'}"
            rows.append([title, statistics.median(times[0]) / 1e3, *(f"{ratio:.2f}" for ratio in ratios[1:])])
    table(["N,T,D,H", "off, us", *list(OPTIONS)[1:]], rows)


if __name__ == "__main__":
    main()
