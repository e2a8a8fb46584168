"""The machine's best matrix product in float32: what NumPy and PyTorch reach, the roof over the large GRU cells.

inference.py and training.py print the best of it beside their tables.

    python benchmarks/gemm.py --threads 1,2
"""

import sys

from harness import Contest, parse, parser
from report import Report, progress, table

from cgru.cli.case import Case

SIZES = (1024, 2048, 4096)
PEERS = ("numpy", "torch")


def main():
    options = parse(parser(__doc__, PEERS, rounds=5))
    with Contest(options, options.peers) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        entries = measure(contest, SIZES[:1] if options.quick else SIZES)
        found = [
            {"size": entry.case.N, "contestant": entry.label, "threads": entry.worker.threads, "gflops": _gflops(entry)}
            for entry in entries
        ]
        report.add("gemm", found)
        rows = [[f"{row.pop('size')}^3", *row.values()] for row in found]
        table(["size", "library", "threads", "GFLOP/s"], rows)
        return report.exit_status()


def measure(contest, sizes):
    """The entries of square products of these sizes by the contestants that have products."""
    entries = []
    for size in sizes:
        progress(f"gemm {size}")
        entries += contest.measure(Case(size, 1, size, size, mode="gemm"))
    return entries


def peak(contest):
    """GFLOP/s of the best product that anyone in the contest reaches, None if nobody has one; printed."""
    entries = measure(contest, SIZES[:1] if contest.options.quick else SIZES[1:2])
    best = max(entries, key=_gflops, default=None)
    if best is None:
        return None
    print(f"best sgemm: {_gflops(best):.0f} GFLOP/s, {best.label}, {best.worker.threads} threads, {best.case.N}^3\n")
    return _gflops(best)


def _gflops(entry):
    return entry.case.flops / entry.median


if __name__ == "__main__":
    sys.exit(main())
