"""A whole step of training a model of words: Embedding(5000, 256), GRU(512), Dense(5000) at every step, N = 64, T = 30;
cross-entropy, backward, Adam. As cgru.Sequential, as PyTorch's own model, and as PyTorch's after
`cgru.torch.replace_gru`.

The floor is the time of the step's matrix products alone, each as the better of NumPy and PyTorch computes it, in the
same run with the same threads; its share of a step's time says how much is left for anybody to gain.

    python benchmarks/training_step.py --json benchmarks/results/training_step.json
"""

import sys

from harness import Contest, parse, parser
from models import products
from report import Cell, Report, progress, table

from cgru.cli.case import Case

OURS, THEIRS = ("cgru", "cgru.torch"), "torch"
CASE, QUICK = Case(64, 30, 256, 512, "words"), Case(4, 5, 16, 32, "words")


def main():
    options = parse(parser(__doc__))
    case = QUICK if options.quick else CASE
    with Contest(options, [*OURS, THEIRS, "numpy"]) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        progress(f"step of training, {case.size}")
        cell = Cell(case, contest.measure(case))
        report.add("step", cell.as_dict())
        floors = measure_floors(contest, case)
        report.add("floor_us", floors)
        rows = []
        for threads in options.threads:
            theirs = cell.best(THEIRS, threads)
            for label in (*OURS, THEIRS):
                entry, floor = cell.best(label, threads), floors.get(threads)
                if entry is not None:
                    ratio = theirs and f"{theirs.median / entry.median:.2f}"
                    share = floor and f"{100 * floor / (entry.median / 1e3):.0f}%"
                    rows.append([label, threads, entry.median / 1e6, ratio, floor and floor / 1e3, share])
        table(["", "threads", "ms", f"speed of {THEIRS}'s", "floor ms", "floor's share"], rows)
        return report.exit_status()


def measure_floors(contest, case):
    """{threads: us of the products of a step, each by the fastest with at most this number of threads}."""
    floors = {}
    for count, product in products(case):
        progress(f"product {product.N} x {product.D} x {product.H}")
        entries = contest.measure(product)
        for threads in contest.options.threads:
            medians = [entry.median for entry in entries if entry.worker.threads <= threads]
            if medians:
                floors[threads] = floors.get(threads, 0) + count * min(medians) / 1e3
    return floors


if __name__ == "__main__":
    sys.exit(main())
