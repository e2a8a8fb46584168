"""The command `cgru`: `cgru demo` trains a GRU on real recordings and checks it, `cgru bench` measures against others,
`cgru info` says what runs here."""

import argparse
import importlib.util
import os
import platform
import sys
import time

import numpy as np
import scipy

from cgru import bench, kernels, metrics, plot, recurrence, reference
from cgru._version import __version__
from cgru.datasets import load_japanese_vowels
from cgru.gru import GRU
from cgru.layers import Dense, Dropout
from cgru.models import Sequential
from cgru.optimizers import Adam
from cgru.sequences import pad
from cgru.threads import get_num_threads

UNITS, BATCH_SIZE, LEARNING_RATE = 64, 32, 0.003
# Largest difference that float32 may have from the reference in float64, in units of the largest value.
TOLERANCE = 1e-5


def main(argv=None):
    """Run the command with the arguments `argv` (default: those of the process) and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\ncgru: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError) as error:
        print(f"cgru {arguments.command}: {error}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(prog="cgru", description="A compiled GRU for the CPU.")
    parser.add_argument("--version", action="version", version=f"cgru {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train a GRU classifier on real recordings and compare it with NumPy")
    demo.add_argument("--seed", type=_integer(0), default=0, help="seed of everything that is random (default: 0)")
    demo.add_argument("--epochs", type=_integer(1), default=60, help="passes over the training data (default: 60)")
    demo.add_argument("--plot", metavar="FILE.png", help="draw training and confusion matrix (needs matplotlib)")
    demo.set_defaults(run=_demo)
    benchmark = commands.add_parser(
        "bench", help="measure against NumPy, PyTorch and ONNX Runtime",
        description="Measure inference, training and streaming (one step a call), float32 with reset_after=True, "
        "against the NumPy reference and those of PyTorch (torch) and ONNX Runtime (onnxruntime and onnx) that are "
        "installed; half a minute or less. Each contestant runs in a process of its own, in turn, and is compared with "
        "the reference before it is timed. The exit status is 1 if cgru's results are wrong.",
    )  # fmt: skip
    benchmark.add_argument(
        "--threads", type=_integer(1), metavar="N", help="of each contestant (default: what cgru would use)"
    )
    benchmark.add_argument("--json", metavar="FILE", help="write all figures, with versions and machine")
    benchmark.add_argument("--plot", metavar="FILE.png", help="draw the times (needs matplotlib)")
    benchmark.set_defaults(run=_bench)
    info = commands.add_parser("info", help="print versions, instruction set, routes, BLAS and threads")
    info.set_defaults(run=_info)
    return parser


def _integer(minimum):
    def integer(text):
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected at least {minimum}, got {value}")
        return value

    return integer


# -- cgru demo


def _demo(arguments):
    if arguments.plot is not None:
        plot.check_file(arguments.plot)  # now, not after the training
    data = load_japanese_vowels()
    x_train, x_test = standardise(data.x_train, data.x_test)
    model = build_model(arguments.seed)
    print(f"Japanese Vowels: {len(x_train)} training and {len(x_test)} test utterances of nine speakers")
    print(f"bidirectional GRU of {UNITS} units, dropout 0.3, softmax; {arguments.epochs} epochs, seed {arguments.seed}")

    started = time.perf_counter()
    history = model.fit(x_train, data.y_train, epochs=arguments.epochs, batch_size=BATCH_SIZE)
    seconds = time.perf_counter() - started

    predicted = model.predict(x_test).argmax(axis=1)
    hits = np.count_nonzero(predicted == data.y_test)
    print(f"test accuracy  {hits / len(predicted):.4f} ({hits} of {len(predicted)})")
    print(f"training time  {seconds:.2f} s")
    passed = _compare(model.layers[0], x_train[:BATCH_SIZE])
    if arguments.plot is not None:
        confusion = metrics.confusion_matrix(data.y_test, predicted, 9)
        plot.draw_training(history, confusion, arguments.plot)
        print(f"plot           {arguments.plot}")
    return 0 if passed else 1


def standardise(x_train, x_test):
    """Return both with the mean of `x_train` subtracted, divided by its standard deviation, feature by feature."""
    frames = np.concatenate(x_train)
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    return [(x - mean) / deviation for x in x_train], [(x - mean) / deviation for x in x_test]


def build_model(seed):
    """Return the compiled classifier of the demonstration."""
    layers = [GRU(UNITS, bidirectional=True), Dropout(0.3), Dense(9, activation="softmax")]
    model = Sequential(layers, seed=seed)
    model.compile(Adam(LEARNING_RATE), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _compare(layer, utterances):
    """Print times and differences of `layer` and the NumPy reference on one batch; return whether they agree."""
    x, lengths = pad(utterances, np.float32)
    d_out = np.random.default_rng(0).standard_normal((len(x), 2 * layer.units)).astype(np.float32)

    out, _, tape = layer.forward(x, lengths=lengths, training=True)
    dx, _, grads = layer.backward(d_out, tape)
    ours = {"out": out, "dx": dx, **grads}
    exact = _reference_backward(d_out, *_reference_forward(layer, x, lengths, np.float64))
    # np.max, not max: a NaN counts as the largest.
    worst = np.max([np.abs(ours[name] - exact[name]).max() / np.abs(exact[name]).max() for name in exact])

    reference_run = _reference_forward(layer, x, lengths, np.float32)
    times = {
        "forward": (
            _best(lambda: layer.forward(x, lengths=lengths, training=True)),
            _best(lambda: _reference_forward(layer, x, lengths, np.float32)),
        ),
        "backward": (
            _best(lambda: layer.backward(d_out, tape)),
            _best(lambda: _reference_backward(d_out, *reference_run)),
        ),
    }
    print(f"kernels        {kernels.isa}")
    sizes = ", ".join(map(str, (*x.shape, layer.units)))
    print(f"one batch      N, T, D, H = {sizes}, both directions, float32")
    for name, (own, numpy) in times.items():
        print(f"{name:<15}{own * 1e3:.2f} ms; NumPy reference {numpy * 1e3:.2f} ms, {numpy / own:.1f} times as long")
    verdict = "within" if worst <= TOLERANCE else "OUT OF"
    print(f"difference     {worst:.1e} of the largest value, from the reference in float64: {verdict} {TOLERANCE:.0e}")
    return bool(worst <= TOLERANCE)


def _reference_forward(layer, x, lengths, dtype):
    """Return what `_reference_backward` needs: the reference's final states (N, 2H) and tapes, of both directions."""
    states, tapes = [], []
    for direction in ("forward", "backward"):
        weights = [
            layer.parameters[f"l0.{direction}.{name}"].astype(dtype) for name in ("kernel", "recurrent_kernel", "bias")
        ]
        _, h, tape = reference.forward(
            x.astype(dtype),
            *weights,
            np.zeros((len(x), layer.units), dtype),
            reset_after=layer.reset_after,
            lengths=lengths,
            reverse=direction == "backward",
        )
        states.append(h)
        tapes.append(tape)
    return np.concatenate(states, axis=1), tapes


def _reference_backward(d_out, out, tapes):
    """Return outputs, dx and the gradients of the parameters under the layer's names."""
    results = {"out": out, "dx": 0}
    halves = np.split(d_out.astype(out.dtype), 2, axis=1)
    for direction, half, tape in zip(("forward", "backward"), halves, tapes, strict=True):
        grads = reference.backward(None, half, tape)
        results["dx"] = results["dx"] + grads["dx"]
        for name in ("kernel", "recurrent_kernel", "bias"):
            results[f"l0.{direction}.{name}"] = grads[name]
    return results


def _best(function, repeats=20):
    """Return the shortest of `repeats` run times, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


# -- cgru bench


def _bench(arguments):
    return 0 if bench.run(arguments.threads, arguments.json, arguments.plot) else 1


# -- cgru info


def _info(arguments):
    blas, threads = _blas()
    print(f"cgru      {__version__}")
    print(f"Python    {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"NumPy     {np.__version__}")
    print(f"SciPy     {scipy.__version__}")
    print(f"kernels   {kernels.isa} (this CPU can run: {', '.join(kernels.available)})")
    print(f"routes    recurrent {recurrence.RECURRENT}, batched {recurrence.BATCHED}")
    print(f"BLAS      {blas}")
    print(f"threads   kernels {get_num_threads()}, {threads}; usable CPUs: {_usable_cpus()}")
    return 0


def _blas():
    """Return (name, version and configuration of SciPy's BLAS; its threads), as text."""
    built = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    blas = " ".join(str(built[key]) for key in ("name", "version") if built.get(key))
    configuration = built.get("openblas configuration", "")
    blas += f" ({configuration})" if configuration not in ("", "unknown") else ""
    if importlib.util.find_spec("threadpoolctl") is None:
        return blas, "of BLAS unknown (threadpoolctl is not installed)"
    import threadpoolctl

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    scipys = [pool for pool in pools if "scipy" in pool["filepath"].lower()] or pools
    if not scipys:
        return blas, "of BLAS unknown"
    pool = scipys[0]
    architecture = f", {pool['architecture']} kernels" if pool.get("architecture") else ""
    return f"{blas}{architecture}", f"BLAS {pool['num_threads']}"


def _usable_cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
