"""What Keras stores of its GRUs, found in files and in mappings of names to arrays. Neither Keras nor TensorFlow is
imported; h5py reads HDF5.

Three layouts of HDF5:

* Keras 3 and the ".keras" archives: ``layers/bidirectional/forward_layer/cell/vars/0``, named after classes, counted
  within their container (keras/src/saving/saving_lib.py);
* the same under ``_layer_checkpoint_dependencies``, in Keras 2.13;
* ".h5" of Keras 2, which Keras 3 still writes: a group a layer, with the names of its weights in an attribute, and
  the model's config in another (keras/src/legacy/saving/legacy_h5_format.py).
"""

import io
import json
import os
import re
import zipfile
from typing import NamedTuple

import numpy as np

from cgru.convert.arrays import some

ROLES = ("kernel", "recurrent_kernel", "bias")
CLASSES = ("GRU", "CuDNNGRU", "RNN", "Bidirectional")
LAYERS = ("Dense", "Embedding")  # those beside them that have arrays and a counterpart here
_CONTAINERS = ("Sequential", "Functional", "Model")


class Stored(NamedTuple):
    """The arrays of one recurrent layer, and what is known of it."""

    name: str
    cells: list  # dicts of ROLES to (name for errors, array), in the order of the state
    bidirectional: bool | None = None  # None: nothing tells
    class_name: str | None = None  # of the config
    config: dict | None = None
    version: str | None = None  # of Keras


class Part(NamedTuple):
    """A layer of a Sequential."""

    name: str
    class_name: str
    config: dict
    version: str | None  # of Keras
    arrays: list  # (name for errors, array), in the order of get_weights()
    recurrent: Stored | None = None  # of a GRU


def choose(found, name, where):
    """The one of these `Stored` that is called `name`, or the only one; ValueError if there is none or a choice."""
    names = [stored.name for stored in found]
    if not found:
        raise ValueError(f"{where}: expected a GRU, got none")
    chosen = found if name is None else [stored for stored in found if stored.name == name]
    if len(chosen) != 1:
        raise ValueError(f"name: expected one of {names}, for the GRUs of {where}, got {name!r}")
    return chosen[0]


# -- arrays under names


def from_names(arrays, name=None):
    """The `Stored` of a mapping of names such as "gru/gru_cell/kernel:0", or "kernel" alone, to arrays."""
    cells = _cells_of_names({key: array for key, array in arrays.items() if array is not None})
    if not cells:
        raise ValueError(f"weights: expected kernel, recurrent_kernel and bias, got {some(arrays)}")
    if name is not None:
        chosen = {path: cell for path, cell in cells.items() if name in path.split("/")}
        if not chosen:
            raise ValueError(f"name: expected a part of one of {list(cells)}, got {name!r}")
        cells = chosen
    bidirectional = _is_bidirectional(cells)
    if len(cells) > 1 and not bidirectional and not all("stacked_rnn_cells" in path for path in cells):
        raise ValueError(f"name: expected a part of one of {list(cells)}, for there is more than one GRU, got {name!r}")
    return Stored(name or next(iter(cells)), list(cells.values()), bidirectional)


def _cells_of_names(arrays):
    """Path -> dict of a cell, of those paths that hold a recurrent kernel."""
    cells = {}
    for key, array in arrays.items():
        path, _, role = key.rpartition("/")
        role = role.removesuffix(":0")
        if role in ROLES:
            cells.setdefault(path, {})[role] = (key, array)
    return {path: cell for path, cell in cells.items() if "recurrent_kernel" in cell}


def _is_bidirectional(paths):
    directions = [re.findall(r"(?:^|/)(forward|backward)_", path) for path in paths]
    return len(directions) == 2 and [d[-1:] for d in directions] == [["forward"], ["backward"]]


def is_gru(cell):
    """Whether these arrays are a GRU's; an LSTM's have 4 blocks, a SimpleRNN's one."""
    units, columns = np.shape(cell["recurrent_kernel"][1])
    return columns == 3 * units


# -- files


def from_file(path):
    """(the `Stored` of each GRU in a file, the `Part`s of the Sequential that it holds, or None where it holds another
    model or nothing tells).

    Raises
    ------
    ImportError
        If h5py is not installed.
    OSError
        If the file cannot be read.
    ValueError
        If it is none of Keras' files.
    """
    where = os.fspath(path)
    try:
        import h5py
    except ImportError:
        raise ImportError('from_keras needs h5py to read files: pip install "cgru[keras]"') from None
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _of_archive(archive, h5py, where)
        if h5py.is_hdf5(where):
            with h5py.File(file, "r") as store:
                return _of_store(store)
        raise ValueError(f"{where}: expected a .keras, .weights.h5 or .h5 file, got another format")


def _of_archive(archive, h5py, where):
    names = archive.namelist()
    for member in ("config.json", "model.weights.h5"):
        if member not in names:
            raise ValueError(f"{where}: expected {member} in the archive, got {some(names)}")
    config = json.loads(archive.read("config.json"))
    version = json.loads(archive.read("metadata.json")).get("keras_version") if "metadata.json" in names else None
    with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as store:
        return _of_config(
            config, version, lambda entry: _cells_at(store, entry.group), lambda entry: _arrays_at(store, entry.group)
        )


def _of_store(store):
    """As `from_file`, of an HDF5 file."""
    version = _text(store.attrs.get("keras_version"))
    if "model_config" in store.attrs:
        group = store["model_weights"]
        config = json.loads(_text(store.attrs["model_config"]))
        return _of_config(
            config,
            version,
            lambda entry: _legacy_cells(group, entry.names),
            lambda entry: list(_legacy_arrays(group, entry.names).items()),
        )
    if _attribute(store, "layer_names"):
        found = [(name, _legacy_cells(store, [name])) for name in _attribute(store, "layer_names")]
    else:
        found = _scan(store)
    return [
        Stored(name, list(cells.values()), _is_bidirectional(cells), version=version)
        for name, cells in found
        if cells and all(map(is_gru, cells.values()))
    ], None


class _Entry(NamedTuple):
    """A layer in the config of a model, which is no model itself."""

    names: list  # of the layers around it, from the outside, and its own
    group: str  # in the layout of Keras 3
    class_name: str
    config: dict
    in_sequentials: bool  # whether all models around it, but for the outermost, are Sequentials


def _of_config(config, version, cells_of, arrays_of):
    """As `from_file`, of what the config names; `cells_of` reads the cells of an `_Entry`, `arrays_of` its arrays."""
    entries = list(_entries(config["config"])) if config["class_name"] in _CONTAINERS else []
    found, recurrent = [], {}
    for i, entry in enumerate(entries):
        cells = cells_of(entry) if entry.class_name in CLASSES else None
        if cells and all(map(is_gru, cells.values())):
            bidirectional = entry.class_name == "Bidirectional"
            recurrent[i] = Stored(
                entry.names[-1], list(cells.values()), bidirectional, entry.class_name, entry.config, version
            )
            found.append(recurrent[i])
    if config["class_name"] != "Sequential" or not all(entry.in_sequentials for entry in entries):
        return found, None
    return found, [
        Part(
            entry.names[-1],
            entry.class_name,
            entry.config,
            version,
            arrays_of(entry) if entry.class_name in LAYERS else [],
            recurrent.get(i),
        )
        for i, entry in enumerate(entries)
    ]


def _entries(config, names=(), group="layers", in_sequentials=True):
    layers = config if isinstance(config, list) else config["layers"]  # a list: a Sequential before Keras 2.2.3
    counts = {}
    for layer in layers:
        kind, own = layer["class_name"], layer["config"]
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        counts[snake] = counts.get(snake, -1) + 1
        path = f"{group}/{snake}_{counts[snake]}" if counts[snake] else f"{group}/{snake}"
        if kind in _CONTAINERS:
            name = own["name"] if isinstance(own, dict) else layer.get("name", "")
            yield from _entries(own, (*names, name), f"{path}/layers", in_sequentials and kind == "Sequential")
        else:
            name, kind, own, below = unwrapped(kind, own)
            yield _Entry([*names, name], path + below, kind, own, in_sequentials)


def unwrapped(class_name, config):
    """(name, class, config, path to its group) of a layer, or of what a TimeDistributed has in it that is the same
    without."""
    name = config.get("name", "")
    inner = config.get("layer") if class_name == "TimeDistributed" else None
    if inner and inner["class_name"] in ("Dense", "Dropout", "Activation"):
        return name, inner["class_name"], inner["config"], "/layer"
    return name, class_name, config, ""


# -- the layout of Keras 3


def _cells_at(store, path):
    """Path -> dict of the cells of the layer whose group this is."""
    for candidate in (path, path.replace("layers", "_layer_checkpoint_dependencies")):
        if candidate in store:
            return _cells_below(store[candidate])
    raise ValueError(f"model.weights.h5: expected a group {path!r}, got {some(store)}")


def _arrays_at(store, path):
    """[(name, array)] of the layer whose group this is."""
    for candidate in (path, path.replace("layers", "_layer_checkpoint_dependencies")):
        if candidate in store:
            stored = store[candidate].get("vars", {})
            return [(f"{candidate}/vars/{key}", _values(stored[key])) for key in sorted(stored, key=int)]
    return []


def _cells_below(group):
    if "forward_layer" in group and "backward_layer" in group:
        return _cells_below(group["forward_layer"]) | _cells_below(group["backward_layer"])
    if "cell" in group:
        cell = group["cell"]
        stack = sorted(cell["cells"].values(), key=_count) if "cells" in cell else [cell]
    else:
        stack = [group]
    cells = {}
    for cell in stack:
        stored = cell.get("vars", {})
        if "0" in stored and "1" in stored and len(stored["1"].shape) == 2:
            arrays = {role: stored[str(i)] for i, role in enumerate(ROLES) if str(i) in stored}
            cells[cell.name] = {role: (f"{cell.name}/{role}", _values(a)) for role, a in arrays.items()}
    return cells


def _count(group):
    """Of "gru_cell", "gru_cell_1", ..., "gru_cell_10", what orders them."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", group.name)
    return int(match[2] or 0)


def _scan(group):
    """[(name, cells)] of all recurrent layers below a group, where no config names them."""
    found = []
    for child in group.values():
        if not hasattr(child, "values"):
            continue
        cells = _cells_below(child)
        if cells and all(len(cell["kernel"][1].shape) == 2 for cell in cells.values()):
            name = _text(child["vars"].attrs.get("name")) if "vars" in child else None
            found.append((name or child.name.strip("/"), cells))
        else:
            found += _scan(child)
    return found


def _values(dataset):
    """The array of a dataset; bfloat16, which NumPy lacks, widens to float32."""
    if _text(dataset.attrs.get("dtype")) == "bfloat16":
        return (dataset[()].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return dataset[()]


# -- the layout of Keras 2


def _legacy_cells(store, names):
    """Path -> dict of the cells of a layer."""
    return _cells_of_names(_legacy_arrays(store, names))


def _legacy_arrays(store, names):
    """Path -> array of a layer; of a model inside the model, the group holds all layers' weights."""
    group = store[names[0]]
    paths = _attribute(group, "weight_names")
    if len(names) > 1:
        paths = [path for path in paths if names[-1] in path.split("/")]
    return {path: group[path][()] for path in paths}


def _attribute(group, name):
    """A list of strings; a long one is stored in pieces, name0, name1 and so on."""
    pieces = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(pieces)}" in group.attrs:
        pieces.append(group.attrs[f"{name}{len(pieces)}"])
    return [_text(value) for piece in pieces for value in piece]


def _text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value
