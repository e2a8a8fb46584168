"""Initializers, regularizers and constraints: their numbers, and what they do in layers, training and files."""

import json
import re

import numpy as np
import pytest

import cgru
from cgru import constraints, initializers, regularizers

# -- initializers

SHAPE = (400, 300)


@pytest.mark.parametrize(
    ("name", "variance", "limit"),
    [
        ("glorot_uniform", 2 / 700, np.sqrt(6 / 700)),
        ("xavier_uniform", 2 / 700, np.sqrt(6 / 700)),
        ("glorot_normal", 2 / 700, 2 * np.sqrt(2 / 700) / 0.87962566),
        ("XavierNormal", 2 / 700, 2 * np.sqrt(2 / 700) / 0.87962566),
        ("he_uniform", 2 / 400, np.sqrt(6 / 400)),
        ("he_normal", 2 / 400, 2 * np.sqrt(2 / 400) / 0.87962566),
        ("lecun_uniform", 1 / 400, np.sqrt(3 / 400)),
        ("lecun_normal", 1 / 400, 2 * np.sqrt(1 / 400) / 0.87962566),
        ("variance_scaling", 1 / 400, 2 * np.sqrt(1 / 400) / 0.87962566),
        ("random_uniform", 0.1**2 / 12, 0.05),
        ("truncated_normal", (0.05 * 0.87962566) ** 2, 0.1),
        ("random_normal", 0.05**2, None),
        ("pytorch", 1 / 1200, np.sqrt(1 / 400)),
    ],
)
def test_moments_and_bounds(name, variance, limit, rng):
    draws = initializers.get(name)(SHAPE, np.float64, rng)
    assert draws.shape == SHAPE and draws.flags.c_contiguous
    assert abs(draws.mean()) < 5 * np.sqrt(variance / draws.size)
    assert abs(draws.var() / variance - 1) < 0.02
    if limit is not None:
        assert 0.99 * limit < np.abs(draws).max() <= limit


def test_a_convolution_counts_its_window(rng):
    draws = initializers.get("he_uniform")((3, 20, 40), np.float64, rng)
    assert 0.98 * np.sqrt(6 / 60) < np.abs(draws).max() <= np.sqrt(6 / 60)
    matrix = initializers.get("orthogonal")((3, 20, 40), np.float64, rng).reshape(60, 40)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(40), atol=1e-12)


def test_constants_identities_and_gates(rng):
    assert (initializers.Constant(0.5)((2, 3)) == 0.5).all() and (initializers.get("ones")((2,)) == 1).all()
    np.testing.assert_array_equal(initializers.Identity(2.0)((2, 6)), 2 * np.eye(2, 6))
    np.testing.assert_array_equal(initializers.get("identity_per_gate")((2, 6)), np.tile(np.eye(2), 3))
    gates = np.split(initializers.get("orthogonal_per_gate")((5, 15), np.float64, rng), 3, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate.T @ gate, np.eye(5), atol=1e-12)
    assert not np.allclose(gates[0], gates[1])
    seeded = initializers.PerGate(initializers.Orthogonal(seed=3))
    np.testing.assert_array_equal(seeded((5, 15)), seeded((5, 15)))
    with pytest.raises(ValueError, match="PerGate: expected a multiple of 3 columns"):
        cgru.Dense(4, kernel_initializer="orthogonal_per_gate").build(2)


def test_seeds():
    one, two = (cgru.Dense(4, kernel_initializer=initializers.HeNormal(seed=7), seed=s) for s in (1, 2))
    one.build(3)
    two.build(3)
    np.testing.assert_array_equal(one.parameters["kernel"], two.parameters["kernel"])
    free = [cgru.Dense(4, kernel_initializer=initializers.HeNormal(), seed=s) for s in (1, 2, 1)]
    for layer in free:
        layer.build(3)
    kernels = [layer.parameters["kernel"] for layer in free]
    assert (kernels[0] == kernels[2]).all() and not (kernels[0] == kernels[1]).any()


def test_pytorchs_scheme_in_layers():
    layer = cgru.GRU(64, kernel_initializer="pytorch", recurrent_initializer="pytorch", bias_initializer="pytorch",
                     reset_after=True, input_size=100, num_layers=2, seed=0)  # fmt: skip
    for array in layer.parameters.values():
        assert 0.95 / 8 < np.abs(array).max() <= 1 / 8
    layer = cgru.Dense(500, kernel_initializer="pytorch", bias_initializer="pytorch", seed=0)
    layer.build(25)
    for array in layer.parameters.values():
        assert 0.97 / 5 < np.abs(array).max() <= 1 / 5
    layer = cgru.Conv1D(500, 4, kernel_initializer="pytorch", bias_initializer="pytorch", seed=0)
    layer.build(25)
    for array in layer.parameters.values():
        assert 0.97 / 10 < np.abs(array).max() <= 1 / 10
    layer = cgru.Embedding(200, 50, embeddings_initializer="pytorch", seed=0)
    layer.build()
    assert abs(layer.parameters["embeddings"].var() - 1) < 0.05


def test_functions():
    def ramp(shape, dtype, rng):
        return np.arange(np.prod(shape), dtype=dtype).reshape(shape)

    layer = cgru.GRU(2, kernel_initializer=ramp, input_size=3)
    np.testing.assert_array_equal(layer.parameters["kernel"], np.arange(18).reshape(3, 6))
    assert layer.with_options(return_sequences=True).kernel_initializer is ramp
    for function, words in (
        (lambda s, d, r: np.zeros(3), "shape (3,)"),
        (lambda s, d, r: np.full(s, np.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            cgru.GRU(2, kernel_initializer=function, input_size=3)
        assert "kernel_initializer" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        *(initializers.Constant(0.5), initializers.Identity(2.0), initializers.RandomNormal(0.1, 0.2, seed=3)),
        *(
            initializers.VarianceScaling(2.0, "fan_out", "uniform"),
            initializers.GlorotNormal(4),
            initializers.PyTorch(3),
        ),
        *(initializers.PerGate(initializers.Orthogonal(1.5)), initializers.PerGate("identity", 2)),
    ],
)
def test_configurations_of_initializers(value):
    config = json.loads(json.dumps(initializers.config_of(value)))
    again = initializers.get(config)
    assert type(again) is type(value) and initializers.config_of(again) == initializers.config_of(value)
    np.testing.assert_array_equal(
        again((4, 6), np.float64, np.random.default_rng(1)), value((4, 6), np.float64, np.random.default_rng(1))
    )


# -- penalties


def layers():
    return [
        cgru.GRU(3, return_sequences=True, kernel_regularizer="l2", recurrent_regularizer=regularizers.L1(0.03),
                 bias_regularizer=regularizers.L1L2(0.01, 0.02), activity_regularizer=regularizers.L2(0.05),
                 dtype="float64", num_layers=2, bidirectional=True, learn_initial_state=True),
        cgru.GRU(3, return_sequences=True, activity_regularizer="l1", go_backwards=True, dtype="float64"),
        cgru.GRU(3, activity_regularizer="l2", zero_output_for_mask=False, dtype="float64"),
        cgru.Dense(4, activation="tanh", kernel_regularizer="l1_l2", bias_regularizer="l2", activity_regularizer="l1",
                   dtype="float64"),
        cgru.Conv1D(4, 3, padding="same", strides=2, kernel_regularizer="l2", activity_regularizer="l2",
                    dtype="float64"),
        cgru.LayerNormalization(beta_regularizer="l2", gamma_regularizer="l1", dtype="float64"),
        cgru.AttentionPooling(2, query_regularizer="l2", kernel_regularizer="l1", dtype="float64"),
    ]  # fmt: skip


@pytest.mark.parametrize("which", range(len(layers())))
def test_gradients_hold_those_of_the_penalties(which, rng):
    """The penalty of the tape by finite differences of every parameter and of the input."""
    layer = layers()[which]
    layer.build(5)
    with layer.update() as parameters:
        for array in parameters.values():
            array += 0.3 * rng.standard_normal(array.shape)
    x, lengths = rng.standard_normal((3, 6, 5)), [6, 2, 4]

    def penalty():
        return layer.forward(x, lengths=lengths, training=True)[-1].penalty

    def slope(array, place, set_to):
        h, old, found = 1e-6, array[place], []
        for k in (-1, 1):
            set_to(place, old + k * h)
            found.append(penalty())
        set_to(place, old)
        return (found[1] - found[0]) / (2 * h)

    y, *_, tape = layer.forward(x, lengths=lengths, training=True)
    dx, *_, grads = layer.backward(np.zeros_like(y), tape)
    places = [tuple(rng.integers(0, size) for size in x.shape) for _ in range(10)]
    np.testing.assert_allclose([dx[p] for p in places], [slope(x, p, x.__setitem__) for p in places], atol=2e-8)
    for name, gradient in grads.items():

        def set_to(place, value, name=name):
            with layer.update() as p:
                p[name][place] = value

        places = [tuple(rng.integers(0, size) for size in gradient.shape) for _ in range(5)]
        expected = [slope(layer.parameters[name], place, set_to) for place in places]
        np.testing.assert_allclose([gradient[place] for place in places], expected, atol=2e-8)
    padded = np.concatenate([x, np.full((3, 4, 5), np.nan)], axis=1)
    assert layer.forward(padded, lengths=lengths, training=True)[-1].penalty == tape.penalty


@pytest.mark.filterwarnings("error")
def test_penalties_that_overflow_warn_of_nothing():
    options = {"activation": "linear", "dtype": "float64", "kernel_regularizer": "l2", "activity_regularizer": "l2"}
    model = cgru.Sequential([cgru.GRU(2, **options), cgru.Dense(1, **options)], seed=0)
    model.build(1)
    for layer in model.layers:
        layer.set_weights([np.full_like(w, 1e160) for w in layer.get_weights()])
    x = np.full((1, 1, 1), 1e10)
    assert not np.isfinite(model.predict(x)).all() and model.penalty() == np.inf
    _, tape = model.forward(x, training=True)
    assert tape.penalty == np.inf and model.layers[0].penalty() == np.inf
    model.backward(np.ones((1, 1)), tape)


def test_a_frozen_layer_has_no_penalty():
    layer = cgru.Dense(2, kernel_regularizer="l2")
    layer.build(3)
    assert layer.penalty() > 0 and layer.penalty_gradients().keys() == {"kernel"}
    layer.trainable = False
    assert layer.penalty() == 0 and layer.penalty_gradients() == {}


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "mse"])
def test_fit_and_a_loop_of_ones_own_see_the_same_penalties(loss, rng):
    def made():
        model = cgru.Sequential(
            [
                cgru.GRU(4, recurrent_regularizer="l2", activity_regularizer="l2"),
                cgru.Dense(3, activation="softmax", kernel_regularizer="l1"),
            ],
            seed=3,
        )
        model.compile(cgru.optimizers.SGD(0.1), loss)
        return model

    x, y = rng.standard_normal((8, 5, 2)), rng.integers(0, 3, 8)
    y = y if loss.startswith("sparse") else np.eye(3)[y]
    one, two = made(), made()
    history = one.fit(x, y, epochs=3, batch_size=8, shuffle=False, verbose=0).history["loss"]
    two.build(2)
    optimizer = cgru.optimizers.SGD(0.1)
    for reported in history:
        outputs, tape = two.forward(x, training=True)
        np.testing.assert_allclose(two.loss(outputs, y) + tape.penalty, reported, rtol=1e-5)
        assert tape.penalty > two.penalty() > 0
        optimizer.apply(two, two.backward(two.loss.gradient(outputs, y), tape))
    for found, expected in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    outputs, tape = one.forward(x, training=True)
    np.testing.assert_allclose(one.evaluate(x, y)["loss"], one.loss(outputs, y) + tape.penalty, rtol=1e-6)


# -- constraints

RULES = {
    "max_norm": lambda w: np.linalg.norm(w, axis=0).max() <= 2 + 1e-6,
    "non_neg": lambda w: (w >= 0).all(),
    "unit_norm": lambda w: np.allclose(np.linalg.norm(w, axis=0), 1, atol=1e-5),
    "min_max_norm": lambda w: np.linalg.norm(w, axis=0).max() <= 1 + 1e-6,
}


@pytest.mark.parametrize("name", RULES)
def test_constraints_hold_after_each_update(name, rng):
    model = cgru.Sequential(
        [cgru.GRU(4, recurrent_constraint=name, num_layers=2), cgru.Dense(2, kernel_constraint=name)]
    )
    model.compile(cgru.optimizers.SGD(0.5), "mse")
    x, y = rng.standard_normal((12, 5, 2)), 10 * rng.standard_normal((12, 2))
    model.fit(x, y, epochs=1, batch_size=4, verbose=0)
    held = ["0.l0.forward.recurrent_kernel", "0.l1.forward.recurrent_kernel", "1.kernel"]
    assert all(RULES[name](model.parameters[key]) for key in held)
    outputs, tape = model.forward(x, training=True)
    cgru.optimizers.SGD(0.5).apply(model, model.backward(outputs - y, tape))
    assert all(RULES[name](model.parameters[key]) for key in held)
    assert not RULES["non_neg"](model.parameters["0.l0.forward.kernel"])


def test_functions_as_constraints(rng):
    model = cgru.Sequential([cgru.Dense(2, kernel_constraint=lambda w: np.clip(w, -0.1, 0.1))])
    model.compile("sgd", "mse")
    model.fit(rng.standard_normal((4, 3)), rng.standard_normal((4, 2)), verbose=0)
    assert np.abs(model.parameters["0.kernel"]).max() <= np.float32(0.1)
    before = model.get_weights()
    for function, error, words in (
        (lambda w: w * np.nan, FloatingPointError, "kernel of layer 0"),
        (lambda w: w[:1], ValueError, "the constraint of kernel in layer 0 (Dense) returned shape (1, 2)"),
    ):
        model = cgru.Sequential([model.layers[0].with_options(kernel_constraint=function)])
        model.compile("sgd", "mse")
        with pytest.raises(error, match=re.escape(words)):
            model.fit(rng.standard_normal((4, 3)), rng.standard_normal((4, 2)), verbose=0)
        for found, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(found, expected)


# -- files


def test_saved_and_loaded(tmp_path):
    model = cgru.Sequential(
        [
            cgru.Embedding(7, 3, mask_zero=True, embeddings_regularizer=regularizers.L1(0.5)),
            cgru.GRU(4, recurrent_initializer=initializers.PerGate("identity"),
                     kernel_regularizer=regularizers.L1L2(0.1), bias_constraint=constraints.MinMaxNorm(0.1, 2, 0.5)),
            cgru.Dense(2, kernel_constraint=constraints.MaxNorm(3, axis=[0]), activity_regularizer="l1"),
        ]
    )  # fmt: skip
    model.build()
    cgru.save(model, tmp_path / "model")
    again = cgru.load(tmp_path / "model")
    assert again.get_config() == model.get_config() and repr(again) == repr(model)
    assert "kernel_regularizer=L1L2(l1=0.1)" in repr(again) and again.penalty() == model.penalty() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_initializer": lambda shape, dtype, rng: np.zeros(shape)},
        {"recurrent_initializer": initializers.PerGate(lambda shape, dtype, rng: np.zeros(shape))},
        {"bias_constraint": np.abs},
        {"kernel_regularizer": type("Mine", (regularizers.L2,), {})(0.1)},
    ],
)
def test_functions_and_classes_of_the_user_are_refused_in_files(options, tmp_path):
    layer = cgru.GRU(2, input_size=3, **options)
    for model in (layer, cgru.Sequential([layer])):
        with pytest.raises(TypeError, match=f"as {next(iter(options))} of layer 0 .*: give it by its name"):
            cgru.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    fresh = {next(iter(options)): "zeros" if "initializer" in next(iter(options)) else None}
    cgru.save(layer.with_options(**fresh), tmp_path / "model")


# -- wrong arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: cgru.GRU(2, kernel_regularizer="l3"),
            ValueError,
            "kernel_regularizer: expected one of ['l1', 'l1_l2', 'l2']",
        ),
        (lambda: cgru.GRU(2, kernel_regularizer=0.1), ValueError, "kernel_regularizer: expected one of"),
        (lambda: cgru.GRU(2, activity_regularizer=regularizers.L2), TypeError, "got the class: write L2()"),
        (
            lambda: cgru.GRU(2, recurrent_constraint="max"),
            ValueError,
            "recurrent_constraint: expected one of ['max_norm', ",
        ),
        (lambda: cgru.GRU(2, bias_constraint=constraints.UnitNorm(1)), ValueError, "bias_constraint: expected axes"),
        (
            lambda: cgru.Dense(2, kernel_initializer={"class": "No", "config": {}}),
            ValueError,
            "kernel_initializer: expected a class",
        ),
        (
            lambda: cgru.Dense(2, kernel_initializer={"class": "Constant", "config": {"v": 1}}),
            TypeError,
            "kernel_initializer: Constant",
        ),
        (lambda: cgru.Dense(2, kernel_initializer=None), ValueError, "kernel_initializer: expected one of"),
        (lambda: initializers.Constant(np.inf), ValueError, "value: expected a finite number, got inf"),
        (
            lambda: initializers.RandomNormal(stddev=-1),
            ValueError,
            "stddev: expected a finite number of at least 0, got -1",
        ),
        (lambda: initializers.RandomUniform(1, 0), ValueError, "minval: expected at most maxval = 0.0, got 1.0"),
        (lambda: initializers.VarianceScaling(mode="fan"), ValueError, "mode: expected one of ['fan_avg', "),
        (lambda: initializers.HeNormal(seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: initializers.PerGate("orthogonal_per_gate"), ValueError, "initializer: expected one for a gate"),
        (lambda: initializers.PerGate({"class": "PerGate", "config": {}}), ValueError, "got PerGate within PerGate"),
        (lambda: initializers.PerGate(gates=0), ValueError, "gates: expected at least 1, got 0"),
        (lambda: regularizers.L2(-0.1), ValueError, "l2: expected a finite number of at least 0, got -0.1"),
        (lambda: regularizers.L1("0"), TypeError, "l1: expected a number, got '0'"),
        (lambda: constraints.MaxNorm(-1), ValueError, "max_value: expected a finite number of at least 0, got -1"),
        (lambda: constraints.MinMaxNorm(2, 1), ValueError, "min_value: expected at most max_value = 1.0, got 2.0"),
        (lambda: constraints.MinMaxNorm(rate=1.5), ValueError, "rate: expected a number from 0 to 1, got 1.5"),
        (lambda: constraints.MaxNorm(axis=0.5), TypeError, "axis: expected an integer, got 0.5"),
        (
            lambda: cgru.GRU(3, kernel_initializer=lambda shape, dtype=None: np.ones(shape, dtype)),
            TypeError,
            "kernel_initializer: expected a function of (shape, dtype, rng), got one of (shape, dtype=None)",
        ),
        (
            lambda: cgru.Dense(3, bias_constraint=lambda: None),
            TypeError,
            "bias_constraint: expected a function of (array), got one of ()",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_the_small_names_of_keras():
    assert repr(regularizers.l1(0.1)) == repr(regularizers.L1(0.1))
    assert repr(regularizers.l2(0.1)) == repr(regularizers.L2(0.1))
    assert repr(regularizers.l1_l2(l1=0.1, l2=0.2)) == repr(regularizers.L1L2(0.1, 0.2))
    assert repr(constraints.max_norm(3)) == repr(constraints.MaxNorm(3))
    assert repr(constraints.min_max_norm(1, 2)) == repr(constraints.MinMaxNorm(1, 2))
    assert repr(constraints.non_neg()) == repr(constraints.NonNeg())
    assert repr(constraints.unit_norm(axis=1)) == repr(constraints.UnitNorm(axis=1))


def test_functions_that_do_not_tell_their_arguments_are_taken(rng):
    values = rng.standard_normal((4, 6))
    assert cgru.Dense(3, kernel_constraint=np.abs).kernel_constraint is np.abs
    layer = cgru.GRU(2, kernel_initializer=lambda *given: values, input_size=4)
    np.testing.assert_array_equal(layer.parameters["kernel"], values.astype("float32"))


class Quartic(regularizers.Regularizer):
    def value(self, array):
        return (array**4).sum()

    def gradient(self, array):
        return 4 * array**3


def fitted(**options):
    model = cgru.Sequential([cgru.Dense(2, **options)], seed=0)
    model.compile("sgd", loss="mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    return model


@pytest.mark.parametrize("option", ["kernel_regularizer", "activity_regularizer"])
@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"value": lambda self, array: array}, ": expected numbers of shape () from its method value, got shape ("),
        ({"value": lambda self, array: None}, ": expected numbers of shape () from its method value, got shape ()"),
        ({"gradient": lambda self, array: np.ones(7)}, " from its method gradient, got shape (7,), dtype float64"),
        ({"gradient": lambda self, array: 1.0}, " from its method gradient, got shape (), dtype float64"),
    ],
)
def test_penalties_of_ones_own_that_return_something_else(option, methods, message):
    fitted(**{option: Quartic()})
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        fitted(**{option: type("Own", (Quartic,), methods)()})
    assert str(caught.value).startswith(option)


def test_a_penalty_without_its_methods():
    class Half(regularizers.Regularizer):
        def value(self, array):
            return 0.0

    with pytest.raises(NotImplementedError, match=re.escape("Half: expected a method gradient(array)")):
        fitted(kernel_regularizer=Half())


@pytest.mark.parametrize("returned", [None, "a", 1.0, np.ones((3, 2)) * 1j])
def test_constraints_of_ones_own_that_return_something_else(returned):
    with pytest.raises(ValueError, match=re.escape("expected numbers of shape (3, 2)")):
        fitted(kernel_constraint=lambda array: returned)


@pytest.mark.parametrize("name", ["orthogonal", "identity", "orthogonal_per_gate"])
def test_initializers_that_do_not_fit_name_the_option(name):
    with pytest.raises(ValueError, match=r"^bias_initializer: "):
        cgru.GRU(3, bias_initializer=name, input_size=2, bidirectional=True)


def test_draws_of_ones_own_are_checked():
    class Short(initializers.Initializer):
        def draw(self, shape, rng):
            return np.ones(3)

    with pytest.raises(ValueError, match=r"^recurrent_initializer: expected a function"):
        cgru.GRU(3, recurrent_initializer=Short(), input_size=2)
