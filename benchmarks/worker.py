"""One contestant's process of these scripts: what cgru/cli/worker.py can be asked for, and memory and situations."""

import time

import numpy as np
from peers import CONTESTANTS

from cgru.cli import worker
from cgru.cli.worker import timed

MATMUL = 512  # about a millisecond with two threads


class Worker(worker.Worker):
    contestants = CONTESTANTS

    def __init__(self, name, threads):
        super().__init__(name, threads)
        self.factor = np.random.default_rng(0).standard_normal((2, MATMUL, MATMUL), np.float32)
        self.product = np.empty((MATMUL, MATMUL), np.float32)

    def burst(self, key, seconds, calls=None, before=None, target="run"):
        """As everywhere, and in situations: `before` runs before each call, untimed: "pause", "matmul" (NumPy's own
        pool) or "run"; `target` is "run" or "matmul"."""
        actions = {"run": self.prepared[key][0], "matmul": self._matmul, "pause": self._pause, None: None}
        return timed(actions[target], seconds, calls, actions[before])

    def memory(self, key):
        """Bytes by which the process's peak grows over its present size in one call, the result included."""
        run = self.prepared[key][0]
        worker.trim()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again from here
        start = _status("VmRSS")
        result = run()
        growth = _status("VmHWM") - start
        del result
        return growth

    def _matmul(self):
        np.matmul(*self.factor, out=self.product)

    @staticmethod
    def _pause():
        time.sleep(0.02)


def _status(field):
    """Bytes that /proc/self/status gives for a field."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def main(name, threads):
    worker.serve(Worker, name, threads)
