"""What a random program is, and what all of them share: calls with right and wrong arguments, passes there and back."""

from typing import Any, NamedTuple

import numpy as np


class Call(NamedTuple):
    """One call: `function(made, *arguments, **named)`."""

    name: str
    function: Any
    arguments: tuple = ()
    named: Any = None  # dict
    changes: bool = False  # what was made, or one of its arguments
    same_errors: bool = True  # False: forms that it does not take are refused


class Program(NamedTuple):
    make: Any  # function of nothing, the same object at each call
    calls: list
    shared: bool = True  # whether threads of Python may make the calls that change nothing at once


def steps(draw, n, t, masks=True, resets=True):
    """Keyword arguments: which steps are valid, and where rows start anew."""
    named = {}
    kind = draw.index(3 if masks else 2)
    if kind == 1:
        named["lengths"] = draw.lengths(n, t)
    elif kind == 2:
        named["mask"] = draw.flags((n, t), 0.7)
    if resets and draw.flag(0.25):
        named["resets"] = draw.flags((n, t), 0.3)
    return named


def spoil(draw, arguments, named):
    """The arguments, in one case of eight with one of them wrong: of another size, or nothing that belongs there."""
    if not draw.flag(0.12):
        return arguments, named
    places = [*range(len(arguments)), *named]
    if not places:
        return arguments, named
    place = draw.pick(*places)
    value = arguments[place] if isinstance(place, int) else named[place]
    wrong = draw.nonsense() if draw.flag() else misshapen(draw, value)
    if isinstance(place, int):
        return (*arguments[:place], wrong, *arguments[place + 1 :]), named
    return arguments, named | {place: wrong}


def halves(value):
    with np.errstate(over="ignore"):
        return value.astype(np.float16)


def misshapen(draw, value):
    if not isinstance(value, np.ndarray) or not value.ndim or value.dtype.kind == "U":
        return draw.nonsense()
    axis, value = draw.index(value.ndim), value.view(np.ndarray)
    return draw.pick(
        lambda: np.concatenate([value, value], axis), lambda: np.delete(value, slice(0, 1), axis), lambda: value[None],
        lambda: value[0] if len(value) else value, lambda: value.astype(complex), lambda: value.astype(object),
        lambda: halves(value) if value.dtype.kind == "f" else -value.astype(int) - 1,
        lambda: list(value), lambda: value.T, lambda: np.ma.masked_array(value, np.zeros(value.shape, bool)),
    )()  # fmt: skip


def call(draw, name, function, *arguments, changes=False, **named):
    arguments, named = spoil(draw, arguments, named)
    return Call(name, function, arguments, named, changes)


def method(name):
    return lambda made, *arguments, **named: getattr(made, name)(*arguments, **named)


def there_and_back(layer, x, dy, dh, need_dx, seed, recompute=None, **named):
    """A pass of training and the pass back, twice; with fewer states kept, the same again."""
    y, h, tape = layer.forward(x, training=True, seed=seed, recompute=recompute, **named)
    dy, dh = resized(dy, y.shape), resized(dh, h.shape)
    if dy is None and dh is None:
        return y, h
    back = layer.backward(dy, tape, dh=dh, need_dx=need_dx)
    again = layer.backward(dy, tape, dh=dh, need_dx=need_dx)
    same_arrays(back, again, "a second pass back")
    if recompute is not None and not layer.stateful:
        y_whole, h_whole, whole = layer.forward(x, training=True, seed=seed, **named)
        both = layer.backward(dy, whole, dh=dh, need_dx=need_dx)
        same_arrays((y, h, back), (y_whole, h_whole, both), f"recompute={recompute}")
    return y, h, tape.penalty if hasattr(tape, "penalty") else 0.0, back


def resized(gradient, shape):
    """A gradient whose shape is that of outputs nobody knew before; wrong ones stay as they are."""
    if not isinstance(gradient, np.ndarray) or gradient.dtype.kind != "f" or gradient.ndim > len(shape) + 1:
        return gradient
    return np.resize(np.array(gradient), shape)


def forward_backward(layer, x, dy, need_dx, seed, **named):
    """The same of a layer without a state, or of a model."""
    y, tape = layer.forward(x, training=True, seed=seed, **named)
    dy = resized(dy, y.shape)
    back = layer.backward(dy, tape, need_dx=need_dx)
    same_arrays(back, layer.backward(dy, tape, need_dx=need_dx), "a second pass back")
    return y, back


def arrays_in(nested):
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, (tuple, list)):
        return [array for part in nested for array in arrays_in(part)]
    return [np.asarray(nested)] if isinstance(nested, (np.ndarray, float, np.generic)) else []


def same_arrays(actual, expected, what, exact=True):
    """The same arrays to the bit, but for the payload of NaN; within rounding unless `exact`."""
    actual, expected = arrays_in(actual), arrays_in(expected)
    assert len(actual) == len(expected), f"{what}: {len(actual)} arrays and {len(expected)}"
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.dtype, a.shape) == (e.dtype, e.shape), f"{what}, array {i}: {a.dtype} {a.shape}, {e.dtype} {e.shape}"
        if a.dtype.kind != "f":
            assert (a == e).all(), f"{what}: array {i} differs"
            continue
        a, e = np.ravel(a), np.ravel(e)
        if exact:
            bits = f"u{a.itemsize}"
            differs = (a.view(bits) != e.view(bits)) & ~(np.isnan(a) & np.isnan(e))
            at = np.flatnonzero(differs)[:3]
            assert not len(at), f"{what}: array {i} differs at {at}: {a[at]}, {e[at]}"
        elif np.isfinite(e).all() and np.abs(e).max(initial=0) < 1e3:
            np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-3, err_msg=what)
