"""What the config of a recurrent layer of Keras says, in cgru's words. A config may come from a file: nothing in it is
taken for what it should be."""

from typing import NamedTuple

from cgru.convert.cells import refuse
from cgru.reading import short

_ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
_MERGE_MODES = ("concat", "sum", "mul", "ave")


class Settings(NamedTuple):
    """What is known of a layer, in cgru's words."""

    layers: list  # of dicts: activations and reset_after; empty where nothing is known
    common: dict  # options of cgru.GRU
    directions: int | None


def settings_of(stored, chosen):
    """The `Settings` of a stored layer; the activations that the caller chose stand above those of the config."""
    if stored.config is None:
        return Settings([], {}, None if stored.bidirectional is None else 1 + stored.bidirectional)
    name, config = stored.name, stored.config
    cells = [_cell_settings(own, stored, chosen) for own in cell_configs(stored.class_name, config, name)]
    if not cells:
        raise ValueError(f"{name}: expected a GRU or GRUCells, got {stored.class_name} of something else")
    if stored.class_name != "Bidirectional":
        keys = ("go_backwards", "stateful", "time_major", "zero_output_for_mask")
        return Settings(cells, {key: _flag(config, key, name) for key in keys if key in config}, 1)
    (_, forward), (_, backward) = _directions_of(config, name)
    if len(cells) > 2:
        refuse(name, "two directions of stacked cells", "they are merged once, on top, and here after each layer",
               "A Bidirectional for each layer can be converted")  # fmt: skip
    turned = not forward.get("go_backwards") and backward.get("go_backwards", True)
    if len(cells) != 2 or cells[0] != cells[1] or not turned:
        refuse(name, "directions that differ in more than their weights", "both have the same settings here",
               "Two layers, one of them with reverse=True, can be merged by hand")  # fmt: skip
    merge_mode = config.get("merge_mode", "concat")
    if merge_mode is None:
        refuse(name, "merge_mode=None", "the outputs of both directions become one array here",
               'merge_mode="concat" has the same numbers')  # fmt: skip
    if merge_mode not in _MERGE_MODES:
        raise ValueError(f"{name}: expected merge_mode among {', '.join(_MERGE_MODES)}, got {short(merge_mode)!r}")
    common = {key: _flag(forward, key, name) for key in ("stateful", "time_major") if key in forward}
    return Settings(cells[:1], common | {"merge_mode": merge_mode, "zero_output_for_mask": True}, 2)


def cell_configs(class_name, config, name):
    """The configs of the cells of a layer, in the order of get_weights(); none where they are not GRUs."""
    if class_name == "Bidirectional":
        return [own for kind, layer in _directions_of(config, name) for own in _cells_of_one(kind, layer, name)]
    return _cells_of_one(class_name, config, name)


def _cells_of_one(class_name, config, name):
    """The same of one direction."""
    if class_name == "CuDNNGRU":
        return [{"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}]
    if class_name != "RNN":
        return [config] if class_name in ("GRU", "GRUCell") else []
    kind, own = object_in(config, "cell", name)
    if kind != "StackedRNNCells":
        return [own] if kind == "GRUCell" else []
    cells = own.get("cells")
    if not isinstance(cells, list):
        raise ValueError(f"{name}: expected a list of cells in its config, got {short(cells)}")
    cells = [object_in({"cells": cell}, "cells", name) for cell in cells]
    return [own for _, own in cells] if all(kind == "GRUCell" for kind, _ in cells) else []


def _directions_of(config, name):
    """(class name, config) of a Bidirectional's two layers; the second one may be left out."""
    kind, forward = object_in(config, "layer", name)
    if config.get("backward_layer"):
        return (kind, forward), object_in(config, "backward_layer", name)
    return (kind, forward), (kind, {**forward, "go_backwards": True})


def object_in(config, key, name):
    """(class name, config) of an object within a config."""
    value = config.get(key)
    if isinstance(value, dict) and isinstance(value.get("class_name"), str) and isinstance(value.get("config"), dict):
        return value["class_name"], value["config"]
    raise ValueError(f"{name}: expected an object with class_name and config as its {key!r}, got {short(value)}")


def _flag(config, key, name):
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected {key} to be True or False, got {short(value)!r}")
    return value


def _cell_settings(config, stored, chosen):
    settings = {"reset_after": _flag(config, "reset_after", stored.name)}  # Keras before 2.1.5 had no other
    for role in ("activation", "recurrent_activation"):
        if role not in chosen and role not in config:
            raise ValueError(f"{stored.name}: expected {role} in its config, got none")
        settings[role] = chosen[role] if role in chosen else _activation(config[role], role, stored)
    return settings


def _activation(keras_name, role, stored):
    """cgru's name of an activation; what Keras calls hard_sigmoid depends on its version."""
    if keras_name is None:
        return "linear"
    if keras_name == "hard_sigmoid":
        if stored.version is None:
            raise ValueError(
                f"{stored.name}: expected the version of Keras beside {role}='hard_sigmoid', which changed with "
                f'version 3, got none; give {role}="hard_sigmoid_keras2" or "hard_sigmoid"'
            )
        return "hard_sigmoid" if int(stored.version.partition(".")[0]) >= 3 else "hard_sigmoid_keras2"
    if keras_name not in _ACTIVATIONS:
        refuse(stored.name, f"{role}={short(repr(keras_name))}", "there is no such activation here",
               f"{', '.join(_ACTIVATIONS)} and hard_sigmoid can be converted")  # fmt: skip
    return keras_name
