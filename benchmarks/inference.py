"""Inference of one GRU layer against every peer that is installed: outputs of all steps, over the grid of sizes.

The ratio is the best peer's median over ours, each at its better number of threads; then with equal numbers.

    python benchmarks/inference.py --reset before --layout time --json benchmarks/results/inference.json
    python benchmarks/inference.py --cells 1,100,64,128 32,100,64,128 --peers torch,openvino
"""

import sys

import gemm
from harness import Contest, add_case_options, parse, parser
from report import Report, compare

from cgru.cli.case import Case

GRID = (
    (1, 100, 13, 20), (1, 1000, 40, 64), (1, 1, 32, 32), (1, 1, 64, 256), (1, 100, 16, 32), (1, 100, 64, 128),
    (1, 100, 128, 256), (1, 100, 256, 512), (1, 100, 512, 1024), (8, 100, 64, 128), (32, 100, 64, 128),
    (32, 100, 256, 256), (64, 50, 256, 512), (64, 50, 512, 1024), (128, 30, 39, 64), (256, 20, 1, 32), (32, 29, 12, 64),
)  # fmt: skip
QUICK = ((1, 1, 32, 32), (32, 29, 12, 64))
PEERS = ("numpy", "torch", "onnxruntime", "openvino", "jax", "keras")


def main(doc=__doc__, mode="inference", grid=GRID, quick=QUICK, peers=PEERS):
    made = parser(doc, peers)
    add_case_options(made, "cells", "reset", "layout")
    options = parse(made)
    sizes = options.cells or (quick if options.quick else grid)
    form = {"mode": mode, "reset_after": options.reset == "after", "layout": options.layout}
    cases = {case.size: case for size in sizes for case in [Case(*size, **form)]}
    with Contest(options, ["cgru", *options.peers]) as contest:
        report = Report(contest, sys.argv[0])
        report.print_conditions()
        peak = gemm.peak(contest)
        report.add("sgemm_gflops", peak)
        print(f"{mode}, reset {options.reset}, {options.layout}-major, float32")
        compare(contest, report, mode, cases, peak=peak)
        return report.exit_status()


if __name__ == "__main__":
    sys.exit(main())
