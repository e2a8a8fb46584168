"""Pictures, drawn with matplotlib, which is imported only when one is asked for: `pip install "cgru[plot]"`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import check_int, shape_text
from cgru.layers.gates import Gates
from cgru.sequences import as_numeric
from cgru.typing import IntArray, Path
from cgru.writing import check_writable

__all__ = ["attention", "confusion", "gates", "learning_curves", "saliency"]

if TYPE_CHECKING:
    from cgru.models import History

    HistoryLike: TypeAlias = History | Mapping[str, Sequence[float]]

Axes: TypeAlias = Any  # matplotlib.axes.Axes

# Blue and orange of M. Okabe and K. Ito, which colour-blind readers tell apart, and in grey by their lightness; and a
# colour map that rises evenly in lightness, so that it reads the same without colours.
_BLUE, _ORANGE = "#0072B2", "#E69F00"
_COLOURS = "cividis"
_MOST_NAMES = 30  # on an axis
_MOST_CELLS = 20  # of a side, with numbers in them
_GATES = (
    "Reset gate r: how much the candidate sees of the old state",
    "Update gate z: how much of the candidate is taken",
    "Candidate n",
    "State h",
)


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


def learning_curves(
    history: HistoryLike, names: str | Sequence[str] | None = None, *, ax: Axes | Sequence[Axes] | None = None
) -> list[Axes]:
    """Draw loss and metrics by epoch, those of the validation beside those of training.

    Parameters
    ----------
    history : History, or dict name -> list of numbers
        What `fit` returned; "val_loss" is drawn beside "loss".
    names : str or list of str, optional
        Which figures, without `"val_"`; None is all of them.
    ax : Axes, or list of Axes; optional
        One for each name. None makes a figure.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each name; `axes[0].figure.savefig("curves.png")` writes the picture.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError, ValueError
        If an argument does not fit; the message names it.
    """
    curves = getattr(history, "history", history)
    if not isinstance(curves, Mapping):
        raise TypeError(f"history: expected a History or a dict of lists, got {type(history).__name__}")
    known = list(dict.fromkeys(name.removeprefix("val_") for name in curves))
    chosen = known if names is None else [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"names: expected some of {known}, got {name!r}")
    if not chosen or not any(len(values) for values in curves.values()):
        raise ValueError("history: expected at least one finished epoch, got none")
    panels = _panels(ax, len(chosen), lambda count: {"ncols": count, "figsize": (1 + 4 * count, 3.6)})
    first = next(iter(getattr(history, "epochs", ())), 0) + 1
    for axes, name in zip(panels, chosen, strict=True):
        for key, label, color, style in (
            (name, "training", _BLUE, "-"),
            (f"val_{name}", "validation", _ORANGE, "--"),
        ):
            if key in curves:
                epochs = np.arange(first, first + len(curves[key]))
                marker = "o" if len(epochs) < 20 else None
                axes.plot(epochs, curves[key], style, color=color, marker=marker, markersize=4, label=label)
        words = _words(name)
        axes.set_title(words.capitalize() if words.islower() else words)
        axes.set_xlabel("epoch")
        axes.set_ylabel(words)
        _whole_ticks(axes.xaxis)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return panels


def confusion(
    matrix: ArrayLike, class_names: Sequence[str] | None = None, *, what: str = "class", ax: Axes | None = None
) -> Axes:
    """Draw a confusion matrix: how many of each true class were taken for which.

    Parameters
    ----------
    matrix : array_like of integers (K, K)
        Rows: the true class; columns: the predicted one. `cgru.metrics.confusion_matrix` makes it.
    class_names : list of K str, optional
        None is 0 .. K - 1.
    what : str
        What the classes are, for the axes: "speaker", say.
    ax : Axes, optional
        None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If an argument does not fit; the message names it.
    """
    return _draw_matrix(matrix, class_names, what, ax)


def _draw_matrix(matrix: ArrayLike, class_names: Sequence[str] | None, what: str, ax: Axes | None) -> Axes:
    counts = as_numeric(matrix, name="matrix")
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"matrix: expected shape (K, K), got {shape_text(counts.shape)}")
    K = len(counts)
    names = _checked_names(class_names, K, "class_names") or [str(i) for i in range(K)]
    size = min(4.2 + 0.25 * K, 10)
    (axes,) = _panels(ax, 1, lambda _: {"figsize": (size, size - 0.6)})
    image = axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(counts.max(), 1))
    if K <= _MOST_CELLS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            count = counts[row, column]
            color = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=color, fontsize=min(9, 130 / K))
    else:
        _colour_bar(image, axes, "number of examples")
    _name_ticks(axes.xaxis, names)
    _name_ticks(axes.yaxis, names)
    axes.set_xlabel(f"predicted {what}")
    axes.set_ylabel(f"true {what}")
    axes.set_title(f"{np.trace(counts):g} of {counts.sum():g} right")
    return axes


def gates(
    found: Gates, row: SupportsIndex = 0, steps: SupportsIndex | None = None, *, ax: Sequence[Axes] | None = None
) -> list[Axes]:
    """Draw what a GRU decided in one sequence: reset gate, update gate, candidate and state, unit by unit.

    Parameters
    ----------
    found : Gates
        Of `layer.gates(x)`; of several layers or directions one of the dict.
    row : int
        Which sequence.
    steps : int, optional
        How many steps of it are drawn: its length, where what follows is padding.
    ax : list of four Axes, optional
        None makes a figure.

    Returns
    -------
    list of four matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError, ValueError
        If an argument does not fit; the message names it.
    """
    if isinstance(found, Mapping):
        raise TypeError(f"found: expected Gates, got a dict: give one of {list(found)}")
    if not isinstance(found, Gates):
        raise TypeError(f"found: expected the Gates of layer.gates(x), got {type(found).__name__}")
    N, T, _ = found.h.shape
    row, steps = check_int(row, "row"), T if steps is None else check_int(steps, "steps", 1)
    if row >= N:
        raise ValueError(f"row: expected less than {N}, the number of sequences, got {row}")
    if steps > T or not T:
        raise ValueError(f"steps: expected at most {T}, the number of time steps, got {steps}")
    panels = _panels(ax, 4, lambda _: {"nrows": 2, "ncols": 2, "figsize": (10, 6), "sharex": True, "sharey": True})
    span = max(1.0, float(np.abs(found.n[row, :steps]).max()), float(np.abs(found.h[row, :steps]).max()))
    for axes, values, title, low in zip(panels, found, _GATES, (0, 0, -span, -span), strict=True):
        high = 1 if low == 0 else span
        image = axes.imshow(
            values[row, :steps].T, cmap=_COLOURS, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        _colour_bar(image, axes, "value" if low else "from 0, shut, to 1, open")
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("time step")
        axes.set_ylabel("unit")
        _whole_ticks(axes.xaxis, axes.yaxis)
        axes.label_outer()
    return panels


def saliency(
    values: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    title: str = "Saliency",
    label: str = "gradient of the output",
    ax: Axes | None = None,
) -> Axes:
    """Draw what one sequence owes to its inputs: gradients, or contributions of integrated gradients.

    Parameters
    ----------
    values : array_like of shape (T, D), or (T,)
        Of one sequence, from `cgru.interpret`: cells for each step and feature, or bars for each step.
    names : list of str, optional
        Of the D features, or of the T steps (the words, say).
    title, label : str
        Of the picture, and what the values are.
    ax : Axes, optional
        None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If an argument does not fit; the message names it.
    """
    array = as_numeric(values, name="values")
    if array.ndim not in (1, 2) or not array.size:
        advice = "; of one sequence: values[0]" if array.ndim == 3 else ""
        raise ValueError(f"values: expected shape (T, D) or (T,), got {shape_text(array.shape)}{advice}")
    names = _checked_names(names, array.shape[-1], "names")
    if array.ndim == 1:
        widest = max(map(len, names)) if names else 0
        width = min(2 + len(array) * max(0.35, 0.1 * (widest + 1)), 12)
        (axes,) = _panels(ax, 1, lambda _: {"figsize": (width, 3.4)})
        axes.bar(
            np.arange(len(array)), array, color=np.where(array < 0, _ORANGE, _BLUE), edgecolor="black", linewidth=0.5
        )
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(label)
        axes.set_xlabel("time step")
        axes.spines[["top", "right"]].set_visible(False)
        _whole_ticks(axes.xaxis)
        if names:
            _name_ticks(axes.xaxis, names)
    else:
        (axes,) = _panels(ax, 1, lambda _: {"figsize": (8, min(2 + 0.22 * array.shape[1], 8))})
        span = float(np.abs(array[np.isfinite(array)]).max(initial=0)) or 1.0
        image = axes.imshow(array.T, cmap=_COLOURS, vmin=-span, vmax=span, aspect="auto", interpolation="nearest")
        _colour_bar(image, axes, label)
        axes.set_xlabel("time step")
        axes.set_ylabel("feature")
        _whole_ticks(axes.xaxis, axes.yaxis)
        if names:
            _name_ticks(axes.yaxis, names)
    axes.set_title(title)
    return axes


def attention(
    weights: ArrayLike,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the weights with which each output step looked at the steps of the input.

    Parameters
    ----------
    weights : array_like of shape (T_out, T_in)
        Of one sequence, from 0 to 1.
    inputs, outputs : list of T_in and of T_out str, optional
        The words at these steps.
    ax : Axes, optional
        None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If an argument does not fit; the message names it.
    """
    array = as_numeric(weights, name="weights")
    if array.ndim != 2 or not array.size:
        advice = "; of one sequence: weights[0]" if array.ndim == 3 else ""
        raise ValueError(f"weights: expected shape (T_out, T_in), got {shape_text(array.shape)}{advice}")
    inputs = _checked_names(inputs, array.shape[1], "inputs")
    outputs = _checked_names(outputs, array.shape[0], "outputs")
    size = [min(3.5 + 0.3 * count, 9) for count in array.shape]
    (axes,) = _panels(ax, 1, lambda _: {"figsize": (size[1] + 0.8, size[0])})
    image = axes.imshow(array, cmap=_COLOURS, vmin=0, aspect="auto", interpolation="nearest")
    _colour_bar(image, axes, "weight")
    _whole_ticks(axes.xaxis, axes.yaxis)
    for axis, words, name in ((axes.xaxis, inputs, "input"), (axes.yaxis, outputs, "output")):
        if words:
            _name_ticks(axis, words)
        axis.set_label_text(name if words else f"{name} step")
    axes.set_title("Attention")
    return axes


# -- what they share


def _panels(ax: Any, count: int, layout: Callable[[int], dict[str, Any]]) -> list[Any]:
    """The axes that were passed, `count` of them, or those of a new figure."""
    _matplotlib()
    if ax is None:
        from matplotlib import pyplot  # which chooses how to show figures; whoever brings axes has chosen

        _, made = pyplot.subplots(layout="constrained", squeeze=False, **layout(count))
        return list(made.flat)
    given = list(ax.flat if isinstance(ax, np.ndarray) else ax if isinstance(ax, (list, tuple)) else [ax])
    if len(given) != count or not all(hasattr(axes, "imshow") for axes in given):
        wanted = "an Axes" if count == 1 else f"a list of {count} Axes"
        raise ValueError(f"ax: expected {wanted}, got {len(given)} of {type(given[0]).__name__ if given else 'none'}")
    return given


def _checked_names(names: Sequence[str] | None, count: int, name: str) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"{name}: expected {count} names, got {names if isinstance(names, str) else len(names)}")
    return [str(word) for word in names]


def _name_ticks(axis: Any, names: Sequence[str]) -> None:
    """Names at 0, 1, ...: all of them or, where they would not fit, evenly chosen ones; long ones below stand
    upright."""
    places = range(0, len(names), -(-len(names) // _MOST_NAMES))
    room = axis.axes.get_window_extent().width / axis.get_figure().dpi  # inches, of which a letter takes about 0.09
    upright = axis.axis_name == "x" and 0.09 * (max(map(len, names)) + 1) * len(places) > room
    axis.set_ticks(places, [names[i] for i in places])
    axis.set_tick_params(labelsize="small" if len(places) > 12 else "medium", labelrotation=90 if upright else 0)


def _whole_ticks(*axes: Any) -> None:
    for axis in axes:
        axis.set_major_locator(_matplotlib().ticker.MaxNLocator(integer=True, min_n_ticks=1))


def _colour_bar(image: Any, axes: Any, label: str) -> None:
    axes.figure.colorbar(image, ax=axes, shrink=0.9, label=label)


def _words(name: str) -> str:
    """The name of a figure as words."""
    return {"mse": "mean squared error", "mae": "mean absolute error", "auc": "AUC", "macro_f1": "macro F1"}.get(
        name, name.replace("_", " ")
    )


# -- pictures of the commands


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
    figure = _matplotlib().figure.Figure(figsize=(13, 4.2), layout="constrained")
    *curves, matrix = figure.subplots(1, 3, width_ratios=(3, 3, 3.4))
    learning_curves(history, ("loss", "accuracy"), ax=curves)
    speakers = [str(i + 1) for i in range(len(confusion))]
    _draw_matrix(confusion, speakers, "speaker", matrix)
    matrix.set_title(f"Test: {matrix.get_title()}")
    figure.savefig(path, dpi=150)


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
