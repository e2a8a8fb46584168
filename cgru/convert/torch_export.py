"""The way out to PyTorch: modules whose forward computes what a layer or a model does.

A GRU that torch.nn.GRU can hold is computed by one; any other, step by step by the equations, with autograd through
them. Rows may be of any length: their valid steps are moved to the front and run from there, and the outputs are
moved back.
"""

import torch
from torch import nn

from cgru.layers import GRU, Dense, Dropout, Embedding
from cgru.layers.quantized import Quantized

_ACTIVATIONS = {
    "hard_sigmoid": lambda v: (v / 6 + 0.5).clamp(0, 1),
    "hard_sigmoid_keras2": lambda v: (0.2 * v + 0.5).clamp(0, 1),
    "linear": lambda v: v,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda v: torch.softmax(v, dim=-1),
    "tanh": torch.tanh,
}


def module_of(layer, native):
    """The module of a built layer.

    Parameters
    ----------
    layer : Layer
    native : function
        Gives the torch.nn.GRU of a GRU, or None where there is none.
    """
    if isinstance(layer, Quantized):
        layer = layer.widened()
    if isinstance(layer, GRU):
        return Recurrent(layer, native(layer))
    if isinstance(layer, Dense):
        return Affine(layer)
    if isinstance(layer, Embedding):
        return Table(layer)
    if isinstance(layer, Dropout):
        return Dropped(layer)
    raise TypeError(f"layer: expected layers of GRU, Dense, Embedding and Dropout, got {type(layer).__name__}")


class _Module(nn.Module):
    """A module that knows the layer it was made of."""

    def __init__(self, layer):
        super().__init__()
        self.layer_class, self.config, self.input_size = type(layer), layer.get_config(), layer.input_size

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items() if value not in (None, False))

    def layer_weights(self):
        """The layer's parameters as they are now, in the order of its `get_weights`."""
        return []


class Affine(_Module):
    """What a `Dense` computes, at valid steps; zero at the others."""

    def __init__(self, layer):
        super().__init__(layer)
        self.linear = nn.Linear(layer.input_size, layer.units, layer.use_bias, dtype=_dtype(layer))
        _load(self.linear, {"weight": layer.parameters["kernel"].T, "bias": layer.parameters.get("bias")})

    def layer_weights(self):
        return [self.linear.weight.T] + [self.linear.bias] * (self.linear.bias is not None)

    def forward(self, x, valid=None):
        x = _zeroed(x.to(self.linear.weight.dtype), valid)
        return _zeroed(_ACTIVATIONS[self.config["activation"]](self.linear(x)), valid), valid


class Table(_Module):
    """What an `Embedding` computes, at valid steps; zero at the others, whatever ids stand there."""

    def __init__(self, layer):
        super().__init__(layer)
        self.embedding = nn.Embedding(layer.input_dim, layer.output_dim, dtype=_dtype(layer))
        _load(self.embedding, {"weight": layer.parameters["embeddings"]})

    def layer_weights(self):
        return [self.embedding.weight]

    def forward(self, ids, valid=None):
        ids = ids if valid is None else torch.where(valid, ids, 0)
        return _zeroed(self.embedding(ids), valid), valid


class Dropped(_Module):
    """`Dropout`: in training mode alone."""

    def __init__(self, layer):
        super().__init__(layer)
        self.dropout = nn.Dropout(layer.rate)

    def forward(self, x, valid=None):
        return self.dropout(x), valid


class Model(nn.Module):
    """What a `Sequential` computes: ``model(x, lengths=None, mask=None)``, for arrays as the Sequential takes them."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x, lengths=None, mask=None):
        valid = _valid(x, lengths, mask)
        for module in self.layers:
            if isinstance(module, Recurrent):
                x, _, valid = module.run(x, None, valid)
            else:
                x, valid = module(x, valid)
        return x


class Recurrent(_Module):
    """What a `GRU` computes: ``module(x, initial_state=None, lengths=None, mask=None)`` gives y, or (y, h).

    Without a torch.nn.GRU, the parameters have the names and forms of cgru, with "_" for ".".
    """

    def __init__(self, layer, native=None):
        super().__init__(layer)
        self.names = list(layer.parameters)
        self.native = native
        self.directions = 2 if layer.bidirectional else 1
        self.cells = layer.num_layers * self.directions
        self.flat = self.cells == 1
        for name, array in layer.parameters.items():
            if native is None:
                self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.tensor(array)))

    def layer_weights(self):
        return [self.get_parameter(name.replace(".", "_")) for name in self.names]

    def forward(self, x, initial_state=None, lengths=None, mask=None):
        if self.config["time_major"]:
            x = x.transpose(0, 1)
            mask = None if mask is None else mask.transpose(0, 1)
        y, h, _ = self.run(x, initial_state, _valid(x, lengths, mask))
        y = y.transpose(0, 1) if self.config["time_major"] and self.config["return_sequences"] else y
        return (y, h) if self.config["return_state"] else y

    def run(self, x, initial_state, valid):
        """(y, h, valid steps of y) of batch-major x (N, T, D)."""
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected three axes and {self.input_size} features, got shape {tuple(x.shape)}")
        config, (N, T, _) = self.config, x.shape
        parameter = next(self.parameters())
        x = _zeroed(x.to(parameter.dtype), valid)
        if config["go_backwards"]:
            x, valid = x.flip(1), None if valid is None else valid.flip(1)
        h0 = self._initial_state(initial_state, N, parameter)
        steps = torch.full((N,), T, device=x.device) if valid is None else valid.sum(1)
        order = None
        if valid is not None:
            order = torch.argsort(~valid, dim=1, stable=True)  # valid steps first
            x = _along_time(x, order)
        if T == 0:
            ys, h = [x.new_zeros(N, 0, config["units"])] * self.directions, h0
        else:
            ys, h = (self._by_equations if self.native is None else self._by_torch)(x, h0, steps)
        if config["return_sequences"]:
            if order is not None:
                ys = [_along_time(y, torch.argsort(order, dim=1)) for y in ys]
                if not config["zero_output_for_mask"]:
                    ys = [_repeated(y, valid, d == 1 or config["reverse"]) for d, y in enumerate(ys)]
            y = self._merged(ys)
        else:
            y, valid = self._merged(list(h[self.cells - self.directions :])), None
        return y, h[0] if self.flat else h, valid

    def _initial_state(self, initial_state, N, parameter):
        """(cells, N, H)."""
        shape = (self.cells, N, self.config["units"])
        if initial_state is not None:
            expected = shape[1:] if self.flat else shape
            if tuple(initial_state.shape) != expected:
                raise ValueError(f"initial_state: expected shape {expected}, got {tuple(initial_state.shape)}")
            return initial_state.to(parameter.dtype).reshape(shape)
        if not self.config["learn_initial_state"]:
            return parameter.new_zeros(shape)
        learned = [self._parameter(cell, "initial_state") for cell in range(self.cells)]
        return torch.stack(learned)[:, None].expand(shape)

    def _parameter(self, cell, name):
        if self.flat:
            return getattr(self, name, None)
        layer, backward = divmod(cell, self.directions)
        return getattr(self, f"l{layer}_{'backward' if backward else 'forward'}_{name}", None)

    def _merged(self, ys):
        if len(ys) == 1:
            return ys[0]
        mode = self.config["merge_mode"]
        if mode == "concat":
            return torch.cat(ys, dim=-1)
        if mode == "mul":
            return ys[0] * ys[1]
        return (ys[0] + ys[1]) / (2 if mode == "ave" else 1)

    def _by_torch(self, x, h0, steps):
        """(outputs of the directions of the last layer, h), by torch.nn.GRU, which takes no empty rows."""
        lengths = steps.clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, h = self.native(packed, h0.contiguous())
        y, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        y = torch.where((steps > 0)[:, None, None], y, 0)
        return list(y.split(self.config["units"], dim=-1)), torch.where((steps > 0)[None, :, None], h, h0)

    def _by_equations(self, x, h0, steps):
        """(outputs of the directions of the last layer, h)."""
        finals = []
        for layer in range(self.config["num_layers"]):
            ys = []
            for d in range(self.directions):
                cell = layer * self.directions + d
                y, h = self._sequence(cell, x, h0[cell], steps, d == 1 or self.config["reverse"])
                ys.append(y)
                finals.append(h)
            x = self._merged(ys)
        return ys, torch.stack(finals)

    def _sequence(self, cell, x, h, steps, backwards):
        """(y (N, T, H), zero past the ends, final h) of one direction of one layer."""
        kernel, U = self._parameter(cell, "kernel"), self._parameter(cell, "recurrent_kernel")
        H = len(U)
        bias = self._parameter(cell, "bias")
        b, c = bias if bias is not None and bias.ndim == 2 else (bias, None)
        times = torch.arange(x.shape[1], device=x.device)
        runs = times < steps[:, None]  # (N, T)
        if backwards:
            times = torch.where(runs, steps[:, None] - 1 - times, times)  # its own inverse
            x = _along_time(x, times)
        xg = x @ kernel if b is None else x @ kernel + b
        f, g = (_ACTIVATIONS[self.config[name]] for name in ("recurrent_activation", "activation"))
        ys = []
        for t in range(x.shape[1]):
            x_r, x_z, x_n = xg[:, t].split(H, dim=1)
            if self.config["reset_after"]:
                h_r, h_z, h_n = (h @ U if c is None else h @ U + c).split(H, dim=1)
                z = f(x_z + h_z)
                n = g(x_n + f(x_r + h_r) * h_n)
            else:
                h_r, h_z = (h @ U[:, : 2 * H]).split(H, dim=1)
                z = f(x_z + h_z)
                n = g(x_n + (f(x_r + h_r) * h) @ U[:, 2 * H :])
            new = (1 - z) * h + z * n
            running = runs[:, t, None]
            h = torch.where(running, new, h)
            ys.append(torch.where(running, new, 0))
        y = torch.stack(ys, dim=1)
        return (_along_time(y, times) if backwards else y), h


# -- arrays


def _dtype(layer):
    return getattr(torch, layer.dtype.name)


def _load(module, arrays):
    with torch.no_grad():
        for name, array in arrays.items():
            if array is not None:
                getattr(module, name).copy_(torch.tensor(array))


def _valid(x, lengths, mask):
    """The valid steps (N, T) of batch-major x, or None where all are."""
    if lengths is not None and mask is not None:
        raise ValueError("lengths, mask: give one of the two, got both")
    if lengths is None and mask is None:
        return None
    if x.ndim < 2:
        raise ValueError(f"x: expected sequences beside lengths or mask, got shape {tuple(x.shape)}")
    N, T = x.shape[:2]
    if mask is not None:
        mask = torch.as_tensor(mask, device=x.device)
        if mask.dtype != torch.bool or mask.shape != (N, T):
            raise ValueError(f"mask: expected shape {(N, T)} and dtype bool, got {tuple(mask.shape)} and {mask.dtype}")
        return mask
    lengths = torch.as_tensor(lengths, device=x.device)
    if lengths.shape != (N,) or lengths.is_floating_point() or ((lengths < 0) | (lengths > T)).any():
        raise ValueError(f"lengths: expected {N} integers from 0 to {T}, got {lengths.tolist()}")
    return torch.arange(T, device=x.device) < lengths[:, None]


def _zeroed(x, valid):
    """x (N, T, F) with zeros at steps that are not valid, whatever stands there."""
    return x if valid is None else torch.where(valid[:, :, None], x, 0)


def _along_time(x, times):
    """x (N, T, F) at times (N, T)."""
    return torch.gather(x, 1, times[:, :, None].expand(-1, -1, x.shape[2]))


def _repeated(y, valid, backwards):
    """y (N, T, F) with the last valid output before each step that is not valid; zero where there is none."""
    if backwards:
        return _repeated(y.flip(1), valid.flip(1), False).flip(1)
    times = torch.arange(y.shape[1], device=y.device)
    last = torch.where(valid, times, -1).cummax(dim=1).values if y.shape[1] else times.expand(len(y), -1)
    return torch.where((last >= 0)[:, :, None], _along_time(y, last.clamp(min=0)), 0)
