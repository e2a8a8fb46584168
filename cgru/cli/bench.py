"""`cgru bench`: a short benchmark against the NumPy reference and the peers that are installed.

Thread pools of two libraries in one process disturb each other, and so do two processes that run at once. So each
contestant has a child process, of which one runs at a time; it imports its library, and speaks JSON lines. In each cell
every child compares its result with the reference in float64, then they take turns for some rounds, in another order
each time. A figure is the median over the rounds of the medians within. A contestant that fails is out of the contest.
"""

import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

import cgru
from cgru import kernels, plot, recurrence, reference

ROUNDS, SECONDS = 5, 0.05  # SECONDS: of one contestant's calls in one round
LONGEST = 2.5  # s after which a cell has no further round: on a busy machine a call may take seconds
REST = 0.02  # s without processor time after which a child is asleep: pools spin after work, OpenBLAS's for 45 ms
TOLERANCE = 1e-5  # largest difference from the reference, in units of the largest value
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Cell(NamedTuple):
    """What is measured. Training takes all gradients; T steps are checked, one is timed."""

    mode: str
    N: int
    T: int
    D: int
    H: int

    def __str__(self):
        return f"{self.mode} {self.N},{1 if self.mode == 'step' else self.T},{self.D},{self.H}"


CELLS = (
    Cell("inference", 1, 1, 32, 32),
    Cell("inference", 1, 100, 64, 128),
    Cell("inference", 32, 100, 64, 128),
    Cell("inference", 128, 30, 39, 64),
    Cell("training", 32, 100, 64, 128),
    Cell("training", 32, 29, 12, 64),
    Cell("step", 1, 10, 64, 64),
)


def run(threads=None, json_file=None, plot_file=None):
    """Measure all cells, print a table and write the files that are asked for.

    Parameters
    ----------
    threads : int, optional
        Of every contestant; default: `cgru.get_num_threads()`.
    json_file, plot_file : str, optional
        Where all figures, and a picture of them, go.

    Returns
    -------
    bool
        Whether cgru ran and its results agree with the reference.

    Raises
    ------
    ImportError, ValueError, OSError
        If a file cannot be drawn or written; before anything is measured.
    """
    if plot_file is not None:
        plot.check_file(plot_file)
    if json_file is not None:
        plot.check_writable(json_file)
    found = _measure(cgru.get_num_threads() if threads is None else threads)
    _print(found)
    if json_file is not None:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        print(f"figures  {json_file}")
    if plot_file is not None:
        plot.draw_times(found["cells"], _machine(found).replace("; ", "\n"), plot_file)
        print(f"plot     {plot_file}")
    return "cgru" not in found["failures"]


# -- the parent


class _ContestantError(Exception):
    """What went wrong in a child."""


class _Child:
    """In a session of its own: Ctrl-C comes to the parent only, and when that is gone, the end of its pipe ends us."""

    def __init__(self, name, threads):
        self.name = name
        # Not -m: that would prefer a cgru in the working directory, which may be a checkout that is not built.
        code = f"import sys; sys.path[:] = {sys.path!r}; from cgru.cli import bench; bench.work({name!r}, {threads})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | dict.fromkeys(THREADS, str(threads)), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def ask(self, request):
        with contextlib.suppress(OSError):  # it is dead, and the answer is empty
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise _ContestantError(f"its process ended ({self._process.wait()})")
        result, error = json.loads(answer)
        if error is not None:
            raise _ContestantError(error)
        return result

    def close(self):
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def _measure(threads):
    """Return everything found, as JSON has it."""
    packages = {"cgru": [], "numpy": ["numpy"], "torch": ["torch"], "onnxruntime": ["onnxruntime", "onnx"]}
    lacking = {name: [each for each in packages[name] if not importlib.util.find_spec(each)] for name in packages}
    present = [name for name in packages if not lacking[name]]
    failures, cells, load = {}, [], os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with contextlib.ExitStack() as stack:
        children = []
        for name in present:
            children.append(_Child(name, threads))
            stack.callback(children[-1].close)
        progress = _progress()
        stack.callback(progress.close)
        for cell in CELLS:
            progress.cell(cell)
            cells.append(_measure_cell(cell, children, failures, progress.round))
    versions = {name: importlib.metadata.version(name) for name in present if name != "cgru"}
    return {
        "versions": {"python": platform.python_version(), "cgru": cgru.__version__} | versions,
        "missing": {name: lacking[name] for name in packages if lacking[name]},
        "machine": f"{platform.system()} {platform.machine()}",
        "isa": kernels.isa,
        "routes": {"recurrent": recurrence.RECURRENT, "batched": recurrence.BATCHED},
        "threads": threads,
        "load": load,
        "failures": failures,
        "cells": cells,
    }


def _measure_cell(cell, children, failures, turn):
    """Measure the children; those that fail leave the list for `failures`. `turn` is called after each round."""
    differences, rounds = {}, {}

    def ask(child, request):
        try:
            answer = child.ask(request)
            if request is not None and answer is not None and not answer <= TOLERANCE:  # NaN is not
                raise _ContestantError(f"differs from the reference by {answer:.1e} of the largest value")
            return answer
        except _ContestantError as error:
            failures[child.name] = f"{cell}: {error}"
            children.remove(child)
            rounds.pop(child.name, None)

    for child in list(children):
        difference = ask(child, cell)
        if difference is not None:  # else it failed, or has no such mode
            differences[child.name], rounds[child.name] = difference, []
    end = time.monotonic() + LONGEST
    for count in range(ROUNDS):
        active = [child for child in children if child.name in rounds]
        if count and time.monotonic() > end:
            active = []
        for child in random.Random(count).sample(active, len(active)):
            median = ask(child, None)
            if median is not None:
                rounds[child.name].append(median)
        turn()
    times = {name: statistics.median(medians) for name, medians in rounds.items()}
    theirs = [value for name, value in times.items() if name != "cgru"]
    ratio = min(theirs) / times["cgru"] if theirs and "cgru" in times else None
    found = {"microseconds": times, "ratio": ratio, "rounds": rounds, "differences": differences}
    return {"cell": str(cell)} | cell._asdict() | found


class _Lines:
    """Progress as a line a cell."""

    def cell(self, cell):
        print(f"cell {CELLS.index(cell) + 1}/{len(CELLS)}  {cell}", file=sys.stderr, flush=True)

    def round(self):
        pass

    close = round


class _Bar:
    """Progress as tqdm's bar over all rounds."""

    def __init__(self, tqdm):
        self._bar = tqdm(total=len(CELLS) * ROUNDS, unit="round", file=sys.stderr)
        self.round, self.close = self._bar.update, self._bar.close

    def cell(self, cell):
        self._bar.set_description_str(f"{cell!s:<24}")


def _progress():
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines()
    return _Bar(tqdm)


def _machine(found):
    """One line for the table and the picture."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{versions}; {found['machine']}, {found['isa']} kernels, threads: {found['threads']}"


def _print(found):
    names = [name for name in CONTESTANTS if any(name in cell["microseconds"] for cell in found["cells"])]
    print(f"{_machine(found)}\nfloat32, reset_after=True, microseconds a call; numpy is cgru/reference.py\n")
    print(f"{'N,T,D,H':<25}" + "".join(f"{name:>13}" for name in names) + "   best peer / cgru")
    ratios = []
    for cell in found["cells"]:
        times, ratio = cell["microseconds"], cell["ratio"]
        row = "".join(f"{times[name]:>13,.1f}" if name in times else f"{'-':>13}" for name in names)
        print(f"{cell['cell']:<25}{row}{'-' if ratio is None else f'{ratio:.2f}':>19}")
        ratios += [] if ratio is None else [ratio]
    if ratios:
        print(f"{'geometric mean':<25}{'':>{13 * len(names)}}{statistics.geometric_mean(ratios):>19.2f}")
    print()
    if found["load"] is not None and found["load"] > 0.5:
        print(f"load average {found['load']:.1f} before the start: others ran too, which slows some more than others")
    for name, lacking in found["missing"].items():
        print(f"without {name}: {' and '.join(lacking)} not installed")
    for name, failure in found["failures"].items():
        print(f"{name} FAILED at {failure}", file=sys.stderr)


# -- the children


def work(name, threads):
    """Be a contestant. A request is a cell to prepare, or null to time it; an answer is [result, error]."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print what they like
    call = None
    for line in sys.stdin:
        request, result, error = json.loads(line), None, None
        try:
            if request is None:
                result = _burst(call)
            else:
                call = None  # frees what the last cell took
                call, result = _prepare(name, threads, Cell(*request))
        except Exception as exception:
            error = f"{type(exception).__name__}: {' '.join(str(exception).split())}"
        _rest()
        print(json.dumps([result, error]), file=answers, flush=True)


def _prepare(name, threads, cell):
    """Return (what is to be timed, its difference from the reference); (None, None) if there is no such mode."""
    x, dy, *weights = _arrays(cell)
    call, results = CONTESTANTS[name](cell, threads, x, dy, *weights)
    if call is None:
        return None, None
    exact, exact_results = _numpy(cell, threads, *(array.astype(float) for array in (x, dy, *weights)))
    for _ in range(cell.T if cell.mode == "step" else 1):
        raw, exact_raw = call(), exact()
    pairs = zip(results(raw), exact_results(exact_raw), strict=True)
    # np.max, not max: a NaN counts as the largest.
    return call, float(np.max([np.abs(found - wanted).max() / np.abs(wanted).max() for found, wanted in pairs]))


def _arrays(cell):
    """x (N, T, D), dy (N, T, H), kernel (D, 3H), recurrent_kernel (H, 3H), bias (2, 3H): the same in each child."""
    rng, (N, T, D, H) = np.random.default_rng(0), cell[1:]
    x, dy = rng.standard_normal((N, T, D), np.float32), rng.standard_normal((N, T, H), np.float32)
    shapes = (D, 3 * H), (H, 3 * H), (2, 3 * H)
    return x, dy, *((rng.uniform(-1, 1, shape) / H**0.5).astype(np.float32) for shape in shapes)


def _burst(call):
    """Return the median time of calls, in microseconds."""
    gc.collect()
    gc.disable()
    try:
        _times(call, SECONDS / 5, least=1)
        times = _times(call, SECONDS, least=1)
        clock = statistics.median(_times(lambda: None, 0, least=1000))
    finally:
        gc.enable()
    return max(statistics.median(times) - clock, 1) / 1e3


def _times(call, seconds, least):
    """Nanoseconds of single calls, for some seconds and at least `least` calls."""
    clock, times = time.perf_counter_ns, []
    end = clock() + seconds * 1e9
    while len(times) < least or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return times


def _rest():
    """Wait until the threads of this process sleep, half a second at most."""
    for _ in range(int(0.5 / REST)):
        used = time.process_time()
        time.sleep(REST)
        if time.process_time() - used < REST / 20:
            break


# A contestant takes a cell, the threads and `_arrays`, and returns (call, results): results(call()) are y, in training
# also dx and the weights' gradients in order, of a step h; all in our form.


def _cgru(cell, threads, x, dy, *weights):
    cgru.set_num_threads(threads)
    layer = cgru.GRU(cell.H, return_sequences=True, reset_after=True, input_size=cell.D)
    layer.set_weights(weights)
    x0, h, step = x[:, 0].copy(), np.zeros((cell.N, cell.H), x.dtype), layer.step

    def train():
        y, _, tape = layer.forward(x, training=True)
        dx, _, grads = layer.backward(dy, tape)
        return y, dx, *grads.values()

    return {
        "inference": (lambda: layer(x), lambda y: [y]),
        "training": (train, list),
        "step": (lambda: step(x0, h, out=h), lambda h: [h]),
    }[cell.mode]


def _numpy(cell, threads, x, dy, *weights):
    x0, h = x[:, :1].copy(), np.zeros((cell.N, cell.H), x.dtype)

    def train():
        y, _, tape = reference.forward(x, *weights, h, reset_after=True)
        grads = reference.backward(dy, None, tape)
        return y, *(grads[name] for name in ("dx", "kernel", "recurrent_kernel", "bias"))

    def step():
        nonlocal h
        h = reference.forward(x0, *weights, h, reset_after=True)[1]
        return [h]

    infer = lambda: reference.forward(x, *weights, h, reset_after=True)[:1]  # noqa: E731
    return {"inference": infer, "training": train, "step": step}[cell.mode], list


def _foreign(array):
    """Weights (., 3H) of gates r, z, n as peers have them, or back: their z weighs the old state."""
    r, z, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, -z, n], axis=-1)


def _torch(cell, threads, x, dy, *weights):
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(cell.mode == "training")
    kind = torch.nn.GRUCell if cell.mode == "step" else torch.nn.GRU
    gru = kind(cell.D, cell.H, **({} if cell.mode == "step" else {"batch_first": True}))
    kernel, recurrent_kernel, bias = map(_foreign, weights)
    with torch.no_grad():
        for parameter, value in zip(gru.parameters(), (kernel.T, recurrent_kernel.T, *bias), strict=True):
            parameter.copy_(torch.from_numpy(value))
    x, dy, h = torch.from_numpy(x), torch.from_numpy(dy), torch.zeros(cell.N, cell.H)
    x0, inputs = x[:, 0].contiguous(), [x.requires_grad_(cell.mode == "training"), *gru.parameters()]

    def train():
        y = gru(x)[0]
        return y, *torch.autograd.grad(y, inputs, dy)

    def train_results(raw):
        y, dx, kernel, recurrent_kernel, b, c = (tensor.detach().numpy() for tensor in raw)
        return [y, dx, *map(_foreign, (kernel.T, recurrent_kernel.T, np.stack([b, c])))]

    def step():
        nonlocal h
        h = gru(x0, h)
        return h

    return {
        "inference": (lambda: gru(x)[0], lambda y: [y.numpy()]),
        "training": (train, train_results),
        "step": (step, lambda h: [h.numpy()]),
    }[cell.mode]


def _onnxruntime(cell, threads, x, dy, *weights):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    if cell.mode == "training":
        return None, None
    blocks = [np.split(_foreign(weight), 3, axis=-1) for weight in weights]
    kernel, recurrent_kernel, bias = (np.concatenate([z, r, n], axis=-1) for r, z, n in blocks)
    constants = {"W": kernel.T[None], "R": recurrent_kernel.T[None], "B": bias.reshape(1, -1), "1": np.array([1])}
    nodes = [  # the operator is time-major, its Y is (T, 1, N, H)
        helper.make_node("Transpose", ["x"], ["x_time"], perm=[1, 0, 2]),
        helper.make_node(
            "GRU", ["x_time", "W", "R", "B", "", "h"], ["Y", "h_new"], hidden_size=cell.H, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["Y", "1"], ["y_time"]),
        helper.make_node("Transpose", ["y_time"], ["y"], perm=[1, 0, 2]),
    ]
    feed, output = {"x": x, "h": np.zeros((1, cell.N, cell.H), x.dtype)}, "y"
    if cell.mode == "step":
        nodes, feed["x"], output = [nodes[1]], x[:, 0][None].copy(), "h_new"
        nodes[0].input[0] = "x"
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in names]
        for names in (feed, [output])
    )
    graph = helper.make_graph(nodes, "gru", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def step():
        (feed["h"],) = session.run(None, feed)
        return feed["h"]

    return step if cell.mode == "step" else lambda: session.run(None, feed), lambda raw: [raw[0]]


CONTESTANTS = {"cgru": _cgru, "numpy": _numpy, "torch": _torch, "onnxruntime": _onnxruntime}
