"""What estimators take for X, in every form, checked as scikit-learn's users expect it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import assert_all_finite, check_array, validate_data

from cgru.checks import as_array, shape_text
from cgru.sequences import as_lengths, as_numeric, check_columns
from cgru.typing import AnyArray, IntArray

_MASKED = "; of whole steps at the end give X.data and lengths"


class Sequences(NamedTuple):
    """Sequences as a model takes them."""

    x: Any  # (N, T, F), or a list of N arrays (T_i, F)
    lengths: IntArray | None = None  # beside an array
    flat: bool = False  # whether they came as (N, T), of one feature

    @property
    def listed(self) -> bool:
        return isinstance(self.x, list)

    @property
    def counts(self) -> IntArray:
        """The number of steps of each."""
        if self.listed:
            return np.array([len(x) for x in self.x], np.intp)
        return np.full(len(self.x), self.x.shape[1], np.intp) if self.lengths is None else self.lengths

    @property
    def features(self) -> int:
        return int((self.x[0] if self.listed else self.x).shape[-1])

    def take(self, rows: IntArray) -> Sequences:
        x = [self.x[i] for i in rows] if self.listed else self.x[rows]
        return Sequences(x, None if self.lengths is None else self.lengths[rows], self.flat)

    def steps(self) -> AnyArray:
        """The steps of all sequences, (M, F), without what pads them."""
        return frames(self.x, self.counts, "X")

    def frames(self, values: Any, name: str) -> AnyArray:
        """`frames` of what stands beside X: beside an array without lengths, of as many steps."""
        T = None if self.listed or self.lengths is not None else self.x.shape[1]
        if listed(values) is None and axes(values) > 1 and T not in (None, np.shape(values)[1]):
            expected, turned = f"({len(self.counts)}, {T})", np.shape(values)[1] == self.features
            raise ValueError(
                f"{name}: expected shape {expected}, as X, got {shape_text(np.shape(values))}"
                f"{_turned(self.listed, self.features) if turned else ''}"
            )
        try:
            return frames(values, self.counts, name)
        except ValueError as error:
            rows = listed(values)
            if rows is None or {len(row) if axes(row) else 0 for row in rows} != {self.features}:
                raise
            raise ValueError(f"{error}{_turned(self.listed, self.features)}") from None

    def like(self, steps: AnyArray) -> Any:
        """What `steps` undoes: a value for each step, as a list, or an array with zeros in the padding."""
        if self.listed:
            return np.split(steps, np.cumsum(self.counts)[:-1])
        N, T = self.x.shape[:2]
        if self.lengths is None:
            return steps.reshape(N, T, *steps.shape[1:])
        padded = np.zeros((N, T, *steps.shape[1:]), steps.dtype)
        padded[np.arange(T) < self.lengths[:, None]] = steps
        return padded


def frames(values: Any, counts: IntArray, name: str) -> AnyArray:
    """What `values`, a list of N arrays (T_i, ...) or an array (N, T, ...), have for each of the steps that count, one
    sequence after the other: (M, ...).

    Raises
    ------
    ValueError
        Naming the sequence, if there are more or fewer.
    """
    rows = listed(values)
    if rows is None:
        values = as_array(values, name)
        if values.ndim < 2 or values.shape[0] != len(counts) or values.shape[1] < counts.max(initial=0):
            expected = f"({len(counts)}, {counts.max(initial=0)})"
            raise ValueError(f"{name}: expected a list of arrays (T_i,) or shape {expected}, got {values.shape}")
        if (counts == values.shape[1]).all():
            return values.reshape(counts.sum(), *values.shape[2:])
        return values[np.arange(values.shape[1]) < counts[:, None]]
    if len(rows) != len(counts):
        raise ValueError(f"{name}: expected {len(counts)} arrays, one for each sequence, got {len(rows)}")
    rows = [as_array(row, f"{name}[{i}]") for i, row in enumerate(rows)]
    full = [row for row in rows if len(row)] if all(row.ndim for row in rows) else []
    for i, (row, count) in enumerate(zip(rows, counts.tolist(), strict=True)):
        if row.ndim == 0 or len(row) != count:
            raise ValueError(f"{name}[{i}]: expected something for each of {count} steps, got shape {row.shape}")
        if count and row.shape[1:] != full[0].shape[1:]:
            raise ValueError(f"{name}[{i}]: expected as many axes and columns as {full[0].shape}, got {row.shape}")
        if count and (row.dtype.kind in "US") != (full[0].dtype.kind in "US"):
            raise TypeError(f"{name}[{i}]: expected {full[0].dtype}, as in those before, got {row.dtype}")
    return np.concatenate(full or rows)  # what is empty has no type of its own


def frame_weights(weights: Any, counts: IntArray) -> AnyArray | None:
    """Weights of the steps (M,), of weights of sequences (N,) or of steps."""
    if weights is None:
        return None
    if listed(weights) is None and axes(weights) == 1:
        weights = as_array(weights, "sample_weight")
        if len(weights) != len(counts):
            raise ValueError(f"sample_weight: expected shape ({len(counts)},) or of the steps, got {weights.shape}")
        return np.repeat(weights, counts)
    return frames(weights, counts, "sample_weight")


def axes(value: Any) -> int:
    """The number of axes of an array, of nested lists, or of a data frame."""
    try:
        ndim = getattr(value, "ndim", None)
        return ndim if isinstance(ndim, int) else np.asarray(value).ndim  # a class of arrays has another ndim
    except ValueError:  # lists of unequal lengths
        return 1 + max(axes(v) for v in value)


def listed(values: Any) -> list[Any] | None:
    """What has axes of its own in a list, a tuple or an array of objects, as a list; None for anything else."""
    if getattr(getattr(values, "dtype", None), "kind", "") == "O" and axes(values) == 1:
        values = list(values)
    return list(values) if isinstance(values, (list, tuple)) and any(axes(v) for v in values) else None


def read(estimator: Any, X: Any, lengths: Any = None, reset: bool = False) -> Sequences:
    """Return the `Sequences` of X, and with `reset` note in the estimator how many features they have.

    Raises
    ------
    TypeError, ValueError
        As scikit-learn's, if X holds something else than finite numbers, has no sequence, or other features than in
        `fit`; with advice where the shape shows what was meant.
    """
    first = bool(getattr(estimator, "channels_first", False))
    arrays = listed(X)
    if arrays is not None and first:  # columns are steps, and their names none of features
        arrays = [np.asarray(a) if hasattr(a, "columns") else a for a in arrays]
    if arrays is not None and all(axes(a) < 2 for a in arrays):
        if len({len(a) for a in arrays if axes(a)}) > 1:
            raise ValueError(
                "X: expected an array, or a list of arrays (T_i, F), got arrays (T_i,) of unequal lengths: one feature "
                "is array[:, None]"
            )
        arrays = None  # rows of (N, T)
    if arrays is not None:
        if lengths is not None:
            raise ValueError("lengths: a list X brings its own lengths, got another")
        found = _listed(estimator, arrays, first)
    elif axes(X) == 3:
        found = _padded(estimator, X, lengths, first)
    else:
        return _flat(estimator, X, lengths, reset)
    _check_features(estimator, found, X if arrays is None else arrays, reset)
    if reset and not found.counts.any():
        raise ValueError(f"Found array with 0 step(s) while a minimum of 1 is required by {_name(estimator)}.")
    return found


def _name(estimator: Any) -> str:
    return type(estimator).__name__


def _sentence(error: Exception) -> str:
    return str(error).rstrip(".")


def _listed(estimator: Any, values: Sequence[Any], first: bool) -> Sequences:
    check_columns(values, "X")
    arrays = [as_numeric(a, None, f"X[{i}]") for i, a in enumerate(values)]
    kinds = [a for a in arrays if a.shape != (0,)]  # [] is a sequence of any kind
    if kinds and kinds[0].ndim == 2:
        empty = np.empty((kinds[0].shape[0], 0) if first else (0, kinds[0].shape[1]))
        arrays = [empty if a.shape == (0,) else a for a in arrays]
    form = "(F, T_i)" if first else "(T_i, F)"
    for i, array in enumerate(arrays):
        if array.ndim != 2:
            advice = "; one feature is array[:, None]" if array.ndim == 1 and not first else ""
            raise ValueError(f"X[{i}]: expected an array {form}, got shape {shape_text(array.shape)}{advice}")
    if first:
        arrays = [array.T for array in arrays]
    sizes = [array.shape[1] for array in arrays]
    if len(set(sizes)) > 1:
        i = next(i for i, size in enumerate(sizes) if size != sizes[0])
        advice = ""
        if len({len(array) for array in arrays}) == 1:
            other = "leave channels_first=False" if first else "give channels_first=True, or [x.T for x in X]"
            advice = f"; the other axis is {len(arrays[0])} in all of them, as features are: {other}"
        raise ValueError(f"X[{i}]: expected {sizes[0]} features a step, as X[0] has, got {sizes[i]}{advice}")
    for i, array in enumerate(arrays):
        check_values(estimator, array, f"X[{i}]")
    return Sequences(arrays)


def check_values(estimator: Any, array: AnyArray, name: str = "X") -> None:
    """TypeError unless there are real numbers, and ValueError in scikit-learn's words where one is not finite, or will
    not be in the type of the model."""
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    dtype = np.dtype(getattr(estimator, "dtype", None) or array.dtype)
    if array.dtype.kind != "f" or not array.size:
        return
    if not np.isfinite(array).all():
        assert_all_finite(array, estimator_name=_name(estimator), input_name=name)
    if dtype.itemsize < array.dtype.itemsize and np.abs(array).max() > np.finfo(dtype).max:
        raise ValueError(f"Input {name} contains infinity or a value too large for {dtype!r}.")


def check_unmasked(values: Any, name: str, advice: str = "") -> None:
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise ValueError(f"{name}: expected no masked values, got a masked array{advice}")


def check_no_dates(frame: Any, name: str) -> None:
    """TypeError if a column of a data frame holds dates or times, which beside numbers NumPy has no type for."""
    if not hasattr(frame, "columns"):
        return
    for column, dtype in zip(frame.columns, getattr(frame, "dtypes", ()), strict=False):
        if getattr(dtype, "kind", "") in ("M", "m"):
            raise TypeError(f"{name}: expected real numbers, got dtype {dtype} in the column {column!r}")


@contextmanager
def of_one_shape(name: str) -> Iterator[None]:
    """Context in which NumPy's error about lists of unequal lengths tells whose they are."""
    try:
        yield
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ValueError(f"{name}: expected an array, got nested lists of unequal lengths") from None
        raise


def _padded(estimator: Any, X: Any, lengths: Any, first: bool) -> Sequences:
    check_unmasked(X, "X", _MASKED)
    with of_one_shape("X"):
        x = check_array(
            X, allow_nd=True, dtype="numeric", estimator=estimator, input_name="X", ensure_all_finite=False,
            ensure_min_features=0,
        )  # fmt: skip
    x = x.swapaxes(1, 2) if first else x
    if axes(lengths) == 1 and len(lengths) == x.shape[1] != len(x):
        raise ValueError(
            f"lengths: expected shape ({len(x)},), one for each row, got ({len(lengths)},); X has as many steps: time "
            "before sequences? give X.swapaxes(0, 1)"
        )
    found = Sequences(x, None if lengths is None else as_lengths(lengths, *x.shape[:2]))
    check_values(estimator, x if lengths is None else found.steps())
    return found


def _flat(estimator: Any, X: Any, lengths: Any, reset: bool) -> Sequences:
    """X (N, T), of one feature; or what scikit-learn refuses."""
    flat, name = getattr(estimator, "_flat", None), _name(estimator)
    if not reset and flat is False and axes(X) == 2:
        raise ValueError(
            f"X: expected sequences of {estimator.n_features_in_} features, as {name} was fitted on, a list of "
            f"(T_i, F) arrays or (N, T, F), got shape {shape_text(np.shape(X))}; one recording (T, F): give [X]; "
            "series of one feature (N, T): pass x[..., None] or a list for variable length"
        )
    check_unmasked(X, "X", _MASKED)
    check_no_dates(X, "X")
    try:
        with of_one_shape("X"):
            x = validate_data(estimator, X, reset=reset, dtype="numeric", ensure_all_finite=False)
    except ValueError as error:
        if f"but {name} is expecting" not in str(error):
            raise
        raise ValueError(
            f"{_sentence(error)}; 2-D X is (N, T) of one feature, and every T was {estimator.n_features_in_} in fit: "
            "pass x[..., None] or a list for variable length"
        ) from None
    if reset:
        estimator._flat = True
    found = Sequences(x[..., None], None if lengths is None else as_lengths(lengths, *x.shape), flat=True)
    check_values(estimator, x if lengths is None else found.steps())
    return found


def _check_features(estimator: Any, found: Sequences, X: Any, reset: bool) -> None:
    """Note the number of features and their names, or compare them with those of `fit`."""
    features, name = found.features, _name(estimator)
    if features == 0:
        raise ValueError(f"Found array with 0 feature(s) while a minimum of 1 is required by {name}.")
    if reset:
        estimator._flat = False
    elif estimator._flat:
        if features != 1:
            raise ValueError(
                f"X has {features} features a step, but {name} is expecting 1 feature: it was fitted on an array (N, "
                f"{estimator.n_features_in_}) of one feature"
            )
        return
    sample = X[0] if found.listed and hasattr(X[0], "columns") else np.empty((1, features))
    try:
        validate_data(estimator, sample, reset=reset, skip_check_array=True)
    except ValueError as error:
        expected = estimator.n_features_in_
        if f"but {name} is expecting" not in str(error):
            raise
        steps = found.counts[0]
        advice = ""
        if expected == steps and (found.listed or found.lengths is None):
            advice = _turned(found.listed, expected, "steps", getattr(estimator, "channels_first", False))
        raise ValueError(f"{_sentence(error)}{advice}") from None


def _turned(listed: bool, count: int, of: str = "features", first: bool = False) -> str:
    """What to do where X has so many of the steps or features that the other ought to be."""
    one, many = ("[x.T for x in X]", "lists of (F, T_i)") if listed else ("X.swapaxes(1, 2)", "(N, F, T)")
    give = "" if first else f"give {one}; "
    return f"; X has {count} {of}: features before time? {give}channels_first=True is for {many}"


def check_count(found: Sequences, y: Any, name: str = "y") -> None:
    """ValueError unless there are as many `y` as sequences."""
    if not axes(y):
        raise ValueError(f"{name}: expected something for each sequence, got {y!r}")
    count, other = len(found.counts), len(y)
    if count == other:
        return
    advice = ""
    if not found.listed and found.x.shape[1] == other:
        advice = "; X has as many steps: time before sequences? give X.swapaxes(0, 1)"
    raise ValueError(
        f"Found input variables with inconsistent numbers of samples: {[count, other]}: X has {count} sequences, "
        f"{name} {other}{advice}"
    )
