"""Frozen modules."""

import copy
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from twins import D, H, N, Net, T, assert_same

import cgru.torch


def assert_current(gru, x, packs, packed):
    """A call gives what the present parameters give, and packs so many cells."""
    del packs[:]
    y, h = gru(x)
    assert len(packs) == packed
    fresh = cgru.torch.GRU(gru.input_size, gru.hidden_size, gru.num_layers, bidirectional=gru.bidirectional)
    fresh.to(gru.weight_ih_l0.dtype).load_state_dict(gru.state_dict())
    for a, b in zip((y, h), fresh(x), strict=True):
        assert torch.equal(a, b)


def frozen(**options):
    gru = cgru.torch.GRU(D, H, **options).eval()
    assert cgru.torch.freeze(gru) is gru
    return gru, torch.randn(T, N, D)


@torch.no_grad()
def test_frozen_packs_once(packs):
    gru, x = frozen(num_layers=2, bidirectional=True)
    assert_current(gru, x, packs, 4)
    for _ in range(3):
        assert_current(gru, x, packs, 0)
    assert cgru.torch.unfreeze(gru) is gru
    for _ in range(2):
        assert_current(gru, x, packs, 4)
    cgru.torch.freeze(gru)
    assert_current(gru, x, packs, 4)
    assert_current(gru, x, packs, 0)
    cgru.torch.restore_gru(gru)
    assert type(gru) is torch.nn.GRU and "_kept" not in vars(gru)


def test_unfrozen_packs_at_every_call(packs):
    gru, x = cgru.torch.GRU(D, H).eval(), torch.randn(T, N, D)
    with torch.no_grad():
        for _ in range(2):
            assert_current(gru, x, packs, 1)
        gru.weight_ih_l0.data.mul_(2)  # what no counter sees
        gru.weight_hh_l0.detach().numpy()[0] += 1
        assert_current(gru, x, packs, 1)


CHANGES = {
    "load_state_dict": lambda gru: gru.load_state_dict({k: v + 1 for k, v in gru.state_dict().items()}),
    "assign": lambda gru: gru.load_state_dict({k: v + 1 for k, v in gru.state_dict().items()}, assign=True),
    "in place": lambda gru: gru.weight_hh_l0.mul_(2),
    "bias": lambda gru: gru.bias_hh_l0.add_(1),
    "new parameter": lambda gru: setattr(gru, "bias_ih_l0", torch.nn.Parameter(torch.ones(3 * H))),
    "other memory": lambda gru: setattr(gru.bias_ih_l0, "data", torch.ones(3 * H)),
    "dtype": lambda gru: gru.double(),
    "reset": lambda gru: gru.reset_parameters(),
}


@torch.no_grad()
def test_frozen_again_after_a_change_that_nobody_counts(packs):
    gru, x = frozen()
    before = gru(x)[0]
    gru.weight_hh_l0.data.mul_(2)
    assert torch.equal(gru(x)[0], before)  # as `freeze` says
    cgru.torch.freeze(gru)
    assert_current(gru, x, packs, 1)
    assert not torch.equal(gru(x)[0], before)


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_frozen_sees_a_change(packs, change):
    gru, x = frozen()
    assert_current(gru, x, packs, 1)
    CHANGES[change](gru)
    x = x.to(gru.weight_ih_l0.dtype)
    assert_current(gru, x, packs, 1)
    assert_current(gru, x, packs, 0)


def test_frozen_but_trained(packs):
    """Calls in training mode, or for gradients of the weights, pack for themselves and drop what was kept: a fused
    optimizer, which PyTorch does not count, is seen."""
    gru, x = frozen()
    optimizer = torch.optim.Adam(gru.parameters(), 0.1, fused=True)
    for training in (True, False):
        for _ in range(2):
            gru.train(training)
            assert_current(gru, x, packs, 1)
            gru(x)[0].square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                assert_current(gru.eval(), x, packs, 1)
                assert_current(gru, x, packs, 0)
    with torch.no_grad():
        assert_current(gru.train(), x, packs, 1)
        assert_current(gru, x, packs, 1)


def test_frozen_gradients_of_the_input(packs):
    """With weights that require no gradients, those of the input come from what is kept."""
    gru, x = frozen(bidirectional=True)
    gru.requires_grad_(False)
    x.requires_grad_()
    theirs = cgru.torch.restore_gru(copy.deepcopy(gru))
    with torch.no_grad():
        gru(x)
    del packs[:]
    for packed in (2, 0):  # once more, for backward as well
        assert_same(*(torch.autograd.grad(g(x)[0].square().sum(), x)[0] for g in (gru, theirs)))
        with torch.no_grad():
            gru(x)
        assert len(packs) == packed
        del packs[:]


def test_freezing_a_model():
    net = cgru.torch.freeze(cgru.torch.replace_gru(Net().eval()))
    assert net.shared._kept is not None and net.second._kept is not None
    cgru.torch.unfreeze(net)
    assert net.shared._kept is None and net.second._kept is None
