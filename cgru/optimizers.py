"""Optimizers: SGD, RMSprop, Adam and AdamW. What all of them can do, decay, clipping, schedules and `apply`, is in
their base class, `Optimizer`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cgru.checks import check_bool, check_name, check_positive, check_rate
from cgru.configured import made_from
from cgru.descent import Compiled, Optimizer, State
from cgru.typing import LearningRate, OptimizerName

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "State", "from_config", "get", "to_config"]

# Of kernels/jobs.pxd
_SGD, _MOMENTUM, _NESTEROV, _RMSPROP, _RMSPROP_MOMENTUM, _CENTERED, _CENTERED_MOMENTUM, _ADAM, _AMSGRAD = range(9)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if it is asked for, in Keras' form.

    With gradient g::

        p = p - learning_rate g                         without momentum
        m = momentum m - learning_rate g
        p = p + m                                       with it
        p = p + momentum m - learning_rate g            nesterov (Y. Nesterov 1983, I. Sutskever et al. 2013)

    While the learning rate stays the same this is PyTorch's form, too.

    Parameters
    ----------
    learning_rate : float, or callable
    momentum : float
        At least 0 and less than 1.
    nesterov : bool
        Whether the step is that from where the momentum leads.
    weight_decay, decay_biases, clipnorm, global_clipnorm, clipvalue
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range, or `nesterov` is True without momentum.

    Examples
    --------
    >>> from cgru import optimizers, schedules
    >>> optimizers.SGD(schedules.CosineDecay(0.1, 1000), momentum=0.9, global_clipnorm=1.0)
    SGD(learning_rate=CosineDecay(0.1, 1000), momentum=0.9, global_clipnorm=1.0)
    """

    name = "sgd"
    _options = ("momentum", "nesterov")

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        weight_decay: float | None = None,
        decay_biases: bool = False,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay=weight_decay, decay_biases=decay_biases, clipnorm=clipnorm,
            global_clipnorm=global_clipnorm, clipvalue=clipvalue,
        )  # fmt: skip
        self.momentum = check_rate(momentum, "momentum")
        self.nesterov = check_bool(nesterov, "nesterov")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected False without momentum, got True")
        self.slots = 1 if self.momentum else 0

    def _step(self, iteration: int) -> Compiled:
        method = (_NESTEROV if self.nesterov else _MOMENTUM) if self.momentum else _SGD
        return Compiled(method, self.learning_rate_at(iteration - 1), momentum=self.momentum)


class RMSprop(Optimizer):
    """RMSprop (T. Tieleman and G. Hinton 2012), epsilon under the root (as in Keras; PyTorch adds it to the root).

    With gradient g::

        v = rho v + (1 - rho) g^2
        a = rho a + (1 - rho) g                         centered
        s = learning_rate g / sqrt(v - a^2 + epsilon)   without a^2 if not centered
        m = momentum m + s
        p = p - m                                       p - s without momentum

    Parameters
    ----------
    learning_rate : float, or callable
    rho : float
        Decay of the running means; at least 0 and less than 1.
    momentum : float
        At least 0 and less than 1.
    epsilon : float
        Keeps the quotient finite.
    centered : bool
        Whether the gradient is divided by its standard deviation instead of the root of its mean square.
    weight_decay, decay_biases, clipnorm, global_clipnorm, clipvalue
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.
    """

    name = "rmsprop"
    _options = ("rho", "momentum", "epsilon", "centered")

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        *,
        weight_decay: float | None = None,
        decay_biases: bool = False,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay=weight_decay, decay_biases=decay_biases, clipnorm=clipnorm,
            global_clipnorm=global_clipnorm, clipvalue=clipvalue,
        )  # fmt: skip
        self.rho = check_rate(rho, "rho")
        self.momentum = check_rate(momentum, "momentum")
        self.epsilon = check_positive(epsilon, "epsilon")
        self.centered = check_bool(centered, "centered")
        self.slots = 1 + self.centered + bool(self.momentum)

    def _step(self, iteration: int) -> Compiled:
        if self.centered:
            method = _CENTERED_MOMENTUM if self.momentum else _CENTERED
        else:
            method = _RMSPROP_MOMENTUM if self.momentum else _RMSPROP
        rate = self.learning_rate_at(iteration - 1)
        return Compiled(method, rate, part_2=1 - self.rho, epsilon=self.epsilon, momentum=self.momentum)


class Adam(Optimizer):
    """Adam (D. P. Kingma and J. Ba, 2015), epsilon added to the root of the uncorrected second moment (as in Keras).

    With gradient g and update number t::

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g^2
        p = p - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate : float, or callable
    beta_1, beta_2 : float
        Decay of the two means; at least 0 and less than 1.
    epsilon : float
        Keeps the quotient finite.
    amsgrad : bool
        Whether the largest v so far takes its place in the step (S. Reddi et al. 2018).
    weight_decay, decay_biases, clipnorm, global_clipnorm, clipvalue
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.

    Examples
    --------
    >>> from cgru import optimizers
    >>> optimizers.get("adam").learning_rate
    0.001
    """

    name = "adam"
    _options = ("beta_1", "beta_2", "epsilon", "amsgrad")

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        weight_decay: float | None = None,
        decay_biases: bool = False,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay=weight_decay, decay_biases=decay_biases, clipnorm=clipnorm,
            global_clipnorm=global_clipnorm, clipvalue=clipvalue,
        )  # fmt: skip
        self.beta_1 = check_rate(beta_1, "beta_1")
        self.beta_2 = check_rate(beta_2, "beta_2")
        self.epsilon = check_positive(epsilon, "epsilon")
        self.amsgrad = check_bool(amsgrad, "amsgrad")
        self.slots = 2 + self.amsgrad

    def _step(self, iteration: int) -> Compiled:
        rate = self.learning_rate_at(iteration - 1)
        rate *= math.sqrt(1 - self.beta_2**iteration) / (1 - self.beta_1**iteration)
        method = _AMSGRAD if self.amsgrad else _ADAM
        return Compiled(method, rate, 1 - self.beta_1, 1 - self.beta_2, self.epsilon)


class AdamW(Adam):
    """Adam with weight decay (I. Loshchilov and F. Hutter 2019): `Adam` whose `weight_decay` is 0.004 unless it is
    given, as in Keras. Biases do not decay unless `decay_biases` is True; see `Optimizer`.

    Examples
    --------
    >>> from cgru import optimizers
    >>> optimizers.AdamW(0.01)
    AdamW(learning_rate=0.01)
    """

    name = "adamw"

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        weight_decay: float | None = 0.004,
        decay_biases: bool = False,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, decay_biases=decay_biases,
            clipnorm=clipnorm, global_clipnorm=global_clipnorm, clipvalue=clipvalue,
        )  # fmt: skip


_OPTIMIZERS = {optimizer.name: optimizer for optimizer in (Adam, AdamW, RMSprop, SGD)}


def get(optimizer: OptimizerName | Optimizer) -> Optimizer:
    """Return a new optimizer, called `optimizer`, with its default settings; an `Optimizer` is returned as it is.

    Raises
    ------
    ValueError
        If there is no such optimizer; the message lists the names.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    made: Optimizer = _OPTIMIZERS[check_name(optimizer, "optimizer", _OPTIMIZERS, " or an Optimizer")]()
    return made


def to_config(optimizer: Optimizer) -> dict[str, Any]:
    """Return {"class": name, "config": dict} of an optimizer of this module, a dict that JSON can hold.

    Raises
    ------
    TypeError
        If it is another one, or its learning rate a function that is not one of `cgru.schedules`.
    """
    if type(optimizer) not in _OPTIMIZERS.values():
        raise TypeError(
            f"optimizer: expected one of cgru.optimizers' {', '.join(c.__name__ for c in _OPTIMIZERS.values())}, got "
            f"{optimizer!r}, of which only its own code knows how to make it again"
        )
    return {"class": type(optimizer).__name__, "config": optimizer.get_config()}


def from_config(config: Mapping[str, Any]) -> Optimizer:
    """Return a new optimizer from what `to_config` returned.

    Raises
    ------
    TypeError, ValueError
        If it is not of that form, or names another class.

    Examples
    --------
    >>> from cgru import optimizers
    >>> optimizers.from_config(optimizers.to_config(optimizers.RMSprop(0.01, rho=0.8)))
    RMSprop(learning_rate=0.01, rho=0.8)
    """
    made: Optimizer = made_from(config, {c.__name__: c for c in _OPTIMIZERS.values()}, "optimizer")
    return made
