"""Haiku's GRU and Sonnet 2's: columns z, r, a; reset before; z weighs the new state. Nothing is negated.

    z = sigmoid(x W_z + h U_z + b_z)    r = sigmoid(x W_r + h U_r + b_r)
    a = tanh(x W_a + (r * h) U_a + b_a)    h' = (1 - z) * h + z * a

https://dm-haiku.readthedocs.io/en/latest/api.html#gru,
https://github.com/google-deepmind/sonnet/blob/v2/sonnet/src/recurrent.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from cgru.convert.arrays import Arrays, each_cell
from cgru.convert.cells import Cell, one_or_list
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["haiku"]


@shared_words
def from_haiku(
    params: OneOrMany,
    prefix: str | Sequence[str] | None = None,
    *,
    directions: Literal[1, 2] = 1,
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of the parameters of haiku.GRU.

    %(exact)s

    Parameters
    ----------
    params : mapping, or list of mappings, one for each cell
        "w_i" (D, 3H), "w_h" (H, 3H) and "b" (3H,), by themselves or within the parameters of something bigger.
    prefix : str or list of str, optional
        The module's name, such as "my_model/gru", needed where there are several.
        %(stack)s
    %(directions)s
    **options
        Of cgru.GRU, such as reverse or time_major (haiku.dynamic_unroll is).

    Returns
    -------
    %(layer)s

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown or of the wrong shape, or the prefix is missing; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_haiku({"gru": {"w_i": np.ones((3, 6)), "w_h": np.ones((2, 6)), "b": np.ones(6)}})
    >>> layer.input_size, layer.units
    (3, 2)
    """
    return _layer_of(each_cell(params, "w_i", prefix, "params"), "params", directions, options)


@shared_words
def from_sonnet(gru: Any, *, directions: Literal[1, 2] = 1, **options: Unpack[CellOptions]) -> LayerOrModel:
    """A layer of one or more sonnet.GRU of Sonnet 2.

    %(exact)s

    Parameters
    ----------
    gru : sonnet.GRU, mapping, or list of these
        The module, after its first call, or its variables by name: "w_i" (D, 3H), "w_h" (H, 3H) and "b" (3H,).
        %(stack)s
    %(directions)s
    **options
        Of cgru.GRU, such as reverse or time_major (sonnet.dynamic_unroll is).

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
    >>> layer = cgru.convert.from_sonnet({"w_i": np.ones((3, 6)), "w_h": np.ones((2, 6)), "b": np.ones(6)})
    >>> layer.input_size, layer.units
    (3, 2)
    """
    parts = gru if isinstance(gru, (list, tuple)) else [gru]
    found = each_cell([_variables(part) for part in parts], "w_i", None, "gru")
    return _layer_of(found, "gru", directions, options)


def _variables(gru):
    """The mapping of a module, known by its attributes; a mapping is given back."""
    if not hasattr(gru, "input_to_hidden"):
        return gru
    return {"w_i": gru.input_to_hidden, "w_h": gru.hidden_to_hidden, "b": gru.b}


def _layer_of(found, what, directions, options):
    return _THEIRS.layer_of(
        [_cell_of(Arrays(arrays, what)) for arrays in found],
        directions=directions,
        **options,
    )


def _cell_of(arrays):
    parts = [arrays.take("w_h", "H 3H"), arrays.take("w_i", "D 3H"), arrays.take("b", "3H")]
    arrays.finish()
    recurrent_kernel, kernel, bias = (_THEIRS.canonical(part) for part in parts)
    return Cell(kernel, recurrent_kernel, bias)


@shared_words
def to_haiku(layer: GRU | Sequential) -> DictOrList:
    """The parameters of a haiku.GRU for each cell of the layer, as NumPy arrays.

    %(exact)s The bias is zero where the layer has none. %(unknown)s

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict of str to ndarray, or list of dicts where there are several cells
        As `from_haiku` takes them, without the name of the module.

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=True, activations other than tanh and sigmoid, or a learned initial state, which is
        no parameter of the module.

    Examples
    --------
    >>> import cgru
    >>> params = {"gru": cgru.convert.to_haiku(cgru.GRU(2, input_size=3))}
    >>> {name: array.shape for name, array in params["gru"].items()}
    {'w_i': (3, 6), 'w_h': (2, 6), 'b': (6,)}
    """
    return one_or_list(layer, _THEIRS.require, _params_of)


@shared_words
def to_sonnet(layer: GRU | Sequential) -> DictOrList:
    """The variables of a sonnet.GRU of Sonnet 2 for each cell of the layer: those of `to_haiku`.

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict of str to ndarray, or list of dicts where there are several cells
        "w_i", "w_h" and "b", to be assigned to the module's input_to_hidden, hidden_to_hidden and b.

    Raises
    ------
    TypeError, ValueError
        As for `to_haiku`.
    """
    return to_haiku(layer)


def _params_of(cell):
    cell = _THEIRS.parts_of(cell)
    parts = {"w_i": cell.kernel, "w_h": cell.recurrent_kernel, "b": cell.bias}
    return {name: _THEIRS.foreign(part) for name, part in parts.items()}
