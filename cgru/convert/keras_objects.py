"""Layers and models of Keras as objects: the GRUs in them, however deep, and the layers of a Sequential."""

import contextlib
import sys

from cgru.convert.keras_config import cell_configs
from cgru.convert.keras_graph import chain_of
from cgru.convert.keras_layers import part_of
from cgru.convert.keras_layouts import CLASSES, KNOWN, ROLES, Part, Parts, Stored

_PACKAGES = ("keras", "tf_keras", "tensorflow")


def grus_of(layer):
    """Yield the `Stored` of a layer of Keras, or of all that are in a model, in whatever there is: models, wrappers and
    layers that somebody wrote."""
    if not _kinds(layer):
        raise TypeError(f"weights: expected a layer or model of Keras, got {type(layer).__name__}")
    left, seen = [(layer, layer.name, "")], set()
    while left:
        layer, name, attributes = left.pop()
        if id(layer) in seen or not _kinds(layer):  # one layer may stand in several places
            continue
        seen.add(id(layer))
        if _class_name(layer) in (*CLASSES, "GRUCell"):
            stored = _stored(layer)
            if stored is not None:
                yield stored._replace(name=name, own_names=attributes)
            continue
        outer = f"{name}/" if len(seen) > 1 else ""  # the name of the model itself reaches nothing
        attributes = f"{attributes}/" if attributes else ""
        held = {id(value): key for key, value in vars(layer).items() if not key.startswith("_")}
        for child in reversed(list(_children(layer))):
            left.append((child, f"{outer}{child.name}", f"{attributes}{held.get(id(child), child.name)}"))


def parts_of(layer):
    """The `Parts` of a model, or of one layer."""
    parts, left, seen, is_chain = [], [layer], set(), True
    while left:
        layer = left.pop()
        if hasattr(layer, "layers"):
            inner = _in_order(layer)
            is_chain = is_chain and inner is not None
            if inner is None:  # whatever it does with them; one may be held twice
                held = {id(one): one for one in (*getattr(layer, "operations", ()), *_children(layer))}
                inner = [one for key, one in held.items() if key not in seen]
                seen |= held.keys()
            left += reversed(inner)
        else:
            parts.append(_part(layer))
    return Parts(parts, is_chain)


def _part(layer):
    if _kinds(layer) and _class_name(layer) in (*CLASSES, "GRUCell"):
        stored = _stored(layer)
        if stored is not None:
            return Part(layer.name, stored.class_name, stored.config, None, [], stored)
    kind = type(layer).__name__
    if not _is_kerass(layer) or kind not in (*KNOWN, "TimeDistributed"):
        return Part(layer.name, kind if _is_kerass(layer) else f"{type(layer).__module__}.{kind}", {}, None, [])
    return part_of(layer)


def _in_order(model):
    """The layers of a Sequential, or of a functional model that is a chain; None of another."""
    if not _is_kerass(model) or type(model).__name__ not in ("Sequential", "Functional"):
        return None
    if type(model).__name__ == "Sequential":
        return model.layers
    layers = getattr(model, "operations", model.layers)
    with contextlib.suppress(NotImplementedError, TypeError, ValueError):  # a layer that somebody wrote may have none
        order = chain_of(model.get_config())
        return None if order is None else [layers[i] for i in order]
    return None


def _is_kerass(layer):
    return _root(type(layer)) in _PACKAGES


def _kinds(layer):
    """The classes of Keras that an object is of."""
    return [kind for kind in type(layer).__mro__ if _root(kind) in _PACKAGES]


def _root(kind):
    return kind.__module__.partition(".")[0]


def _class_name(layer):
    """Of a class that somebody derived, that of Keras."""
    return _kinds(layer)[0].__name__


def _children(layer):
    """The layers right within a layer: those of a model in its order, or what Keras tracks."""
    if hasattr(layer, "layers"):
        yield from layer.layers
    if hasattr(layer, "_flatten_layers"):
        yield from layer._flatten_layers(include_self=False, recursive=False)


def _stored(layer):
    """The `Stored` of a recurrent layer; None where it is of something else than GRUs."""
    class_name, root = _class_name(layer), _root(_kinds(layer)[0])
    config, arrays, cells = layer.get_config(), layer.get_weights(), []
    for own in cell_configs(class_name, config, layer.name):
        roles = ROLES if own.get("use_bias", True) else ROLES[:2]
        if len(arrays) < len(roles):
            raise ValueError(f"{layer.name}: expected a layer that is built, got one without weights")
        cells.append({role: (f"{role} of {layer.name}", array) for role, array in zip(roles, arrays, strict=False)})
        arrays = arrays[len(roles) :]
    if not cells:
        return None
    version = "2" if root == "tensorflow" else getattr(sys.modules[root], "__version__", None)
    return Stored(layer.name, cells, class_name == "Bidirectional", class_name, config, version)
