"""Sequences: how tensors of features are batches of the kernels."""

from typing import NamedTuple

import numpy as np
import torch

from cgru import scheduling
from cgru.torch import memory


class Padded(NamedTuple):
    """Tensors (T, N, F), (N, T, F), or (T, F) without rows."""

    N: int
    T: int
    rows: int | None  # the axis of the rows

    @classmethod
    def of(cls, x, batch_first):
        """None where they are empty, or have other axes."""
        shape = x.shape
        if len(shape) not in (2, 3) or 0 in shape:
            return None
        if len(shape) == 2:
            return cls(1, shape[0], None)
        return cls(shape[0], shape[1], 0) if batch_first else cls(shape[1], shape[0], 1)

    @property
    def steps(self):
        return self.N * self.T

    def time_major(self):
        """As many sequences, in tensors (T, N, F) if they have rows."""
        return self if self.rows is None else self._replace(rows=1)

    def plan(self, reverse):
        return scheduling.schedule(self.N, self.T, reverse=reverse)

    def shape(self, features):
        return {None: (self.T, features), 0: (self.N, self.T, features), 1: (self.T, self.N, features)}[self.rows]

    def state(self, cells, units):
        return (cells, units) if self.rows is None else (cells, self.N, units)

    def batch(self, array):
        """(N, T, F), a view."""
        if self.rows is None:
            return array[None]
        return array if self.rows == 0 else array.swapaxes(0, 1)

    def swap(self, tensor):
        """Between a tensor and its (T, N, F), both ways."""
        if self.rows is None:
            return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor.squeeze(1)
        return tensor if self.rows == 1 else tensor.transpose(0, 1)

    def by_torch(self, outputs, x, h0, *arguments):
        """torch.nn.GRU's operation, from tensors as these are to tensors as `outputs` are."""
        y, h = torch.gru(self.swap(x), h0, *arguments, False)
        return outputs.swap(y), h


class Packed(NamedTuple):
    """Tensors (M, F) in the order of a PackedSequence."""

    counts: np.ndarray  # (K,) rows at each step
    sizes: torch.Tensor  # the same

    @classmethod
    def of(cls, packed):
        """None where data and batch sizes do not fit together."""
        sizes = packed.batch_sizes
        if packed.data.dim() != 2 or not memory.is_plain(sizes) or sizes.dtype is not torch.int64 or sizes.numel() == 0:
            return None
        counts = memory.array(sizes).astype(np.intp)
        if counts[-1] < 1 or (counts[1:] > counts[:-1]).any() or counts.sum() != len(packed.data):
            return None
        return cls(counts, sizes)

    @property
    def N(self):
        return int(self.counts[0])

    @property
    def T(self):
        return len(self.counts)

    @property
    def steps(self):
        return int(self.counts.sum())

    def time_major(self):
        return self

    def plan(self, reverse):
        return scheduling.packed_schedule(self.counts, reverse)

    def shape(self, features):
        return (self.steps, features)

    def state(self, cells, units):
        return (cells, self.N, units)

    def batch(self, array):
        return scheduling.packed_view(np.ascontiguousarray(array), self.counts)

    def by_torch(self, outputs, x, h0, *arguments):
        return torch.gru(x, self.sizes, h0, *arguments)
