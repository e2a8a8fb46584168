"""The next values of series: GRUForecaster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_array, check_is_fitted

from cgru.checks import check_bool, check_int, shape_text
from cgru.sequences import check_columns
from cgru.sklearn.base import Examples, GRUEstimator, all_or_nothing, store
from cgru.sklearn.inputs import Sequences, axes, check_no_dates, check_unmasked, check_values, listed
from cgru.sklearn.scaler import SequenceScaler
from cgru.typing import AnyArray, Array, DType, IntArray, LearningRate, OptimizerName, Recompute

if TYPE_CHECKING:
    from typing_extensions import Self


class _Series(NamedTuple):
    values: list[Array]  # (T_i, K)
    one: bool  # whether it came as one series
    axis: bool  # whether it came with an axis for its K values


class GRUForecaster(GRUEstimator):
    """Forecast the next values of one series, or of each of many.

    A window of the series goes in, all `horizon` values behind it come out at once: no forecast is made from another
    one.

    Parameters
    ----------
    hidden_size : int
    window : int
        Values that a forecast is made from.
    horizon : int
        Values that are forecast.
    scale : bool
        Whether y and X are brought to mean 0 and standard deviation 1, by what training has, and forecasts back.
    num_layers, bidirectional, reset_after, dropout, pooling, batch_size, max_iter, learning_rate_init, solver, alpha
        As `GRUClassifier`. With X `pooling` has to be "last".
    clipnorm, n_iter_no_change, tol, warm_start, random_state, dtype, recompute, verbose
        As `GRUClassifier`.
    early_stopping, validation_fraction
        As `GRURegressor`; what is held back are the last windows of each series.

    Attributes
    ----------
    n_features_in_ : int
        Values of y at each step.
    model_, loss_curve_, validation_scores_, n_iter_, best_iter_
        As those of `GRURegressor`; the model works on what was scaled.
    y_scaler_, X_scaler_ : SequenceScaler or None

    Notes
    -----
    y is one series (T,), or (T, K) of K values; or many: a list of those, of any lengths, or (N, T, K). X holds what
    else is known of each step, also of those to come: (T, M), or a list for a list. NaN and infinities are refused.

    Where metadata routing is on, `cross_val_score` and searches hand on as X what they are given as `exogenous`.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import GRUForecaster
    >>> y = np.sin(np.arange(300) / 5) + 7
    >>> forecaster = GRUForecaster(16, window=30, horizon=10, max_iter=30, tol=0.001, random_state=0).fit(y)
    >>> bool(np.abs(forecaster.predict(10) - np.sin(np.arange(300, 310) / 5) - 7).max() < 0.2)
    True
    """

    __metadata_request__fit: ClassVar[dict[str, str]] = {"X": "exogenous"}  # a search has an X of its own
    __metadata_request__partial_fit: ClassVar[dict[str, str]] = {"X": "exogenous"}
    __metadata_request__score: ClassVar[dict[str, str]] = {"X": "exogenous"}
    _monitor, _activation, _loss = "val_r2_score", "linear", "mse"
    _size: tuple[int, int]  # window and horizon of the model
    _M: int | None  # columns of X
    _names: dict[str, list[Any] | None]  # of the columns of y and X

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        window: int = 48,
        horizon: int = 12,
        scale: bool = True,
        num_layers: int = 1,
        bidirectional: bool = False,
        reset_after: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        batch_size: int = 32,
        max_iter: int = 200,
        learning_rate_init: LearningRate = 0.003,
        solver: OptimizerName = "adam",
        alpha: float = 0.0,
        clipnorm: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: Any = None,
        dtype: DType = "float32",
        recompute: Recompute = None,
        verbose: bool = False,
    ) -> None:
        store(self, locals())

    def fit(self, y: Any, X: Any = None) -> Self:
        """Train on all windows of the series y, with X beside them; forecasts go on from where they end.

        Raises
        ------
        TypeError, ValueError
            If a setting or an argument does not fit, or a series is shorter than `window` and `horizon` together.
        """
        return self._fit(y, X)

    def partial_fit(self, y: Any, X: Any = None) -> Self:
        """Train for one epoch, going on from what there is. What scales y and X stays as the first call made it.

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        return self._fit(y, X, incremental=True)

    @all_or_nothing
    def _fit(self, y: Any, X: Any, incremental: bool = False) -> Self:
        self._check_settings()
        for name in ("window", "horizon"):
            check_int(getattr(self, name), name, 1)
        check_bool(self.scale, "scale")
        if y is None:
            raise ValueError("GRUForecaster requires y to be passed, but the target y is None.")
        goes_on = self._goes_on(incremental)
        if goes_on and self._size != (self.window, self.horizon):
            raise ValueError(f"window, horizon: expected {self._size}, as in the call of fit before")
        size = self.window + self.horizon
        if not goes_on:
            self._names = {}
        series = self._series(y, "y", self.n_features_in_ if goes_on else None, size, "window + horizon")
        others = self._others(X, [len(v) for v in series.values], series.one, goes_on)
        self._size = self.window, self.horizon
        if not goes_on:
            self.n_features_in_ = series.values[0].shape[1]
            self._M = None if others is None else others[0].shape[1]
            self.y_scaler_ = SequenceScaler().fit(series.values) if self.scale else None
            self.X_scaler_ = SequenceScaler().fit(others) if self.scale and others is not None else None
            self._each_step = others is not None
        windows, counts = self._windows(series.values, others)
        held = self._last(counts) if self.early_stopping else None
        outputs = self.n_features_in_ * (1 if self._each_step else self.horizon)
        self._train(windows, outputs, incremental, held=held)
        self._ends = [values[-self.window :] for values in series.values]
        self._X_ends = None if others is None else [values[-self.window :] for values in others]
        self._one, self._axis = series.one, series.axis
        return self

    def predict(self, h: int | None = None, X: Any = None, y: Any = None) -> AnyArray:
        """Return the h values after the end of y.

        Parameters
        ----------
        h : int, optional
            From 1 to `horizon`, which it is unless it is given.
        X : array_like of shape (h, M), or a list of those for many series; optional
            What is known of the steps that are forecast; where `fit` had X. Beside y (T + h, M): of y's steps as well.
        y : array_like or list, optional
            Other series to go on from than those of `fit`, of at least `window` values.

        Returns
        -------
        ndarray of shape (h,) or (h, K), or (N, h) or (N, h, K) for many series

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        check_is_fitted(self, "model_")
        window, horizon = self._size
        h = horizon if h is None else check_int(h, "h", 1)
        if h > horizon:
            raise ValueError(f"h: expected at most the horizon of training, {horizon}, got {h}: fit with horizon={h}")
        if y is None:
            series = _Series(self._ends, self._one, self._axis)
            others = self._others(X, [h] * len(self._ends), self._one)
            if others is not None:
                others = [np.concatenate(pair) for pair in zip(self._X_ends or [], others, strict=True)]
        else:
            series = self._series(y, "y", self.n_features_in_, window, "window")
            others = self._others(X, [len(v) + h for v in series.values], series.one)
            others = None if others is None else [values[-window - h :] for values in others]
        windows = np.stack([self._scaled(values[-window:], self.y_scaler_, "y") for values in series.values])
        if others is not None:
            ahead = np.pad(windows, ((0, 0), (0, h), (0, 0)))
            scaled = np.stack([self._scaled(values, self.X_scaler_, "X") for values in others])
            windows = _joined(ahead, scaled, window)
        found = self._forecasts(windows, h)
        found = found if series.axis else found[..., 0]
        return found[0] if series.one else found

    def score(self, y: Any, X: Any = None) -> float:
        """Return R^2 of the forecasts that are made from each window of the series."""
        check_is_fitted(self, "model_")
        series = self._series(y, "y", self.n_features_in_, sum(self._size), "window + horizon")
        others = self._others(X, [len(v) for v in series.values], series.one)
        windows, _ = self._windows(series.values, others)
        _, horizon = self._size
        true = windows.y[:, -horizon:] if self._each_step else windows.y
        found = self._forecasts(windows.x.x, horizon)
        return float(r2_score(self._unscaled(true).reshape(-1), found.reshape(-1)))

    # -- series

    def _series(self, values: Any, name: str, columns: int | None, least: int = 0, what: str = "") -> _Series:
        """Series of at least so many steps as a list of arrays (T_i, K)."""
        check_unmasked(values, name)
        rows = listed(values)
        if rows is None and axes(values) == 3:
            rows = list(np.asarray(values))
        one = rows is None
        rows = [values] if rows is None else rows
        check_columns(rows, name)
        arrays: list[Array] = []
        axis = axes(rows[0]) == 2
        for i, row in enumerate(rows):
            own = name if one else f"{name}[{i}]"
            check_unmasked(row, own)
            check_no_dates(row, own)
            if axes(row) not in (1, 2):
                raise ValueError(f"{own}: expected shape (T,) or (T, K), got {shape_text(np.shape(row))}")
            array = check_array(row, ensure_2d=False, dtype="numeric", input_name=own, ensure_min_samples=0)
            check_values(None, array, own)
            if array.ndim != 1 + axis:
                raise ValueError(f"{own}: expected as many axes as those before, {1 + axis}, got {array.ndim}")
            array = array if axis else array[:, None]
            expected = columns or (arrays[0].shape[1] if arrays else array.shape[1])
            wide = array.shape[1] > max(len(array), least)
            swapped = "; values before time? give the transpose (T, K)" if wide else ""
            if array.shape[1] != expected:
                raise ValueError(f"{own}: expected {expected} values a step, got {array.shape[1]}{swapped}")
            if len(array) < least:
                raise ValueError(f"{own}: expected at least {what} = {least} values, got {len(array)}{swapped}")
            arrays.append(array)
        names = next((list(row.columns) for row in rows if hasattr(row, "columns")), None)
        known = self._names.setdefault(name, names)
        if names and known and names != known:
            raise ValueError(f"{name}: expected the columns {known}, as fit had, got {names}")
        return _Series(arrays, one, axis)

    # -- windows

    def _others(self, X: Any, steps: list[int], one: bool, fitted: bool = True) -> list[Array] | None:
        """X as a list of arrays (T_i, M), checked; None if there is none."""
        M = self._M if fitted else None
        if fitted and (X is None) != (M is None):
            wanted, got = ("none", "some") if M is None else ("what is known of each step", "none")
            raise ValueError(f"X: expected {wanted}, as fit had, got {got}")
        if X is None:
            return None
        found = self._series(X, "X", M)
        if found.one != one:
            wanted, got = ("an array", "a list") if one else ("a list of arrays", "one array")
            raise ValueError(f"X: expected {wanted}, as y is, got {got}")
        if len(found.values) != len(steps):
            raise ValueError(f"X: expected {len(steps)} series, as y has, got {len(found.values)}")
        for i, (values, count) in enumerate(zip(found.values, steps, strict=True)):
            if len(values) != count:
                raise ValueError(f"{'X' if one else f'X[{i}]'}: expected {count} steps, got {len(values)}")
        return found.values

    def _windows(self, series: list[Array], others: list[Array] | None) -> tuple[Examples, list[int]]:
        """Return all windows with what follows them, and how many there are of each series."""
        window, horizon = self._size
        size, K = window + horizon, self.n_features_in_
        parts = []
        for i, values in enumerate(series):
            values = self._scaled(values, self.y_scaler_, "y")
            if others is not None:
                values = np.concatenate([values, self._scaled(others[i], self.X_scaler_, "X")], axis=1)
            parts.append(sliding_window_view(values, size, axis=0).swapaxes(1, 2))
        counts = [len(part) for part in parts]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)  # a view of one series, a copy of many
        if others is None:
            return Examples(Sequences(whole[:, :window]), whole[:, window:].reshape(len(whole), -1)), counts
        weights = np.broadcast_to(np.where(np.arange(size) < window, 0.0, size / horizon), whole.shape[:2])
        known = np.array(whole[..., :K])
        known[:, window:] = 0
        return Examples(Sequences(_joined(known, whole[..., K:], window)), whole[..., :K], weights), counts

    def _last(self, counts: list[int]) -> tuple[IntArray, IntArray]:
        """The first windows of each series, and the last, of whose forecasts the first have none."""
        rows, held, begin = [], [], 0
        for count in counts:
            kept = round(count * (1 - self.validation_fraction))
            rows.append(begin + np.arange(kept - self.horizon + 1))
            held.append(begin + np.arange(kept, count))
            begin += count
        first, last = np.concatenate(rows), np.concatenate(held)
        if not len(first) or not len(last):
            raise ValueError(
                f"early_stopping, validation_fraction={self.validation_fraction}: expected windows to train with and "
                f"to hold back, got {len(first)} and {len(last)} of {sum(counts)}"
            )
        return first, last

    def _metric(self) -> Any:
        return _LastSteps(sum(self._size), self.horizon) if self._each_step else _LastSteps(1, 1)

    def _scored(self, part: Examples) -> int:
        return len(part.y) * self.horizon * self.n_features_in_

    def _scaled(self, values: Array, scaler: SequenceScaler | None, name: str) -> Array:
        scaled = values if scaler is None else (values - scaler.mean_) / scaler.scale_
        check_values(self, scaled, name)
        return scaled.astype(self.dtype)

    def _unscaled(self, values: Array) -> Array:
        values = values.reshape(len(values), -1, self.n_features_in_).astype(np.float64)
        return values if self.y_scaler_ is None else values * self.y_scaler_.scale_ + self.y_scaler_.mean_

    def _forecasts(self, windows: Array, h: int) -> Array:
        """Return (N, h, K) in the units of y."""
        outputs = self._run(Sequences(windows))
        return self._unscaled(outputs[:, -h:] if self._each_step else outputs)[:, :h]


class _LastSteps:
    """R^2 of the last steps of each sequence."""

    __name__ = "r2_score"

    def __init__(self, steps: int, last: int) -> None:
        self.steps, self.last = steps, last

    def __call__(self, y_true: AnyArray, y_pred: AnyArray) -> float:
        true, found = (v.reshape(-1, self.steps, v.size // len(v))[:, -self.last :] for v in (y_true, y_pred))
        return float(r2_score(true.reshape(-1), found.reshape(-1)))


def _joined(known: Array, others: Array, window: int) -> Array:
    """y, zero where it is forecast, X, and 1 where it is forecast, beside each other."""
    ahead = np.broadcast_to((np.arange(known.shape[-2]) >= window)[:, None], (*known.shape[:-1], 1))
    return np.concatenate([known, others, ahead], axis=-1, dtype=known.dtype)
