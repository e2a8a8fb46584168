"""What a loss is: a mean over the rows, or over the valid steps, and its gradient.

It sees the outputs (N, K) or (N, T, K), labels of its kind, which steps are valid and what each weighs; a subclass
sees only the (M, K) rows that count.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import as_outputs, as_valid, check_unit_range, counted_rows, counted_weights
from cgru.configured import Configured
from cgru.typing import AnyArray, Array, BoolArray, IntArray


class Loss(Configured):
    """Base class of the losses, and of your own: a mean over what counts.

    A subclass implements `values` and `gradients` on rows, which is all that a model needs: padding, masks and weights
    are dealt with here. It says by `labels` what labels look like.

    Attributes
    ----------
    name : str
        What messages call it.
    labels : {"values", "classes"}
        "values": finite numbers, one for each output, (M, K). "classes": integers (M,) of at least 0 and less than K.
    distribution : {None, "binary", "categorical"}
        What the outputs are: numbers; a probability each; or the probabilities of K classes. With "values" the labels
        are then checked to be probabilities. It also says what metrics make of the outputs.

    Notes
    -----
    A subclass that knows the gradient before the activation of the last layer in closed form may name the activation in
    `fused_activation` and implement `logit_gradients`. Models also use `logit_values`, where outputs alone would not do
    in floating point, and `replace_logits`, which is activation, loss and gradient in one pass, from a class that has
    them. A class that has `values` or `gradients` of its own loses those of its bases.

    Examples
    --------
    The pinball loss, whose minimum is a quantile:

    >>> import numpy as np, cgru
    >>> class Pinball(cgru.losses.Loss):
    ...     name, labels = "pinball", "values"
    ...     def __init__(self, quantile):
    ...         self.quantile = quantile
    ...     def values(self, outputs, labels):
    ...         error = labels - outputs
    ...         return np.maximum(self.quantile * error, (self.quantile - 1) * error).mean(axis=1)
    ...     def gradients(self, outputs, labels):
    ...         return ((outputs > labels) - self.quantile) / outputs.shape[1]
    >>> Pinball(0.9)(np.array([[1.0], [2.0]]), np.array([2.0, 0.0]))
    0.55
    """

    name = "loss"
    labels: Literal["values", "classes"] = "values"
    distribution: Literal["binary", "categorical"] | None = None
    fused_activation: str | None = None
    _known: frozenset[str] = frozenset()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)

        def depth(method: str) -> int:
            return next(i for i, owner in enumerate(cls.__mro__) if method in owner.__dict__)

        closest = min(depth("values"), depth("gradients"))
        optional = ("logit_gradients", "logit_values", "replace_logits")
        cls._known = frozenset(method for method in optional if depth(method) <= closest < depth("sum_of"))

    def knows(self, method: str) -> bool:
        """Whether the class has this one of the methods that it may lack."""
        return method in self._known

    # -- what a subclass implements

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        """Return the loss of each row, (M,).

        Parameters
        ----------
        outputs : ndarray of shape (M, K)
            Those of the model that count, float32 or float64; read-only. M may be 0.
        labels : ndarray of shape (M, K) and the type of the outputs, or integers (M,)
            As `labels` says; read-only.
        """
        raise NotImplementedError(f"{type(self).__name__} has no values(outputs, labels)")

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        """Return the gradient of each row's loss with respect to the outputs, (M, K). Arguments as in `values`."""
        raise NotImplementedError(f"{type(self).__name__} has no gradients(outputs, labels)")

    def logit_gradients(self, outputs: Array, labels: AnyArray) -> Array:
        """Return the same with respect to what `fused_activation` was applied to. Arguments as in `values`."""
        raise NotImplementedError(f"{type(self).__name__} has no logit_gradients(outputs, labels)")

    def logit_values(self, logits: Array, labels: AnyArray) -> Array:
        """Return the same as `values` from what `fused_activation` was applied to."""
        raise NotImplementedError(f"{type(self).__name__} has no logit_values(logits, labels)")

    def replace_logits(
        self, logits: Array, bias: Array, labels: AnyArray, classes: bool = False, weights: Array | None = None
    ) -> tuple[Array, IntArray | None]:
        """Write the gradient of the mean, with respect to what `fused_activation` was applied to, over `logits`.

        Parameters
        ----------
        logits : ndarray of shape (M, K)
            Of the rows that count, C-contiguous, without the bias.
        bias : ndarray of shape (K,)
        labels : ndarray
            As in `values`.
        classes : bool
            Whether the classes that the outputs decide for are wanted.
        weights : ndarray of shape (M,), optional

        Returns
        -------
        values : ndarray of shape (M,)
            The loss of each row, without its weight.
        best : ndarray, or None
            Those classes: (M,), or (M, K) of a binary loss; -1 where an output is NaN.
        """
        raise NotImplementedError

    # -- what is made of it

    def total(
        self,
        outputs: ArrayLike,
        labels: ArrayLike,
        valid: BoolArray | None = None,
        weights: ArrayLike | None = None,
    ) -> tuple[float, int]:
        """Return (weighted sum of the loss, number of terms).

        Parameters
        ----------
        outputs : ndarray, (N, K) or (N, T, K)
        labels : ndarray
            Integers (N,) or (N, T); or numbers like the outputs, whose last axis may lack if K is 1.
        valid : bool ndarray (N, T), optional
            Which steps count; what the others hold is not read.
        weights : ndarray, (N,) or (N, T), optional
            What each row or step weighs. A term with weight 0 still counts as one.

        Raises
        ------
        TypeError, ValueError
            If labels or weights are of another type or shape, or out of range.
        """
        rows, labels, weights = self._counted(outputs, labels, valid, weights)
        return self.sum_of(self.checked_values(rows, labels), weights), len(rows)

    def __call__(
        self,
        outputs: ArrayLike,
        labels: ArrayLike,
        valid: BoolArray | None = None,
        weights: ArrayLike | None = None,
    ) -> float:
        """Return the weighted sum of the loss by the number of terms, as Keras has it; NaN if nothing counts.
        Arguments as in `total`."""
        value, count = self.total(outputs, labels, valid, weights)
        return value / count if count else float("nan")

    def gradient(
        self,
        outputs: ArrayLike,
        labels: ArrayLike,
        valid: BoolArray | None = None,
        weights: ArrayLike | None = None,
        at_logits: bool = False,
    ) -> Array:
        """Return the gradient of what a call gives, of the shape of the outputs, zero where nothing counts.

        With `at_logits` it is the gradient with respect to what `fused_activation` was applied to.
        """
        rows, labels, weights = self._counted(outputs, labels, valid, weights)
        kind = "logit_gradients" if at_logits else "gradients"
        gradients = self._checked(kind, getattr(self, kind)(rows, labels), rows.shape)
        gradients = gradients * scales_of(weights, len(rows), gradients.dtype)
        gradients = gradients.astype(rows.dtype, copy=False)
        if valid is None:
            return gradients.reshape(np.shape(outputs))
        spread = np.zeros(np.shape(outputs), gradients.dtype)
        spread[as_valid(valid, spread.shape[:-1])] = gradients
        return spread

    def checked_values(self, rows: Array, labels: AnyArray) -> Array:
        """`values`, with their shape and type checked."""
        return self._checked("values", self.values(rows, labels), rows.shape[:1])

    def _checked(self, method: str, found: Any, shape: tuple[int, ...]) -> Array:
        array = np.asarray(found)
        if array.shape != shape:
            raise ValueError(f"{type(self).__name__}.{method}: expected shape {shape}, got {array.shape}")
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{type(self).__name__}.{method}: expected numbers, got dtype {array.dtype}")
        return array

    @staticmethod
    def sum_of(values: Array, weights: Array | None) -> float:
        """The weighted sum of values (M,)."""
        return float((values if weights is None else values * weights).sum(dtype=np.float64))

    def _counted(
        self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None, weights: ArrayLike | None
    ) -> tuple[Array, AnyArray, Array | None]:
        outputs = as_outputs(outputs)
        valid = as_valid(valid, outputs.shape[:-1])
        rows, counted = counted_rows(outputs, labels, valid, self.labels)
        if self.distribution is not None and self.labels == "values":
            check_unit_range(counted, "labels")
        if weights is not None:
            weights = counted_weights(weights, outputs.shape[:-1], valid)
        return _read_only(rows), _read_only(counted), weights


def _read_only(array: AnyArray) -> AnyArray:
    view = np.ascontiguousarray(array).view()  # NumPy's sums depend on how numbers lie in memory
    view.flags.writeable = False
    return view


def scales_of(weights: Array | None, count: int, dtype: np.dtype[Any]) -> Any:
    """What the gradients (count, K) of rows are multiplied by."""
    if weights is None:
        return dtype.type(1 / max(1, count))
    return (weights / max(1, count)).astype(dtype)[:, None]
