"""What the scripts share: their options, and the contest (cgru/cli/contest.py) with every peer there is."""

import argparse
import os
import pathlib
import sys

import models
from peers import CONTESTANTS

from cgru.cli import contest
from cgru.cli.contest import THREADS, MissingError, Process, WorkerError

HERE = pathlib.Path(__file__).parent
HOPELESS = 2.0  # a peer this many times slower than the best one, after two rounds, sits out the others
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of large cells

# AVX2 at most, in each library's own language
AVX2 = {
    "CGRU_ISA": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
QUIET = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}


# -- the command line


def parser(doc, peers=(), threads="1,2", rounds=7, seconds=0.2):
    """An ArgumentParser with the options that all scripts share.

    Parameters
    ----------
    doc : str
        The script's docstring.
    peers : sequence of str
        Contestants beside cgru.
    threads, rounds, seconds
        Defaults.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="fewer cells and rounds: does it run? The figures are rough")
    made.add_argument("--json", metavar="FILE", help="write everything that was measured, with versions and machine")
    made.add_argument("--avx2", action="store_true", help="hold every library to AVX2, where it takes orders")
    made.add_argument("--preload", metavar="LIBRARY", help="LD_PRELOAD for the workers (one that hides AVX-512, say)")
    made.add_argument(
        "--keep-blas-env", action="store_true",
        help="leave OPENBLAS_* variables to the workers; otherwise BLAS chooses its kernels itself",
    )  # fmt: skip
    made.add_argument(
        "--python", action="append", default=[], metavar="[NAME=]PATH", type=_python,
        help="the Python that runs contestant NAME, or every one that is not named (default: this one); repeatable",
    )  # fmt: skip
    default = ",".join(peers) or "none"
    made.add_argument("--peers", type=_names, default=default, metavar="A,B", help=f"or none (default: {default})")
    made.add_argument("--threads", type=_integers, metavar="N,M", help=f"default: {threads}, the first if quick")
    made.set_defaults(all_threads=_integers(threads))
    made.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    made.add_argument("--seconds", type=float, default=seconds, help=f"of one burst (default: {seconds})")
    return made


def add_case_options(made, *options):
    """Add --cells, --reset, --layout to a parser, those that are asked for."""
    if "cells" in options:
        made.add_argument("--cells", nargs="+", type=_cell, metavar="N,T,D,H", help="instead of the grid")
    if "reset" in options:
        made.add_argument("--reset", choices=("after", "before"), default="after", help="reset mode (default: after)")
    if "layout" in options:
        made.add_argument("--layout", choices=("batch", "time"), default="batch", help="major axis (default: batch)")


def parse(made, argv=None):
    """The parsed arguments, with the short form's rounds and seconds if asked for."""
    options = made.parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = 2, 0.03
    if options.threads is None:
        options.threads = options.all_threads[:1] if options.quick else options.all_threads
    return options


def _integers(text):
    return [int(part) for part in text.split(",")]


def _names(text):
    names = [] if text in ("", "none") else text.split(",")
    for name in names:
        if name not in CONTESTANTS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(CONTESTANTS)}, got {name!r}")
    return [name for name in names if name != "cgru"]


def _cell(text):
    cell = tuple(_integers(text))
    if len(cell) != 4:
        raise argparse.ArgumentTypeError(f"expected N,T,D,H, got {text!r}")
    return cell


def _python(text):
    name, equals, path = text.partition("=")
    return (name, path) if equals else (None, text)


# -- processes


def python_of(name, options):
    """The Python that runs a contestant."""
    pythons = dict(options.python)
    return pythons.get(name) or pythons.get(None) or sys.executable


def environment(threads, options):
    """The environment of a worker."""
    kept = {
        name: value for name, value in os.environ.items() if options.keep_blas_env or not name.startswith("OPENBLAS_")
    }
    kept |= QUIET | dict.fromkeys(THREADS, str(threads))
    if options.avx2:
        kept |= AVX2
    if threads == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        kept["XLA_FLAGS"] = f"{kept.get('XLA_FLAGS', '')} {flags}".strip()
    if options.preload:
        kept["LD_PRELOAD"] = os.path.abspath(options.preload)
    return kept


class Contest(contest.Contest):
    """A contest of these contestants, with the numbers of threads of the options; what fails is printed and kept.

    Parameters
    ----------
    options : argparse.Namespace
        From `parse`.
    names : sequence of str
        The contestants.
    """

    contestants = CONTESTANTS
    draw = staticmethod(models.draw)

    def __init__(self, options, names):
        workers = [_process(name, threads, options) for name in names for threads in options.threads]
        super().__init__(workers, options.rounds, options.seconds, TOLERANCE, hopeless=HOPELESS)
        self.options, self.failures = options, []
        for worker in workers:
            try:
                worker.hello  # noqa: B018
            except WorkerError as error:
                if worker.name == "cgru":
                    self.__exit__()
                    sys.exit(f"cgru does not start: {error}\n{error.details}")
                if isinstance(error, MissingError):
                    print(f"not installed: {worker.name}: {error}", file=sys.stderr)
                else:
                    self.failed(worker, error, None)
                self.drop(worker)

    def failed(self, worker, error, case):
        what = f"{worker.name}/{worker.threads}" + (f" at {case.mode} {case.size}" if case else "") + f": {error}"
        print(f"FAILED: {what}\n{error.details}", file=sys.stderr, flush=True)
        self.failures.append(what)

    def growth(self, case):
        """[(Entry, bytes by which its process grew)], to be asked first thing in a contest."""
        entries = self.prepare(case, check=False)
        found = [(entry, self.ask(entry.worker, case, "memory", key=entry.key)) for entry in entries]
        return [(entry, growth) for entry, growth in found if growth is not None]


def _process(name, threads, options):
    python = python_of(name, options)
    return Process(
        name, threads, "worker", environment(threads, options), python if python != sys.executable else None, HERE
    )
