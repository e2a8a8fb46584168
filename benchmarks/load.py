"""One model under load: requests of many kinds by many threads, the bits of each compared, the memory watched.

A request is a call of the model, a prediction of sequences of unequal lengths, a step, or a step of shared streams, of
sizes that change from request to request. Every result must have the bits that one thread alone found before. Memory is
read when every thread has answered a tenth of its requests, and at the end; it may not grow with their number.

    python benchmarks/load.py
    python benchmarks/load.py --threads 8 --requests 100000 --json load.json
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

import cgru

GROWTH = 4 << 20  # bytes that are no growth: a few arenas of the allocator
KINDS = ("call", "predict", "step", "streams")


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def model_of(units=32, features=12):
    layers = [cgru.GRU(units, return_sequences=True), cgru.GRU(units, return_sequences=True), cgru.Dense(4, "softmax")]
    return cgru.Sequential(layers, seed=0).build(features)


class Requests:
    """What may be asked, and the answers that one thread alone finds."""

    def __init__(self, model, features=12, cases=12):
        rng = np.random.default_rng(0)
        self.model, self.streams = model, cgru.Streams(model, max_streams=256)
        sizes = [(int(rng.integers(1, 9)), int(rng.integers(1, 20))) for _ in range(cases)]
        self.x = [rng.standard_normal((n, t, features)).astype(np.float32) for n, t in sizes]
        self.lists = [[row[: 1 + i % len(row)] for i, row in enumerate(x)] for x in self.x]
        self.known = [self._answers(i) for i in range(cases)]

    def _answers(self, i):
        return {kind: self.answer(kind, i, "alone") for kind in KINDS}

    def answer(self, kind, i, who):
        """The result of one request, a list of arrays."""
        x, model = self.x[i], self.model
        if kind == "call":
            return [model(x)]
        if kind == "predict":
            return model.predict(self.lists[i], batch_size=4)
        if kind == "step":
            return [model.step(x[:, 0])[0]]
        keys = [(who, row) for row in range(len(x))]
        found = [self.streams.step(keys, x[:, 0]), *self.streams.feed(dict(zip(keys, x[:, 1:], strict=True))).values()]
        self.streams.drop(keys)
        return found

    def wrong(self, kind, i, who):
        """Whether an answer has other bits than the one that is known."""
        found, known = self.answer(kind, i, who), self.known[i][kind]
        return len(found) != len(known) or any(a.tobytes() != b.tobytes() for a, b in zip(found, known, strict=True))


def load(requests, threads, count):
    """Return (requests with other bits, bytes at a tenth, bytes at the end, seconds)."""
    each, errors = count // threads, []
    wrong, memory = [0] * threads, []
    barrier = threading.Barrier(threads, action=lambda: memory.append(resident()))

    def serve(thread):
        rng = np.random.default_rng(thread)
        try:
            for number in range(each):
                if number == each // 10:
                    barrier.wait()
                kind, i = KINDS[number % len(KINDS)], int(rng.integers(len(requests.x)))
                wrong[thread] += requests.wrong(kind, i, thread)
            barrier.wait()
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    begin = time.perf_counter()
    workers = [threading.Thread(target=serve, args=[i]) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return sum(wrong), *memory, time.perf_counter() - begin


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=8, help="that ask (default: 8)")
    parser.add_argument("--requests", type=int, default=100_000, help="of all threads together (default: 100000)")
    parser.add_argument("--quick", action="store_true", help="2000 requests: does it run?")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.requests = 2000
    wrong, before, after, seconds = load(Requests(model_of()), options.threads, options.requests)
    grown = after - before
    found = {
        "threads": options.threads, "requests": options.requests, "other bits": wrong, "seconds": round(seconds, 2),
        "requests a second": round(options.requests / seconds), "MB at a tenth": round(before / 1e6, 1),
        "MB at the end": round(after / 1e6, 1),
    }  # fmt: skip
    for name, value in found.items():
        print(f"{name:18} {value:>10}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if wrong or grown > GROWTH:
        print(f"{wrong} answers with other bits, {grown} bytes of growth")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
