"""What multiplies by one kernel, adds a bias and applies an activation: Dense, and a convolution's windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgru import kernels
from cgru.layers.base import check_gradient
from cgru.layers.rows import valid_rows
from cgru.layers.stateless import Stateless
from cgru.typing import Array

# Codes of kernels/activations.pxd, and of kernels/jobs.pxd for what runs over a row.
ACTIVATIONS = {"linear": 3, "relu": 2, "sigmoid": 0, "softmax": 6, "tanh": 1}


class Affine(Stateless):
    """Base class of layers with a `kernel` whose last axis is that of the outputs, and a `bias` or none."""

    activation: str
    dtype: np.dtype[Any]
    _prepared: kernels.DenseHandle | None = None

    def _changed(self) -> None:
        self._prepared = None

    def _ready(self) -> kernels.DenseHandle:
        """What inference reads of the parameters, all of one moment; made once and dropped when they change."""
        prepared = self._prepared
        if prepared is None or prepared.backend not in (None, kernels.get_backend()):
            with self._lock:
                prepared = self._prepared = self._handle(packed=True)
        return prepared

    def _handle(self, packed: bool) -> kernels.DenseHandle:
        parameters = self._built_parameters()
        kernel = parameters["kernel"]
        return kernels.DenseHandle(
            kernel.reshape(-1, kernel.shape[-1]), parameters.get("bias"), ACTIVATIONS[self.activation], packed,
            kernels.get_num_threads(),
        )  # fmt: skip

    def _handle_for(self, training: bool) -> kernels.DenseHandle:
        """For one pass in training the panels would not pay; the kernel keeps its values while the tape holds it."""
        return self._handle(packed=False) if training else self._ready()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_prepared": None}

    def _before_activation(self, d_out: Array, tape: Any) -> Array:
        """The gradient (M, K) of x W + b at the valid steps, from that of the outputs."""
        check_gradient(d_out, (*tape.leading, tape.y.shape[1]))
        if tape.d_penalty is not None:
            d_out = d_out + tape.d_penalty
        d = valid_rows(d_out, tape.valid, self.dtype)
        if self.activation != "linear" and d.size:
            d, d_y = np.empty_like(d), d
            kernels.activation_gradient(tape.y, d_y, d, ACTIVATIONS[self.activation], kernels.get_num_threads())
        return d
