"""What was measured, as tables and as a JSON file."""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys

from harness import environment

import cgru
from cgru import kernels


class Cell:
    """What a cell's entries say: ours, the peers, and the ratio. Times in microseconds."""

    def __init__(self, case, entries):
        self.case, self.entries = case, entries

    def best(self, label=None, threads=None, ours=None):
        """The fastest entry, of all that a label, a number of threads and a side (ours or theirs) leave."""
        left = [
            entry
            for entry in self.entries
            if label in (None, entry.label)
            and threads in (None, entry.worker.threads)
            and ours in (None, entry.worker.ours)
        ]
        return min(left, key=lambda entry: entry.median, default=None)

    def ratio(self, threads=None):
        """Best peer's median over ours; None where one of the two is missing."""
        ours, theirs = self.best(threads=threads, ours=True), self.best(threads=threads, ours=False)
        return theirs.median / ours.median if ours and theirs else None

    @property
    def gflops(self):
        """Operations of the products over our time."""
        ours = self.best(ours=True)
        return self.case.flops / ours.median if ours else None

    def row(self, labels, threads):
        """Cells of a table: ours, the best peer, the ratio, the ratios thread by thread, and each peer."""
        ours, theirs = self.best(ours=True), self.best(ours=False)
        return [
            ours and ours.median / 1e3,
            ours and ours.worker.threads,
            self.gflops,
            theirs and theirs.median / 1e3,
            f"{theirs.label}/{theirs.worker.threads}" if theirs else None,
            _times(self.ratio()),
            *(_times(self.ratio(n)) for n in threads),
            *((entry := self.best(label)) and entry.median / 1e3 for label in labels),
        ]

    def as_dict(self):
        return {
            "case": self.case.as_dict(),
            "ratio": self.ratio(),
            "gflops": self.gflops,
            "entries": [
                {
                    "label": entry.label,
                    "contestant": entry.worker.name,
                    "threads": entry.worker.threads,
                    "median_us": entry.median / 1e3,
                    "rounds_us": [ns / 1e3 for ns in entry.rounds],
                    "difference": entry.difference,
                }
                for entry in self.entries
            ],
        }


def header(labels, threads):
    """The titles of `Cell.row`."""
    return ["us", "threads", "GFLOP/s", "best peer", "who/threads", "ratio", *(f"{n}t" for n in threads), *labels]


def compare(contest, report, section, cases, variants=None, peak=None):
    """Measure cases, print their table and the summary, put them into the report.

    Parameters
    ----------
    section : str
        The name of these results in the report.
    cases : dict name -> Case
        The name opens the row.
    variants : dict, optional
        As `Contest.measure` takes it.
    peak : float, optional
        The machine's best GFLOP/s in a product; with it each row says how much of that ours reaches.

    Returns
    -------
    list of Cell
    """
    threads, cells = contest.options.threads, []
    for name, case in cases.items():
        progress(f"{name} {case.mode}")
        cells.append(Cell(case, contest.measure(case, variants)))
        report.add(section, [cell.as_dict() for cell in cells])
    met = {entry.label for cell in cells for entry in cell.entries}
    labels = [label for label in variants or dict.fromkeys(worker.name for worker in contest.workers) if label in met]
    labels = [label for label in labels if label != "cgru"]
    titles, rows = ["N,T,D,H", *header(labels, threads)], []
    for name, cell in zip(cases, cells, strict=True):
        rows.append([name, *cell.row(labels, threads)])
        if peak:
            rows[-1].insert(4, cell.gflops and f"{100 * cell.gflops / peak:.0f}%")
    if peak:
        titles.insert(4, "of sgemm")
    table(titles, rows)
    print(summary(cells))
    for count in threads if len(threads) > 1 else ():
        print(summary(cells, count))
    print(flush=True)
    return cells


def summary(cells, threads=None):
    """Geometric mean of the ratios, and the least of them, as a line of text."""
    ratios = [(ratio, cell.case.size) for cell in cells if (ratio := cell.ratio(threads)) is not None]
    if not ratios:
        return "no ratios: no peers"
    mean = statistics.geometric_mean(ratio for ratio, _ in ratios)
    least, where = min(ratios)
    of = "" if threads is None else f" with {threads} thread{'s' * (threads > 1)} each"
    return f"ratio{of}: geometric mean {mean:.2f}, least {least:.2f} at {where}; {len(ratios)} cells"


def _times(ratio):
    return None if ratio is None else f"{ratio:.2f}"


def table(titles, rows):
    """Aligned text; numbers with three or four digits, None as a dash."""

    def text(value):
        if value is None:
            return "-"
        if not isinstance(value, float):
            return str(value)
        decimals = 2 - math.floor(math.log10(abs(value))) if 0 < abs(value) < 100 else 0
        return f"{value:.{decimals}f}"

    lines = [titles, *([text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip())


class Record:
    """The conditions of a run: printed on top of the tables, and beside the results in the JSON file that the options
    may name. Alone it is for scripts that measure cgru in their own process."""

    def __init__(self, script, options):
        self.options, self.results = options, {}
        self.conditions = {
            "script": pathlib.Path(script).name,
            "options": {name: value for name, value in vars(options).items() if not callable(value)},
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "cpu": cpu_model(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
        }

    def print_conditions(self):
        conditions = self.conditions
        print(f"{conditions['cpu']}, {conditions['cpus']} CPUs; commit {conditions['commit']}; {conditions['date']}")
        names = ("numpy", "scipy", *(name for name in ("torch",) if name in sys.modules))
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        cgrus = f"cgru {cgru.__version__}, {kernels.isa} kernels, threads: {cgru.get_num_threads()}"
        conditions["versions"] = f"{cgrus}; python {platform.python_version()}, {versions}"
        print(f"  {conditions['versions']}\n")

    @property
    def everything(self):
        return self.conditions | {"results": self.results}

    def add(self, section, results):
        """Put results under a name, and write the JSON file if one is wanted: an interrupted run leaves what it has."""
        self.results[section] = results
        if self.options.json:
            path = pathlib.Path(self.options.json)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.everything, indent=1) + "\n")


class Report(Record):
    """The record of a contest."""

    def __init__(self, contest, script):
        options = contest.options
        super().__init__(script, options)
        self.contest = contest
        shown = ("CGRU_", "OPENBLAS_", "OMP_", "MKL_", "ATEN_", "ONEDNN_", "XLA_", "LD_PRELOAD")
        variables = sorted(environment(max(options.threads), options).items())
        self.conditions["environment"] = {name: value for name, value in variables if name.startswith(shown)}
        self.conditions["workers"] = {f"{worker.name}/{worker.threads}": worker.hello for worker in contest.workers}

    def print_conditions(self):
        conditions, workers = self.conditions, self.contest.workers
        print(f"{conditions['cpu']}, {conditions['cpus']} CPUs; commit {conditions['commit']}; {conditions['date']}")
        for worker in workers:
            if worker.threads == max(self.options.threads):
                versions = " ".join(f"{name} {version}" for name, version in worker.hello["versions"].items())
                named = ("internal_api", "version", "architecture")
                pools = {" ".join(pool[key] for key in named if pool.get(key)) for pool in worker.hello["pools"]}
                print(f"  {worker.name}: {versions}; pools: {', '.join(sorted(pools))}")
        coretype = conditions["environment"].get("OPENBLAS_CORETYPE", "not set")
        print(f"  OPENBLAS_CORETYPE in the workers: {coretype}")
        hidden = self.options.avx2 or self.options.preload
        if hidden and any(worker.hello["avx512"] for worker in workers):
            print("  AVX-512 is NOT hidden from the workers: libraries that take no orders may use it")
        print()

    @property
    def everything(self):
        return super().everything | {"failures": self.contest.failures}

    def exit_status(self):
        """0 if nothing failed; what failed is said once more."""
        for failure in self.contest.failures:
            print(f"FAILED: {failure}", file=sys.stderr)
        return 1 if self.contest.failures else 0


def commit():
    """The commit of the cgru that is measured, "+" if files have changed since; None outside a repository."""
    folder = importlib.util.find_spec("cgru").submodule_search_locations[0]

    def git(*arguments):
        found = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
        return found.stdout.strip() if found.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD")
    return head and head + ("+" if git("status", "--porcelain", "--", folder) else "")


def cpu_model():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def progress(text):
    print(f"... {text}", file=sys.stderr, flush=True)
