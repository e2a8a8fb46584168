"""Values and gradients of cgru.torch.GRU against those of torch.nn.GRU."""

import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from torch.nn.utils import rnn
from twins import FLOATS, FORMS, D, H, N, T, assert_same, cells, compare, data, name_of, twins

LENGTHS = {"sorted": [11, 8, 8, 3, 1], "unsorted": [3, 11, 8, 1, 8], "equal": [11] * 5, "single": [11]}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("with_h0", [False, True], ids=["zeros", "h0"])
@pytest.mark.parametrize("layout", ["time", "batch", "unbatched"])
@pytest.mark.parametrize("options", FORMS, ids=name_of)
def test_padded(served, options, layout, with_h0, dtype):
    theirs, ours = twins(dtype=dtype, batch_first=layout == "batch", **options)
    shape = {"time": (T, N, D), "batch": (N, T, D), "unbatched": (T, D)}[layout]
    leaves = [torch.randn(shape, dtype=dtype)]
    if with_h0:
        rows = () if layout == "unbatched" else (N,)
        leaves.append(torch.randn(cells(options), *rows, H, dtype=dtype))
    compare(theirs, ours, leaves)
    assert served


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("with_h0", [False, True], ids=["zeros", "h0"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("options", FORMS, ids=name_of)
def test_packed(served, options, lengths, with_h0, dtype):
    theirs, ours = twins(dtype=dtype, **options)
    rows, is_sorted = LENGTHS[lengths], lengths != "unsorted"

    def pack(x):
        return rnn.pack_padded_sequence(x, torch.tensor(rows), enforce_sorted=is_sorted)

    leaves = [torch.randn(T, len(rows), D, dtype=dtype)]
    if with_h0:
        leaves.append(torch.randn(cells(options), len(rows), H, dtype=dtype))
    compare(theirs, ours, leaves, pack)
    assert served


@pytest.mark.parametrize("seed", range(12))
def test_random_sizes(served, seed):
    rng = np.random.default_rng(seed)
    dtype = FLOATS[seed % 2]
    options = {
        "num_layers": int(rng.integers(1, 4)), "bidirectional": bool(rng.integers(2)), "bias": bool(rng.integers(2)),
        "batch_first": bool(rng.integers(2)),
    }  # fmt: skip
    features, units, rows, steps = (
        int(rng.integers(least, most)) for least, most in ((1, 40), (1, 70), (1, 20), (6, 30))
    )
    theirs, ours = twins(features, units, dtype=dtype, **options)
    x = torch.randn((rows, steps, features) if options["batch_first"] else (steps, rows, features), dtype=dtype)
    h0 = torch.randn(cells(options), rows, units, dtype=dtype)
    lengths = torch.from_numpy(rng.integers(1, steps + 1, rows))
    lengths[0] = steps

    def pack(x):
        return rnn.pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=False)

    compare(theirs, ours, [x, h0], scale=4)
    compare(theirs, ours, [x, h0], pack, scale=4)
    assert len(served) == 2


@pytest.mark.parametrize("only", [("y",), ("h",)])
def test_one_of_the_two_outputs(served, only):
    theirs, ours = twins(num_layers=2, bidirectional=True, dtype=torch.float64)
    compare(theirs, ours, [torch.randn(T, N, D).double(), torch.randn(4, N, H).double()], only=only)
    assert served


@pytest.mark.parametrize("frozen", ["x", "h0", "weights", "weight_hh_l0", "first layer"])
def test_gradients_of_some(served, frozen):
    """What requires no gradient gets none, and the others are what they were."""
    found = []
    for gru in twins(num_layers=2, dtype=torch.float64):
        torch.manual_seed(2)
        x, h0 = torch.randn(T, N, D, dtype=torch.float64), torch.randn(2, N, H, dtype=torch.float64)
        x.requires_grad_(frozen not in ("x", "first layer"))
        h0.requires_grad_(frozen not in ("h0", "first layer"))
        for name, parameter in gru.named_parameters():
            off = frozen == "weights" or name == frozen or (frozen == "first layer" and "l0" in name)
            parameter.requires_grad_(not off)
        y, _ = gru(x, h0)
        y.square().sum().backward()
        found.append([x.grad, h0.grad, *(parameter.grad for parameter in gru.parameters())])
    assert served
    for theirs, ours in zip(*found, strict=True):
        assert (theirs is None) == (ours is None)
        assert_same(ours, theirs)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time", "batch"])
def test_dropout_between_layers(served, batch_first, packed):
    """With one seed the same values are dropped, so that results can be compared; nothing is in evaluation."""
    theirs, ours = twins(num_layers=3, dropout=0.4, batch_first=batch_first, bidirectional=True, dtype=torch.float64)
    leaves = [torch.randn((N, T, D) if batch_first else (T, N, D), dtype=torch.float64)]
    lengths = torch.tensor([4, 11, 1])

    def make(x):
        torch.manual_seed(7)
        return rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False) if packed else x

    compare(theirs, ours, leaves, make)
    dropped = data(ours(make(leaves[0]))[0])
    compare(theirs.eval(), ours.eval(), leaves, make)
    assert not torch.equal(dropped, data(ours(make(leaves[0]))[0]))
    assert served


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=name_of)
def test_gradcheck(served, options, packed):
    _, ours = twins(2, 3, dtype=torch.float64, **options)
    x = torch.randn(5, 5, 2, dtype=torch.float64, requires_grad=True)
    rows = 5
    h0 = torch.randn(cells(options), rows, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 5, 1, 3, 3])

    def run(x, h0, *_):
        if packed:
            x = rnn.pack_padded_sequence(x, lengths, options.get("batch_first", False), enforce_sorted=False)
        y, h = ours(x, h0)
        return data(y), h

    assert torch.autograd.gradcheck(run, (x, h0, *ours.parameters()))
    assert served
