"""Calls of few time steps, which last no longer than finding out how to serve them: what was found out about a module
is kept, and what it depends on is looked at again in every call.
"""

from operator import is_

import torch

from cgru import kernels
from cgru.torch import serving, weights
from cgru.torch.memory import array, has_memory, is_plain, records

_SETTINGS = (
    "num_layers", "bias", "bidirectional", "batch_first", "dropout", "proj_size", "hidden_size", "input_size",
)  # fmt: skip
_OF_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_COMPARED_BYTES = 1 << 18  # of weights that are compared at every step; to read more costs more than is gained
_LONGEST_PAUSE = 64  # calls


class Step:
    """How a module takes few steps.

    A frozen one takes one step by a kernels.Handle over the weights that it keeps. Any other, if its weights are small,
    by one over weights that two calls in a row found the same: they are compared byte by byte at every call, so that no
    way to change them goes unseen. Where they change from call to call, where they are large, and for more than one
    step, PyTorch's operation is the way: packing weights costs many times a step.

    Copies and pickles of a module find out for themselves.
    """

    def __init__(self, module, cells, kept):
        flat = [w for cell in cells for w in cell]
        self.settings = [*map(vars(module).get, _SETTINGS)]
        self.parameters = [*module._parameters]
        self.dtype, self.cells = flat[0].dtype, len(cells)
        self.D, self.H = module.input_size, module.hidden_size
        self.shapes = [w.shape for w in flat]
        self.form = None if kept is None else kept.form(cells, False, torch.get_num_threads())
        self.per_cell = weights.per_cell(flat, len(cells))
        self.both_ways = bool(getattr(module, "bidirectional", False))
        self.small = not self.both_ways and sum(w.nbytes for w in flat) <= _COMPARED_BYTES
        self.contents = self.handle = None  # of small weights: their bytes, and a handle once they stayed the same
        self.pause = self.left = 1  # calls without a look at the weights, after they changed; those that are left

    def __deepcopy__(self, memo):
        return None

    def __reduce__(self):
        return type(None), ()

    def weights(self, module):
        """What a module computes with, where these are its own parameters and its settings are what they were; None
        where they are not."""
        own, parameters = module.__dict__, module._parameters
        if not all(map(is_, map(own.get, _SETTINGS), self.settings)) or [*parameters] != self.parameters:
            return None
        flat = [w for w in parameters.values() if w is not None]
        given = own.get("_flat_weights", flat)  # what torch.nn.GRU passes to its operation; a GRUCell has no such list
        if len(given) != len(self.shapes) or len(flat) != len(given) or not all(map(is_, given, flat)):
            return None
        return flat if flat[0].dtype is self.dtype else None

    def is_of(self, module):
        """Whether another one would come out the same: a frozen module may have other weights by now."""
        return self.form is None and module._kept is None and self.weights(module) is not None

    def find_handle(self, module, flat):
        """A handle over these weights, or None."""
        kept = module._kept
        if kept is None:
            return self._compare(flat) if self.small and self.form is None else None
        if module.training or self.form is None or not kept.holds(self.form):
            return None
        for w, shape, (address, dtype, version) in zip(flat, self.shapes, self.form.looks, strict=True):
            if w.data_ptr() != address or w.dtype is not dtype or w.shape != shape:
                return None
            if (None if w.is_inference() else w._version) != version:
                return None
        return self.form.handle()

    def _compare(self, flat):
        if self.left:
            self.left -= 1
            return None
        contents = self.contents or [None] * len(flat)
        for w, shape, content in zip(flat, self.shapes, contents, strict=True):
            if w.dtype is not self.dtype or w.shape != shape or not (w.is_cpu and w.is_contiguous()) or w.is_neg():
                return None
            address, size = w.data_ptr(), w.untyped_storage().nbytes()
            if not address or size != w.nbytes:  # freed, or a part of something larger
                return None
            if content is not None and not kernels.memory_holds(address, content):
                self.contents = self.handle = None
                self.pause = self.left = min(2 * self.pause, _LONGEST_PAUSE)
                return None
        if self.contents is None:
            self.contents = [array(w).tobytes() for w in flat]
            return None
        if self.handle is None:
            size = len(flat) // self.cells
            cells = [flat[i : i + size] for i in range(0, len(flat), size)]
            self.handle = kernels.Handle(weights.pack(cells, False, torch.get_num_threads()))
            self.pause = 1
        return self.handle


def step_gru(gru, x, hx):
    """(output, h_n) of a GRU that has a `Step`; None where that does not serve, or x has more than few time steps."""
    step = gru._step
    if not _fit(step, x, hx):
        return None
    shape, first, frozen = x.shape, gru.batch_first, gru._kept is not None
    if len(shape) == 3:
        rows, steps = shape[:2] if first else shape[1::-1]
        state = (step.cells, rows, step.H)
    elif len(shape) == 2:
        rows, steps, state = 1, shape[0], (step.cells, step.H)
    else:
        return None
    if 0 in shape or shape[-1] != step.D or (hx is not None and hx.shape != state):
        return None
    if steps > 1 and (frozen or weights.worth_packing(steps, rows, step.per_cell)):
        return None
    flat = step.weights(gru)
    if flat is None:
        return None
    drops = step.cells > 1 and gru.dropout and gru.training
    if steps == 1 and not (drops or step.both_ways or records(x, hx, *flat)):
        handle = step.find_handle(gru, flat)
        h = handle and _advance(handle, x, hx, rows, state)
        if h is not None:
            y = (h if step.cells == 1 else h[-1:]).clone()
            return (y.transpose(0, 1) if first and rows > 1 else y), h
    return None if frozen else _by_torch(gru, flat, x, hx, rows)


def step_cell(cell, x, hx):
    """The next state of a GRUCell that has a `Step`; None where that does not serve."""
    step = cell._step
    if not (step.small or step.form):
        return _cell_by_torch(cell, x, hx)
    if not _fit(step, x, hx):
        return None
    shape = x.shape
    if len(shape) not in (1, 2) or 0 in shape or shape[-1] != step.D:
        return None
    state = (*shape[:-1], step.H)
    if hx is not None and hx.shape != state:
        return None
    flat = step.weights(cell)
    if flat is None or records(x, hx, *flat):
        return None
    handle = step.find_handle(cell, flat)
    return handle and _advance(handle, x, hx, 1 if len(shape) == 1 else shape[0], state)


def _cell_by_torch(cell, x, hx):
    """torch.nn.GRUCell's operation, with the arguments that it would get; None where finding them is its business."""
    if cell._kept is not None or (*cell._parameters,) != _OF_CELL or torch.compiler.is_compiling():
        return None
    if type(x) is not torch.Tensor or type(hx) is not torch.Tensor or x.dim() != 2 or hx.dim() != 2:
        return None
    return torch.gru_cell(x, hx, *map(cell._parameters.get, _OF_CELL))


def learn(module, cells, kept):
    """Keep a `Step` for calls to come, where the parameters are simply those of the module."""
    flat = [w for cell in cells for w in cell]
    registered = [w for w in module._parameters.values() if w is not None]
    if len(registered) == len(flat) and all(map(is_, registered, flat)):
        module._step = Step(module, cells, kept)


def _fit(step, x, hx):
    """Whether x, and hx or None, are plain and of the dtype of the weights, and nobody looks on."""
    if serving.is_watched() or not is_plain(x) or x.dtype is not step.dtype:
        return False
    return hx is None or (is_plain(hx) and hx.dtype is step.dtype)


def _advance(handle, x, hx, rows, shape):
    """The next state, of this shape; None where the handle cannot read x or hx as they are."""
    if not (x.is_contiguous() and has_memory(x) and (hx is None or (hx.is_contiguous() and has_memory(hx)))):
        return None
    h = x.new_empty(shape) if hx is None else torch.empty_like(hx)
    threads = min(torch.get_num_threads(), kernels.get_num_threads())
    start = 0 if hx is None else hx.data_ptr()
    return h if handle.step_at(x.data_ptr(), start, h.data_ptr(), rows, threads) else None


def _by_torch(gru, flat, x, hx, rows):
    """(output, h_n) by torch.nn.GRU's operation, of arguments that torch.nn.GRU would not refuse."""
    unbatched = x.dim() == 2
    if unbatched:
        axis = 0 if gru.batch_first else 1
        x, hx = x.unsqueeze(axis), None if hx is None else hx.unsqueeze(1)
    h0 = x.new_zeros(gru._step.cells, rows, gru.hidden_size) if hx is None else hx
    y, h = torch.gru(
        x, h0, flat, gru.bias, gru.num_layers, gru.dropout, gru.training, gru.bidirectional, gru.batch_first
    )
    return (y.squeeze(axis), h.squeeze(1)) if unbatched else (y, h)
