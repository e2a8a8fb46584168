"""PyTorch: torch.nn.GRU and torch.nn.GRUCell, and modules that hold one. Rows r, z, n; reset after; z weighs the old
state; both biases are kept.

The equations: https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from cgru.checks import shape_of
from cgru.convert import torch_layers, torch_modules
from cgru.convert.arrays import Arrays, as_weight, some, warn_partial
from cgru.convert.cells import (
    Cell,
    built_layers,
    canonical,
    cells_of,
    foreign,
    gru_layers,
    layer_of,
    refuse,
    require_activations,
    require_no_initial_state,
    require_reset,
)
from cgru.layers import GRU, Dense, Embedding, Layer
from cgru.models import Sequential
from cgru.typing import Array, LayerOrModel

_ORDER = "rzn"
_WHERE = "torch.nn.GRU"


def from_torch(
    weights: Any,
    prefix: str | None = None,
    *,
    initial_state: str | None = None,
    time_major: bool | None = None,
    return_sequences: bool = True,
    return_state: bool = True,
) -> LayerOrModel:
    """A layer of a torch.nn.GRU or GRUCell, with any number of layers, both directions, with or without biases; or a
    Linear, an Embedding or a whole nn.Sequential.

    No biases are summed and only the signs of z's weights change: `to_torch` gives back the same bits. Outputs agree to
    rounding.

    Parameters
    ----------
    weights : torch.nn.Module, ExportedProgram, state_dict, or list of these
        A GRU, a GRUCell, or something bigger that holds one; a Linear or Embedding; an nn.Sequential of these, of
        Dropout and of activations. Of a module with norms or pruning, the arrays that it computes with in evaluation
        mode. Modules may be scripted or traced. The arrays of a state_dict may be tensors or NumPy arrays, in any of
        PyTorch's floating-point types; half types widen to float32. A list is a stack, each the input of the next, as
        one builds it of GRUCells.
    prefix : str, optional
        Of the keys, such as "encoder.gru", in something bigger; needed where it holds more than one GRU. A module's
        Linear, Embedding or Sequential is reached by it, too.
    initial_state : str, optional
        Key of a learned initial state, (layers * directions, H) or (layers * directions, 1, H).
    time_major : bool, optional
        Whether the layer takes (T, N, D). Without it, a module's layer takes the same arrays as the module, time-major
        unless that has batch_first; the layer of a state_dict, which does not know, takes (N, T, D).
    return_sequences, return_state : bool
        What a call of the layer returns; by default (output, h_n), as PyTorch does. h_n is (N, H) for one layer in one
        direction.

    Returns
    -------
    GRU, Dense, Embedding or Sequential
        A Sequential of an nn.Sequential, and where the GRUs of a list differ in size. An nn.Sequential that ends in a
        GRU gives (output, h_n), the Sequential the output. Dropout between the layers of a GRU module is the layer's
        `layer_dropout`.

    Raises
    ------
    TypeError, ValueError
        If there is no GRU or more than one, an array is missing, unknown or misshapen, or something cannot be exact;
        the message names it.

    Warns
    -----
    PartialConversionWarning
        If the GRU stands in something bigger that did not come with it and no prefix was given, or hooks of the GRU
        stay behind.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> state_dict = {"rnn.weight_ih_l0": np.ones((6, 3)), "rnn.weight_hh_l0": np.ones((6, 2)), "fc.bias": np.ones(4)}
    >>> layer = cgru.from_torch(state_dict, "rnn")
    >>> layer.units, layer.input_size, layer.use_bias
    (2, 3, False)
    """
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    options: dict[str, Any] = {"return_sequences": return_sequences, "return_state": return_state}
    parts = weights if isinstance(weights, (list, tuple)) else [weights]
    if not parts:
        raise ValueError("weights: expected at least one GRU, got an empty list")
    if len(parts) == 1 and hasattr(parts[0], "named_modules") and not isinstance(parts[0], type):
        whole = _whole(parts[0], prefix, initial_state, time_major, options)
        if whole is not None:
            return whole
    stacks = [_read(part, prefix, initial_state, time_major) for part in parts]
    directions = {stack.directions for stack in stacks}
    if len(directions) > 1:
        raise ValueError("weights: expected GRUs with one direction each or two each, got both kinds")
    return layer_of(
        [cell for stack in stacks for cell in stack.cells],
        reset_after=True,
        directions=directions.pop(),
        time_major=stacks[0].time_major,
        layer_dropout=stacks[0].dropout if len(stacks) == 1 else 0.0,
        **options,
    )


def _whole(module, prefix, initial_state, time_major, options):
    """The layer or model of a module that is one as a whole; None where a GRU is to be found in it."""
    part = torch_modules.submodule(module, prefix or "")
    if part is None or initial_state is not None:
        return None
    if type(part).__module__ == "cgru.convert.torch_export":
        return _exported(part)

    def convert_gru(gru):
        return from_torch(gru, "", time_major=time_major, **options)

    return torch_layers.whole(part, convert_gru)


def _exported(module):
    """The layer or model that a module of `to_torch_module` was made of, with its present parameters."""
    if hasattr(module, "layers"):
        return Sequential([_exported(part) for part in module.layers])
    if module.input_size is None:
        return module.layer_class.from_config(module.config)
    if getattr(module, "native", None) is not None:
        weights = from_torch(module.native).get_weights()
    else:
        weights = [as_weight(array, "weights") for array in module.layer_weights()]
    layer = module.layer_class.from_config(module.config | {"dtype": np.result_type(*weights).name})
    layer.build_from(module.input_size, weights)
    return layer


class _Stack(NamedTuple):
    cells: list
    directions: int
    time_major: bool
    dropout: float


def _read(source, prefix, initial_state, time_major):
    if isinstance(source, type):
        raise TypeError(f"weights: expected a module or a state_dict, got the class {source.__name__}")
    if not hasattr(source, "named_modules") and not hasattr(source, "graph_signature"):
        if isinstance(source, (str, os.PathLike)):
            safe = os.fsdecode(source).endswith(".safetensors")
            reader = "cgru.files.load_tensors" if safe else "torch.load"
            raise TypeError(f"weights: expected a module or a state_dict, got a path: {reader}(path) reads it")
        Arrays(source, "state_dict")  # a TypeError where it is no mapping
    found = torch_modules.find(source)
    start = _start(found, prefix)
    module = found.grus.get(start)
    if module is not None and torch_modules.is_quantized(module):
        refuse(_WHERE, f"the quantised {start.rstrip('.') or 'GRU'}", "it rounds its inputs and states in each step",
               "The float module that it was made of can be converted")  # fmt: skip
    arrays = Arrays(found.arrays, "state_dict")
    names = _names_of(found, start)
    suffixes = _suffixes(names)
    directions = 2 if any(name.endswith("_l0_reverse") for name in names) else 1
    has_bias = any(name.startswith("bias") for name in names)
    cells = []
    for i, suffix in enumerate(suffixes):
        if i >= directions:
            arrays.sizes["D"] = directions * arrays.sizes["H"]
        cells.append(_cell_of(arrays, start, suffix, has_bias))
    arrays.finish(start + name for name in names)
    if initial_state is not None:
        arrays.sizes["S"] = len(cells)
        has_rows = len(shape_of(arrays.arrays.get(initial_state))) == 3
        states = arrays.take(initial_state, "S 1 H" if has_rows else "S H").reshape(len(cells), -1)
        cells = [cell._replace(initial_state=state) for cell, state in zip(cells, states, strict=True)]
    if time_major is None:
        batch_first = True if "weight_hh" in names else found.batch_first.get(start, True)
        if batch_first is None:
            raise ValueError(
                "time_major: expected True or False, because nothing in what was given tells the order of the axes of "
                f"{start.rstrip('.') or 'the GRU'}, got None"
            )
        time_major = not batch_first
    _warn_left_out(found, start, module, prefix, initial_state)
    dropout = getattr(module, "dropout", 0.0) if len(cells) > directions else 0.0
    return _Stack(cells, directions, time_major, dropout if isinstance(dropout, float) and dropout < 1 else 0.0)


def _start(found, prefix):
    """What the keys of the GRU begin with."""
    if prefix is not None:
        start = _with_dot(prefix)
        known = [*found.grus, *(alias for more in found.aliases.values() for alias in more)]
        return start if start in known else next((s for s in known if torch_modules.plain(s) == start), start)
    if not found.grus:
        got = some(found.arrays) + _hint(found.arrays)
        raise ValueError(f"state_dict: expected weight_hh_l0 and the other arrays of a GRU, got {got}")
    if len(found.grus) > 1:
        raise ValueError(f"prefix: expected one of {list(found.grus)}, of which each is that of a GRU, got None")
    return next(iter(found.grus))


def _hint(arrays):
    """What may be meant by arrays that hold no GRU."""
    if torch_modules.by_shape(arrays, any_rows=True):
        return "; a GRU's weight_hh_l0 has 3H rows, an LSTM's or RNN's has others"
    inner = [name for name in arrays if type(arrays) is dict and hasattr(arrays[name], "keys")]
    return f"; give the state_dict within, such as weights[{inner[0]!r}]" if inner else ""


def _names_of(found, start):
    """The names of a GRU's arrays after its start; ValueError where a norm or pruning stands over one of them."""
    for name in found.arrays:
        disguised = torch_modules.disguised(name)
        if disguised is not None and disguised[0] == start:
            reason = "a norm, pruning or parametrization makes an array of the GRU of it"
            instead = "Pass the module itself, not traced or exported: the arrays that it computes with are read"
            refuse("state_dict", repr(name), reason, instead)
    rest = (name[len(start) :] for name in found.arrays if name.startswith(start))
    return [name for name in rest if torch_modules.ARRAY.fullmatch(name)]


def _warn_left_out(found, start, module, prefix, initial_state):
    if module is not None and (ways := torch_modules.own_ways(module)):
        warn_partial(f"from_torch: the GRU is taken as PyTorch has it; left out, and what they change: {some(ways)}")
    starts = [start, *found.aliases.get(start, ())]
    left = [name for name in found.names if name != initial_state and not any(_belongs(name, s) for s in starts)]
    left += found.without_arrays
    if left and prefix is None:
        path = start.rstrip(".")
        warn_partial(
            f"from_torch: only the GRU{f' {path!r}' if path else ''} was converted; left out: {some(left)}. "
            f"prefix={path!r} says that this is meant"
        )


def _belongs(name, start):
    """Whether this is a name of an array of the GRU that starts so, or of what a norm keeps of it."""
    disguised = torch_modules.disguised(name)
    if disguised is not None:
        return disguised[0] == start
    return name.startswith(start) and bool(torch_modules.ARRAY.fullmatch(name[len(start) :]))


def _with_dot(prefix):
    return prefix if prefix.endswith(".") or not prefix else prefix + "."


def _suffixes(names):
    """Of the arrays' names, in the order of the state; that of a GRUCell is empty."""
    matches = [torch_modules.ARRAY.fullmatch(name) for name in names]
    if "weight_hh" in names and not any(match[1] for match in matches):
        yield ""
        return
    layers = 1 + max((int(match[1]) for match in matches if match[1]), default=0)
    directions = ("", "_reverse") if any(match[2] for match in matches) else ("",)
    for layer in range(layers):  # a number may be anything: the first array that is missing ends it
        for direction in directions:
            yield f"_l{layer}{direction}"


def _cell_of(arrays, start, suffix, has_bias):
    recurrent_kernel = arrays.take(f"{start}weight_hh{suffix}", "3H H")
    kernel = arrays.take(f"{start}weight_ih{suffix}", "3H D")
    bias = None
    if has_bias:
        bias = np.stack([arrays.take(f"{start}bias_{which}{suffix}", "3H") for which in ("ih", "hh")])
        bias = canonical(bias, _ORDER)
    return Cell(canonical(kernel.T, _ORDER), canonical(recurrent_kernel.T, _ORDER), bias)


def to_torch(layer: GRU | Dense | Embedding, prefix: str = "", *, initial_state: str | None = None) -> dict[str, Array]:
    """The state_dict of a torch.nn.GRU, Linear or Embedding, as NumPy arrays; torch is not needed.

    No biases are summed: `from_torch` gives back the same bits.

    Parameters
    ----------
    layer : GRU, Dense or Embedding
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
        one direction that runs backwards, layers of unequal size, a learned initial state without a key for it; or a
        Dense has an activation. `to_torch_module` has all of these.

    Examples
    --------
    >>> import cgru
    >>> layer = cgru.GRU(2, reset_after=True, input_size=3)
    >>> {name: array.shape for name, array in cgru.convert.to_torch(layer).items()}
    {'weight_ih_l0': (6, 3), 'weight_hh_l0': (6, 2), 'bias_ih_l0': (6,), 'bias_hh_l0': (6,)}
    """
    start = _with_dot(prefix)
    state_dict: dict[str, Array] = {}
    if isinstance(layer, (Dense, Embedding)):
        built_layers(layer)  # refuses what is not in the weights
        return {start + name: array for name, array in torch_layers.state_dict(layer).items()}
    gru: GRU = _representable(layer)
    cells = cells_of(gru)
    for i, cell in enumerate(cells):
        index, backward = divmod(i, 1 + gru.bidirectional)
        suffix = f"_l{index}" + ("_reverse" if backward else "")
        state_dict[f"{start}weight_ih{suffix}"] = np.ascontiguousarray(foreign(cell.kernel, _ORDER).T)
        state_dict[f"{start}weight_hh{suffix}"] = np.ascontiguousarray(foreign(cell.recurrent_kernel, _ORDER).T)
        if cell.bias is not None:
            for which, row in zip(("ih", "hh"), foreign(cell.bias, _ORDER), strict=True):
                state_dict[f"{start}bias_{which}{suffix}"] = row.copy()
    if initial_state is None:
        require_no_initial_state(cells, _WHERE, 'to_torch(layer, initial_state="h0") gives it under a key of its own')
    elif not gru.learn_initial_state:
        raise ValueError(f"initial_state: expected a layer with learn_initial_state=True beside {initial_state!r}")
    else:
        learned = [cell.initial_state for cell in cells if cell.initial_state is not None]
        state_dict[initial_state] = np.stack(learned)[:, None]
    return state_dict


def to_torch_module(layer: Layer | Sequential) -> Any:
    """A module of PyTorch that computes what the layer or model does, in evaluation mode.

    No biases are summed. Parameters have the dtypes of the layers'.

    Parameters
    ----------
    layer : GRU, Dense, Embedding, or Sequential of these and Dropout

    Returns
    -------
    torch.nn.Module
        A torch.nn.GRU of a GRU that it can hold: reset_after=True, tanh and sigmoid, directions that are concatenated
        or one that runs forward; with batch_first unless the layer is time-major. Of any other GRU, above all of the
        default reset_after=False, which torch.nn.GRU does not have, a module that computes the equations step by step:
        ``module(x, initial_state=None, lengths=None, mask=None)`` gives what a call of the layer gives. A
        torch.nn.Linear or torch.nn.Embedding of a Dense without activation or an Embedding. Of dropout in a GRU it has
        `layer_dropout`, in a torch.nn.GRU alone. Of a Sequential a module with ``module(x, lengths=None, mask=None)``,
        for padded tensors. `from_torch` takes all of these and gives the layer or the model back.

    Raises
    ------
    ImportError
        If torch is not installed.
    TypeError, ValueError
        If a layer is not built or of another kind, or stateful: a module keeps no state between its calls.

    Examples
    --------
    >>> import cgru
    >>> layer = cgru.GRU(2, reset_after=True, input_size=3)
    >>> cgru.convert.to_torch_module(layer)
    GRU(3, 2, batch_first=True)
    """
    parts = built_layers(layer)
    for part in parts:
        if getattr(part, "stateful", False):
            refuse("PyTorch", "stateful=True", "a module keeps no state between its calls",
                   "With stateful=False it can be converted: give each call the last one's state")  # fmt: skip
    try:
        from cgru.convert import torch_export
    except ImportError:
        raise ImportError('to_torch_module needs PyTorch: pip install "cgru[torch]"') from None
    modules = [torch_export.module_of(part, _native) for part in parts]
    if isinstance(layer, Sequential):
        return torch_export.Model(modules).eval()
    (module,) = modules
    if isinstance(layer, GRU):
        return (module.native or module).eval()
    if isinstance(layer, Embedding):
        return module.embedding.eval()
    if isinstance(layer, Dense) and layer.activation == "linear":
        return module.linear.eval()
    return torch_export.Model(modules).eval()


def _native(layer):
    """The torch.nn.GRU of a GRU, or None where it has no such form."""
    if layer.learn_initial_state:
        return None
    try:
        state_dict = to_torch(layer)
    except ValueError:
        return None
    import torch

    module = torch.nn.GRU(
        layer.input_size,
        layer.units,
        num_layers=layer.num_layers,
        bias=layer.use_bias,
        batch_first=not layer.time_major,
        bidirectional=layer.bidirectional,
        dropout=layer.layer_dropout if layer.num_layers > 1 else 0.0,
        dtype=getattr(torch, layer.dtype.name),
    )
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    return module


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
