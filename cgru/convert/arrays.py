"""Arrays under a framework's names: read, checked, found in nested mappings; and the warning for those that are left
out."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cgru.typing import AnyArray, Array


class PartialConversionWarning(UserWarning):
    """A converter left out a part of what it was given."""


def warn_partial(message: str) -> None:
    """Warn, at the caller's line outside of the converters, that something is left out."""
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("cgru.convert"):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, PartialConversionWarning, stacklevel=depth)


def as_weight(value: Any, name: str) -> Array:
    """`value` as a float32 or float64 array; half precision widens to float32, which is exact.

    Tensors of PyTorch need no import of it. TypeError where the values are no floating-point numbers.
    """
    if hasattr(value, "detach"):
        _check_tensor(value, name)
        value = value.full_tensor() if hasattr(value, "full_tensor") else value  # one that several processes share
        value = value.detach().cpu()
        is_half = value.is_floating_point() and value.element_size() < 4
        value = (value.float() if is_half else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        if hasattr(value, "__array__"):  # it says itself why it is none
            raise
        raise ValueError(f"{name}: expected an array, got nested lists of unequal lengths") from None
    if array.dtype.name in ("float16", "bfloat16"):  # the second is a type of ml_dtypes
        array = array.astype(np.float32)
    if array.dtype.name not in ("float32", "float64"):
        got = type(value).__name__ if array.dtype == object else f"dtype {array.dtype}"
        raise TypeError(f"{name}: expected floating-point numbers, got {got}")
    return np.asarray(array, array.dtype.name)  # in the byte order of the machine


def _check_tensor(tensor: Any, name: str) -> None:
    """ValueError or TypeError for a tensor of PyTorch that has no dense numbers."""
    if getattr(tensor, "is_meta", False):
        raise ValueError(f"{name}: expected an array, got a tensor without data, on device meta")
    if type(tensor).__name__.startswith("Uninitialized"):
        raise ValueError(f"{name}: expected an array, got a parameter without a shape yet: call the module once")
    layout = str(getattr(tensor, "layout", "torch.strided"))
    if layout != "torch.strided" or getattr(tensor, "is_quantized", False):
        got = f"layout {layout}" if layout != "torch.strided" else f"dtype {tensor.dtype}"
        raise TypeError(f"{name}: expected a dense array of floating-point numbers, got a tensor of {got}")


def some(names: Iterable[object]) -> str:
    """Names for an error message: the first dozen, and how many there are beyond."""
    texts = [str(name) for name in names]
    text = ", ".join(texts[:12]) or "none"
    return text if len(texts) <= 12 else f"{text} and {len(texts) - 12} more"


class Arrays:
    """Arrays under a framework's names: each is checked as it is taken, and the errors name it.

    Parameters
    ----------
    arrays : mapping of str to array_like
    what : str
        What errors call the mapping.
    **sizes : int
        Sizes that are known, by the letters that the shapes use. Others are found as arrays are taken.

    Examples
    --------
    >>> import numpy as np
    >>> arrays = Arrays({"w": np.ones((6, 5)), "u": np.ones((6, 3))}, "state_dict")
    >>> w = arrays.take("w", "3H D")
    >>> arrays.sizes
    {'H': 2, 'D': 5}
    >>> arrays.take("u", "3H H")
    Traceback (most recent call last):
    ValueError: u: expected shape (3H, H) = (6, 2), got (6, 3)
    """

    def __init__(self, arrays: Mapping[str, Any], what: str, **sizes: int) -> None:
        if not hasattr(arrays, "keys"):
            raise TypeError(f"{what}: expected a mapping of names to arrays, got {type(arrays).__name__}")
        self.arrays, self.what, self.sizes = arrays, what, sizes
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def take(self, name: str, shape: str) -> Array:
        """The array of this name and shape, such as "3H D" or "D+H 2H"; letters not yet known are found from it.

        Raises
        ------
        TypeError, ValueError
            If there is no such array, its shape does not fit or it does not hold floating-point numbers.
        """
        if name not in self.arrays:
            raise ValueError(f"{self.what}: expected an array {name!r}, got {some(self.arrays)}")
        self._taken.add(name)
        array = as_weight(self.arrays[name], name)
        check_shape(array, name, shape, self.sizes)
        return array

    def take_if_there(self, name: str, shape: str) -> Array | None:
        """As `take`, or None where there is no array of this name, or None stands for it."""
        if self.arrays.get(name) is not None:
            return self.take(name, shape)
        self._taken.add(name)
        return None

    def finish(self, names: Iterable[str] | None = None) -> None:
        """Refuse arrays that nobody took, of these names or of all: with them it would be another layer."""
        for name in self.arrays if names is None else names:
            if name not in self._taken:
                expected = some(sorted(map(str, self._taken)))
                raise ValueError(f"{self.what}: expected {expected} and no others, got {name!r} as well")


def check_shape(array: AnyArray, name: str, shape: str, sizes: dict[str, int]) -> None:
    """ValueError unless `array` has this shape, words such as "3H" or "D+H"; letters missing from `sizes` are added."""
    words = shape.split()
    fits = array.ndim == len(words)
    for size, word in zip(array.shape, words, strict=False):
        fits = _fits(size, word, sizes) and fits
    if not fits:
        known = tuple(_size(word, sizes) for word in words)
        text = f"({', '.join(words)}{',' if len(words) == 1 else ''})"
        if text != str(known).replace("'", ""):
            text += f" = {known}".replace("'", "")
        raise ValueError(f"{name}: expected shape {text}, got {array.shape}")


def _terms(word: str) -> list[tuple[int, str]]:
    """[(factor, letter or "")] of a word such as "2H", "D+H" or "3"."""
    terms = [re.fullmatch(r"(\d*)([A-Z]?)", term) for term in word.split("+")]
    return [(int(term[1] or 1), term[2]) for term in terms if term is not None]


def _fits(size: int, word: str, sizes: dict[str, int]) -> bool:
    """Whether this size is that of the word; one unknown letter is found from it."""
    unknown = [(factor, letter) for factor, letter in _terms(word) if letter and letter not in sizes]
    rest = size - sum(factor * sizes.get(letter, 0 if letter else 1) for factor, letter in _terms(word))
    if not unknown:
        return rest == 0
    (factor, letter), *others = unknown
    if others or rest % factor or rest < factor:
        return False
    sizes[letter] = rest // factor
    return True


def _size(word: str, sizes: Mapping[str, int]) -> int | str:
    """The size of a word as an int, or the word where a letter is unknown."""
    if any(letter and letter not in sizes for _, letter in _terms(word)):
        return word
    return sum(factor * sizes.get(letter, 1) for factor, letter in _terms(word))


# -- nested mappings, several cells in one of them


def flatten(nested: Any, what: str) -> dict[str, Any]:
    """One flat dict of nested mappings: {"a": {"b": x}} becomes {"a/b": x}."""
    if not hasattr(nested, "keys"):
        raise TypeError(f"{what}: expected a mapping of names to arrays, got {type(nested).__name__}")
    flat: dict[str, Any] = {}
    # The items of a dict may be placeholders for what cannot be read, which may never be asked for.
    items = nested.items() if isinstance(nested, dict) else ((name, nested[name]) for name in nested)
    for name, value in items:
        if hasattr(value, "keys"):
            flat |= {f"{name}/{rest}": array for rest, array in flatten(value, what).items()}
        else:
            flat[str(name)] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        *path, last = name.split("/")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = array
    return nested


def each_cell(weights: Any, known: str | tuple[str, ...], prefix: Any, what: str) -> list[dict[str, Any]]:
    """[flat dict of the arrays of a cell] for one or more cells, each with the names from its own prefix on.

    Parameters
    ----------
    weights : mapping, or list of mappings, one for each cell
        Nested or flat; a mapping may be of something bigger that holds the cell.
    known : str or tuple of str
        An array that every cell has, by which it is found; or the names that it may have.
    prefix : str, list of str, or None
        What the names of the one cell begin with, or, all in one mapping, those of each cell; None where there is but
        one cell in a mapping.
    what : str
        What errors call the mapping.
    """
    if isinstance(weights, (list, tuple)):
        if not weights:
            raise ValueError(f"{what}: expected at least one cell, got an empty list")
        return [_under(flatten(part, what), known, prefix, what) for part in weights]
    flat = flatten(weights, what)
    prefixes = prefix if isinstance(prefix, (list, tuple)) else [prefix]
    return [_under(flat, known, one, what) for one in prefixes]


def _under(flat: Mapping[str, Any], known: str | tuple[str, ...], prefix: str | None, what: str) -> dict[str, Any]:
    known = known if isinstance(known, tuple) else (known,)
    starts = [name[: -len(last)] for last in known for name in flat if f"/{name}".endswith(f"/{last}")]
    if prefix is not None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: expected a str for each mapping, got {prefix!r}")
        starts = [start for start in starts if start.rstrip("/") == prefix.rstrip("/")]
    if not starts:
        below = f" below {prefix!r}" if prefix else ""
        raise ValueError(f"{what}: expected an array {known[0]!r}{below}, got {some(flat)}")
    if len(starts) > 1:
        raise ValueError(f"prefix: expected one of {[start.rstrip('/') for start in starts]}, got None")
    (start,) = starts
    return {name[len(start) :]: array for name, array in flat.items() if name.startswith(start)}
