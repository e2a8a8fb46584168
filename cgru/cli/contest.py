"""A contest: every contestant in a process of its own, the processes taking turns.

Threads of two libraries in one process disturb each other, and two processes running at once do too. So each library
with each number of threads is one process (worker.py), and of all processes one runs at a time: for each case there are
several rounds, in each round each process times its calls for a moment, in another order every round (timing.py).
Before that each one's result is compared with the NumPy reference in float64.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from cgru.cli import timing
from cgru.cli.case import Case, draw
from cgru.cli.contestants import CONTESTANTS, Numpy

THREADS = ("CGRU_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC: XLA
PACKAGE = pathlib.Path(__file__).parent.parent


class WorkerError(Exception):
    """What went wrong in a process, in one line; `details` is its traceback or what it said last."""

    def __init__(self, message, details=""):
        super().__init__(message)
        self.details = details


class MissingError(WorkerError):
    """The process's library is not installed."""


class Process:
    """One contestant's process, in a session of its own: Ctrl-C comes to the parent only, and when that is gone, the
    end of the pipe ends this one.

    Parameters
    ----------
    name : str
        Of the contestant.
    threads : int
    module : str
        Its `main(name, threads)` is what the process runs.
    environment : dict, optional
        Of the process; default: ours, with the number of threads in all libraries' variables.
    python : str, optional
        Another Python than this one, which does not share our `sys.path`.
    folder : str, optional
        With another Python: where `module` lies.
    """

    def __init__(self, name, threads, module="cgru.cli.worker", environment=None, python=None, folder=None):
        self.name, self.threads = name, threads
        path = f"[{os.fspath(folder)!r}, *sys.path[1:]]" if python else repr(sys.path)
        # The working directory is not on the path: it may be a checkout that is not built.
        code = f"import sys; sys.path[:] = {path}; "
        if not self.ours:  # then nothing compiled of ours is in the process: the package is a name for its files
            code += "from types import ModuleType; package = sys.modules['cgru'] = ModuleType('cgru'); "
            code += f"package.__path__ = [{str(PACKAGE)!r}]; "
        code += f"import {module} as worker; worker.main({name!r}, {threads})"
        environment = environment or os.environ | dict.fromkeys(THREADS, str(threads))
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [python or sys.executable, "-c", code], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
        )  # fmt: skip
        self._tell("hello")
        self._hello = None

    @property
    def ours(self):
        return self.name.partition(".")[0] == "cgru"

    @property
    def hello(self):
        """What the process said of itself; waits until its library is imported."""
        if self._hello is None:
            self._hello = self._hear()
        return self._hello

    def ask(self, operation, **arguments):
        """Return the process's answer; WorkerError if it failed."""
        self.hello  # noqa: B018  the first answer
        self._tell(operation, **arguments)
        return self._hear()

    def close(self):
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                pipe.close()

    def _tell(self, operation, **arguments):
        with contextlib.suppress(OSError):  # it is dead, and the answer is empty
            self._process.stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
            self._process.stdin.flush()

    def _hear(self):
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise WorkerError(f"its process ended ({self._process.wait()})", self._errors.read())
        answer = json.loads(line)
        if "error" in answer:
            kind = MissingError if answer["missing"] else WorkerError
            raise kind(answer["error"], answer["traceback"])
        return answer["result"]


@dataclasses.dataclass
class Entry:
    """One contestant with one number of threads in one case."""

    label: str
    worker: Process
    case: Case
    key: int
    difference: float | None = None  # from the reference
    rounds: list = dataclasses.field(default_factory=list)  # median of each, ns
    times: list = dataclasses.field(default_factory=list)  # of single calls, where they were counted

    @property
    def median(self):
        return statistics.median(self.rounds)


class Contest:
    """Processes, and what is measured of them. A context manager: at its end the processes do.

    Parameters
    ----------
    workers : list of Process
    rounds : int
    seconds : float
        Of one process's calls in one round.
    tolerance : dict dtype -> float
        Largest difference from the reference, in units of the largest value.
    longest : float, optional
        Seconds after which a case has no further round: on a busy machine a call may take seconds.
    hopeless : float, optional
        A peer this many times slower than the best one with its threads, after two rounds, sits out the others.
    """

    contestants = CONTESTANTS

    def __init__(self, workers, rounds, seconds, tolerance, longest=math.inf, hopeless=math.inf):
        self.workers, self.rounds, self.seconds, self.tolerance = workers, rounds, seconds, tolerance
        self.longest, self.hopeless, self._keys = longest, hopeless, 0
        self._folder = tempfile.TemporaryDirectory(prefix="cgru-benchmark-")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in list(self.workers):
            self.drop(worker)
        self._folder.cleanup()

    def drop(self, worker):
        """End a process."""
        self.workers.remove(worker)
        worker.close()

    def failed(self, worker, error, case):
        """Called where a process fails at a case; may drop it."""
        raise error

    def round_done(self):
        """Called after each round."""

    draw = staticmethod(draw)

    def expected(self, case, arrays):
        """Results of the NumPy reference in float64, batch-major."""
        exact = {name: array.astype(float) if array.dtype.kind == "f" else array for name, array in arrays.items()}
        changes = {"dtype": "float64", "layout": "batch"}
        if case.mode == "step":  # the same input at each step
            changes["mode"] = "inference"
            exact["x"] = np.repeat(exact["x"][:, :1], case.T, axis=1)
        run, results = self.contestants[Numpy.name](1).prepare(dataclasses.replace(case, **changes), exact)
        found = results(run())
        return {"h": found["y"][:, -1]} if case.mode == "step" else found

    def measure(self, case, variants=None, check=True, calls=None, **burst):
        """Time one case; return its `Entry`s, those that failed or that cannot do it left out.

        Parameters
        ----------
        case : Case
        variants : dict label -> (contestant, dict of changes of the case), optional
            By default every contestant under its own name with the case as it is.
        check : bool
            Whether results are compared with the reference.
        calls : int, optional
            Calls in all rounds together, each time kept; otherwise bursts take the contest's seconds.
        burst
            What else the processes' `burst` takes.
        """
        entries = self.prepare(case, variants, check)
        arguments = burst | {"seconds": self.seconds, "calls": calls and math.ceil(calls / self.rounds)}
        active, end = list(entries), time.monotonic() + self.longest
        for count in range(self.rounds):
            if count and time.monotonic() > end:
                active = []
            for entry in timing.turns(active, count):
                answer = self.ask(entry.worker, case, "burst", key=entry.key, **arguments)
                if answer is None:
                    active.remove(entry)
                    entries.remove(entry)
                    continue
                entry.rounds.append(answer["median"])
                entry.times += answer["times"] or []
            if count == 1 and calls is None:
                active = [entry for entry in active if not self._hopeless(entry, active)]
            self.round_done()
        for entry in entries:
            with contextlib.suppress(WorkerError):  # a dead process says so when it is next asked for something
                entry.worker.ask("release", key=entry.key)
        return entries

    def prepare(self, case, variants=None, check=True):
        """The entries of a case, their callables made and checked."""
        variants = variants or {worker.name: (worker.name, {}) for worker in self.workers}
        arrays, expected = self._files(case, check)
        entries = []
        for label, (name, changes) in variants.items():
            changed = dataclasses.replace(case, **changes)
            if self.contestants[name].refuses(changed):
                continue
            for worker in [worker for worker in self.workers if worker.name == name]:
                self._keys += 1
                entry = Entry(label, worker, changed, self._keys)
                request = {"case": changed.as_dict(), "arrays": arrays, "expected": expected}
                try:
                    entry.difference = worker.ask("prepare", key=entry.key, **request)
                    if check and not entry.difference <= self.tolerance[case.dtype]:  # NaN is not
                        away = f"{entry.difference:.1e} of the largest value"
                        raise WorkerError(f"differs from the reference by {away}")
                except WorkerError as error:
                    self.failed(worker, error, changed)
                else:
                    entries.append(entry)
        return entries

    def _files(self, case, check):
        """Paths of the case's arrays and of the reference's results, the latter None without `check`."""
        arrays = self.draw(case)
        files = [f"{self._folder.name}/arrays.npz", f"{self._folder.name}/expected.npz" if check else None]
        np.savez(files[0], **arrays)
        if check:
            np.savez(files[1], **self.expected(case, arrays))
        return files

    def ask(self, worker, case, operation, **arguments):
        """The answer of a process, None if it failed."""
        try:
            return worker.ask(operation, **arguments)
        except WorkerError as error:
            self.failed(worker, error, case)
            return None

    def _hopeless(self, entry, entries):
        """Whether a peer cannot be the best one with its number of threads."""
        rivals = [e for e in entries if not e.worker.ours and e.worker.threads == entry.worker.threads]
        return entry in rivals and min(entry.rounds) > self.hopeless * min(min(e.rounds) for e in rivals)
