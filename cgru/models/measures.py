"""What `compile` and `fit` are given, checked with the layers that it works on."""

from __future__ import annotations

from collections.abc import Sequence

from cgru import checks, metrics
from cgru.layers import GRU, Dense, Layer
from cgru.losses import Loss
from cgru.metrics import Function, Metric
from cgru.typing import MetricFunction, MetricName, Recompute

_POSITIVE = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")  # activations of states from 0 to 1


def get_metrics(
    names: Sequence[MetricName | Metric | Function | MetricFunction], loss: Loss
) -> list[Metric | Function]:
    """Return the metrics of these names, for this loss."""
    if not isinstance(names, (list, tuple)):
        raise TypeError(f"metrics: expected a list of names, got {names!r}")
    found = [metrics.get(name, f"metrics[{i}]") for i, name in enumerate(names)]
    if len({metric.name for metric in found}) != len(found):
        raise ValueError(f"metrics: expected each name once, got {names!r}")
    if any(metric.name == "loss" for metric in found):
        raise ValueError(f"metrics: expected other names than 'loss', which is the loss', got {names!r}")
    return [metric.for_loss(loss) if isinstance(metric, Metric) else metric for metric in found]


def check_range(last: Layer, loss: Loss) -> None:
    """Refuse a loss that wants probabilities of a layer that gives others numbers too, or the other way round."""
    wanted = getattr(loss, "from_logits", None)
    if not isinstance(last, Dense) or wanted is None or wanted == (last.activation not in ("softmax", "sigmoid")):
        return
    what = "logits: a linear last layer" if wanted else "probabilities: a softmax (or sigmoid) last layer"
    if not wanted and loss.distribution == "binary":
        what = "probabilities: a sigmoid last layer"
    raise ValueError(f"loss: {loss.name!r} expected {what}, got activation {last.activation!r}")


def check_states(last: Layer, loss: Loss) -> None:
    """Refuse a loss that wants probabilities of the states of a GRU that may be negative; a batch may show it late."""
    if isinstance(last, GRU) and getattr(loss, "from_logits", True) is False and last.activation not in _POSITIVE:
        raise ValueError(
            f"loss: {loss.name!r} expected probabilities, got the states of a GRU with activation {last.activation!r}: "
            f"put a Dense with a {'sigmoid' if loss.distribution == 'binary' else 'softmax'} behind it"
        )


def check_recompute(layers: Sequence[Layer], recompute: Recompute, training: bool = True) -> Recompute:
    """Return `recompute` checked; TypeError or ValueError names it."""
    checked = checks.check_recompute(recompute, training)
    if checked is not None and not any(layer.recomputes or layer.refuses_training() for layer in layers):
        raise ValueError(f"recompute: expected None without a GRU, whose steps are computed again, got {checked!r}")
    return checked
