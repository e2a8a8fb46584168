"""CNTK's layers.GRU: columns z, r, c of W, z, r of H, and c apart in H1; reset before; z weighs the old state.

    z = sigmoid(x W_z + h H_z + b_z)    r = sigmoid(x W_r + h H_r + b_r)
    c = g(x W_c + (r * h) H1 + b_c)    h' = (1 - z) * c + z * h

https://github.com/microsoft/CNTK/blob/master/bindings/python/cntk/layers/blocks.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cgru.convert.arrays import Arrays
from cgru.convert.cells import Cell, one_or_list
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import Activation, DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["cntk"]


@shared_words
def from_cntk(
    parameters: OneOrMany,
    *,
    activation: Activation = "tanh",
    directions: Literal[1, 2] = 1,
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of the parameters of one or more GRU blocks.

    %(signs)s A block with enable_self_stabilization scales the state, which a GRU here does not.

    Parameters
    ----------
    parameters : mapping, or list of mappings, one for each cell
        "b" (3H,), "W" (D, 3H), "H" (H, 2H) and "H1" (H, H). CNTK calls the last one "H" as well: it is the square one.
    activation : str
        g, by cgru's name.
    %(directions)s
    **options
        Of cgru.GRU, such as reverse.

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
    >>> shapes = {"b": (6,), "W": (3, 6), "H": (2, 4), "H1": (2, 2)}
    >>> layer = cgru.convert.from_cntk({name: np.ones(shape) for name, shape in shapes.items()})
    >>> layer.input_size, layer.units
    (3, 2)
    """
    parts = parameters if isinstance(parameters, (list, tuple)) else [parameters]
    return _THEIRS.layer_of(
        [_cell_of(part) for part in parts],
        directions=directions,
        activation=activation,
        **options,
    )


def _cell_of(parameters):
    arrays = Arrays(parameters, "parameters")
    square, gates = arrays.take("H1", "H H"), arrays.take("H", "H 2H")
    kernel, bias = arrays.take("W", "D 3H"), arrays.take("b", "3H")
    arrays.finish()
    parts = kernel, np.concatenate([gates, square], axis=1), bias
    return Cell(*(_THEIRS.canonical(part) for part in parts))


@shared_words
def to_cntk(layer: GRU | Sequential) -> DictOrList:
    """The parameters of a GRU block for each cell of the layer.

    No biases are summed: `from_cntk` gives back the same bits. The bias is zero where the layer has none. What a block
    does not know is left out: direction, merge mode.

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict of str to ndarray, or list of dicts where there are several cells
        As `from_cntk` takes them.

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=True, gates other than sigmoid, or a learned initial state, which is no parameter of
        the block.

    Examples
    --------
    >>> import cgru
    >>> parameters = cgru.convert.to_cntk(cgru.GRU(2, input_size=3))
    >>> {name: array.shape for name, array in parameters.items()}
    {'b': (6,), 'W': (3, 6), 'H': (2, 4), 'H1': (2, 2)}
    """
    return one_or_list(layer, _THEIRS.require, _dict_of)


def _dict_of(cell):
    cell = _THEIRS.parts_of(cell)
    recurrent_kernel, gates = _THEIRS.foreign(cell.recurrent_kernel), 2 * cell.units
    return {
        "b": _THEIRS.foreign(cell.bias),
        "W": _THEIRS.foreign(cell.kernel),
        "H": recurrent_kernel[:, :gates].copy(),
        "H1": recurrent_kernel[:, gates:].copy(),
    }
