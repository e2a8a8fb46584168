"""Streaming: one time step of one row a call, the state fed back; median and 99th percentile of single calls.

The clock's own cost is taken off. Peers: NumPy in place, ONNX Runtime, PyTorch's GRUCell (reset after only).

    python benchmarks/streaming.py --calls 20000 --json benchmarks/results/streaming.json
"""

import sys

import numpy as np
from harness import Contest, add_case_options, parse, parser
from report import Cell, Report, progress, summary, table

from cgru.cli.case import Case

SIZES = (16, 32, 64, 128, 256)
PEERS = ("numpy", "onnxruntime", "torch")


def main():
    made = parser(__doc__, PEERS, rounds=5)
    made.add_argument("--calls", type=int, default=20_000, help="of all rounds together (default: 20000)")
    made.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="H", help="D and H (default: 16 to 256)")
    add_case_options(made, "reset")
    options = parse(made)
    calls = 2000 if options.quick else options.calls
    with Contest(options, ["cgru", *options.peers]) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        rows, cells, results = [], [], []
        for size in options.sizes:
            progress(f"step {size}")
            case = Case(1, 8, size, size, mode="step", reset_after=options.reset == "after")
            cell = Cell(case, contest.measure(case, calls=calls))
            cells.append(cell)
            for entry in cell.entries:
                median, p99 = np.median(entry.times) / 1e3, np.percentile(entry.times, 99) / 1e3
                rows.append([f"{size}", entry.label, entry.worker.threads, median, p99, f"{p99 / median:.2f}"])
                found = {"median_us": median, "p99_us": p99, "calls": len(entry.times), "difference": entry.difference}
                key = {"size": size, "contestant": entry.label, "threads": entry.worker.threads}
                results.append(key | found)
            report.add("streaming", results)
        print(f"one step a call, N=1, D=H, reset {options.reset}, {calls} calls, us")
        table(["H", "library", "threads", "median", "p99", "p99/median"], rows)
        print(summary(cells))
        return report.exit_status()


if __name__ == "__main__":
    sys.exit(main())
