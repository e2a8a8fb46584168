"""madmom's GRULayer: gates as objects, everything exact to the bit, and a learned state to start from."""

import types

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_madmom, to_madmom

N, T, D, H = checks.N, checks.T, checks.D, checks.H
GATES = ("reset_gate", "update_gate", "cell")


def random_arrays(rng, inputs=D, units=H, dtype="float32", init=True):
    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    arrays = {
        gate: {"weights": draw(inputs, units), "bias": draw(units), "recurrent_weights": draw(units, units)}
        for gate in GATES
    }
    return arrays | {"init": draw(units) if init else np.zeros(units, dtype)}


def sigmoid(x):
    return checks.sigmoid(x)


def relu(x):
    return np.maximum(x, 0)


def as_object(arrays, gates=sigmoid, candidate=np.tanh):
    """A GRULayer's attributes."""
    functions = dict(zip(GATES, (gates, gates, candidate), strict=True))
    parts = {g: types.SimpleNamespace(**arrays[g], activation_fn=functions[g], peephole_weights=None) for g in GATES}
    return types.SimpleNamespace(**parts, init=arrays["init"])


def theirs(a, x, h=None, g=np.tanh):
    """One sequence (T, D), from init unless h is given."""
    h = a["init"] if h is None else h
    ys = []
    for data in x:

        def sums(gate, data=data):
            return data @ a[gate]["weights"] + a[gate]["bias"]

        r = checks.sigmoid(sums("reset_gate") + h @ a["reset_gate"]["recurrent_weights"])
        u = checks.sigmoid(sums("update_gate") + h @ a["update_gate"]["recurrent_weights"])
        cell = g(sums("cell") + r * (h @ a["cell"]["recurrent_weights"]))
        h = u * cell + (1 - u) * h
        ys.append(h)
    return np.stack(ys)


@pytest.mark.parametrize(("activation", "g"), [("tanh", np.tanh), ("relu", relu)])
def test_outputs_from_the_learned_state(rng, activation, g):
    arrays = random_arrays(rng, dtype="float64")
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    for layer in (from_madmom(arrays, activation=activation), from_madmom(as_object(arrays, candidate=g))):
        assert layer.learn_initial_state and layer.activation == activation
        y, h = layer(x)
        checks.assert_close(y, np.stack([theirs(arrays, row, g=g) for row in x]), 1e-13)
        checks.assert_close(h, y[:, -1], 0)
        given, _ = layer(x, h0)
        checks.assert_close(given, np.stack([theirs(arrays, row, h, g) for row, h in zip(x, h0, strict=True)]), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", [True, False])
def test_round_trips_to_the_bit(rng, dtype, init):
    for arrays in (
        random_arrays(rng, dtype=dtype, init=init),
        [random_arrays(rng, D, H, dtype, init), random_arrays(rng, H, H, dtype, init)],
        [random_arrays(rng, D, 5, dtype, init), random_arrays(rng, 5, 3, dtype, not init)],
    ):
        layer = from_madmom(arrays)
        assert isinstance(layer, cgru.Sequential) or layer.learn_initial_state == init
        back = to_madmom(layer)
        checks.assert_same_names(back, arrays)
        checks.assert_same_arrays(checks.sorted_arrays(back), checks.sorted_arrays(arrays))


@pytest.mark.parametrize("inits", [(True, True), (True, False), (False, False)])
def test_both_directions(rng, inits):
    pair = [random_arrays(rng, dtype="float64", init=init) for init in inits]
    two = types.SimpleNamespace(fwd_layer=as_object(pair[0]), bwd_layer=as_object(pair[1]))
    layer = from_madmom(two)
    x = rng.standard_normal((T, D))
    expected = np.hstack([theirs(pair[0], x), theirs(pair[1], x[::-1])[::-1]])
    checks.assert_close(layer(x[None])[0][0], expected, 1e-13)
    checks.assert_same_arrays(checks.sorted_arrays(to_madmom(layer)), checks.sorted_arrays(pair))
    stack = from_madmom([two, as_object(random_arrays(rng, 2 * H, 5, "float64"), candidate=relu)])
    assert [part.bidirectional for part in stack.layers] == [True, False]
    assert [part.activation for part in stack.layers] == ["tanh", "relu"]


def test_options_that_contradict_the_object(rng):
    arrays = random_arrays(rng)
    assert from_madmom(arrays, activation="relu").activation == "relu"
    with pytest.raises(ValueError, match=r"^activation: expected 'tanh', as the weights say, got 'relu'"):
        from_madmom(as_object(arrays), activation="relu")


def test_without_init_and_without_biases(rng):
    arrays = {name: value for name, value in random_arrays(rng).items() if name != "init"}
    assert not from_madmom(arrays).learn_initial_state
    h0 = rng.standard_normal(H).astype("float32")
    old_name = from_madmom(arrays | {"hid_init": h0})
    checks.assert_same_arrays([to_madmom(old_name)["init"]], [h0])
    old_object = as_object(arrays | {"init": h0})
    old_object.hid_init = old_object.__dict__.pop("init")
    checks.assert_same_arrays(from_madmom(old_object).parameters, old_name.parameters)
    with pytest.raises(ValueError, match=r"^layer: expected .* and no others, got 'init' as well"):
        from_madmom(arrays | {"init": h0, "hid_init": h0})
    plain = to_madmom(cgru.GRU(H, use_bias=False, reset_after=True, input_size=D))
    assert not plain["cell"]["bias"].any() and not plain["init"].any()


def test_wrong_layers_are_named(rng):
    arrays = random_arrays(rng)
    with pytest.raises(ValueError, match=r"^layer: expected an array 'cell/recurrent_weights', got"):
        from_madmom(arrays | {"cell": {"weights": np.ones((D, H)), "bias": np.ones(H)}})
    with pytest.raises(ValueError, match=r"^init: expected shape \(H,\) = \(7,\), got \(8,\)"):
        from_madmom(arrays | {"init": np.ones(H + 1)})
    with pytest.raises(ValueError, match=r"^layer: expected .* and no others, got 'output_gate/bias' as well"):
        from_madmom(arrays | {"output_gate": {"bias": np.ones(H)}})
    with pytest.raises(TypeError, match=r"^layer: expected a GRULayer, a BidirectionalLayer or a mapping, got int"):
        from_madmom(3)
    with pytest.raises(ValueError, match=r"^layer: expected at least one layer"):
        from_madmom([])


def test_objects_that_are_no_gru(rng):
    arrays = random_arrays(rng)
    peephole = as_object(arrays)
    peephole.update_gate.peephole_weights = np.ones(H)
    with pytest.raises(ValueError, match=r"cannot convert peephole weights of update_gate exactly"):
        from_madmom(peephole)
    with pytest.raises(ValueError, match=r"^cell\.activation_fn: expected one of .*, got 'exp'"):
        from_madmom(as_object(arrays, candidate=np.exp))
    mixed = as_object(arrays)
    mixed.update_gate.activation_fn = np.tanh
    with pytest.raises(ValueError, match=r"cannot convert gates of sigmoid and tanh exactly"):
        from_madmom(mixed)
    two = types.SimpleNamespace(fwd_layer=as_object(arrays), bwd_layer=as_object(arrays, candidate=relu))
    with pytest.raises(ValueError, match=r"cannot convert directions with .*relu.* exactly"):
        from_madmom(two)


def test_what_it_cannot_hold(rng):
    with pytest.raises(ValueError, match=r"^madmom's GRULayer: cannot convert reset_after=False exactly"):
        to_madmom(checks.random_layer(rng, H, input_size=D))
    with pytest.raises(ValueError, match=r"cannot convert the recurrent bias of the candidate exactly: .*PyTorch"):
        to_madmom(checks.random_layer(rng, H, input_size=D, reset_after=True))
