"""What Keras stores of its GRUs, found in files and in mappings of names to arrays. Neither Keras nor TensorFlow is
imported."""

import io
import re
import zipfile
from collections import Counter

from cgru.convert.arrays import some
from cgru.convert.hdf5 import SIGNATURE, Group, allowance, open_hdf5
from cgru.convert.keras_layouts import Stored, cells_of_names, of_legacy, of_tree
from cgru.reading import errors_name, looks_like, parse_json, short

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def choose(found, name, where):
    """The one of these `Stored` that `name` reaches, or the only one; ValueError if there is none or a choice.

    A name reaches a layer by itself or with those of the layers around it: "gru", "encoder/gru".
    """
    if not found:
        raise ValueError(f"{where}: expected a GRU, got none")
    chosen = found
    if name is not None:
        ways = (
            lambda stored: stored.name == name,
            lambda stored: stored.name.endswith(f"/{name}"),
            lambda stored: name in (stored.group, stored.own_names),
            lambda stored: stored.own_names.endswith(f"/{name}"),
            lambda stored: f"/{name}/" in f"/{stored.name}/",  # of a layer around it
        )
        chosen = next(filter(None, ([stored for stored in found if reaches(stored)] for reaches in ways)), [])
    if len(chosen) != 1:
        names = _telling_names(found)
        text = f"{names}" if len(names) <= 50 else f"{names[:50]} and {len(names) - 50} more"
        raise ValueError(f"name: expected one of {text}, for the GRUs of {where}, got {name!r}")
    if chosen[0].missing:
        raise ValueError(f"{chosen[0].missing}, in {where}")
    return chosen[0]


def _telling_names(found):
    """A name of each that reaches no other: its own, or where several share that, a path in the file."""
    counts = Counter(stored.name for stored in found)
    return [short(stored.name if counts[stored.name] == 1 else stored.group or stored.name) for stored in found]


# -- arrays under names


def from_names(arrays, name=None):
    """The `Stored` of a mapping of names such as "gru/gru_cell/kernel:0", or "kernel" alone, to arrays."""
    cells = cells_of_names({key: array for key, array in arrays.items() if array is not None})
    if not cells:
        raise ValueError(f"weights: expected kernel, recurrent_kernel and bias, got {some(arrays)}")
    if name is not None:
        chosen = {path: cell for path, cell in cells.items() if name == path or f"/{name}/" in f"/{path}/"}
        if not chosen:
            raise ValueError(f"name: expected a part of one of {list(cells)}, got {name!r}")
        cells = chosen
    bidirectional = _is_bidirectional(cells)
    if len(cells) > 1 and not bidirectional and not all("stacked_rnn_cells" in path for path in cells):
        raise ValueError(f"name: expected a part of one of {list(cells)}, for there is more than one GRU, got {name!r}")
    return Stored(name or next(iter(cells)), list(cells.values()), bidirectional)


def _is_bidirectional(paths):
    directions = [re.findall(r"(?:^|/)(forward|backward)_", path) for path in paths]
    return len(directions) == 2 and [d[-1:] for d in directions] == [["forward"], ["backward"]]


# -- files


def from_file(file, where):
    """(the `Stored` of each GRU in an open file, the `Parts` of the model that it holds). Arrays are read from it when
    somebody asks for them.

    Raises
    ------
    ValueError
        If it is none of Keras' files, or damaged.
    """
    with errors_name(where):
        start, size = file.read(256), file.seek(0, io.SEEK_END)
        config = version = None
        if start.startswith(b"PK"):
            config, version, file, size = _of_archive(file, size)
        elif not start.startswith(SIGNATURE):
            seen = f": {looks_like(start)}" if looks_like(start) else ""
            raise ValueError(f"expected a .keras, .weights.h5 or .h5 file, got another format{seen}")
        store = open_hdf5(file, size, where)
        if config is not None:
            return of_tree(store, config, version)
        version, config = _version(store.text("keras_version")), store.text("model_config")
        if config is not None:
            return of_legacy(store.below("model_weights", Group), parse_json(config, "model_config"), version)
        is_legacy = store.texts("layer_names") or store.texts("layer_names0")
        return of_legacy(store, None, version) if is_legacy else of_tree(store, None, version)


# -- archives


def _of_archive(file, size):
    """(config, version of Keras, file of the weights, its size) of a .keras archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            for name in (_CONFIG, _WEIGHTS):
                if name not in names:
                    raise ValueError(f"expected {name} in the archive, got {some(names)}")
            config = _member(archive, _CONFIG, allowance(size, 1 << 20))
            metadata = _member(archive, _METADATA, allowance(size, 1 << 20)) if _METADATA in names else b"{}"
            weights = _member(archive, _WEIGHTS, allowance(size))
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # the library raises almost anything about a damaged archive
        raise ValueError(f"the archive is damaged: {short(error)}") from None
    metadata = parse_json(metadata, _METADATA)
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return parse_json(config, _CONFIG), _version(version), io.BytesIO(weights), len(weights)


def _member(archive, name, limit):
    """The bytes of a member, at most so many."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack in steps of any size
        raise ValueError(f"{name}: expected a member that is stored or deflated, got compression {info.compress_type}")
    if info.file_size > limit:
        raise ValueError(f"{name}: expected what an archive of this size can hold, got {info.file_size} bytes")
    with archive.open(info) as member:
        data = member.read(limit + 1)
    if len(data) != info.file_size:
        raise ValueError(f"{name}: expected {info.file_size} bytes, got {len(data)}: damaged")
    return data


def _version(text):
    """The version of Keras, or None where the file names none."""
    return text if isinstance(text, str) and re.match(r"\d{1,4}(\.|$)", text, re.ASCII) else None
