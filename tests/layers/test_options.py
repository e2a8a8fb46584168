"""Options are read-only after construction, `trainable` excepted, and `with_options` makes a layer with others."""

import copy
import inspect
import pickle

import checks
import numpy as np
import pytest

import cgru
from cgru import losses, optimizers

D, H = 3, 4
BUILDERS = {
    "GRU": lambda: cgru.GRU(H, seed=1, input_size=D),
    "Dense": lambda: cgru.Dense(H, seed=1),
    "Embedding": lambda: cgru.Embedding(5, H, seed=1),
    "Dropout": lambda: cgru.Dropout(0.5, seed=1),
    "Adam": optimizers.Adam,
    "loss": losses.SparseCategoricalCrossentropy,
    "Sequential": lambda: cgru.Sequential([cgru.Dense(2)], seed=1),
}


def option_cases():
    for kind, make in BUILDERS.items():
        for name in inspect.signature(type(make())).parameters:
            if name not in ("trainable", "input_size", "learning_rate"):
                yield pytest.param(kind, name, id=f"{kind}-{name}")


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(("kind", "name"), list(option_cases()))
def test_every_option_is_read_only(kind, name, built):
    thing = BUILDERS[kind]()
    if built and hasattr(thing, "build"):
        thing.build(D)
    before = getattr(thing, name)
    for value in (100000, True, "relu", None, before):
        with pytest.raises(AttributeError, match=f"^{name} is read-only after construction: .*{name}="):
            setattr(thing, name, value)
    with pytest.raises(AttributeError, match=f"^{name} is read-only after construction"):
        delattr(thing, name)
    assert getattr(thing, name) is before
    if isinstance(thing, cgru.layers.Layer):
        with pytest.raises(AttributeError, match="with_options"):
            setattr(thing, name, before)


def test_copies_are_read_only_too():
    layer = BUILDERS["GRU"]()
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(AttributeError, match=r"^units is read-only"):
            other.units = 5


def test_what_may_be_set():
    layer = BUILDERS["GRU"]()
    layer.trainable = False
    assert layer.trainable is False and layer.get_config()["trainable"] is False
    with pytest.raises(TypeError, match=r"^trainable: expected True or False, got 0"):
        layer.trainable = 0
    adam = optimizers.Adam()
    adam.learning_rate = 0.5
    assert adam.get_config()["learning_rate"] == 0.5


def test_a_subclass_has_attributes_of_its_own():
    class Noisy(cgru.GRU):
        def __init__(self, units, noise=0.1, **options):
            super().__init__(units, **options)
            self.noise = noise

    class Scaled(cgru.Dense):
        _options = ("scale",)

        def __init__(self, units, scale=1.0, **options):
            super().__init__(units, **options)
            self.scale = scale

    noisy = Noisy(H)
    noisy.noise, noisy.note = 0.2, "mine"
    del noisy.note
    assert noisy.noise == 0.2
    with pytest.raises(AttributeError, match=r"^reverse is read-only"):
        noisy.reverse = True
    scaled = Scaled(H, scale=2.0)
    assert scaled.get_config()["scale"] == 2.0 and scaled.get_config()["units"] == H
    with pytest.raises(AttributeError, match=r"^scale is read-only"):
        scaled.scale = 3.0
    scaled.build(D)
    assert scaled.with_options(scale=3.0).scale == 3.0
    cgru.Dense(H).scale = 3.0  # an option of the subclass alone


# -- with_options


def test_the_same_weights_under_other_options(rng):
    layer = checks.random_layer(rng, H, return_sequences=True, reset_after=True, seed=1, input_size=D)
    x = rng.standard_normal((2, 6, D)).astype("float32")
    y = layer(x)
    last, state = layer.with_options(return_sequences=False, return_state=True)(x)
    np.testing.assert_array_equal(last, y[:, -1])
    np.testing.assert_array_equal(state, y[:, -1])
    flipped = layer.with_options(go_backwards=True)(x)[:, ::-1]
    np.testing.assert_array_equal(layer.with_options(reverse=True)(x), flipped)
    major = layer.with_options(time_major=True)
    np.testing.assert_array_equal(major(x.swapaxes(0, 1)), y.swapaxes(0, 1))
    double = layer.with_options(dtype="float64", trainable=False)
    assert double.dtype == np.float64 and double.trainable is False
    checks.assert_close(double(x), y, 1e-6)
    relu = layer.with_options(activation="relu")
    assert relu.get_config() == layer.get_config() | {"activation": "relu"}
    np.testing.assert_array_equal(layer(x), y)  # as it was


@pytest.mark.parametrize("kind", ["GRU", "Dense", "Embedding", "Dropout"])
def test_weights_are_copied(kind):
    layer = BUILDERS[kind]()
    layer.build(D)
    other = layer.with_options(seed=9)
    assert type(other) is type(layer) and other.seed == 9 and other.built and other.input_size == layer.input_size
    checks_before = layer.get_weights()
    with other.update() as parameters:
        for name in parameters:
            parameters[name] = 7
    for a, b in zip(layer.get_weights(), checks_before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_state_of_a_stateful_layer_stays_behind(rng):
    layer = cgru.GRU(H, seed=1, input_size=D, stateful=True)
    x = rng.standard_normal((2, 6, D)).astype("float32")
    first = layer(x)
    np.testing.assert_array_equal(layer.with_options(return_state=True)(x)[0], first)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"units": 5}, ValueError, r"^units: expected .* got units=5, with which bias is \(15,\) instead of \(12,\)"),
        ({"bidirectional": True}, ValueError, "^bidirectional: expected options under which the parameters stay"),
        ({"num_layers": 2}, ValueError, "^num_layers: expected options"),
        ({"use_bias": False}, ValueError, "^use_bias: expected options"),
        ({"reset_after": True}, ValueError, "^reset_after: expected options"),
        ({"learn_initial_state": True}, ValueError, "^learn_initial_state: expected options"),
        ({"activation": "gelu"}, ValueError, "^activation: expected one of"),
        ({"return_state": 1}, TypeError, "^return_state: expected True or False"),
        ({"input_size": 7}, TypeError, "^input_size: expected one of GRU's options, units, activation"),
        ({"hidden_size": 7}, TypeError, "^hidden_size: expected one of GRU's options"),
        ({"reverse": True, "go_backwards": True}, ValueError, "go_backwards, reverse"),
    ],
)
def test_options_that_do_not_fit(options, error, words):
    with pytest.raises(error, match=words):
        BUILDERS["GRU"]().with_options(**options)


def test_a_layer_without_weights_has_none_to_give():
    with pytest.raises(RuntimeError, match="build"):
        cgru.GRU(H).with_options(return_sequences=True)
