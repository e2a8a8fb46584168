"""How our thread pool gets on with others: our call alone, after a pause, right after NumPy's threads worked, and NumPy
right after ours.

`run` is a call of the contestant, `matmul` a product 512^3 on NumPy's own threads, as many, in the same process: about
a millisecond with two. Each situation is compared with the same thing alone, and alone with one thread. Wanted: with
two threads a run after a pause or after a matmul takes no longer than one thread does, a matmul after a run at most
1.15 times as long as alone.

    python benchmarks/pools.py --mode training --peers torch --json benchmarks/results/pools.json
"""

import sys

from harness import Contest, add_case_options, parse, parser
from report import Report, progress, table

from cgru.cli.case import Case

SITUATIONS = {
    "run alone": {},
    "run after a pause of 20 ms": {"before": "pause"},
    "run after a matmul": {"before": "matmul"},
    "matmul alone": {"target": "matmul"},
    "matmul after a pause of 20 ms": {"target": "matmul", "before": "pause"},
    "matmul after a run": {"target": "matmul", "before": "run"},
}


def main():
    made = parser(__doc__, threads="2", rounds=5)
    made.add_argument("--mode", choices=("inference", "training"), default="inference")
    add_case_options(made, "cells", "reset")
    options = parse(made)
    options.threads = sorted({1, *options.threads})
    cells = options.cells or [(8, 20, 16, 32) if options.quick else (32, 100, 64, 128)]
    with Contest(options, ["cgru", *options.peers]) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        for cell in cells:
            case = Case(*cell, options.mode, options.reset == "after")
            medians = measure(contest, case)
            print(f"{case.size}, {options.mode}, reset {options.reset}; ms")
            rows = [[*key, ns / 1e6, *relative(medians, *key)] for key, ns in medians.items()]
            table(["library", "threads", "situation", "ms", "of alone", "of one thread"], rows)
            found = [
                {"contestant": name, "threads": count, "situation": situation, "median_us": ns / 1e3}
                for (name, count, situation), ns in medians.items()
            ]
            report.add(case.size, found)
        return report.exit_status()


def measure(contest, case):
    """Median in ns for each (contestant, threads, situation), in this order."""
    medians = {}
    for situation, burst in SITUATIONS.items():
        progress(situation)
        for entry in contest.measure(case, check=situation == "run alone", **burst):
            medians[entry.label, entry.worker.threads, situation] = entry.median
    return dict(sorted(medians.items(), key=lambda item: item[0][:2]))


def relative(medians, name, threads, situation):
    """The median over that of the same thing alone, and of the same thing with one thread alone; as text."""
    alone = f"{situation.split()[0]} alone"
    ns = medians[name, threads, situation]
    return [f"{ns / medians[name, count, alone]:.2f}" for count in (threads, 1)]


if __name__ == "__main__":
    sys.exit(main())
