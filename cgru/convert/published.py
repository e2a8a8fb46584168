"""The published form: one matrix a gate over the state and the input together, [h, x], reset before, z weighs the new
state.

C. Olah (2015), "Understanding LSTM Networks", writes it so, without biases::

    z = f(W_z [h, x])    r = f(W_r [h, x])    n = g(W [r * h, x])    h' = (1 - z) * h + z * n

K. Cho et al. (2014, arXiv:1406.1078) and J. Chung et al. (2014, arXiv:1412.3555) part the same matrices into those of
x and those of h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru.convert.arrays import Arrays
from cgru.convert.cells import Cell, layer_of, one_or_list, refuse, require_reset
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import Activation, DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_WHERE = "the published form"
# name of the matrix, name of the bias; in cgru's order of gates
_GATES = (("W_r", "b_r"), ("W_z", "b_z"), ("W", "b"))


def from_published(
    weights: OneOrMany,
    *,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of the published form's weights. No biases are summed, no sign changes: exact to the bit.

    Parameters
    ----------
    weights : mapping, or list of mappings, one for each layer
        "W_r", "W_z", "W" of shape (H, H + D), the columns of h first; "b_r", "b_z", "b" of shape (H,), all or none; and
        "h_0" of shape (H,), optional: a learned initial state.
    activation, recurrent_activation : str
        g and f.
    **options
        Of cgru.GRU, such as reverse or time_major.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential where the layers differ in size.

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown or of the wrong shape; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> weights = {name: np.full((2, 2 + 3), 0.1) for name in ("W_r", "W_z", "W")}
    >>> layer = cgru.convert.from_published(weights)
    >>> y, h = layer(np.ones((1, 4, 3)))
    >>> y.shape
    (1, 4, 2)
    """
    stack = weights if isinstance(weights, (list, tuple)) else [weights]
    return layer_of(
        [_cell_of(layer) for layer in stack],
        reset_after=False,
        activation=activation,
        recurrent_activation=recurrent_activation,
        **options,
    )


def _cell_of(weights):
    arrays = Arrays(weights, "weights")
    matrix = arrays.take("W_r", "H K")
    H, K = arrays.sizes["H"], arrays.sizes["K"]
    if K <= H:
        raise ValueError(f"W_r: expected shape (H, H + D), more columns than rows, got {matrix.shape}")
    both = np.concatenate([arrays.take(name, "H K") for name, _ in _GATES]).T  # (H + D, 3H)
    has_bias = any(name in arrays for _, name in _GATES)
    bias = np.concatenate([arrays.take(name, "H") for _, name in _GATES]) if has_bias else None
    initial_state = arrays.take_if_there("h_0", "H")
    arrays.finish()
    return Cell(both[H:], both[:H], bias, initial_state)


def to_published(layer: GRU | Sequential) -> DictOrList:
    """The published form's weights of a layer: exact to the bit, nothing is summed.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

    Returns
    -------
    dict, or list of dicts where there are several layers
        As `from_published` takes them.

    Raises
    ------
    TypeError, ValueError
        If the layer has reset_after=True, or two directions.
    """
    return one_or_list(layer, _check, _dict_of)


def _check(layer):
    require_reset(layer.reset_after, False, _WHERE, "PyTorch, Keras and ONNX have the reset after")
    if layer.bidirectional:
        refuse(_WHERE, "bidirectional=True", "it has one direction", "PyTorch, Keras and ONNX have both")


def _dict_of(cell):
    both = np.concatenate([cell.recurrent_kernel, cell.kernel]).T  # (3H, H + D)
    weights = {name: part.copy() for (name, _), part in zip(_GATES, np.split(both, 3), strict=True)}
    if cell.bias is not None:
        weights |= {name: part.copy() for (_, name), part in zip(_GATES, np.split(cell.bias, 3), strict=True)}
    if cell.initial_state is not None:
        weights["h_0"] = cell.initial_state.copy()
    return weights
