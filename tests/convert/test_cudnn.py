"""cuDNN's canonical form: by linLayerID, six matrices and six biases a pseudo-layer."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_cudnn, to_cudnn

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_form(rng, inputs=D, units=H, dtype="float64"):
    """(matrices, biases) of one pseudo-layer."""
    matrices = [rng.standard_normal((units, inputs if i < 3 else units)).astype(dtype) for i in range(6)]
    return matrices, [rng.standard_normal(units).astype(dtype) for _ in range(6)]


def theirs(matrices, b, x, h):
    W, R = matrices[:3], matrices[3:]
    ys = []
    for t in range(x.shape[1]):
        v = x[:, t]
        r = checks.sigmoid(v @ W[0].T + h @ R[0].T + b[0] + b[3])
        i = checks.sigmoid(v @ W[1].T + h @ R[1].T + b[1] + b[4])
        n = np.tanh(v @ W[2].T + r * (h @ R[2].T + b[5]) + b[2])
        h = (1 - i) * n + i * h
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize(
    ("mode", "present"),
    [(None, [0, 1, 2, 3, 4, 5]), ("double", [0, 1, 2, 3, 4, 5]), ("single_inp", [0, 1, 2]), ("single_rec", [3, 4, 5]),
     ("no", [])],
)  # fmt: skip
def test_outputs(rng, mode, present):
    matrices, biases = random_form(rng)
    layer = from_cudnn(matrices, [biases[i] for i in present] or None, bias_mode=mode)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    b = [bias if i in present else 0 for i, bias in enumerate(biases)]
    checks.assert_close(layer(x, h0)[0], theirs(matrices, b, x, h0), 1e-13)
    assert layer.use_bias == bool(present)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_round_trips_to_the_bit(rng, bias, dtype):
    for directions in (1, 2):
        weights, biases = [], []
        for inputs in [D] * directions + [directions * H] * directions:
            matrices, b = random_form(rng, inputs, H, dtype)
            weights, biases = weights + matrices, biases + b
        layer = from_cudnn(weights, biases if bias else None, directions=directions)
        assert layer.num_layers == 2 and layer.bidirectional == (directions == 2) and layer.dtype == dtype
        back = to_cudnn(layer)
        checks.assert_same_arrays(back, (weights, biases if bias else None))
        assert bias or back[1] is None


def test_both_directions(rng):
    (m0, b0), (m1, b1) = random_form(rng), random_form(rng)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    forward, backward = theirs(m0, b0, x, h0[0]), theirs(m1, b1, x[:, ::-1], h0[1])[:, ::-1]
    y, _ = from_cudnn(m0 + m1, b0 + b1, directions=2)(x, h0)
    checks.assert_close(y, np.concatenate([forward, backward], axis=2), 1e-13)


@pytest.mark.parametrize(
    ("count", "biases", "mode", "error", "message"),
    [
        (5, 6, None, ValueError, "weights: expected 6 for each pseudo-layer, got 5"),
        (0, 6, None, ValueError, "weights: expected 6 for each pseudo-layer, got 0"),
        (6, 3, None, ValueError, "biases: expected 6 for each of 1 pseudo-layers, got 3"),
        (6, 6, "single_inp", ValueError, "biases: expected 3 for each of 1 pseudo-layers, got 6"),
        (6, 6, "no", ValueError, "biases: expected none"),
        (6, None, "double", TypeError, "biases: expected a list of arrays, got NoneType"),
        (6, 6, "half", ValueError, "bias_mode: expected one of .*'half'"),
    ],
)
def test_wrong_numbers_of_arrays(rng, count, biases, mode, error, message):
    matrices, b = random_form(rng)
    with pytest.raises(error, match=rf"^{message}"):
        from_cudnn(matrices[:count], None if biases is None else b[:biases], bias_mode=mode)


def test_wrong_arrays_are_named(rng):
    matrices, biases = random_form(rng)
    with pytest.raises(ValueError, match=r"^weights\[4\]: expected shape \(H, H\) = \(7, 7\), got \(7, 2\)"):
        from_cudnn([*matrices[:4], matrices[0], matrices[5]])
    with pytest.raises(ValueError, match=r"^biases\[1\]: expected shape \(H,\) = \(7,\), got \(2,\)"):
        from_cudnn(matrices, [biases[0], np.ones(2), *biases[2:]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cannot convert reset_after=False exactly"),
        ({"reset_after": True, "activation": "relu"}, "cannot convert activation='relu' exactly"),
        ({"reset_after": True, "reverse": True}, "cannot convert reverse=True exactly: .*oneDNN and ONNX"),
        ({"reset_after": True, "go_backwards": True}, "cannot convert go_backwards=True exactly"),
        ({"reset_after": True, "bidirectional": True, "merge_mode": "sum"}, "cannot convert merge_mode='sum' exactly"),
        ({"reset_after": True, "learn_initial_state": True}, "cannot convert a learned initial state exactly: .*hx"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^cuDNN: {message}"):
        to_cudnn(checks.random_layer(rng, H, input_size=D, **options))


def test_a_sequential_is_refused():
    layers = [cgru.GRU(5, reset_after=True), cgru.GRU(3, reset_after=True)]
    with pytest.raises(ValueError, match=r"^cuDNN: cannot convert a Sequential of several GRUs exactly"):
        to_cudnn(cgru.Sequential(layers).build(D))
