"""Layers and models in files, in the safetensors format, read and written with NumPy alone.

A file is the length of the header in 8 bytes, the header in JSON (type, shape and place of every tensor, and texts
under "__metadata__") and the bytes of the tensors (https://huggingface.co/docs/safetensors). Our texts are what
`_REQUIRED` lists: the configuration, and one hash of the tensors' bytes and one of everything else.

Reading trusts nothing. The header is limited before it is read, its tensors must cover the rest of the file exactly,
and the configuration must ask for just these tensors before anything is built: what a file can make us allocate is in
proportion to its own length. Nothing in it is executed, and its hashes tell damage, not forgery.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
from typing import NamedTuple

import numpy as np

from cgru._version import __version__
from cgru.checks import check_int
from cgru.models import LAYERS, Sequential

_FORMAT, _FORMAT_VERSION = "cgru", "1"
_REQUIRED = ("format_version", "cgru_version", "class", "config", "input_size", "sha256", "header_sha256")

# Room for some 8000 tensors. The objects that JSON becomes take up to 30 times as much.
_MAX_HEADER = 1 << 20
_MAX_DIGITS = 1000  # of an integer: a seed may be long
_MAX_DIMENSIONS = 32  # of NumPy's arrays before 2.0

_DTYPES = {
    "BOOL": "|u1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip


class _Entry(NamedTuple):
    """What the header says of a tensor."""

    dtype: str  # a key of _DTYPES
    shape: tuple
    begin: int  # of its bytes, counted from the end of the header
    end: int


# -- public


def save(model, path):
    """Write a layer or a model to a file.

    Whatever happens on the way, there is afterwards the old file or the whole new one: the bytes go to a temporary file
    beside it, which then takes its name. The new file has the permissions that any new file gets. Of a symbolic link,
    the target is replaced.

    Parameters
    ----------
    model : GRU, Dense, Embedding, Dropout or Sequential
        It must be built. Subclasses are refused: `load` would not find them.
    path : str or os.PathLike
        Any name will do; ".safetensors" is the custom.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, or there are more than some 8000 tensors.
    RuntimeError
        If the model has no parameters yet.
    OSError
        If the file cannot be written.

    Notes
    -----
    A file holds the parameters, bit for bit, and what `get_config` returns. Not saved: what `Sequential.compile` chose
    (optimizer, loss, metrics) with the state of the optimizer, the history, the state of a stateful layer, and how far
    the generators of dropout masks and of the order of examples have come. So a loaded model predicts at once; call
    `compile` before it trains further, with an optimizer that starts afresh.

    Other programs read the tensors with any safetensors library, under the names of `parameters`.

    Examples
    --------
    >>> import os, tempfile, cgru
    >>> layer = cgru.GRU(4, input_size=3, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "gru.safetensors")
    ...     cgru.save(layer, path)
    ...     again = cgru.load(path)
    >>> bool((again.parameters["kernel"] == layer.parameters["kernel"]).all())
    True
    """
    _check_model(model)
    path = _check_path(path)
    tensors = dict(zip(model.parameters, model.get_weights(), strict=True))
    # The order of the safetensors library: the widest type first, so that all are aligned, then by name.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    arrays = [np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<")) for name in names]
    header = {"__metadata__": _metadata(model, arrays)}
    begin = 0
    for name, array in zip(names, arrays, strict=True):
        end = begin + array.nbytes
        dtype = f"F{8 * array.itemsize}"
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
        begin = end
    header["__metadata__"]["header_sha256"] = _header_hash(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"model: expected a header of at most {_MAX_HEADER} bytes, got {len(text)}: too many tensors")
    _replace_file(path, [len(text).to_bytes(8, "little"), text, *arrays])


def load(path):
    """Return the layer or model that `save` wrote.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    GRU, Dense, Embedding, Dropout or Sequential
        Built, with the parameters of the saved one, bit for bit; see `save` for what a file does not hold.

    Raises
    ------
    TypeError
        If `path` is neither a str nor an os.PathLike.
    ValueError
        If the file is not one of `save`'s, or is truncated, altered or of a later format; the message says what is
        wrong with it.
    OSError
        If the file cannot be read.
    """
    path = _check_path(path)
    with open(path, "rb") as file, _errors_name(path):
        table, metadata, header_hash = _read_header(file)
        _check_metadata(metadata)
        if metadata["header_sha256"] != header_hash:
            raise ValueError("the header was altered: its SHA-256 is not the one that it names")
        model = _unbuilt(metadata["class"], _parse(metadata["config"], "config"))
        parts = _parts(model, _parse(metadata["input_size"], "input_size"))
        _check_table(parts, table)
        digest = hashlib.sha256()
        tensors = _read_tensors(file, table, digest)
        if digest.hexdigest() != metadata["sha256"]:
            raise ValueError("the tensors were altered: their SHA-256 is not the one that the header names")
    for prefix, layer, size in parts:
        layer._adopt(size, {name: tensors[prefix + name] for name, _ in layer.parameter_shapes(size)})
    return model


def load_tensors(path):
    """Return the tensors of any safetensors file, whoever wrote it: dict name -> array.

    What a converter takes: ``cgru.from_torch(cgru.files.load_tensors("model.safetensors"))``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    dict of str to ndarray
        In the order of their bytes in the file. bfloat16 widens to float32, which is exact.

    Raises
    ------
    TypeError
        If `path` is neither a str nor an os.PathLike.
    ValueError
        If the file is not in the format, or holds a type that NumPy does not have.
    OSError
        If the file cannot be read.
    """
    path = _check_path(path)
    with open(path, "rb") as file, _errors_name(path):
        table, _, _ = _read_header(file)
        return _read_tensors(file, table)


# -- arguments and errors


def _check_model(model):
    if type(model) not in (*LAYERS.values(), Sequential):
        names = ", ".join([*LAYERS, "Sequential"])
        raise TypeError(f"model: expected one of {names} (subclasses cannot be saved), got {type(model).__name__}")
    for i, layer in enumerate(getattr(model, "layers", ())):
        if type(layer) not in LAYERS.values():
            name = type(layer).__name__
            raise TypeError(f"model: expected layers among {', '.join(LAYERS)}, got {name} at index {i}")


def _check_path(path):
    try:
        checked = os.fspath(path)
    except TypeError:
        checked = None
    if not isinstance(checked, str):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    if not checked:
        raise ValueError("path: expected the name of a file, got an empty one")
    return checked


@contextlib.contextmanager
def _errors_name(path):
    """Turn what a bad file raises into a ValueError that names the file, no longer than a few lines."""
    try:
        yield
    except RecursionError:
        raise ValueError(f"{path}: the header is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {_short(error)}") from None


def _short(value):
    text = str(value)
    return text if len(text) <= 400 else f"{text[:400]}..."


# -- the header


def _parse(text, what):
    """Return the object of a JSON text; no names twice, no NaN, no infinity."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_int=_limited_int, parse_float=_finite, parse_constant=_finite
        )
    except ValueError as error:
        raise ValueError(f"{what}: no valid JSON: {error}") from None


def _unique(pairs):
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"expected each name once, got {_short(name)!r} again")
        found[name] = value
    return found


def _limited_int(text):
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"expected integers of at most {_MAX_DIGITS} digits, got one of {len(text)}")
    return int(text)


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, got {text}")
    return number


def _read_header(file):
    """Return (dict name -> _Entry in the order of the bytes, dict of the metadata, hash of the header)."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"expected 8 bytes and a header of {length}, got {size} bytes: truncated, or no safetensors")
    if length > _MAX_HEADER:
        raise ValueError(f"expected a header of at most {_MAX_HEADER} bytes, got one of {length}")
    header = _parse(file.read(length).decode(), "header")
    if not isinstance(header, dict):
        raise ValueError(f"header: expected a JSON object, got {type(header).__name__}")
    header_hash = _header_hash(header)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"__metadata__: expected an object of texts, got {_short(metadata)}")
    entries = {name: _entry(name, value) for name, value in header.items()}
    table = dict(sorted(entries.items(), key=lambda item: item[1][2:]))
    end = 0
    for name, entry in table.items():
        if entry.begin != end:
            raise ValueError(f"{name}: expected to begin at byte {end}, where the last tensor ends, got {entry.begin}")
        end = entry.end
    if end != size - 8 - length:
        raise ValueError(f"expected {end} bytes of tensors, got {size - 8 - length}: truncated or altered")
    return table, metadata, header_hash


def _header_hash(header):
    """SHA-256 of all that the header says but this hash: of its JSON without blanks, names in order."""
    metadata = header.get("__metadata__", {})
    if isinstance(metadata, dict):
        metadata = {name: text for name, text in metadata.items() if name != "header_sha256"}
    text = json.dumps({**header, "__metadata__": metadata}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(name, value):
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: expected an object of dtype, shape and data_offsets, got {_short(value)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name}: expected a dtype among {', '.join(_DTYPES)}, got {_short(dtype)!r}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{name}: expected a shape of at most {_MAX_DIMENSIONS} sizes, got {_short(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name}: expected two data_offsets, got {_short(offsets)}")
    wanted, got = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize, offsets[1] - offsets[0]
    if wanted != got:
        raise ValueError(f"{name}: expected {_short(wanted)} bytes for shape {_short(shape)} of {dtype}, got {got}")
    return _Entry(dtype, tuple(shape), *offsets)


def _are_counts(values):
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


# -- metadata and the model


def _metadata(model, arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array)
    sizes = [layer.input_size for layer in model.layers] if isinstance(model, Sequential) else model.input_size
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "cgru_version": __version__,
        "class": type(model).__name__,
        "config": json.dumps(model.get_config(), allow_nan=False),
        "input_size": json.dumps(sizes),
        "sha256": digest.hexdigest(),
    }


def _check_metadata(metadata):
    if metadata.get("format") != _FORMAT:
        got = repr(_short(metadata["format"])) if "format" in metadata else "none"
        raise ValueError(
            f"metadata: expected the format {_FORMAT!r}, as cgru.save writes it, got {got}. There are tensors, but "
            "nothing tells what they are: cgru.files.load_tensors returns them, for a converter such as cgru.from_torch"
        )
    missing = [name for name in _REQUIRED if name not in metadata]
    if missing:
        raise ValueError(f"metadata: expected {', '.join(_REQUIRED)}, got none of {', '.join(missing)}")
    if metadata["format_version"] != _FORMAT_VERSION:
        version, writer = _short(metadata["format_version"]), _short(metadata["cgru_version"])
        raise ValueError(
            f"metadata: expected format_version {_FORMAT_VERSION}, got {version}, written by cgru {writer}; "
            f"this is cgru {__version__}"
        )


def _unbuilt(name, config):
    """Return the model of a configuration; it has no parameters, and takes no more memory than the text of it."""
    classes = {**LAYERS, "Sequential": Sequential}
    if name not in classes:
        raise ValueError(f"class: expected one of {', '.join(classes)}, got {_short(name)!r}")
    return classes[name].from_config(config)


def _parts(model, sizes):
    """Return [(what the names of its tensors begin with, layer, its number of input features or None)]."""
    if not isinstance(model, Sequential):
        parts, sizes = [("", model)], [sizes]
    else:
        parts = [(f"{i}.", layer) for i, layer in enumerate(model.layers)]
    if not isinstance(sizes, list) or len(sizes) != len(parts):
        raise ValueError(f"input_size: expected one for each of {len(parts)} layers, got {_short(sizes)}")
    return [
        (prefix, layer, None if size is None else check_int(size, "input_size", 1))
        for (prefix, layer), size in zip(parts, sizes, strict=True)
    ]


def _check_table(parts, table):
    """ValueError unless the tensors are exactly those of the layers; stops at the first that is not there."""
    left = set(table)
    for prefix, layer, size in parts:
        for suffix, shape in layer.parameter_shapes(size):
            name = prefix + suffix
            if name not in table:
                raise ValueError(f"expected a tensor {name!r} of shape {shape}, as the configuration has it, got none")
            dtype = f"F{8 * layer.dtype.itemsize}"
            if table[name].shape != shape or table[name].dtype != dtype:
                got = f"{table[name].shape} of {table[name].dtype}"
                raise ValueError(f"{name}: expected shape {shape} of {dtype}, as the configuration has it, got {got}")
            left.remove(name)
    if left:
        raise ValueError(f"expected the tensors of the configuration and no others, got {min(left)!r} as well")


# -- bytes


def _read_tensors(file, table, digest=None):
    """Return dict name -> array, in the machine's byte order; `digest` is updated with the bytes."""
    tensors = {}
    for name, entry in table.items():
        data = np.empty(entry.end - entry.begin, np.uint8)
        if file.readinto(data) != len(data):
            raise ValueError(f"{name}: expected {len(data)} bytes, got fewer: the file became shorter")
        if digest is not None:
            digest.update(data)
        array = data.view(_DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32
        elif entry.dtype == "BOOL":
            array = array != 0
        tensors[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return tensors


def _replace_file(path, chunks):
    """Write the chunks to a new file that takes the place of `path` when it is whole and on the disk."""
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".cgru-{secrets.token_hex(8)}.tmp")
    # os.open, because only the system knows the process's umask without changing it for other threads.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder):
    """Have the new name on the disk as well, where the system can do that."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some file systems cannot, and the file is there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
