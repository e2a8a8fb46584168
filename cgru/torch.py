"""A drop-in for torch.nn.GRU on the CPU: the same module, parameters and results, computed by cgru's kernels.

`replace_gru` changes a model in place and `restore_gru` changes it back; `freeze` keeps packed weights between calls.
"""

from itertools import chain
from typing import NamedTuple

import numpy as np

try:
    import torch
except ModuleNotFoundError:
    raise ImportError('torch is not installed: pip install "cgru[torch]"', name="torch") from None
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from cgru import recurrence

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_LAYOUT = recurrence.Layout("rzn", "old")  # of weight_ih.T and weight_hh.T


class GRU(torch.nn.GRU):
    """torch.nn.GRU with another `forward`: arguments, parameters, results and errors are those of torch.nn.GRU.

    Served are float32 and float64 on the CPU: padded input in either order, unbatched input and PackedSequence, with
    gradients of the input, the initial state and every weight. Tensors are read and written where they are, without
    copies, if their features are contiguous. Time and memory for a PackedSequence are linear in its steps.

    Weights are brought into the kernels' form at every call, because some changes of a parameter cannot be seen
    (`.data`, fused optimizers); `freeze` keeps that form between calls.

    A call uses as many threads as `cgru.get_num_threads()` and `torch.get_num_threads()` both allow; results are the
    same bits for any number.

    Notes
    -----
    What the kernels do not serve is passed to `torch.nn.GRU.forward`, which computes it or says in its own words what
    is wrong:

    * other devices and dtypes (half, bfloat16), sparse tensors, subclasses of Tensor;
    * calls under autocast, in forward-mode differentiation and in the transforms of torch.func (grad, vmap, jvp);
    * calls that somebody looks into: torch.compile, torch.export, torch.jit.trace, torch.onnx.export, a
      TorchDispatchMode;
    * empty batches, and wrong arguments.

    Gradients that are to be differentiated again (`create_graph=True`) or that come in batches
    (`is_grads_batched=True`) are computed by PyTorch's operations from the inputs. torch.jit.script is refused: it
    takes torch.nn.GRU alone, see `restore_gru`.

    Examples
    --------
    >>> import cgru.torch, torch
    >>> gru = cgru.torch.GRU(3, 4, batch_first=True)
    >>> y, h = gru(torch.zeros(2, 5, 3))
    >>> y.shape, h.shape
    (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
    """

    _kept = None  # by `freeze`

    def forward(self, input, hx=None):
        """Return (output, h_n), as torch.nn.GRU does."""
        cells = self.all_weights
        is_packed = isinstance(input, PackedSequence)
        x, sequences = input.data if is_packed else input, None
        if _serves(self, x, hx, cells):
            sequences = _Packed.of(input) if is_packed else _Padded.of(input, self.batch_first)
        if sequences is None or (hx is not None and hx.shape != sequences.state(len(cells), self.hidden_size)):
            return super().forward(input, hx)
        if not is_packed:
            return _run_layers(self, sequences, x, hx, cells)
        hx = hx if hx is None else self.permute_hidden(hx, input.sorted_indices)
        y, h = _run_layers(self, sequences, x, hx, cells)
        y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return y, self.permute_hidden(h, input.unsorted_indices)

    def __prepare_scriptable__(self):
        raise RuntimeError("torch.jit.script compiles torch.nn.GRU alone: call cgru.torch.restore_gru(model) before")


def replace_gru(model):
    """Make every torch.nn.GRU in a model, or the model itself, a `GRU` of this module, in place, and return the model.

    Modules stay the same objects, with their parameters, hooks and mode, so optimizers and references go on as they
    were. Subclasses of torch.nn.GRU are left alone, parametrized ones (torch.nn.utils.parametrize) among them: they may
    compute something else.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module.
    ValueError
        If there is no torch.nn.GRU in it, nor one that was replaced before.

    Examples
    --------
    >>> import cgru.torch, torch
    >>> model = torch.nn.ModuleDict({"gru": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 2)})
    >>> type(cgru.torch.replace_gru(model)["gru"])
    <class 'cgru.torch.GRU'>
    """
    for module in _find(lambda module: type(module) is torch.nn.GRU or isinstance(module, GRU), model, "torch.nn.GRU"):
        if type(module) is torch.nn.GRU:
            module.__class__ = GRU
    return model


def restore_gru(model):
    """Undo `replace_gru` and `freeze`, in place, and return the model.

    For tools that know torch.nn.GRU by its very type (torch.jit.script, torch.fx, quantize_dynamic), and before a model
    is pickled for somebody who has no cgru.

    Raises
    ------
    TypeError, ValueError
        As `replace_gru`, if there is no `GRU` of this module in the model.
    """
    for module in _find(lambda module: type(module) is GRU, model, "cgru.torch.GRU"):
        module.__dict__.pop("_kept", None)
        module.__class__ = torch.nn.GRU
    return model


def freeze(model):
    """Let every `GRU` of this module in a model keep its packed weights from call to call, and return the model.

    For inference with weights that stay as they are. What is kept serves calls in evaluation mode that record no
    gradients of the weights: under torch.no_grad or inference_mode, or after `requires_grad_(False)`. It is made by the
    first such call, and dropped

    * when a parameter looks different: after load_state_dict, `.to(dtype)`, another tensor in its place, and whatever
      PyTorch counts as an in-place operation;
    * by every other call, in training mode or for gradients of the weights. These pack for themselves, as always, so
      that a frozen model may be trained, only not faster;
    * by `freeze`, to be called again after a change that PyTorch does not count: through `.data`, a NumPy view or
      shared memory.

    Copies and pickles of a frozen module are frozen, and make their own.

    Raises
    ------
    TypeError, ValueError
        As `restore_gru`.
    """
    for module in _find(lambda module: isinstance(module, GRU), model, "cgru.torch.GRU"):
        module._kept = _Kept()
    return model


def unfreeze(model):
    """Undo `freeze`: every call packs the weights again. Return the model; errors as there."""
    for module in _find(lambda module: isinstance(module, GRU), model, "cgru.torch.GRU"):
        module.__dict__.pop("_kept", None)
    return model


def _find(wanted, model, name):
    """The modules of a model that are `wanted`."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [module for module in model.modules() if wanted(module)]
    if not found:
        raise ValueError(f"model: expected a {name} or a model that has one, got a {type(model).__name__} without")
    return found


# -- what is served


def _serves(gru, x, hx, cells):
    """Whether the kernels may have these tensors; of shapes, those of the weights and the features of x."""
    if (
        torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()  # of torch.func
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or gru.proj_size
    ):
        return False
    dtype = getattr(x, "dtype", None)
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    for tensor in (x, *chain.from_iterable(cells), *(() if hx is None else (hx,))):
        plain = type(tensor) in _PLAIN and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg()
        if not plain or tensor.dtype is not dtype:
            return False
    H, directions = gru.hidden_size, 1 + gru.bidirectional
    for i, cell in enumerate(cells):
        features = gru.input_size if i < directions else directions * H
        if [w.shape for w in cell] != [(3 * H, features), (3 * H, H), (3 * H,), (3 * H,)][: 4 if gru.bias else 2]:
            return False
    return x.dim() > 0 and x.shape[-1] == gru.input_size


# -- sequences: how tensors of features are batches of the kernels


class _Padded(NamedTuple):
    """Tensors (T, N, F), (N, T, F), or (T, F) without rows."""

    N: int
    T: int
    rows: int | None  # the axis of the rows

    @classmethod
    def of(cls, x, batch_first):
        """None where they are empty, or have other axes."""
        if x.dim() not in (2, 3) or x.numel() == 0:
            return None
        if x.dim() == 2:
            return cls(1, len(x), None)
        return cls(*x.shape[:2], 0) if batch_first else cls(x.shape[1], x.shape[0], 1)

    def time_major(self):
        """As many sequences, in tensors (T, N, F) if they have rows."""
        return self if self.rows is None else self._replace(rows=1)

    def plan(self, reverse):
        return recurrence.schedule(self.N, self.T, reverse=reverse)

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


class _Packed(NamedTuple):
    """Tensors (M, F) in the order of a PackedSequence."""

    counts: np.ndarray  # (K,) rows at each step
    sizes: torch.Tensor  # the same

    @classmethod
    def of(cls, packed):
        """None where data and batch sizes do not fit together."""
        sizes = packed.batch_sizes
        if packed.data.dim() != 2 or sizes.dtype is not torch.int64 or not sizes.is_cpu or len(sizes) == 0:
            return None
        counts = sizes.numpy().astype(np.intp)
        if counts[-1] < 1 or (counts[1:] > counts[:-1]).any() or counts.sum() != len(packed.data):
            return None
        return cls(counts, sizes)

    @property
    def N(self):
        return int(self.counts[0])

    def time_major(self):
        return self

    def plan(self, reverse):
        return recurrence.packed_schedule(self.counts, reverse)

    def shape(self, features):
        return (int(self.counts.sum()), features)

    def state(self, cells, units):
        return (cells, self.N, units)

    def batch(self, array):
        return recurrence.packed_view(np.ascontiguousarray(array), self.counts)

    def by_torch(self, outputs, x, h0, *arguments):
        return torch.gru(x, self.sizes, h0, *arguments)


# -- layers


def _run_layers(gru, sequences, x, hx, cells):
    """(output, h_n) of all layers."""
    directions = 1 + gru.bidirectional
    plans = [sequences.plan(reverse) for reverse in (False, True)[:directions]]
    between = sequences.time_major()  # as in torch.nn.GRU: with one seed dropout draws the same values
    threads = torch.get_num_threads()
    states = [hx] * len(cells) if hx is None or directions == len(cells) else hx.split(directions)
    finals = []
    for first in range(0, len(cells), directions):
        last = first + directions == len(cells)
        own, h0 = cells[first : first + directions], states[len(finals)]
        flat = [w for cell in own for w in cell]
        records = _records(x, h0, *flat)
        weights = _layer_weights(gru, first, own, records, threads)
        form = between if first else sequences, sequences if last else between
        layer = _Layer(*form, plans, weights, gru.bias, threads)
        x, h = _Gradients.apply(layer, x, h0, *flat) if records else layer.forward(x, h0)[:2]
        finals.append(h)
        if gru.dropout and gru.training and not last:
            x = torch.nn.functional.dropout(x, gru.dropout)
    return x, h if len(finals) == 1 else torch.cat(finals)


def _records(*tensors):
    """Whether an operation on these is recorded for gradients."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _Layer(NamedTuple):
    """One layer of one call, its directions at once."""

    inputs: _Padded | _Packed
    outputs: _Padded | _Packed
    plans: list  # recurrence.Schedule of each direction
    weights: list  # recurrence.Weights of each direction
    bias: bool
    threads: int

    def forward(self, x, h0, training=False):
        """Return y, h, and (gates, states) of each direction's tape."""
        x = self._read(x)
        directions, N, H = len(self.weights), len(x), self.weights[0].H
        y = np.empty(self.outputs.shape(directions * H), x.dtype)
        h = np.empty((directions, N, H), x.dtype)
        h0 = np.zeros_like(h) if h0 is None else np.ascontiguousarray(_array(h0)).reshape(h.shape)
        results = recurrence.run(
            *(
                recurrence.forward_pass(weights, x, h0[d], plan, self._half(y, d), training, h[d], self.threads)
                for d, (weights, plan) in enumerate(zip(self.weights, self.plans, strict=True))
            ),
            threads=self.threads,
        )
        tapes = [torch.from_numpy(array) for _, tape in results if training for array in (tape.gates, tape.states)]
        return torch.from_numpy(y), torch.from_numpy(h.reshape(self.outputs.state(directions, H))), tapes

    def backward(self, x, tapes, dy, dh, need_dx):
        """Return the gradients of x, h0 and the weights, for those of y and h; either may be None."""
        x = self._read(x)
        D, H, dtype = x.shape[2], self.weights[0].H, x.dtype
        dh0 = np.empty((len(self.weights), len(x), H), dtype)
        dh = [None] * len(dh0) if dh is None else dh.reshape(dh0.shape)
        dxs, flat, passes = [], [], []
        for d, (weights, plan) in enumerate(zip(self.weights, self.plans, strict=True)):
            tape = recurrence.Tape(weights, x, plan, *map(_array, tapes[2 * d : 2 * d + 2]))
            dx = np.empty(self.inputs.shape(D), dtype) if need_dx else None
            new = [np.empty(shape, dtype) for shape in ((3 * H, D), (3 * H, H), 3 * H, 3 * H)]
            out = recurrence.Gradients(self.inputs.batch(dx) if need_dx else None, dh0[d], new[0].T, new[1].T, new[2:])
            dy_d = dy if dy is None else recurrence.readable(self._half(dy, d))
            passes.append(recurrence.backward_pass(dy_d, dh[d], tape, need_dx, out, self.threads))
            dxs.append(dx)
            flat += new if self.bias else new[:2]
        recurrence.run(*passes, threads=self.threads)
        dx = dxs[0] if len(dxs) == 1 or not need_dx else np.add(*dxs, out=dxs[0])
        dh0 = dh0.reshape(self.outputs.state(*dh0.shape[::2]))
        return [g if g is None else torch.from_numpy(g) for g in (dx, dh0, *flat)]

    def backward_by_torch(self, x, h0, flat, dy, dh, needed):
        """The same gradients by PyTorch's operations, which know their own derivatives and take batches of dy."""
        create_graph, directions, H = torch.is_grad_enabled(), len(self.weights), self.weights[0].H
        with torch.enable_grad():
            # Other names for the tensors, or gradients would run on through them into what they were made from.
            inputs = [t if t is None else t.view_as(t) for t in (x, h0, *flat)]
            x, h0, *flat = inputs
            state = (directions, self.inputs.N, H)
            h0 = x.new_zeros(state) if h0 is None else h0.reshape(state)
            y, h = self.inputs.by_torch(self.outputs, x, h0, flat, self.bias, 1, 0.0, False, directions == 2)
            given = [(y, dy), (h.reshape(self.outputs.state(directions, H)), dh)]
            results, gradients = zip(*(pair for pair in given if pair[1] is not None), strict=True)
            wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
            found = torch.autograd.grad(results, wanted, gradients, create_graph=create_graph)
        found = iter(found)
        return [next(found) if need else None for need in needed]

    def _read(self, x):
        return recurrence.readable(self.inputs.batch(_array(x)))

    def _half(self, array, direction):
        """The features of one direction in an array of outputs, (N, T, H)."""
        H = self.weights[0].H
        return self.outputs.batch(array)[:, :, direction * H : (direction + 1) * H]


class _Gradients(torch.autograd.Function):
    """A layer whose gradients are wanted."""

    @staticmethod
    def forward(ctx, layer, x, h0, *flat):
        y, h, tapes = layer.forward(x, h0, training=True)
        ctx.set_materialize_grads(False)
        ctx.layer = layer
        ctx.save_for_backward(x, h0, *flat, *tapes)  # PyTorch frees them, or sees to it that they are not changed
        return y, h

    @staticmethod
    def backward(ctx, dy, dh):
        x, h0, *saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        flat, tapes = saved[: len(needed) - 2], saved[len(needed) - 2 :]
        given = _gradients(dy, dh)
        if torch.is_grad_enabled() or given is None:
            return None, *ctx.layer.backward_by_torch(x, h0, flat, dy, dh, needed)
        found = ctx.layer.backward(x, tapes, *given, needed[0])
        return None, *(gradient if need else None for gradient, need in zip(found, needed, strict=True))


def _gradients(*tensors):
    """The arrays of tensors that may be None; None for all if one is a batch under vmap, which has no array."""
    try:
        return [tensor if tensor is None else _array(tensor) for tensor in tensors]
    except RuntimeError:
        return None


def _array(tensor):
    """The NumPy array of a tensor's memory."""
    return tensor.numpy(force=True)


# -- packed weights


def _layer_weights(gru, first, cells, training, threads):
    if gru._kept is None:
        return _pack(cells, training, threads)
    if gru.training or _records(*(w for cell in cells for w in cell)):
        gru._kept.forget()
        return _pack(cells, training, threads)
    return gru._kept.weights(first, cells, training, threads)


def _pack(cells, training, threads):
    """recurrence.Weights of cells: (weight_ih, weight_hh), or these and (bias_ih, bias_hh)."""
    packed = []
    for W, U, *biases in cells:
        packed.append(
            recurrence.prepare(
                _array(W).T, _array(U).T, [_array(b) for b in biases] or None, reset_after=True,
                layout=_LAYOUT, backward="now" if training else "never", threads=threads,
            )
        )  # fmt: skip
    return packed


class _Kept:
    """Packed weights that a frozen module keeps, layer by layer; copies and pickles start empty."""

    def __init__(self):
        self._layers = {}

    def __deepcopy__(self, memo):
        return _Kept()

    def __reduce__(self):
        return _Kept, ()

    def forget(self):
        self._layers.clear()

    def weights(self, first, cells, training, threads):
        """Those kept for the layer of cell `first`, or new ones if its parameters look different by now."""
        flat = [w for cell in cells for w in cell]
        look = [(w.data_ptr(), w.dtype, 0 if w.is_inference() else w._version) for w in flat]
        kept = self._layers.get(first)
        if kept is None or kept.look != look or training > kept.training:
            # Packed after the look, so that what changes meanwhile will look different.
            kept = _KeptLayer(look, [w.detach() for w in flat], training, _pack(cells, training, threads))
            self._layers[first] = kept
        return kept.weights


class _KeptLayer(NamedTuple):
    look: list
    memory: list  # holds the memory of the tensors, so that no other tensor gets its address
    training: bool  # whether backward can use them
    weights: list
