"""`cgru demo` trains a GRU on real recordings and compares it with the NumPy reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

import cgru
from cgru import kernels, metrics, optimizers, plot, reference
from cgru.cli import timing
from cgru.datasets import load_japanese_vowels
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.sequences import pad
from cgru.typing import Array, IntArray

UNITS, BATCH_SIZE, LEARNING_RATE = 64, 32, 0.003
# Largest difference that float32 may have from the reference in float64, in units of the largest value.
TOLERANCE = 1e-5


def run(seed: int = 0, epochs: int = 60, plot_file: str | None = None) -> bool:
    """Train, print accuracy, times and the difference from the reference; draw a picture if one is asked for.

    Parameters
    ----------
    seed : int
        Of everything that is random.
    epochs : int
        Passes over the training data.
    plot_file : str, optional
        Where a picture of the training goes.

    Returns
    -------
    bool
        Whether cgru agrees with the reference.

    Raises
    ------
    ImportError, ValueError, OSError
        If the picture cannot be drawn or written (before the training), or the data cannot be read.
    """
    if plot_file is not None:
        plot.check_file(plot_file)  # now, not after the training
    data = load_japanese_vowels()
    x_train, x_test = standardise(data.x_train, data.x_test)
    model = build_model(seed)
    print(f"Japanese Vowels: {len(x_train)} training and {len(x_test)} test utterances of nine speakers")
    print(f"bidirectional GRU of {UNITS} units, dropout 0.3, softmax; {epochs} epochs, seed {seed}")

    started = time.perf_counter()
    validation = None if plot_file is None else (x_test, data.y_test)  # for its curves: nothing is chosen by them
    history = model.fit(x_train, data.y_train, epochs=epochs, batch_size=BATCH_SIZE, validation_data=validation)
    seconds = time.perf_counter() - started

    predicted = model.predict(x_test).argmax(axis=1)
    hits = np.count_nonzero(predicted == data.y_test)
    print(f"test accuracy  {hits / len(predicted):.4f} ({hits} of {len(predicted)})")
    print(f"training time  {seconds:.2f} s")
    passed = _compare(model.layers[0], x_train[:BATCH_SIZE])
    if plot_file is not None:
        confusion = metrics.confusion_matrix(data.y_test, predicted, 9)
        plot.draw_training(history, confusion, plot_file)
        print(f"plot           {plot_file}")
    return passed


def standardise(x_train: Sequence[Array], x_test: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Return both with the mean of `x_train` subtracted, divided by its standard deviation, feature by feature."""
    frames = np.concatenate(x_train)
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    return [(x - mean) / deviation for x in x_train], [(x - mean) / deviation for x in x_test]


def build_model(seed: int) -> Sequential:
    """Return the compiled classifier of the demonstration."""
    layers = [cgru.GRU(UNITS, bidirectional=True), cgru.Dropout(0.3), cgru.Dense(9, activation="softmax")]
    model = cgru.Sequential(layers, seed=seed)
    model.compile(optimizers.Adam(LEARNING_RATE), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _compare(layer: GRU, utterances: list[Array]) -> bool:
    """Print times and differences of `layer` and the NumPy reference on one batch; return whether they agree."""
    x, lengths = pad(utterances, np.float32)
    d_out = np.random.default_rng(0).standard_normal((len(x), 2 * layer.units)).astype(np.float32)

    out, _, tape = layer.forward(x, lengths=lengths, training=True)
    dx, _, grads = layer.backward(d_out, tape)
    ours = {"out": out, "dx": dx, **grads}
    exact = _reference_backward(d_out, *_reference_forward(layer, x, lengths, np.float64))
    # np.max, not max: a NaN counts as the largest.
    worst = np.max([np.abs(ours[name] - exact[name]).max() / np.abs(exact[name]).max() for name in exact])

    reference_run = _reference_forward(layer, x, lengths, np.float32)
    times = {
        "forward": (
            _best(lambda: layer.forward(x, lengths=lengths, training=True)),
            _best(lambda: _reference_forward(layer, x, lengths, np.float32)),
        ),
        "backward": (
            _best(lambda: layer.backward(d_out, tape)),
            _best(lambda: _reference_backward(d_out, *reference_run)),
        ),
    }
    print(f"kernels        {kernels.isa}")
    sizes = ", ".join(map(str, (*x.shape, layer.units)))
    print(f"one batch      N, T, D, H = {sizes}, both directions, float32")
    for name, (own, numpy) in times.items():
        print(f"{name:<15}{own * 1e3:.2f} ms; NumPy reference {numpy * 1e3:.2f} ms, {numpy / own:.1f} times as long")
    verdict = "within" if worst <= TOLERANCE else "OUT OF"
    print(f"difference     {worst:.1e} of the largest value, from the reference in float64: {verdict} {TOLERANCE:.0e}")
    return bool(worst <= TOLERANCE)


def _reference_forward(layer: GRU, x: Array, lengths: IntArray, dtype: DTypeLike) -> tuple[Array, list[reference.Tape]]:
    """Return what `_reference_backward` needs: the reference's final states (N, 2H) and tapes, of both directions."""
    states, tapes = [], []
    for direction in ("forward", "backward"):
        kernel, recurrent_kernel, bias = (
            layer.parameters[f"l0.{direction}.{name}"].astype(dtype) for name in ("kernel", "recurrent_kernel", "bias")
        )
        _, h, tape = reference.forward(
            x.astype(dtype),
            kernel,
            recurrent_kernel,
            bias,
            np.zeros((len(x), layer.units), dtype),
            reset_after=layer.reset_after,
            lengths=lengths,
            reverse=direction == "backward",
        )
        states.append(h)
        tapes.append(tape)
    return np.concatenate(states, axis=1), tapes


def _reference_backward(d_out: Array, out: Array, tapes: list[reference.Tape]) -> dict[str, Array]:
    """Return outputs, dx and the gradients of the parameters under the layer's names."""
    results: dict[str, Any] = {"out": out, "dx": 0}
    halves = np.split(d_out.astype(out.dtype), 2, axis=1)
    for direction, half, tape in zip(("forward", "backward"), halves, tapes, strict=True):
        grads = reference.backward(None, half, tape)
        results["dx"] = results["dx"] + grads["dx"]
        for name in ("kernel", "recurrent_kernel", "bias"):
            results[f"l0.{direction}.{name}"] = grads[name]
    return results


def _best(function: Callable[[], object], repeats: int = 20) -> float:
    """Return the shortest of `repeats` run times, in seconds."""
    return min(timing.single_calls(function, 0, repeats)) / 1e9
