"""Flax nnx' GRUCell: columns r, z, n; reset after; z weighs the old state. There is no b_hn.

    r = f(x W_r + b_r + h U_r)    z = f(x W_z + b_z + h U_z)
    n = g(x W_n + b_n + r * (h U_n))    h' = (1 - z) * n + z * h

https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/recurrent.html#flax.nnx.nn.recurrent.GRUCell; its text
has a b_hn that its code (flax/nnx/nn/recurrent.py) has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cgru.convert.arrays import Arrays, each_cell, nest
from cgru.convert.cells import Cell, four_biases, from_four_biases, one_or_list, refuse
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import Activation, DictOrList, LayerOrModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["flax_nnx"]


@shared_words
def from_flax_nnx(
    cell: Any,
    prefix: str | Sequence[str] | None = None,
    *,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    directions: Literal[1, 2] = 1,
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of one or more flax.nnx.GRUCell.

    %(signs)s

    Parameters
    ----------
    cell : flax.nnx.GRUCell, mapping, or list of these
        The cell, or its state by name: "dense_i", {"kernel": (D, 3H), "bias": (3H,)}, and "dense_h", {"kernel": (H,
        3H)}, by themselves or within the state of something bigger.
    prefix : str or list of str, optional
        The path of the cell, such as "encoder/cell", needed where there are several.
        %(stack)s
    activation, recurrent_activation : str
        activation_fn and gate_fn, by cgru's names.
    %(directions)s
    **options
        Of cgru.GRU, such as reverse or time_major. `flax.nnx.RNN` with reverse=True returns the outputs in the order of
        processing (go_backwards; its padding then comes last and ours first), and in that of the input with
        keep_order=True (reverse).

    Returns
    -------
    %(layer)s

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown or of the wrong shape, the prefix is missing, or gates are neither sigmoid nor
        hard sigmoid; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> state = {"dense_i": {"kernel": np.ones((3, 6)), "bias": np.ones(6)}, "dense_h": {"kernel": np.ones((2, 6))}}
    >>> layer = cgru.convert.from_flax_nnx(state)
    >>> layer.input_size, layer.units
    (3, 2)
    """
    _THEIRS.require_gates(recurrent_activation)
    parts = [_state(part) for part in cell] if isinstance(cell, (list, tuple)) else _state(cell)
    return _THEIRS.layer_of(
        [_cell_of(arrays) for arrays in each_cell(parts, "dense_h/kernel", prefix, "cell")],
        directions=directions,
        activation=activation,
        recurrent_activation=recurrent_activation,
        **options,
    )


def _state(cell):
    """The mapping of a GRUCell, known by its attributes; a mapping is given back."""
    if not hasattr(cell, "dense_i"):
        return cell
    return {
        "dense_i": {"kernel": cell.dense_i.kernel, "bias": cell.dense_i.bias},
        "dense_h": {"kernel": cell.dense_h.kernel},
    }


def _cell_of(state):
    arrays = Arrays(state, "cell")
    recurrent_kernel = arrays.take("dense_h/kernel", "H 3H")
    kernel, bias = arrays.take("dense_i/kernel", "D 3H"), arrays.take("dense_i/bias", "3H")
    arrays.finish()
    b_hn = np.zeros(arrays.sizes["H"], bias.dtype)
    kernel, recurrent_kernel, bias = (_THEIRS.canonical(part) for part in (kernel, recurrent_kernel, bias))
    return Cell(kernel, recurrent_kernel, from_four_biases(bias, b_hn))


@shared_words
def to_flax_nnx(layer: GRU | Sequential) -> DictOrList:
    """The state of a flax.nnx.GRUCell for each cell of the layer, as NumPy arrays.

    %(sums)s Biases are zero where the layer has none. What a cell does not know is left out: direction, merge mode,
    activations.

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict, or list of dicts where there are several cells
        Nested, as `from_flax_nnx` takes them; flax.nnx.update(cell, state) puts one into a GRUCell.

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=False, a recurrent bias b_hn of the candidate other than zero, for which the cell has
        no place, gates that are neither sigmoid nor hard sigmoid, or a learned initial state.

    Examples
    --------
    >>> import cgru
    >>> state = cgru.convert.to_flax_nnx(cgru.GRU(2, reset_after=True, input_size=3))
    >>> {name: array.shape for name, array in state["dense_i"].items()}
    {'kernel': (3, 6), 'bias': (6,)}
    """
    return one_or_list(layer, _THEIRS.require, _state_of)


def _state_of(cell):
    cell = _THEIRS.parts_of(cell)
    sums, b_hn = four_biases(cell.bias)
    if b_hn.any():
        refuse(
            _THEIRS.where,
            "the recurrent bias of the candidate",
            "its dense_h has no bias, and b_hn is multiplied by the reset gate",
            "flax.linen.GRUCell has it: to_flax_linen",
        )
    return nest(
        {
            "dense_i/kernel": _THEIRS.foreign(cell.kernel),
            "dense_i/bias": _THEIRS.foreign(sums),
            "dense_h/kernel": _THEIRS.foreign(cell.recurrent_kernel),
        }
    )
