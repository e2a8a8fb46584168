"""torch.nn.GRU and what from_torch makes of it: outputs, states and every gradient; and the way back."""

import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

N, T, D, H = checks.N, 11, checks.D, checks.H
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}


@pytest.fixture(autouse=True)
def one_thread():
    """Sizes are small, and threads that wait for work by spinning slow down everything else."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def twins(rng, dtype, features=D, units=H, **options):
    """A torch.nn.GRU with random weights, and the cgru.GRU that it becomes."""
    theirs = torch.nn.GRU(features, units, batch_first=True, dtype=getattr(torch, dtype), **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            values = rng.standard_normal(parameter.shape) / np.sqrt(parameter.shape[-1])
            parameter.copy_(torch.from_numpy(values.astype(dtype)))
    return cgru.from_torch(theirs), theirs


def compare(ours, theirs, x, h0, rng, lengths=None):
    dtype = x.dtype.name
    x_t, h0_t = torch.from_numpy(x).requires_grad_(), torch.from_numpy(h0).requires_grad_()
    state = h0_t if h0.ndim == 3 else h0_t[None]
    if lengths is None:
        y_t, h_t = theirs(x_t, state)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x_t, torch.from_numpy(lengths), True, enforce_sorted=False)
        y_t, h_t = theirs(packed, state)
        y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(y_t, True, total_length=x.shape[1])
    dy = rng.standard_normal(y_t.shape).astype(dtype)
    dh = rng.standard_normal(h0.shape).astype(dtype)
    torch.autograd.backward([y_t, h_t], [torch.from_numpy(dy), torch.from_numpy(dh.reshape(h_t.shape))])

    y, h, tape = ours.forward(x, h0, lengths=lengths, training=True)
    dx, dh0, grads = ours.backward(dy, tape, dh)
    tolerance = TOLERANCE[dtype]
    checks.assert_close(y, y_t.detach(), tolerance, "y")
    checks.assert_close(h, h_t.detach().reshape(h.shape), tolerance, "h")
    checks.assert_close(dx, x_t.grad, tolerance, "dx")
    checks.assert_close(dh0, h0_t.grad, tolerance, "dh0")
    # Gradients are converted as the weights are.
    expected = cgru.from_torch({name: parameter.grad for name, parameter in theirs.named_parameters()}).parameters
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        checks.assert_close(gradient, expected[name], tolerance, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, np.array([4, 11, 1])], ids=["whole", "packed"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"bidirectional": True},
        {"num_layers": 3},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "bias": False},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_outputs_and_gradients(rng, options, lengths, dtype):
    ours, theirs = twins(rng, dtype, **options)
    x = rng.standard_normal((N, T, D)).astype(dtype)
    h0 = rng.standard_normal(ours._state_shape(N)).astype(dtype)
    compare(ours, theirs, x, h0, rng, lengths)


def test_a_longer_and_wider_one_in_float32(rng):
    ours, theirs = twins(rng, "float32", 13, 67)
    x, h0 = rng.standard_normal((5, 200, 13)), rng.standard_normal((5, 67))
    compare(ours, theirs, x.astype("float32"), h0.astype("float32"), rng)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_modules_there_and_back(rng, dtype):
    """Random numbers of layers and directions, sizes and lengths, batch-first or not."""
    for _ in range(12):
        features, units, n, t = rng.integers(1, 20, 4).tolist()
        options = {name: bool(rng.integers(2)) for name in ("bidirectional", "bias", "batch_first")}
        layers = int(rng.integers(1, 4))
        theirs = torch.nn.GRU(features, units, num_layers=layers, dtype=getattr(torch, dtype), **options)
        ours = cgru.from_torch(theirs)
        x = rng.standard_normal((n, t, features)).astype(dtype)
        x = x if theirs.batch_first else x.swapaxes(0, 1)
        h0 = rng.standard_normal((len(ours._prefixes), n, units)).astype(dtype)
        lengths = rng.integers(1, t + 1, n)
        x_t = torch.from_numpy(np.ascontiguousarray(x))
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x_t, torch.from_numpy(lengths), theirs.batch_first, enforce_sorted=False
        )
        for module in (theirs, cgru.convert.to_torch_module(ours)):
            with torch.no_grad():
                y_t, h_t = module(packed, torch.from_numpy(h0))
            y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(y_t, theirs.batch_first, total_length=t)
            y, h = ours(x, initial_state=h0.reshape(ours._state_shape(n)), lengths=lengths)
            checks.assert_close(y, y_t, TOLERANCE[dtype], f"y of {theirs}")
            checks.assert_close(h.reshape(h0.shape), h_t, TOLERANCE[dtype], f"h of {theirs}")
        checks.assert_same_arrays(
            cgru.convert.to_torch(ours), {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_widen(dtype):
    theirs = torch.nn.GRU(D, H, dtype=getattr(torch, dtype))
    ours = cgru.from_torch(theirs)
    assert ours.dtype == "float32"
    widened = {name: tensor.float().numpy() for name, tensor in theirs.state_dict().items()}
    checks.assert_same_arrays(cgru.convert.to_torch(ours), widened)


def test_a_module_that_holds_a_gru_and_a_cell(rng):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(D, H)
            self.encoder = torch.nn.ModuleDict({"gru": torch.nn.GRU(D, H, bidirectional=True)})
            self.h0 = torch.nn.Parameter(torch.randn(2, 1, H))

    model = Model()
    with pytest.warns(PartialConversionWarning, match=r"GRU 'encoder.gru' was converted; left out: lstm.weight_ih"):
        ours = cgru.from_torch(model, initial_state="h0")
    assert ours.time_major and ours.bidirectional
    assert not cgru.from_torch(model, "encoder.gru", time_major=False).time_major
    x = rng.standard_normal((T, N, D)).astype("float32")
    with torch.no_grad():
        expected, _ = model.encoder["gru"](torch.from_numpy(x), model.h0.expand(2, N, H).contiguous())
    checks.assert_close(ours(x)[0], expected, TOLERANCE["float32"])

    cell = torch.nn.GRUCell(D, H, dtype=torch.float64)
    x, h = rng.standard_normal((N, D)), rng.standard_normal((N, H))
    with torch.no_grad():
        expected = cell(torch.from_numpy(x), torch.from_numpy(h))
    checks.assert_close(cgru.from_torch(cell).step(x, h), expected, TOLERANCE["float64"])
