"""Memory of one call, time against the length of the sequence, time of the import, installed size.

* Growth: by how much the peak of a fresh process grows in its first call, weights and input being there; the result
  is part of it.
* Length: time of a step at N, D, H = 1, 16, 32 for sequences of 10^2 to 10^6 steps: it should be the same.
* Import: over `import numpy, scipy.linalg.cython_blas`, in fresh processes, alternated.

    python benchmarks/memory.py --peers torch,onnxruntime --json benchmarks/results/memory.json
"""

import pathlib
import statistics
import subprocess
import sys
from dataclasses import replace

from harness import Contest, add_case_options, environment, parse, parser, python_of
from report import Report, progress, table

from cgru.cli.case import Case

PEERS = ("numpy", "torch")
PARTS = ("growth", "length", "import")
GROWTH = (Case(64, 200, 256, 512, "training"), Case(64, 2000, 128, 256))
GROWTH_QUICK = (Case(8, 50, 32, 64, "training"), Case(8, 200, 32, 64))
LENGTHS = (10**2, 10**3, 10**4, 10**5, 10**6)
BASE = "numpy, scipy.linalg.cython_blas"
FOLDERS = {"jax": ("jax", "jaxlib"), "keras": ("keras", "tensorflow")}  # of a contestant, if not its name alone
MiB = 1 << 20


def main():
    made = parser(__doc__, PEERS, threads="2", rounds=7)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    add_case_options(made, "reset")
    options = parse(made)
    with Contest(options, ["cgru", *options.peers]) as contest:
        report = Report(contest, __file__)
        report.print_conditions()
        for part in options.parts:
            report.add(part, {"growth": growth, "length": length, "import": imports}[part](contest))
            print(flush=True)
        return report.exit_status()


def growth(contest):
    """Print and return the growth of fresh processes."""
    options, found = contest.options, []
    for case in GROWTH_QUICK if options.quick else GROWTH:
        case = replace(case, reset_after=options.reset == "after")
        progress(f"growth {case.size} {case.mode}")
        with Contest(options, dict.fromkeys(worker.name for worker in contest.workers)) as fresh:
            for entry, growth in fresh.growth(case):
                found.append({"case": case.as_dict(), "contestant": entry.label, "growth_MiB": growth / MiB})
            contest.failures += fresh.failures
    print(f"growth of the peak in a fresh process, MiB, reset {options.reset}")
    rows = [[Case(**row["case"]).size, row["case"]["mode"], row["contestant"], row["growth_MiB"]] for row in found]
    table(["N,T,D,H", "mode", "library", "MiB"], rows)
    return found


def length(contest):
    """Print and return our time for one step, for sequences of all lengths."""
    options, found = contest.options, []
    for mode in ("inference", "training"):
        for T in LENGTHS[:3] if options.quick else LENGTHS:
            progress(f"length {T} {mode}")
            case = Case(1, T, 16, 32, mode, options.reset == "after")
            for entry in contest.measure(case, {"cgru": ("cgru", {})}, check=T <= 10**4):
                found.append({"mode": mode, "T": T, "threads": entry.worker.threads, "step_ns": entry.median / T})
    print(f"time of one step, N, D, H = 1, 16, 32, reset {options.reset}")
    first = {(row["mode"], row["threads"]): row["step_ns"] for row in reversed(found)}
    rows = [[*row.values(), f"{row['step_ns'] / first[row['mode'], row['threads']]:.2f}"] for row in found]
    table(["mode", "T", "threads", "ns a step", f"of T={LENGTHS[0]}"], rows)
    return found


def imports(contest):
    """Print and return how long imports take and how large the packages are."""
    options, names = contest.options, list(dict.fromkeys(worker.name for worker in contest.workers))
    statements = {name: (python_of(name, options), name) for name in names} | {BASE: (python_of("cgru", options), BASE)}
    times = {name: [] for name in statements}
    for _ in range(1 + options.rounds):
        for name, (python, modules) in statements.items():
            code = f"import time; start = time.perf_counter(); import {modules}; print(time.perf_counter() - start)"
            times[name].append(1e3 * float(_run(python, code, options)))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first filled the caches
    found = []
    for name, ms in medians.items():
        size = None if name == BASE else _size(python_of(name, options), FOLDERS.get(name, (name,)), options) / MiB
        found.append({"import": name, "median_ms": ms, "above_base_ms": ms - medians[BASE], "folder_MiB": size})
    print(f"import in a fresh process, against {BASE}; size of the package's folders without what they depend on")
    table(["import", "ms", "above", "MiB"], [list(row.values()) for row in found])
    return found


def _size(python, packages, options):
    """Bytes of the packages' folders and the libraries beside them."""
    total = 0
    for package in packages:
        code = f"import importlib.util as u; print(u.find_spec({package!r}).submodule_search_locations[0])"
        folder = pathlib.Path(_run(python, code, options).strip())
        for part in (folder, folder.with_name(f"{package}.libs")):
            files = (path for path in part.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
            total += sum(path.stat().st_size for path in files)
    return total


def _run(python, code, options):
    """What a fresh process prints."""
    env = environment(max(options.threads), options)
    return subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
