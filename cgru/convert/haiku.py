"""Haiku's GRU and Sonnet 2's: columns z, r, a; reset before; z weighs the new state. Nothing is negated.

    z = sigmoid(x W_z + h U_z + b_z)    r = sigmoid(x W_r + h U_r + b_r)
    a = tanh(x W_a + (r * h) U_a + b_a)    h' = (1 - z) * h + z * a

https://dm-haiku.readthedocs.io/en/latest/api.html#gru,
https://github.com/google-deepmind/sonnet/blob/v2/sonnet/src/recurrent.py
"""

from cgru.convert.arrays import Arrays, each_cell
from cgru.convert.cells import (
    Cell,
    canonical,
    foreign,
    layer_of,
    one_or_list,
    require_activations,
    require_no_initial_state,
    require_reset,
    with_bias,
)

_WHERE = "the GRU of Haiku and Sonnet"
_ORDER, _Z_WEIGHS = "zrn", "new"


def from_haiku(params, prefix=None, *, directions=1, **options):
    """A layer of the parameters of haiku.GRU.

    Exact to the bit: no biases are summed and no signs change.

    Parameters
    ----------
    params : mapping, or list of mappings, one for each cell
        "w_i" (D, 3H), "w_h" (H, 3H) and "b" (3H,), by themselves or within the parameters of something bigger.
    prefix : str or list of str, optional
        The module's name, such as "my_model/gru", needed where there are several. A list, in the order of the state
        (layer by layer, forward before backward), makes a layer of several cells.
    directions : {1, 2}
        2: the cells come in pairs, forward and backward.
    **options
        Of cgru.GRU, such as reverse or time_major (haiku.dynamic_unroll is).

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential where the cells differ in size.

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


def from_sonnet(gru, *, directions=1, **options):
    """A layer of one or more sonnet.GRU of Sonnet 2.

    Exact to the bit: no biases are summed and no signs change.

    Parameters
    ----------
    gru : sonnet.GRU, mapping, or list of these
        The module, after its first call, or its variables by name: "w_i" (D, 3H), "w_h" (H, 3H) and "b" (3H,). A list,
        in the order of the state (layer by layer, forward before backward), makes a layer of several cells.
    directions : {1, 2}
        2: the cells come in pairs, forward and backward.
    **options
        Of cgru.GRU, such as reverse or time_major (sonnet.dynamic_unroll is).

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
    return layer_of(
        [_cell_of(Arrays(arrays, what)) for arrays in found],
        reset_after=False,
        directions=directions,
        activation="tanh",
        recurrent_activation="sigmoid",
        **options,
    )


def _cell_of(arrays):
    parts = [arrays.take("w_h", "H 3H"), arrays.take("w_i", "D 3H"), arrays.take("b", "3H")]
    arrays.finish()
    recurrent_kernel, kernel, bias = (canonical(part, _ORDER, _Z_WEIGHS) for part in parts)
    return Cell(kernel, recurrent_kernel, bias)


def to_haiku(layer):
    """The parameters of a haiku.GRU for each cell of the layer, as NumPy arrays.

    Exact to the bit: no biases are summed and no signs change. The bias is zero where the layer has none. What a cell
    does not know is left out: direction, merge mode.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

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
    return one_or_list(layer, _check, _params_of)


def to_sonnet(layer):
    """The variables of a sonnet.GRU of Sonnet 2 for each cell of the layer: those of `to_haiku`.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

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


def _check(layer):
    require_reset(layer.reset_after, False, _WHERE, "Flax and Equinox have the reset after")
    require_activations(layer, "tanh", "sigmoid", _WHERE)


def _params_of(cell):
    require_no_initial_state([cell], _WHERE, "Give layer.parameters['initial_state'] to it as the state to start from")
    cell = with_bias(cell, reset_after=False)
    parts = {"w_i": cell.kernel, "w_h": cell.recurrent_kernel, "b": cell.bias}
    return {name: foreign(part, _ORDER, _Z_WEIGHS) for name, part in parts.items()}
