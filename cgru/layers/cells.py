"""The cells of a GRU, one for each layer and direction: their parameters, and the states that go in and come out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cgru import initializers, kernels, recurrence
from cgru.checks import shape_text
from cgru.layers.base import Layer, expected_sequences
from cgru.locks import owned
from cgru.sequences import as_numeric
from cgru.typing import Activation, Array, BoolArray, Initializer, MergeMode, Shape


class _Prepared(NamedTuple):
    cells: list[recurrence.Weights]  # of every cell, in the order of the state
    learned: Array | None  # initial states (cells, H), where they are learned
    handle: kernels.Handle  # of them, for calls of microseconds


class Cells(Layer):
    """What a GRU consists of and where its sequences start; `Stack` runs them."""

    units: int
    activation: Activation
    recurrent_activation: Activation
    use_bias: bool
    return_sequences: bool
    return_state: bool
    go_backwards: bool
    reverse: bool
    stateful: bool
    dropout: float
    recurrent_dropout: float
    layer_dropout: float
    zoneout: float
    layer_norm: bool
    reset_after: bool
    num_layers: int
    bidirectional: bool
    merge_mode: MergeMode
    learn_initial_state: bool
    time_major: bool
    zero_output_for_mask: bool
    dtype: np.dtype[Any]
    _prepared: _Prepared | None
    _state: Array | None
    _directions: tuple[str, ...]
    _state_is_flat: bool
    _takes_sequences = True

    # -- parameters

    def output_size(self, input_size: Any) -> int:
        return self.units * (2 if self.bidirectional and self.merge_mode == "concat" else 1)

    def output_shape(self, shape: Shape) -> Shape:
        steps = shape[1:2] if self.return_sequences else ()
        return (shape[0], *steps, self.output_size(shape[-1]))

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_sequences(shape, self.input_size, "D")

    @cached_property
    def _prefixes(self) -> list[str]:
        return list(self._each_prefix())

    def _each_prefix(self) -> Iterator[str]:
        """Yield what the parameters' names of each cell begin with, in the order of the state."""
        if self._state_is_flat:
            yield ""
            return
        for layer in range(self.num_layers):
            for direction in self._directions:
                yield f"l{layer}.{direction}."

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        H = self.units
        for index, prefix in enumerate(self._each_prefix()):
            yield prefix + "kernel", (input_size if index < len(self._directions) else self.output_size(None), 3 * H)
            yield prefix + "recurrent_kernel", (H, 3 * H)
            if self.use_bias:
                yield prefix + "bias", (2, 3 * H) if self.reset_after else (3 * H,)
            if self.layer_norm:
                yield prefix + "gain", (2, 3 * H)
            if self.learn_initial_state:
                yield prefix + "initial_state", (H,)

    def _initial(self, name: str) -> Initializer:
        if name.endswith("gain"):
            return initializers.ones
        return initializers.zeros if name.endswith("initial_state") else super()._initial(name)

    def _inputs_of_an_output(self, input_size: int) -> int:
        return self.units  # as PyTorch has it in a GRU

    def _changed(self) -> None:
        self._prepared = None

    def _ready(self) -> _Prepared:
        """What a call reads of the parameters, all of one moment; made once and dropped when they change."""
        prepared = self._prepared
        if prepared is None or prepared.cells[0].backend not in (None, kernels.get_backend()):
            with self._lock:
                parameters = self._built_parameters()
                cells = [
                    recurrence.prepare(
                        parameters[prefix + "kernel"],
                        parameters[prefix + "recurrent_kernel"],
                        parameters.get(prefix + "bias"),
                        reset_after=self.reset_after,
                        activation=self.activation,
                        recurrent_activation=self.recurrent_activation,
                        gain=parameters.get(prefix + "gain"),
                        zoneout=self.zoneout,
                    )
                    for prefix in self._prefixes
                ]
                learned = None
                if self.learn_initial_state:
                    learned = np.stack([parameters[prefix + "initial_state"] for prefix in self._prefixes])
                prepared = _Prepared(cells, learned, kernels.Handle(cells, learned))
                self._prepared = prepared  # in one assignment: readers see the old form or the whole new one
        return prepared

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_prepared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._state = None if self._state is None else owned(self._state)

    # -- state

    def _state_shape(self, N: Any) -> Shape:
        return (N, self.units) if self._state_is_flat else (len(self._prefixes), N, self.units)

    def _initial_state(
        self, initial_state: ArrayLike | None, N: int, learned: Array | None, name: str = "x",
        state: str = "initial_state",
    ) -> tuple[Array, bool]:  # fmt: skip
        """Return ((cells, N, H), whether it is the learned one, (cells, H) or None)."""
        shape = self._state_shape(N)
        if initial_state is None and self._state is not None:
            if self._state.shape != shape:
                raise ValueError(
                    f"{name}: expected {self._state.shape[-2]} rows, as the state of this stateful layer has, got {N}; "
                    "reset_states() forgets it"
                )
            initial_state = self._state
        if initial_state is not None:
            h0 = as_numeric(initial_state, self.dtype, state)
            if h0.shape != shape:
                raise ValueError(f"{state}: expected shape {shape}, got {h0.shape}")
            return np.ascontiguousarray(h0).reshape(len(self._prefixes), N, self.units), False
        return self._first_state(N, learned), learned is not None

    def _first_state(self, N: int, learned: Array | None) -> Array:
        """(cells, N, H): where sequences start from that go on from nothing."""
        h0 = np.zeros((len(self._prefixes), N, self.units), self.dtype)
        if learned is not None:
            h0 += learned[:, None]
        return h0

    def restarted(self, state: ArrayLike | None, resets: BoolArray) -> Array | None:
        if state is None and self._state is None:
            return None
        learned, N = self._ready().learned, len(resets)
        h = self._initial_state(state, N, learned, "x_t", "h")[0].copy()
        h[:, resets] = 0 if learned is None else learned[:, None]
        return h.reshape(self._state_shape(N))

    def reset_states(self, states: ArrayLike | None = None) -> None:
        """Forget the state of a stateful layer, or set it.

        Parameters
        ----------
        states : ndarray of shape (N, H), or (num_layers * directions, N, H); optional
            What the next call starts from; None is the initial state.

        Raises
        ------
        RuntimeError
            If the layer is not stateful.
        TypeError, ValueError
            If `states` is of the wrong type or shape.
        """
        if not self.stateful:
            raise RuntimeError("reset_states: expected a layer with stateful=True, got stateful=False")
        if states is not None:
            states = as_numeric(states, self.dtype, "states")
            rows = states.shape[-2] if states.ndim >= 2 else 0
            if states.shape != self._state_shape(rows):
                raise ValueError(f"states: expected shape {shape_text(self._state_shape('N'))}, got {states.shape}")
            states = states.copy()
        self._state = states

    def _keep_state(self, h: Array | None) -> None:
        """Let the next call start from h, or afresh if it is None, if the layer is stateful."""
        if self.stateful:
            self._state = None if h is None else h.copy()
