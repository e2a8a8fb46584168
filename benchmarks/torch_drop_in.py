"""PyTorch models before and after `cgru.torch.replace_gru`.

First steps of training a small model on the Japanese Vowels recordings: 30 recordings of 7 to 29 frames go through a
GRU, a linear layer on its final state, cross-entropy and Adam; the time is that of the whole step. Then forward and
backward of a layer for packed sequences of growing length (16 rows of T/2 to T steps, D=32, H=64): PyTorch adds up a
gradient of full size at every step, so its time grows with the square of T. Then calls of few time steps, where packing
weights does not pay: from which T on the kernels serve (cgru/torch/weights.py).

    python benchmarks/torch_drop_in.py --json benchmarks/results/torch_drop_in.json
"""

import sys

import numpy as np
from harness import Contest, parse, parser
from report import Cell, Report, progress, table

from cgru.cli.case import Case

OURS, THEIRS = "cgru.torch", "torch"
MODELS = {
    "1 layer of 64, padded": Case(30, 29, 12, 64, "recordings", shortest=7, padded=True),
    "1 layer of 64, packed": Case(30, 29, 12, 64, "recordings", shortest=7),
    "1 layer of 256, packed": Case(30, 29, 12, 256, "recordings", shortest=7),
    "2 layers of 128, both directions, packed": Case(
        30, 29, 12, 128, "recordings", layers=2, bidirectional=True, shortest=7
    ),
}
STEPS = (100, 200, 400, 800, 1600)
QUICK_STEPS = (25, 50)
SHORT = {
    f"N={N} T={T} H={H}": Case(N, T, H, H, "inference") for H in (32, 256) for N in (1, 16) for T in (1, 2, 4, 8, 16)
}


def main():
    made = parser(__doc__, rounds=5)
    made.add_argument("--part", choices=("models", "packed", "short", "all"), default="all", help="(default: all)")
    options = parse(made)
    steps = QUICK_STEPS if options.quick else STEPS
    packed = {f"T={T}": Case(16, T, 32, 64, "training", shortest=T // 2) for T in steps}
    with Contest(options, [THEIRS, OURS]) as contest:
        if len(contest.workers) < 2 * len(options.threads):
            return "torch and cgru are both needed"
        report = Report(contest, __file__)
        report.print_conditions()
        if options.part in ("models", "all"):
            print("a step of training")
            compare(contest, report, "models", MODELS)
        if options.part in ("short", "all"):
            print("calls of few time steps")
            compare(contest, report, "short", SHORT)
        if options.part in ("packed", "all"):
            print("forward and backward of packed sequences")
            cells = compare(contest, report, "packed", packed)
            for label in (THEIRS, OURS):
                exponents = ", ".join(f"{growth(cells, label, n):.2f} ({n}t)" for n in options.threads)
                print(f"{label}: time grows as T to the power of {exponents}")
        return report.exit_status()


def compare(contest, report, section, cases):
    """Measure cases and print their table; return their `Cell`s."""
    cells = []
    for name, case in cases.items():
        progress(name)
        cells.append(Cell(case, contest.measure(case)))
        report.add(section, [cell.as_dict() for cell in cells])
    rows = []
    for name, cell in zip(cases, cells, strict=True):
        for threads in contest.options.threads:
            found = [cell.best(label, threads) for label in (THEIRS, OURS)]
            times = [entry and entry.median / 1e3 for entry in found]
            ratio = cell.ratio(threads)
            rows.append([name, threads, *times, ratio and f"{ratio:.2f}"])
    table(["", "threads", f"{THEIRS} us", f"{OURS} us", "ratio"], rows)
    print(flush=True)
    return cells


def growth(cells, label, threads):
    """The exponent of T in the time, by least squares over the upper half of the lengths."""
    upper = cells[-max(2, (len(cells) + 1) // 2) :]
    return np.polyfit(*np.log([(cell.case.T, cell.best(label, threads).median) for cell in upper]).T, 1)[0]


if __name__ == "__main__":
    sys.exit(main())
