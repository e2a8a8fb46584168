"""Cross-entropies: labels are classes, or probabilities."""

from __future__ import annotations

import numpy as np

from cgru import kernels
from cgru.checks import check_bool, check_rate
from cgru.losses.base import Loss, scales_of
from cgru.typing import AnyArray, Array, IntArray

_SIGMOID = 0  # of kernels/activations.pxd


class SparseCategoricalCrossentropy(Loss):
    """-log of the probability that the outputs give to the label, a class number.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits, on which the loss applies softmax, instead of probabilities.
    label_smoothing : float
        At least 0 and less than 1: this share of the label goes to all classes in equal parts.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; at use, if an output for a label is not a probability (and
        `from_logits` is False).

    Notes
    -----
    A probability below the smallest normal number of its type counts as that number, so that the loss stays finite.
    Through softmax the gradient is p - onehot(label), which has no such limit. Probabilities are taken as they are:
    nothing scales them to a sum of one.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> loss = losses.get("sparse_categorical_crossentropy")
    >>> round(loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])), 4)
    0.4904
    """

    name = "sparse_categorical_crossentropy"
    labels = "classes"
    distribution = "categorical"
    _options = ("from_logits", "label_smoothing")

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = check_bool(from_logits, "from_logits")
        self.label_smoothing = check_rate(label_smoothing, "label_smoothing")
        self.fused_activation = "linear" if self.from_logits else "softmax"

    def replace_logits(
        self, logits: Array, bias: Array, labels: AnyArray, classes: bool = False, weights: Array | None = None
    ) -> tuple[Array, IntArray | None]:
        rows, smoothing = len(labels), self.label_smoothing
        best = np.empty(rows, np.intp) if classes else None
        scales = np.full(rows, 1 / max(1, rows)) if weights is None else weights / max(1, rows)
        labels = np.ascontiguousarray(labels, np.intp)
        every = np.arange(rows)
        if smoothing:
            own, mean = logits[every, labels] + bias[labels], logits.mean(axis=1) + bias.mean()
        seen = _softmax_less_one(logits, bias, labels, scales, best)
        with np.errstate(divide="ignore", invalid="ignore"):
            if smoothing:
                logits -= (scales * (smoothing / logits.shape[1])).astype(logits.dtype)[:, None]
                logits[every, labels] += (scales * smoothing).astype(logits.dtype)
                values = np.log(seen[:, 2]) - seen[:, 1]
                return values + smoothing * (own - mean), best
            if self.from_logits:
                return np.log(seen[:, 2]) - seen[:, 1], best
            return -np.log(np.maximum(seen[:, 0], np.finfo(seen.dtype).tiny)), best

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        every, smoothing = np.arange(len(labels)), self.label_smoothing
        if self.from_logits:
            logs = _log_softmax(outputs)
        elif smoothing:
            logs = np.log(_probabilities(outputs, self))
        else:
            return -np.log(_probabilities(outputs[every, labels], self))
        if smoothing:
            return -(1 - smoothing) * logs[every, labels] - smoothing * logs.mean(axis=1)
        return -logs[every, labels]

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        if self.from_logits:
            return self.logit_gradients(outputs, labels)
        every, smoothing = np.arange(len(labels)), self.label_smoothing
        gradients = np.zeros_like(outputs)
        if smoothing:
            gradients -= smoothing / outputs.shape[1] / _probabilities(outputs, self)
        gradients[every, labels] -= (1 - smoothing) / _probabilities(outputs[every, labels], self)
        return gradients

    def logit_gradients(self, outputs: Array, labels: AnyArray) -> Array:
        gradients = _softmax(outputs) if self.from_logits else outputs.copy()
        if self.label_smoothing:
            gradients -= self.label_smoothing / outputs.shape[1]
        gradients[np.arange(len(labels)), labels] -= 1 - self.label_smoothing
        return gradients


class CategoricalCrossentropy(Loss):
    """-sum of y log p over the classes: labels are the probabilities y of the K classes, one-hot rows for example.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits, on which the loss applies softmax, instead of probabilities.
    label_smoothing : float
        At least 0 and less than 1: the labels become (1 - label_smoothing) y + label_smoothing / K.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; at use, if outputs are not probabilities (and `from_logits`
        is False), or labels are not.

    Notes
    -----
    As for `SparseCategoricalCrossentropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> loss = losses.get("categorical_crossentropy")
    >>> round(loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[1, 0], [0, 1]])), 4)
    0.4904
    """

    name = "categorical_crossentropy"
    distribution = "categorical"
    _options = ("from_logits", "label_smoothing")

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = check_bool(from_logits, "from_logits")
        self.label_smoothing = check_rate(label_smoothing, "label_smoothing")
        self.fused_activation = "linear" if self.from_logits else "softmax"

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        wanted = _smoothed(labels, self.label_smoothing, labels.shape[1])
        logs = _log_softmax(outputs) if self.from_logits else np.log(_probabilities(outputs, self))
        with np.errstate(invalid="ignore"):  # 0 * -inf: a class that is ruled out, and not asked for
            return -np.where(wanted == 0, 0, wanted * logs).sum(axis=1)

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        if self.from_logits:
            return self.logit_gradients(outputs, labels)
        wanted = _smoothed(labels, self.label_smoothing, labels.shape[1])
        return -wanted / _probabilities(outputs, self)

    def logit_gradients(self, outputs: Array, labels: AnyArray) -> Array:
        wanted = _smoothed(labels, self.label_smoothing, labels.shape[1])
        p = _softmax(outputs) if self.from_logits else outputs
        return p * wanted.sum(axis=1, keepdims=True) - wanted


class BinaryCrossentropy(Loss):
    """-(y log p + (1 - y) log(1 - p)), averaged over the outputs: each output is a probability p, each label y one too,
    mostly 0 or 1.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits, on which the loss applies sigmoid, instead of probabilities.
    label_smoothing : float
        At least 0 and less than 1: the labels become (1 - label_smoothing) y + label_smoothing / 2.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; at use, if outputs are not probabilities (and `from_logits`
        is False), or labels are not.

    Notes
    -----
    Probabilities p and 1 - p below the smallest normal number of their type count as that number. Behind a `Dense` with
    a sigmoid, models compute the loss from what the sigmoid is applied to, so that it has no such limit; the gradient
    there is sigmoid - y.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> loss = losses.get("binary_crossentropy")
    >>> round(loss(np.array([[0.5], [0.75]]), np.array([1, 1])), 4)
    0.4904
    """

    name = "binary_crossentropy"
    distribution = "binary"
    _options = ("from_logits", "label_smoothing")

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = check_bool(from_logits, "from_logits")
        self.label_smoothing = check_rate(label_smoothing, "label_smoothing")
        self.fused_activation = "linear" if self.from_logits else "sigmoid"

    def replace_logits(
        self, logits: Array, bias: Array, labels: AnyArray, classes: bool = False, weights: Array | None = None
    ) -> tuple[Array, IntArray | None]:
        logits += bias
        values = self.logit_values(logits, labels)
        best = np.where(logits == logits, logits > 0, -1) if classes else None
        np.subtract(_sigmoid(logits), _smoothed(labels, self.label_smoothing, 2), out=logits)
        logits *= scales_of(weights, len(logits), logits.dtype) / logits.dtype.type(logits.shape[1])
        return values, best

    def logit_values(self, logits: Array, labels: AnyArray) -> Array:
        wanted = _smoothed(labels, self.label_smoothing, 2)
        with np.errstate(invalid="ignore"):
            # log(1 + e^z) - y z, with the larger of its parts taken out of the logarithm
            terms = np.maximum(logits, 0) - wanted * logits + np.log1p(np.exp(-np.abs(logits)))
        return terms.mean(axis=1)

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        if self.from_logits:
            return self.logit_values(outputs, labels)
        wanted = _smoothed(labels, self.label_smoothing, 2)
        p, rest = self._both(outputs)
        return -(wanted * np.log(p) + (1 - wanted) * np.log(rest)).mean(axis=1)

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        if self.from_logits:
            return self.logit_gradients(outputs, labels)
        wanted = _smoothed(labels, self.label_smoothing, 2)
        p, rest = self._both(outputs)
        return ((1 - wanted) / rest - wanted / p) / outputs.shape[1]

    def logit_gradients(self, outputs: Array, labels: AnyArray) -> Array:
        p = _sigmoid(outputs) if self.from_logits else outputs
        return (p - _smoothed(labels, self.label_smoothing, 2)) / outputs.shape[1]

    def _both(self, outputs: Array) -> tuple[Array, Array]:
        return _probabilities(outputs, self), np.maximum(1 - outputs, np.finfo(outputs.dtype).tiny)


def _smoothed(labels: Array, smoothing: float, classes: int) -> Array:
    return labels * (1 - smoothing) + smoothing / classes if smoothing else labels


def _probabilities(p: Array, loss: Loss) -> Array:
    """Return p, at least the smallest normal number of its type; ValueError if they are no probabilities."""
    if p.size and (p.min() < 0 or p.max() > 1.001):  # False for NaN, which then shows in the loss
        raise ValueError(
            f"{loss.name}: expected probabilities, got an output of {p.min() if p.min() < 0 else p.max()}: end the "
            f"model with a {'sigmoid' if loss.distribution == 'binary' else 'softmax'}, or use "
            f"{type(loss).__name__}(from_logits=True)"
        )
    return np.maximum(p, np.finfo(p.dtype).tiny)


def _log_softmax(rows: Array) -> Array:
    with np.errstate(invalid="ignore"):  # inf - inf: that row becomes NaN, the others do not
        shifted = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _sigmoid(rows: Array) -> Array:
    """The sigmoid of each element, as a Dense layer computes it."""
    p = np.empty(rows.shape, rows.dtype)
    kernels.activate(_SIGMOID, np.ascontiguousarray(rows).reshape(-1), p.reshape(-1))
    return p


def _softmax(rows: Array) -> Array:
    """The softmax of each row, as a Dense layer computes it."""
    p = np.array(rows, order="C")
    count, K = p.shape
    seen = _softmax_less_one(p, np.zeros(K, p.dtype), np.zeros(count, np.intp), np.ones(count), None)
    p[:, 0] = seen[:, 0]
    return p


def _softmax_less_one(logits: Array, bias: Array, labels: IntArray, scales: Array, best: IntArray | None) -> Array:
    """Write (softmax(logits + bias) - onehot(label)) * scale over `logits`; return what the pass saw of each row: the
    label's probability, its logit less the largest one, and the sum of the exponentials."""
    seen = np.empty((len(labels), 3), logits.dtype)
    kernels.softmax_crossentropy(logits, bias, labels, scales, seen, best, kernels.get_num_threads())
    return seen
