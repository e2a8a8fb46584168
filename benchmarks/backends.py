"""The two backends, our kernels and BLAS: one layer over a grid of sizes, inference and training.

The ratio is the time of BLAS over that of our kernels with as many threads: below 1, BLAS is faster.

    python benchmarks/backends.py --reset before --json benchmarks/results/backends.json
"""

import sys

import inference
from harness import Contest, add_case_options, parse, parser
from report import Cell, Report, progress, table

from cgru.cli.case import Case

NATIVE, BLAS = "cgru", "cgru.blas"
GRID = tuple(dict.fromkeys((*inference.GRID, (96, 25, 300, 640), (256, 20, 128, 256))))
MARGIN = 1.05  # of BLAS's time: where ours is longer, our kernels have something to learn


def main():
    made = parser(__doc__, rounds=5)
    made.add_argument("--mode", choices=("inference", "training", "both"), default="both", help="(default: both)")
    add_case_options(made, "cells", "reset", "layout")
    options = parse(made)
    sizes = options.cells or (inference.QUICK if options.quick else GRID)
    modes = ("inference", "training") if options.mode == "both" else (options.mode,)
    with Contest(options, [NATIVE, BLAS]) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        for mode in modes:
            cells = []
            for size in sizes:
                case = Case(*size, mode, options.reset == "after", options.layout)
                progress(f"{case.size} {mode}")
                cells.append(Cell(case, contest.measure(case)))
                report.add(mode, [cell.as_dict() for cell in cells])
            print(f"{mode}, reset {options.reset}, {options.layout}-major, float32")
            show(cells, options.threads)
        return report.exit_status()


def show(cells, threads):
    """Print times and ratios, and where BLAS is ahead."""
    rows, ahead = [], []
    for cell in cells:
        row = [cell.case.size]
        for count in threads:
            ours, blas = cell.best(NATIVE, count), cell.best(BLAS, count)
            ratio = blas.median / ours.median if ours and blas else None
            row += [ours and ours.median / 1e3, blas and blas.median / 1e3, ratio and f"{ratio:.2f}"]
            if ratio is not None and ratio * MARGIN < 1:
                ahead.append(f"{cell.case.size} with {count}")
        rows.append(row)
    titles = [f"{title} {count}t" for count in threads for title in ("native us", "blas us", "ratio")]
    table(["N,T,D,H", *titles], rows)
    print(f"BLAS ahead by more than 5 %: {', '.join(ahead) or 'nowhere'}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
