"""Models: their modules replaced, restored, frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from cgru.torch.modules import GRU, GRUCell
from cgru.torch.weights import Kept

Module = TypeVar("Module", bound=torch.nn.Module)

_OURS = {torch.nn.GRU: GRU, torch.nn.GRUCell: GRUCell}
_THEIRS = {GRU: torch.nn.GRU, GRUCell: torch.nn.GRUCell}


def replace_gru(model: Module) -> Module:
    """Make every torch.nn.GRU and GRUCell in a model, or the model itself, a `GRU` or `GRUCell` of this module, in
    place, and return the model.

    Modules stay the same objects, with their parameters, hooks and mode, so optimizers and references go on as they
    were. Subclasses of torch.nn.GRU and GRUCell are left alone, parametrized ones (torch.nn.utils.parametrize) among
    them: they may compute something else.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module.
    ValueError
        If there is no torch.nn.GRU or GRUCell in it, nor one that was replaced before.

    Examples
    --------
    >>> import cgru.torch, torch
    >>> model = torch.nn.ModuleDict({"gru": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 2)})
    >>> type(cgru.torch.replace_gru(model)["gru"])
    <class 'cgru.torch.GRU'>
    """
    for module in _find(model, lambda module: type(module) in _OURS or isinstance(module, (GRU, GRUCell)), "torch.nn"):
        if type(module) in _OURS:
            module.__class__ = _OURS[type(module)]
    return model


def restore_gru(model: Module) -> Module:
    """Undo `replace_gru` and `freeze`, in place, and return the model.

    For tools that know torch.nn.GRU by its very type (torch.jit.script, torch.fx, quantize_dynamic), and before a model
    is pickled for somebody who has no cgru.

    Raises
    ------
    TypeError, ValueError
        As `replace_gru`, if there is no `GRU` or `GRUCell` of this module in the model.
    """
    for module in _find(model, lambda module: type(module) in _THEIRS, "cgru.torch"):
        module.__dict__.pop("_kept", None)
        module.__dict__.pop("_step", None)
        module.__class__ = _THEIRS[type(module)]
    return model


def freeze(model: Module) -> Module:
    """Let every `GRU` and `GRUCell` of this module in a model keep its packed weights from call to call, and return the
    model.

    For inference with weights that stay as they are. What is kept serves calls in evaluation mode that record no
    gradients of the weights: under torch.no_grad or inference_mode, or after `requires_grad_(False)`. It is made by the
    first such call, and dropped

    * when a parameter looks different: after load_state_dict, `.to(dtype)`, another tensor in its place, and whatever
      PyTorch counts as an in-place operation;
    * by every other call, in training mode or for gradients of the weights. These pack for themselves, as always, so
      that a frozen model may be trained, only not faster;
    * by `freeze`, to be called again after a change that PyTorch does not count: through `.data`, a NumPy view, shared
      memory, or sharded weights (FSDP).

    Copies and pickles of a frozen module are frozen, and make their own.

    Raises
    ------
    TypeError, ValueError
        As `restore_gru`.
    """
    for module in _find(model, lambda module: isinstance(module, (GRU, GRUCell)), "cgru.torch"):
        module._kept = Kept()
        module.__dict__.pop("_step", None)
    return model


def unfreeze(model: Module) -> Module:
    """Undo `freeze`: no call relies any more on weights to stay as they are. Return the model; errors as there."""
    for module in _find(model, lambda module: isinstance(module, (GRU, GRUCell)), "cgru.torch"):
        module.__dict__.pop("_kept", None)
        module.__dict__.pop("_step", None)
    return model


def _find(model: torch.nn.Module, wanted: Callable[[torch.nn.Module], bool], package: str) -> list[Any]:
    """The modules of a model that are `wanted`."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [module for module in model.modules() if wanted(module)]
    if not found:
        raise ValueError(
            f"model: expected a {package}.GRU or GRUCell, or a model that has one, got a {type(model).__name__} without"
        )
    return found
