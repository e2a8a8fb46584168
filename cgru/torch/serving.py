"""What the kernels serve. Everything else is torch.nn's own business: to compute, or to refuse in its words."""

import torch
from torch.autograd import forward_ad

from cgru.torch.memory import is_plain


def is_watched():
    """Whether somebody looks into operations, or changes what they do: such callers must see PyTorch's own."""
    return (
        torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()  # of torch.func
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
    )


def cells_of_gru(gru, x, hx):
    """The weights of each layer and direction of a GRU, those that torch.nn.GRU would compute with: (weight_ih,
    weight_hh) or (weight_ih, weight_hh, bias_ih, bias_hh). None where the kernels may not have them, or x and hx."""
    if is_watched():
        return None
    L, bias, bidirectional, dropout = gru.num_layers, gru.bias, gru.bidirectional, gru.dropout
    if not (
        type(L) is int and type(bias) is bool and type(bidirectional) is bool and type(gru.batch_first) is bool
        and type(dropout) in (float, int) and 0 <= dropout <= 1 and not gru.proj_size
    ):  # fmt: skip
        return None
    flat = _flat_weights(gru)
    size, directions = 4 if bias else 2, 2 if bidirectional else 1
    if len(flat) != L * directions * size or L < 1:
        return None
    cells = [flat[i : i + size] for i in range(0, len(flat), size)]
    H = gru.hidden_size
    for i, cell in enumerate(cells):
        if not _fit(cell, gru.input_size if i < directions else directions * H, H, x):
            return None
    return cells if _is_served(x, hx, flat[0], gru.input_size) else None


def cell_of_cell(cell, x, hx):
    """The same for a GRUCell: its one cell, in a list."""
    if is_watched():
        return None
    own = cell._parameters
    try:
        weights = [own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"]]
    except KeyError:  # computed elsewhere: parametrized, pruned, sharded
        weights = [getattr(cell, name, None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if weights[2] is None and weights[3] is None:
        del weights[2:]
    H, D = cell.hidden_size, cell.input_size
    return [weights] if _fit(weights, D, H, x) and _is_served(x, hx, weights[0], D) else None


def _flat_weights(gru):
    """The list that torch.nn.GRU passes to its operation."""
    flat, own = gru._flat_weights, gru._parameters
    for weight, name in zip(flat, gru._flat_weights_names, strict=False):
        if own.get(name) is not weight:  # replaced, computed elsewhere, or deleted: torch.nn.GRU has a rule
            gru._update_flat_weights()
            return gru._flat_weights
    return flat


def _is_served(x, hx, weight, features):
    """Whether x has the features and, as hx, the dtype of a weight, and all of them are plain."""
    if not is_plain(x) or x.dtype is not weight.dtype or x.dim() == 0 or x.shape[-1] != features:
        return False
    return hx is None or (is_plain(hx) and hx.dtype is weight.dtype)


def _fit(cell, D, H, x):
    """Whether the weights of a cell are plain, of one dtype that the kernels have, and of the shapes of D and H."""
    dtype = getattr(cell[0], "dtype", None)
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    for weight, shape in zip(cell, ((3 * H, D), (3 * H, H), (3 * H,), (3 * H,)), strict=False):
        if not is_plain(weight) or weight.dtype is not dtype or weight.shape != shape:
            return False
    return True
