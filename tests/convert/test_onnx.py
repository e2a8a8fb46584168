"""The arrays of ONNX' GRU operator, against its equations in NumPy; test_onnx_models.py has models of it."""

import checks
import children
import numpy as np
import pytest
import scipy.special

import cgru
from cgru.convert import to_onnx_arrays

N, T, D, H = checks.N, checks.T, checks.D, checks.H
DIRECTIONS = ("forward", "reverse", "bidirectional")


def count(direction):
    return 2 if direction == "bidirectional" else 1


def run(weights, x, h0, reset_after, direction="forward", f=scipy.special.expit, g=np.tanh):
    """(T, N, directions * H) of the operator's equations; x (T, N, D), h0 (directions, N, H)."""
    ys = []
    for d in range(len(h0)):
        W, R = (
            {gate: part.T for gate, part in zip("zrn", np.split(weights[key][d], 3), strict=True)} for key in "WR"
        )
        six = np.split(weights["B"][d] if "B" in weights else np.zeros(6 * H), 6)
        b, c = (dict(zip("zrn", part, strict=True)) for part in (six[:3], six[3:]))
        flip = slice(None, None, -1 if direction == "reverse" or d else 1)
        y = checks.foreign_gru(
            x.swapaxes(0, 1)[:, flip], h0[d], W, R, b, c, reset_after=reset_after, z_weighs="old", f=f, g=g
        )
        ys.append(y[:, flip].swapaxes(0, 1))
    return np.concatenate(ys, axis=2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reset_after", [True, False])
def test_outputs_are_those_of_the_formula(rng, reset_after, direction, bias):
    weights = checks.onnx_arrays(rng, count(direction), bias=bias)
    layer = cgru.from_onnx(weights, direction=direction, linear_before_reset=int(reset_after), hidden_size=H)
    assert layer.time_major and layer.return_sequences and layer.return_state and layer.dtype == "float64"
    assert (layer.bidirectional, layer.reverse) == (direction == "bidirectional", direction == "reverse")
    x, h0 = rng.standard_normal((T, N, D)), rng.uniform(-1, 1, (count(direction), N, H))
    y, _ = layer(x, initial_state=h0.reshape(layer._state_shape(N)))
    checks.assert_close(y, run(weights, x, h0, reset_after, direction), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_round_trip_to_the_bit(rng, bias, direction, dtype):
    weights = checks.onnx_arrays(rng, count(direction), bias=bias, dtype=dtype)
    weights["initial_h"] = rng.uniform(-1, 1, (count(direction), 1, H)).astype(dtype)
    layer = cgru.from_onnx(weights, direction=direction, linear_before_reset=1)
    assert layer.dtype == dtype
    checks.assert_same_arrays(to_onnx_arrays(layer), weights)
    before = cgru.from_onnx(weights, direction=direction)  # here biases are summed, and stay so
    again = to_onnx_arrays(before)
    checks.assert_same_arrays(cgru.from_onnx(again, direction=direction).get_weights(), before.get_weights())
    if bias:
        total = weights["B"].reshape(-1, 2, 3 * H).sum(axis=1)
        np.testing.assert_array_equal(again["B"], np.concatenate([total, np.zeros_like(total)], axis=1))


def test_layers_are_a_list():
    layer = cgru.GRU(H, num_layers=2, bidirectional=True, input_size=D)
    assert [weights["W"].shape for weights in to_onnx_arrays(layer)] == [(2, 3 * H, D), (2, 3 * H, 2 * H)]


@pytest.mark.parametrize(
    ("attributes", "ours"),
    [
        ({}, ("sigmoid", "tanh")),
        ({"activations": ["HardSigmoid", "Relu"]}, ("hard_sigmoid_keras2", "relu")),
        ({"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [1 / 6]}, ("hard_sigmoid", "tanh")),
        ({"activations": ["Sigmoid", "HardSigmoid"], "activation_alpha": [0.2], "activation_beta": [0.5]},
         ("sigmoid", "hard_sigmoid_keras2")),
        ({"activations": ["HardSigmoid", "HardSigmoid"], "activation_alpha": [0.2, 1 / 6]},
         ("hard_sigmoid_keras2", "hard_sigmoid")),
        ({"activations": ["Sigmoid", "Affine"]}, ("sigmoid", "linear")),
    ],
)  # fmt: skip
def test_activations(rng, attributes, ours):
    weights = checks.onnx_arrays(rng)
    layer = cgru.from_onnx(weights, **attributes)
    assert (layer.recurrent_activation, layer.activation) == ours
    f, g = (cgru.reference.ACTIVATIONS[name][0] for name in ours)
    x = rng.standard_normal((T, N, D)) / 9
    checks.assert_close(layer(x)[0], run(weights, x, np.zeros((1, N, H)), False, f=f, g=g), 1e-13)


def test_half_precision_widens(rng):
    weights = checks.onnx_arrays(rng, dtype="float16")
    layer = cgru.from_onnx(weights, linear_before_reset=1)
    assert layer.dtype == "float32"
    checks.assert_same_arrays(
        to_onnx_arrays(layer), {name: array.astype("float32") for name, array in weights.items()}
    )


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("rows", [1, N])
def test_a_constant_initial_state_is_learned(rng, rows, layout):
    weights = checks.onnx_arrays(rng, 2)
    h0 = rng.uniform(-1, 1, (2, 1, H))
    stored = np.repeat(h0, rows, axis=1)
    stored = {"initial_h": stored.swapaxes(0, 1) if layout else stored}
    layer = cgru.from_onnx(weights | stored, direction="bidirectional", layout=layout)
    assert layer.learn_initial_state and layer.time_major == (layout == 0)
    x = rng.standard_normal((T, N, D))
    y, _ = layer(x.swapaxes(0, 1) if layout else x)
    checks.assert_close(
        y.swapaxes(0, 1) if layout else y, run(weights, x, np.repeat(h0, N, axis=1), False), 1e-13
    )


# -- refusals


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"clip": 5.0}, "weights: cannot convert clip exactly"),
        ({"direction": "backward"}, "weights: expected direction forward, reverse or bidirectional, got 'backward'"),
        ({"flavour": 1}, "weights: expected attributes of GRU, got 'flavour'"),
        ({"hidden_size": H + 1}, "weights: expected hidden_size 7, as R has it, got 8"),
        ({"activations": ["Sigmoid", "Elu"]}, "weights: cannot convert the activation Elu exactly"),
        ({"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [0.25]},
         r"weights: cannot convert the activation HardSigmoid\(alpha=0.25, beta=0.5\)"),
        ({"activations": ["Tanh", "Tanh"]}, "weights: cannot convert recurrent_activation='tanh'"),
        ({"activations": ["Sigmoid"]}, r"weights: expected 2 activations, got \['Sigmoid'\]"),
        ({"direction": "bidirectional"}, r"R: expected shape \(2, 3H, H\) = \(2, 21, 7\), got \(1, 21, 7\)"),
        ({"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "HardSigmoid", "Tanh"]},
         "weights: cannot convert the activations .* both directions have the same ones"),
    ],
)  # fmt: skip
def test_attributes_that_cannot_be(rng, attributes, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_onnx(checks.onnx_arrays(rng), **attributes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": np.ones((1, 3 * H + 1, D))}, r"W: expected shape \(1, 3H, D\) = \(1, 21, 2\), got \(1, 22, 2\)"),
        ({"R": np.ones((1, 3 * H, 8))}, r"R: expected shape \(1, 3H, H\) = \(1, 21, 7\), got \(1, 21, 8\)"),
        ({"B": np.ones((1, 3 * H))}, r"B: expected shape \(1, 6H\) = \(1, 42\), got \(1, 21\)"),
        ({"R": None}, "weights: expected an array 'R', got W, B"),
        ({"P": np.ones(3)}, "weights: expected B, R, W, initial_h and no others, got 'P'"),
        ({"initial_h": np.ones((1, N, 8))}, r"initial_h: expected shape \(1, N, H\) = \(1, 3, 7\), got \(1, 3, 8\)"),
        ({"initial_h": np.ones((1, N, H)) * np.arange(N)[:, None]}, "initial_h: cannot convert a constant with a row"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arrays_are_named(rng, change, message):
    weights = {name: array for name, array in (checks.onnx_arrays(rng) | change).items() if array is not None}
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_onnx(weights)


def test_without_onnx():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import cgru\n"
        "layer = cgru.from_onnx(cgru.convert.to_onnx_arrays(cgru.GRU(3, input_size=2)))\n"
        "for call in (lambda: cgru.from_onnx(b''), lambda: cgru.convert.to_onnx(layer)):\n"
        "    try:\n"
        "        call()\n"
        "    except ImportError as error:\n"
        "        print(error)"
    )
    done = children.python("-c", code)
    hint = 'needs onnx: pip install "cgru[onnx]"\n'
    assert (done.stdout, done.stderr) == (f"from_onnx {hint}to_onnx {hint}", "")
