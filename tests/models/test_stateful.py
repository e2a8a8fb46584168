"""Stateful models: one state a row, never mixed, and left alone by a call that fails."""

import re

import checks
import numpy as np
import pytest

import cgru

N, T, D, K = 20, 6, 3, 4


def compiled(**options):
    layers = [
        cgru.GRU(5, return_sequences=True, **options),
        cgru.GRU(6, num_layers=2, **options),
        cgru.Dense(K, activation="softmax"),
    ]
    model = cgru.Sequential(layers, seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def states(model):
    return [None if layer._state is None else layer._state.copy() for layer in model.layers[:2]]


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, T, D)).astype(np.float32)


@pytest.fixture
def y(rng):
    return rng.integers(0, K, N)


@pytest.mark.parametrize("call", ["predict", "call", "evaluate"])
def test_calls_in_pieces_are_the_whole(x, y, call):
    """One call a chunk, all rows in each."""
    plain, model = compiled(), compiled(stateful=True)
    calls = {
        "predict": lambda m, part: m.predict(part),
        "call": lambda m, part: m(part),
        "evaluate": lambda m, part: np.array(list(m.evaluate(part, y).values())),
    }
    expected = calls[call](plain, x)
    calls[call](model, x[:, :2])
    checks.assert_same_arrays(calls[call](model, x[:, 2:]), expected)
    model.reset_states()
    checks.assert_same_arrays(calls[call](model, x), expected)


@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_a_call_that_would_be_cut_is_refused(x, y, call):
    model = compiled(stateful=True)
    model.predict(x)
    before = states(model)
    calls = {"predict": lambda **o: model.predict(x, **o), "evaluate": lambda **o: model.evaluate(x, y, **o)}
    message = "batch_size: expected at least 20, the rows of x, because layer 0 (GRU) is stateful and keeps one state"
    for batch_size in (5, 19):
        with pytest.raises(ValueError, match=f"^{re.escape(message)} for each row, got {batch_size}$"):
            calls[call](batch_size=batch_size)
    checks.assert_same_arrays(states(model), before)
    calls[call](batch_size=20)


def test_other_rows_than_those_of_the_state_are_refused(x, y):
    model = compiled(stateful=True)
    model(x)
    before = states(model)
    message = "x: expected 20 rows, as the state that layer 0 (GRU) keeps has, got 7 rows; reset_states() forgets it"
    for call in (lambda: model(x[:7]), lambda: model.predict(x[:7]), lambda: model.evaluate(x[:7], y[:7])):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
    message = "x: expected batches of 20 rows, as the state that layer 0 (GRU) keeps has, got batches of 5 rows; reset_"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    checks.assert_same_arrays(states(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "shuffle: expected False, because layer 0 (GRU) is stateful: row i of a batch goes on from row i of the"),
        ({"shuffle": True, "batch_size": 20}, "shuffle: expected False, because"),
        ({"shuffle": False, "batch_size": 8}, "batch_size: expected a divisor of 20, the number of rows, because"),
        ({"shuffle": False, "batch_size": 19}, "batch_size: expected a divisor of 20, the number of rows, because"),
        (
            {"shuffle": False, "batch_size": 5, "validation_data": 7},
            "validation_data: batch_size: expected a divisor of 7, the number of rows, because layer 0 (GRU) is",
        ),
    ],
)
def test_fit_refuses_before_anything_is_done(x, y, options, message):
    model = compiled(stateful=True)
    model.fit(x[:5], y[:5], batch_size=5, shuffle=False, verbose=0)
    before = model.get_weights(), states(model)
    if "validation_data" in options:
        rows = options["validation_data"]
        options = {**options, "validation_data": (x[:rows], y[:rows])}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.fit(x, y, verbose=0, **options)
    checks.assert_same_arrays((model.get_weights(), states(model)), before)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("begun", [False, True])
def test_fit_goes_on_from_batch_to_batch_and_starts_each_epoch_as_the_first(x, y, epochs, begun):
    """Against the same updates, one call of fit each, with the states set by hand."""
    model, twin = compiled(stateful=True), compiled(stateful=True)
    start = [None, None]
    if begun:
        for one in (model, twin):
            one(x[:5])
        start = states(model)
    history = model.fit(x, y, batch_size=5, epochs=epochs, shuffle=False, validation_data=(x[:10], y[:10]), verbose=0)
    for _ in range(epochs):
        for layer, state in zip(twin.layers, start, strict=False):
            layer.reset_states(state)
        for rows in range(0, N, 5):
            twin.fit(x[rows : rows + 5], y[rows : rows + 5], batch_size=5, shuffle=False, verbose=0)
    checks.assert_same_arrays((model.get_weights(), states(model)), (twin.get_weights(), states(twin)))
    # Validation goes on from batch to batch as well, starts from nothing and leaves nothing.
    other = compiled(stateful=True).build(D)
    other.set_weights(model.get_weights())
    scores = [other.evaluate(x[rows : rows + 5], y[rows : rows + 5]) for rows in (0, 5)]
    assert history.history["val_loss"][-1] == pytest.approx(sum(s["loss"] for s in scores) / 2, rel=1e-6)


def test_a_call_that_fails_leaves_every_state(x, y):
    class Failing(cgru.Dense):
        fails = False

        def forward_batch(self, *arguments, **options):
            if self.fails:
                raise RuntimeError("on purpose")
            return super().forward_batch(*arguments, **options)

    layers = [cgru.GRU(5, stateful=True, learn_initial_state=True), Failing(K, activation="softmax")]
    model = cgru.Sequential(layers, seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model(x)
    state, weights = layers[0]._state.copy(), model.get_weights()
    layers[1].fails = True
    for call in (
        lambda: model(x),
        lambda: model.predict(x),
        lambda: model.evaluate(x, y),
        lambda: model.fit(x, y, shuffle=False, verbose=0),
    ):
        with pytest.raises(RuntimeError, match="on purpose"):
            call()
        checks.assert_same_arrays((layers[0]._state, model.get_weights()), (state, weights))
    with pytest.raises(ValueError, match="x: expected shape"):
        layers[0](x[0])
    checks.assert_same_arrays(layers[0]._state, state)


def test_reset_states(x):
    model = compiled(stateful=True)
    first = model(x)
    assert not np.array_equal(model(x), first)
    model.reset_states()
    assert states(model) == [None, None]
    checks.assert_same_arrays(model(x), first)
    with pytest.raises(RuntimeError, match=r"reset_states: expected a model with a stateful GRU, got none"):
        compiled().reset_states()
