"""How the benchmarks measure: every contestant in a process of its own, the processes taking turns.

Threads of two libraries in one process disturb each other, and two processes running at once do too. So each library
with each number of threads is one worker (worker.py), and of all workers one runs at a time: for each cell there are
several rounds, in each round each worker times its calls for a moment, in another order every round. A figure is the
median over the rounds of the medians within a round. Before that each worker's result is compared with the NumPy
reference in float64.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import json
import math
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from case import Case, draw
from peers import CONTESTANTS

HERE = pathlib.Path(__file__).parent
REST = 0.02  # s without processor time after which a worker is asleep: pools spin after work, OpenBLAS's for 45 ms
HOPELESS = 2.0  # a peer this many times slower than the best one, after two rounds, sits out the others

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
THREADS = ("CGRU_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC: XLA


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
    if importlib.util.find_spec("cgru") is None:
        made.error("cgru is not installed here, nor on PYTHONPATH")
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


class WorkerError(Exception):
    """What went wrong in a worker, with its traceback."""


class MissingError(WorkerError):
    """The worker's library is not installed."""


class Worker:
    """One contestant's process."""

    def __init__(self, name, threads, options):
        self.name, self.threads = name, threads
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [python_of(name, options), HERE / "worker.py"], env=environment(threads, options), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self._tell("start", name=name, threads=threads)
        self._started = None

    @property
    def ours(self):
        return self.name.partition(".")[0] == "cgru"

    @property
    def hello(self):
        """What the worker said of itself; waits until its library is imported."""
        if self._started is None:
            self._started = self._hear()
        return self._started

    def ask(self, operation, **arguments):
        """Return the worker's answer; WorkerError if it failed."""
        assert self.hello
        self._tell(operation, **arguments)
        return self._hear()

    def rest(self):
        """Wait until the worker's threads sleep, half a second at most."""
        before, tasks = None, pathlib.Path(f"/proc/{self._process.pid}/task")
        for _ in range(int(0.5 / REST)):
            used = [path.read_text() for path in tasks.glob("*/schedstat")]  # none where there is no such file
            if used == before:
                break
            before = used
            time.sleep(REST)

    def close(self):
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # the worker's loop ends
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _tell(self, operation, **arguments):
        with contextlib.suppress(BrokenPipeError):  # told by _hear
            self._process.stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
            self._process.stdin.flush()

    def _hear(self):
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise WorkerError(f"{self.name}: the process ended ({self._process.wait()})\n{self._errors.read()}")
        answer = json.loads(line)
        if "missing" in answer:
            raise MissingError(f"{self.name}: {answer['missing']}")
        if "error" in answer:
            raise WorkerError(f"{self.name}, {self.threads} threads: {answer['error']}\n{answer['traceback']}")
        return answer["result"]


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


# -- measuring


@dataclasses.dataclass
class Entry:
    """One contestant with one number of threads in one cell."""

    label: str
    worker: Worker
    case: Case
    key: int
    difference: float | None = None  # from the reference
    rounds: list = dataclasses.field(default_factory=list)  # median of each, ns
    times: list = dataclasses.field(default_factory=list)  # of single calls, where they were counted

    @property
    def median(self):
        return statistics.median(self.rounds)


class Contest:
    """The workers, and what is measured of them. A context manager: at its end the processes do.

    Parameters
    ----------
    options : argparse.Namespace
        From `parse`.
    names : sequence of str
        The contestants.
    """

    def __init__(self, options, names):
        self.options, self.failures, self._keys = options, [], 0
        self._folder = tempfile.TemporaryDirectory(prefix="cgru-benchmark-")
        self.workers = [Worker(name, threads, options) for name in names for threads in options.threads]
        for worker in list(self.workers):
            try:
                worker.hello  # noqa: B018
            except WorkerError as error:
                if worker.name == "cgru":
                    self.__exit__()
                    sys.exit(f"cgru does not start: {error}")
                if isinstance(error, MissingError):
                    print(f"not installed: {error}", file=sys.stderr)
                else:
                    self._fail(error)
                self._drop(worker)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in list(self.workers):
            self._drop(worker)
        self._folder.cleanup()

    def measure(self, case, variants=None, check=True, calls=None, **burst):
        """Time one cell; return its `Entry`s, those that failed or that cannot do it left out.

        Parameters
        ----------
        case : Case
        variants : dict label -> (contestant, dict of changes of the case), optional
            By default every contestant under its own name with the case as it is.
        check : bool
            Whether results are compared with the reference.
        calls : int, optional
            Calls in all rounds together, each time kept; otherwise bursts take `options.seconds`.
        burst
            What `Worker.burst` takes: before, target.
        """
        variants = variants or {worker.name: (worker.name, {}) for worker in self.workers}
        entries = self._prepare(case, variants, check)
        arguments = burst | {"seconds": self.options.seconds}
        if calls is not None:
            arguments["calls"] = math.ceil(calls / self.options.rounds)
        active = list(entries)
        for count in range(self.options.rounds):
            random.Random(count).shuffle(active)
            for entry in list(active):
                try:
                    answer = entry.worker.ask("burst", key=entry.key, **arguments)
                    entry.worker.rest()
                except WorkerError as error:
                    self._fail(error, case)
                    active.remove(entry)
                    entries.remove(entry)
                    continue
                entry.rounds.append(answer["median"])
                entry.times += answer["times"] or []
            if count == 1 and calls is None:
                active = [entry for entry in active if not _hopeless(entry, active)]
        for entry in entries:
            with contextlib.suppress(WorkerError):  # a dead worker says so when it is next asked for something
                entry.worker.ask("release", key=entry.key)
        return entries

    def growth(self, case):
        """[(Entry, bytes by which its process grew)], to be asked first thing in a contest."""
        found = []
        for entry in self._prepare(case, {worker.name: (worker.name, {}) for worker in self.workers}, check=False):
            try:
                found.append((entry, entry.worker.ask("memory", key=entry.key)))
            except WorkerError as error:
                self._fail(error, case)
        return found

    def _prepare(self, case, variants, check):
        """The entries of a cell, their callables made and checked."""
        arrays, expected = self._arrays(case, check)
        entries = []
        for label, (name, changes) in variants.items():
            changed = dataclasses.replace(case, **changes)
            if CONTESTANTS[name].refuses(changed):
                continue
            for worker in [worker for worker in self.workers if worker.name == name]:
                self._keys += 1
                entry = Entry(label, worker, changed, self._keys)
                try:
                    entry.difference = worker.ask(
                        "prepare", key=entry.key, case=changed.as_dict(), arrays=arrays, expected=expected
                    )
                except WorkerError as error:
                    self._fail(error, changed)
                else:
                    worker.rest()
                    entries.append(entry)
        return entries

    def _arrays(self, case, check):
        """Files of the case's arrays and of the reference's results, the latter None without `check`."""
        drawn = draw(case)
        files = [f"{self._folder.name}/arrays.npz", f"{self._folder.name}/expected.npz"]
        np.savez(files[0], **drawn)
        if not check:
            return files[0], None
        np.savez(files[1], **_expected(case, drawn))
        return files

    def _fail(self, error, case=None):
        where = f" at {case}" if case else ""
        print(f"FAILED{where}: {error}", file=sys.stderr, flush=True)
        self.failures.append(f"{str(error).splitlines()[0]}{where}")

    def _drop(self, worker):
        self.workers.remove(worker)
        worker.close()


def _expected(case, arrays):
    """Results of the NumPy reference in float64, batch-major."""
    exact = {name: array.astype(float) if array.dtype.kind == "f" else array for name, array in arrays.items()}
    changes = {"dtype": "float64", "layout": "batch"}
    if case.mode == "step":  # the same input at each step
        changes["mode"] = "inference"
        exact["x"] = np.repeat(exact["x"][:, :1], case.T, axis=1)
    run, results = CONTESTANTS["numpy"](1).prepare(dataclasses.replace(case, **changes), exact)
    found = results(run())
    return {"h": found["y"][:, -1]} if case.mode == "step" else found


def _hopeless(entry, entries):
    """Whether a peer cannot be the best one with its number of threads."""
    rivals = [e for e in entries if not e.worker.ours and e.worker.threads == entry.worker.threads]
    return entry in rivals and min(entry.rounds) > HOPELESS * min(min(e.rounds) for e in rivals)


# -- results


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


# -- the report


class Report:
    """The conditions of a run: printed on top of the tables, and beside the results in the JSON file."""

    def __init__(self, contest, script):
        options = contest.options
        self.contest, self.results = contest, {}
        self.conditions = {
            "script": pathlib.Path(script).name,
            "options": vars(options),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "cpu": cpu_model(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "environment": {
                name: value
                for name, value in sorted(environment(max(options.threads), options).items())
                if name.startswith(("CGRU_", "OPENBLAS_", "OMP_", "MKL_", "ATEN_", "ONEDNN_", "XLA_", "LD_PRELOAD"))
            },
            "workers": {f"{worker.name}/{worker.threads}": worker.hello for worker in contest.workers},
        }

    def print_conditions(self):
        conditions, workers = self.conditions, self.contest.workers
        print(f"{conditions['cpu']}, {conditions['cpus']} CPUs; commit {conditions['commit']}; {conditions['date']}")
        for worker in workers:
            if worker.threads == max(self.contest.options.threads):
                versions = " ".join(f"{name} {version}" for name, version in worker.hello["versions"].items())
                pools = {f"{pool['internal_api']} {pool.get('architecture') or ''}" for pool in worker.hello["pools"]}
                print(f"  {worker.name}: {versions}; pools: {', '.join(map(str.strip, sorted(pools)))}")
        coretype = conditions["environment"].get("OPENBLAS_CORETYPE", "not set")
        print(f"  OPENBLAS_CORETYPE in the workers: {coretype}")
        options = self.contest.options
        if (options.avx2 or options.preload) and any(worker.hello["avx512"] for worker in workers):
            print("  AVX-512 is NOT hidden from the workers: libraries that take no orders may use it")
        print()

    def add(self, section, results):
        """Put results under a name, and write the JSON file if one is wanted: an interrupted run leaves what it has."""
        self.results[section] = results
        if self.contest.options.json:
            path = pathlib.Path(self.contest.options.json)
            path.parent.mkdir(parents=True, exist_ok=True)
            everything = {**self.conditions, "results": self.results, "failures": self.contest.failures}
            path.write_text(json.dumps(everything, indent=1) + "\n")

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
