"""Every example of docs/examples runs by itself: python tests/docs/quick_runs.py [NAME...].

Each script that takes --quick runs with it in a process of its own, in an empty folder, with --json and --pictures
where it takes them. Its results have to be finite numbers, its pictures files, and it may take 20 s of processor time.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
SECONDS = 20.0  # of processor time, which other work on the machine does not change as it does the time of the clock


def takes(path):
    """Return those of the options here that a script says in its own words, or by `reporting.options`."""
    text = path.read_text()
    shared = "import reporting" in text or "from reporting import" in text
    return [name for name in ("--quick", "--json", "--pictures") if shared or f'"{name}"' in text]


def problems_of(report):
    """Return what is wrong with what an example wrote as JSON, a list of str."""
    results = report.get("results")
    if not results:
        return ["no results"]
    found = []
    for result in results:
        value = result["value"]
        if not isinstance(value, str) and not (isinstance(value, int | float) and math.isfinite(value)):
            found.append(f"{result['what']}: expected a finite number or a text, got {value!r}")
    return found


def run(path, options):
    """Run a script, and return (what is wrong, seconds of processor time)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "error::RuntimeWarning", str(path), "--quick"]
        report, pictures = Path(folder, "report.json"), Path(folder, "pictures")
        command += ["--json", str(report)] if "--json" in options else []
        command += ["--pictures", str(pictures)] if "--pictures" in options else []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=folder, env=os.environ | {"MPLBACKEND": "agg"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found = [f"ended with {done.returncode}"] if done.returncode else []
        if "--json" in options and not found:
            found += problems_of(json.loads(report.read_text())) if report.exists() else ["no JSON"]
        if seconds > SECONDS:
            found.append(f"took {seconds:.1f} s of processor time, more than {SECONDS:.0f}")
        return found, seconds


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of examples, without .py (default: all)")
    names = parser.parse_args(arguments).names
    paths = [FOLDER / f"{name}.py" for name in names] or sorted(FOLDER.glob("*.py"))
    rows = []
    for path in paths:
        options = takes(path)
        if "--quick" not in options or path.stem == "reporting":
            continue
        print(f"\n-- {path.name}", flush=True)
        begun = time.perf_counter()
        found, seconds = run(path, options)
        rows.append((path.stem, seconds, time.perf_counter() - begun, found))
    print(f"\n{'':28}{'CPU s':>8}{'s':>8}")
    for name, seconds, wall, found in rows:
        print(f"{name:28}{seconds:8.1f}{wall:8.1f}  {'; '.join(found) or 'ok'}")
    if not rows:
        print("no example takes --quick")
    return 1 if not rows or any(found for *_, found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
