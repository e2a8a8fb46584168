"""The picture of docs/performance.md, from the JSON files of inference.py and training.py: for every cell, how many
times as long the best peer takes.

    python benchmarks/inference.py --reset after --json benchmarks/results/after.json
    python benchmarks/training.py --json benchmarks/results/training.json
    python benchmarks/picture.py benchmarks/results/*.json --output docs/performance.png
"""

import argparse
import json
import pathlib
import sys

MODES = ("inference", "training")


def panels(paths):
    """[(title, [(cell, best peer, ratio)])] of the files, one for each mode and reset."""
    found = []
    for path in paths:
        measured = json.loads(pathlib.Path(path).read_text())
        for mode in MODES:
            rows = [_row(cell) for cell in measured["results"].get(mode, ())]
            if rows:
                reset = "after" if measured["results"][mode][0]["case"]["reset_after"] else "before"
                found.append((f"{mode}, reset {reset}", rows))
    return found


def _row(cell):
    case = cell["case"]
    peers = [entry for entry in cell["entries"] if entry["contestant"] != "cgru"]
    best = min(peers, key=lambda entry: entry["median_us"])
    return f"{case['N']},{case['T']},{case['D']},{case['H']}", best["contestant"], cell["ratio"]


def draw(found, path):
    """Write a picture with a panel for each (title, rows)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit('drawing needs matplotlib: pip install "cgru[plot]"')
    figure = Figure(figsize=(4.6 * len(found), 0.8 + 0.3 * max(len(rows) for _, rows in found)), layout="constrained")
    most = max(ratio for _, rows in found for *_, ratio in rows)
    for axes, (title, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        cells, peers, ratios = zip(*rows, strict=True)
        bars = axes.barh(range(len(rows)), ratios, color=["tab:blue" if ratio >= 1 else "tab:red" for ratio in ratios])
        labels = [f" {ratio:.2f}  {peer}" for ratio, peer in zip(ratios, peers, strict=True)]
        axes.bar_label(bars, labels, fontsize=8)
        axes.axvline(1, color="black", linewidth=1.5)
        axes.set_xlim(0, 1.35 * most)
        axes.set_yticks(range(len(rows)), cells, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("time of the best peer, in units of cgru's", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("files", nargs="+", metavar="FILE", help="what inference.py and training.py wrote with --json")
    made.add_argument("--output", default="docs/performance.png", metavar="FILE", help="(default: %(default)s)")
    options = made.parse_args()
    found = panels(options.files)
    if not found:
        made.error("none of the files has results of inference or training")
    draw(found, options.output)


if __name__ == "__main__":
    main()
