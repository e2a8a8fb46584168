"""The checks of arguments that everybody uses: each returns the checked value, and its error names the argument as the
caller knows it, what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgru.typing import AnyArray, Array, BoolArray, DType, IntArray, Shape


def check_int(value: SupportsIndex, name: str, minimum: int = 0) -> int:
    """Return `value` as an int of at least `minimum`; TypeError or ValueError names the argument."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number


def check_recompute(value: SupportsIndex | str | None, training: bool = True) -> int | Literal["auto"] | None:
    """Return `value` as what a layer's `recompute` may be; TypeError or ValueError names it."""
    expected = "recompute: expected a number of steps, at least 1, 'auto' or None"
    if value is None:
        return None
    number: int | Literal["auto"] = "auto"
    if isinstance(value, str):
        if _plain(value) != "auto":
            raise ValueError(f"{expected}, got {value!r}")
    else:
        try:
            number = check_int(value, "recompute", 1)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{expected}, got {value!r}") from None
    if not training:
        raise ValueError(f"recompute: expected None beside training=False, which keeps nothing, got {value!r}")
    return number


def check_bool(value: bool, name: str) -> bool:
    """Return `value` as a bool; anything but True and False is a TypeError that names the argument."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {value!r}")


def check_name(value: str, name: str, allowed: Iterable[str], other: str = "") -> Any:
    """Return which of the strings `allowed` is meant by `value`, in any case, with or without "_" and "-"; the
    ValueError names the argument, lists them, and says what `other` thing would do."""
    if isinstance(value, str):
        for known in allowed:
            if _plain(known) == _plain(value):
                return known
    got = repr(value)
    if isinstance(value, type):
        got = f"the class {value.__name__}" + (f": write {value.__name__}(...)" if other else "")
    raise ValueError(f"{name}: expected one of {sorted(allowed)}{other}, got {got}")


def _plain(text: str) -> str:
    return text.casefold().replace("_", "").replace("-", "")


def check_number(value: float, name: str) -> float:
    """Return `value`, a real number and no bool, as a float; TypeError or ValueError names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number in the range of float64, got one beyond it") from None


def check_positive(value: float, name: str) -> float:
    """Return `value` as a positive, finite float; TypeError or ValueError names the argument."""
    if not 0 < check_number(value, name) < math.inf:
        raise ValueError(f"{name}: expected a positive, finite number, got {value!r}")
    return float(value)


def check_finite(value: float, name: str, minimum: float = -math.inf) -> float:
    """Return `value` as a finite float of at least `minimum`; TypeError or ValueError names the argument."""
    if not minimum <= check_number(value, name) < math.inf or value == -math.inf:
        least = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise ValueError(f"{name}: expected a finite number{least}, got {value!r}")
    return float(value)


def check_dtype(dtype: DType) -> np.dtype[Any]:
    """Return np.dtype float32 or float64; anything else is a ValueError."""
    named = dtype.casefold() if isinstance(dtype, str) else None
    try:
        checked: np.dtype[Any] | None = np.dtype(named if named in ("float32", "float64") else dtype)
    except (TypeError, ValueError, SyntaxError):  # the last of "f4,,f4", which NumPy parses as Python
        checked = None
    if dtype is None or checked not in (np.float32, np.float64):  # np.dtype(None) is float64
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return checked


def check_rate(rate: float, name: str) -> float:
    """Return `rate` as a float with 0 <= rate < 1; TypeError or ValueError names the argument."""
    if not 0 <= check_number(rate, name) < 1:
        raise ValueError(f"{name}: expected a number of at least 0 and less than 1, got {rate!r}")
    return float(rate)


def shape_text(shape: Shape) -> str:
    """A shape as messages show it: (N, T, 3), where a size may be a name."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def model_text(value: object) -> str:
    """What messages say of something that came where a model was expected: its type, and how to come to a model."""
    return type(value).__name__ + _model_advice(value)


def _model_advice(value: Any) -> str:
    if any(t.__module__.startswith("torch.nn") for t in type(value).__mro__):
        return " of PyTorch; cgru.from_torch converts it"
    place = ""
    while not hasattr(value, "model_"):  # estimators, in pipelines and searches of scikit-learn
        if hasattr(value, "best_estimator_"):
            value, place = value.best_estimator_, f"{place}.best_estimator_"
        elif getattr(value, "named_steps", None):
            value, place = value[-1], f"{place}[-1]"
        else:
            return ""
    return f"; its model is its {place}.model_"


def sequence_advice(shape: Shape, features: int | None = None, time_major: bool = False) -> str:
    """What to write where sequences (N, T, D) were expected and x of `shape` came; empty where that cannot be told.

    `features` is D where it is known.
    """
    if len(shape) == 1 and shape[0]:
        return f"; one series of one feature: give x[{':, None' if time_major else 'None, :'}, None]"
    if len(shape) == 2:
        advice = f"; one recording (T, D): give {'x[:, None]' if time_major else 'x[None] or [x]'}"
        if features in (None, 1):
            advice += f"; series of one feature {'(T, N)' if time_major else '(N, T)'}: give x[..., None]"
        return advice
    if len(shape) == 3 and features == shape[1] and not time_major:
        return "; features before time, (N, D, T): give x.swapaxes(1, 2)"
    return ""


# -- arrays


def shape_of(value: Any) -> Shape:
    """`np.shape`, and () of a class, whose `shape` is no shape."""
    return () if isinstance(value, type) else np.shape(value)


def as_array(value: ArrayLike, name: str, expected: str = "an array or list of arrays") -> AnyArray:
    """Return `value` as an aligned ndarray; an object array of numbers, as mixed columns give it, gets a type. The
    ValueError for lists of unequal lengths says what was `expected`."""
    if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(value).sum()
        if hidden:
            raise ValueError(f"{name}: expected no masked values, got {hidden}; {name}.filled(0) puts 0 for them")
    try:
        array = np.asarray(value)
    except ValueError:
        odd = next((v for v in value if not _is_part(v)), 0) if isinstance(value, list) else 0
        got = "nested lists of unequal lengths" if _is_part(odd) else f"a list with {odd!r} in it"
        raise ValueError(f"{name}: expected {expected}, got {got}") from None
    if array.dtype == object and array.ndim and all(map(_is_real, array.flat)):
        typed = np.array(array.tolist()).reshape(array.shape)
        return typed if typed.dtype != object else array.astype(np.float64)  # of Decimal, Fraction, huge integers
    return array if array.flags.aligned else array.copy()


def _is_part(value: object) -> bool:
    """Whether this may stand in a list that stands for an array."""
    return isinstance(value, (list, tuple, numbers.Number, np.bool_)) or hasattr(value, "__array__")


def _is_real(value: object) -> bool:
    if isinstance(value, numbers.Complex):
        return isinstance(value, numbers.Real)
    return isinstance(value, (numbers.Number, np.bool_))  # Decimal is a Number and nothing more


def whole_numbers(array: AnyArray, name: str, valid: BoolArray | None = None, numbering: str | None = None) -> IntArray:
    """Return labels as integers: whole floats and bools are taken. Where `valid` is False they may hold anything, and
    become 0. `numbering` is the code that numbers labels of other types, if it is not the usual one."""
    kind = array.dtype.kind
    if kind in "iu":
        return array
    if kind not in "bf" and array.size:
        numbering = numbering or f"classes, {name} = np.unique({name}, return_inverse=True)"
        raise TypeError(f"{name}: expected integer labels, got dtype {array.dtype}; number them: {numbering}")
    if kind == "f":
        counted = array if valid is None else array[valid]
        whole = (counted == np.floor(counted)) & (np.abs(counted) < np.float64(2**53))
        broken = counted[~whole]  # NaN as well
        if broken.size:
            raise ValueError(f"{name}: expected integer labels, got {broken.flat[0]}")
    if valid is not None:
        array = np.where(valid, array, 0)
    return array.astype(np.intp)


def real_numbers(
    array: AnyArray, name: str, dtype: Any = None, valid: BoolArray | None = None, mapping: str | None = None
) -> Array:
    """Return labels as finite numbers of `dtype`, float64 if it is None. Where `valid` is False on the first axes they
    may hold anything, and become 0. `mapping` is the code that makes numbers of labels of other types."""
    dtype = np.dtype(np.float64 if dtype is None else dtype)
    if array.dtype.kind not in "fiub" and array.size:
        mapping = mapping or f"{name} = np.asarray({name}, float)"
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}; make them: {mapping}")
    if valid is not None:
        array = np.where(valid.reshape(valid.shape + (1,) * (array.ndim - valid.ndim)), array, 0)
    with np.errstate(over="ignore"):
        found = array.astype(dtype, copy=False)
    wrong = ~np.isfinite(found)
    if wrong.any():
        raise ValueError(f"{name}: expected finite numbers in {dtype}, got {array[wrong].flat[0]}")
    return found


def without_column(array: AnyArray, shape: Shape) -> AnyArray:
    """Return `array` as (..., M) if it is (..., M, 1) where `shape` has no such axis."""
    return array[..., 0] if array.shape == (*shape, 1) else array


# -- outputs, labels and weights


def as_outputs(outputs: ArrayLike) -> Array:
    """Return outputs (N, K) or (N, T, K) as an array of float32 or float64."""
    array = np.asarray(outputs)
    if array.ndim not in (2, 3):
        raise ValueError(f"outputs: expected shape (N, K) or (N, T, K), got {array.shape}")
    native = array.dtype.newbyteorder("=")
    if native in (np.float32, np.float64):
        array = array.astype(native, copy=False)
        return array if array.flags.aligned else array.copy()
    if array.dtype.kind not in "fiub":
        raise TypeError(f"outputs: expected real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def counted_rows(
    outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None, kind: str | None = None
) -> tuple[Array, AnyArray]:
    """Return the outputs (M, K) and the labels, (M,) or (M, K), that count, after checking them; valid None means all.
    Without a `kind` (see `counted_labels`) the shape of the labels tells it."""
    outputs, labels = as_outputs(outputs), as_array(labels, "labels")
    shape = outputs.shape
    valid = as_valid(valid, shape[:-1])
    if kind is None:
        kind = "values" if like_outputs(labels, shape).shape == shape else "classes"
    counted = counted_labels(shape, labels, valid, kind, outputs.dtype)
    return outputs.reshape(-1, shape[-1]) if valid is None else outputs[valid], counted


def as_valid(valid: Any, shape: Shape) -> BoolArray | None:
    """Return what tells which rows or steps count, bools of this shape, after checking it; None means all."""
    if valid is None:
        return None
    array = as_array(valid, "valid")
    if array.dtype != bool:
        raise TypeError(f"valid: expected dtype bool, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"valid: expected shape {shape}, that of the outputs without its last axis, got {array.shape}")
    return array


def counted_labels(
    shape: Shape, labels: ArrayLike, valid: BoolArray | None, kind: str = "classes", dtype: Any = None
) -> AnyArray:
    """Return the labels that count, after checking them against the shape of the outputs; valid None means all.

    `kind` is "classes", integers (M,) below the number of outputs, or "values", numbers (M, K) of `dtype`.
    """
    labels = as_array(labels, "labels")
    if kind == "values":
        labels = like_outputs(labels, shape)
        if labels.shape != shape:
            raise ValueError(f"labels: expected shape {shape}, that of the outputs, got {labels.shape}")
        found = real_numbers(labels, "labels", dtype, valid)
        return found.reshape(-1, shape[-1]) if valid is None else found[valid]
    labels = without_column(labels, shape[:-1])
    if labels.shape != shape[:-1]:
        raise ValueError(f"labels: expected shape {shape[:-1]} for outputs {shape}, got {labels.shape}")
    numbers = whole_numbers(labels, "labels", valid)
    counted = numbers.reshape(-1) if valid is None else numbers[valid]
    check_label_range(counted, shape[-1])
    return counted


def like_outputs(labels: AnyArray, shape: Shape) -> AnyArray:
    """Return labels without a last axis with one, where the outputs have one value there."""
    return labels[..., None] if shape[-1] == 1 and labels.shape == shape[:-1] else labels


def check_label_range(labels: AnyArray, classes: int, name: str = "labels") -> None:
    """Raise ValueError unless every one of `labels` (M,) is at least 0 and less than `classes`."""
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        advice = "; for one output and labels 0 and 1 take the loss 'binary_crossentropy'" if classes == 1 else ""
        raise ValueError(
            f"{name}: expected at least 0 and less than {classes}, the number of outputs, got {wrong}{advice}"
        )


def check_unit_range(labels: AnyArray, name: str) -> None:
    """Raise ValueError unless every one of `labels` is a probability."""
    wrong = labels[(labels < 0) | (labels > 1)]
    if wrong.size:
        advice = ""
        if set(np.unique(labels).tolist()) == {-1, 1}:
            advice = f"; for labels of -1 and 1 give ({name} + 1) / 2"
        elif (labels == np.floor(labels)).all() and labels.min() >= 0:
            advice = "; for class numbers take the loss 'sparse_categorical_crossentropy' and an output for each class"
        raise ValueError(f"{name}: expected probabilities, from 0 to 1, got {wrong.flat[0]}{advice}")


def counted_weights(weights: ArrayLike, shape: Shape, valid: BoolArray | None, name: str = "weights") -> Array:
    """Return the weights (M,) in float64 of what counts, after checking them against the shape of the outputs without
    its last axis, (N,) or (N, T); weights (N,) are those of whole rows."""
    array = as_array(weights, name)
    if len(shape) == 2 and array.shape == shape[:1]:
        array = np.broadcast_to(array[:, None], shape)
    if array.shape != shape:
        steps = f" or {shape}" if len(shape) == 2 else ""
        raise ValueError(f"{name}: expected shape {shape[:1]}{steps}, got {array.shape}")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    counted = (array.reshape(-1) if valid is None else array[valid]).astype(np.float64)
    wrong = ~((counted >= 0) & (counted < np.inf))
    if wrong.any():
        raise ValueError(f"{name}: expected finite numbers of at least 0, got {counted[wrong][0]}")
    return counted


def check_classes(values: ArrayLike, name: str, classes: int) -> NDArray[np.intp]:
    """Return class numbers (M,) as integers of at least 0 and less than `classes`; the ValueError names them.

    Whole numbers of any type will do, a column (M, 1) as well.
    """
    advice = ""
    array = as_array(values, name, "a flat list of integers")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        if array.ndim > 1 and array.shape[-1] == classes:
            advice = "; of a model's outputs take outputs.argmax(axis=-1)"
        raise ValueError(f"{name}: expected shape (M,), a class for each example, got {array.shape}{advice}")
    whole = array.dtype.kind in "iub" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
    if not whole:
        if array.dtype.kind in "USO":
            advice = "; np.unique(labels, return_inverse=True) numbers them"
        got = f"{array[array != np.floor(array)][0]}" if array.dtype.kind == "f" else f"dtype {array.dtype}"
        raise ValueError(f"{name}: expected integers from 0 to {classes - 1}, got {got}{advice}")
    wrong = (array < 0) | (array >= classes)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{name}: expected integers from 0 to {classes - 1}, as classes = {classes} says, "
            f"got {array[at]} at index {at}"
        )
    return array.astype(np.intp)
