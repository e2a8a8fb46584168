"""Keras: GRU with the reset before or after, Bidirectional, stacks of GRUCells, and the CuDNNGRU of Keras 2. Columns z,
r, h; z weighs the old state.

The equations: keras/src/layers/rnn/gru.py. The layout of CuDNNGRU: tf_keras/src/saving/legacy/hdf5_format.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import check_bool, shape_of
from cgru.convert import keras_files, keras_layers
from cgru.convert.arrays import Arrays, as_weight, check_shape, some, warn_partial
from cgru.convert.cells import Cell, canonical, layer_of, require_flippable
from cgru.convert.keras_config import settings_of
from cgru.convert.keras_layouts import LAYERS, NOISE, ROLES, Stored
from cgru.convert.keras_objects import grus_of, parts_of
from cgru.reading import check_path, errors_mention, open_regular
from cgru.typing import LayerOrModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import StoredOptions

ORDER = "zrn"


def from_keras(
    weights: Any,
    name: str | None = None,
    *,
    reset_after: bool | None = None,
    bidirectional: bool | None = None,
    initial_state: ArrayLike | None = None,
    return_sequences: bool | None = None,
    return_state: bool = True,
    without_masks: bool = False,
    **options: Unpack[StoredOptions],
) -> LayerOrModel:
    """A layer of Keras' GRU, from its weights, the layer itself, or a file, or a whole model; Keras is not needed
    for arrays and files.

    No biases are summed and only the signs of z's weights change: `to_keras` gives back the same bits. Outputs agree to
    rounding.

    Parameters
    ----------
    weights : list of arrays, mapping, layer or model of Keras, or path
        * What get_weights() returns: kernel, recurrent_kernel and bias of a GRU, or of each cell in turn of a
          Bidirectional or of stacked cells; a list of such lists is a stack. A bias of shape (6H,) is a CuDNNGRU's.
        * A mapping of these names to arrays; paths may stand before the names, as in "gru/gru_cell/kernel:0".
        * A GRU, Bidirectional, RNN of GRUCells or CuDNNGRU of Keras 2 or 3, or a model that holds one; a Dense or an
          Embedding; a Sequential of these, of Dropout and of activations.
          A functional model that calls such layers one after the other is as good as a Sequential.
        * A file of Keras 2 or 3: ".keras", ".weights.h5" or ".h5"; no other package is needed.
    name : str, optional
        Of the layer, in a model or file: one of several GRUs, or one layer of a Sequential; with the names of the
        layers around it where it needs them: "encoder/gru". In a file, also its group ("layers/gru_1"). Of a layer
        whose config is not in the file, because it is within a subclassed model or a layer that somebody wrote, nothing
        is known but its arrays.
    reset_after : bool, optional
        Needed where nothing tells: for arrays without a bias.
    bidirectional : bool, optional
        Whether the cells are two directions of each layer, forward first, instead of a stack. Needed where the shapes
        of plain arrays allow both.
    initial_state : array_like of shape (H,) or (cells, H), or list of (H,) arrays; optional
        A learned initial state, which Keras keeps outside of the layer.
    return_sequences, return_state : bool, optional
        What a call of the layer returns, by default both. In a Sequential, return_sequences is that of the last GRU, by
        default as Keras has it.
    without_masks : bool
        Whether layers of a Sequential that make masks (Embedding with mask_zero, Masking) are taken all the same,
        because calls give the mask: ``model.predict(ids, mask=ids != 0)``.
    **options
        Of cgru.GRU. They stand above what the layer or file says; plain arrays say nothing, and have Keras' defaults.
        Names of activations are cgru's: "hard_sigmoid_keras2" is what Keras 2 calls "hard_sigmoid".

    Returns
    -------
    GRU, Dense, Embedding or Sequential
        A GRU has Keras' rule for steps that are masked: the output before them is repeated
        (zero_output_for_mask=False), or zero where two directions are merged. A Sequential of a Sequential, without a
        name and options of a GRU; and where stacked cells differ.

    Raises
    ------
    TypeError, ValueError
        If there is no GRU or more than one, an array is missing, unknown or misshapen, or something is not known or
        cannot be exact; the message names it. If a file is damaged, or says that it has what is not in it: external or
        virtual datasets, links to elsewhere, much more data than its size.
    OSError
        If a file cannot be read, or is no regular one.

    Warns
    -----
    PartialConversionWarning
        If a model holds other layers or is no chain of them, no name was given, and its one GRU comes alone.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.from_keras([np.ones((3, 6)), np.ones((2, 6)), np.ones((2, 6))])
    >>> layer.units, layer.reset_after
    (2, True)
    """
    if return_sequences is not None:
        check_bool(return_sequences, "return_sequences")
    given = options | {"reset_after": reset_after, "bidirectional": bidirectional, "initial_state": initial_state}

    def convert_gru(stored, more):
        returns = {"return_sequences": return_sequences is not False, "return_state": return_state}
        return _gru_of(stored, reset_after, bidirectional, initial_state, options | returns | more)

    stored = _stored(weights, name)
    if stored is not None:
        return convert_gru(stored, {})
    if type(weights).__name__ in LAYERS and hasattr(weights, "get_config"):
        return keras_layers.layer_of(keras_layers.part_of(weights, type(weights).__name__), without_masks)
    with contextlib.ExitStack() as opened:
        if isinstance(weights, (str, os.PathLike)):
            opened.enter_context(errors_mention(os.fsdecode(weights)))
        found, parts, where = _found(weights, opened)
        if all(value is None for value in given.values()):
            if name is None and parts.is_whole():
                without_masks = check_bool(without_masks, "without_masks")
                if left := [part.name for part in parts.layers if part.class_name in NOISE]:
                    warn_partial(f"from_keras: left out, because they act in training alone: {some(left)}")
                return keras_layers.whole(parts.layers, convert_gru, return_sequences, without_masks)
            named = [part for part in parts.layers if part.name == name and part.class_name in LAYERS]
            if len(named) == 1 and all(stored.name != name for stored in found):
                return keras_layers.layer_of(named[0], without_masks)
        stored = keras_files.choose(found, name, where)
        left = parts.left_beside(stored.name) if name is None else []
        if left:
            own, others = repr(stored.name), some(left)
            warn_partial(f"from_keras: only {own} was converted; left out: {others}. name={own} says it is meant so")
        return convert_gru(stored, {})


def _gru_of(stored, reset_after, bidirectional, initial_state, options):
    """The layer of a `Stored`, with options of cgru.GRU."""
    chosen = {key: options.pop(key) for key in ("activation", "recurrent_activation") if key in options}
    settings = settings_of(stored, chosen)
    known = settings.layers * (settings.directions or 1) or [chosen] * len(stored.cells)
    if len(known) != len(stored.cells):
        raise ValueError(f"{stored.name}: expected {len(known)} cells, as its config says, got {len(stored.cells)}")
    for own in known:
        require_flippable(own.get("recurrent_activation", "sigmoid"), "Keras")
    hints = [own.get("reset_after") if reset_after is None else reset_after for own in known]
    cells, resets = zip(*map(_cell_of, stored.cells, hints), strict=True)
    cells = _with_initial_states(cells, initial_state)
    directions = settings.directions or 1 + _is_bidirectional(cells, bidirectional)
    if bidirectional not in (None, directions == 2):
        raise ValueError(f"bidirectional: expected {directions == 2}, as {stored.name} is, got {bidirectional!r}")
    if len(cells) % directions or resets[::directions] != resets[directions - 1 :: directions]:
        raise ValueError("weights: expected two directions of one form for each layer, got others")
    each = [own | {"reset_after": reset} for own, reset in zip(known, resets, strict=True)][::directions]
    common = {"zero_output_for_mask": directions == 2} | settings.common | options
    return layer_of(cells, reset_after=resets[0], directions=directions, each=each, **common)


# -- where the weights come from


def _stored(weights, name):
    """The `Stored` of plain arrays; None of files and objects."""
    if isinstance(weights, (list, tuple)):
        return Stored("weights", _cells_of_list(weights))
    return keras_files.from_names(weights, name) if hasattr(weights, "keys") else None


def _found(weights, opened):
    """(the `Stored` of each GRU, the `Parts` of the model, what errors call it); a file stays open, in `opened`,
    because arrays are read when they are needed."""
    if isinstance(weights, (str, os.PathLike)):
        where = check_path(weights, "weights")
        return *keras_files.from_file(opened.enter_context(open_regular(where)), where), where
    if hasattr(weights, "get_config") and hasattr(weights, "get_weights"):
        return list(grus_of(weights)), parts_of(weights), type(weights).__name__
    raise TypeError(
        "weights: expected a list of arrays, a mapping, a layer or model of Keras, or a path, "
        f"got {type(weights).__name__}"
    )


def _cells_of_list(weights):
    """Dicts of the cells in what get_weights() returned; a list of lists is a stack."""
    if any(isinstance(part, (list, tuple)) for part in weights):
        return [cell for part in weights for cell in _cells_of_list(part)]
    count = len(weights)
    sizes = [size for size in (3, 2) if count and count % size == 0]
    fitting = [size for size in sizes if _are_cells(weights, size)]
    if not sizes or len(fitting) == 2:
        what = "kernel, recurrent_kernel and bias, or the first two, for each cell"
        if sizes:
            what = "a list for each cell, because the shapes do not tell whether there are biases"
        shapes = ", ".join(str(shape_of(array)) for array in weights)
        raise ValueError(f"weights: expected {what}, got {count} arrays of shapes {shapes or 'none'}")
    size, cells = (fitting or sizes)[0], []  # where none fits, the array that does not will be named
    for start in range(0, count, size):
        cell = zip(ROLES, weights[start : start + size], strict=False)
        cells.append({role: (f"weights[{start + i}] ({role})", array) for i, (role, array) in enumerate(cell)})
    return cells


def _are_cells(weights, size):
    """Whether each `size` arrays in turn have the shapes of a cell's."""
    for start in range(0, len(weights), size):
        kernel, recurrent_kernel, *bias = (shape_of(array) for array in weights[start : start + size])
        columns = 3 * recurrent_kernel[0] if recurrent_kernel else 0
        if len(kernel) != 2 or kernel[1] != columns or recurrent_kernel[1:] != (columns,):
            return False
        if bias and bias[0] not in ((columns,), (2, columns), (2 * columns,)):
            return False
    return True


# -- cells


def _cell_of(named, reset_after):
    """(Cell, reset_after) of a dict of roles to (name, array); the shape of the bias tells reset_after, else the
    argument."""
    names = {role: name for role, (name, _) in named.items()}
    arrays = Arrays({names[role]: array for role, (_, array) in named.items()}, "weights")
    for role in ROLES[:2]:
        names.setdefault(role, role)
    recurrent_kernel = arrays.take(names["recurrent_kernel"], "H 3H")
    kernel = arrays.take(names["kernel"], "D 3H")
    bias = None
    if "bias" in named:
        bias = as_weight(named["bias"][1], names["bias"])
        if bias.shape == (6 * len(recurrent_kernel),):
            kernel, recurrent_kernel, bias = _from_cudnn(kernel, recurrent_kernel, bias)
        if reset_after is None:
            reset_after = bias.ndim != 1
        check_shape(bias, names["bias"], "2 3H" if reset_after else "3H", arrays.sizes)
        bias = canonical(bias, ORDER)
    elif reset_after is None:
        raise ValueError("reset_after: expected True or False, because arrays without a bias do not tell, got None")
    return Cell(canonical(kernel, ORDER), canonical(recurrent_kernel, ORDER), bias), bool(reset_after)


def _from_cudnn(kernel, recurrent_kernel, bias):
    """The arrays of a CuDNNGRU as those of a GRU: each gate's kernel (D, H) holds the numbers of its (H, D) in turn."""
    D, H = len(kernel), len(recurrent_kernel)
    kernel = np.concatenate([gate.reshape(H, D).T for gate in np.split(kernel, 3, axis=1)], axis=1)
    recurrent_kernel = np.concatenate([gate.T for gate in np.split(recurrent_kernel, 3, axis=1)], axis=1)
    return kernel, recurrent_kernel, bias.reshape(2, 3 * H)


def _with_initial_states(cells, states):
    if states is None:
        return cells
    if len(cells) == 1 and np.ndim(states) == 1:
        states = [states]
    if len(states) != len(cells):
        raise ValueError(f"initial_state: expected one for each of {len(cells)} cells, got {len(states)}")
    result = []
    for cell, state in zip(cells, states, strict=True):
        h0 = as_weight(state, "initial_state")
        check_shape(h0, "initial_state", "H", {"H": cell.units})
        result.append(cell._replace(initial_state=h0))
    return result


def _is_bidirectional(cells, given):
    """Whether cells are pairs of directions instead of a stack, where plain arrays have to tell."""
    if given is not None:
        return bool(given)
    is_stack = all(cell.input_size == below.units for below, cell in itertools.pairwise(cells))
    are_pairs = len(cells) % 2 == 0 and all(
        forward.kernel.shape == backward.kernel.shape for forward, backward in zip(cells[::2], cells[1::2], strict=True)
    )
    if is_stack and are_pairs:
        raise ValueError(
            f"bidirectional: expected True or False, because the shapes of {len(cells)} cells allow both, got None"
        )
    return are_pairs
