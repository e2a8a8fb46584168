"""Equinox' GRUCell: rows r, z, n; reset after; z weighs the old state; one bias for all sums, and b_hn.

    r = sigmoid(W_r x + b_r + U_r h)    z = sigmoid(W_z x + b_z + U_z h)
    n = tanh(W_n x + b_n + r * (U_n h + bias_n))    h' = n + z * (h - n)

https://docs.kidger.site/equinox/api/nn/rnn/#equinox.nn.GRUCell
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cgru.convert.arrays import Arrays, each_cell
from cgru.convert.cells import Cell, four_biases, from_four_biases, one_or_list
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["equinox"]
_NAMES = ("weight_ih", "weight_hh", "bias", "bias_n")


@shared_words
def from_equinox(cell: Any, *, directions: Literal[1, 2] = 1, **options: Unpack[CellOptions]) -> LayerOrModel:
    """A layer of one or more equinox.nn.GRUCell.

    %(signs)s

    Parameters
    ----------
    cell : equinox.nn.GRUCell, mapping, or list of these
        The cell, or its arrays by name: "weight_ih" (3H, D), "weight_hh" (3H, H), "bias" (3H,) and "bias_n" (H,); the
        biases may both be None or absent.
        %(stack)s
    %(directions)s
    **options
        Of cgru.GRU, such as reverse or time_major.

    Returns
    -------
    %(layer)s

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown or of the wrong shape; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_equinox({"weight_ih": np.ones((6, 3)), "weight_hh": np.ones((6, 2))})
    >>> layer.input_size, layer.units, layer.use_bias
    (3, 2, False)
    """
    parts = cell if isinstance(cell, (list, tuple)) else [cell]
    found = each_cell([_arrays(part) for part in parts], "weight_hh", None, "cell")
    return _THEIRS.layer_of(
        [_cell_of(arrays) for arrays in found],
        directions=directions,
        **options,
    )


def _arrays(cell):
    """The mapping of a GRUCell, known by its attributes; a mapping is given back."""
    return {name: getattr(cell, name) for name in _NAMES} if hasattr(cell, "weight_hh") else cell


def _cell_of(named):
    arrays = Arrays(named, "cell")
    recurrent_kernel, kernel = arrays.take("weight_hh", "3H H"), arrays.take("weight_ih", "3H D")
    bias = None
    if named.get("bias") is not None or named.get("bias_n") is not None:
        bias = from_four_biases(_THEIRS.canonical(arrays.take("bias", "3H")), arrays.take("bias_n", "H"))
    arrays.finish(name for name in named if named[name] is not None)
    return Cell(_THEIRS.canonical(kernel.T), _THEIRS.canonical(recurrent_kernel.T), bias)


@shared_words
def to_equinox(layer: GRU | Sequential) -> DictOrList:
    """The arrays of an equinox.nn.GRUCell for each cell of the layer.

    %(sums)s %(unknown)s

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict of str to ndarray or None, or list of dicts where there are several cells
        "weight_ih", "weight_hh", "bias" and "bias_n". With equinox.tree_at they become a GRUCell's::

            cell = equinox.tree_at(lambda c: [getattr(c, name) for name in arrays], cell, list(arrays.values()))

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=False, activations other than tanh and sigmoid, or a learned initial state, which is
        no parameter of the cell.

    Examples
    --------
    >>> import cgru
    >>> arrays = cgru.convert.to_equinox(cgru.GRU(2, reset_after=True, input_size=3))
    >>> {name: array.shape for name, array in arrays.items()}
    {'weight_ih': (6, 3), 'weight_hh': (6, 2), 'bias': (6,), 'bias_n': (2,)}
    """
    return one_or_list(layer, _THEIRS.require, _arrays_of)


def _arrays_of(cell):
    cell = _THEIRS.parts_of(cell)
    sums, b_hn = (None, None) if cell.bias is None else four_biases(cell.bias)
    return {
        "weight_ih": np.ascontiguousarray(_THEIRS.foreign(cell.kernel).T),
        "weight_hh": np.ascontiguousarray(_THEIRS.foreign(cell.recurrent_kernel).T),
        "bias": None if sums is None else _THEIRS.foreign(sums),
        "bias_n": None if b_hn is None else b_hn.copy(),
    }
