"""What PyTorch computes, or refuses."""

import copy
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

from torch.autograd import forward_ad
from torch.nn.utils import rnn
from twins import D, H, N, T, assert_same, cells, data, name_of, twins

import cgru.torch


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
    x = torch.randn((2, 5, 2) if first else (5, 2, 2), dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(cells(options), 2, 3, dtype=torch.float64, requires_grad=True)

    def run(gru, x, h0):
        x = rnn.pack_padded_sequence(x, torch.tensor([2, 5]), first, enforce_sorted=False) if packed else x
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
