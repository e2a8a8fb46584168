"""Resets within the rows of a sequence: what lies between them goes through a GRU as the rows of a PackedSequence.

So every way that there is for a PackedSequence serves, PyTorch's own among them, and all layers and both directions are
cut in the same places.
"""

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from cgru.segments import cut, segments
from cgru.sequences import as_mask


def run(gru, x, hx, resets):
    """(output, h_n) of a GRU whose rows start anew where there are resets; x or hx that do not fit are left to it."""
    is_packed = isinstance(x, PackedSequence)
    tensor = x.data if is_packed else x
    if not is_packed and (not isinstance(x, torch.Tensor) or x.dim() not in (2, 3)):
        return gru.forward(x, hx)
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError("resets: expected none in transforms of torch.func, which take no PackedSequence")
    given, valid, places = _of_packed(x, resets) if is_packed else _of_padded(x, resets, gru.batch_first)
    if not given.any() or 0 in tensor.shape:
        return gru.forward(x, hx)
    batched = is_packed or x.dim() == 3
    N, directions = len(given), 2 if gru.bidirectional else 1
    if hx is not None:
        state = (gru.num_layers * directions, N, gru.hidden_size)
        if not isinstance(hx, torch.Tensor) or hx.shape != (state if batched else (state[0], state[2])):
            return gru.forward(x, hx)
        hx = gru.permute_hidden(hx, x.sorted_indices) if is_packed else hx
        hx = hx.reshape(-1, directions, N, gru.hidden_size)
    if not is_packed and not given[:, 1:].any():  # as in a loop over single steps
        hx = hx if hx is None else _restarted(hx, given[:, 0]).reshape(state if batched else (state[0], state[2]))
        return gru.forward(x, hx)
    parts = segments(given, valid)._replace(places=places)
    ways = [cut(parts, reverse) for reverse in (False, True)[:directions]]
    plan = ways[0].plan
    device = tensor.device
    order = torch.from_numpy(plan.times).to(device)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=device)
    place = np.empty_like(plan.rows)  # of each segment among those of the PackedSequence
    place[plan.rows] = np.arange(len(place))
    flat = tensor.reshape(-1, tensor.shape[-1])
    y, h = gru.forward(
        PackedSequence(_Reordered.apply(flat, order, inverse), torch.from_numpy(np.diff(plan.offsets)), None, None),
        None if hx is None else _first_states(hx, ways, place),
    )
    y = _Reordered.apply(y.data, inverse, order)
    h = h.reshape(-1, directions, len(place), gru.hidden_size)
    ends = [h[:, d].index_select(1, torch.from_numpy(place[way.left]).to(device)) for d, way in enumerate(ways)]
    h = torch.stack(ends, dim=1).reshape(-1, N, gru.hidden_size)
    if is_packed:
        y = PackedSequence(y, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
        return y, gru.permute_hidden(h, x.unsorted_indices)
    return y.reshape(*x.shape[:-1], y.shape[-1]), (h if batched else h[:, 0])


def _of_padded(x, resets, batch_first):
    """(resets (N, T), None, where the steps lie among those of x in memory, row after row)."""
    if isinstance(resets, PackedSequence):
        raise TypeError("resets: expected a tensor or an array beside a tensor, got a PackedSequence")
    given = as_mask(_array(resets), tuple(x.shape[:-1]), "resets")
    if given.ndim == 1:
        return given[None], None, np.arange(len(given))
    steps = np.arange(given.size).reshape(given.shape)
    return (given, None, steps.reshape(-1)) if batch_first else (given.T, None, steps.T.reshape(-1))


def _of_packed(x, resets):
    """The same of a PackedSequence, whose rows are those of its `batch_sizes`; with which steps are valid, (N, T)."""
    if not isinstance(resets, PackedSequence):
        raise TypeError(f"resets: expected a PackedSequence beside a PackedSequence, got {type(resets).__name__}")
    if not torch.equal(resets.batch_sizes, x.batch_sizes) or not _equal(resets.sorted_indices, x.sorted_indices):
        raise ValueError("resets: expected the batch sizes and the order of input, got others")
    data = _array(resets.data)
    data = as_mask(data[:, 0] if data.ndim == 2 and data.shape[1] == 1 else data, (len(x.data),), "resets")
    counts = x.batch_sizes.numpy()
    offsets = np.cumsum(counts) - counts
    valid = np.arange(counts[0])[:, None] < counts
    rows, times = np.nonzero(valid)
    places = offsets[times] + rows
    given = np.zeros(valid.shape, bool)
    given[rows, times] = data[places]
    return given, valid, places


def _array(resets):
    """What was given as an array, from a tensor of any device."""
    if not isinstance(resets, torch.Tensor):
        return resets
    resets = resets.detach().cpu()
    return (resets.double() if resets.is_floating_point() else resets).numpy()


def _equal(a, b):
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _restarted(hx, resets):
    """The states (L, directions, N, H) of the first step: a reset there comes before it, in the forward direction."""
    mask = torch.zeros(hx.shape[1:3], dtype=torch.bool)
    mask[0] = torch.from_numpy(np.ascontiguousarray(resets))
    return hx.masked_fill(mask.to(hx.device)[:, :, None], 0)


def _first_states(hx, ways, place):
    """The states (L * directions, S, H) of all segments, in the order of the PackedSequence: of those that rows start
    with the states hx (L, directions, N, H), of the others zero."""
    N = hx.shape[2]
    known = torch.nn.functional.pad(hx, (0, 0, 0, 1))
    states = []
    for d, way in enumerate(ways):
        source = np.full(len(place), N)
        source[place[way.entered[way.goes_on]]] = np.flatnonzero(way.goes_on)
        states.append(known[:, d].index_select(1, torch.from_numpy(source).to(hx.device)))
    return torch.stack(states, dim=1).reshape(-1, len(place), hx.shape[3])


class _Reordered(torch.autograd.Function):
    """Rows in another order, which each of them has a place in. PyTorch does not know that, and adds up gradients one
    row after the other."""

    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(inverse)
        ctx.save_for_forward(order)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, d):
        return d.index_select(0, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx, dx, *_):
        return dx.index_select(0, *ctx.saved_tensors)
