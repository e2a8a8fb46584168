"""One time step through a model: what is called in which order, made ready once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import shape_of, shape_text
from cgru.layers import GRU, Dropout, Embedding, Layer
from cgru.models import examples
from cgru.sequences import Batch, as_mask, as_numeric
from cgru.typing import AnyArray, Array

if TYPE_CHECKING:
    from cgru.models.sequential import Sequential

Call: TypeAlias = Callable[[Any], Any]  # of a layer without a state
StepCall: TypeAlias = Callable[[Any, Any], Any]  # of a layer with a state: its output and state, or what is both
Run: TypeAlias = Callable[[Any, Any], tuple[Array, tuple[Array, ...]]]


class Plan(NamedTuple):
    """A step of one model."""

    run: Run  # function of (x_t, state), which returns (y_t, state)
    start: tuple[None, ...]  # the states at the beginning: None for each GRU


def plan(model: Sequential, x_t: ArrayLike) -> Plan:
    """Return the `Plan` of a model, which is built for features as those of x_t if it was not.

    Raises
    ------
    TypeError, ValueError
        If a layer does not run forward in time, or cannot take the data.
    """
    layers = model.layers
    check(layers)
    x = _checked(layers, x_t)
    examples.output_shape(layers, (len(x), 1, *x.shape[1:]), "x_t", f"{shape_text(x.shape)}, one time step")
    model.build(x.shape[1] if x.ndim == 2 else None)
    first = layers[0]
    calls: list[list[Call]] = [[]]  # of vectors: those before the first GRU, those before the second, and so on
    steps: list[StepCall] = []  # of the GRUs between
    if not isinstance(first, GRU):  # which converts its input itself
        dtype = None if isinstance(first, Embedding) else examples.dtype_of(layers)
        calls[-1].append(lambda values: as_numeric(values, dtype, "x_t"))
    for layer in layers:
        if isinstance(layer, GRU):
            steps.append(layer.step)
            calls.append([_top] if layer.num_layers > 1 else [])
        elif layer._has_step_state:
            steps.append(layer.step)
            calls.append([])
        elif not isinstance(layer, Dropout):
            calls[-1].append(layer.step_rows)
    if steps and calls[-1] in ([], [_top]):
        calls[-1].append(np.copy)  # of a state, which the caller keeps beside it
    plain = len(steps) == 1 and any(isinstance(layer, GRU) for layer in layers)
    run = _one(calls[0], steps[0], calls[1]) if plain else _many(calls, steps)
    return Plan(run, (None,) * len(steps))


def check(layers: Sequence[Layer]) -> None:
    """ValueError unless all of them run forward in time and need no steps that come later."""
    for i, layer in enumerate(layers):
        for name in ("bidirectional", "reverse", "go_backwards"):
            if getattr(layer, name, False):
                raise ValueError(
                    f"step: expected layers that run forward in time, got {name}=True in {examples.title(layers, i)}"
                )
        refused = layer.refuses_steps()
        if refused is not None:
            raise ValueError(f"step: expected {refused} in {examples.title(layers, i)}")


def _top(h: Array) -> Array:
    """The output of a stack: the state of its last layer."""
    return h[-1]


def _one(before: list[Call], step: StepCall, behind: list[Call]) -> Run:
    """What `_many` returns, for one GRU: models of a few units take few microseconds, and loops cost some."""

    def run(x_t: Any, state: Any) -> tuple[Array, tuple[Array, ...]]:
        (h,) = state
        for call in before:
            x_t = call(x_t)
        y = h = step(x_t, h)
        for call in behind:
            y = call(y)
        return y, (h,)

    return run


def _many(calls: list[list[Call]], steps: list[StepCall]) -> Run:
    """The function that runs `calls[0]`, `steps[0]`, `calls[1]`, `steps[1]`, ..., `calls[-1]`."""

    def run(x_t: Any, state: Any) -> tuple[Array, tuple[Array, ...]]:
        y, after = x_t, []
        for call in calls[0]:
            y = call(y)
        for h, step, behind in zip(state, steps, calls[1:], strict=True):
            y = h = step(y, h)
            if type(y) is tuple:  # of a layer whose output is not its state
                y, h = y
            after.append(h)
            for call in behind:
                y = call(y)
        return y, tuple(after)

    return run


def restarted(layers: Sequence[Layer], x_t: ArrayLike, state: Any, resets: ArrayLike) -> Any:
    """The state of a step, with the rows where `resets` (N,) at their beginning."""
    recurrent = [layer for layer in layers if isinstance(layer, GRU) or layer._has_step_state]
    rows = as_mask(resets, shape_of(x_t)[:1], "resets")
    state = (None,) * len(recurrent) if state is None else state
    return [layer.restarted(own, rows) for layer, own in zip(recurrent, state, strict=True)]


def wrong_step(layers: Sequence[Layer], x_t: ArrayLike, state: Any, error: Exception) -> Exception:
    """The error for a step that failed with `error`, in the words of whoever called it."""
    x = _checked(layers, x_t)
    layers[0].check_values(Batch(x), "x_t")
    recurrent = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, GRU) or layer._has_step_state]
    if state is None:
        return error
    if not isinstance(state, (tuple, list)) or len(state) != len(recurrent):
        got = f"{len(state)} entries" if isinstance(state, (tuple, list)) else type(state).__name__
        kind = "GRUs" if all(isinstance(layer, GRU) for _, layer in recurrent) else "layers with a state"
        return TypeError(f"state: expected a tuple with one entry for each of {len(recurrent)} {kind}, got {got}")
    for j, (i, layer) in enumerate(recurrent):
        if state[j] is not None and isinstance(layer, GRU):
            shape, expected = as_numeric(state[j], None, f"state[{j}]").shape, layer._state_shape(len(x))
            if shape != expected:
                who = f"{examples.title(layers, i)} for {len(x)} rows"
                return ValueError(f"state[{j}]: expected shape {expected}, of {who}, got {shape}")
    return error


def _checked(layers: Sequence[Layer], x_t: ArrayLike) -> AnyArray:
    """x_t as an array of the right number of axes and features."""
    x, first = as_numeric(x_t, None, "x_t"), layers[0]
    ids = isinstance(first, Embedding)
    if x.ndim != (1 if ids else 2):
        shape = "(N,)" if ids else "(N, D)"
        raise ValueError(f"x_t: expected shape {shape}, one time step of N sequences, got {shape_text(x.shape)}")
    if not ids and first.input_size is not None and x.shape[1] != first.input_size:
        raise ValueError(
            f"x_t: expected {first.input_size} features, as {examples.title(layers, 0)} was built for, "
            f"got shape {shape_text(x.shape)}"
        )
    return x
