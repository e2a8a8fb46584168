"""Optimizers: from parameters and gradients to new parameters.

An optimizer holds settings only. What it remembers about a model is in a `State`, of which a model keeps two: `propose`
reads the one and writes the other, so that an update that is interrupted has changed nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cgru import kernels
from cgru.checks import check_name, check_positive, check_rate
from cgru.configured import Configured
from cgru.locks import owned
from cgru.typing import Array, OptimizerName

# Elements worked on at once: what a step touches, eight arrays of them, stays in a second-level cache.
_BLOCK = 16384


class State:
    """What an optimizer remembers after some number of updates.

    Attributes
    ----------
    iterations : int
        Number of updates.
    slots : dict
        (layer index, parameter name) -> tuple of arrays of the parameter's shape; Adam: (m, v), the running means of
        the gradient and of its square.
    """

    def __init__(self, parameters: Mapping[Any, Array], slots: int) -> None:
        self.iterations = 0
        self.slots = {key: tuple(np.zeros(a.shape, a.dtype) for _ in range(slots)) for key, a in parameters.items()}

    def fits(self, parameters: Mapping[Any, Array]) -> bool:
        """Whether the state was made for parameters of these names, shapes and types."""
        return self.slots.keys() == parameters.keys() and all(
            slot.shape == parameters[key].shape and slot.dtype == parameters[key].dtype
            for key, slots in self.slots.items()
            for slot in slots[:1]
        )

    def take_over(self, other: State) -> None:
        """Go on from another state, with what it remembers about the same parameters."""
        self.iterations = other.iterations
        for key in self.slots.keys() & other.slots.keys():
            self.slots[key] = tuple(array.copy() for array in other.slots[key])

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.slots = {key: tuple(map(owned, arrays)) for key, arrays in self.slots.items()}


class Compiled(NamedTuple):
    """A step that is compiled."""

    method: int  # a code of kernels/jobs.pxd
    terms: tuple[float, ...]  # its numbers, see kernels/update.pxi


class Optimizer(Configured):
    """Base class of the optimizers. A subclass sets `slots`, how many arrays it keeps for a parameter, and `_step`."""

    name = "optimizer"
    slots = 0

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    @property
    def learning_rate(self) -> float:
        """Step size; may be set between updates."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = check_positive(value, "learning_rate")

    def start(self, parameters: Mapping[Any, Array]) -> State:
        """Return the `State` before the first update of `parameters`, a dict key -> array."""
        return State(parameters, self.slots)

    def propose(
        self,
        parameters: Mapping[Any, Array],
        gradients: Mapping[Any, Array],
        state: State,
        new_parameters: Mapping[Any, Array],
        new_state: State,
    ) -> bool:
        """Compute one update: read `parameters`, `gradients` and `state`, write `new_parameters` and `new_state`.

        Parameters
        ----------
        parameters, gradients, new_parameters : dict
            key -> C-contiguous array; the three have the same keys and shapes.
        state, new_state : State
            Two different ones.

        Returns
        -------
        bool
            Whether the new parameters and the squares of the gradients are known to be finite.
        """
        if gradients.keys() != parameters.keys():
            differing = sorted(map(str, gradients.keys() ^ parameters.keys()))
            raise RuntimeError(f"gradients and parameters differ in {', '.join(differing)}")
        finite, step = True, self._step(state.iterations + 1)
        for key, parameter in parameters.items():
            gradient = gradients[key]
            if gradient.shape != parameter.shape:
                raise RuntimeError(f"the gradient of {key} has shape {gradient.shape}, not {parameter.shape}")
            slots, new_slots = state.slots[key], new_state.slots[key]
            if isinstance(step, Compiled):
                p, g, new_p = (a.reshape(-1) for a in (parameter, gradient, new_parameters[key]))
                threads = kernels.get_num_threads()
                finite &= kernels.update(step.method, p, g, slots, new_p, new_slots, step.terms, threads)
                continue
            finite = False
            flat = [a.reshape(-1) for a in (parameter, gradient, *slots, new_parameters[key], *new_slots)]
            for start in range(0, parameter.size, _BLOCK):
                step(*(a[start : start + _BLOCK] for a in flat))
        new_state.iterations = state.iterations + 1
        return finite

    def _step(self, iteration: int) -> Callable[..., None] | Compiled:
        """Return a function of flat blocks: parameter, gradient, slots, and those to write, new parameter and slots;
        or the compiled one."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, **super().get_config()}


class Adam(Optimizer):
    """Adam (D. P. Kingma and J. Ba, 2015), epsilon added to the root of the uncorrected second moment (as in Keras).

    With gradient g and update number t:

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g^2
        p = p - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate : float
    beta_1, beta_2 : float
        Decay of the two means; at least 0 and less than 1.
    epsilon : float
        Keeps the quotient finite.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or out of range.

    Examples
    --------
    >>> from cgru import optimizers
    >>> optimizers.get("adam").learning_rate
    0.001
    """

    name = "adam"
    slots = 2
    _options = ("beta_1", "beta_2", "epsilon")

    def __init__(
        self, learning_rate: float = 1e-3, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = check_rate(beta_1, "beta_1")
        self.beta_2 = check_rate(beta_2, "beta_2")
        self.epsilon = check_positive(epsilon, "epsilon")

    def _step(self, iteration: int) -> Callable[..., None] | Compiled:
        rate = self.learning_rate * math.sqrt(1 - self.beta_2**iteration) / (1 - self.beta_1**iteration)
        return Compiled(0, (1 - self.beta_1, 1 - self.beta_2, rate, self.epsilon))


_OPTIMIZERS = {Adam.name: Adam}


def get(optimizer: OptimizerName | Optimizer) -> Optimizer:
    """Return a new optimizer, called `optimizer`, with its default settings; an `Optimizer` is returned as it is.

    Raises
    ------
    ValueError
        If there is no such optimizer; the message lists the names.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    return _OPTIMIZERS[check_name(optimizer, "optimizer", _OPTIMIZERS, " or an Optimizer")]()
