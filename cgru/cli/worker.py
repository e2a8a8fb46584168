"""One contestant's process, started by contest.py; requests and answers are JSON lines.

Only this process runs while it is asked something; between requests its threads sleep.
"""

import ctypes
import gc
import json
import os
import statistics
import sys
import traceback

import numpy as np

from cgru.cli import timing
from cgru.cli.case import Case, valid
from cgru.cli.contestants import CONTESTANTS


class Worker:
    """What a process can be asked for: its methods."""

    contestants = CONTESTANTS

    def __init__(self, name, threads):
        self.contestant = self.contestants[name](threads)
        self.prepared = {}  # key: (run, results, case)

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
        """Make a callable; return the largest difference of its results from those of the file `expected`, in units of
        the largest value, None without such a file."""
        case = Case(**case)
        loaded = dict(np.load(arrays))
        run, results = self.contestant.prepare(case, loaded)
        self.prepared[key] = run, results, case
        if expected is None:
            return None
        for _ in range(case.T - 1 if case.mode == "step" else 0):
            run()
        return difference(results(run()), dict(np.load(expected)), loaded.get("lengths"), case)

    def burst(self, key, seconds, calls=None):
        """What `timed` says of its calls."""
        return timed(self.prepared[key][0], seconds, calls)

    def release(self, key):
        """Free what a case took."""
        del self.prepared[key]
        gc.collect()
        trim()


def timed(call, seconds, calls=None, before=None):
    """The median of a burst in ns, the number of calls, and the time of each where a number was asked for."""
    times = timing.burst(call, seconds, calls, before)
    return {"median": statistics.median(times), "calls": len(times), "times": times if calls else None}


def difference(found, expected, lengths, case):
    """The largest difference of any array, in units of its largest value expected; NaN if there is one."""
    worst = []
    for name, wanted in expected.items():
        array = np.asarray(found[name])
        if name in ("y", "dx") and case.layout == "time":
            array = array.swapaxes(0, 1)
        if array.shape != wanted.shape or array.dtype != case.dtype:
            raise ValueError(f"{name}: expected {case.dtype} {wanted.shape}, got {array.dtype} {array.shape}")
        if lengths is not None and name == "y":  # what is put after the end differs from library to library
            taken = valid(lengths, case.T)
            array, wanted = array[taken], wanted[taken]
        worst.append(np.abs(array - wanted).max() / (np.abs(wanted).max() or 1))
    return float(np.max(worst))  # not max: a NaN counts as the largest


def trim():
    """Give free memory back to the system, where the C library can."""
    free = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if free is not None:
        free(0)


def serve(kind, name, threads):
    """Be the contestant: answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print what they like
    worker = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or kind(name, threads)
            answer = {"result": getattr(worker, request.pop("operation"))(**request)}
        except Exception as error:
            answer = {
                "missing": isinstance(error, ModuleNotFoundError),
                "error": f"{type(error).__name__}: {' '.join(str(error).split())}",
                "traceback": traceback.format_exc(),
            }
        timing.rest()
        print(json.dumps(answer), file=answers, flush=True)


def main(name, threads):
    """What the process of `cgru bench` runs."""
    serve(Worker, name, threads)
