"""Equinox' GRUCell: rows r, z, n; reset after; z weighs the old state; one bias for all sums, and b_hn.

    r = sigmoid(W_r x + b_r + U_r h)    z = sigmoid(W_z x + b_z + U_z h)
    n = tanh(W_n x + b_n + r * (U_n h + bias_n))    h' = n + z * (h - n)

https://docs.kidger.site/equinox/api/nn/rnn/#equinox.nn.GRUCell
"""

import numpy as np

from cgru.convert.arrays import Arrays, each_cell
from cgru.convert.cells import (
    Cell,
    canonical,
    foreign,
    four_biases,
    from_four_biases,
    layer_of,
    one_or_list,
    require_activations,
    require_no_initial_state,
    require_reset,
)

_WHERE = "equinox.nn.GRUCell"
_NAMES = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(cell, *, directions=1, **options):
    """A layer of one or more equinox.nn.GRUCell.

    No biases are summed and only the signs of z's weights change: `to_equinox` gives back the same bits. Outputs agree
    to rounding.

    Parameters
    ----------
    cell : equinox.nn.GRUCell, mapping, or list of these
        The cell, or its arrays by name: "weight_ih" (3H, D), "weight_hh" (3H, H), "bias" (3H,) and "bias_n" (H,); the
        biases may both be None or absent. A list, in the order of the state (layer by layer, forward before backward),
        makes a layer of several cells.
    directions : {1, 2}
        2: the cells come in pairs, forward and backward.
    **options
        Of cgru.GRU, such as reverse or time_major.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential where the cells differ in size.

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
    return layer_of(
        [_cell_of(arrays) for arrays in found],
        reset_after=True,
        directions=directions,
        activation="tanh",
        recurrent_activation="sigmoid",
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
        bias = from_four_biases(canonical(arrays.take("bias", "3H"), "rzn"), arrays.take("bias_n", "H"))
    arrays.finish(name for name in named if named[name] is not None)
    return Cell(canonical(kernel.T, "rzn"), canonical(recurrent_kernel.T, "rzn"), bias)


def to_equinox(layer):
    """The arrays of an equinox.nn.GRUCell for each cell of the layer.

    The two biases of r, and those of z, are summed; where the layer comes from `from_equinox`, one of them is zero, and
    the bits are the same. What a cell does not know is left out: direction, merge mode.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

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
    return one_or_list(layer, _check, _arrays_of)


def _check(layer):
    require_reset(layer.reset_after, True, _WHERE, "Haiku has the reset before")
    require_activations(layer, "tanh", "sigmoid", _WHERE)


def _arrays_of(cell):
    require_no_initial_state([cell], _WHERE, "Give layer.parameters['initial_state'] to it as the state to start from")
    sums, b_hn = (None, None) if cell.bias is None else four_biases(cell.bias)
    return {
        "weight_ih": np.ascontiguousarray(foreign(cell.kernel, "rzn").T),
        "weight_hh": np.ascontiguousarray(foreign(cell.recurrent_kernel, "rzn").T),
        "bias": None if sums is None else foreign(sums, "rzn"),
        "bias_n": None if b_hn is None else b_hn.copy(),
    }
