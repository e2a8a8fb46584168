"""Sequences of mixed lengths: 64 rows of 10 to 200 steps, D=32, H=128, inference and training.

Each peer runs twice: told the lengths in its own way (packed sequences, sequence_lens, a mask), and on the padded
batch, lengths ignored ("padded"), which gives the same outputs and gradients where a row has steps.

    python benchmarks/mixed_lengths.py --reset before --json benchmarks/results/mixed_lengths.json
"""

import sys

from harness import Contest, add_case_options, parse, parser
from report import Report, compare

from cgru.cli.case import Case

PEERS = ("numpy", "torch", "onnxruntime", "openvino", "jax", "keras")


def main():
    made = parser(__doc__, PEERS)
    made.add_argument("--mode", choices=("inference", "training", "both"), default="both", help="(default: both)")
    add_case_options(made, "reset", "layout")
    options = parse(made)
    if options.quick:
        options.rounds = 1
    modes = ("inference", "training") if options.mode == "both" else (options.mode,)
    variants = {"cgru": ("cgru", {})}
    for name in options.peers:
        variants |= {name: (name, {}), f"{name} padded": (name, {"padded": True})}
    with Contest(options, ["cgru", *options.peers]) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        for mode in modes:
            T = 40 if options.quick else 200
            form = {"reset_after": options.reset == "after", "layout": options.layout}
            case = Case(64, T, 32, 128, mode, shortest=10, **form)
            print(f"{mode}, lengths 10 to {T}, reset {options.reset}, {options.layout}-major, float32")
            compare(contest, report, mode, {case.size: case}, variants)
        return report.exit_status()


if __name__ == "__main__":
    sys.exit(main())
