"""Flax linen's GRUCell: a Dense layer for each gate and side, kernels (in, out); reset after; z weighs the old state.

    r = f(x W_ir + b_ir + h W_hr)    z = f(x W_iz + b_iz + h W_hz)
    n = g(x W_in + b_in + r * (h W_hn + b_hn))    h' = (1 - z) * n + z * h

https://flax-linen.readthedocs.io/en/latest/api_reference/flax.linen/layers.html#flax.linen.GRUCell
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from cgru.convert.arrays import Arrays, each_cell, nest
from cgru.convert.cells import Cell, four_biases, from_four_biases, one_or_list
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import Activation, DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["flax_linen"]


@shared_words
def from_flax_linen(
    params: OneOrMany,
    prefix: str | Sequence[str] | None = None,
    *,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    directions: Literal[1, 2] = 1,
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of the parameters of one or more flax.linen.GRUCell.

    %(signs)s

    Parameters
    ----------
    params : mapping, or list of mappings, one for each cell
        "ir", "iz", "in", each {"kernel": (D, H), "bias": (H,)}; "hr", "hz", each {"kernel": (H, H)}; "hn", {"kernel":
        (H, H), "bias": (H,)}; by themselves or within the variables of something bigger.
    prefix : str or list of str, optional
        The path of the cell, such as "params/encoder/cell", needed where there are several. A list, in the order of
        the state (layer by layer, forward before backward), makes a layer of several cells.
    activation, recurrent_activation : str
        activation_fn and gate_fn, by cgru's names.
    %(directions)s
    **options
        Of cgru.GRU, such as reverse or time_major. `flax.linen.RNN` with reverse=True returns the outputs in the order
        of processing (go_backwards; its padding then comes last and ours first), and in that of the input with
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
    >>> params = {gate: {"kernel": np.ones((3, 2)), "bias": np.ones(2)} for gate in ("ir", "iz", "in")}
    >>> params |= {gate: {"kernel": np.ones((2, 2))} for gate in ("hr", "hz")}
    >>> params["hn"] = {"kernel": np.ones((2, 2)), "bias": np.ones(2)}
    >>> layer = cgru.convert.from_flax_linen({"params": {"cell": params}})
    >>> layer.input_size, layer.units
    (3, 2)
    """
    _THEIRS.require_gates(recurrent_activation)
    return _THEIRS.layer_of(
        [_cell_of(arrays) for arrays in each_cell(params, "hn/kernel", prefix, "params")],
        directions=directions,
        activation=activation,
        recurrent_activation=recurrent_activation,
        **options,
    )


def _cell_of(params):
    arrays = Arrays(params, "params")
    recurrent_kernel = np.concatenate([arrays.take(f"h{gate}/kernel", "H H") for gate in "rzn"], axis=1)
    kernel = np.concatenate([arrays.take(f"i{gate}/kernel", "D H") for gate in "rzn"], axis=1)
    sums = np.concatenate([arrays.take(f"i{gate}/bias", "H") for gate in "rzn"])
    b_hn = arrays.take("hn/bias", "H")
    arrays.finish()
    kernel, recurrent_kernel, sums = (_THEIRS.canonical(part) for part in (kernel, recurrent_kernel, sums))
    return Cell(kernel, recurrent_kernel, from_four_biases(sums, b_hn))


@shared_words
def to_flax_linen(layer: GRU | Sequential) -> DictOrList:
    """The parameters of a flax.linen.GRUCell for each cell of the layer, as NumPy arrays.

    %(sums)s Biases are zero where the layer has none. What a cell does not know is left out: direction, merge mode,
    activations.

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict, or list of dicts where there are several cells
        Nested, as `from_flax_linen` takes them.

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=False, gates that are neither sigmoid nor hard sigmoid, or a learned initial state,
        which is no parameter of the cell.

    Examples
    --------
    >>> import cgru
    >>> params = cgru.convert.to_flax_linen(cgru.GRU(2, reset_after=True, input_size=3))
    >>> sorted(params), params["hn"]["bias"].shape
    (['hn', 'hr', 'hz', 'in', 'ir', 'iz'], (2,))
    """
    return one_or_list(layer, _THEIRS.require, _params_of)


def _params_of(cell):
    cell = _THEIRS.parts_of(cell)
    sums, b_hn = four_biases(cell.bias)
    flat = {}
    for side, kernel in (("i", cell.kernel), ("h", cell.recurrent_kernel)):
        for gate, part in zip("rzn", np.split(_THEIRS.foreign(kernel), 3, axis=1), strict=True):
            flat[f"{side}{gate}/kernel"] = part.copy()
    for gate, part in zip("rzn", np.split(_THEIRS.foreign(sums), 3), strict=True):
        flat[f"i{gate}/bias"] = part.copy()
    flat["hn/bias"] = b_hn.copy()
    return nest(flat)
