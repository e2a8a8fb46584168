"""PyTorch: torch.nn.Linear, torch.nn.Embedding, and torch.nn.Sequential of layers that there are here.

The classes: https://docs.pytorch.org/docs/stable/nn.html
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cgru.convert import torch_modules
from cgru.convert.arrays import Arrays, some
from cgru.convert.cells import activate, dense_of, embedding_of, refuse
from cgru.layers import GRU, Dense, Dropout, Embedding
from cgru.models import Sequential
from cgru.typing import DenseActivation

_ACTIVATIONS = {"ReLU": "relu", "Sigmoid": "sigmoid", "Softmax": "softmax", "Tanh": "tanh"}
_HAVE = "Embedding, GRU, Linear, Dropout, Identity, ReLU, Sigmoid, Softmax(dim=-1) and Tanh can be converted"
_WHERE = "torch.nn.Sequential"


def from_torch_linear(weights: Any, prefix: str | None = None, *, activation: DenseActivation = "linear") -> Dense:
    """A Dense layer of a torch.nn.Linear.

    Parameters
    ----------
    weights : torch.nn.Linear or state_dict
        The arrays "weight" (units, F) and, if there is one, "bias" (units,).
    prefix : str, optional
        Of the keys, such as "head.fc", in a bigger state_dict.
    activation : str
        Of the layer, one of `cgru.Dense`: what PyTorch computes after the Linear.

    Returns
    -------
    Dense

    Raises
    ------
    TypeError, ValueError
        If an array is missing or misshapen; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_torch_linear({"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}, "fc")
    >>> layer.units, layer.input_size, layer.use_bias
    (2, 3, True)
    """
    arrays, start = _arrays(weights, prefix, "Linear", ("weight", "bias"))
    weight = arrays.take(start + "weight", "U F")
    bias = arrays.take_if_there(start + "bias", "U")
    return dense_of(weight.T, bias, activation)


def from_torch_embedding(weights: Any, prefix: str | None = None) -> Embedding:
    """An Embedding of a torch.nn.Embedding; the row of `padding_idx` is one as any other.

    Parameters
    ----------
    weights : torch.nn.Embedding or state_dict
        The array "weight" (input_dim, output_dim).
    prefix : str, optional
        Of the key, such as "encoder.embed", in a bigger state_dict.

    Returns
    -------
    Embedding

    Raises
    ------
    TypeError, ValueError
        If the array is missing or misshapen, or the module has a `max_norm`, which changes rows as they are used.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_torch_embedding({"weight": np.ones((7, 3))})
    >>> layer.input_dim, layer.output_dim
    (7, 3)
    """
    if getattr(weights, "max_norm", None) is not None:
        refuse("torch.nn.Embedding", f"max_norm={weights.max_norm}", "rows are scaled as they are used",
               "Scale them (torch.renorm), and set max_norm to None")  # fmt: skip
    arrays, start = _arrays(weights, prefix, "Embedding", ("weight",))
    return embedding_of(arrays.take(start + "weight", "V F"))


def _arrays(weights, prefix, kind, names):
    """(Arrays, what their names begin with) of a module or a state_dict."""
    if hasattr(weights, "named_modules"):
        module = torch_modules.submodule(weights, prefix or "")
        if module is None or torch_modules.kind_of(module) != kind:
            got = "none" if module is None else type(module).__name__
            raise TypeError(f"weights: expected a torch.nn.{kind} or a state_dict, got {got}")
        effective = {name: torch_modules.effective(module, name) for name in names}
        return Arrays({name: array for name, array in effective.items() if array is not None}, kind), ""
    start = "" if not prefix else prefix.rstrip(".") + "."
    return Arrays(weights, "state_dict"), start


def state_dict(layer):
    """The arrays of the torch.nn.Linear or torch.nn.Embedding that computes what a built layer does."""
    if isinstance(layer, Embedding):
        return {"weight": layer.parameters["embeddings"].copy()}
    if layer.activation != "linear":
        refuse("torch.nn.Linear", f"activation={layer.activation!r}", "it has none", "to_torch_module can convert it")
    arrays = {"weight": np.ascontiguousarray(layer.parameters["kernel"].T)}
    return arrays | ({"bias": layer.parameters["bias"].copy()} if layer.use_bias else {})


# -- wholes


def whole(module, convert_gru):
    """The layer or model of a Linear, an Embedding or an nn.Sequential; None of other modules, and of an nn.Sequential
    that holds a GRU and something that cannot be converted.

    Parameters
    ----------
    module : torch.nn.Module
    convert_gru : function
        Gives the layer of a torch.nn.GRU.
    """
    kind = torch_modules.kind_of(module)
    if kind in ("Linear", "Embedding"):
        if (problem := _problem(module)) is not None:
            refuse(f"torch.nn.{kind}", type(module).__name__, problem, "Its state_dict can be converted")
        return _layer(module)
    if kind != "Sequential" or hasattr(module, "original_name"):
        return None
    try:
        layers = _layers(module, convert_gru)
    except ValueError:
        if torch_modules.find(module).grus:
            return None
        raise
    if not layers:
        raise ValueError("weights: expected an nn.Sequential with at least one layer, got an empty one")
    return layers[0] if len(layers) == 1 and isinstance(layers[0], GRU) else Sequential(layers)


def _layer(module):
    return (from_torch_linear if torch_modules.kind_of(module) == "Linear" else from_torch_embedding)(module)


def _layers(module, convert_gru):
    """Layers that compute what the nn.Sequential does; ValueError where there are none."""
    children = list(_children(module))
    layers = []
    for path, child in children:
        kind = torch_modules.kind_of(child)
        problem = _problem(child)
        if problem is not None:
            refuse(_WHERE, f"{path} ({type(child).__name__})", problem, _HAVE)
        if layers and isinstance(layers[-1], GRU):
            refuse(_WHERE, f"{path} ({kind}) after a GRU", "a GRU gives a pair of arrays, which it cannot take",
                   "Its layers can be converted one by one, with prefix=")  # fmt: skip
        if kind in ("Linear", "Embedding"):
            layers.append(_layer(child))
        elif kind == "Dropout":
            layers.append(Dropout(child.p))
        elif kind == "GRU":
            layer = convert_gru(child)
            if layer.time_major and len(children) > 1:
                refuse(_WHERE, f"{path}, a GRU without batch_first", "a Sequential takes (N, T, D)",
                       "time_major=False converts it, for arrays in that order")  # fmt: skip
            layers.append(layer)
        elif kind in _ACTIVATIONS:
            activate(layers, _ACTIVATIONS[kind], _WHERE, f"{path} ({kind})", "After a Linear it can be converted")
    return layers


def _children(module, path=""):
    """Yield (path, module) of what stands in an nn.Sequential and those in it, without what changes nothing."""
    problem = _problem(module)
    if problem is not None:
        refuse(_WHERE, f"{path or 'the module'} ({type(module).__name__})", problem, _HAVE)
    for name, child in module._modules.items():  # named_children() leaves out a layer that comes twice
        below = f"{path}.{name}" if path else name
        kind = torch_modules.kind_of(child)
        if kind == "Sequential":
            yield from _children(child, below)
        elif kind != "Identity" or _problem(child) is not None:
            yield below, child


def _problem(module):
    """What of this module has no counterpart, or None."""
    kind = torch_modules.kind_of(module)
    if kind not in ("Linear", "Embedding", "Dropout", "GRU", "Identity", "Sequential", *_ACTIVATIONS):
        return "there is no such layer here"
    if torch_modules.is_quantized(module):
        return "it is quantised"
    if kind == "Embedding" and not hasattr(module, "max_norm"):
        return "it is traced, and does not tell whether it has a max_norm"
    ways = torch_modules.own_ways(module)
    if ways:
        return f"it has a way of its own: {some(ways)}"
    if kind == "Softmax" and module.dim != -1:
        return f"its axis is {module.dim}, and here the last one"
    if kind == "Dropout" and not module.p < 1:
        return "it drops everything in training"
    return None
