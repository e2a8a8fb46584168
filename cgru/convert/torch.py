"""PyTorch: torch.nn.GRU and torch.nn.GRUCell. Rows r, z, n; reset after; z weighs the old state; both biases are kept.

The equations: https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html
"""

import re
from typing import NamedTuple

import numpy as np

from cgru.convert.cells import (
    Arrays,
    Cell,
    canonical,
    cells_of,
    foreign,
    gru_layers,
    layer_of,
    refuse,
    require_activations,
    require_no_initial_state,
    require_reset,
    some,
)

_ORDER = "rzn"
_NAME = re.compile(r"(?:weight|bias)_[a-z]+(?:_l(\d+)(_reverse)?)?")
_WHERE = "torch.nn.GRU"


def from_torch(weights, prefix=None, *, initial_state=None, time_major=None):
    """A layer of a torch.nn.GRU or GRUCell: any number of layers, both directions, with or without biases.

    No biases are summed and only the signs of z's weights change: `to_torch` gives back the same bits. Outputs agree to
    rounding.

    Parameters
    ----------
    weights : torch.nn.Module, state_dict, or list of these
        A GRU, a GRUCell, or something bigger that holds one. The arrays of a state_dict may be tensors or NumPy arrays,
        in any of PyTorch's floating-point types; half types widen to float32. A list is a stack, each the input of the
        next, as one builds it of GRUCells.
    prefix : str, optional
        Of the keys, such as "encoder.gru", in a bigger state_dict; needed where it holds more than one GRU.
    initial_state : str, optional
        Key of a learned initial state, (layers * directions, H) or (layers * directions, 1, H).
    time_major : bool, optional
        Whether the layer takes (T, N, D). Without it, a module's layer takes the same arrays as the module, time-major
        unless that has batch_first; the layer of a state_dict, which does not know, takes (N, T, D).

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on, so that a call gives (output, h_n) as PyTorch does; h_n is (N, H) for
        one layer in one direction. A Sequential where the GRUs of a list differ in size. Dropout between the layers is
        not carried over.

    Raises
    ------
    TypeError, ValueError
        If there is no GRU or more than one, or an array is missing, unknown or misshapen; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> state_dict = {"rnn.weight_ih_l0": np.ones((6, 3)), "rnn.weight_hh_l0": np.ones((6, 2)), "fc.bias": np.ones(4)}
    >>> layer = cgru.from_torch(state_dict)
    >>> layer.units, layer.input_size, layer.use_bias
    (2, 3, False)
    """
    parts = weights if isinstance(weights, (list, tuple)) else [weights]
    if not parts:
        raise ValueError("weights: expected at least one GRU, got an empty list")
    stacks = [_read(part, prefix, initial_state) for part in parts]
    directions = {stack.directions for stack in stacks}
    if len(directions) > 1:
        raise ValueError("weights: expected GRUs with one direction each or two each, got both kinds")
    return layer_of(
        [cell for stack in stacks for cell in stack.cells],
        reset_after=True,
        directions=directions.pop(),
        time_major=stacks[0].time_major if time_major is None else time_major,
    )


class _Stack(NamedTuple):
    cells: list
    directions: int
    time_major: bool


def _read(source, prefix, initial_state):
    module = source if hasattr(source, "state_dict") else None
    arrays = Arrays(source if module is None else module.state_dict(), "state_dict")
    start = _start(arrays.arrays) if prefix is None else _with_dot(prefix)
    found = [_NAME.fullmatch(key[len(start) :]) for key in arrays.arrays if key.startswith(start)]
    found = [match for match in found if match]
    suffixes = _suffixes(found)
    directions = 2 if "_l0_reverse" in suffixes else 1
    has_bias = any(match[0].startswith("bias") for match in found)
    cells = []
    for i, suffix in enumerate(suffixes):
        if i >= directions:
            arrays.sizes["D"] = directions * arrays.sizes["H"]
        cells.append(_cell_of(arrays, start, suffix, has_bias))
    arrays.finish(start + match[0] for match in found)
    if initial_state is not None:
        arrays.sizes["S"] = len(cells)
        has_rows = np.ndim(arrays.arrays.get(initial_state)) == 3
        states = arrays.take(initial_state, "S 1 H" if has_rows else "S H").reshape(len(cells), -1)
        cells = [cell._replace(initial_state=state) for cell, state in zip(cells, states, strict=True)]
    time_major = module is not None and not getattr(module.get_submodule(start.rstrip(".")), "batch_first", True)
    return _Stack(cells, directions, time_major)


def _start(state_dict):
    """What the keys of the one GRU begin with."""
    matches = [re.fullmatch(r"(|.*\.)weight_hh(?:_l0)?", key) for key in state_dict]
    starts = [match[1] for match in matches if match]
    if not starts:
        raise ValueError(f"state_dict: expected weight_hh_l0 and the other arrays of a GRU, got {some(state_dict)}")
    if len(starts) > 1:  # an LSTM has 4H rows, an RNN H
        shapes = {match[1]: np.shape(state_dict[match[0]]) for match in matches if match}
        starts = [start for start in starts if shapes[start][0] == 3 * shapes[start][-1]] or starts
    if len(starts) > 1:
        raise ValueError(f"prefix: expected one of {starts}, of which each is that of a GRU, got None")
    return starts[0]


def _with_dot(prefix):
    return prefix if prefix.endswith(".") or not prefix else prefix + "."


def _suffixes(found):
    """Of the arrays' names, in the order of the state; that of a GRUCell is empty."""
    if not any(match[1] for match in found) and any(match[0] == "weight_hh" for match in found):
        return [""]
    layers = 1 + max((int(match[1]) for match in found if match[1]), default=0)
    directions = ("", "_reverse") if any(match[2] for match in found) else ("",)
    return [f"_l{layer}{direction}" for layer in range(layers) for direction in directions]


def _cell_of(arrays, start, suffix, has_bias):
    recurrent_kernel = arrays.take(f"{start}weight_hh{suffix}", "3H H")
    kernel = arrays.take(f"{start}weight_ih{suffix}", "3H D")
    bias = None
    if has_bias:
        bias = np.stack([arrays.take(f"{start}bias_{which}{suffix}", "3H") for which in ("ih", "hh")])
        bias = canonical(bias, _ORDER)
    return Cell(canonical(kernel.T, _ORDER), canonical(recurrent_kernel.T, _ORDER), bias)


def to_torch(layer, prefix="", *, initial_state=None):
    """The state_dict of a torch.nn.GRU, as NumPy arrays; torch is not needed.

    No biases are summed: `from_torch` gives back the same bits.

    Parameters
    ----------
    layer : GRU
    prefix : str
        Of the keys, such as "encoder.gru".
    initial_state : str, optional
        Key for the learned initial states, (layers * directions, 1, H), which torch.nn.GRU itself has no place for.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    TypeError, ValueError
        If the layer is not what torch.nn.GRU computes: reset before, other activations, a merge other than "concat",
        one direction that runs backwards, layers of unequal size, a learned initial state without a key for it.

    Examples
    --------
    >>> import cgru
    >>> layer = cgru.GRU(2, reset_after=True, input_size=3)
    >>> {name: array.shape for name, array in cgru.convert.to_torch(layer).items()}
    {'weight_ih_l0': (6, 3), 'weight_hh_l0': (6, 2), 'bias_ih_l0': (6,), 'bias_hh_l0': (6,)}
    """
    layer = _representable(layer)
    start, cells, state_dict = _with_dot(prefix), cells_of(layer), {}
    for i, cell in enumerate(cells):
        index, backward = divmod(i, 1 + layer.bidirectional)
        suffix = f"_l{index}" + ("_reverse" if backward else "")
        state_dict[f"{start}weight_ih{suffix}"] = np.ascontiguousarray(foreign(cell.kernel, _ORDER).T)
        state_dict[f"{start}weight_hh{suffix}"] = np.ascontiguousarray(foreign(cell.recurrent_kernel, _ORDER).T)
        if cell.bias is not None:
            for which, row in zip(("ih", "hh"), foreign(cell.bias, _ORDER), strict=True):
                state_dict[f"{start}bias_{which}{suffix}"] = row.copy()
    if initial_state is None:
        require_no_initial_state(cells, _WHERE, 'to_torch(layer, initial_state="h0") gives it under a key of its own')
    elif not layer.learn_initial_state:
        raise ValueError(f"initial_state: expected a layer with learn_initial_state=True beside {initial_state!r}")
    else:
        state_dict[initial_state] = np.stack([cell.initial_state for cell in cells])[:, None]
    return state_dict


def to_torch_module(layer):
    """The torch.nn.GRU that computes what the layer does, with batch_first unless the layer is time-major.

    No biases are summed. In evaluation mode; its parameters are the layer's in the layer's dtype.

    Parameters
    ----------
    layer : GRU

    Returns
    -------
    torch.nn.GRU

    Raises
    ------
    ImportError
        If torch is not installed.
    TypeError, ValueError
        As for `to_torch`.
    """
    state_dict = to_torch(layer)
    (layer,) = gru_layers(layer)
    try:
        import torch
    except ImportError:
        raise ImportError('to_torch_module needs PyTorch: pip install "cgru[torch]"') from None
    module = torch.nn.GRU(
        layer.input_size,
        layer.units,
        num_layers=layer.num_layers,
        bias=layer.use_bias,
        batch_first=not layer.time_major,
        bidirectional=layer.bidirectional,
        dtype=getattr(torch, layer.dtype.name),
    )
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    return module.eval()


def _representable(layer):
    """The one GRU, if torch.nn.GRU computes what it does."""
    layers = gru_layers(layer)
    if len(layers) > 1:
        refuse(_WHERE, "a Sequential of several GRUs", "its layers are equal", "Convert each layer by itself")
    (layer,) = layers
    require_reset(layer.reset_after, True, _WHERE, "Keras, ONNX and the published form have the reset before")
    require_activations(layer, "tanh", "sigmoid", _WHERE)
    for name in ("reverse", "go_backwards"):
        if getattr(layer, name):
            refuse(_WHERE, f"{name}=True", "it has no direction that is only backwards", "ONNX has one")
    if layer.bidirectional and layer.merge_mode != "concat":
        refuse(_WHERE, f"merge_mode={layer.merge_mode!r}", "it concatenates", 'Train with merge_mode="concat"')
    return layer
