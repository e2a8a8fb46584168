"""The command `cgru`: `cgru demo` trains a GRU on real recordings and checks it, `cgru bench` measures against others,
`cgru info` says what runs here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (default: those of the process) and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return 0 if arguments.run(arguments) else 1
    except KeyboardInterrupt:
        print("\ncgru: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError) as error:
        print(f"cgru {arguments.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from cgru._version import __version__
    from cgru.cli import bench, demo, info

    parser = argparse.ArgumentParser(prog="cgru", description="A compiled GRU for the CPU.")
    parser.add_argument("--version", action="version", version=f"cgru {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="train a GRU classifier on real recordings and compare it with NumPy")
    command.add_argument("--seed", type=_integer(0), default=0, help="seed of everything that is random (default: 0)")
    command.add_argument("--epochs", type=_integer(1), default=60, help="passes over the training data (default: 60)")
    _add_file(command, "--plot", "cgru-demo.png", "draw training and confusion matrix (needs matplotlib)")
    command.set_defaults(run=lambda given: demo.run(given.seed, given.epochs, given.plot))
    command = commands.add_parser(
        "bench", help="measure against NumPy, PyTorch and ONNX Runtime",
        description="Measure inference, training and streaming (one step a call), float32 with reset_after=True, "
        "against the NumPy reference and those of PyTorch (torch) and ONNX Runtime (onnxruntime and onnx) that are "
        "installed; half a minute or less. Each contestant runs in a process of its own, in turn, and is compared with "
        "the reference before it is timed. The exit status is 1 if cgru's results are wrong.",
    )  # fmt: skip
    command.add_argument(
        "--threads", type=_integer(1), metavar="N", help="of each contestant (default: what cgru would use)"
    )
    _add_file(command, "--json", "cgru-bench.json", "write all figures, with versions and machine")
    _add_file(command, "--plot", "cgru-bench.png", "draw the times (needs matplotlib)")
    command.set_defaults(run=lambda given: bench.run(given.threads, given.json, given.plot))
    command = commands.add_parser("info", help="print versions, instruction set, routes, BLAS and threads")
    command.set_defaults(run=lambda given: info.run())
    return parser


def _add_file(command: argparse.ArgumentParser, option: str, default: str, what: str) -> None:
    command.add_argument(option, nargs="?", const=default, metavar="FILE", help=f"{what}; without a name: {default}")


def _integer(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected at least {minimum}, got {value}")
        return value

    return integer
