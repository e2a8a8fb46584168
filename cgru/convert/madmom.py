"""madmom's GRULayer: an object for each gate, x @ weights, h @ recurrent_weights; reset after, with the candidate's
bias outside; the update gate weighs the new candidate; a learned state to start from.

    r = f(x W_r + b_r + h U_r)    z = f(x W_z + b_z + h U_z)
    n = g(x W_n + b_n + r * (h U_n))    h' = z * n + (1 - z) * h

https://madmom.readthedocs.io/en/v0.16/modules/ml/nn/layers.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.convert.arrays import Arrays, flatten, nest
from cgru.convert.cells import (
    Cell,
    four_biases,
    from_four_biases,
    one_or_list,
    refuse,
    require_reset,
    stack_of,
    with_bias,
)
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import GateOptions

_WHERE = "madmom's GRULayer"
# In the order of cgru's columns.
_GATES = ("reset_gate", "update_gate", "cell")
_FIELDS = ("weights", "bias", "recurrent_weights")
_ACTIVATIONS = ("sigmoid", "tanh", "relu", "linear")


def from_madmom(layer: Any, **options: Unpack[GateOptions]) -> LayerOrModel:
    """A layer of one or more GRULayers of madmom, or of BidirectionalLayers of these.

    Exact to the bit: no biases are summed and no signs change.

    Parameters
    ----------
    layer : madmom.ml.nn.layers.GRULayer or BidirectionalLayer, mapping, or list of these
        The layer; or its arrays by name: "reset_gate", "update_gate" and "cell", each {"weights": (D, H), "bias": (H,),
        "recurrent_weights": (H, H)}, and "init" (H,), the state to start from, which may be absent; before 0.16 its
        name was "hid_init". A list is a stack, each the input of the next.
    **options
        Of cgru.GRU, such as reverse; activation and recurrent_activation ("tanh" and "sigmoid") for a mapping, which
        does not tell them. madmom's own arrays are (T, D), of one sequence.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on, and learn_initial_state where an "init" is not zero; a Sequential
        where the layers differ in size, direction, activations or in that.

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown or of the wrong shape, a gate has peephole weights, or activations are unknown.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> gate = {"weights": np.ones((3, 2)), "bias": np.ones(2), "recurrent_weights": np.ones((2, 2))}
    >>> arrays = {"reset_gate": gate, "update_gate": gate, "cell": gate, "init": np.full(2, 0.1)}
    >>> layer = cgru.convert.from_madmom(arrays)
    >>> layer.input_size, layer.units, layer.learn_initial_state
    (3, 2, True)
    """
    parts = layer if isinstance(layer, (list, tuple)) else [layer]
    if not parts:
        raise ValueError("layer: expected at least one layer, got an empty list")
    cells, kinds = zip(*map(_part, parts), strict=True)
    return stack_of(list(cells), kinds, options)


def _part(layer):
    """(cells, options of `layer_of`) of a GRULayer, a BidirectionalLayer of two or a mapping."""
    pair = (layer.fwd_layer, layer.bwd_layer) if hasattr(layer, "fwd_layer") else (layer,)
    if hasattr(layer, "keys"):
        return [_cell_of(layer)], {"reset_after": True, "directions": 1}
    cells = [_cell_of(_arrays(one)) for one in pair]
    if any(cell.initial_state is not None for cell in cells):  # of two directions, both or neither have one
        zeros = np.zeros(cells[0].units, cells[0].kernel.dtype)
        cells = [cell._replace(initial_state=zeros) if cell.initial_state is None else cell for cell in cells]
    activations = [_activations(one) for one in pair]
    if activations[0] != activations[-1]:
        refuse(_WHERE, f"directions with {activations}", "here they have the same", "Convert each by itself")
    return cells, {"reset_after": True, "directions": len(pair), **activations[0]}


def _activations(layer):
    """The options of cgru.GRU for the functions of a GRULayer's gates."""
    names = [getattr(getattr(layer, gate).activation_fn, "__name__", "?") for gate in _GATES]
    for gate, name in zip(_GATES, names, strict=True):
        if name not in _ACTIVATIONS:
            raise ValueError(f"{gate}.activation_fn: expected one of {list(_ACTIVATIONS)}, got {name!r}")
    if names[0] != names[1]:
        refuse(_WHERE, f"gates of {names[0]} and {names[1]}", "here they have one activation", "Equal ones will do")
    return {"activation": names[2], "recurrent_activation": names[0]}


def _arrays(layer):
    """The mapping of a GRULayer, known by its attributes."""
    missing = [gate for gate in _GATES if not hasattr(layer, gate)]
    if missing:
        raise TypeError(f"layer: expected a GRULayer, a BidirectionalLayer or a mapping, got {type(layer).__name__}")
    for gate in _GATES[:2]:
        if getattr(layer, gate).peephole_weights is not None:
            refuse(_WHERE, f"peephole weights of {gate}", "a GRU has none", "Without them, it can be converted")
    arrays = {gate: {name: getattr(getattr(layer, gate), name) for name in _FIELDS} for gate in _GATES}
    return arrays | {"init": layer.init if hasattr(layer, "init") else layer.hid_init}


def _cell_of(layer):
    arrays = Arrays(flatten(layer, "layer"), "layer")
    name = "hid_init" if "hid_init" in arrays else "init"

    def joined(field, shape):
        return np.concatenate([arrays.take(f"{gate}/{field}", shape) for gate in _GATES], axis=-1)

    recurrent_kernel, kernel, sums = joined("recurrent_weights", "H H"), joined("weights", "D H"), joined("bias", "H")
    initial_state = arrays.take_if_there(name, "H")
    arrays.finish()
    if initial_state is not None and not initial_state.any():
        initial_state = None  # what a layer without one starts from
    bias = from_four_biases(sums, np.zeros(arrays.sizes["H"], sums.dtype))
    return Cell(kernel, recurrent_kernel, bias, initial_state)


def to_madmom(layer: GRU | Sequential) -> DictOrList:
    """The arrays of a GRULayer for each cell of the layer.

    The two biases of the update gate, and those of the reset gate, are summed; where the layer comes from
    `from_madmom`, one of them is zero, and the bits are the same. Biases are zero where the layer has none. What a
    GRULayer does not know is left out: direction, merge mode, activations.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

    Returns
    -------
    dict, or list of dicts where there are several cells
        Nested, as `from_madmom` takes them, and as madmom's constructors do::

            gates = Gate(**arrays["reset_gate"]), Gate(**arrays["update_gate"])
            GRULayer(*gates, GRUCell(**arrays["cell"]), arrays["init"])

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=False, or a recurrent bias b_hn of the candidate other than zero, for which a
        GRULayer has no place.

    Examples
    --------
    >>> import cgru
    >>> arrays = cgru.convert.to_madmom(cgru.GRU(2, reset_after=True, input_size=3))
    >>> arrays["cell"]["weights"].shape, arrays["init"]
    ((3, 2), array([0., 0.], dtype=float32))
    """
    return one_or_list(layer, _check, _dict_of)


def _check(layer):
    require_reset(layer.reset_after, True, _WHERE, "The published form has the reset before")


def _dict_of(cell):
    sums, b_hn = four_biases(with_bias(cell, reset_after=True).bias)
    if b_hn.any():
        refuse(
            _WHERE,
            "the recurrent bias of the candidate",
            "its GRUCell has one bias, outside the reset gate",
            "PyTorch, Keras and ONNX have the other",
        )
    flat = {}
    for name, whole in zip(_FIELDS, (cell.kernel, sums, cell.recurrent_kernel), strict=True):
        for gate, part in zip(_GATES, np.split(whole, 3, axis=-1), strict=True):
            flat[f"{gate}/{name}"] = part.copy()
    initial_state = np.zeros_like(b_hn) if cell.initial_state is None else cell.initial_state
    return nest(flat | {"init": initial_state.copy()})
