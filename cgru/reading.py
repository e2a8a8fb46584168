"""How files are read that anybody may have written: without blocking, without trust, and with errors that name them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from cgru.typing import Path

_MAX_DIGITS = 1000  # of an integer: a seed may be long

# What a file begins with, and what it then is.
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras' .h5"),
    (b"\x93NUMPY", "an array of NumPy, .npy"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file: fetch it with git lfs pull"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program"),
    (b"<", "HTML or XML: an error page that was downloaded in place of the file?"),
    (b"{", "JSON without a header's length before it"),
)


def check_path(path: Path, name: str = "path") -> str:
    """Return `path` as a str; TypeError or ValueError where it is none, or cannot be the name of a file."""
    try:
        checked = os.fspath(path)
    except TypeError:
        checked = None
    if not isinstance(checked, str):
        raise TypeError(f"{name}: expected a str or os.PathLike, got {type(path).__name__}")
    if not checked:
        raise ValueError(f"{name}: expected the name of a file, got an empty one")
    if "\0" in checked:
        raise ValueError(f"{name}: expected the name of a file, got one with a null character in it")
    return checked


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading, in binary; OSError for all else that can have a name.

    Opening a FIFO would wait for its writer, and opening a device may act on it: neither is opened to find out.
    """
    require_regular(os.stat(path), path)
    # What has the name may be exchanged between the two calls, hence not blocking, and a second look.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    try:
        require_regular(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def require_regular(status: os.stat_result, path: str) -> None:
    """OSError unless this status of `path` is that of a regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "exists and is no regular file but a folder", path)
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "exists and is no regular file", path)


def looks_like(data: bytes) -> str | None:
    """What these first bytes of a file look like, in words; None where they look like nothing known."""
    if not data:
        return "an empty file"
    if data.startswith(b"PK\x03\x04"):
        first = data[30 : 30 + int.from_bytes(data[26:28], "little")]  # the name of the archive's first member
        if first.endswith((b".pkl", b"/byteorder", b"/.format_version")):
            return "PyTorch's .pt: give cgru.from_torch the state_dict that torch.load(path, weights_only=True) returns"
        if first.endswith(b".npy"):
            return "arrays of NumPy, .npz"
        if first in (b"metadata.json", b"config.json", b"model.weights.h5"):
            return "a .keras file: cgru.from_keras reads it"
        return "a zip archive"
    if data[:1] == b"\x80" and data[1:2] in b"\2\3\4\5":
        return "a pickle, which would execute what is in it"
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            return what
    return None


# -- errors


@contextlib.contextmanager
def errors_name(path: str) -> Iterator[None]:
    """Turn what a bad file raises into a ValueError that names the file, no longer than a few lines."""
    try:
        yield
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except MemoryError:
        raise ValueError(f"{path}: more than the memory can hold") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {short(error)}") from None


@contextlib.contextmanager
def errors_mention(path: str | None) -> Iterator[None]:
    """Have a ValueError about what stands in a file say in which, at its end, where it does not."""
    try:
        yield
    except ValueError as error:
        if path is None or path in str(error):
            raise
        raise ValueError(f"{error} (in {path})") from None


def short(value: object) -> str:
    """The text of a value, cut after some lines."""
    text = str(value)
    return text if len(text) <= 400 else f"{text[:400]}..."


# -- JSON


def parse_json(text: str, what: str) -> Any:
    """Return the object of a JSON text; no names twice, no NaN, no infinity, and ValueError whatever is wrong."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_int=_limited_int, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError(f"{what}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what}: no valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"expected each name once, got {short(name)!r} again")
        found[name] = value
    return found


def _limited_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"expected integers of at most {_MAX_DIGITS} digits, got one of {len(text)}")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, got {text}")
    return number
