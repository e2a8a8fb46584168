"""The layers of a functional model of Keras in the order of its graph, where that is a chain; from its config, which
may come from a file: nothing in it is taken for what it should be."""

from typing import Any


def chain_of(config: dict[str, Any]) -> list[int] | None:
    """Positions of the layers in the config's list, from the input to the output of a functional model, each of which
    takes what the one before gives and nothing else; None of any other graph.

    Where a layer makes a mask from its input, what computes the mask is left out.
    """
    layers = config.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        return None
    positions = {layer.get("name"): i for i, layer in enumerate(layers) if isinstance(layer.get("name"), str)}
    inputs, outputs = (_tensors(config.get(key)) for key in ("input_layers", "output_layers"))
    if len(layers) == 2 and len({_layer_of(tensor) for tensor in outputs}) == 1:
        outputs = outputs[:1]  # of the outputs and states of one layer alone, those that follow say nothing more
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    start, end = _layer_of(inputs[0]), _source(outputs[0])
    chain: list[int] = []
    masks = any(map(_makes_mask, layers))
    while end in positions and len(chain) < len(layers):
        chain.append(positions[end])
        if end == start:
            return chain[::-1] if masks or len(chain) == len(layers) else None
        end = _source_of_calls(layers[positions[end]].get("inbound_nodes"), masks)
    return None


def _makes_mask(layer: dict[str, Any]) -> bool:
    own = layer.get("config")
    return layer.get("class_name") == "Masking" or (isinstance(own, dict) and bool(own.get("mask_zero")))


def _tensors(ends: Any) -> list[Any]:
    """What goes into or out of a model: one (name, 0, 0), or a list of these."""
    if not isinstance(ends, (list, tuple)):
        return []
    return [ends] if _layer_of(ends) is not None else list(ends)


def _layer_of(tensor: Any) -> str | None:
    """The name in (name of a layer, number of its call, number of the output)."""
    is_tensor = isinstance(tensor, (list, tuple)) and len(tensor) == 3 and isinstance(tensor[0], str)
    return tensor[0] if is_tensor else None


def _source(tensor: Any) -> str | None:
    """The layer whose first output this is."""
    return _layer_of(tensor) if _layer_of(tensor) is not None and tensor[2] == 0 else None


def _source_of_calls(calls: Any, masks: bool) -> str | None:
    """The layer whose output is all that another one is called with, in its one call, with `masks` beside a mask."""
    if not isinstance(calls, list) or len(calls) != 1:
        return None
    inputs: Any = calls[0]
    options: Any = {}
    if isinstance(inputs, dict):  # of Keras 3
        inputs, options = inputs.get("args"), inputs.get("kwargs")
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 1:
        return None
    (tensor,) = inputs
    if isinstance(tensor, dict):
        own = tensor.get("config")
        tensor = own.get("keras_history") if isinstance(own, dict) else None
    elif isinstance(tensor, (list, tuple)) and len(tensor) == 4:
        *tensor, options = tensor
    if not isinstance(options, dict):
        return None
    if any(value for key, value in options.items() if not (masks and key == "mask")):  # another tensor, training=True
        return None
    return _source(tensor)
