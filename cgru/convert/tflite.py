"""TensorFlow Lite: unidirectional_sequence_gru. Two matrices with output rows over [x, h], input first; gates r, u;
reset before; u weighs the old state::

    [r u] = sigmoid([x, h] gate_weight^T + gate_bias)
    c     = tanh([x, r * h] candidate_weight^T + candidate_bias)
    h'    = u * h + (1 - u) * c

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/kernels/gru_cell.cc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cgru.convert.arrays import Arrays, each_cell
from cgru.convert.cells import Cell, one_or_list
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["tflite"]


@shared_words
def from_tflite(tensors: OneOrMany, *, directions: Literal[1, 2] = 1, **options: Unpack[CellOptions]) -> LayerOrModel:
    """A layer of the tensors of unidirectional_sequence_gru.

    %(signs)s Quantised tensors are refused: give them dequantised.

    Parameters
    ----------
    tensors : mapping, or list of mappings, one for each cell
        "gate_weight" (2H, D + H), "gate_bias" (2H,), "candidate_weight" (H, D + H) and "candidate_bias" (H,): inputs 2
        to 5 of the operator.
    %(directions)s
    **options
        Of cgru.GRU, such as reverse; time_major=True for the operator's own order of axes, (T, N, D).

    Returns
    -------
    %(layer)s

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown, of integers or of the wrong shape; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> shapes = {"gate_weight": (4, 5), "gate_bias": (4,), "candidate_weight": (2, 5), "candidate_bias": (2,)}
    >>> layer = cgru.convert.from_tflite({name: np.ones(shape) for name, shape in shapes.items()})
    >>> layer.input_size, layer.units
    (3, 2)
    """
    return _THEIRS.layer_of(
        [_cell_of(arrays) for arrays in each_cell(tensors, "gate_weight", None, "tensors")],
        directions=directions,
        **options,
    )


def _cell_of(tensors):
    arrays = Arrays(tensors, "tensors")
    bias = [arrays.take("candidate_bias", "H"), arrays.take("gate_bias", "2H")]
    rows = [arrays.take("gate_weight", "2H D+H"), arrays.take("candidate_weight", "H D+H")]
    arrays.finish()
    both = _THEIRS.canonical(np.concatenate(rows).T)  # (D + H, 3H)
    D = arrays.sizes["D"]
    return Cell(both[:D], both[D:], _THEIRS.canonical(np.concatenate(bias[::-1])))


@shared_words
def to_tflite(layer: GRU | Sequential) -> DictOrList:
    """The tensors of unidirectional_sequence_gru for each cell of the layer.

    No biases are summed: `from_tflite` gives back the same bits. Biases are zero where the layer has none. What the
    operator does not know is left out: direction, merge mode.

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict of str to ndarray, or list of dicts where there are several cells
        As `from_tflite` takes them.

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=True, activations other than tanh and sigmoid, or a learned initial state, which is
        an input of the operator.

    Examples
    --------
    >>> import cgru
    >>> tensors = cgru.convert.to_tflite(cgru.GRU(2, input_size=3))
    >>> {name: array.shape for name, array in tensors.items()}
    {'gate_weight': (4, 5), 'gate_bias': (4,), 'candidate_weight': (2, 5), 'candidate_bias': (2,)}
    """
    return one_or_list(layer, _THEIRS.require, _tensors_of)


def _tensors_of(cell):
    cell = _THEIRS.parts_of(cell)
    rows = np.ascontiguousarray(_THEIRS.foreign(np.concatenate([cell.kernel, cell.recurrent_kernel])).T)  # (3H, D + H)
    bias = _THEIRS.foreign(cell.bias)
    gates = 2 * cell.units
    return {
        "gate_weight": rows[:gates].copy(),
        "gate_bias": bias[:gates].copy(),
        "candidate_weight": rows[gates:].copy(),
        "candidate_bias": bias[gates:].copy(),
    }
