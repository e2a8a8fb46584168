"""oneDNN's two GRUs: ldigo arrays, gates u, r, o, and a fourth bias with the linear layer before the reset."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_onednn, to_onednn

N, T, D, H = checks.N, checks.T, checks.D, checks.H
CELLS = {"vanilla_gru": 3, "lbr_gru": 4}  # biases


def random_memory(rng, cell, layers=1, directions=1, inputs=D, units=H, dtype="float64"):
    shapes = {
        "weights_layer": (layers, directions, inputs, 3, units),
        "weights_iter": (layers, directions, units, 3, units),
        "bias": (layers, directions, CELLS[cell], units),
    }
    arrays = {name: rng.standard_normal(shape).astype(dtype) / 2 for name, shape in shapes.items()}
    return {"cell": cell, "direction": "left2right", **arrays}


def one(memory, layer, direction, x, h, backwards=False):
    """One layer in one direction, as the developer guide writes it."""
    W, U, B = (memory[name][layer, direction] for name in ("weights_layer", "weights_iter", "bias"))
    y = np.empty((*x.shape[:2], h.shape[1]))
    for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
        u = checks.sigmoid(x[:, t] @ W[:, 0] + h @ U[:, 0] + B[0])
        r = checks.sigmoid(x[:, t] @ W[:, 1] + h @ U[:, 1] + B[1])
        if memory["cell"] == "lbr_gru":
            o = np.tanh(x[:, t] @ W[:, 2] + r * (h @ U[:, 2] + B[3]) + B[2])
        else:
            o = np.tanh(x[:, t] @ W[:, 2] + (r * h) @ U[:, 2] + B[2])
        h = u * h + (1 - u) * o
        y[:, t] = h
    return y


def theirs(memory, x, h0):
    """All layers of each direction, and then the merge; h0 (layers, directions, N, H)."""
    direction = memory["direction"]
    ys = []
    for d in range(h0.shape[1]):
        y = x
        for layer, states in enumerate(h0):
            y = one(memory, layer, d, y, states[d], backwards=d == 1 or direction == "right2left")
        ys.append(y)
    return np.concatenate(ys, axis=2) if direction == "bidirectional_concat" else sum(ys)


@pytest.mark.parametrize(
    ("direction", "layers"),
    [("left2right", 1), ("left2right", 3), ("right2left", 1), ("right2left", 2), ("bidirectional_concat", 1),
     ("bidirectional_sum", 1)],
)  # fmt: skip
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_round_trip(rng, cell, direction, layers):
    S = 2 if direction.startswith("bi") else 1
    inputs = D if layers == 1 else H
    memory = random_memory(rng, cell, layers, S, inputs) | {"direction": direction}
    layer = from_onednn(memory)
    assert layer.num_layers == layers and layer.reset_after == (cell == "lbr_gru")
    x, h0 = rng.standard_normal((N, T, inputs)), rng.standard_normal((layers, S, N, H))
    y, _ = layer(x, h0.reshape(layer._state_shape(N)))
    checks.assert_close(y, theirs(memory, x, h0), 1e-13)
    checks.assert_round_trip(memory, layer, to_onednn(layer))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_primitives_in_a_row(rng, cell, dtype):
    equal = [random_memory(rng, cell, inputs=inputs, dtype=dtype) for inputs in (D, H)]
    layer = from_onednn(equal, time_major=True)
    assert layer.num_layers == 2 and layer.time_major and layer.dtype == dtype
    checks.assert_round_trip(equal, layer, to_onednn(layer))
    unequal = [random_memory(rng, cell, inputs=D, units=5), random_memory(rng, cell, inputs=5, units=3)]
    unequal[1]["direction"] = "right2left"
    layers = from_onednn(unequal)
    assert isinstance(layers, cgru.Sequential) and [part.reverse for part in layers.layers] == [False, True]
    checks.assert_same_names(to_onednn(layers), unequal)
    checks.assert_same_arrays(checks.sorted_arrays(to_onednn(layers)), checks.sorted_arrays(unequal))


def test_two_directions_meet_after_each_layer_here(rng):
    layer = checks.random_layer(rng, H, input_size=D, num_layers=2, bidirectional=True, dtype="float64")
    memory = to_onednn(layer)
    assert [part["weights_layer"].shape for part in memory] == [(1, 2, D, 3, H), (1, 2, 2 * H, 3, H)]
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((4, N, H))
    y, _ = from_onednn(memory)(x, h0)
    checks.assert_close(y, theirs(memory[1], theirs(memory[0], x, h0[None, :2]), h0[None, 2:]), 1e-13)
    message = r"^oneDNN: cannot convert a bidirectional primitive of 2 layers exactly: .* left2right and right2left"
    for direction in ("bidirectional_concat", "bidirectional_sum"):
        with pytest.raises(ValueError, match=message):
            from_onednn(random_memory(rng, "lbr_gru", 2, 2, H) | {"direction": direction})


def test_options_that_contradict_the_weights(rng):
    memory = random_memory(rng, "vanilla_gru") | {"direction": "right2left"}
    assert from_onednn(memory, reverse=True).reverse
    for option in ({"reverse": False}, {"go_backwards": True}, {"directions": 2}, {"activation": "relu"}):
        (name,) = option
        with pytest.raises(ValueError, match=rf"^{name}: expected .*, as the weights say, got"):
            from_onednn(memory, **option)


def test_without_biases(rng):
    memory = random_memory(rng, "lbr_gru")
    del memory["bias"], memory["direction"]
    layer = from_onednn(memory)
    assert not layer.use_bias and "bias" not in to_onednn(layer)


def test_biases_that_are_summed(rng):
    layer = checks.random_layer(rng, H, input_size=D, reset_after=True, dtype="float64", return_sequences=True)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(layer(x, h0), theirs(to_onednn(layer), x, h0[None, None]), 1e-13)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cell": None}, ValueError, r"cell: expected one of \['vanilla_gru', 'lbr_gru'\], got None"),
        ({"direction": "forward"}, ValueError, "direction: expected one of .*got 'forward'"),
        ({"weights_iter": np.ones((1, 1, H, 2, H))}, ValueError, r"weights_iter: expected shape \(L, S, H, 3, H\)"),
        ({"weights_layer": np.ones((1, 2, D, 3, H))}, ValueError, r"weights_layer: expected shape \(L, S, D, 3, H\)"),
        ({"bias": np.ones((1, 1, 3, H))}, ValueError, r"bias: expected shape \(L, S, 4, H\) = \(1, 1, 4, 7\)"),
        ({"bias": np.ones((1, 1, 4, H), int)}, TypeError, "bias: expected floating-point numbers"),
        ({"attention": np.ones(3)}, ValueError, "weights: expected .* and no others, got 'attention'"),
        ({"direction": "bidirectional_sum"}, ValueError, r"weights_iter: expected shape"),
    ],
)
def test_wrong_memory_is_named(rng, change, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        from_onednn(random_memory(rng, "lbr_gru") | change)
    with pytest.raises(TypeError, match=r"^weights: expected a mapping"):
        from_onednn(3)
    with pytest.raises(ValueError, match=r"^weights: expected at least one primitive"):
        from_onednn([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, "cannot convert activation='relu' exactly"),
        ({"go_backwards": True}, "cannot convert go_backwards=True exactly: .*reverse=True is that"),
        ({"bidirectional": True, "merge_mode": "mul"}, "cannot convert merge_mode='mul' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly: .*src_iter"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^oneDNN: {message}"):
        to_onednn(checks.random_layer(rng, H, input_size=D, **options))
