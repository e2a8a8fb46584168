"""Tensors as arrays: which of them are plain memory, and that memory in NumPy's hands."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cgru.typing import AnyArray

_TYPES = (torch.Tensor, torch.nn.Parameter)


def is_plain(tensor: Any) -> bool:
    """Whether a tensor is numbers in the CPU's memory, and nothing else."""
    return (
        type(tensor) in _TYPES
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
    )


def array(tensor: torch.Tensor) -> AnyArray:
    """The NumPy array of a plain tensor's memory, to be read or written.

    Tensor.numpy() and torch.from_numpy() forbid for good that the storage is resized; this does not. The array is
    therefore for the time of a call: whoever needs the memory later asks for it again.

    Raises
    ------
    RuntimeError
        If the memory of the tensor was taken away, as FSDP does with weights that are not in use, or if it has none, as
        under vmap.
    """
    if not has_memory(tensor):
        raise RuntimeError(
            f"a tensor of shape {tuple(tensor.shape)} and {tensor.dtype} has lost its memory: its storage holds "
            f"{tensor.untyped_storage().nbytes()} bytes. Was it resized or freed?"
        )
    return np.from_dlpack(_Exporter(torch._C._to_dlpack_versioned(tensor)))


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether the storage of a tensor reaches to its end."""
    if tensor.is_contiguous():
        elements = tensor.numel()
    else:
        elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = (tensor.storage_offset() + elements) * tensor.itemsize
    return elements == 0 or (tensor.untyped_storage().nbytes() >= end and tensor.data_ptr() != 0)


def records(*tensors: torch.Tensor | None) -> bool:
    """Whether an operation on these, some of them None, is recorded for gradients."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _Exporter:
    """What numpy.from_dlpack takes. Tensors offer the same, but in Python, and not where they require gradients."""

    __slots__ = ("capsule",)

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self.capsule

    def __dlpack_device__(self):
        return 1, 0  # the CPU
