"""What files hold of a layer: its parameters, unless it keeps them in another form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from cgru.layers.parameters import Parameterized
from cgru.typing import AnyArray, Shape


class Stored(Parameterized):
    """The tensors of a layer in a file."""

    @property
    def _digests(self) -> list[str]:
        """Whose states the layer may go on from: the digest of its parameters, and of those that it was made of."""
        return [digest_of(self.parameters)]

    def stored_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape, str]]:
        """Yield (name, shape, what the safetensors format calls the type) of each tensor."""
        for name, shape in self.parameter_shapes(input_size):
            yield name, shape, f"F{8 * (self.dtype or np.dtype(np.float32)).itemsize}"

    def stored(self) -> dict[str, AnyArray]:
        """Return copies of the tensors, dict name -> array; those of "BF16" are the upper halves of float32, uint16."""
        with self._lock:
            return {name: array.copy() for name, array in self._built_parameters().items()}

    def adopt_stored(self, input_size: int | None, tensors: dict[str, AnyArray], where: str = "") -> None:
        """Take the tensors of a file, of the shapes and types for `input_size`; "BF16" has come as float32. `where` is
        what messages have before the names."""
        self._adopt(input_size, tensors)


def digest_of(parameters: Mapping[str, AnyArray]) -> str:
    """The SHA-256 of names, shapes, types and bits, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in parameters.items():
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
