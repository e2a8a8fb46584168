"""The safetensors format, read with NumPy alone from files of any origin.

A file is the length of the header in 8 bytes, the header in JSON (type, shape and place of every tensor, and texts
under "__metadata__") and the bytes of the tensors (https://huggingface.co/docs/safetensors).

The header is limited before it is read, and its tensors must cover the rest of the file exactly: what a file can make
us allocate is in proportion to its own length.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from cgru.reading import looks_like, parse_json, short
from cgru.typing import AnyArray

MAX_HEADER = 100_000_000  # the format's own limit, in bytes
_MAX_DIMENSIONS = 32  # of NumPy's arrays before 2.0

_DTYPES = {
    "BOOL": "|u1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
# The small floating-point types of the format, which NumPy does not have: F4, F6_E2M3, F8_E4M3, F8_E5M2FNUZ, ...
_NOT_IN_NUMPY = re.compile(r"F([468])(?:_E\d+M\d+[A-Z]*)?")


class Entry(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # of its bytes, counted from the end of the header
    end: int


class Unreadable:
    """Stands for a tensor of a type that NumPy does not have; a ValueError says so where somebody wants its numbers."""

    def __init__(self, name: str, entry: Entry) -> None:
        self.name, self.dtype, self.shape = name, entry.dtype, entry.shape

    def __repr__(self) -> str:
        return f"<tensor of type {short(self.dtype)}, shape {self.shape}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise self.error()

    def error(self) -> ValueError:
        return ValueError(
            f"{short(self.name)}: expected a dtype among {', '.join(_DTYPES)}, got {short(self.dtype)!r}, which NumPy "
            "does not have; the other tensors of the file can be read"
        )


class Tensors(dict[str, Any]):
    """dict of str to ndarray; a tensor of a type that NumPy does not have is refused when it is asked for."""

    def __getitem__(self, name: str) -> AnyArray:
        return self._readable(super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self._readable(super().get(name, default))

    def pop(self, name: str, *default: Any) -> Any:
        self._readable(super().get(name))
        return super().pop(name, *default)

    @staticmethod
    def _readable(value: Any) -> Any:
        if isinstance(value, Unreadable):
            raise value.error()
        return value


# -- the header


def read_header(file: BinaryIO) -> tuple[dict[str, Entry], dict[str, str], str]:
    """Return (dict name -> Entry in the order of the bytes, dict of the metadata, hash of the header)."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(min(size, 256))
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise ValueError(_no_header(start, length, size))
    file.seek(8)
    try:
        header = parse_json(file.read(length).decode(), "header")
        if not isinstance(header, dict):
            raise ValueError(f"header: expected a JSON object, got {type(header).__name__}")
    except ValueError as error:
        raise ValueError(f"not a safetensors file, or damaged: {error}") from None
    header_hash = hash_of(header)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"__metadata__: expected an object of texts, got {short(metadata)}")
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


def _no_header(start: bytes, length: int, size: int) -> str:
    """What is wrong with a file that begins in this way and has no header of the length that it says."""
    if size < 8:
        return f"not a safetensors file: expected 8 bytes and a header, got {size} bytes: truncated, or empty"
    if start[8:9] != b"{":  # which a header begins with
        seen = looks_like(start)
        return "not a safetensors file" + (f"; it looks like {seen}" if seen else "")
    if length > size - 8:
        return f"expected 8 bytes and a header of {length}, got {size} bytes: truncated, or no safetensors file"
    return f"expected a header of at most {MAX_HEADER} bytes, got one of {length}: no safetensors file"


def hash_of(header: Mapping[str, Any]) -> str:
    """SHA-256 of all that the header says but this hash: of its JSON without blanks, names in order."""
    metadata = header.get("__metadata__", {})
    if isinstance(metadata, dict):
        metadata = {name: text for name, text in metadata.items() if name != "header_sha256"}
    text = json.dumps({**header, "__metadata__": metadata}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: expected an object of dtype, shape and data_offsets, got {short(value)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    bits = _bits_of(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise ValueError(f"{name}: expected a dtype among {', '.join(_DTYPES)}, got {short(dtype)!r}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{name}: expected a shape of at most {_MAX_DIMENSIONS} sizes, got {short(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name}: expected two data_offsets, got {short(offsets)}")
    wanted, got = math.prod(shape) * bits, offsets[1] - offsets[0]
    if wanted != 8 * got:
        raise ValueError(
            f"{name}: expected {short(-(-wanted // 8))} bytes for shape {short(shape)} of {dtype}, got {got}"
        )
    return Entry(dtype, tuple(shape), *offsets)


def name_of(dtype: np.dtype[Any]) -> str:
    """What the format calls a type of NumPy's."""
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _bits_of(dtype: str) -> int | None:
    """Of an element of a type of the format; None where it has no such type."""
    if dtype in _DTYPES:
        return 8 * np.dtype(_DTYPES[dtype]).itemsize
    match = _NOT_IN_NUMPY.fullmatch(dtype)
    return int(match[1]) if match else None


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


# -- bytes


def read_tensors(file: Any, table: Mapping[str, Entry], digest: Any = None) -> Tensors:
    """Return `Tensors`, in the machine's byte order; `digest` is updated with the bytes. The file stands at the end of
    its header."""
    tensors = Tensors()
    for name, entry in table.items():
        if entry.dtype not in _DTYPES:
            file.seek(entry.end - entry.begin, os.SEEK_CUR)
            tensors[name] = Unreadable(name, entry)
            continue
        data = np.empty(entry.end - entry.begin, np.uint8)
        if file.readinto(data) != len(data):
            raise ValueError(f"{name}: expected {len(data)} bytes, got fewer: the file became shorter")
        if digest is not None:
            digest.update(data)
        array = data.view(_DTYPES[entry.dtype])
        if entry.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32
        elif entry.dtype == "BOOL":
            array = array != 0
        tensors[name] = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(entry.shape)
    return tensors
