"""Features of sequences on one scale."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from cgru.checks import check_bool
from cgru.sklearn.base import Request, all_or_nothing
from cgru.sklearn.inputs import axes, read

if TYPE_CHECKING:
    from typing_extensions import Self


class SequenceScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Bring each feature to mean 0 and standard deviation 1 over all steps of all training sequences.

    Parameters
    ----------
    with_mean, with_std : bool
        Whether to subtract the mean, and to divide by the standard deviation.
    channels_first : bool
        Whether sequences are (F, T): X is (N, F, T), or a list of (F, T_i) arrays. What comes out is, too.

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of shape (F,), or None
        As those of `sklearn.preprocessing.StandardScaler`.
    n_steps_seen_ : int
    n_features_in_ : int
        F; of 2-D X its T.

    Notes
    -----
    X is as `GRUClassifier` takes it; 2-D X (N, T) has one feature, and one mean. `transform` returns a list for a list,
    and an array of the same shape for an array, zero behind `lengths`. Floats keep their type. NaN and infinities are
    refused, but for those behind `lengths`. `set_output` acts on 2-D X; sequences stay arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import SequenceScaler
    >>> SequenceScaler().fit_transform([np.array([[1.0], [3.0]]), np.array([[5.0]])])
    [array([[-1.22474487],
           [ 0.        ]]), array([[1.22474487]])]
    """

    __metadata_request__fit: ClassVar[Request] = {"lengths": True}
    __metadata_request__partial_fit: ClassVar[Request] = {"lengths": True}
    __metadata_request__transform: ClassVar[Request] = {"lengths": True}
    __metadata_request__inverse_transform: ClassVar[Request] = {"lengths": True}

    def __init__(self, *, with_mean: bool = True, with_std: bool = True, channels_first: bool = False) -> None:
        self.with_mean, self.with_std, self.channels_first = with_mean, with_std, channels_first

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, lengths: ArrayLike | None = None) -> Self:
        """Learn the means and standard deviations of the features; y is not looked at."""
        for name in ("_scaler", "mean_"):
            self.__dict__.pop(name, None)
        return self.partial_fit(X, y, lengths)

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any = None, lengths: ArrayLike | None = None) -> Self:
        """Learn from more sequences, as if all had come at once."""
        for name in ("with_mean", "with_std", "channels_first"):
            check_bool(getattr(self, name), name)
        found = read(self, X, lengths, reset=not hasattr(self, "_scaler"))
        new, steps = StandardScaler(with_mean=self.with_mean, with_std=self.with_std), found.steps()
        scaler = copy.copy(getattr(self, "_scaler", new))
        self._scaler = scaler.partial_fit(steps) if len(steps) else scaler
        self.mean_, self.var_, self.scale_ = self._scaler.mean_, self._scaler.var_, self._scaler.scale_
        self.n_steps_seen_ = int(self._scaler.n_samples_seen_)
        return self

    def transform(self, X: Any, lengths: ArrayLike | None = None) -> Any:
        """Return the scaled sequences, in the form of X."""
        check_is_fitted(self, "mean_")
        return self._mapped(X, lengths, lambda steps: self._scaler.transform(steps))

    def fit_transform(self, X: Any, y: Any = None, lengths: ArrayLike | None = None) -> Any:
        """Learn from the sequences, and return them scaled."""
        return self.fit(X, y, lengths).transform(X, lengths)

    def inverse_transform(self, X: Any, lengths: ArrayLike | None = None) -> Any:
        """Return what `transform` scaled."""
        check_is_fitted(self, "mean_")
        return self._mapped(X, lengths, lambda steps: self._scaler.inverse_transform(steps))

    def _mapped(self, X: Any, lengths: Any, change: Any) -> Any:
        found = read(self, X, lengths)
        steps = found.steps()
        values = found.like(change(steps) if len(steps) else steps.astype(float))
        if found.flat:
            return values[..., 0]
        if not self.channels_first:
            return values
        return [value.T for value in values] if found.listed else values.swapaxes(1, 2)


def _beside_tables(method: Any) -> Any:
    """Leave sequences out of what scikit-learn makes of a 2-D result: the container that `set_output` asked for."""

    @functools.wraps(method.__wrapped__)
    def call(self: SequenceScaler, X: Any, *arguments: Any, **options: Any) -> Any:
        flat = axes(X[0]) == 1 if isinstance(X, (list, tuple)) and X else axes(X) == 2
        return (method if flat else method.__wrapped__)(self, X, *arguments, **options)

    return call


for _name in ("fit_transform", "transform"):
    setattr(SequenceScaler, _name, _beside_tables(getattr(SequenceScaler, _name)))
