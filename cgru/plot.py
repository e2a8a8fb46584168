"""Pictures, drawn with matplotlib, which is imported only when one is asked for: `pip install "cgru[plot]"`."""

import os

import numpy as np


def _matplotlib():
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "cgru[plot]"') from error
    return matplotlib


def check_file(path):
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
    path = os.fspath(path)
    figure = _matplotlib().figure.Figure()
    endings = sorted(figure.canvas.get_supported_filetypes())
    ending = os.path.splitext(path)[1].lower().lstrip(".")
    if ending not in endings:
        raise ValueError(f"{path}: expected a file name ending in one of {', '.join(endings)}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise PermissionError(f"{path}: may not be written")


def draw_training(history, confusion, path):
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


def _draw_curves(axes, history):
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


def _draw_confusion(axes, confusion):
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
