"""Snapshots of streams: their keys as arrays, and what tells the model that they are of from others."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

from cgru.checks import as_array
from cgru.layers import Layer
from cgru.layers.options import kind_of
from cgru.layers.quantized import QUANTIZED
from cgru.models import Sequential
from cgru.reading import parse_json
from cgru.typing import AnyArray, Shape

_NOT_IN_STATES = (  # options that do not change what a state is
    "seed", "trainable", "dropout", "recurrent_dropout", "layer_dropout", "return_state", "time_major", "kind",
)  # fmt: skip
_PLAIN: dict[type[Layer], type[Layer]] = {small: plain for plain, small in QUANTIZED.items()}


def listed(keys: Any, name: str = "keys") -> tuple[list[Hashable], set[Hashable]]:
    """The keys as a list, and as a set; they are hashable and each is there once."""
    if isinstance(keys, np.ma.MaskedArray):
        as_array(keys, name)  # which refuses masked ones
    if isinstance(keys, np.ndarray) and keys.ndim == 1:
        found = _values(keys, name)
    elif isinstance(keys, (str, bytes, np.ndarray)) or not isinstance(keys, Iterable):
        got = f"shape {keys.shape}" if isinstance(keys, np.ndarray) else repr(keys)
        raise TypeError(f"{name}: expected a list of keys, got {got}")
    else:
        found = list(keys)
    try:
        distinct = set(found)
    except TypeError:
        place = next(i for i, key in enumerate(found) if not isinstance(key, Hashable) or _fails(hash, key))
        raise TypeError(f"{name}: expected hashable keys, got {found[place]!r} at index {place}") from None
    if len(distinct) != len(found):
        seen: set[Hashable] = set()
        twice = next(key for key in found if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{name}: expected each key once, got {twice!r} again")
    return found, distinct


def _values(array: AnyArray, name: str) -> Any:
    """What `tolist` gives; the bytes of an array of text may be none, which NumPy finds in words of Python's inside."""
    try:
        return array.tolist()
    except (SystemError, ValueError):
        raise ValueError(f"{name}: expected text, got an array of dtype {array.dtype} with what is none") from None


def _fails(function: Callable[[Any], Any], value: Any) -> bool:
    try:
        function(value)
    except TypeError:
        return True
    return False


def key_array(keys: list[Hashable]) -> AnyArray:
    """The keys as an array that gives the same ones back: of one type where it can be, which a file holds as it is."""
    if {type(key) for key in keys} in ({int}, {str}, set()):
        try:
            array = np.array(keys, None if keys else np.int64)
            if array.dtype.kind in "iU" and array.tolist() == keys:  # text may lose zeros at its end
                return array
        except OverflowError:
            pass
    array = np.empty(len(keys), object)
    array[:] = keys
    return array


def like(array: Any, name: str, shape: Shape, dtype: np.dtype[Any]) -> AnyArray:
    """An array of a snapshot, which must be of this shape and type."""
    found = np.asarray(array)
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"snapshot[{name!r}]: expected shape {shape} and dtype {dtype}, got {found.shape} and {found.dtype}"
        )
    return found


def signature(model: Sequential) -> str:
    """What tells a model and its weights from others, as JSON. Small weights and those that they were made of are the
    same in this."""
    layers = []
    for layer in model.layers:
        config = {k: v for k, v in layer.get_config().items() if kind_of(k) is None and k not in _NOT_IN_STATES}
        layers.append([_PLAIN.get(type(layer), type(layer)).__name__, config])
    return json.dumps({"layers": layers, "weights": [layer._digests for layer in model.layers]}, sort_keys=True)


def check_signature(given: Any, own: str) -> None:
    """ValueError unless `given`, an entry of a snapshot of any origin, is the signature `own`."""
    try:
        found, expected = parse_json(str(_values(np.asarray(given), "model")), "model"), json.loads(own)
        same_layers = found["layers"] == expected["layers"]
        same_weights = same_layers and all(
            set(theirs) & set(ours) for theirs, ours in zip(found["weights"], expected["weights"], strict=True)
        )
        names = [" ".join(str(layer[0]) for layer in model["layers"]) for model in (expected, found)]
    except (ValueError, TypeError, LookupError):
        raise ValueError("snapshot['model']: expected what snapshot() wrote, got something else") from None
    if not same_layers:
        raise ValueError(f"snapshot: expected one of this model, {names[0]}, got one of another: {names[1]}")
    if not same_weights:
        raise ValueError("snapshot: expected one of this model, got one of the same layers with other weights")
