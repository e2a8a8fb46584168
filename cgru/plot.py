"""Pictures, drawn with matplotlib, which is imported only when one is asked for: `pip install "cgru[plot]"`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.typing import IntArray, Path

if TYPE_CHECKING:
    from cgru.models import History


def _matplotlib() -> Any:
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "cgru[plot]"') from error
    return matplotlib


def check_file(path: Path) -> None:
    """Raise unless a picture can be written to `path`; nothing is written.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the file name has no ending of a picture format.
    OSError
        If the folder does not exist or may not be written.
    """
    figure = _matplotlib().figure.Figure()
    endings = sorted(figure.canvas.get_supported_filetypes())
    ending = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
    if ending not in endings:
        raise ValueError(f"{path}: expected a file name ending in one of {', '.join(endings)}")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise OSError unless a file can be written to `path`: its folder does not exist or may not be written, say."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise PermissionError(f"{path}: may not be written")


def draw_training(history: History, confusion: IntArray, path: Path) -> None:
    """Write a picture of a training: loss and accuracy by epoch, and the confusion matrix.

    Parameters
    ----------
    history : History
        What `Sequential.fit` returned, with "loss" and "accuracy".
    confusion : integer ndarray (K, K)
        Rows: the true class; columns: the predicted one.
    path : str or path
        The file; its ending says the format.

    Raises
    ------
    ImportError, ValueError, OSError
        As `check_file`.
    """
    check_file(path)
    figure = _matplotlib().figure.Figure(figsize=(11, 4.2), layout="constrained")
    curves, matrix = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curves(curves, history)
    _draw_confusion(matrix, confusion)
    figure.savefig(path, dpi=150)


def _draw_curves(axes: Any, history: History) -> None:
    epochs = np.array(history.epochs) + 1
    for values, name, color, side in (
        (history.history["loss"], "loss", "tab:blue", axes),
        (history.history["accuracy"], "accuracy", "tab:orange", axes.twinx()),
    ):
        side.plot(epochs, values, color=color, marker="." if len(epochs) < 20 else None)
        side.set_ylabel(f"training {name}", color=color)
        side.tick_params(axis="y", colors=color)
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title("Training")


def _draw_confusion(axes: Any, confusion: IntArray) -> None:
    classes = np.arange(len(confusion))
    axes.imshow(confusion, cmap="Blues")
    for row, column in zip(*np.nonzero(confusion), strict=True):
        count = confusion[row, column]
        color = "white" if count > confusion.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(classes, classes + 1)
    axes.set_yticks(classes, classes + 1)
    axes.set_xlabel("predicted speaker")
    axes.set_ylabel("true speaker")
    axes.set_title(f"Test: {np.trace(confusion)} of {confusion.sum()} right")


def draw_times(cells: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Write a picture of a benchmark: bars that say how many times as long as cgru the others take.

    Parameters
    ----------
    cells : list of dict
        Each with its name, "cell", and "microseconds", a dict contestant -> time; those without "cgru" are not drawn.
    title : str
    path : str or path
        The file; its ending says the format.

    Raises
    ------
    ImportError, ValueError, OSError
        As `check_file`.
    """
    check_file(path)
    cells = [cell for cell in cells if "cgru" in cell["microseconds"]]
    peers = list(dict.fromkeys(name for cell in cells for name in cell["microseconds"] if name != "cgru"))
    figure = _matplotlib().figure.Figure(figsize=(9, 2 + 0.6 * len(cells)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(len(peers), 1)
    for index, peer in enumerate(peers):
        rows = [row for row, cell in enumerate(cells) if peer in cell["microseconds"]]
        ratios = [cells[row]["microseconds"][peer] / cells[row]["microseconds"]["cgru"] for row in rows]
        places = [row - 0.4 + (index + 0.5) * height for row in rows]
        bars = axes.barh(places, np.subtract(ratios, 1), height, left=1, label=peer)  # from 1 to the ratio
        axes.bar_label(bars, [f" {ratio:.1f} " for ratio in ratios], fontsize=8)
    axes.axvline(1, color="black", linewidth=1.5, label="cgru")
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(_matplotlib().ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    names = [f"{cell['cell']}\ncgru {cell['microseconds']['cgru']:,.1f} µs" for cell in cells]
    axes.set_yticks(range(len(cells)), names)
    axes.set_ylim(max(len(cells), 1) - 0.5, -0.5)
    axes.set_xlabel("time, in units of cgru's")
    figure.suptitle(title, fontsize=9)
    figure.legend(loc="outside lower center", ncols=len(peers) + 1, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
