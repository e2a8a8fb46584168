"""An update that would make parameters NaN or infinite is not made, and the error says where the number comes from."""

import math
import re

import checks
import numpy as np
import pytest

import cgru

N, T, D, K = 20, 6, 3, 4
NAN, INF = math.nan, math.inf
LENGTHS = np.array([T, T - 1] * (N // 2))


def compiled(layers, optimizer="adam"):
    model = cgru.Sequential(layers, seed=0)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def classifier(optimizer="adam", **options):
    return compiled([cgru.GRU(5, **options), cgru.Dropout(0.2), cgru.Dense(K, activation="softmax")], optimizer)


def data(rng):
    return rng.standard_normal((N, T, D)).astype(np.float32), rng.integers(0, K, N)


def after(model, x, y, updates, **options):
    """Parameters and optimizer of a twin that stops after so many batches of five rows."""
    rows = slice(0, 5 * updates)
    options = {name: value[rows] if isinstance(value, np.ndarray) else value for name, value in options.items()}
    model.fit(x[rows], y[rows], batch_size=5, shuffle=False, verbose=0, **options)
    return model.get_weights(), model._states[0].iterations, model._states[0].slots


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("options", [{}, {"reset_after": True}, {"activation": "relu"}, {"bidirectional": True}])
@pytest.mark.parametrize("valid", ["all", "lengths"])
def test_a_number_in_the_input(rng, value, options, valid):
    x, y = data(rng)
    given = {"lengths": LENGTHS} if valid == "lengths" else {}
    expected = after(classifier(**options), x, y, 2, **given)
    x[12, 4, 1] = value  # in the third batch
    model = classifier(**options)
    where = "row 12, step 4, feature 1 (epoch 1, batch 3)"
    message = f"x: expected finite numbers in float32, got an input of {value} in {where}; no update was made with it"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(x, y, batch_size=5, epochs=3, shuffle=False, verbose=0, **given)
    state = model._states[0]
    checks.assert_same_arrays((model.get_weights(), state.slots), (expected[0], expected[2]))
    assert state.iterations == expected[1] == 2 and model.history.epochs == []
    assert np.isfinite(model.predict(x[:12])).all()


def test_the_row_is_that_of_the_data_whatever_the_order(rng):
    x, y = data(rng)
    x[17, 0, 2] = NAN
    with pytest.raises(ValueError, match=r"got an input of nan in row 17, step 0, feature 2 \(epoch 1, batch \d\)"):
        classifier().fit(x, y, batch_size=3, verbose=0)
    with pytest.raises(ValueError, match=r"got an input of nan in row 17, step 0, feature 2 \(epoch 1, batch 1\)"):
        classifier().fit([row[: 2 + i % 4] for i, row in enumerate(x)], y, verbose=0)
    with pytest.raises(ValueError, match=r"got an input of nan in row 17, feature 2 \(epoch 1, batch 1\)"):
        compiled([cgru.Dense(K, activation="softmax")]).fit(x[:, 0], y, verbose=0)


def test_a_number_that_the_type_of_the_model_cannot_hold(rng):
    x, y = data(rng)
    x = x.astype(np.float64)
    x[5, 1, 0] = 1e300
    message = "x: expected finite numbers in float32, got an input of inf in row 5, step 1"
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        classifier().fit(x, y, verbose=0)
    classifier(dtype="float64").fit(x, y, verbose=0)


def test_a_number_outside_the_lengths_is_not_read(rng):
    x, y = data(rng)
    clean, spoiled = classifier(), classifier()
    clean.fit(x, y, lengths=LENGTHS, epochs=2, verbose=0)
    x[1::2, -1] = NAN
    spoiled.fit(x, y, lengths=LENGTHS, epochs=2, verbose=0)
    checks.assert_same_arrays(spoiled.get_weights(), clean.get_weights())


def test_an_earlier_epoch_is_kept(rng):
    x, y = data(rng)

    class Late(cgru.Dropout):
        """Spoils the ninth batch that it sees."""

        seen = 0

        def forward_batch(self, batch, *arguments, **options):
            self.seen += 1
            if self.seen == 9:
                batch.data[3] = INF
            return super().forward_batch(batch, *arguments, **options)

    model = compiled([cgru.GRU(5), Late(0), cgru.Dense(K, activation="softmax")])
    message = r"the loss of row 3 of x is nan in epoch 3, batch 1, though input and parameters are finite"
    with pytest.raises(FloatingPointError, match=message):
        model.fit(x, y, batch_size=5, epochs=5, shuffle=False, verbose=0)
    assert model.history.epochs == [0, 1] and model._states[0].iterations == 8
    assert all(np.isfinite(array).all() for array in model.get_weights())


def test_a_loss(rng):
    x, y = data(rng)
    x[11] *= 1e30
    model = compiled([cgru.GRU(5, activation="linear"), cgru.Dense(K, activation="softmax")])
    model.build(D)
    model.set_weights([array * 1e9 for array in model.get_weights()])
    before = model.get_weights()
    with pytest.raises(FloatingPointError, match=r"the loss of row \d+ of x is (nan|inf) in epoch 1, batch 1, though"):
        model.fit(x, y, epochs=3, verbose=0)
    checks.assert_same_arrays(model.get_weights(), before)


def test_a_gradient(rng):
    """The loss is finite, but the square of a gradient is not."""
    x, y = data(rng)
    x[13] = 1e30

    def made():
        layers = [cgru.Dense(5, activation="tanh", seed=1), cgru.Dense(K, activation="softmax", seed=2)]
        model = compiled(layers, cgru.optimizers.Adam(1e-33)).build(D)  # small steps, or tanh would be saturated
        kernel, *others = model.get_weights()
        model.set_weights([kernel * 1e-30, *others])
        return model

    model, twin = made(), made()
    message = "the gradient of kernel of layer 0 (Dense), or its square, is not finite in epoch 1, batch 3"
    with pytest.raises(FloatingPointError, match=f"^{re.escape(message)} because of row 13 of x, though"):
        model.fit(x[:, 0], y, batch_size=5, shuffle=False, verbose=0)
    twin.fit(x[:10, 0], y[:10], batch_size=5, shuffle=False, verbose=0)
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


def test_parameters_that_are_not_finite_already(rng):
    x, y = data(rng)
    model = classifier().build(D)
    weights = model.get_weights()
    weights[1][2, 3] = NAN
    model.set_weights(weights)
    message = r"recurrent_kernel of layer 0 \(GRU\) holds nan before the update of epoch 1, batch 1, which was not made"
    with pytest.raises(FloatingPointError, match=message):
        model.fit(x, y, verbose=0)
    checks.assert_same_arrays(model.get_weights(), weights)


def test_an_update(rng):
    x, y = data(rng)
    model = classifier(cgru.optimizers.Adam(1e300)).build(D)
    before = model.get_weights()
    message = r"the update of kernel of layer \d .* is not finite in epoch 1, batch 1, though the gradient is"
    with pytest.raises(FloatingPointError, match=message):
        model.fit(x, y, verbose=0)
    checks.assert_same_arrays(model.get_weights(), before)
    model.optimizer.learning_rate = 0.01
    model.fit(x, y, verbose=0)


def test_validation_data_with_nan_are_reported_and_do_not_stop_the_training(rng):
    x, y = data(rng)
    spoiled = x.copy()
    spoiled[0, 0, 0] = NAN
    history = classifier().fit(x, y, validation_data=(spoiled, np.zeros(N, int)), verbose=0).history
    assert math.isnan(history["val_loss"][0]) and history["val_accuracy"][0] <= (N - 1) / N
    scores = classifier().evaluate(np.full_like(x, NAN), np.zeros(N, int))
    assert math.isnan(scores["loss"]) and scores["accuracy"] == 0


def test_a_stateful_model(rng):
    x, y = data(rng)
    model = classifier(stateful=True, reset_after=True)
    model.fit(x[:10], y[:10], batch_size=5, shuffle=False, verbose=0)
    weights, state = model.get_weights(), model.layers[0]._state.copy()
    x[12] = NAN
    with pytest.raises(ValueError, match=r"got an input of nan in row 2, step 0, feature 0 \(epoch 1, batch 1\)"):
        model.fit(x[10:], y[10:], batch_size=5, shuffle=False, verbose=0)
    checks.assert_same_arrays((model.get_weights(), model.layers[0]._state), (weights, state))
