"""Two layers, both directions, outputs concatenated: 32,100,64,128, inference and training.

The ratio is as in inference.py.

    python benchmarks/stacked.py --reset before --json benchmarks/results/stacked.json
"""

import sys

from harness import Contest, add_case_options, parse, parser
from report import Report, compare

from cgru.cli.case import Case

PEERS = ("numpy", "torch", "onnxruntime", "openvino", "jax", "keras")
GRID = ((32, 100, 64, 128),)
QUICK = ((4, 20, 8, 16),)


def main(doc=__doc__, peers=PEERS, **form):
    """Inference and training of one form over a few cells."""
    form = form or {"layers": 2, "bidirectional": True}
    made = parser(doc, peers)
    add_case_options(made, "cells", "reset", "layout")
    options = parse(made)
    form |= {"reset_after": options.reset == "after", "layout": options.layout}
    with Contest(options, ["cgru", *options.peers]) as contest:
        report = Report(contest, sys.argv[0])
        report.print_conditions()
        for mode in ("inference", "training"):
            sizes = options.cells or (QUICK if options.quick else GRID)
            cases = {case.size: case for size in sizes for case in [Case(*size, mode, **form)]}
            print(f"{mode}, {', '.join(f'{name} {value}' for name, value in form.items())}")
            compare(contest, report, mode, cases)
        return report.exit_status()


if __name__ == "__main__":
    sys.exit(main())
