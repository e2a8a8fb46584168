"""TensorFlow 1: GRUCell, GRUBlockCell and GRUBlockCellV2. Two matrices over [x, h], input first; gates r, u in columns;
reset before; u weighs the old state::

    [r u] = f([x, h] w_ru + b_ru)    c = g([x, r * h] w_c + b_c)    h' = u * h + (1 - u) * c

https://www.tensorflow.org/api_docs/python/tf/raw_ops/GRUBlockCell; GRUCell computes the same
(tensorflow/python/ops/rnn_cell_impl.py of 1.15).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from cgru.convert.arrays import Arrays, each_cell
from cgru.convert.cells import Cell, one_or_list
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import Activation, DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["tf1"]
# Names of the gates' matrix and bias, and of the candidate's.
_NAMES = {
    "GRUCell": ("gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias"),
    "GRUBlockCell": ("w_ru", "b_ru", "w_c", "b_c"),
}
_KNOWN = tuple(names[0] + suffix for names in _NAMES.values() for suffix in ("", ":0"))


@shared_words
def from_tf1(
    variables: OneOrMany,
    prefix: str | Sequence[str] | None = None,
    *,
    activation: Activation = "tanh",
    directions: Literal[1, 2] = 1,
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of the variables of GRUCells or GRUBlockCells.

    %(signs)s

    Parameters
    ----------
    variables : mapping, or list of mappings, one for each cell
        Names to arrays: "gates/kernel" (D + H, 2H), "gates/bias" (2H,), "candidate/kernel" (D + H, H) and
        "candidate/bias" (H,) of GRUCell and GRUBlockCellV2; or "w_ru", "b_ru", "w_c" and "b_c" of GRUBlockCell, of the
        same shapes. It may be a whole checkpoint: what optimizers keep beside a variable is passed over.
    prefix : str or list of str, optional
        What the names of the cell begin with, such as "rnn/gru_cell", needed where there are several. A list, in the
        order of the state (layer by layer, forward before backward), makes a layer of several cells.
    activation : str
        g; f is sigmoid.
    %(directions)s
    **options
        Of cgru.GRU, such as reverse or time_major.

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
    >>> checkpoint = {
    ...     "rnn/gru_cell/gates/kernel": np.ones((5, 4)), "rnn/gru_cell/gates/bias": np.ones(4),
    ...     "rnn/gru_cell/candidate/kernel": np.ones((5, 2)), "rnn/gru_cell/candidate/bias": np.ones(2),
    ... }
    >>> layer = cgru.convert.from_tf1(checkpoint)
    >>> layer.input_size, layer.units
    (3, 2)
    """
    return _THEIRS.layer_of(
        [_cell_of(arrays) for arrays in each_cell(variables, _KNOWN, prefix, "variables")],
        directions=directions,
        activation=activation,
        **options,
    )


def _cell_of(variables):
    variables = {name.removesuffix(":0"): array for name, array in variables.items()}
    names = _NAMES["GRUBlockCell" if "w_ru" in variables else "GRUCell"]
    arrays = Arrays(variables, "variables")
    candidate_bias = arrays.take(names[3], "H")
    gates, gates_bias, candidate = (
        arrays.take(name, shape) for name, shape in zip(names, ("D+H 2H", "2H", "D+H H"), strict=False)
    )
    arrays.finish(name for name in variables if not name.startswith(tuple(f"{known}/" for known in names)))
    both = _THEIRS.canonical(np.concatenate([gates, candidate], axis=1))
    D = arrays.sizes["D"]
    return Cell(both[:D], both[D:], _THEIRS.canonical(np.concatenate([gates_bias, candidate_bias])))


@shared_words
def to_tf1(layer: GRU | Sequential, names: Literal["GRUCell", "GRUBlockCell"] = "GRUCell") -> DictOrList:
    """The variables of a GRUCell for each cell of the layer, as NumPy arrays.

    No biases are summed: `from_tf1` gives back the same bits. Biases are zero where the layer has none. %(unknown)s

    Parameters
    ----------
    %(of)s
    names : {"GRUCell", "GRUBlockCell"}
        Those of GRUCell are GRUBlockCellV2's as well; those of GRUBlockCell are the arguments of
        tf.raw_ops.GRUBlockCell.

    Returns
    -------
    dict of str to ndarray, or list of dicts where there are several cells
        As `from_tf1` takes them.

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=True, gates other than sigmoid, or a learned initial state, which is no variable of
        the cell.

    Examples
    --------
    >>> import cgru
    >>> variables = cgru.convert.to_tf1(cgru.GRU(2, input_size=3), names="GRUBlockCell")
    >>> {name: array.shape for name, array in variables.items()}
    {'w_ru': (5, 4), 'b_ru': (4,), 'w_c': (5, 2), 'b_c': (2,)}
    """
    if names not in _NAMES:
        raise ValueError(f"names: expected one of {sorted(_NAMES)}, got {names!r}")
    return one_or_list(layer, _THEIRS.require, lambda cell: _variables_of(cell, _NAMES[names]))


def _variables_of(cell, names):
    cell = _THEIRS.parts_of(cell)
    both = _THEIRS.foreign(np.concatenate([cell.kernel, cell.recurrent_kernel]))  # (D + H, 3H)
    bias = _THEIRS.foreign(cell.bias)
    gates = slice(0, 2 * cell.units), slice(2 * cell.units, None)
    parts = [part.copy() for columns in gates for part in (both[:, columns], bias[columns])]
    return dict(zip(names, parts, strict=True))
