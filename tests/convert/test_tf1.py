"""TensorFlow 1's GRUCell and GRUBlockCell: [x, h] under one matrix for both gates, u weighs the old state."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_tf1, to_tf1

N, T, D, H = checks.N, checks.T, checks.D, checks.H
BLOCK = {"gates/kernel": "w_ru", "gates/bias": "b_ru", "candidate/kernel": "w_c", "candidate/bias": "b_c"}


def random_variables(rng, inputs=D, units=H, dtype="float64"):
    shapes = {
        "gates/kernel": (inputs + units, 2 * units),
        "gates/bias": (2 * units,),
        "candidate/kernel": (inputs + units, units),
        "candidate/bias": (units,),
    }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def theirs(v, x, h, g=np.tanh):
    """GRUCell, step by step (N, T, D)."""
    ys = []
    for t in range(x.shape[1]):
        gates = checks.sigmoid(np.concatenate([x[:, t], h], axis=1) @ v["gates/kernel"] + v["gates/bias"])
        r, u = np.split(gates, 2, axis=1)
        c = g(np.concatenate([x[:, t], r * h], axis=1) @ v["candidate/kernel"] + v["candidate/bias"])
        h = u * h + (1 - u) * c
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize(("activation", "g"), [("tanh", np.tanh), ("relu", lambda a: np.maximum(a, 0))])
def test_outputs(rng, activation, g):
    variables = random_variables(rng)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    y, h = from_tf1(variables, activation=activation)(x, h0)
    checks.assert_close(y, theirs(variables, x, h0, g), 1e-13)
    checks.assert_close(h, y[:, -1], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("names", ["GRUCell", "GRUBlockCell"])
def test_round_trip_to_the_bit(rng, names, dtype):
    variables = random_variables(rng, dtype=dtype)
    if names == "GRUBlockCell":
        variables = {BLOCK[name]: array for name, array in variables.items()}
    layer = from_tf1(variables, reverse=True, time_major=True)
    assert layer.dtype == dtype and layer.reverse and layer.time_major and not layer.reset_after
    checks.assert_round_trip(variables, layer, to_tf1(layer, names))


def test_a_checkpoint_with_several_cells_and_slots(rng):
    cells = {f"rnn/cell_{i}/gru_cell": random_variables(rng, inputs, H) for i, inputs in enumerate((D, H))}
    checkpoint = {f"{prefix}/{name}": array for prefix, cell in cells.items() for name, array in cell.items()}
    checkpoint |= {f"{name}/Adam_1": np.ones(3) for name in checkpoint} | {"dense/kernel": np.ones((3, 3))}
    with pytest.raises(ValueError, match=r"^prefix: expected one of \['rnn/cell_0/gru_cell', 'rnn/cell_1/gru_cell'\]"):
        from_tf1(checkpoint)
    with pytest.raises(ValueError, match=r"^variables: expected an array 'gates/kernel' below 'rnn/cell_7'"):
        from_tf1(checkpoint, "rnn/cell_7")
    one = from_tf1(checkpoint, "rnn/cell_1/gru_cell")
    checks.assert_same_arrays(to_tf1(one), cells["rnn/cell_1/gru_cell"])
    both = from_tf1({f"{name}:0": array for name, array in checkpoint.items() if "Adam" not in name}, list(cells))
    assert both.num_layers == 2
    checks.assert_round_trip(list(cells.values()), both, to_tf1(both))
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    first, second = cells.values()
    checks.assert_close(both(x, h0)[0], theirs(second, theirs(first, x, h0[0]), h0[1]), 1e-13)


def test_stacks_and_directions(rng):
    unequal = [random_variables(rng, D, 5), random_variables(rng, 5, 3)]
    layer = from_tf1(unequal)
    assert isinstance(layer, cgru.Sequential)
    checks.assert_same_arrays(to_tf1(layer), unequal)
    pair = [random_variables(rng), random_variables(rng)]
    layer = from_tf1(pair, directions=2)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    forward, backward = theirs(pair[0], x, h0[0]), theirs(pair[1], x[:, ::-1], h0[1])[:, ::-1]
    checks.assert_close(layer(x, h0)[0], np.concatenate([forward, backward], axis=2), 1e-13)
    checks.assert_same_arrays(to_tf1(layer), pair)


def test_directions_that_do_not_fit(rng):
    cells = [random_variables(rng), random_variables(rng, 2 * H), random_variables(rng, 2 * H)]
    with pytest.raises(ValueError, match=r"^directions: expected cells in pairs, forward and backward, got 3"):
        from_tf1(cells, directions=2)
    with pytest.raises(TypeError, match=r"^bidirectional: expected directions=1 or 2 instead, got True"):
        from_tf1(cells[:2], bidirectional=True)


def test_a_layer_without_biases_gets_zeros(rng):
    layer = checks.random_layer(rng, H, input_size=D, use_bias=False, dtype="float64", return_sequences=True)
    variables = to_tf1(layer)
    assert not variables["gates/bias"].any() and not variables["candidate/bias"].any()
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(layer(x, h0), theirs(variables, x, h0), 1e-13)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gates/kernel": None}, ValueError, "variables: expected an array 'gates/kernel', got"),
        ({"candidate/bias": None}, ValueError, "variables: expected an array 'candidate/bias'"),
        ({"gates/bias": np.ones(3)}, ValueError, r"gates/bias: expected shape \(2H,\) = \(14,\), got \(3,\)"),
        ({"gates/kernel": np.ones((H, 2 * H))}, ValueError, r"gates/kernel: expected shape \(D\+H, 2H\)"),
        ({"candidate/kernel": np.ones((H + 9, H))}, ValueError, r"candidate/kernel: expected shape \(D\+H, H\)"),
        ({"candidate/bias": np.ones(H, int)}, TypeError, "candidate/bias: expected floating-point numbers"),
        ({"projection": np.ones(3)}, ValueError, "variables: expected .* and no others, got 'projection'"),
    ],
)
def test_wrong_variables_are_named(rng, change, error, message):
    variables = {name: array for name, array in (random_variables(rng) | change).items() if array is not None}
    with pytest.raises(error, match=rf"^{message}"):
        from_tf1(variables)
    with pytest.raises(TypeError, match=r"^variables: expected a mapping"):
        from_tf1(np.ones(3))
    with pytest.raises(ValueError, match=r"^variables: expected at least one cell"):
        from_tf1([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_after": True}, "cannot convert reset_after=True exactly: .*Keras has both"),
        ({"recurrent_activation": "hard_sigmoid"}, "cannot convert recurrent_activation='hard_sigmoid' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly: .*initial_state"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^TensorFlow 1's GRUCell: {message}"):
        to_tf1(checks.random_layer(rng, H, input_size=D, **options))
    with pytest.raises(ValueError, match=r"^names: expected one of"):
        to_tf1(cgru.GRU(H, input_size=D), "LSTMCell")
