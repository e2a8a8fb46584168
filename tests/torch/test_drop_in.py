"""cgru.torch.GRU against torch.nn.GRU: values, gradients, the ways it is called, stored and refused."""

import copy
import io
import pickle
import subprocess
import sys
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru import recurrence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

import cgru.torch

N, T, D, H = checks.N, 11, checks.D, checks.H
FLOATS = [torch.float32, torch.float64]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6}


@pytest.fixture(autouse=True)
def one_thread():
    """Sizes are small, and threads that wait for work by spinning slow down everything else."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def served(monkeypatch):
    """A list that grows by one whenever the kernels serve a call."""
    calls = []
    run = cgru.torch._run_layers
    monkeypatch.setattr(cgru.torch, "_run_layers", lambda *given: calls.append(1) or run(*given))
    return calls


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


# -- values and gradients

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


LENGTHS = {"sorted": [11, 8, 8, 3, 1], "unsorted": [3, 11, 8, 1, 8], "equal": [11] * 5, "single": [11]}


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
    features, units, rows, steps = (int(rng.integers(1, most)) for most in (40, 70, 20, 30))
    theirs, ours = twins(features, units, dtype=dtype, **options)
    x = torch.randn((rows, steps, features) if options["batch_first"] else (steps, rows, features), dtype=dtype)
    h0 = torch.randn(cells(options), rows, units, dtype=dtype)
    lengths = torch.from_numpy(rng.integers(1, steps + 1, rows))

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
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    rows = x.shape[0 if options.get("batch_first") else 1]
    h0 = torch.randn(cells(options), rows, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 3, 1, 3][:rows])

    def run(x, h0, *_):
        if packed:
            x = rnn.pack_padded_sequence(x, lengths, options.get("batch_first", False), enforce_sorted=False)
        y, h = ours(x, h0)
        return data(y), h

    assert torch.autograd.gradcheck(run, (x, h0, *ours.parameters()))
    assert served


# -- memory: what is read and written where


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


# -- modes, copies, processes


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
    done = subprocess.run([sys.executable, script, method], capture_output=True, text=True, timeout=120)
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


# -- replace_gru, restore_gru


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
    with pytest.raises(ValueError, match=r"^model: expected a (torch.nn|cgru.torch).GRU or a model .*, got a Linear"):
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


# -- freeze


@pytest.fixture
def packs(monkeypatch):
    """A list that grows by one whenever a cell's weights are packed."""
    calls = []
    prepare = recurrence.prepare
    monkeypatch.setattr(recurrence, "prepare", lambda *a, **k: calls.append(1) or prepare(*a, **k))
    return calls


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


# -- what PyTorch computes, or refuses


def assert_refused(served, theirs, ours, *arguments):
    """Both raise the same error, and the kernels were not asked."""
    with pytest.raises(Exception) as expected:
        theirs(*arguments)
    with pytest.raises(type(expected.value)) as found:
        ours(*arguments)
    assert str(found.value) == str(expected.value)
    assert not served


WRONG = {
    "dtype of x": lambda x: (x.double(),),
    "dtype of h0": lambda x: (x, torch.zeros(1, N, H).double()),
    "integers": lambda x: (x.long(),),
    "features": lambda x: (x[..., :-1],),
    "axes": lambda x: (x[None],),
    "a number": lambda x: (torch.tensor(1.0),),
    "no tensor": lambda x: ([1, 2, 3],),
    "an array": lambda x: (x.numpy(),),
    "state": lambda x: (x, torch.zeros(1, N + 1, H)),
    "units of the state": lambda x: (x, torch.zeros(1, N, H + 1)),
    "layers of the state": lambda x: (x, torch.zeros(2, N, H)),
    "flat state": lambda x: (x, torch.zeros(N, H)),
    "deep state": lambda x: (x[:, 0], torch.zeros(1, 1, H)),
    "tuple for a state": lambda x: (x, (torch.zeros(1, N, H),) * 2),
    "no steps": lambda x: (x[:0],),
    "meta": lambda x: (x.to("meta"),),
    "sparse": lambda x: (x.to_sparse(),),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_are_those_of_torch(served, wrong):
    assert_refused(served, *twins(), *WRONG[wrong](torch.randn(T, N, D)))


def test_packed_errors_are_those_of_torch(served):
    theirs, ours = twins()
    packed = rnn.pack_sequence([torch.randn(4, D), torch.randn(2, D)])
    assert_refused(served, theirs, ours, packed, torch.zeros(1, 3, H))
    assert_refused(served, theirs, ours, rnn.PackedSequence(packed.data[:, 1:], packed.batch_sizes))
    assert_refused(served, theirs, ours, rnn.PackedSequence(packed.data.double(), packed.batch_sizes))


@pytest.mark.parametrize("sizes", [[2, 3, 1], [3, 2, 2], [2, 2], [], [3, 3, 0]])
def test_inconsistent_packed_sequences_never_reach_the_kernels(served, sizes):
    """Batch sizes made by hand: what PyTorch makes of them is its own business."""
    _, ours = twins()
    packed = rnn.PackedSequence(torch.randn(6, D), torch.tensor(sizes, dtype=torch.int64))
    try:
        ours(packed)
    except (RuntimeError, IndexError):
        pass
    assert not served


def test_weights_of_another_shape(served):
    theirs, ours = twins()
    for gru in (theirs, ours):
        gru.weight_hh_l0 = torch.nn.Parameter(torch.zeros(3 * H, H + 1))
    assert_refused(served, theirs, ours, torch.randn(T, N, D))


def same_and_not_served(served, theirs, ours, call, tolerance=0):
    """`call(gru)` gives the same, and no call reaches the kernels; then the kernels serve again."""
    found, expected = call(ours), call(theirs)
    assert not served
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b, tolerance)
    ours.cpu().float()(torch.zeros(T, N, D))
    assert served


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(served, dtype):
    same_and_not_served(
        served, *twins(), lambda gru: gru.to(dtype)(torch.linspace(-1, 1, T * N * D, dtype=dtype).view(T, N, D))
    )


def test_autocast(served):
    x = torch.randn(T, N, D)

    def call(gru):
        with torch.autocast("cpu", torch.bfloat16):
            return gru(x)

    same_and_not_served(served, *twins(), call)


def test_another_device(served):
    _, ours = twins()
    y, h = copy.deepcopy(ours).to("meta")(torch.zeros(T, N, D, device="meta"))
    assert y.device.type == h.device.type == "meta" and y.shape == (T, N, H)
    assert not served


def test_no_rows(served):
    same_and_not_served(served, *twins(), lambda gru: gru(torch.zeros(T, 0, D)))


class Marked(torch.Tensor):
    pass


def test_subclasses_of_tensor(served):
    x = torch.randn(T, N, D)
    same_and_not_served(served, *twins(), lambda gru: gru(x.as_subclass(Marked)))


def test_negative_views(served):
    """Tensors whose sign is a flag, not in their memory."""
    x = torch.complex(torch.randn(T, N, D), torch.randn(T, N, D)).conj().imag
    assert x.is_neg()
    same_and_not_served(served, *twins(), lambda gru: gru(x))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=name_of)
def test_gradients_of_gradients(served, options, packed):
    """create_graph=True, against finite differences; and an applied penalty, against torch.nn.GRU."""
    theirs, ours = twins(2, 3, dtype=torch.float64, **options)
    first = options.get("batch_first", False)
    x = torch.randn((2, 3, 2) if first else (3, 2, 2), dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(cells(options), 2, 3, dtype=torch.float64, requires_grad=True)

    def run(gru, x, h0):
        x = rnn.pack_padded_sequence(x, torch.tensor([2, 3]), first, enforce_sorted=False) if packed else x
        y, h = gru(x, h0)
        return data(y), h

    leaves = x, h0, *ours.parameters()
    assert torch.autograd.gradgradcheck(lambda x, h0, *_: run(ours, x, h0), leaves, fast_mode=True)
    assert served
    found = []
    for gru in (theirs, ours):
        y, h = run(gru, x, h0)
        slopes = torch.autograd.grad(y.sum() + h.square().sum(), [x, h0], create_graph=True)
        found.append(torch.autograd.grad(sum(s.square().sum() for s in slopes), [x, h0, *gru.parameters()]))
    for a, b in zip(*found, strict=True):
        assert_same(b, a)


def test_gradients_of_gradients_where_one_call_feeds_the_next(served):
    """The same weights twice: each call's gradients are its own."""
    found = []
    for gru in twins(D, D, dtype=torch.float64):
        x = torch.linspace(-1, 1, T * N * D, dtype=torch.float64).view(T, N, D).requires_grad_()
        y, _ = gru(gru(x)[0])
        slopes = torch.autograd.grad(y.sum(), [x, *gru.parameters()], create_graph=True)
        found.append([*slopes, *torch.autograd.grad(sum(s.square().sum() for s in slopes), [x, *gru.parameters()])])
    assert served
    for a, b in zip(*found, strict=True):
        assert_same(b, a, 1e-12)


def test_batches_of_gradients(served):
    _, ours = twins(dtype=torch.float64, bidirectional=True)
    x = torch.randn(T, N, D, dtype=torch.float64, requires_grad=True)
    y, _ = ours(x)
    above = torch.randn(5, *y.shape, dtype=torch.float64)

    def pull(dy):
        return torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    expected = torch.stack([pull(dy) for dy in above])
    assert_same(torch.autograd.grad(y, x, above, is_grads_batched=True, retain_graph=True)[0], expected)
    assert_same(torch.vmap(pull)(above), expected)
    assert served


@pytest.mark.filterwarnings("ignore")  # of deprecations in PyTorch
def test_forward_mode(served):
    x = torch.randn(T, N, D)

    def call(gru):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(gru(forward_ad.make_dual(x, x.flip(0)))[0])

    same_and_not_served(served, *twins(), call)


@pytest.mark.filterwarnings("ignore")  # of deprecations in PyTorch
def test_functional_transforms(served):
    x = torch.randn(T, N, D)

    def gradient(gru):
        parameters = dict(gru.named_parameters())
        gradients = torch.func.grad(lambda p: torch.func.functional_call(gru, p, (x,))[0].sum())(parameters)
        return list(gradients.values())

    same_and_not_served(served, *twins(), gradient)
    del served[:]
    same_and_not_served(served, *twins(), lambda gru: torch.func.jvp(lambda x: gru(x)[0], (x,), (x.flip(0),)))
    theirs, ours = twins()
    del served[:]
    with pytest.raises(RuntimeError, match=r"[Bb]atching rule"):  # PyTorch has none for its GRU
        torch.vmap(lambda x: theirs(x)[0])(x[None])
    with pytest.raises(RuntimeError, match=r"[Bb]atching rule"):
        torch.vmap(lambda x: ours(x)[0])(x[None])
    assert not served


@pytest.mark.filterwarnings("ignore")  # of deprecations in PyTorch
def test_tracing_and_scripting(served):
    x = torch.randn(T, N, D)
    theirs, ours = twins()

    traced = torch.jit.trace(ours, (x,), check_trace=False)
    assert not served
    longer = torch.randn(T + 3, N + 1, D)
    assert_same(traced(longer)[0], theirs(longer)[0])
    with pytest.raises(RuntimeError, match=r"torch.nn.GRU alone: call cgru.torch.restore_gru\(model\) before"):
        torch.jit.script(torch.nn.Sequential(ours))
    scripted = torch.jit.script(cgru.torch.restore_gru(torch.nn.Sequential(ours)))
    assert_same(scripted(longer)[0], theirs(longer)[0])
    assert not served


@pytest.mark.filterwarnings("ignore")  # of deprecations in PyTorch
@pytest.mark.parametrize("strict", [False, True])
def test_exporting(served, strict):
    x = torch.randn(T, N, D)
    same_and_not_served(served, *twins(), lambda gru: torch.export.export(gru, (x,), strict=strict).module()(x))


@pytest.mark.filterwarnings("ignore")  # of deprecations in PyTorch
def test_compiling(served):
    x = torch.randn(T, N, D)

    def call(gru):
        torch._dynamo.reset()
        torch.manual_seed(4)
        model = torch.nn.ModuleList([gru, torch.nn.Linear(H, 2)])
        model.forward = lambda x: model[1](model[0](x.relu())[0])
        return [torch.compile(model, backend="eager")(x)]

    same_and_not_served(served, *twins(), call, 1e-6)


def test_dispatch_modes(served):
    from torch.utils.flop_counter import FlopCounterMode

    x, counts = torch.randn(T, N, D), []
    for gru in twins():
        with FlopCounterMode(display=False) as counter:
            gru(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0 and not served


def test_quantized_modules_are_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations in PyTorch
        net = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.GRU(D, H)), {torch.nn.GRU})
    with pytest.raises(ValueError, match="model: expected a torch"):
        cgru.torch.replace_gru(net)
