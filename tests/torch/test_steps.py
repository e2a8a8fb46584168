"""Calls of one time step, of GRU and of GRUCell, which have a way of their own."""

import copy
import pickle
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from twins import FLOATS, TOLERANCE, D, H, N, assert_same, twins

import cgru.torch

MODES = [torch.no_grad, torch.inference_mode]
LARGE = 260  # units whose weights are too many to be compared at every step


def cell_twins(features=D, units=H, **options):
    theirs = torch.nn.GRUCell(features, units, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return theirs, cgru.torch.replace_gru(copy.deepcopy(theirs))


def stepper(kind, features=D, units=H, **options):
    """Twins of a kind of module, x, and h."""
    if kind == "GRUCell":
        theirs, ours = cell_twins(features, units, **options)
        return theirs, ours, torch.randn(N, features), torch.randn(N, units)
    theirs, ours = twins(features, units, **options)
    layers = options.get("num_layers", 1)
    return theirs, ours, torch.randn(1, N, features), torch.randn(layers, N, units)


def both(result):
    return result if isinstance(result, tuple) else (result,)


def assert_steps(theirs, ours, *given, tolerance=None):
    for a, b in zip(both(ours(*given)), both(theirs(*given)), strict=True):
        assert_same(a, b, tolerance)
        assert a.is_inference() == b.is_inference() and (a.is_contiguous() or not b.is_contiguous())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"num_layers": 3}, {"num_layers": 2, "bias": False, "dropout": 0.5}], ids=str
)
def test_steps_of_a_gru(served, options, frozen, dtype, mode):
    theirs, ours = twins(dtype=dtype, **options)
    theirs.eval(), ours.eval()
    if frozen:
        cgru.torch.freeze(ours)
    L = options.get("num_layers", 1)
    for first in (False, True):
        theirs.batch_first = ours.batch_first = first
        for rows in (1, N):
            x, h = torch.randn((rows, 1, D) if first else (1, rows, D)).to(dtype), torch.randn(L, rows, H).to(dtype)
            with mode():
                for given in ((x,), (x, h)) * 4:
                    assert_steps(theirs, ours, *given)
    with mode():
        for given in ((x[0, :1],), (x[0, :1], h[:, 0])) * 4:
            assert_steps(theirs, ours, *given)
    assert len(served) > 5 or options.get("dropout")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("bias", [True, False])
def test_steps_of_a_cell(served, bias, frozen, dtype, mode):
    theirs, ours = cell_twins(bias=bias, dtype=dtype)
    if frozen:
        cgru.torch.freeze(ours.eval())
    x, h = torch.randn(N, D).to(dtype), torch.randn(N, H).to(dtype)
    with mode():
        for given in ((x,), (x, h), (x[0],), (x[0], h[0]), (x[:1], h[:1])) * 3:
            assert_steps(theirs, ours, *given)
    assert len(served) >= 10


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_same_bits_as_the_whole_sequence(kind, served):
    """By the kernels a row's steps are the bits of its sequence, whoever stands beside it."""
    gru = cgru.torch.GRU(D, H)
    x = torch.randn(9, N, D)
    with torch.inference_mode():
        expected, last = gru(x)
    stepping = gru
    if kind == "GRUCell":
        stepping = cgru.torch.GRUCell(D, H)
        stepping.load_state_dict({name[:-3]: value for name, value in gru.state_dict().items()})
    cgru.torch.freeze(stepping.eval())
    del served[:]
    with torch.inference_mode():
        for rows in (slice(0, N), slice(1, 2)):
            state = torch.zeros(N, H)[rows] if kind == "GRUCell" else torch.zeros(1, N, H)[:, rows]
            for t in range(9):
                given = x[t, rows] if kind == "GRUCell" else x[t : t + 1, rows]
                result = stepping(given.contiguous(), state)
                y, state = (result, result) if kind == "GRUCell" else result
                assert torch.equal(y.view(-1, H), expected[t, rows])
            assert torch.equal(state.view(-1, H), last[0, rows])
    assert len(served) == 18


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("layout", ["time", "batch", "unbatched", "unbatched, batch first"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}], ids=str)
def test_few_steps(packs, options, layout, steps, recorded):
    """Packing is not worth it, but for one step of small weights that stay as they are."""
    theirs, ours = twins(batch_first="batch" in layout, **options)
    shape = {"time": (steps, N, D), "batch": (N, steps, D)}.get(layout, (steps, D))
    L = 4 if options else 1
    x, h = torch.randn(shape), torch.randn(L, H) if len(shape) == 2 else torch.randn(L, N, H)
    found = []
    for gru in (theirs, ours):
        found.append([])
        for given in ((x,), (x, h)) * 3:
            torch.manual_seed(4)
            with torch.set_grad_enabled(recorded):
                y, state = gru(*given)
            found[-1] += [y, state]
            if recorded:
                found[-1] += torch.autograd.grad(y.square().sum() + state.sum(), [*gru.parameters()])
    for a, b in zip(*found, strict=True):
        assert_same(b, a, 1e-5)
    assert len(packs) == (steps == 1 and not options and not recorded)


CHANGES = {
    "data": lambda gru: gru.weight_hh.data.mul_(2),
    "numpy": lambda gru: gru.weight_ih.detach().numpy().__setitem__(0, 5.0),
    "one element": lambda gru: gru.bias_hh.data[-1].add_(1),
    "sign of zero and back": lambda gru: gru.bias_ih.data.zero_(),
    "other memory": lambda gru: setattr(gru.bias_ih, "data", torch.ones(3 * H)),
    "parameter": lambda gru: setattr(gru, gru.names["weight_hh"], torch.nn.Parameter(torch.ones(3 * H, H))),
    "fused optimizer": lambda gru: optimize(gru),
    "assign": lambda gru: gru.load_state_dict({k: v + 1 for k, v in gru.state_dict().items()}, assign=True),
    "strides": lambda gru: setattr(gru.weight_hh, "data", torch.randn(H, 3 * H).t()),
    "not a number": lambda gru: gru.weight_hh.data.fill_(torch.nan),
}


def optimize(gru):
    for parameter in gru.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(gru.parameters(), 0.1, fused=True).step()


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_weights_is_seen_at_once(served, kind, change):
    """Not frozen, whatever way they change, before the first use and after many."""
    theirs, ours, x, h = stepper(kind)
    suffix = "" if kind == "GRUCell" else "_l0"
    for module in (theirs, ours):
        object.__setattr__(module, "names", {"weight_hh": "weight_hh" + suffix})
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            if suffix:
                object.__setattr__(module, name, getattr(module, name + suffix))
    with torch.no_grad():
        for calls in (6, 1, 2, 6, 6):
            for _ in range(calls):
                for a, b in zip(both(ours(x, h)), both(theirs(x, h)), strict=True):
                    assert torch.equal(a.isnan(), b.isnan())
                    torch.testing.assert_close(a.nan_to_num(), b.nan_to_num(), rtol=0, atol=1e-5)
            for module in (theirs, ours):
                torch.manual_seed(3)
                CHANGES[change](module)
    assert served


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_weights_that_change_between_all_calls_are_not_packed(packs, kind):
    theirs, ours, x, h = stepper(kind)
    with torch.no_grad():
        for _ in range(40):
            assert_steps(theirs, ours, x, h, tolerance=1e-5)
            for module in (theirs, ours):
                module._parameters[next(iter(module._parameters))].data.mul_(1.01)
    assert len(packs) < 5


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_large_weights_are_not_packed_for_a_step(packs, served, kind):
    theirs, ours, x, h = stepper(kind, 30, LARGE)
    with torch.inference_mode():
        for _ in range(5):
            assert_steps(theirs, ours, x, h)
    assert not packs and not served
    cgru.torch.freeze(ours.eval())
    with torch.inference_mode():
        for _ in range(5):
            assert_steps(theirs, ours, x, h)
    assert len(packs) == 1 and len(served) == 5


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_gradients_of_steps(kind, frozen):
    """A loop over steps trains as PyTorch's does, whatever calls without gradients came before."""
    found = []
    theirs, ours, x, h = stepper(kind)
    if frozen:
        cgru.torch.freeze(ours)
    for module in (theirs, ours):
        with torch.no_grad():
            for _ in range(4):
                module.eval()(x, h)
        state = start = h.clone().requires_grad_()
        given = x.clone().requires_grad_()
        for _ in range(3):
            state = both(module.train()(given, state))[-1]
        state.square().sum().backward()
        found.append([start.grad, given.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*found, strict=True):
        assert_same(b, a, 1e-6)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_gradients_of_the_input_alone(kind):
    theirs, ours, x, h = stepper(kind)
    for module in (theirs, ours):
        module.requires_grad_(False).eval()
    for _ in range(4):
        assert_steps(theirs, ours, x, h)
    found = []
    for module in (theirs, ours):
        given = x.clone().requires_grad_()
        both(module(given, h))[-1].square().sum().backward()
        found.append(given.grad)
    assert_same(found[1], found[0])


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_results_are_their_own(kind):
    """Nobody writes to what a call returned, and y and h are apart."""
    _, ours, x, h = stepper(kind)
    with torch.no_grad():
        kept = [[t.clone() for t in both(ours(x, h))]]
        results = [both(ours(x, h)) for _ in range(6)]
        for result in results:
            for tensor, expected in zip(result, kept[0], strict=True):
                torch.testing.assert_close(tensor, expected, rtol=0, atol=TOLERANCE[torch.float32])
        results[5][0].zero_()
        for result in results[:5]:
            assert result[0].any()
        assert kind == "GRUCell" or results[5][1].any()
        results[4][0].resize_(1000)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_tensors_that_the_kernels_cannot_read_as_they_are(kind, frozen):
    theirs, ours, x, h = stepper(kind)
    if frozen:
        cgru.torch.freeze(ours.eval())
    wide = torch.randn(*x.shape[:-1], 2 * D)
    memory = bytearray(4 * x.numel() + 8)
    odd = torch.frombuffer(memory, dtype=torch.float32, offset=1, count=x.numel()).view(x.shape)
    odd.copy_(x)
    assert odd.data_ptr() % 4
    with torch.no_grad():
        for _ in range(4):
            assert_steps(theirs, ours, x, h)
            assert_steps(theirs, ours, wide[..., ::2], h)
            assert_steps(theirs, ours, x, h.transpose(-1, -2).contiguous().transpose(-1, -2))
            assert_steps(theirs, ours, x[..., :1].expand_as(x), h)
            assert_steps(theirs, ours, odd, h)


WRONG = {
    "dtype": lambda x, h: (x.double(), h),
    "dtype of the state": lambda x, h: (x, h.double()),
    "features": lambda x, h: (x[..., 1:], h),
    "units": lambda x, h: (x, h[..., 1:]),
    "rows": lambda x, h: (x, h[..., 1:, :]),
    "axes": lambda x, h: (x[None, None], h),
    "no axes": lambda x, h: (x.sum(), h),
    "no tensor": lambda x, h: (None, h),
    "nested": lambda x, h: (torch.nested.nested_tensor([x[0], x[0]]), h),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about nested tensors
@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("wrong", WRONG)
def test_errors_of_steps_are_those_of_torch(kind, frozen, wrong):
    theirs, ours, x, h = stepper(kind)
    if frozen:
        cgru.torch.freeze(ours.eval())
    given = WRONG[wrong](x, h)
    with torch.no_grad():
        for _ in range(4):
            assert_steps(theirs, ours, x, h)
            try:
                expected = theirs(*given)
            except Exception as error:
                with pytest.raises(type(error)) as found:
                    ours(*given)
                assert str(found.value) == str(error)
            else:
                for a, b in zip(both(ours(*given)), both(expected), strict=True):
                    assert_same(a, b)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_copies_after_steps(kind, frozen):
    theirs, ours, x, h = stepper(kind)
    if frozen:
        cgru.torch.freeze(ours.eval())
    with torch.no_grad():
        for _ in range(4):
            ours(x, h)
        for other in (copy.deepcopy(ours), copy.copy(ours), pickle.loads(pickle.dumps(ours))):
            for _ in range(4):
                assert_steps(theirs, other, x, h)
    plain = cgru.torch.restore_gru(ours)
    assert type(plain) is type(theirs) and not {"_kept", "_step"} & vars(plain).keys()
    assert b"cgru" not in pickle.dumps(plain)


def test_cells_are_replaced_restored_and_frozen(served):
    net = torch.nn.ModuleList([torch.nn.GRUCell(D, H), torch.nn.GRU(D, H), torch.nn.Sequential(torch.nn.GRUCell(D, H))])
    cgru.torch.replace_gru(net)
    assert [type(net[0]), type(net[1]), type(net[2][0])] == [cgru.torch.GRUCell, cgru.torch.GRU, cgru.torch.GRUCell]
    cgru.torch.freeze(net.eval())
    assert net[0]._kept is not None and net[2][0]._kept is not None
    with torch.no_grad():
        net[0](torch.zeros(N, D))
    assert len(served) == 1
    cgru.torch.unfreeze(net)
    assert net[0]._kept is None
    cgru.torch.restore_gru(net)
    assert [type(net[0]), type(net[1]), type(net[2][0])] == [torch.nn.GRUCell, torch.nn.GRU, torch.nn.GRUCell]


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_steps_within_transforms_and_modes(served, kind):
    theirs, ours, x, h = stepper(kind)
    with torch.no_grad():
        for _ in range(4):
            ours(x, h)
        del served[:]
        with torch.autocast("cpu", torch.bfloat16):
            for a, b in zip(both(ours(x, h)), both(theirs(x, h)), strict=True):
                assert_same(a, b, 0)
    assert not served


def test_a_frozen_cell_sees_a_change(packs):
    theirs, ours = cell_twins()
    cgru.torch.freeze(ours.eval())
    x = torch.randn(N, D)
    with torch.no_grad():
        for change in range(3):
            for module in (theirs, ours):
                module.weight_hh.add_(change)
            for _ in range(3):
                assert_steps(theirs, ours, x)
            assert len(packs) == change + 1
        ours.train()
        del packs[:]
        assert_steps(theirs, ours, x)
