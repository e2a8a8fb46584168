"""One contestant's process, started by harness.py; commands and answers are JSON lines.

Only this process runs while it is asked something; between commands it sleeps in a read.
"""

import ctypes
import gc
import json
import os
import statistics
import sys
import time
import traceback

import numpy as np
from case import Case, valid
from peers import CONTESTANTS

WARM_UP = 0.2  # of a burst's time
MATMUL = 512  # about a millisecond with two threads
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


class Worker:
    def __init__(self, name, threads):
        self.contestant = CONTESTANTS[name](threads)
        self.prepared = {}  # key: (run, results, case)
        self.factor = np.random.default_rng(0).standard_normal((2, MATMUL, MATMUL), np.float32)
        self.product = np.empty((MATMUL, MATMUL), np.float32)
        self.clock_cost = statistics.median(-time.perf_counter_ns() + time.perf_counter_ns() for _ in range(1000))

    def hello(self):
        """Versions, BLAS libraries and what the CPU looks like from here."""
        try:
            from threadpoolctl import threadpool_info
        except ImportError:
            pools = []
        else:
            wanted = ("internal_api", "version", "threading_layer", "architecture", "num_threads")
            pools = [{key: pool.get(key) for key in wanted} for pool in threadpool_info()]
        cpu = getattr(np, "_core", None) or np.core  # NumPy 1 has the other name
        features = cpu._multiarray_umath.__cpu_features__
        return {
            "versions": {"python": sys.version.split()[0]} | self.contestant.versions(),
            "pools": pools,
            "avx512": features.get("AVX512F", False),
        }

    def prepare(self, key, case, arrays, expected):
        """Make a callable and check its result against the expected one; return the largest relative difference."""
        case = Case(**case)
        loaded = dict(np.load(arrays))
        run, results = self.contestant.prepare(case, loaded)
        self.prepared[key] = run, results, case
        if expected is None:
            return None
        for _ in range(case.T - 1 if case.mode == "step" else 0):
            run()
        return _difference(results(run()), dict(np.load(expected)), loaded.get("lengths"), case)

    def burst(self, key, seconds, calls=None, before=None, target="run"):
        """Time calls one by one, for some seconds or a number of calls.

        `before` runs before each of them, untimed: "pause", "matmul" (NumPy's own pool) or "run"; `target` is "run" or
        "matmul".
        """
        actions = {"run": self.prepared[key][0], "matmul": self._matmul, "pause": self._pause, None: None}
        target, before = actions[target], actions[before]
        gc.collect()
        gc.disable()
        try:
            _times(target, before, seconds * WARM_UP, least=1)
            times = _times(target, before, 0 if calls else seconds, least=calls or 2)
        finally:
            gc.enable()
        times = np.maximum(np.array(times) - self.clock_cost, 0)
        return {"median": float(np.median(times)), "calls": len(times), "times": times.tolist() if calls else None}

    def memory(self, key):
        """Bytes by which the process's peak grows over its present size in one call, the result included."""
        run = self.prepared[key][0]
        _trim()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again from here
        start = _status("VmRSS")
        result = run()
        growth = _status("VmHWM") - start
        del result
        return growth

    def release(self, key):
        del self.prepared[key]
        gc.collect()
        _trim()

    def _matmul(self):
        np.matmul(*self.factor, out=self.product)

    @staticmethod
    def _pause():
        time.sleep(0.02)


def _times(target, before, seconds, least):
    """Nanoseconds of single calls of `target`, for some seconds and at least `least` calls."""
    clock, times = time.perf_counter_ns, []
    end = clock() + seconds * 1e9
    while len(times) < least or clock() < end:
        if before is not None:
            before()
        start = clock()
        target()
        times.append(clock() - start)
    return times


def _difference(found, expected, lengths, case):
    """The largest difference of any array, relative to the largest value expected (but at least 1)."""
    worst = 0.0
    for name, wanted in expected.items():
        array = np.asarray(found[name])
        if name in ("y", "dx") and case.layout == "time":
            array = array.swapaxes(0, 1)
        if array.shape != wanted.shape or array.dtype != case.dtype:
            raise ValueError(f"{name}: expected {case.dtype} {wanted.shape}, got {array.dtype} {array.shape}")
        if lengths is not None and name == "y":  # what is put after the end differs from library to library
            taken = valid(lengths, case.T)
            array, wanted = array[taken], wanted[taken]
        difference = float(np.abs(array - wanted).max() / max(1, np.abs(wanted).max()))
        if not difference <= TOLERANCE[case.dtype]:
            raise ValueError(f"{name} differs from the reference by {difference:.2e} of its largest value")
        worst = max(worst, difference)
    return worst


def _status(field):
    """Bytes that /proc/self/status gives for a field."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def _trim():
    """Give free memory back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like
    worker = None

    def start(name, threads):
        nonlocal worker
        worker = Worker(name, threads)
        return worker.hello()

    for line in sys.stdin:
        command = json.loads(line)
        operation = command.pop("operation")
        try:
            answer = {"result": (start if operation == "start" else getattr(worker, operation))(**command)}
        except Exception as error:
            kind = "missing" if isinstance(error, ModuleNotFoundError) else "error"
            answer = {kind: f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
