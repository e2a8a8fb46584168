"""What the conventions of a cell's weights differ in, as data, and what their converters do and say alike.

A new one is a row of `CONVENTIONS`, and a file that says how its arrays are called and laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from cgru.convert.cells import (
    Cell,
    canonical,
    foreign,
    layer_of,
    require_activations,
    require_flippable,
    require_no_initial_state,
    require_reset,
    with_bias,
)
from cgru.layers import GRU
from cgru.typing import Array, LayerOrModel


class Convention(NamedTuple):
    """How a framework has a GRU cell."""

    where: str  # what errors call it
    order: str  # of the gate blocks, in cgru's letters
    reset_after: bool
    other_reset: str  # who has the reset on the other side
    state: str  # where a state to start from is given
    z_weighs: str = "old"
    activation: str | None = "tanh"  # None: any
    gates: str | None = "sigmoid"  # None: any
    always_biased: bool = True

    def canonical(self, columns: Array) -> Array:
        """Columns of gates as cgru has them; for rows give the transpose."""
        return canonical(columns, self.order, self.z_weighs)

    def foreign(self, columns: Array) -> Array:
        """The inverse of `canonical`."""
        return foreign(columns, self.order, self.z_weighs)

    def layer_of(self, cells: Sequence[Cell], **options: Any) -> LayerOrModel:
        """The layer of these cells; the options that the convention leaves open are the caller's."""
        known: dict[str, Any] = {"activation": self.activation, "recurrent_activation": self.gates}
        return layer_of(
            cells,
            reset_after=self.reset_after,
            **{name: value for name, value in known.items() if value is not None},
            **options,
        )

    def require_gates(self, recurrent_activation: str) -> None:
        """Refuse gates whose z block cannot change sign where it has to."""
        if self.z_weighs == "old":
            require_flippable(recurrent_activation, self.where)

    def require(self, layer: GRU) -> None:
        """Refuse a layer that such a cell does not compute."""
        require_reset(layer.reset_after, self.reset_after, self.where, self.other_reset)
        self.require_gates(layer.recurrent_activation if self.gates is None else self.gates)
        activation = layer.activation if self.activation is None else self.activation
        gates = layer.recurrent_activation if self.gates is None else self.gates
        require_activations(layer, activation, gates, self.where)

    def parts_of(self, cell: Cell) -> Cell:
        """The cell with what the convention always has; a learned initial state is refused."""
        require_no_initial_state([cell], self.where, f"Give layer.parameters['initial_state'] to {self.state}")
        return with_bias(cell, self.reset_after) if self.always_biased else cell


_START = "it as the state to start from"
_CARRY = "it as the carry to start from"
_OTHERS_AFTER = "PyTorch, Keras and ONNX have the reset after"

CONVENTIONS = {
    "cntk": Convention(
        "CNTK's GRU", "zrn", False, "cuDNN has the reset after: CNTK's OptimizedRNNStack is cuDNN's",
        "Recurrence as initial_state", activation=None,
    ),
    "cudnn": Convention(
        "cuDNN", "rzn", True, "TensorFlow 1's GRUCell has the reset before", "it as hx", always_biased=False
    ),
    "equinox": Convention(
        "equinox.nn.GRUCell", "rzn", True, "Haiku has the reset before", _START, always_biased=False
    ),
    "flax_linen": Convention(
        "flax.linen.GRUCell", "rzn", True, "Haiku has the reset before", _CARRY, activation=None, gates=None
    ),
    "flax_nnx": Convention(
        "flax.nnx.GRUCell", "rzn", True, "Haiku has the reset before", _CARRY, activation=None, gates=None
    ),
    "haiku": Convention(
        "the GRU of Haiku and Sonnet", "zrn", False, "Flax and Equinox have the reset after", _START, z_weighs="new"
    ),
    "rnnoise": Convention("RNNoise 0.1", "zrn", False, _OTHERS_AFTER, _START, activation=None),
    "tf1": Convention(
        "TensorFlow 1's GRUCell", "rzn", False, "Keras has both; CudnnCompatibleGRUCell was TensorFlow 1's other",
        _START, activation=None,
    ),
    "tflite": Convention(
        "TensorFlow Lite's unidirectional_sequence_gru", "rzn", False, "ONNX has both", "it as input_state"
    ),
}  # fmt: skip


# -- what docstrings say alike

_WORDS = {
    "directions": """directions : {1, 2}
        2: the cells come in pairs, forward and backward.""",
    "stack": """A list, in the order of the state (layer by layer, forward before backward), makes a layer of several
        cells.""",
    "layer": """GRU or Sequential
        With return_sequences and return_state on, unless the options say else; a Sequential where the cells differ in
        size.""",
    "of": "layer : GRU, or Sequential of GRUs",
    "signs": """No biases are summed and only the signs of z's weights change: the way back gives the same bits. Outputs
    agree to rounding.""",
    "exact": "Exact to the bit: no biases are summed and no signs change.",
    "unknown": "What a cell does not know is left out: direction, merge mode.",
    "sums": """The two biases of r, and those of z, are summed; where the layer comes from such a cell, one of them is
    zero, and the bits are the same.""",
}

Function = TypeVar("Function", bound=Callable[..., Any])


def shared_words(function: Function) -> Function:
    """The function, with the words that docstrings share, %(name)s, in their places."""
    if function.__doc__:  # there are none under python -OO
        function.__doc__ %= _WORDS
    return function
