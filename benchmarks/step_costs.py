"""What one step costs beyond its arithmetic, N = 1, one thread: the ways to call it, in this process, by turns.

* `layer.step`: with `out=`, without, and from no state.
* `model.step` of GRU(64) and Dense(8, softmax), against its layer's step.
* The drop-in, where PyTorch is installed: a step of `torch.nn.GRU` and the same module after `cgru.torch.replace_gru`,
  under inference_mode, as it is and with its weights frozen (`cgru.torch.freeze`); nn.GRUCell as well.

A figure is the median over rounds of the time of some hundred calls, without the loop's own; differences and ratios
are medians of those within a round.

    python benchmarks/step_costs.py --json benchmarks/results/step_costs.json
"""

import argparse
import importlib.util
import itertools
import statistics
import sys

import numpy as np
from report import Record, table

import cgru
from cgru.cli import timing

SIZES = ((16, 32), (64, 64), (64, 256))


def measure(calls, rounds, repeat):
    """{name: us of a call in each round}, for a dict of calls that take turns."""

    def many(call):
        def run():
            for _ in itertools.repeat(None, repeat):
                call()

        return run

    runs = {name: many(call) for name, call in calls.items()} | {None: many(lambda: None)}
    times = dict(zip(runs, timing.interleave(list(runs.values()), rounds), strict=True))
    loop = statistics.median(times.pop(None))
    return {name: [max(ns - loop, 1) / repeat / 1e3 for ns in each] for name, each in times.items()}


def medians(times):
    return {name: statistics.median(each) for name, each in times.items()}


def above(times, name, other):
    """By how much one takes longer than another: the median of the differences within a round, as text."""
    return f"{statistics.median(a - b for a, b in zip(times[name], times[other], strict=True)):+.2f}"


def layer_calls(D, H, reset_after):
    """The ways to call a layer's step."""
    layer = cgru.GRU(H, reset_after=reset_after, input_size=D, seed=0)
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((1, D), np.float32), rng.standard_normal((1, H), np.float32)
    out = np.empty_like(h)
    return {
        "out=": lambda: layer.step(x, h, out=out),
        "new array": lambda: layer.step(x, h),
        "h=None": lambda: layer.step(x),
    }


def model_calls(D=64, H=64, K=8):
    """A model's step, and its layer's."""
    gru = cgru.GRU(H)
    model = cgru.Sequential([gru, cgru.Dense(K, activation="softmax")], seed=0).build(D)
    x = np.random.default_rng(0).standard_normal((1, D), np.float32)
    _, state = model.step(x, None)
    h = np.zeros((1, H), np.float32)
    return {"layer.step": lambda: gru.step(x, h), "model.step": lambda: model.step(x, state)}


def same_bits(steps=20, D=64):
    """Whether a model's steps give the bits of the whole sequence."""
    gru = cgru.GRU(64)
    model = cgru.Sequential([gru, cgru.Dense(8, activation="softmax")], seed=0).build(D)
    x, state = np.random.default_rng(0).standard_normal((1, steps, D), np.float32), None
    for t in range(steps):
        y, state = model.step(x[:, t], state)
    return bool((y == model.predict(x)).all())


def torch_calls(H):
    """A step of PyTorch's modules and of the drop-in."""
    import torch

    import cgru.torch

    torch.set_num_threads(1)

    def gru():
        torch.manual_seed(0)
        return torch.nn.GRU(H, H).eval()

    x, h = torch.zeros(1, 1, H), torch.zeros(1, 1, H)
    theirs, ours = gru(), cgru.torch.replace_gru(gru())
    frozen = cgru.torch.freeze(cgru.torch.replace_gru(gru()))
    modules = {"torch.nn.GRU": (theirs, x, h), "drop-in": (ours, x, h), "drop-in, frozen": (frozen, x, h)}
    if hasattr(cgru.torch, "GRUCell"):
        cell = cgru.torch.replace_gru(torch.nn.GRUCell(H, H))
        modules |= {"torch.nn.GRUCell": (torch.nn.GRUCell(H, H), x[0], h[0]), "drop-in cell": (cell, x[0], h[0])}
    return {name: lambda module=module, x=x, h=h: module(x, h) for name, (module, x, h) in modules.items()}


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=101, help="(default: 101)")
    made.add_argument("--calls", type=int, default=200, help="of each in a round (default: 200)")
    made.add_argument("--quick", action="store_true", help="few rounds and calls: does it run? The figures are rough")
    made.add_argument("--json", metavar="FILE", help="write everything that was measured, with versions and machine")
    options = made.parse_args()
    if options.quick:
        options.rounds, options.calls = 5, 50
    torch = importlib.util.find_spec("torch")
    if torch:
        importlib.import_module("torch")  # so that its version is told
    cgru.set_num_threads(1)
    record = Record(__file__, options)
    record.print_conditions()
    rounds, calls = options.rounds, options.calls
    rows, found = [], []
    for D, H in SIZES:
        for reset_after in (True, False):
            times = measure(layer_calls(D, H, reset_after), rounds, calls)
            found.append({"D": D, "H": H, "reset_after": reset_after, "us": times})
            more = [above(times, name, "out=") for name in ("new array", "h=None")]
            rows.append([f"1,1,{D},{H} {'after' if reset_after else 'before'}", *medians(times).values(), *more])
    record.add("layer.step", found)
    print("layer.step, us; the last two: above out=")
    table(["N,T,D,H reset", "out=", "new array", "h=None", "new array", "h=None"], rows)

    times, same = measure(model_calls(), rounds, calls), same_bits()
    record.add("model.step", {"us": times, "same_bits": same})
    print("\nGRU(64), Dense(8, softmax), us")
    row = [*medians(times).values(), above(times, "model.step", "layer.step")]
    table(["layer.step", "model.step", "above"], [row])
    print(f"bits of the whole sequence: {'the same' if same else 'OTHERS'}")
    if torch:
        drop_in(record, rounds, calls)
    return 0 if same else 1


def drop_in(record, rounds, calls):
    """Measure and print the steps of PyTorch's modules and of the drop-in."""
    import torch

    found, rows = {}, []
    for H in (32, 256):
        with torch.inference_mode():
            times = found[H] = measure(torch_calls(H), rounds, calls)
        for name, us in medians(times).items():
            theirs = times["torch.nn.GRUCell" if "cell" in name.lower() else "torch.nn.GRU"]
            ratio = statistics.median(a / b for a, b in zip(times[name], theirs, strict=True))
            rows.append([f"1,1,{H},{H}", name, us, f"{ratio:.2f}"])
    record.add("drop-in", found)
    print("\none step under inference_mode, us")
    table(["N,T,D,H", "", "us", "of PyTorch's"], rows)


if __name__ == "__main__":
    sys.exit(main())
