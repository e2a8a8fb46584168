"""Layers and models in files, in the safetensors format.

Our texts in the header are what `_REQUIRED` lists: the configuration, and one hash of the tensors' bytes and one of
everything else; where training may go on, its state (models/checkpoints.py), with tensors of its own; and of small
weights the digests of those that they were made of, by which snapshots of streams know them.

Reading trusts nothing. `safetensors` bounds what a file can make us allocate, and the configuration must ask for just
the tensors that are there before anything is built. Nothing in a file is executed, and its hashes tell damage, not
forgery.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from cgru import safetensors
from cgru._version import __version__
from cgru.checks import check_bool, check_int, model_text
from cgru.layers import Layer
from cgru.layers.quantized import Quantized
from cgru.models import LAYERS, MODELS, Model, Seq2Seq, Sequential, checkpoints
from cgru.reading import check_path, errors_name, open_regular, parse_json, short
from cgru.typing import AnyArray, LayerOrModel, Path
from cgru.writing import replace_file

__all__ = ["load", "load_tensors", "save"]

_FORMAT = "cgru"
_VERSIONS = ("1", "2")  # of files without and with a state of training, which readers of the first would not know
_REQUIRED = ("format_version", "cgru_version", "class", "config", "input_size", "sha256", "header_sha256")


# -- public


def save(model: Layer | Sequential | Seq2Seq, path: Path, training_state: bool = False) -> None:
    """Write a layer or a model to a file.

    Whatever happens on the way, there is afterwards the old file or the whole new one: the bytes go to a temporary file
    beside it, which then takes its name. The new file has the permissions that any new file gets. Of a symbolic link,
    the target is replaced.

    Parameters
    ----------
    model : a layer, Sequential or Seq2Seq
        It must be built. Subclasses are refused: `load` would not find them.
    path : str or os.PathLike
        Any name will do; ".safetensors" is the custom.
    training_state : bool
        Whether the file also holds what training needs to go on as if it had never ended: what `compile` chose, the
        state of the optimizer, the states of stateful layers, the seed, and of the last `fit` the history, how far it
        has come and the states of its callbacks. ``load(path).fit(..., resume=True)`` goes on.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, or there are more tensors than a header holds (some 800,000); with
        `training_state`, if it is no model, or its optimizer, loss or metrics are classes of one's own.
    RuntimeError
        If the model has no parameters yet; with `training_state`, if `compile` was not called.
    OSError
        If the file cannot be written, or `path` exists and is no regular file: a folder, a device, a FIFO.

    Notes
    -----
    A file holds the parameters, bit for bit, and what `get_config` returns; all else only with `training_state`.
    Without it a loaded model predicts at once; call `compile` before it trains further, with an optimizer that starts
    afresh.

    Other programs read the tensors with any safetensors library, under the names of `parameters`. Small weights
    (`cgru.quantize`) are tensors of F16, BF16 or I8, these with the scales in a "kernel_scale" beside each.

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
    check_saving(model, check_bool(training_state, "training_state"))
    path = check_path(path)
    if isinstance(model, Model):
        model._check_built()
    parts = _parts(model, _input_sizes(model))
    tensors = {prefix + name: array for prefix, layer, _ in parts for name, array in layer.stored().items()}
    types = {prefix + name: dtype for prefix, layer, size in parts for name, _, dtype in layer.stored_shapes(size)}
    state: dict[str, AnyArray] = {}
    training = None
    if training_state and isinstance(model, (Sequential, Seq2Seq)):
        training = json.dumps(checkpoints.packed(checkpoints.state_of(model), state), allow_nan=False)
    tensors |= state
    # The order of the safetensors library: the widest type first, so that all are aligned, then by name.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    arrays = [np.asarray(tensors[name], tensors[name].dtype.newbyteorder("<"), order="C") for name in names]
    header: dict[str, Any] = {"__metadata__": _metadata(model, arrays, parts, training)}
    begin = 0
    for name, array in zip(names, arrays, strict=True):
        end = begin + array.nbytes
        dtype = types.get(name) or safetensors.name_of(array.dtype)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
        begin = end
    header["__metadata__"]["header_sha256"] = safetensors.hash_of(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > safetensors.MAX_HEADER:
        limit = safetensors.MAX_HEADER
        raise ValueError(f"model: expected a header of at most {limit} bytes, got {len(text)}: too many tensors")
    replace_file(path, [len(text).to_bytes(8, "little"), text, *arrays])


def check_saving(model: Layer | Sequential | Seq2Seq, training_state: bool = False) -> None:
    """Raise what `save` would raise because of what the model is, before anything is written."""
    _check_model(model)
    if training_state:
        if not isinstance(model, (Sequential, Seq2Seq)):
            got = f"a layer by itself, {type(model).__name__}"
            raise TypeError(f"training_state: expected a Sequential or Seq2Seq, got {got}")
        checkpoints.check(model)


def load(path: Path) -> LayerOrModel:
    """Return the layer or model that `save` wrote.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    layer, Sequential or Seq2Seq
        Built, with the parameters of the saved one, bit for bit; compiled, if the file has a state of training. See
        `save` for what a file does not hold.

    Raises
    ------
    TypeError
        If `path` is neither a str nor an os.PathLike.
    ValueError
        If the file is not one of `save`'s, or is truncated, altered or of a later format; the message says what is
        wrong with it.
    OSError
        If the file cannot be read, or is no regular one.
    """
    path = check_path(path)
    with open_regular(path) as file, errors_name(path):
        table, metadata, header_hash = safetensors.read_header(file)
        _check_metadata(metadata)
        altered = "the header was altered: its SHA-256 is not the one that it names"
        try:
            model = _unbuilt(metadata["class"], parse_json(metadata["config"], "config"))
            parts = _parts(model, parse_json(metadata["input_size"], "input_size"))
            training = parse_json(metadata["training"], "training") if "training" in metadata else None
            made_of = _made_of(parts, parse_json(metadata.get("made_of", "null"), "made_of"))
            own = {name for name in table if training is not None and name.startswith(checkpoints.PREFIX)}
            _check_table(parts, {name: entry for name, entry in table.items() if name not in own})
        except (TypeError, ValueError) as error:
            if metadata["header_sha256"] == header_hash:
                raise
            raise ValueError(f"{altered}; {error}") from None
        if metadata["header_sha256"] != header_hash:
            raise ValueError(altered)
        digest = hashlib.sha256()
        tensors = safetensors.read_tensors(file, table, digest)
        if digest.hexdigest() != metadata["sha256"]:
            raise ValueError("the tensors were altered: their SHA-256 is not the one that the header names")
        for (prefix, layer, size), digest_of in zip(parts, made_of, strict=True):
            layer.adopt_stored(size, {name: tensors[prefix + name] for name, *_ in layer.stored_shapes(size)}, prefix)
            if digest_of is not None:
                layer._made_of = digest_of
        if training is not None:
            if not isinstance(model, (Sequential, Seq2Seq)):
                got = type(model).__name__
                raise ValueError(f"training: expected a Sequential or Seq2Seq, which is trained, got {got}")
            checkpoints.restore(model, checkpoints.unpacked(training, {name: tensors[name] for name in own}))
    return model


def load_tensors(path: Path) -> dict[str, AnyArray]:
    """Return the tensors of any safetensors file, whoever wrote it: dict name -> array.

    What a converter takes: ``cgru.from_torch(cgru.files.load_tensors("model.safetensors"))``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    dict of str to ndarray
        In the order of their bytes in the file. bfloat16 widens to float32, which is exact. A tensor of a type that
        NumPy does not have, such as F8_E4M3, is refused when it is asked for; in `items` and `values` something stands
        for it that can be made no array.

    Raises
    ------
    TypeError
        If `path` is neither a str nor an os.PathLike.
    ValueError
        If the file is not in the format; and when a tensor is asked for whose type NumPy does not have.
    OSError
        If the file cannot be read, or is no regular one.
    """
    path = check_path(path)
    with open_regular(path) as file, errors_name(path):
        table, _, _ = safetensors.read_header(file)
        return safetensors.read_tensors(file, table)


# -- the model and its texts


def _check_model(model: Layer | Model) -> None:
    if type(model) not in (*LAYERS.values(), *MODELS.values()):
        names = ", ".join([*LAYERS, *MODELS])
        raise TypeError(f"model: expected one of {names} (subclasses cannot be saved), got {model_text(model)}")
    for i, layer in enumerate(getattr(model, "layers", ())):
        if type(layer) not in LAYERS.values():
            name = type(layer).__name__
            raise TypeError(f"model: expected layers among {', '.join(LAYERS)}, got {name} at index {i}")
    for i, layer in enumerate(getattr(model, "layers", (model,))):
        for option, value in layer.get_config().items():
            strange = _not_in_json(value)
            if strange is not None:
                kind = option.rpartition("_")[2]
                raise TypeError(
                    f"model: expected options that a file can hold, got {strange!r} as {option} of layer {i} "
                    f"({type(layer).__name__}): give it by its name or as an object of cgru.{kind}s; "
                    f"with_options({option}=...) changes it and keeps the weights"
                )


def _not_in_json(value: Any) -> Any:
    """Something in an option's value that JSON cannot hold: a function, or an object of the user's class; else None."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((found for found in map(_not_in_json, value) if found is not None), None)
    return None if value is None or isinstance(value, (str, int, float)) else value


def _metadata(model: Layer | Model, arrays: Sequence[AnyArray], parts: _Parts, training: str | None) -> dict[str, str]:
    made_of = [layer._made_of if isinstance(layer, Quantized) else None for _, layer, _ in parts]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data if array.size else b"")
    return {
        "format": _FORMAT,
        "format_version": _VERSIONS[training is not None],
        "cgru_version": __version__,
        "class": type(model).__name__,
        "config": json.dumps(model.get_config(), allow_nan=False),
        "input_size": json.dumps(_input_sizes(model)),
        "sha256": digest.hexdigest(),
        **({} if training is None else {"training": training}),
        **({"made_of": json.dumps(made_of)} if any(made_of) else {}),
    }


def _input_sizes(model: Layer | Model) -> Any:
    return [layer.input_size for layer in model.layers] if isinstance(model, Model) else model.input_size


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        got = repr(short(metadata["format"])) if "format" in metadata else "none"
        raise ValueError(
            f"metadata: expected the format {_FORMAT!r}, as cgru.save writes it, got {got}. There are tensors, but "
            "nothing tells what they are: cgru.files.load_tensors returns them, for a converter such as cgru.from_torch"
        )
    missing = [name for name in _REQUIRED if name not in metadata]
    if missing:
        raise ValueError(f"metadata: expected {', '.join(_REQUIRED)}, got none of {', '.join(missing)}")
    if metadata["format_version"] not in _VERSIONS:
        version, writer = short(metadata["format_version"]), short(metadata["cgru_version"])
        raise ValueError(
            f"metadata: expected format_version {' or '.join(_VERSIONS)}, got {version}, written by cgru {writer}; "
            f"this is cgru {__version__}"
        )


def _unbuilt(name: str, config: Any) -> Layer | Model:
    """Return the model of a configuration; it has no parameters, and takes no more memory than the text of it."""
    classes: dict[str, Any] = {**LAYERS, **MODELS}
    if name not in classes:
        raise ValueError(f"class: expected one of {', '.join(classes)}, got {short(name)!r}")
    made: Layer | Model = classes[name].from_config(config)
    return made


_Parts: TypeAlias = list[tuple[str, Any, int | None]]


def _parts(model: Layer | Model, sizes: Any) -> _Parts:
    """Return [(what the names of its tensors begin with, layer, its number of input features or None)]."""
    if not isinstance(model, Model):
        parts, sizes = [("", model)], [sizes]
    else:
        parts = [(f"{own}.", layer) for own, layer in zip(model._names, model.layers, strict=True)]
    if not isinstance(sizes, list) or len(sizes) != len(parts):
        raise ValueError(f"input_size: expected one for each of {len(parts)} layers, got {short(sizes)}")
    return [
        (prefix, layer, None if size is None else check_int(size, "input_size", 1))
        for (prefix, layer), size in zip(parts, sizes, strict=True)
    ]


def _made_of(parts: _Parts, found: Any) -> list[str | None]:
    """For each layer the digest that a file names of what its small weights were made of, or None."""
    if found is None:
        return [None] * len(parts)
    if isinstance(found, list) and len(found) == len(parts):
        pairs = zip(parts, found, strict=True)
        if all(one is None or (isinstance(one, str) and isinstance(layer, Quantized)) for (_, layer, _), one in pairs):
            return found
    raise ValueError(f"made_of: expected for each layer with small weights a digest, else null, got {short(found)}")


def _check_table(parts: _Parts, table: Mapping[str, safetensors.Entry]) -> None:
    """ValueError unless the tensors are exactly those of the layers; stops at the first that is not there."""
    left = set(table)
    for prefix, layer, size in parts:
        for suffix, shape, dtype in layer.stored_shapes(size):
            name = prefix + suffix
            if name not in table:
                raise ValueError(f"expected a tensor {name!r} of shape {shape}, as the configuration has it, got none")
            if table[name].shape != shape or table[name].dtype != dtype:
                got = f"{table[name].shape} of {table[name].dtype}"
                raise ValueError(f"{name}: expected shape {shape} of {dtype}, as the configuration has it, got {got}")
            left.remove(name)
    if left:
        raise ValueError(f"expected the tensors of the configuration and no others, got {min(left)!r} as well")
