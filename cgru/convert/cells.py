"""What all converters share: a `Cell` in cgru's form, layers of cells and back, gate blocks put in order, and refusals.

A converter reads arrays with `Arrays`, brings each gate matrix into cgru's form with `canonical`, and hands the cells
to `layer_of`; its inverse takes `cells_of` a layer and writes them with `foreign`. Weights stay exact: blocks move and
signs change. Only biases that share a sum may have to be added (`add_biases`, `four_biases`), where a convention has
fewer of them than cgru.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from cgru.checks import model_text
from cgru.layers import GRU, Dense, Dropout, Embedding, Layer, Masking
from cgru.models import Sequential
from cgru.typing import Array, DenseActivation, LayerOrModel

# 1 - f(a) = f(-a): what lets z weigh the other state when its weights change sign.
FLIPPABLE = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")


class Cell(NamedTuple):
    """Parameters of one layer in one direction; gate blocks in columns in the order r, z, n, and z weighs the new
    state."""

    kernel: Array  # (D, 3H)
    recurrent_kernel: Array  # (H, 3H)
    bias: Array | None = None  # (3H,), or (2, 3H) with reset_after; None: there are no biases
    initial_state: Array | None = None  # (H,), a learned one

    @property
    def input_size(self) -> int:
        return len(self.kernel)

    @property
    def units(self) -> int:
        return len(self.recurrent_kernel)


# -- refusals


def refuse(where: str, got: str, reason: str, instead: str) -> NoReturn:
    """Raise the ValueError for what `where` cannot hold exactly, with the nearest thing that works."""
    raise ValueError(f"{where}: cannot convert {got} exactly: {reason}. {instead}")


def require_flippable(recurrent_activation: str, where: str) -> None:
    """Refuse gates whose z block cannot change sign, where `where` lets z weigh the old state."""
    if recurrent_activation not in FLIPPABLE:
        refuse(
            where,
            f"recurrent_activation={recurrent_activation!r}",
            "z weighs the old state there and the new one here, and 1 - f(a) = f(-a) is not true of it",
            f"Gates of {', '.join(FLIPPABLE)} can be converted",
        )


def require_reset(reset_after: bool, wanted: bool, where: str, instead: str) -> None:
    """Refuse a layer with the reset on the other side of the recurrent product than `where` has it."""
    if reset_after != wanted:
        refuse(
            where,
            f"reset_after={reset_after}",
            f"its reset gate acts {'after' if wanted else 'before'} the recurrent product, and neither form can be "
            "written as the other",
            instead,
        )


def require_activations(layer: GRU, activation: str, recurrent_activation: str, where: str) -> None:
    """Refuse a layer whose activations are not these."""
    for name, wanted in (("activation", activation), ("recurrent_activation", recurrent_activation)):
        got = getattr(layer, name)
        if got != wanted:
            refuse(where, f"{name}={got!r}", f"it has {wanted!r} and nothing else", "Keras and ONNX have others")


def require_plain(layer: Any) -> None:
    """Refuse a GRU whose equations no convention has. Dropout, which is of training alone, is left behind."""
    if getattr(layer, "layer_norm", False):
        refuse("layer", "layer_norm=True", "its products are normalised, and that is not in the weights",
               "Layers without it can be converted")  # fmt: skip
    if getattr(layer, "zoneout", 0):
        refuse("layer", f"zoneout={layer.zoneout}", "in inference its states are expectations, which no weights give",
               "with_options(zoneout=0.0) can be converted, and computes something else")  # fmt: skip


def require_no_initial_state(cells: Iterable[Cell], where: str, instead: str) -> None:
    """Refuse learned initial states other than zero, where `where` has no place for them."""
    for cell in cells:
        if cell.initial_state is not None and cell.initial_state.any():
            refuse(where, "a learned initial state", "it has no place for one", instead)


# -- gates


def reorder(columns: Array, have: str, want: str, negate: str = "") -> Array:
    """Gate blocks along the last axis, from the order `have` to `want`, with the sign changed in the blocks `negate`.

    Parameters
    ----------
    columns : ndarray of shape (..., len(have) * H)
    have, want, negate : str
        Letters of gates, such as "zrn" and "rzn"; `want` may leave some out.

    Examples
    --------
    >>> import numpy as np
    >>> reorder(np.array([1, 2, 3, 4, 5, 6]), "zrn", "rzn", negate="z")
    array([ 3,  4, -1, -2,  5,  6])
    """
    blocks = dict(zip(have, np.split(columns, len(have), axis=-1), strict=True))
    return np.concatenate([-blocks[gate] if gate in negate else blocks[gate] for gate in want], axis=-1)


def canonical(columns: Array, order: str, z_weighs: str = "old") -> Array:
    """Columns of gates r, z, n in another order as cgru has them, (..., 3H); for rows give the transpose.

    Parameters
    ----------
    order : str
        Of the blocks, such as "zrn".
    z_weighs : {"old", "new"}
        The state that z weighs in the other convention; the z block of "old" changes sign.
    """
    return reorder(columns, order, "rzn", "z" if z_weighs == "old" else "")


def foreign(columns: Array, order: str, z_weighs: str = "old") -> Array:
    """cgru's columns r, z, n (..., 3H) in another convention's order; the inverse of `canonical`."""
    return reorder(columns, "rzn", order, "z" if z_weighs == "old" else "")


# -- biases


def add_biases(b: Array, c: Array) -> Array:
    """b + c; bit for bit b where c is zero."""
    return np.where(c == 0, b, b + c)


def four_biases(bias: Array) -> tuple[Array, Array]:
    """(sums (3H,), b_hn (H,)) of the (2, 3H) of reset_after: r and z are summed, the two of n stay apart."""
    b, c = bias
    H = len(b) // 3
    return np.concatenate([add_biases(b[: 2 * H], c[: 2 * H]), b[2 * H :]]), c[2 * H :]


def from_four_biases(sums: Array, b_hn: Array) -> Array:
    """The (2, 3H) of reset_after: the sums stand in the input row, zeros and b_hn in the recurrent one."""
    return np.stack([sums, np.concatenate([np.zeros(len(sums) - len(b_hn), sums.dtype), b_hn])])


def with_bias(cell: Cell, reset_after: bool) -> Cell:
    """The cell, with biases of zero where it has none: for conventions that always have them."""
    if cell.bias is not None:
        return cell
    columns = cell.kernel.shape[1]
    return cell._replace(bias=np.zeros((2, columns) if reset_after else columns, cell.kernel.dtype))


# -- layers


def layer_of(
    cells: Sequence[Cell],
    *,
    reset_after: bool,
    directions: int = 1,
    each: Sequence[dict[str, Any]] | None = None,
    **options: Any,
) -> LayerOrModel:
    """A built layer of these cells, with return_sequences and return_state on unless the options say else.

    Parameters
    ----------
    cells : list of Cell
        In the order of the state: layer by layer, forward before backward.
    reset_after : bool
    directions : {1, 2}
    each : list of dicts, optional
        For each layer, options in which the layers may differ; reset_after can be among them.
    **options
        Of cgru.GRU: activation, recurrent_activation, reverse, go_backwards, merge_mode, time_major and so on.

    Returns
    -------
    GRU or Sequential
        A Sequential of one GRU for each layer where the layers differ in their units or options, or some have biases or
        learned initial states that others lack.

    Raises
    ------
    ValueError
        If the input size of a layer is not the output size of the one before.
    """
    if "bidirectional" in options:
        raise TypeError(f"bidirectional: expected directions=1 or 2 instead, got {options['bidirectional']!r}")
    if not cells:
        raise ValueError("weights: expected at least one cell, got an empty list")
    if options.get("layer_norm"):
        raise ValueError("layer_norm: expected False, because weights of elsewhere have no gains, got True")
    if len(cells) % directions:
        raise ValueError(f"directions: expected cells in pairs, forward and backward, got {len(cells)}")
    rows = [cells[i : i + directions] for i in range(0, len(cells), directions)]
    dtype = np.result_type(*{array.dtype for cell in cells for array in cell if array is not None})
    options = {"reset_after": reset_after, "bidirectional": directions == 2, "dtype": dtype, **options}
    each = each or [{}] * len(rows)
    if len({_form(cell) for cell in cells}) == 1 and all(own == each[0] for own in each):
        return _gru_of(rows, options | each[0])
    layers = []
    for i, row in enumerate(rows):
        own = options | each[i] | within(i, len(rows))
        own |= {"go_backwards": False} if i else {}  # a stack is flipped once, before its first layer
        layers.append(_gru_of([row], own))
    return chain(layers, options.get("layer_dropout", 0.0))


def dense_of(kernel: Array, bias: Array | None, activation: DenseActivation = "linear") -> Dense:
    """A built Dense layer; bias None: there is none."""
    layer = Dense(kernel.shape[1], activation=activation, use_bias=bias is not None, dtype=kernel.dtype)
    layer.build_from(len(kernel), [kernel] if bias is None else [kernel, bias])
    return layer


def embedding_of(table: Array, mask_zero: bool = False) -> Embedding:
    """A built Embedding."""
    layer = Embedding(*table.shape, mask_zero=mask_zero, dtype=table.dtype)
    layer.build_from(1, [table])
    return layer


def activate(layers: list[Layer], activation: DenseActivation, where: str, name: str, instead: str) -> None:
    """Let the last of these layers, a Dense without an activation, have this one; ValueError if it is none."""
    last = layers[-1] if layers else None
    if not isinstance(last, Dense) or last.activation != "linear":
        refuse(where, f"{name} where no Dense without activation stands before it", "activations are those of a Dense",
               instead)  # fmt: skip
    parameters = last.parameters
    layers[-1] = dense_of(parameters["kernel"], parameters.get("bias"), activation)


def within(i: int, count: int) -> dict[str, Any]:
    """Options of a GRU that is one of several in a Sequential, whatever they are for the whole: a Sequential takes
    (N, T, D), all but the last give their sequences to the next, and `dropout` is of the first one's input."""
    own: dict[str, Any] = {"time_major": False} | ({} if i == count - 1 else {"return_sequences": True})
    return own | ({"dropout": 0.0} if i else {})


def chain(layers: list[GRU], layer_dropout: float = 0.0) -> LayerOrModel:
    """The one layer, or a Sequential of several that fit one another, with dropout between them."""
    for i, (below, layer) in enumerate(itertools.pairwise(layers), start=1):
        _check_chain(i, layer.input_size, below.output_size(None))
    if len(layers) == 1:
        return layers[0]
    parts: list[Layer] = [layers[0]]
    for layer in layers[1:]:
        parts += [Dropout(layer_dropout), layer] if layer_dropout else [layer]
    return Sequential(parts)


def stack_of(cells: Sequence[Sequence[Cell]], kinds: Sequence[dict[str, Any]], options: Any) -> LayerOrModel:
    """A layer of operations in a row, or a Sequential where they differ in kind.

    Parameters
    ----------
    cells : list of lists of Cell, one for each operation
    kinds : list of dicts
        What each operation says itself: options of `layer_of`.
    options : dict
        What the caller wants besides; ValueError where it contradicts an operation.
    """
    for kind in kinds:
        for name in kind.keys() & options.keys():
            if kind[name] != options[name]:
                raise ValueError(f"{name}: expected {kind[name]!r}, as the weights say, got {options[name]!r}")
    turned_again = len(kinds) > 1 and kinds[0].get("go_backwards", False)
    if all(kind == kinds[0] for kind in kinds) and not turned_again:  # a stack is turned once
        return layer_of([cell for own in cells for cell in own], **kinds[0] | options)
    parts = enumerate(zip(cells, kinds, strict=True))
    layers = [layer_of(own, **kind | options | within(i, len(cells))) for i, (own, kind) in parts]
    return chain(layers, options.get("layer_dropout", 0.0))


def _form(cell: Cell) -> tuple[int, bool, bool]:
    return cell.units, cell.bias is None, cell.initial_state is None


def _gru_of(rows: Sequence[Sequence[Cell]], options: dict[str, Any]) -> GRU:
    """One GRU of equal cells, `rows` a list with the cells of each layer."""
    first = rows[0][0]
    layer = GRU(
        first.units,
        num_layers=len(rows),
        use_bias=first.bias is not None,
        learn_initial_state=first.initial_state is not None,
        **{"return_sequences": True, "return_state": True} | options,
    )
    for i, row in enumerate(rows):
        for cell in row:
            _check_chain(i, cell.input_size, layer.output_size(None) if i else first.input_size)
    layer.build_from(first.input_size, [array for row in rows for cell in row for array in cell if array is not None])
    return layer


def _check_chain(index: int, got: int | None, expected: int | None) -> None:
    if got != expected:
        raise ValueError(f"layer {index}: expected a kernel for {expected} features, got one for {got}")


def gru_layers(layer: Any) -> list[GRU]:
    """The built GRU layers of a GRU, or of a Sequential of GRUs; TypeError or RuntimeError for anything else."""
    return _built(layer, (GRU,), "a cgru.GRU or a Sequential of them")


def built_layers(layer: Any, more: tuple[type[Layer], ...] = ()) -> list[Any]:
    """The built layers of a model, or the one layer, where converters know them all: GRU, Dense, Embedding, Dropout and
    `more`; an Embedding that makes a mask is refused where Masking is not among those."""
    kinds = (GRU, Dense, Embedding, Dropout, *more)
    names = [kind.__name__ for kind in kinds]
    parts = _built(layer, kinds, f"a {', '.join(names[:-1])}, {names[-1]} or a Sequential of them")
    for part in parts:
        if isinstance(part, Embedding) and part.mask_zero and Masking not in more:
            refuse("Embedding", "mask_zero=True", "it makes no masks there",
                   "layer.with_options(mask_zero=False) can be converted, for calls with lengths")  # fmt: skip
    return parts


def _built(layer: Any, kinds: tuple[type[Layer], ...], expected: str) -> list[Any]:
    layers: list[Any] = list(layer.layers) if isinstance(layer, Sequential) else [layer]
    for part in layers:
        if not isinstance(part, kinds):
            raise TypeError(f"layer: expected {expected}, got {model_text(part)}")
        if not part.built:
            raise RuntimeError("layer: expected one with parameters: call build(input_size) or use it on data")
        require_plain(part)
    return layers


def cells_of(layer: GRU) -> list[Cell]:
    """The cells of a built GRU in the order of its state; their arrays are read-only views."""
    (layer,) = gru_layers(layer)
    parameters: Any = layer.parameters
    return [Cell(**{name: parameters.get(prefix + name) for name in Cell._fields}) for prefix in layer._prefixes]


def one_or_list(layer: GRU | Sequential, check: Callable[[GRU], None], weights_of: Callable[[Cell], Any]) -> Any:
    """What `weights_of` gives for each cell of a layer or Sequential, a list in the order of the state; without the
    list for one cell. `check(layer)` refuses a layer that the convention cannot hold."""
    parts = gru_layers(layer)
    for part in parts:
        check(part)
    weights = [weights_of(cell) for part in parts for cell in cells_of(part)]
    return weights[0] if len(weights) == 1 else weights
