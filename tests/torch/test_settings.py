"""Settings and parameters that are changed after construction: what torch.nn.GRU makes of them, or says."""

import copy
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from torch.nn.utils import parametrizations, parametrize, prune
from twins import D, H, N, T, assert_same, twins

import cgru.torch


def outcome(gru, *given):
    """The result, with gradients, or the error."""
    try:
        y, h = gru(*given)
        if y.requires_grad:
            gru.zero_grad()
            (y.square().sum() + h.sum()).backward()
        return [y, h, *(p.grad for p in gru.parameters() if p is not None)]
    except Exception as error:
        return error


def assert_same_outcome(theirs, ours, *given):
    expected, found = outcome(theirs, *given), outcome(ours, *given)
    if isinstance(expected, Exception):
        assert type(found) is type(expected), (found, expected)
        assert str(found) == str(expected)
        return
    assert not isinstance(found, Exception), found
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert_same(a, b, 2e-5)


def parameter(*shape):
    torch.manual_seed(9)
    return torch.nn.Parameter(torch.randn(*shape) / 3)


def flat(gru, change):
    gru._flat_weights = change(list(gru._flat_weights))


CHANGES = {
    "bidirectional": lambda gru: setattr(gru, "bidirectional", True),
    "bidirectional, a number": lambda gru: setattr(gru, "bidirectional", 1),
    "bidirectional, None": lambda gru: setattr(gru, "bidirectional", None),
    "one layer": lambda gru: setattr(gru, "num_layers", 1),
    "three layers": lambda gru: setattr(gru, "num_layers", 3),
    "no layers": lambda gru: setattr(gru, "num_layers", 0),
    "layers, a float": lambda gru: setattr(gru, "num_layers", 2.0),
    "one layer, both directions": lambda gru: gru.__dict__.update(num_layers=1, bidirectional=True),
    "hidden_size": lambda gru: setattr(gru, "hidden_size", H + 1),
    "input_size": lambda gru: setattr(gru, "input_size", D + 1),
    "no bias": lambda gru: setattr(gru, "bias", False),
    "bias, None": lambda gru: setattr(gru, "bias", None),
    "batch_first": lambda gru: setattr(gru, "batch_first", True),
    "batch_first, a number": lambda gru: setattr(gru, "batch_first", 1),
    "dropout of everything": lambda gru: setattr(gru, "dropout", 1.0),
    "dropout above one": lambda gru: setattr(gru, "dropout", 1.5),
    "dropout below zero": lambda gru: setattr(gru, "dropout", -0.5),
    "dropout, text": lambda gru: setattr(gru, "dropout", "0.5"),
    "proj_size": lambda gru: setattr(gru, "proj_size", 3),
    "mode": lambda gru: setattr(gru, "mode", "LSTM"),
    "a weight of None": lambda gru: setattr(gru, "weight_hh_l0", None),
    "a bias of None": lambda gru: setattr(gru, "bias_hh_l1", None),
    "a weight deleted": lambda gru: delattr(gru, "weight_hh_l0"),
    "another parameter": lambda gru: setattr(gru, "weight_hh_l0", parameter(3 * H, H)),
    "another parameter, other shape": lambda gru: setattr(gru, "weight_hh_l0", parameter(3 * H, H + 1)),
    "a tensor for a parameter": lambda gru: (
        delattr(gru, "weight_hh_l0"),
        setattr(gru, "weight_hh_l0", parameter(3 * H, H).detach()),
    ),
    "behind the module's back": lambda gru: gru._parameters.__setitem__("weight_hh_l0", parameter(3 * H, H)),
    "meta": lambda gru: gru.to("meta"),
    "a bias on meta": lambda gru: setattr(gru, "bias_ih_l0", torch.nn.Parameter(torch.empty(3 * H, device="meta"))),
    "double": lambda gru: gru.double(),
    "one double": lambda gru: setattr(gru, "bias_ih_l0", torch.nn.Parameter(gru.bias_ih_l0.double())),
    "tied": lambda gru: (setattr(gru, "weight_hh_l1", gru.weight_hh_l0), setattr(gru, "bias_hh_l1", gru.bias_hh_l0)),
    "other memory": lambda gru: setattr(gru.weight_hh_l1, "data", parameter(3 * H, H).data),
    "assigned": lambda gru: gru.load_state_dict({k: v * 2 for k, v in gru.state_dict().items()}, assign=True),
    "flat weights": lambda gru: flat(gru, lambda w: [parameter(*v.shape) for v in w]),
    "flat weights of another shape": lambda gru: flat(gru, lambda w: [parameter(5, 5) for v in w]),
    "flat weights, a tuple": lambda gru: setattr(gru, "_flat_weights", tuple(gru._flat_weights)),
    "fewer flat weights": lambda gru: flat(gru, lambda w: w[:4]),
    "more flat weights": lambda gru: flat(gru, lambda w: w + w[4:]),
    "more flat weights, and layers": lambda gru: (setattr(gru, "num_layers", 3), flat(gru, lambda w: w + w[4:])),
    "flat weights of None": lambda gru: flat(gru, lambda w: [None] * len(w)),
    "flat weights in disorder": lambda gru: flat(gru, lambda w: w[4:] + w[:4]),
    "no flat weights": lambda gru: flat(gru, lambda w: []),
    "pruned": lambda gru: prune.l1_unstructured(gru, "weight_hh_l0", 0.5),
    "pruned for good": lambda gru: prune.remove(prune.l1_unstructured(gru, "weight_hh_l0", 0.5), "weight_hh_l0"),
    "parametrized": lambda gru: parametrizations.weight_norm(gru, "weight_hh_l0"),
    "parametrized, and back": lambda gru: parametrize.remove_parametrizations(
        parametrizations.weight_norm(gru, "weight_hh_l0"), "weight_hh_l0"
    ),
    "one more parameter": lambda gru: setattr(gru, "extra", parameter(2)),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch
@pytest.mark.parametrize("steps", [1, 2, T])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_construction(change, frozen, steps):
    """The first call after it, the second, and those that follow when it is undone, with and without gradients."""
    theirs, ours = twins(H, H, num_layers=2)
    if frozen:
        cgru.torch.freeze(ours.eval())
        theirs.eval()
    x, h0 = torch.randn(steps, N, H), torch.randn(2, N, H)
    with torch.no_grad():
        for _ in range(4):
            assert_same_outcome(theirs, ours, x, h0)
    for gru in (theirs, ours):
        CHANGES[change](gru)
    for given in ((x,), (x, h0), (x.double(),)):
        for _ in range(4):
            torch.manual_seed(1)
            assert_same_outcome(theirs, ours, *given) if "drop" not in change else None
        with torch.no_grad():
            for _ in range(4):
                assert_same_outcome(theirs, ours, *given) if "drop" not in change else None
    for gru in (theirs, ours):
        gru.eval()
    with torch.no_grad():
        assert_same_outcome(theirs, ours, x)


@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("dropout", [1.0, 1.5, -0.5, "0.5", None])
def test_dropout_changed_after_construction(dropout, steps):
    theirs, ours = twins(num_layers=2, dropout=0.5)
    x = torch.randn(steps, N, D)
    for _ in range(3):
        for gru in (theirs, ours):
            gru.dropout = dropout
        torch.manual_seed(1)
        expected = outcome(theirs, x)
        torch.manual_seed(1)
        found = outcome(ours, x)
        assert type(found) is type(expected)
        if isinstance(expected, Exception):
            assert str(found) == str(expected)
        else:
            for a, b in zip(found, expected, strict=True):
                assert_same(a, b, 2e-5)


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about nested tensors
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_tensors(layout):
    nested = torch.nested.nested_tensor([torch.randn(T, D), torch.randn(4, D)], layout=layout)
    assert_same_outcome(*twins(batch_first=True), nested)
    assert_same_outcome(*twins(), nested)
    assert_same_outcome(*twins(), torch.randn(T, N, D), nested)


CELL_CHANGES = {
    "hidden_size": lambda cell: setattr(cell, "hidden_size", H + 1),
    "input_size": lambda cell: setattr(cell, "input_size", D + 1),
    "bias": lambda cell: setattr(cell, "bias", False),
    "weight of None": lambda cell: setattr(cell, "weight_hh", None),
    "one bias of None": lambda cell: setattr(cell, "bias_hh", None),
    "both biases of None": lambda cell: (setattr(cell, "bias_hh", None), setattr(cell, "bias_ih", None)),
    "a weight deleted": lambda cell: delattr(cell, "weight_hh"),
    "another parameter": lambda cell: setattr(cell, "weight_hh", parameter(3 * H, H)),
    "another shape": lambda cell: setattr(cell, "weight_hh", parameter(3 * H, H + 1)),
    "double": lambda cell: cell.double(),
    "pruned": lambda cell: prune.l1_unstructured(cell, "weight_hh", 0.5),
    "parametrized": lambda cell: parametrizations.weight_norm(cell, "weight_hh"),
    "put in another order": lambda cell: (
        setattr(cell, "w", cell.weight_ih),
        delattr(cell, "weight_ih"),
        setattr(cell, "weight_ih", cell.w),
    ),
    "tied": lambda cell: setattr(cell, "bias_hh", cell.bias_ih),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("change", CELL_CHANGES)
def test_a_change_of_a_cell(change, frozen):
    torch.manual_seed(2)
    theirs = torch.nn.GRUCell(D, H)
    ours = cgru.torch.replace_gru(copy.deepcopy(theirs))
    if frozen:
        cgru.torch.freeze(ours.eval())
    x, h = torch.randn(N, D), torch.randn(N, H)

    def run(cell, *given):
        state = cell(*given)
        return state, state

    def check(*given):
        expected, found = (outcome(lambda *g, cell=cell: run(cell, *g), *given) for cell in (theirs, ours))
        assert type(found) is type(expected), (found, expected)
        if isinstance(expected, Exception):
            assert str(found) == str(expected)
        else:
            assert_same(found[0], expected[0])

    with torch.no_grad():
        for _ in range(4):
            check(x, h)
        for cell in (theirs, ours):
            CELL_CHANGES[change](cell)
        for given in ((x,), (x, h), (x.double(),)):
            for _ in range(4):
                check(*given)


@pytest.mark.parametrize("steps", [1, T])
def test_functional_calls_between_others(steps):
    theirs, ours = twins()
    x = torch.randn(steps, N, D)
    with torch.no_grad():
        for scale in (1, 2, 1, 3):
            given = {name: scale * value for name, value in theirs.named_parameters()}
            for _ in range(4):
                expected, found = (torch.func.functional_call(gru, given, (x,)) for gru in (theirs, ours))
                for a, b in zip(found, expected, strict=True):
                    assert_same(a, b, 1e-5)
            assert_same_outcome(theirs, ours, x)


def test_data_parallel_and_replicas():
    theirs, ours = twins(num_layers=2)
    x = torch.randn(T, N, D)
    assert_same_outcome(torch.nn.DataParallel(theirs, dim=1), torch.nn.DataParallel(ours, dim=1), x)
    replica = ours._replicate_for_data_parallel()
    assert_same(replica(x)[0], theirs(x)[0])
