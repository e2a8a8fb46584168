"""OpenVINO's GRUSequence by its arguments; the operation itself is in tests/parity/test_openvino.py."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_openvino, to_openvino

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_arguments(rng, directions=1, inputs=D, units=H, dtype="float64", **attributes):
    biases = 4 if attributes.get("linear_before_reset") else 3
    shapes = {
        "W": (directions, 3 * units, inputs),
        "R": (directions, 3 * units, units),
        "B": (directions, biases * units),
    }
    arrays = {name: rng.standard_normal(shape).astype(dtype) / 2 for name, shape in shapes.items()}
    return arrays | {"direction": "forward", "activations": ["sigmoid", "tanh"], "hidden_size": units} | attributes


FUNCTIONS = {"sigmoid": checks.sigmoid, "tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}


def one(a, d, x, h, backwards):
    """One direction of GRUCell-3, (N, T, H)."""
    f, g = (FUNCTIONS[name] for name in a["activations"])
    Wz, Wr, Wh = np.split(a["W"][d], 3)
    Rz, Rr, Rh = np.split(a["R"][d], 3)
    Bz, Br, Bh, *rest = np.split(a["B"][d], len(a["B"][d]) // h.shape[1])
    y = np.empty((*x.shape[:2], h.shape[1]))
    for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
        z = f(x[:, t] @ Wz.T + h @ Rz.T + Bz)
        r = f(x[:, t] @ Wr.T + h @ Rr.T + Br)
        hidden = r * (h @ Rh.T + rest[0]) if a["linear_before_reset"] else (r * h) @ Rh.T
        h = (1 - z) * g(x[:, t] @ Wh.T + hidden + Bh) + z * h
        y[:, t] = h
    return y


def theirs(a, x, h0):
    """h0 (directions, N, H); the outputs of both directions side by side."""
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[a["direction"]]
    return np.concatenate([one(a, d, x, h0[d], b) for d, b in enumerate(backwards)], axis=2)


@pytest.mark.parametrize("candidate", ["tanh", "relu"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("linear_before_reset", [False, True])
def test_outputs_and_round_trip(rng, linear_before_reset, direction, candidate):
    S = 2 if direction == "bidirectional" else 1
    arguments = random_arguments(
        rng, S, linear_before_reset=linear_before_reset, direction=direction, activations=["sigmoid", candidate]
    )
    layer = from_openvino(arguments)
    x, h0 = rng.standard_normal((N, T, D)), rng.uniform(-1, 1, (S, N, H))
    y, _ = layer(x, h0.reshape(layer._state_shape(N)))
    expected = theirs(arguments, x, h0)
    checks.assert_close(y, expected, 1e-13)
    checks.assert_round_trip(arguments, layer, to_openvino(layer))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_in_a_row(rng, dtype):
    equal = [random_arguments(rng, inputs=inputs, dtype=dtype, linear_before_reset=True) for inputs in (D, H)]
    layer = from_openvino(equal)
    assert layer.num_layers == 2 and layer.dtype == dtype
    checks.assert_round_trip(equal, layer, to_openvino(layer))
    unequal = [
        random_arguments(rng, inputs=D, units=5, linear_before_reset=False),
        random_arguments(rng, 2, inputs=5, units=3, linear_before_reset=True, direction="bidirectional"),
    ]
    layers = from_openvino(unequal)
    assert isinstance(layers, cgru.Sequential)
    checks.assert_same_names(to_openvino(layers), unequal)
    checks.assert_same_arrays(checks.sorted_arrays(to_openvino(layers)), checks.sorted_arrays(unequal))


def test_defaults_and_biases(rng):
    arguments = {name: array for name, array in random_arguments(rng).items() if name in "WRB"}
    layer = from_openvino(arguments)
    assert not (layer.reset_after or layer.reverse or layer.bidirectional) and layer.activation == "tanh"
    plain = cgru.GRU(H, use_bias=False, reset_after=True, input_size=D)
    assert to_openvino(plain)["B"].shape == (1, 4 * H) and not to_openvino(plain)["B"].any()
    summed = checks.random_layer(rng, H, input_size=D, reset_after=True, dtype="float64", return_sequences=True)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(summed(x, h0), theirs(to_openvino(summed), x, h0[None]), 1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": None}, "source: expected an array 'W', got R, B"),
        ({"R": np.ones((1, 3 * H, D))}, r"R: expected shape \(S, 3H, H\)"),
        ({"B": np.ones((1, 4 * H))}, r"B: expected shape \(S, 3H\) = \(1, 21\), got \(1, 28\)"),
        ({"linear_before_reset": True}, r"B: expected shape \(S, 4H\) = \(1, 28\), got \(1, 21\)"),
        ({"direction": "backward"}, "direction: expected one of .*got 'backward'"),
        ({"direction": "bidirectional"}, r"R: expected shape \(S, 3H, H\)"),
        ({"activations": ["sigmoid"]}, "activations: expected two of"),
        ({"activations": ["sigmoid", "elu"]}, r"activations: expected two of .* got \['sigmoid', 'elu'\]"),
        ({"activations": ["relu", "tanh"]}, "OpenVINO.*: cannot convert recurrent_activation='relu' exactly"),
        ({"clip": 3.0}, r"OpenVINO.*: cannot convert clip=3\.0 exactly"),
        ({"activations_alpha": [0.2]}, r"OpenVINO.*: cannot convert activations_alpha=\[0\.2\] exactly"),
        ({"layout": 1}, "source: expected .* and no others, got 'layout' as well"),
    ],
)
def test_wrong_arguments_are_named(rng, change, message):
    arguments = {name: value for name, value in (random_arguments(rng) | change).items() if value is not None}
    with pytest.raises(ValueError, match=rf"^{message}"):
        from_openvino(arguments)


@pytest.mark.parametrize("option", [{"reverse": True}, {"reset_after": True}, {"recurrent_activation": "tanh"}])
def test_options_that_contradict_the_weights(rng, option):
    with pytest.raises(ValueError, match=rf"^{next(iter(option))}: expected .*, as the weights say, got"):
        from_openvino(random_arguments(rng), **option)


def test_what_is_no_source():
    with pytest.raises(TypeError, match=r"^source: expected an openvino.Node, an openvino.Model or a mapping, got int"):
        from_openvino(3)
    with pytest.raises(ValueError, match=r"^source: expected at least one operation, got an empty list"):
        from_openvino([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "hard_sigmoid"}, "cannot convert activation='hard_sigmoid' exactly: .*ONNX has more"),
        ({"recurrent_activation": "hard_sigmoid"}, "cannot convert recurrent_activation='hard_sigmoid' exactly"),
        ({"go_backwards": True}, "cannot convert go_backwards=True exactly: .*reverse=True is that"),
        ({"bidirectional": True, "merge_mode": "ave"}, "cannot convert merge_mode='ave' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly: .*initial_hidden_state"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^OpenVINO's GRUSequence: {message}"):
        to_openvino(checks.random_layer(rng, H, input_size=D, **options))
