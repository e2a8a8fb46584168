"""What `fit` shows while it runs."""

import sys
import time


class _Silent:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def update(self):
        pass

    def epoch(self, results):
        pass


class _Lines(_Silent):
    """A line an epoch."""

    def __init__(self, epochs):
        self._epochs, self._epoch, self._started = epochs, 0, time.perf_counter()

    def epoch(self, results):
        self._epoch += 1
        now = time.perf_counter()
        print(f"epoch {self._epoch}/{self._epochs}  {figures(results)}  {now - self._started:.2f} s", flush=True)
        self._started = now


class _Bar(_Silent):
    """tqdm's bar over all updates, with the figures of the last finished epoch beside it."""

    def __init__(self, tqdm, epochs, updates):
        self._epochs, self._epoch = epochs, 0
        self._bar = tqdm(total=epochs * updates, unit="update", file=sys.stderr)

    def __exit__(self, *exception):
        self._bar.close()

    def update(self):
        self._bar.update()

    def epoch(self, results):
        self._epoch += 1
        self._bar.set_postfix_str(f"epoch {self._epoch}/{self._epochs}  {figures(results)}", refresh=False)


def figures(results):
    return "  ".join(f"{name} {value:.4f}" for name, value in results.items())


def progress_of(epochs, updates, verbose):
    if not verbose:
        return _Silent()
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(epochs)
    return _Bar(tqdm, epochs, updates)
