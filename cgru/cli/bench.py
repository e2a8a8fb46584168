"""`cgru bench`: a short benchmark against the NumPy reference and the peers that are installed.

Contest and times are those of benchmarks/, which has more peers, sizes and forms. A contestant that fails is out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys

import cgru
from cgru import kernels, plot
from cgru.cli.case import Case
from cgru.cli.contest import Contest, Process
from cgru.cli.contestants import CONTESTANTS
from cgru.writing import check_writable

ROUNDS, SECONDS = 5, 0.05  # SECONDS: of one contestant's calls in one round
LONGEST = 2.5  # s after which a cell has no further round
TOLERANCE = 1e-5  # largest difference from the reference, in units of the largest value

CELLS = (
    Case(1, 1, 32, 32),
    Case(1, 100, 64, 128),
    Case(32, 100, 64, 128),
    Case(128, 30, 39, 64),
    Case(32, 100, 64, 128, "training"),
    Case(32, 29, 12, 64, "training"),
    Case(1, 10, 64, 64, "step"),
)


def run(threads: int | None = None, json_file: str | None = None, plot_file: str | None = None) -> bool:
    """Measure all cells, print a table and write the files that are asked for.

    Parameters
    ----------
    threads : int, optional
        Of every contestant; default: `cgru.get_num_threads()`.
    json_file, plot_file : str, optional
        Where all figures, and a picture of them, go.

    Returns
    -------
    bool
        Whether cgru ran and its results agree with the reference.

    Raises
    ------
    ImportError, ValueError, OSError
        If a file cannot be drawn or written; before anything is measured.
    """
    if plot_file is not None:
        plot.check_file(plot_file)
    if json_file is not None:
        check_writable(json_file)
    found = _measure(cgru.get_num_threads() if threads is None else threads)
    _print(found)
    if json_file is not None:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        print(f"figures  {json_file}")
    if plot_file is not None:
        plot.draw_times(found["cells"], _machine(found).replace("; ", "\n"), plot_file)
        print(f"plot     {plot_file}")
    return "cgru" not in found["failures"]


class _Bench(Contest):
    """Keeps what failed, shows how far it is."""

    def __init__(self, workers, progress):
        super().__init__(workers, ROUNDS, SECONDS, {"float32": TOLERANCE}, LONGEST)
        self.failures, self.round_done = {}, progress.round

    def failed(self, worker, error, case):
        self.failures[worker.name] = f"{_title(case)}: {error}"
        self.drop(worker)


def _measure(threads):
    """Return everything found, as JSON has it."""
    lacking = {name: _lacking(name) for name in CONTESTANTS}
    present = [name for name in CONTESTANTS if not lacking[name]]
    cells, load = [], os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with contextlib.closing(_progress()) as progress:
        with _Bench([Process(name, threads) for name in present], progress) as contest:
            for case in CELLS:
                progress.cell(case)
                cells.append(_figures(case, contest.measure(case)))
            failures = contest.failures
    versions = {name: importlib.metadata.version(name) for name in present if name != "cgru"}
    return {
        "versions": {"python": platform.python_version(), "cgru": cgru.__version__} | versions,
        "missing": {name: packages for name, packages in lacking.items() if packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "isa": kernels.isa,
        "backend": cgru.get_backend(),
        "threads": threads,
        "load": load,
        "failures": failures,
        "cells": cells,
    }


def _lacking(name):
    """The packages that a contestant needs and that are not installed."""
    return [package for package in CONTESTANTS[name].packages if importlib.util.find_spec(package) is None]


def _title(case):
    return f"{case.mode} {case.size}"


def _figures(case, entries):
    """What JSON says of a case."""
    rounds = {entry.label: [ns / 1e3 for ns in entry.rounds] for entry in entries}
    times = {name: statistics.median(medians) for name, medians in rounds.items()}
    theirs = [value for name, value in times.items() if name != "cgru"]
    return {
        "cell": _title(case),
        **{name: getattr(case, name) for name in ("mode", "N", "T", "D", "H")},
        "microseconds": times,
        "ratio": min(theirs) / times["cgru"] if theirs and "cgru" in times else None,
        "rounds": rounds,
        "differences": {entry.label: entry.difference for entry in entries},
    }


class _Lines:
    """Progress as a line a cell."""

    def cell(self, case):
        print(f"cell {CELLS.index(case) + 1}/{len(CELLS)}  {_title(case)}", file=sys.stderr, flush=True)

    def round(self):
        pass

    close = round


class _Bar:
    """Progress as tqdm's bar over all rounds."""

    def __init__(self, tqdm):
        self._bar = tqdm(total=len(CELLS) * ROUNDS, unit="round", file=sys.stderr)
        self.round, self.close = self._bar.update, self._bar.close

    def cell(self, case):
        self._bar.set_description_str(f"{_title(case):<24}")


def _progress():
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines()
    return _Bar(tqdm)


def _machine(found):
    """One line for the table and the picture."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{versions}; {found['machine']}, {found['isa']} kernels, threads: {found['threads']}"


def _print(found):
    names = [name for name in CONTESTANTS if any(name in cell["microseconds"] for cell in found["cells"])]
    print(f"{_machine(found)}\nfloat32, reset_after=True, microseconds a call")
    print("numpy is cgru/reference.py, its step written in place\n")
    print(f"{'N,T,D,H':<25}" + "".join(f"{name:>13}" for name in names) + "   best peer / cgru")
    ratios = []
    for cell in found["cells"]:
        times, ratio = cell["microseconds"], cell["ratio"]
        row = "".join(f"{times[name]:>13,.1f}" if name in times else f"{'-':>13}" for name in names)
        print(f"{cell['cell']:<25}{row}{'-' if ratio is None else f'{ratio:.2f}':>19}")
        ratios += [] if ratio is None else [ratio]
    if ratios:
        print(f"{'geometric mean':<25}{'':>{13 * len(names)}}{statistics.geometric_mean(ratios):>19.2f}")
    print()
    if found["load"] is not None and found["load"] > 0.5:
        print(f"load average {found['load']:.1f} before the start: others ran too, which slows some more than others")
    for name, lacking in found["missing"].items():
        print(f"without {name}: {' and '.join(lacking)} not installed")
    for name, failure in found["failures"].items():
        print(f"{name} FAILED at {failure}", file=sys.stderr)
