"""Resets within rows of cgru.torch.GRU: a loop of torch.nn.GRU over single steps is what they are."""

import itertools
import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from torch.autograd import forward_ad
from torch.nn.utils import rnn
from twins import D, H, assert_same, results, twins

import cgru.torch

N, T = 3, 17
SAME = 0 if cgru.get_backend() == "native" else 1e-6


def random_resets(rng, first=True):
    resets = rng.random((T, N)) < 0.25
    resets[0] = [first, False, first]
    return torch.from_numpy(resets)


def looped(theirs, x, h, resets):
    """As sb3-contrib has it: one call a step, before which states are multiplied with 0 or 1; x (T, N, D)."""
    h = x.new_zeros(theirs.num_layers, x.shape[1], H) if h is None else h
    ys = []
    for x_t, r_t in zip(x, resets, strict=True):
        y_t, h = theirs(x_t[None], h * (1 - r_t.to(x.dtype))[None, :, None])
        ys.append(y_t)
    return torch.cat(ys), h


class Loop(torch.nn.Module):
    def __init__(self, theirs, resets):
        super().__init__()
        self.gru, self.resets = theirs, resets

    def forward(self, x, h=None):
        return looped(self.gru, x, h, self.resets)


class Ours(Loop):
    def forward(self, x, h=None):
        return self.gru(x, h, resets=self.resets)


@pytest.mark.parametrize("state", [False, True], ids=["zero", "h0"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_those_of_a_loop(rng, dtype, layers, state):
    theirs, ours = twins(num_layers=layers, dtype=dtype)
    x = torch.from_numpy(rng.standard_normal((T, N, D))).to(dtype)
    leaves = [x, torch.from_numpy(rng.standard_normal((layers, N, H))).to(dtype)] if state else [x]
    resets = random_resets(rng)
    expected = results(Loop(theirs, resets), leaves, lambda x: x)
    for given in resets, resets.numpy(), resets.numpy().tolist(), resets.to(dtype), resets.to(torch.bfloat16):
        for name, value in results(Ours(ours, given), leaves, lambda x: x).items():
            assert_same(value, expected[name], 1e-12 if dtype is torch.float64 else 2e-5, name)
    with torch.inference_mode():
        for found, name in zip(ours(x, *leaves[1:], resets=resets), "yh", strict=True):
            assert_same(found, expected[name].detach())
    cgru.torch.freeze(ours)
    assert_same(ours.eval()(x, *leaves[1:], resets=resets)[0], expected["y"].detach())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_bits_are_those_of_the_segments(rng, batch_first, bidirectional):
    _, ours = twins(num_layers=2, batch_first=batch_first, bidirectional=bidirectional)
    cgru.torch.freeze(ours.eval().requires_grad_(False))  # with weights that change PyTorch takes few steps
    x, resets = torch.randn(T, N, D, generator=torch.Generator().manual_seed(0)), random_resets(rng)
    h0 = torch.randn(4 if bidirectional else 2, N, H, generator=torch.Generator().manual_seed(1))
    turned = (lambda a: a.transpose(0, 1).contiguous()) if batch_first else (lambda a: a)
    y, h = ours(turned(x), h0, resets=turned(resets))
    y = turned(y)
    for i in range(N):
        cuts = [0, *(np.flatnonzero(resets[1:, i]) + 1), T]
        for a, b in itertools.pairwise(cuts):
            start = torch.zeros(h0.shape[0], 1, H)
            directions = 2 if bidirectional else 1
            if a == 0 and not resets[0, i]:
                start[::directions] = h0[::directions, i : i + 1]
            if b == T and bidirectional:
                start[1::2] = h0[1::2, i : i + 1]
            y_part, h_part = ours(turned(x[a:b, i : i + 1]), start)
            assert_same(y[a:b, i : i + 1], turned(y_part), SAME)
            if b == T:
                assert_same(h[::directions, i], h_part[::directions, 0], SAME)
            if a == 0 and bidirectional:
                assert_same(h[1::2, i], h_part[1::2, 0], SAME)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_first_and_second_derivatives(rng, bidirectional):
    _, ours = twins(features=2, units=3, dtype=torch.float64, bidirectional=bidirectional)
    resets = torch.from_numpy(rng.random((5, 2)) < 0.4)
    resets[2, 0] = True
    x = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2 if bidirectional else 1, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in ours.parameters()]
    names = [name for name, _ in ours.named_parameters()]

    def run(x, h, *values):
        return torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (x, h), {"resets": resets})

    assert torch.autograd.gradcheck(run, (x, h, *parameters), fast_mode=bidirectional)
    assert torch.autograd.gradgradcheck(run, (x, h, *parameters), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: ours(x, h, resets=resets), (x,), check_batched_grad=True)


def test_packed_sequences(rng):
    theirs, ours = twins(dtype=torch.float64)
    lengths, x = [4, T, 9], torch.randn(T, N, D, dtype=torch.float64)
    h0, resets = torch.randn(1, N, H, dtype=torch.float64), random_resets(rng)
    packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, h = ours(packed, h0, resets=rnn.pack_padded_sequence(resets, lengths, enforce_sorted=False))
    assert isinstance(y, rnn.PackedSequence)
    padded, _ = rnn.pad_packed_sequence(y)
    for i, n in enumerate(lengths):
        y_i, h_i = looped(theirs, x[:n, i : i + 1], h0[:, i : i + 1], resets[:n, i : i + 1])
        assert_same(padded[:n, i : i + 1], y_i)
        assert_same(h[:, i : i + 1], h_i)
    column = rnn.pack_padded_sequence(resets[..., None], lengths, enforce_sorted=False)
    assert_same(ours(packed, h0, resets=column)[0], y, 0)


def test_one_row_without_an_axis_of_rows(rng):
    theirs, ours = twins()
    x, resets, h0 = torch.randn(T, D), random_resets(rng)[:, 0], torch.randn(1, H)
    y, h = looped(theirs, x[:, None], h0[:, None], resets[:, None])
    found, h_found = ours(x, h0, resets=resets)
    assert_same(found, y[:, 0])
    assert_same(h_found, h[:, 0])


def test_a_single_step():
    theirs, ours = twins(batch_first=True)
    x, h0 = torch.randn(N, 1, D), torch.randn(1, N, H)
    resets = torch.tensor([True, False, True])
    h0[:, 0] = torch.nan  # of an episode that is over
    for given in h0, None:
        y, h = ours(x, given, resets=resets[:, None])
        expected = theirs(x, torch.zeros_like(h0) if given is None else given.masked_fill(resets[None, :, None], 0))
        assert_same(y, expected[0])
        assert_same(h, expected[1])
    both_ways = twins(bidirectional=True)[1]
    h0 = torch.randn(2, N, H)
    y, h = both_ways(x[:, 0][None], h0, resets=resets[None])
    h0[0, resets] = 0
    assert_same(h, both_ways(x[:, 0][None], h0)[1])


@pytest.mark.filterwarnings("ignore")  # of deprecations in PyTorch
def test_what_the_kernels_do_not_serve(rng):
    theirs, ours = twins()
    x, resets = torch.randn(T, N, D), random_resets(rng)
    with torch.autocast("cpu"):
        y, _ = ours(x, resets=resets)
    assert_same(y.float(), looped(theirs, x, None, resets)[0], 0.1)
    with forward_ad.dual_level():
        y, _ = ours(forward_ad.make_dual(x, torch.ones_like(x)), resets=resets)
        tangent = forward_ad.unpack_dual(y).tangent
    leaf = x.clone().requires_grad_()
    derivative = torch.autograd.grad(ours(leaf, resets=resets)[0].sum(), leaf)[0]
    assert float(tangent.detach().sum()) == pytest.approx(float(derivative.sum()), rel=1e-4)
    with pytest.raises(RuntimeError, match="resets: expected none in transforms"):
        torch.func.grad(lambda x: ours(x, resets=resets)[0].sum())(x)
    both = ours.to(torch.float16), x.half()
    assert_same(both[0](both[1], resets=resets)[0].float(), looped(theirs, x, None, resets)[0], 0.02)


def test_no_reset_is_no_resets():
    _, ours = twins()
    x = torch.randn(T, N, D)
    for given in torch.zeros(T, N), np.zeros((T, N), bool):
        assert_same(ours(x, resets=given)[0], ours(x)[0], 0)
    with pytest.raises(RuntimeError):  # in PyTorch's words
        ours(x[:0], resets=torch.zeros(0, N))


def test_what_is_wrong_is_named():
    _, ours = twins(batch_first=True)
    x, packed = torch.randn(N, T, D), rnn.pack_sequence([torch.randn(3, D), torch.randn(2, D)])
    other = rnn.pack_sequence([torch.zeros(3), torch.zeros(1)])
    for given, resets, error, message in (
        (x, torch.zeros(T, N), ValueError, rf"resets: expected shape \({N}, {T}\), got \({T}, {N}\)"),
        (x, torch.zeros(N, T, 1), ValueError, "resets: expected shape"),
        (x, torch.full((N, T), 2), ValueError, "resets: expected True and False, or 1 and 0, got 2"),
        (x, torch.full((N, T), torch.nan), ValueError, "resets: .*got nan"),
        (x, "yes", TypeError, "resets: expected dtype bool"),
        (x, packed, TypeError, "resets: expected a tensor or an array beside a tensor, got a PackedSequence"),
        (packed, torch.zeros(2, 3), TypeError, "resets: expected a PackedSequence beside a PackedSequence, got Tensor"),
        (packed, other, ValueError, "resets: expected the batch sizes"),
    ):
        with pytest.raises(error, match=message):
            ours(given, resets=resets)
    for wrong in ((x, torch.zeros(1, N + 1, H)), (x[..., 1:],), ([1, 2],)):
        with pytest.raises(Exception) as expected:
            ours(*wrong)
        with pytest.raises(type(expected.value)) as found:
            ours(*wrong, resets=torch.ones(N, T))
        assert str(found.value) == str(expected.value)
