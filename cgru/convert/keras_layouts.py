"""Where Keras puts the arrays of its GRUs in a file, and what the model's config says of each.

Three layouts of HDF5:

* Keras 3 and the ".keras" archives: a group an object, ``layers/bidirectional/forward_layer/cell/vars/0``, called after
  the attribute that holds it or, in a list, after its class, counted within the list (keras/src/saving/saving_lib.py);
* the same under ``_layer_checkpoint_dependencies``, in Keras 2.13;
* ".h5" of Keras 2, which Keras 3 still writes: a group a layer, with the names of its weights in an attribute, and
  the model's config in another (keras/src/legacy/saving/legacy_h5_format.py).

A config is not needed to find a GRU: that of a subclassed model or of a custom layer does not tell what is in it.
"""

import re
from typing import NamedTuple

import numpy as np

from cgru.convert.arrays import some
from cgru.convert.hdf5 import MAX_DEPTH, Dataset, Group
from cgru.convert.keras_graph import chain_of
from cgru.reading import short

ROLES = ("kernel", "recurrent_kernel", "bias")
CLASSES = ("GRU", "CuDNNGRU", "RNN", "Bidirectional")
LAYERS = ("Dense", "Embedding", "Conv1D", "LayerNormalization")  # beside them what has arrays and a counterpart here
NOISE = ("SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization")
SAME = ("InputLayer", "Dropout", "Identity", *NOISE)  # give what they get, in inference
POOLING = ("GlobalMaxPooling1D", "GlobalAveragePooling1D")
KNOWN = (*LAYERS, *SAME, *POOLING, "Activation", "Softmax", "ReLU", "Masking")
_NOT_LAYERS = ("vars", "optimizer", "seed_generator", "metrics", "_metrics")  # groups beside those of layers


class Stored(NamedTuple):
    """The arrays of one recurrent layer, and what is known of it."""

    name: str  # with those of the layers around it: "encoder/gru"
    cells: list | None  # dicts of ROLES to (name for errors, array), in the order of the state
    bidirectional: bool | None = None  # None: nothing tells
    class_name: str | None = None  # of the config
    config: dict | None = None
    version: str | None = None  # of Keras
    group: str = ""  # where it stands in the file
    own_names: str = ""  # of the layers, where `name` has the attributes that hold them
    missing: str | None = None  # what is wrong where the file has no arrays of it


class Part(NamedTuple):
    """A layer of a model."""

    name: str
    class_name: str
    config: dict
    version: str | None  # of Keras
    arrays: list  # (name for errors, array), in the order of get_weights()
    recurrent: Stored | None = None  # of a GRU


class Parts(NamedTuple):
    """The layers of a model, those of models in it among them."""

    layers: list  # of Part
    is_chain: bool | None = True  # whether the model computes one after the other, and nothing else; None: unknown

    def is_whole(self):
        """Whether each is a layer that there is here, in a chain, and they are more than one GRU."""
        ours = [part.recurrent is not None or part.class_name in KNOWN for part in self.layers]
        others = [part for part in self.layers if part.class_name != "InputLayer"]
        is_alone = len(others) == 1 and others[0].recurrent is not None
        return bool(self.is_chain and others and all(ours)) and not is_alone

    def left_beside(self, taken):
        """Names of what changes numbers in inference beside the GRUs, but not of what the taken one is in."""
        others = [part for part in self.layers if part.recurrent is None]
        others = [part.name for part in others if part.class_name not in SAME]
        left = [name for name in dict.fromkeys(others) if not f"/{taken}/".startswith(f"/{name}/")]
        return left or (["what the model makes of it"] if self.is_chain is False else [])


class _Entry(NamedTuple):
    """A recurrent layer in the config of a model."""

    names: tuple  # of the layers around it, from the outside, and its own
    group: str  # in the layout of Keras 3
    class_name: str
    config: dict


def is_gru(cell):
    """Whether these arrays are a GRU's; an LSTM's have 4 blocks, a SimpleRNN's one."""
    shape = np.shape(cell["recurrent_kernel"][1])
    return len(shape) == 2 and shape[1] == 3 * shape[0] and "kernel" in cell


def _joined(*parts):
    return "/".join(filter(None, parts))


# -- the config of a model


def _entries_of(config):
    """(the `_Entry` of each recurrent layer in the config of a model, in the model's order, and the names of all of its
    objects by their groups)."""
    found, groups, left = [], {}, [(_node_of(config, "config"), (), "", 0)]
    while left:
        (kind, own, name), names, group, depth = left.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"config: expected layers at most {MAX_DEPTH} deep, got more: nested too deeply")
        names = (*names, short(name)) if depth else ()
        groups[group] = _joined(*names)
        if depth and kind in CLASSES and isinstance(own, dict):
            found.append(_Entry(names, group, kind, own))
            continue
        children = [(node, names, _joined(group, path), depth + 1) for path, node in _children(own)]
        left += reversed(children)
    return found, groups


def _node_of(value, what=None):
    """(class name, config, name) of what Keras writes for an object, or None for anything else."""
    if isinstance(value, dict):
        kind, own = value.get("class_name"), value.get("config")
        if isinstance(kind, str) and isinstance(own, (dict, list)):
            name = own.get("name", value.get("name")) if isinstance(own, dict) else value.get("name")
            return kind, own, name if isinstance(name, str) else ""
    if what is None:
        return None
    raise ValueError(f"{what}: expected an object with class_name and config, got {short(value)}")


def _children(own):
    """Yield (path from the object's group, node) of the objects in a config."""
    # a list: a Sequential before Keras 2.2.3
    for key, value in {"layers": own}.items() if isinstance(own, list) else own.items():
        if isinstance(value, list):
            counts = {}
            for node in filter(None, map(_node_of, value)):
                snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", node[0]))
                snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
                counts[snake] = counts.get(snake, -1) + 1
                yield f"{key}/{snake}_{counts[snake]}" if counts[snake] else f"{key}/{snake}", node
        else:
            node = _node_of(value)
            if node is not None:
                yield key, node


def _parts_of(config, part):
    """The `Parts` of a model's config, None where it does not tell the layers; `part` makes a Part of (names, group,
    class, config, path below the group)."""
    root = _node_of(config)
    if root is None or not _has_layers(root):
        return None
    parts, left, is_chain = [], [(root, (), "")], True
    while left:
        node, names, group = left.pop()
        kind, own, name = node
        if _has_layers(node):
            names = (*names, name) if group else ()
            layers = [(path, node) for path, node in _children(own) if path.startswith("layers/")]
            order = range(len(layers)) if kind == "Sequential" else None
            if kind in ("Functional", "Model") and len(own["layers"]) == len(layers):
                order = chain_of(own)
            if order is None:
                tells = isinstance(own, dict) and "output_layers" in own
                order, is_chain = range(len(layers)), False if tells or is_chain is False else None
            left += reversed([(layers[i][1], names, _joined(group, layers[i][0])) for i in order])
        elif not isinstance(own, dict):
            return None
        else:
            kind, own, below = unwrapped(kind, own)
            parts.append(part((*names, short(name)), group, kind, own, below))
    return Parts(parts, is_chain)


def _has_layers(node):
    kind, own, _ = node
    is_list = isinstance(own, dict) and isinstance(own.get("layers"), list)
    return kind == "Sequential" or (is_list and kind not in CLASSES)


def unwrapped(class_name, config):
    """(class, config, path to its group) of a layer, or of what a TimeDistributed has in it that is the same
    without."""
    inner = _node_of(config.get("layer")) if class_name == "TimeDistributed" else None
    if inner is not None and inner[0] in ("Dense", "Dropout", "Activation") and isinstance(inner[1], dict):
        return inner[0], inner[1], "/layer"
    return class_name, config, ""


# -- the layout of Keras 3


def of_tree(store, config=None, version=None):
    """(the `Stored` of all GRUs below a group in the layout of Keras 3, those of the config first, the `Parts` of the
    model)."""
    found = {group: parts for group, *parts in _scan(store)}
    others = [group for group, (_, _, cells, _) in found.items() if cells is None]
    found = {group: parts for group, parts in found.items() if group not in others}
    entries, groups = _entries_of(config) if config is not None else ([], {})
    lists = _whole_lists(store, groups)
    stored, taken = [], set()
    for entry in entries:
        name, own_names, cells, _ = found.get(entry.group, ("", "", None, None))
        if cells is None and entry.class_name not in ("GRU", "CuDNNGRU"):
            continue  # it is of something else
        taken.add(entry.group)
        is_bidirectional = entry.class_name == "Bidirectional"
        names, missing = _joined(*entry.names), None
        if cells is None:
            missing = f"model.weights.h5: expected a group {entry.group!r}, got {some(store.names())}"
        stored.append(
            Stored(names, cells, is_bidirectional, entry.class_name, entry.config, version, entry.group, name, missing)
        )
    for group, (name, own_names, cells, is_bidirectional) in found.items():
        if group not in taken and _may_be_within(group, groups, lists):
            name = name if own_names else _named(group, groups)
            stored.append(Stored(name, cells, is_bidirectional, version=version, group=group, own_names=own_names))
    recurrent = {one.group: one for one in stored if one.cells is not None}

    def part(names, group, kind, own, below):
        arrays = _arrays_at(store, group + below) if kind in LAYERS else []
        return Part(names[-1], kind, own, version, arrays, recurrent.get(group))

    return stored, _parts_of(config, part) or _unknown(_named(group, groups) for group in others)


def _unknown(names):
    """The `Parts` of a model of which nothing is known but where its arrays are."""
    return Parts([Part(short(name), "", {}, None, []) for name in names], is_chain=None)


def _arrays_at(store, path):
    """[(name, array)] of the layer whose group this is."""
    group = _at(store, f"{path}/vars")
    names = sorted(filter(str.isdecimal, group.names()), key=int) if group is not None else []
    return [(f"/{path}/{name}", group.child(name)) for name in names]


def _named(group, groups):
    """The path of a group, with names for that part of it that has some."""
    outer, rest = group, ""
    while outer:
        if groups.get(outer):
            return _joined(groups[outer], rest)
        outer, _, last = outer.rpartition("/")
        rest = _joined(last, rest)
    return group


def _whole_lists(store, groups):
    """The groups for lists of layers of which the file has all that the config names."""
    lists = {}
    for group in groups:
        outer, _, last = group.rpartition("/")
        if not last.startswith("input_layer"):  # has no arrays, and older files have no group for it
            lists[outer] = lists.get(outer, True) and _at(store, group) is not None
    return {outer for outer, is_whole in lists.items() if is_whole}


def _at(store, path):
    """The group at a path, None where there is none."""
    for name in path.split("/"):
        names = (name, "_layer_checkpoint_dependencies") if name == "layers" else (name,)
        store = next(filter(None, map(store.group, names)), None)
        if store is None:
            return None
    return store


def _may_be_within(group, groups, lists):
    """Whether a model with objects in these groups can have one in another: not where a whole list lacks it."""
    parts = group.split("/")
    for i in range(1, len(parts)):
        if parts[i - 1] == "layers" and "/".join(parts[: i + 1]) not in groups:
            return "/".join(parts[:i]) not in lists
    return True


def _scan(root):
    """Yield (group, name, the layers' own names, cells, whether it is bidirectional) of all GRUs below a group, and of
    all else that computes with arrays, without cells.

    Each group is looked at once: hard links may lead anywhere, and in circles.
    """
    left, seen = [(root, "", "", "")], set()
    while left:
        group, path, name, own_names = left.pop()
        if group.path.count("/") > MAX_DEPTH:
            raise ValueError(f"{short(group.path)}: expected groups at most {MAX_DEPTH} deep, got more")
        if group.address in seen:
            continue
        seen.add(group.address)
        cells, is_bidirectional = _cells_below(group)
        if cells:
            if path:
                yield path, name, own_names, cells if all(map(is_gru, cells)) else None, is_bidirectional
            continue
        if path and any(map(str.isdecimal, (group.group("vars") or group).names())):
            yield path, name, own_names, None, None
        # What is in a list is called after its class, so its own name says more than that of the group.
        is_list = bool(path) and (path.split("/")[-1] == "layers" or "vars" not in group)
        children = []
        for key in group.names():
            child = group.child(key) if key not in _NOT_LAYERS else None
            if not isinstance(child, Group):
                continue
            part = "layers" if key == "_layer_checkpoint_dependencies" else key
            own = _own_name(child)
            named = _joined(name.removesuffix("layers").rstrip("/"), own) if is_list and own else _joined(name, part)
            children.append((child, _joined(path, part), named, _joined(own_names, own)))
        left += reversed(children)


def _own_name(group):
    inner = group.group("vars")
    return inner.text("name") if inner is not None else None


def _cells_below(group):
    """(dicts of the cells of the layer whose group this is, whether it is bidirectional); none for another layer."""
    forward, backward = (group.group(f"{way}_layer") for way in ("forward", "backward"))
    if forward is not None and backward is not None:
        cells = [*_cells_of_one(forward), *_cells_of_one(backward)]
        return cells, True
    return _cells_of_one(group), False


def _cells_of_one(group):
    cell = group.group("cell")
    stack = [cell or group]
    if cell is not None and cell.group("cells") is not None:
        cells = cell.group("cells")
        stack = [cells.group(name) for name in sorted(cells.names(), key=_count)]
    found = []
    for one in stack:
        stored = one.group("vars") if one is not None else None
        arrays = [stored.child(str(i)) if stored is not None and str(i) in stored else None for i in range(3)]
        if any(not isinstance(array, Dataset) or len(array.shape) != 2 for array in arrays[:2]):
            return []
        named = {role: (f"{one.path}/{role}", array) for role, array in zip(ROLES, arrays, strict=True) if array}
        found.append(named)
    return found


def _count(name):
    """Of "gru_cell", "gru_cell_1", ..., "gru_cell_10", what orders them."""
    match = re.fullmatch(r".*?(?:_([0-9]{1,9}))?", name, re.DOTALL)
    return int(match[1] or 0)


# -- the layout of Keras 2


def of_legacy(store, config=None, version=None):
    """As `of_tree`, of a file in the layout of Keras 2."""
    entries = _entries_of(config)[0] if config is not None else []
    layers = {}  # name -> arrays by their paths
    for layer in _pieces(store, "layer_names"):
        group = store.below(layer, Group)
        layers[layer] = {path: group.below(path, Dataset) for path in _pieces(group, "weight_names")}
    found = []
    for layer, arrays in layers.items():
        own = [entry for entry in entries if entry.names[0] == layer]
        found += _of_layer(layer, cells_of_names(arrays), own, version)
    recurrent = {stored.name: stored for stored in found if stored.config is not None}

    def part(names, group, kind, own, below):
        arrays = []
        if kind in LAYERS:
            arrays = [
                (path, array)
                for path, array in layers.get(names[0], {}).items()
                if len(names) == 1 or names[-1] in path.split("/")
            ]
        return Part(names[-1], kind, own, version, arrays, recurrent.get(_joined(*names)))

    others = [
        name for name, arrays in layers.items() if arrays and not any(map(is_gru, cells_of_names(arrays).values()))
    ]
    return found, _parts_of(config, part) or _unknown(others)


def _of_layer(layer, cells, entries, version):
    """The `Stored` in the group of a layer of the model, which may be a model itself."""
    cells = {path: cell for path, cell in cells.items() if is_gru(cell)}
    if len(entries) == 1 and entries[0].names == (layer,):
        kind = entries[0]
        is_bidirectional = kind.class_name == "Bidirectional"
        one = Stored(layer, list(cells.values()), is_bidirectional, kind.class_name, kind.config, version)
        return [one] if cells else []
    found = []
    for path, own, is_bidirectional in layers_of(cells):
        parts = path.split("/")
        name = "/".join(parts[parts.index(layer) :]) if layer in parts else _joined(layer, path)
        found.append(Stored(name, own, is_bidirectional, version=version, group=_joined(layer, path)))
    for i, stored in enumerate(found):
        fitting = [entry for entry in entries if entry.names[-1] in stored.group.split("/")]
        exact = [entry for entry in fitting if f"/{stored.name}".endswith(f"/{_joined(*entry.names)}")]
        fitting = exact or fitting or (entries if len(entries) == len(found) == 1 else [])
        if len(fitting) == 1:
            (entry,) = fitting
            name, bidirectional = _joined(*entry.names), entry.class_name == "Bidirectional"
            known = (bidirectional, entry.class_name, entry.config, version)
            found[i] = Stored(name, stored.cells, *known, stored.group, stored.name)
    return found


def _pieces(group, name):
    """A list of texts; a long one is stored in pieces, name0, name1 and so on."""
    texts, i = group.texts(name) or [], 0
    while (piece := group.texts(f"{name}{i}")) is not None:
        texts, i = texts + piece, i + 1
    return texts


# -- arrays under names


def cells_of_names(arrays):
    """Path -> dict of a cell, of those paths that hold a recurrent kernel."""
    cells = {}
    for key, array in arrays.items():
        path, _, role = key.rpartition("/")
        role = role.removesuffix(":0")
        if role in ROLES:
            cells.setdefault(path, {})[role] = (key, array)
    return {path: cell for path, cell in cells.items() if "recurrent_kernel" in cell}


def layers_of(cells):
    """[(path of a layer, its cells, whether it is bidirectional)] of cells by their paths."""
    layers = {}
    for path in cells:
        parts = path.split("/")
        if re.search(r"cell(_\d+)?$", parts[-1]):
            parts.pop()
        is_stack = bool(parts) and parts[-1].startswith("stacked_rnn_cells")
        if is_stack:
            parts.pop()
        is_way = bool(parts) and re.match("forward_|backward_", parts[-1])
        way = parts.pop().partition("_")[0] if is_way else ("stack" if is_stack else "")
        layers.setdefault("/".join(parts), {}).setdefault(way, []).append(path)
    found = []
    for layer, ways in layers.items():
        if ways.keys() == {"forward", "backward"} and len(ways["forward"]) == len(ways["backward"]) == 1:
            found.append((layer, [cells[ways[way][0]] for way in ("forward", "backward")], True))
        elif ways.keys() == {"stack"}:
            found.append((layer, [cells[path] for path in ways["stack"]], False))
        elif len(paths := [path for own in ways.values() for path in own]) == 1:
            found.append((layer, [cells[paths[0]]], False))
        else:  # cells that nothing holds together, as far as one can see
            found += [(path, [cells[path]], False) for path in paths]
    return found
