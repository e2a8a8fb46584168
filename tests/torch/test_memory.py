"""What is read and written where, and what may happen to that memory afterwards."""

import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from twins import D, H, N, T, assert_same, compare, twins

import cgru.torch
from cgru import recurrence


def test_no_copies_in_and_out(monkeypatch):
    """The passes read the input's memory, whatever its strides, and results are the memory that they wrote."""
    seen = []
    forward_pass = recurrence.forward_pass

    def spy(weights, x, h0, plan, y, *others):
        seen.append((x, y))
        return forward_pass(weights, x, h0, plan, y, *others)

    monkeypatch.setattr(recurrence, "forward_pass", spy)
    wide = torch.randn(2 * T, N, D + 3)
    for x, first in ((wide[::2, :, 1 : D + 1], False), (wide[::2, :, 1 : D + 1].transpose(0, 1), True)):
        gru = cgru.torch.GRU(D, H, batch_first=first, bidirectional=True)
        y, _ = gru(x.requires_grad_() if x.is_leaf else x)
        for read, written in seen:
            assert np.shares_memory(read, wide.numpy())
            assert np.shares_memory(written, y.detach().numpy())
        assert y.is_contiguous()
        seen.clear()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[..., ::2],
        lambda x: x[:, :1].expand(-1, N, -1)[..., :D],
        lambda x: x.transpose(0, 2).contiguous().transpose(0, 2)[..., :D],
        lambda x: x.flip(0)[..., D:],
    ],
)
def test_any_strides(served, change):
    theirs, ours = twins(dtype=torch.float64)
    compare(theirs, ours, [torch.randn(T, N, 2 * D, dtype=torch.float64)], change)
    h0 = torch.randn(H, N, 1, dtype=torch.float64).permute(2, 1, 0)
    x = torch.randn(T, N, D, dtype=torch.float64)
    for a, b in zip(ours(x, h0), theirs(x, h0), strict=True):
        assert_same(a, b)
    assert len(served) == 2


def test_gradients_of_any_strides(served):
    found = []
    for gru in twins(batch_first=True, bidirectional=True):
        x = torch.linspace(-1, 1, N * T * D).view(N, T, D).requires_grad_()
        y, h = gru(x)
        (y.sum() + y[:, ::2].flip(2).transpose(0, 1).contiguous().square().sum() + h.sum()).backward()
        found.append(x.grad)
    assert_same(found[1], found[0])
    assert served


def test_results_may_be_changed_in_place(served):
    """Backward reads neither outputs nor states."""
    found = []
    for gru in twins(dtype=torch.float64):
        x = torch.linspace(-1, 1, N * T * D, dtype=torch.float64).view(T, N, D).requires_grad_()
        y, h = gru(x)
        y, h = (y * 2, h) if type(gru) is torch.nn.GRU else (y.mul_(2), h)
        (y.square().sum() + h.sum()).backward()
        found.append(x.grad)
    assert_same(found[1], found[0])
    assert served


@pytest.mark.parametrize("what", ["input", "weight"])
def test_an_input_that_was_changed_is_noticed(what):
    for gru in twins():
        x = torch.randn(T, N, D)
        y, _ = gru(x)
        with torch.no_grad():
            (x if what == "input" else gru.weight_hh_l0).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_backward_again(served):
    """As PyTorch has it: only with retain_graph, since what was saved is freed while outputs live on."""
    _, ours = twins(dtype=torch.float64)
    x = torch.randn(T, N, D, dtype=torch.float64, requires_grad=True)
    y, _ = ours(x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and served
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        y.grad_fn.saved_tensors  # noqa: B018


def test_nan_stays_in_its_row(served):
    theirs, ours = twins()
    x = torch.randn(T, N, D)
    x[3, 1] = torch.nan
    y = ours(x)[0]
    assert torch.equal(y.isnan(), theirs(x)[0].isnan())
    assert y[:, [0, 2]].isfinite().all() and y[3:, 1].isnan().all() and y[:3].isfinite().all()


# -- what may happen to memory after a call


GONE = r"lost its memory|out of bounds for storage|not allocated yet"  # we say, or torch.nn.GRU

RESIZES = {
    "x": lambda x, h0, gru, y, h: x.detach().resize_(2 * T, N, D),
    "x itself": lambda x, h0, gru, y, h: x.data.resize_(1),
    "h0": lambda x, h0, gru, y, h: h0.data.resize_(4, N, H),
    "y": lambda x, h0, gru, y, h: y.detach().resize_(3 * T, N, H),
    "h": lambda x, h0, gru, y, h: h.detach().resize_(7, N, H),
    "gradient of x": lambda x, h0, gru, y, h: x.grad.resize_(2 * T, N, D),
    "gradient of h0": lambda x, h0, gru, y, h: h0.grad.resize_(9, N, H),
    "gradient of a weight": lambda x, h0, gru, y, h: gru.weight_hh_l0.grad.resize_(9 * H, H),
    "gradient of a bias": lambda x, h0, gru, y, h: gru.bias_ih_l0.grad.resize_(9 * H),
    "weight": lambda x, h0, gru, y, h: gru.weight_hh_l0.data.resize_(6 * H, H),
    "bias": lambda x, h0, gru, y, h: gru.bias_hh_l0.data.resize_(6 * H),
    "storage": lambda x, h0, gru, y, h: gru.weight_ih_l0.untyped_storage().resize_(0),
    "out=x": lambda x, h0, gru, y, h: torch.stack([torch.ones(N, D)] * 2 * T, out=x.detach()),
    "out=y": lambda x, h0, gru, y, h: torch.stack([torch.ones(N, H)] * 2 * T, out=y.detach()),
}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("resize", RESIZES)
def test_storages_stay_resizable(resize, frozen, steps):
    """After calls with and without gradients, as with torch.nn.GRU."""
    _, gru = twins()
    if frozen:
        cgru.torch.freeze(gru.eval())
    x, h0 = torch.randn(steps, N, D, requires_grad=True), torch.randn(1, N, H, requires_grad=True)
    with torch.no_grad():
        for _ in range(5):
            gru(x, h0)
    y, h = gru(x, h0)
    (y.sum() + h.sum()).backward()
    RESIZES[resize](x, h0, gru, y, h)


@pytest.mark.parametrize("what", ["data", "batch_sizes"])
def test_storages_of_packed_sequences_stay_resizable(what):
    _, gru = twins()
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(n, D) for n in (T, 6, 5)])
    y, h = gru(packed)
    (y.data.sum() + h.sum()).backward()
    getattr(packed, what).resize_(100)
    y.data.detach().resize_(1000, H)


def free(tensor):
    tensor.untyped_storage().resize_(0)


@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("what", ["x", "h0", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_memory_that_is_gone_is_never_read(served, what, frozen, steps):
    _, gru = twins()
    if frozen:
        cgru.torch.freeze(gru.eval())
    given = {"x": torch.randn(steps, N, D), "h0": torch.randn(1, N, H)}
    with torch.no_grad():
        for _ in range(4):
            gru(given["x"], given["h0"])
        free(given[what] if what in given else getattr(gru, what))
        del served[:]
        with pytest.raises(RuntimeError, match=GONE):
            gru(given["x"], given["h0"])
    assert not served


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("what", ["x", "h0", "weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_cells_never_read_memory_that_is_gone(served, what, frozen):
    gru = cgru.torch.GRUCell(D, H)
    if frozen:
        cgru.torch.freeze(gru.eval())
    given = {"x": torch.randn(N, D), "h0": torch.randn(N, H)}
    with torch.no_grad():
        for _ in range(4):
            gru(given["x"], given["h0"])
        free(given[what] if what in given else getattr(gru, what))
        del served[:]
        with pytest.raises(RuntimeError, match=GONE):
            gru(given["x"], given["h0"])
    assert not served


def test_part_of_the_memory_is_gone():
    _, gru = twins()
    x = torch.randn(T, N, D)
    x.untyped_storage().resize_(4 * x.numel() - 4)
    with pytest.raises(RuntimeError, match=r"shape \(11, 3, 2\) and torch.float32 has lost its memory: .* 260 bytes"):
        gru(x)
    strided = torch.randn(T, N, 2 * D)[..., ::2]
    strided.untyped_storage().resize_(4 * (T * N * 2 * D - 1))  # the last element is not read
    gru(strided)
    strided.untyped_storage().resize_(4 * (T * N * 2 * D - 2))
    with pytest.raises(RuntimeError, match="lost its memory"):
        gru(strided)


def test_memory_that_is_gone_before_backward():
    _, gru = twins()
    x = torch.randn(T, N, D)
    y, _ = gru(x)
    free(x)
    with pytest.raises(RuntimeError, match="lost its memory"):
        y.sum().backward()


def test_memory_that_moved_between_forward_and_backward():
    """As FSDP does: weights are gone after forward, and elsewhere when backward comes."""
    found = []
    for gru in twins(num_layers=2, bidirectional=True):
        x = torch.linspace(-1, 1, T * N * D).view(T, N, D).requires_grad_()
        y, _ = gru(x)
        for parameter in gru.parameters():
            kept, storage = parameter.detach().clone(), parameter.untyped_storage()
            size = storage.nbytes()
            storage.resize_(0)
            other = torch.randn(3 * size)  # what the freed memory may be used for
            storage.resize_(size)
            with torch.autograd._unsafe_preserve_version_counter(parameter), torch.no_grad():
                parameter.copy_(kept)
            del other
        (y.square().sum()).backward()
        found.append([x.grad, *(p.grad for p in gru.parameters())])
    for theirs, ours in zip(*found, strict=True):
        assert_same(ours, theirs, 1e-5)


def test_gradients_with_a_sign_flag_or_without_memory():
    """What arrives from above need not be plain memory."""
    for make in (
        lambda y: torch.complex(torch.zeros_like(y), torch.ones_like(y)).conj().imag,
        lambda y: torch.ones(()).expand_as(y),
        lambda y: torch._efficientzerotensor(y.shape),
        lambda y: torch.ones_like(y).to_sparse(),
    ):
        found = []
        for gru in twins():
            x = torch.linspace(-1, 1, T * N * D).view(T, N, D).requires_grad_()
            y, _ = gru(x)
            try:
                found.append(torch.autograd.grad(y, x, make(y))[0])
            except RuntimeError:
                found.append(None)
        if found[0] is not None:
            assert_same(found[1], found[0])
