"""The base of the optimizers: from parameters and gradients to new parameters.

An optimizer holds settings. What it remembers about a model is in a `State`, of which a model keeps two: `propose`
reads the one and writes the other, so that an update that is interrupted has changed nothing. For layers that are
trained in a loop of one's own (`apply`) it keeps them itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np

from cgru import kernels, schedules
from cgru.applying import Memory, layers_and_gradients
from cgru.checks import check_bool, check_finite, check_int, check_number, check_positive
from cgru.configured import Configured
from cgru.locks import Locked, owned
from cgru.typing import Array, LearningRate

if TYPE_CHECKING:
    from typing_extensions import Self

# Elements worked on at once: what a step touches, eight arrays of them, stays in a second-level cache.
_BLOCK = 16384
_NOT_DECAYED = ("bias", "gain", "initial_state")  # beside all that are flat


class State:
    """What an optimizer remembers after some number of updates.

    Attributes
    ----------
    iterations : int
        Number of updates.
    slots : dict
        (layer index, parameter name) -> tuple of arrays of the parameter's shape: SGD with momentum (m,); RMSprop
        (v,), with centered the mean of the gradient behind it, and with momentum m; Adam (m, v), the running means of
        the gradient and of its square, and with amsgrad the largest v.
    resting : dict
        The same of parameters that were trained before, and are not now.
    """

    def __init__(self, parameters: Mapping[Any, Array], slots: int) -> None:
        self.iterations, self.resting = 0, dict[Any, tuple[Array, ...]]()
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
        known = other.resting | other.slots
        self.iterations = other.iterations
        for key in self.slots.keys() & known.keys():
            self.slots[key] = tuple(array.copy() for array in known[key])
        self.resting = {key: arrays for key, arrays in known.items() if key not in self.slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.slots, self.resting = (
            {key: tuple(map(owned, arrays)) for key, arrays in slots.items()} for slots in (self.slots, self.resting)
        )


class Compiled(NamedTuple):
    """A step that is compiled, and its numbers: see kernels/update.pxi."""

    method: int
    rate: float
    part_1: float = 0.0
    part_2: float = 0.0
    epsilon: float = 0.0
    momentum: float = 0.0


class Optimizer(Locked, Configured):
    """Base class of the optimizers, and what all of them can do.

    A subclass sets `slots`, how many arrays it keeps for a parameter, and `_step`.

    Parameters
    ----------
    learning_rate : float, or callable
        Step size: a positive number, or a function of the number of updates made before (0 at the first), such as those
        of `cgru.schedules`. It may be set between updates.
    weight_decay : float, optional
        Before the update each parameter loses this part of itself times the learning rate: p -= learning_rate *
        weight_decay * p, apart from gradient and moments (I. Loshchilov and F. Hutter 2019). Biases, gains and learned
        initial states, and whatever else is flat, are left alone; Keras and PyTorch decay all that they are given.
    decay_biases : bool
        Whether those decay as well, as there.
    clipnorm : float, optional
        The gradient of each parameter is scaled down to this norm if its own is larger.
    global_clipnorm : float, optional
        The gradients of all parameters are scaled down together, to this norm of all of them.
    clipvalue : float, optional
        Elements of gradients are cut off at -clipvalue and clipvalue. Only one of the three may be given.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range, or more than one kind of clipping is given.
    """

    name = "optimizer"
    slots = 0
    _options: tuple[str, ...] = ("weight_decay", "decay_biases", "clipnorm", "global_clipnorm", "clipvalue")

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        weight_decay: float | None = None,
        decay_biases: bool = False,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.weight_decay = None if weight_decay is None else check_finite(weight_decay, "weight_decay", 0)
        self.decay_biases = check_bool(decay_biases, "decay_biases")
        self.clipnorm = None if clipnorm is None else check_positive(clipnorm, "clipnorm")
        self.global_clipnorm = None if global_clipnorm is None else check_positive(global_clipnorm, "global_clipnorm")
        self.clipvalue = None if clipvalue is None else check_positive(clipvalue, "clipvalue")
        clipping = [name for name in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(self, name) is not None]
        if len(clipping) > 1:
            raise ValueError(f"{', '.join(clipping)}: give one of them, got {len(clipping)}")
        self._memories: dict[frozenset[int], Memory] = {}  # by the ids of the layers that were given together

    # -- the learning rate

    @property
    def learning_rate(self) -> LearningRate:
        """The number or the schedule; may be set between updates. `learning_rate_at` gives the number of an update."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        if callable(value) and not isinstance(value, type):
            _rate_of(value, 0)
            self._learning_rate: LearningRate = value
        else:
            self._learning_rate = check_positive(value, "learning_rate")  # type: ignore[arg-type]

    def learning_rate_at(self, step: SupportsIndex) -> float:
        """Return the learning rate of the update before which `step` others were made: 0 is the first.

        Raises
        ------
        TypeError, ValueError
            If `step` is not an integer of at least 0, or a schedule does not give a finite number of at least 0.

        Examples
        --------
        >>> from cgru import optimizers
        >>> sgd = optimizers.SGD(lambda step: 0.1 / (1 + step))
        >>> sgd.learning_rate_at(0), sgd.learning_rate_at(1)
        (0.1, 0.05)
        """
        step, rate = check_int(step, "step"), self._learning_rate
        return _rate_of(rate, step) if callable(rate) else rate

    # -- updates

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
            Whether gradients, new parameters and what the optimizer remembers are known to be finite.
        """
        if gradients.keys() != parameters.keys():
            differing = sorted(map(str, gradients.keys() ^ parameters.keys()))
            raise RuntimeError(f"gradients and parameters differ in {', '.join(differing)}")
        for key, parameter in parameters.items():
            if gradients[key].shape != parameter.shape:
                raise RuntimeError(f"the gradient of {key} has shape {gradients[key].shape}, not {parameter.shape}")
        finite, step = True, self._step(state.iterations + 1)
        decay = self.learning_rate_at(state.iterations) * self.weight_decay if self.weight_decay else 0.0
        limit = math.inf if self.clipvalue is None else self.clipvalue
        scales = self._scales(parameters, gradients)
        for key, parameter in parameters.items():
            slots, new_slots, scale = state.slots[key], new_state.slots[key], scales.get(key, 1.0)
            own_decay = -decay if decay and self._decays(key, parameter) else 0.0
            p, g, new_p = (a.reshape(-1) for a in (parameter, gradients[key], new_parameters[key]))
            if isinstance(step, Compiled):
                terms = (scale, limit, own_decay, *step[1:])
                finite &= kernels.update(step.method, p, g, slots, new_p, new_slots, terms, kernels.get_num_threads())
                continue
            finite = False
            flat = [p, g, *(a.reshape(-1) for a in slots), new_p, *(a.reshape(-1) for a in new_slots)]
            for start in range(0, parameter.size, _BLOCK):
                blocks = [a[start : start + _BLOCK] for a in flat]
                if own_decay:
                    blocks[0] = blocks[0] + own_decay * blocks[0]
                if scale != 1.0 or limit < math.inf:
                    blocks[1] = np.clip(blocks[1] * scale, -limit, limit)
                step(*blocks)
        new_state.iterations, new_state.resting = state.iterations + 1, state.resting
        return finite

    def _step(self, iteration: int) -> Callable[..., None] | Compiled:
        """Return a function of flat blocks: parameter, gradient, slots, and those to write, new parameter and slots;
        or the compiled one. The first `iteration` is 1."""
        raise NotImplementedError

    def _scales(self, parameters: Mapping[Any, Array], gradients: Mapping[Any, Array]) -> dict[Any, float]:
        """What the gradients are to be multiplied by, where that is not 1."""
        most = self.clipnorm or self.global_clipnorm
        if most is None:
            return {}
        threads = kernels.get_num_threads()
        squares = {key: kernels.squares_sum(gradients[key].reshape(-1), threads) for key in parameters}
        if self.global_clipnorm is not None:
            squares = dict.fromkeys(squares, _exact_sum(squares.values()))
        scales = {key: most / max(math.sqrt(s), most) if s < math.inf else 0.0 for key, s in squares.items()}
        # One that the type does not hold makes the update NaN, which is seen there, instead of nothing.
        return {k: s if s >= np.finfo(parameters[k].dtype).tiny else math.nan for k, s in scales.items()}

    def _decays(self, key: Any, parameter: Array) -> bool:
        name = str(key[-1] if isinstance(key, tuple) else key).rpartition(".")[2]
        return self.decay_biases or (parameter.ndim > 1 and name not in _NOT_DECAYED)

    def apply(self, model_or_layers: Any, gradients: Mapping[Any, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Update a model, a layer or several of them by their gradients, in a loop of one's own.

        Parameters
        ----------
        model_or_layers : model, Layer, or list of them
        gradients : dict, or list of dict
            Of a model, what its `backward` returns: "layer index.name" (or a tuple of the two) -> array. Of a layer
            name -> array; of a list a list of such dicts. Layers that are not trainable need none, and stay as they
            are. Messages count the layers of a list through, those of its models included.

        Raises
        ------
        RuntimeError
            If a layer is not built.
        TypeError, ValueError
            If a gradient is missing, or of the wrong name, shape or type.
        FloatingPointError
            If a gradient or the update is not finite; the message names it. The update is not made.

        Notes
        -----
        The update is made whole, or, after an error or Ctrl-C, not at all. What the optimizer remembers belongs to the
        layers that are given together, and goes when one of them does; it is in no copy and no pickle of the optimizer.
        `Sequential.fit` keeps its own.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> layer, sgd = cgru.Dense(1, dtype="float64", seed=0), cgru.optimizers.SGD(0.1)
        >>> x, target = np.eye(3), np.array([[1.0], [2.0], [3.0]])
        >>> for _ in range(200):
        ...     y, tape = layer.forward(x, training=True)
        ...     _, gradients = layer.backward(y - target, tape)
        ...     sgd.apply(layer, gradients)
        >>> bool(abs(layer(x) - target).max() < 1e-3)
        True
        """
        layers, checked = layers_and_gradients(model_or_layers, gradients)
        with self._lock:
            self._memory_of(layers).update(self, layers, checked)

    def _memory_of(self, layers: Sequence[Any]) -> Memory:
        key, memories = frozenset(map(id, layers)), self._memories
        if key not in memories:

            def forget(reference: object) -> None:
                memories.pop(key, None)

            memories[key] = Memory(layers, forget)
        return memories[key]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_memories": {}}

    # -- configuration

    def _arguments(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, **super().get_config()}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as a dict that JSON can hold; a schedule as {"class", "config"}.

        Raises
        ------
        TypeError
            If the learning rate is a function that is not one of `cgru.schedules`.
        """
        rate = self.learning_rate
        return self._arguments() | ({"learning_rate": schedules.to_config(rate)} if callable(rate) else {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new optimizer from what `get_config` returned."""
        arguments = dict(config)
        if isinstance(arguments.get("learning_rate"), Mapping):
            arguments["learning_rate"] = schedules.from_config(arguments["learning_rate"])
        return cls(**arguments)


def _exact_sum(squares: Iterable[float]) -> float:
    """Their sum in whatever order."""
    try:
        return math.fsum(squares)
    except OverflowError:
        return math.inf


def _rate_of(schedule: Callable[[int], Any], step: int) -> float:
    given = schedule(step)
    try:
        rate = check_number(given, "learning_rate")
    except TypeError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise ValueError(
            f"learning_rate: expected a finite number of at least 0 from {schedule!r} for step {step}, got {given!r}"
        )
    return rate
