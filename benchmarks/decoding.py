"""What `Seq2Seq.generate` takes, and how much of it is in matrix products.

Embedding 256, GRU(512), a vocabulary of 5000 in encoder and decoder: 64 sources of 30 ids, and 30 steps of the decoder
in which no row ends. The products of the same sizes, packed and one after the other as the decoder has them, are timed
in the same turns: each step x W, h U of reset and update gate, (r * h) U of the candidate and the last layer's.
Attention's products are small, two for each row, and not counted; the share with attention is the lower one for it.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --threads 1 --rounds 9
    python benchmarks/decoding.py --quick
"""

import argparse
import json
import statistics

import numpy as np

import cgru
from cgru import kernels
from cgru.cli import timing

ROWS, STEPS, IDS, EMBEDDED, UNITS = 64, 30, 5000, 256, 512
LINEAR = 3  # the code of the activation that does nothing
WAYS = {
    "greedy": {},
    "sampling": {"temperature": 1.0, "seed": 0},
    "sampling, top_k=50": {"top_k": 50, "seed": 0},
    "sampling, top_p=0.9": {"top_p": 0.9, "seed": 0},
    "beam=4": {"beam": 4},
}


def model_of(ids, attention=None):
    """One that never says its end."""
    model = cgru.Seq2Seq(
        cgru.Sequential([cgru.Embedding(ids, EMBEDDED), cgru.GRU(UNITS, return_sequences=attention is not None)]),
        cgru.Sequential([
            cgru.Embedding(ids, EMBEDDED), cgru.GRU(UNITS, return_sequences=True), cgru.Dense(ids, "softmax"),
        ]),
        attention=attention, seed=0,
    ).build()  # fmt: skip
    with model.layers[-1].update() as parameters:
        parameters["bias"][model.end] = -1e4
    return model


def products(model, rows, steps):
    """Return the function that computes what `steps` steps of a decoder multiply for so many rows, and how many
    multiplications that are."""
    rng = np.random.default_rng(0)
    gru, dense = model.decoder.layers[1], model.layers[-1]
    kernel, recurrent = gru.parameters["kernel"], gru.parameters["recurrent_kernel"]
    matrices = [kernel, recurrent[:, : 2 * UNITS], recurrent[:, 2 * UNITS :], dense.parameters["kernel"]]
    jobs = []
    for matrix in map(np.ascontiguousarray, matrices):
        handle = kernels.DenseHandle(matrix, None, LINEAR, True, kernels.get_num_threads())
        x = rng.standard_normal((rows, len(matrix))).astype("float32")
        jobs.append((handle, x, np.empty((rows, matrix.shape[1]), "float32")))

    def run():
        for _ in range(steps):
            for handle, x, out in jobs:
                handle.apply(x, out, kernels.get_num_threads(), raw=True)

    return run, steps * rows * sum(m.size for m in matrices)


def encoding(model, source):
    """The products of the encoder: x W of all steps, and the steps' own as in the decoder."""
    rng = np.random.default_rng(0)
    gru = model.encoder.layers[1]
    recurrent = gru.parameters["recurrent_kernel"]
    parts = [gru.parameters["kernel"], recurrent[:, : 2 * UNITS], recurrent[:, 2 * UNITS :]]
    jobs = []
    N, S = source.shape
    for matrix, rows, times in zip(parts, (N * S, N, N), (1, S, S), strict=True):
        handle = kernels.DenseHandle(np.ascontiguousarray(matrix), None, LINEAR, True, kernels.get_num_threads())
        x = rng.standard_normal((rows, len(matrix))).astype("float32")
        jobs.append((handle, x, np.empty((rows, matrix.shape[1]), "float32"), times))

    def run():
        for handle, x, out, times in jobs:
            for _ in range(times):
                handle.apply(x, out, kernels.get_num_threads(), raw=True)

    return run


def measure(options):
    """Return a list of dicts, one for each way to decode."""
    steps, ids = (4, 500) if options.quick else (STEPS, options.ids)
    source = np.random.default_rng(0).integers(3, ids, (ROWS, STEPS))
    found = []
    for attention in (None, "general", "additive"):
        model = model_of(ids, attention)
        ways = WAYS if attention is None else {"greedy": {}}
        for name, how in ways.items():
            rows = ROWS * how.get("beam", 1)
            run, multiplications = products(model, rows, steps)
            encoder = encoding(model, source)

            def multiply(run=run, encoder=encoder):
                run()
                encoder()

            calls = {"generate": lambda m=model, h=how: m.generate(source, steps, **h), "products": multiply}
            for call in calls.values():
                call()
            times = timing.interleave(list(calls.values()), options.rounds)
            whole, part = (statistics.median(each) / 1e9 for each in times)
            found.append({
                "attention": attention, "how": name, "seconds": whole, "products": part, "share": part / whole,
                "ids a second": ROWS * steps / whole, "gflops": 2 * multiplications / part / 1e9,
            })  # fmt: skip
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and ids: does it run? The figures are rough")
    parser.add_argument("--ids", type=int, default=IDS, help=f"the vocabulary (default: {IDS})")
    parser.add_argument("--threads", type=int, help="default: what cgru chooses")
    parser.add_argument("--rounds", type=int, help="default: 7, with --quick 2")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 7)
    if options.threads:
        cgru.set_num_threads(options.threads)
    found = measure(options)
    print(f"cgru {cgru.__version__}, {kernels.isa}, {cgru.get_num_threads()} threads, medians of {options.rounds}")
    print(f"{'attention':<12}{'':<22}{'generate':>10}{'products':>10}{'share':>8}{'ids/s':>10}")
    for row in found:
        print(
            f"{row['attention'] or 'none':<12}{row['how']:<22}{row['seconds'] * 1e3:>7.0f} ms"
            f"{row['products'] * 1e3:>7.0f} ms{row['share']:>8.0%}{row['ids a second']:>10,.0f}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
