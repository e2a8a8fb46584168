"""What the examples share: the command line, results beside those that others published, JSON, pictures."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

import cgru

SHIPPED = Path(__file__).parent / "data"  # what comes with the examples


def options(text, data=None, more=(), arguments=None):
    """Return the arguments of an example: `quick`, `json` and `pictures`, `data` where it has a help text, and `more`.

    `text` is the docstring of the example; `more` holds a pair of (names, keywords of `add_argument`) each.
    """
    title = next((line for line in text.splitlines() if line.strip("= ")), "")  # the gallery has taken it out
    parser = argparse.ArgumentParser(description=title, formatter_class=_Defaults)
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds instead of minutes: does it run?")
    if data is not None:
        parser.add_argument("--data", metavar="PATH", type=Path, help=data)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write settings, results and curves there")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="write the pictures there as PNG")
    for names, keywords in more:
        parser.add_argument(*names, **keywords)
    sys.excepthook = _ended
    parsed = parser.parse_args(arguments)
    if data is not None and parsed.data is not None and not parsed.data.exists():
        parser.error(f"argument --data: {parsed.data} does not exist")
    if parsed.json is not None and not parsed.json.absolute().parent.is_dir():
        parser.error(f"argument --json: the folder of {parsed.json} does not exist")
    return parsed


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Says the defaults of options, but of those that have none, or whose help says what happens without them."""

    def _get_help_string(self, action):
        text = action.help or ""
        untold = action.default is None or action.default is False or "(default" in text
        return text if untold else super()._get_help_string(action)


def _ended(kind, error, traceback):
    """What is shown as a script ends by an error: of Ctrl-C, which is none, a word."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def machine():
    """Return what a figure depends on: processor, instruction set, threads, versions."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "instruction set": cgru.kernels.isa,
        "threads": cgru.get_num_threads(),
        "cgru": cgru.__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
    }


class Report:
    """The results of one run: what came out, what others published, and the seconds that it took.

    Parameters
    ----------
    name : str
        What the example is called in the JSON.
    settings : dict
        What the run was made with, for the JSON.
    """

    def __init__(self, name, settings):
        self.begun = time.perf_counter()
        self.name, self.settings = name, settings
        self.results, self.curves = [], {}

    def seconds(self):
        """Return the seconds since the run began."""
        return time.perf_counter() - self.begun

    def add(self, what, value, known=None, source="", unit="", digits=2):
        """Take a result in; `known` is the one beside it, a number or None, and `source` says whose."""
        self.results.append(
            {"what": what, "value": value, "known": known, "source": source, "unit": unit, "digits": digits}
        )

    def curve(self, name, **columns):
        """Add a point to the curve called `name`."""
        self.curves.setdefault(name, []).append(columns)

    def print(self):
        """Print the table of results."""
        shown = [(r["what"], _shown(r["value"], r), _shown(r["known"], r), r["source"]) for r in self.results]
        rows = [("", "here", "known", "known from"), *shown]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for what, value, known, source in rows:
            print(f"{what:{widths[0]}}  {value:>{widths[1]}}  {known:>{widths[2]}}  {source}".rstrip())
        took = f"{self.seconds():.0f} s, {time.process_time():.0f} s of processor time"
        print(f"({', '.join(f'{key} {value}' for key, value in machine().items())}; {took})")

    def save(self, path):
        """Write everything to `path` as JSON; None writes nothing."""
        if path is None:
            return
        held = {"example": self.name, "seconds": round(self.seconds(), 1)}
        held |= {"processor seconds": round(time.process_time(), 1), "machine": machine()}
        held |= {"settings": self.settings, "results": self.results, "curves": self.curves}
        path.write_text(json.dumps(held, indent=1, default=_plain) + "\n")


def _shown(value, result):
    """A value of a row of the table as text."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:,.{result['digits']}f}"
    return f"{text} {result['unit']}".rstrip()


def _plain(value):
    """What JSON does not know, as something that it knows."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def picture(figure, folder, name):
    """Write a figure of matplotlib to `folder`; where that is None, show it if there is a window to show it in."""
    import matplotlib.pyplot as plt

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        print(f"wrote {path}")
    elif plt.get_backend().lower() != "agg":
        plt.show()


def plotting():
    """Return matplotlib.pyplot, or None after a line that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print('no pictures: matplotlib is not installed (pip install "cgru[plot]")')
        return None
    return plt
