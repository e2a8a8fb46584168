"""Losses: a mean over the rows, or over the valid steps, and its gradient.

A loss sees the outputs (N, K) or (N, T, K), integer labels (N,) or (N, T), and which steps are valid; a subclass sees
only the (M, K) rows that count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cgru import kernels
from cgru.checks import check_bool, check_name, counted_rows
from cgru.configured import Configured
from cgru.typing import Array, BoolArray, IntArray, LossName


class Loss(Configured):
    """Base class of the losses: a mean over what counts.

    A subclass implements `_values` and `_gradients` on rows. It may name in `fused_activation` the output activation
    through which it knows the gradient in closed form (`_logit_gradients`), and say with `in_place` that it also has
    activation, loss and gradient as one pass (`replace_logits`), which is what models then use.
    """

    name = "loss"
    fused_activation: str | None = None
    in_place = False

    def total(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> tuple[float, int]:
        """Return (sum of the loss, number of terms).

        Parameters
        ----------
        outputs : ndarray, (N, K) or (N, T, K)
        labels : integer ndarray, (N,) or (N, T)
        valid : bool ndarray (N, T), optional
            Which steps count; what the others hold is not read.

        Raises
        ------
        TypeError, ValueError
            If the labels are not integers, of another shape than the outputs without their last axis, or out of range.
        """
        rows, labels = counted_rows(outputs, labels, valid)
        return float(self._values(rows, labels).sum(dtype=np.float64)), len(labels)

    def __call__(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> float:
        """Return the mean of the loss; NaN if nothing counts. Arguments as in `total`."""
        value, count = self.total(outputs, labels, valid)
        return value / count if count else float("nan")

    def gradient(
        self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None, at_logits: bool = False
    ) -> Array:
        """Return the gradient of the mean, of the shape of the outputs, zero where nothing counts.

        With `at_logits` it is the gradient with respect to what `fused_activation` was applied to.
        """
        rows, labels = counted_rows(outputs, labels, valid)
        gradients = (self._logit_gradients if at_logits else self._gradients)(rows, labels)
        gradients *= gradients.dtype.type(1 / max(1, len(labels)))
        if valid is None:
            return gradients.reshape(np.shape(outputs))
        spread = np.zeros(np.shape(outputs), gradients.dtype)
        spread[valid] = gradients
        return spread

    def replace_logits(
        self, logits: Array, bias: Array, labels: IntArray, classes: bool = False
    ) -> tuple[Array, IntArray | None]:
        """Write the gradient of the mean, with respect to what `fused_activation` was applied to, over `logits`.

        Parameters
        ----------
        logits : ndarray of shape (M, K)
            Of the rows that count, C-contiguous, without the bias.
        bias : ndarray of shape (K,)
        labels : integer ndarray of shape (M,)
            At least 0 and less than K.
        classes : bool
            Whether the class of each row's largest output is wanted.

        Returns
        -------
        values : ndarray of shape (M,)
            The loss of each row.
        best : ndarray of shape (M,), or None
            That class; -1 where an output is NaN.
        """
        raise NotImplementedError

    def _values(self, rows: Array, labels: IntArray) -> Array:
        """Return the loss of each row, (M,)."""
        raise NotImplementedError

    def _gradients(self, rows: Array, labels: IntArray) -> Array:
        """Return a new array (M, K), the gradient of each row's loss."""
        raise NotImplementedError

    def _logit_gradients(self, rows: Array, labels: IntArray) -> Array:
        """Return a new array (M, K), the gradient of each row's loss before `fused_activation`."""
        raise NotImplementedError


class SparseCategoricalCrossentropy(Loss):
    """-log of the probability that the outputs give to the label.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits, on which the loss applies softmax, instead of probabilities.

    Raises
    ------
    TypeError
        If `from_logits` is not a bool.
    ValueError
        At use, if an output for a label is not a probability (and `from_logits` is False).

    Notes
    -----
    A probability below the smallest normal number of its type counts as that number, so that the loss stays finite.
    Through softmax the gradient is p - onehot(label), which has no such limit.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> loss = losses.get("sparse_categorical_crossentropy")
    >>> round(loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])), 4)
    0.4904
    """

    name = "sparse_categorical_crossentropy"
    in_place = True
    _options = ("from_logits",)

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = check_bool(from_logits, "from_logits")
        self.fused_activation = "linear" if self.from_logits else "softmax"

    def replace_logits(
        self, logits: Array, bias: Array, labels: IntArray, classes: bool = False
    ) -> tuple[Array, IntArray | None]:
        rows = len(labels)
        seen = np.empty((rows, 3), logits.dtype)
        best = np.empty(rows, np.intp) if classes else None
        scales = np.full(rows, 1 / max(1, rows))
        labels = np.ascontiguousarray(labels, np.intp)
        kernels.softmax_crossentropy(logits, bias, labels, scales, seen, best, kernels.get_num_threads())
        with np.errstate(divide="ignore"):
            if self.from_logits:
                return np.log(seen[:, 2]) - seen[:, 1], best
            return -np.log(np.maximum(seen[:, 0], np.finfo(seen.dtype).tiny)), best

    def _values(self, rows: Array, labels: IntArray) -> Array:
        if self.from_logits:
            return -_log_softmax(rows)[np.arange(len(labels)), labels]
        return -np.log(self._label_probabilities(rows, labels))

    def _gradients(self, rows: Array, labels: IntArray) -> Array:
        if self.from_logits:
            return self._logit_gradients(rows, labels)
        gradients = np.zeros_like(rows)
        gradients[np.arange(len(labels)), labels] = -1 / self._label_probabilities(rows, labels)
        return gradients

    def _logit_gradients(self, rows: Array, labels: IntArray) -> Array:
        gradients = np.exp(_log_softmax(rows)) if self.from_logits else rows.copy()
        gradients[np.arange(len(labels)), labels] -= 1
        return gradients

    def _label_probabilities(self, rows: Array, labels: IntArray) -> Array:
        p = rows[np.arange(len(labels)), labels]
        if p.size and (p.min() < 0 or p.max() > 1.001):  # False for NaN, which then shows in the loss
            raise ValueError(
                f"{self.name}: expected probabilities, got an output of {p.min() if p.min() < 0 else p.max()}: "
                "end the model with a softmax, or use SparseCategoricalCrossentropy(from_logits=True)"
            )
        return np.maximum(p, np.finfo(p.dtype).tiny)


def _log_softmax(rows: Array) -> Array:
    with np.errstate(invalid="ignore"):  # inf - inf: that row becomes NaN, the others do not
        shifted = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


_LOSSES = {SparseCategoricalCrossentropy.name: SparseCategoricalCrossentropy}


def get(loss: LossName | Loss) -> Loss:
    """Return the loss called `loss`; a `Loss` is returned as it is.

    Raises
    ------
    ValueError
        If there is no such loss; the message lists the names.
    """
    if isinstance(loss, Loss):
        return loss
    return _LOSSES[check_name(loss, "loss", _LOSSES, " or a Loss")]()
