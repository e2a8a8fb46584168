"""A torch.nn.GRU and ours with the same weights, and how what they compute is compared."""

import copy
import warnings

import checks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    import torch

from torch.nn.utils import rnn

import cgru.torch

N, T, D, H = checks.N, 11, checks.D, checks.H
FLOATS = [torch.float32, torch.float64]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6}


def twins(features=D, units=H, **options):
    """A torch.nn.GRU with weights of order 1, and ours with copies of them."""
    theirs = torch.nn.GRU(features, units, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return theirs, cgru.torch.replace_gru(copy.deepcopy(theirs))


def assert_same(ours, theirs, tolerance=None, what=""):
    """Of the same type, and close; packed sequences in all their fields."""
    assert type(ours) is type(theirs), what
    if isinstance(ours, rnn.PackedSequence):
        for field, a, b in zip(ours._fields, ours, theirs, strict=True):
            assert_same(a, b, tolerance if field == "data" else 0, f"{what} {field}")
        return
    if ours is None:
        return
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), what
    tolerance = TOLERANCE.get(ours.dtype, 0) if tolerance is None else tolerance
    checks.assert_close(ours.detach().double(), theirs.detach().double(), tolerance, what)


def data(tensor_or_packed):
    return tensor_or_packed.data if isinstance(tensor_or_packed, rnn.PackedSequence) else tensor_or_packed


def results(gru, leaves, make_input, only=("y", "h")):
    """Output, state, and the gradients of the leaves (x, and h0 if there are two) and of the parameters, for random
    gradients from above, the same at every call."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    gru.zero_grad()
    y, h = gru(make_input(leaves[0]), *leaves[1:])
    generator = torch.Generator().manual_seed(1)
    above = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (data(y), h)]
    wanted = [i for i, name in enumerate(("y", "h")) if name in only]
    torch.autograd.backward([(data(y), h)[i] for i in wanted], [above[i] for i in wanted])
    gradients = {f"d{name}": leaf.grad for name, leaf in zip(("x", "h0"), leaves, strict=False)}
    return {"y": y, "h": h} | gradients | {name: parameter.grad for name, parameter in gru.named_parameters()}


def compare(theirs, ours, leaves, make_input=lambda x: x, only=("y", "h"), scale=1):
    expected, found = results(theirs, leaves, make_input, only), results(ours, leaves, make_input, only)
    assert found.keys() == expected.keys()
    for name in expected:
        assert_same(found[name], expected[name], scale * TOLERANCE[leaves[0].dtype], name)


FORMS = [
    {},
    {"bias": False},
    {"bidirectional": True},
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True, "bias": False},
    {"num_layers": 3, "bidirectional": True},
]


def name_of(options):
    return "-".join(f"{k}={v}" for k, v in options.items()) or "plain"


def cells(options):
    return options.get("num_layers", 1) * (1 + options.get("bidirectional", False))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(19, D)
        self.encoder = torch.nn.ModuleDict({"gru": torch.nn.GRU(D, H, batch_first=True)})
        self.shared = self.encoder["gru"]
        self.second = torch.nn.GRU(H, 5, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(10, 4)

    def forward(self, x):
        y, _ = self.encoder["gru"](self.embedding(x))
        y, h = self.second(y, None)
        return self.head(torch.cat([h[0], h[1]], dim=-1))
