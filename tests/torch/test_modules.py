"""Modes, copies, processes, threads, and modules replaced and restored."""

import copy
import io
import pickle
import warnings

import children
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from twins import D, H, N, Net, T, assert_same, twins

import cgru.torch
from cgru import recurrence


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(served, mode):
    theirs, ours = twins(num_layers=2, bidirectional=True)
    x = torch.randn(T, N, D)
    with mode():
        found = ours(x)
        for a, b in zip(found, theirs(x), strict=True):
            assert_same(a, b)
            assert not a.requires_grad and a.is_inference() == b.is_inference()
    assert served
    for a, b in zip(found, ours(x), strict=True):  # of the same bits as with the tape
        assert torch.equal(a, b)


def copies():
    def saved(gru):
        file = io.BytesIO()
        torch.save(gru, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    def state(gru):
        other = cgru.torch.GRU(gru.input_size, gru.hidden_size, gru.num_layers, bidirectional=gru.bidirectional)
        other.load_state_dict(gru.state_dict())
        return other

    return [copy.deepcopy, copy.copy, lambda gru: pickle.loads(pickle.dumps(gru)), saved, state]


@pytest.mark.parametrize("make", copies(), ids=["deepcopy", "copy", "pickle", "torch.save", "state_dict"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_copies(served, make, frozen):
    _, ours = twins(num_layers=2, bidirectional=True)
    x = torch.randn(T, N, D)
    expected = ours(x)
    if frozen:
        with torch.no_grad():
            cgru.torch.freeze(ours.eval())(x)
    other = make(ours)
    assert type(other) is cgru.torch.GRU and isinstance(other, torch.nn.GRU)
    with torch.no_grad():
        for a, b in zip(other(x), expected, strict=True):
            assert torch.equal(a, b)
    assert len(served) == 2 + frozen
    assert other.state_dict().keys() == ours.state_dict().keys()
    torch.nn.GRU(D, H, 2, bidirectional=True).load_state_dict(other.state_dict())


WORKERS = """
import sys, warnings
import numpy as np
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
import cgru, cgru.torch


class Features(torch.utils.data.Dataset):
    def __init__(self, gru):
        self.gru = gru

    def __len__(self):
        return 4

    def __getitem__(self, i):
        if torch.utils.data.get_worker_info() is not None:
            assert torch.get_num_threads() == 1  # and so ours
        with torch.no_grad():
            return self.gru(torch.full((40, 9, 33), i / 4))[0]


if __name__ == "__main__":
    cgru.set_num_threads(2)  # so that there is a pool before the fork
    torch.manual_seed(0)
    data = Features(cgru.torch.GRU(33, 65, bidirectional=True))
    expected = [data[i] for i in range(len(data))]
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[1])
    found = [np.array(y) for y in loader]
    assert len(found) == 4 and all(np.array_equal(a, b) for a, b in zip(found, expected))
    print("same")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(tmp_path, method):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = children.python(script, method)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


def test_hooks_and_checkpoints(served):
    """Forward, backward and saved-tensor hooks see what they see of torch.nn.GRU; checkpoints compute again."""
    found = []
    for gru in twins(dtype=torch.float64):
        seen = []
        gru.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0].detach()))
        gru.register_forward_hook(lambda module, given, result, seen=seen: seen.append(result[0].detach()))
        gru.register_full_backward_hook(lambda module, into, outof, seen=seen: seen.extend([*into, outof[0]]))
        x = torch.linspace(-1, 1, N * T * D, dtype=torch.float64).view(T, N, D).requires_grad_()
        gru(x)[0].square().sum().backward()
        checkpoint(lambda x, gru=gru: gru(x)[0].square().sum(), x, use_reentrant=False).backward()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            loss = gru(x)[0].square().sum()
        loss.backward()
        found.append([*seen, x.grad, *(p.grad for p in gru.parameters())])
    assert len(served) == 4
    assert len(found[0]) == len(found[1]) > 6
    for theirs, ours in zip(*found, strict=True):
        assert_same(ours, theirs)


def test_deterministic_algorithms(served):
    theirs, ours = twins()
    x = torch.randn(T, N, D)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(ours(x)[0], theirs(x)[0])
    finally:
        torch.use_deterministic_algorithms(False)
    assert served


@pytest.mark.parametrize(("torch_threads", "own", "expected"), [(1, 2, 1), (2, 1, 1), (3, 2, 2), (2, 3, 2)])
def test_threads(monkeypatch, torch_threads, own, expected):
    """As many as both libraries allow."""
    seen = []
    run_calls = recurrence.kernels.run_calls
    monkeypatch.setattr(recurrence.kernels, "run_calls", lambda calls, n: seen.append(n) or run_calls(calls, n))
    most = cgru.get_num_threads()
    cgru.set_num_threads(own)
    torch.set_num_threads(torch_threads)
    try:
        cgru.torch.GRU(D, H)(torch.randn(T, N, D))[0].sum().backward()
    finally:
        cgru.set_num_threads(most)
    assert seen == [expected] * 2


def test_the_number_of_threads_changes_no_bit():
    most = cgru.get_num_threads()
    gru, x = cgru.torch.GRU(67, 131, bidirectional=True), torch.randn(30, 9, 67, requires_grad=True)
    found = []
    try:
        for threads in (1, 2, 3):
            cgru.set_num_threads(threads)
            torch.set_num_threads(threads)
            y, h = gru(x)
            found.append([y, h, *torch.autograd.grad(y.sum() + h.sum(), [x, *gru.parameters()])])
    finally:
        cgru.set_num_threads(most)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_replace_and_train(served):
    """The replaced model goes the way of the other, with the optimizer that it had."""
    x, labels = torch.randint(19, (6, T)), torch.randint(4, (6,))
    torch.manual_seed(3)
    theirs = Net().double()
    ours = copy.deepcopy(theirs)
    losses = []
    for net in (theirs, ours):
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        parameters = list(net.parameters())
        losses.append([])
        for step in range(12):
            if step == 2 and net is ours:
                assert cgru.torch.replace_gru(net) is net
                assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
            loss = torch.nn.functional.cross_entropy(net(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert len(served) == 20
    np.testing.assert_allclose(*losses, rtol=1e-9)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_replace_keeps_the_modules():
    net = Net()
    gru, mode = net.shared, net.second.eval()
    seen = []
    gru.register_forward_hook(lambda *_: seen.append(1))
    names = list(dict(net.named_modules()))
    for _ in range(2):  # the second time nothing changes
        cgru.torch.replace_gru(net)
        assert net.encoder["gru"] is net.shared is gru and type(gru) is cgru.torch.GRU
        assert net.second is mode and not mode.training and gru.training
    assert list(dict(net.named_modules())) == names
    net(torch.randint(19, (2, T)))
    assert seen == [1]
    assert "GRU(4" not in repr(gru) and repr(gru) == f"GRU({D}, {H}, batch_first=True)"
    assert cgru.torch.restore_gru(net) is net
    assert type(net.shared) is type(net.second) is torch.nn.GRU and gru is net.shared


def test_replace_the_model_itself(served):
    gru = torch.nn.GRU(D, H)
    assert cgru.torch.replace_gru(gru) is gru and type(gru) is cgru.torch.GRU
    gru(torch.randn(T, N, D))
    assert served


class Special(torch.nn.GRU):
    pass


class Own(cgru.torch.GRU):
    pass


def test_subclasses_are_left_alone():
    net = torch.nn.ModuleList([torch.nn.GRU(D, H), Special(D, H), Own(D, H)])
    parametrized = parametrizations.weight_norm(torch.nn.GRU(D, H), "weight_hh_l0")
    net.append(parametrized)
    before = [type(module) for module in net]
    cgru.torch.replace_gru(net)
    assert [type(module) for module in net] == [cgru.torch.GRU, *before[1:]]
    cgru.torch.restore_gru(net)
    assert [type(module) for module in net] == before


@pytest.mark.parametrize("function", ["replace_gru", "restore_gru", "freeze", "unfreeze"])
def test_nothing_to_replace(function):
    function = getattr(cgru.torch, function)
    with pytest.raises(TypeError, match=r"^model: expected a torch.nn.Module, got dict"):
        function({})
    with pytest.raises(
        ValueError, match=r"^model: expected a (torch.nn|cgru.torch).GRU or GRUCell, or a model .*, got a Linear"
    ):
        function(torch.nn.Linear(2, 3))


def test_constructed_as_torch_has_it():
    torch.manual_seed(5)
    theirs = torch.nn.GRU(D, H, 2, bidirectional=True)
    torch.manual_seed(5)
    ours = cgru.torch.GRU(D, H, 2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    for wrong in ({"proj_size": 3}, {"dropout": 2}, {"num_layers": 0}):
        for kind in (torch.nn.GRU, cgru.torch.GRU):
            with pytest.raises(ValueError, match=r"proj_size|dropout|num_layers"):
                kind(D, H, **wrong)


def test_weights_that_are_computed(served):
    """Weights that another module computes (parametrizations, functional_call) get their gradients."""
    found = []
    for kind in (torch.nn.GRU, cgru.torch.GRU):
        torch.manual_seed(6)
        gru = parametrizations.weight_norm(kind(D, H, dtype=torch.float64), "weight_hh_l0")
        x = torch.linspace(-1, 1, N * T * D, dtype=torch.float64).view(T, N, D)
        gru(x)[0].square().sum().backward()
        doubled = {name: 2 * parameter.detach() for name, parameter in gru.named_parameters()}
        called = torch.func.functional_call(gru, doubled, (x,))[0]
        found.append([called, *(parameter.grad for parameter in gru.parameters())])
    assert len(served) == 2
    for theirs, ours in zip(*found, strict=True):
        assert_same(ours, theirs)
