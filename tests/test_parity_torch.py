"""torch.nn.GRU with the same weights: outputs, states and every gradient. PyTorch's z weighs the old state."""

import warnings

import checks
import numpy as np
import pytest

import cgru

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


def converted(rows):
    """PyTorch's (3H, ...) in rows r, z, n as cgru's columns (..., 3H), or back; weights and gradients alike."""
    rows = np.array(rows)
    rows[len(rows) // 3 : 2 * len(rows) // 3] *= -1
    return rows.T


def twins(rng, dtype, features=D, units=H, **options):
    """A torch.nn.GRU with random weights, and the cgru.GRU that it becomes."""
    theirs = torch.nn.GRU(features, units, batch_first=True, dtype=getattr(torch, dtype), **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            values = rng.standard_normal(parameter.shape) / np.sqrt(parameter.shape[-1])
            parameter.copy_(torch.from_numpy(values.astype(dtype)))
    ours = {"use_bias": options.pop("bias", True), **options}
    ours = cgru.GRU(units, reset_after=True, return_sequences=True, dtype=dtype, input_size=features, **ours)
    with ours.update() as parameters:
        for name, value in by_our_names(ours, theirs, lambda parameter: parameter.detach().numpy()).items():
            parameters[name] = value
    return ours, theirs


def by_our_names(ours, theirs, values):
    """What `values` gives for PyTorch's parameters, converted, under cgru's names."""
    result = {}
    for name in ours.parameters:
        prefix, _, kind = name.rpartition(".")
        layer, _, direction = (prefix or "l0.forward").partition(".")
        suffix = f"_{layer}" + ("_reverse" if direction == "backward" else "")

        def get(which, suffix=suffix):
            return converted(values(getattr(theirs, which + suffix)))

        if kind == "bias":
            result[name] = np.stack([get("bias_ih"), get("bias_hh")])
        else:
            result[name] = get("weight_ih" if kind == "kernel" else "weight_hh")
    return result


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
    expected = by_our_names(ours, theirs, lambda parameter: parameter.grad.numpy())
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
