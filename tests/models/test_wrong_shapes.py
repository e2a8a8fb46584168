"""Data that do not fit a model are refused before anything is done, in the words of whoever passed them."""

import re

import checks
import numpy as np
import pytest

import cgru

D, K, N, T = 3, 4, 100, 7
X, Y = np.zeros((N, T, D)), np.zeros(N, int)
STEPS = np.zeros((N, T), int)


def classifier(**options):
    return compiled([cgru.GRU(5, **options), cgru.Dense(K, activation="softmax")])


def compiled(layers):
    model = cgru.Sequential(layers, seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def tagger():
    layers = [cgru.Embedding(9, 2), cgru.GRU(5, return_sequences=True), cgru.Dense(K, activation="softmax")]
    return compiled(layers)


def stack(second=None):
    second = second or cgru.GRU(K)
    return compiled([cgru.GRU(5), cgru.Dropout(0.1), second, cgru.Dense(K, activation="softmax")])


SEQUENCES = "x: expected shape (N, T, 3) or a list of (T_i, 3) arrays for layer 0 (GRU), got "
WRONG = {
    "one recording": (classifier, X[0], SEQUENCES + "(7, 3); one recording (T, D): give x[None] or [x]"),
    "vectors": (classifier, X[:, 0], SEQUENCES + "(100, 3); one recording (T, D): give x[None] or [x]"),
    "a vector": (classifier, X[0, 0], SEQUENCES + "(3,); one series of one feature: give x[None, :, None]"),
    "four axes": (classifier, X[None], SEQUENCES + "(1, 100, 7, 3)"),
    "features": (classifier, X[..., :2], SEQUENCES + "(100, 7, 2)"),
    "no features": (classifier, X[..., :0], SEQUENCES + "(100, 7, 0)"),
    "features before time": (
        classifier,
        X.swapaxes(1, 2),
        SEQUENCES + "(100, 3, 7); features before time, (N, D, T): give x.swapaxes(1, 2)",
    ),
    "features in a list": (classifier, [X[0, :, :2]] * N, SEQUENCES + "a list of (T_i, 2) arrays"),
    "series in a list": (
        classifier,
        [X[0, :, 0]] * N,
        SEQUENCES + "a list of (T_i,) arrays; a series of one feature is array[:, None]",
    ),
    "a list in a list": (classifier, [X[0, :2], X[0, :, :2]], "x[1]: expected shape (T_i, 3) as x[0], got (7, 2)"),
    "states instead of sequences": (
        stack,
        X,
        "layer 2 (GRU): expected sequences (N, T, D), got (100, 5) from layer 1 (Dropout): "
        "give layer 0 (GRU) return_sequences=True",
    ),
    "vectors through a Dense": (
        lambda: compiled([cgru.Dense(6), cgru.GRU(5, "sigmoid")]),
        X[:, 0],
        "x: expected sequences, for layer 1 (GRU), got (100, 3); one recording (T, D): give x[None] or [x]",
    ),
    "ids with features": (
        tagger,
        np.zeros((N, T, D), int),
        "x: expected shape (N, T) or (N,), of ids, or a list of (T_i,) arrays for layer 0 (Embedding), got (100, 7, 3)",
    ),
    "ids that are not integers": (tagger, X[..., 0], "x: expected integer ids, got dtype float64"),
    "an id out of range": (
        tagger,
        np.where(np.arange(N * T).reshape(N, T) == 95 * T + 2, 9, 0),
        "x: expected ids of at least 0 and less than input_dim = 9, got 9 in row 95, step 2",
    ),
    "vectors for a Dense": (
        lambda: compiled([cgru.Dense(K, activation="softmax")]),
        X[0, 0],
        "x: expected shape (N, 3) or (N, T, 3) for layer 0 (Dense), got (3,)",
    ),
}


def labels_for(model):
    return Y if isinstance(model.layers[0], cgru.GRU) or isinstance(model.layers[-1], cgru.GRU) else STEPS


def good_for(model):
    return STEPS if isinstance(model.layers[0], cgru.Embedding) else X


@pytest.mark.parametrize(("make", "x", "message"), WRONG.values(), ids=WRONG)
def test_wrong_data(make, x, message):
    model = make()
    model.build(D)
    before = model.get_weights()
    calls = {
        "predict": lambda: model.predict(x, batch_size=32),
        "evaluate": lambda: model.evaluate(x, Y),
        "fit": lambda: model.fit(x, Y, verbose=0),
    }
    for what, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
            call()
        checks.assert_same_arrays(model.get_weights(), before, what)


@pytest.mark.parametrize(("make", "x", "message"), [case for case in WRONG.values() if case[0] is not stack])
def test_wrong_validation_data(make, x, message):
    """They are looked at before the training, and the message says which data it speaks of."""
    model = make()
    model.build(D)
    before = model.get_weights()
    with pytest.raises((TypeError, ValueError), match=f"^validation_data: {re.escape(message)}$"):
        model.fit(good_for(model), labels_for(model), validation_data=(x, Y), verbose=0)
    checks.assert_same_arrays(model.get_weights(), before)
    assert model.history is None


def test_data_are_looked_at_before_their_lengths():
    for given in ({"lengths": [T]}, {"mask": np.ones((1, T), bool)}):
        with pytest.raises(ValueError, match=re.escape("got (7, 3); one recording (T, D): give x[None] or [x]")):
            classifier().predict(X[0], **given)
        with pytest.raises(ValueError, match=r"lengths, mask: give one of the two|brings its own lengths"):
            classifier().predict([X[0], X[0, 1:]], **given)
        assert classifier().predict(X[:1], **given).shape == (1, K)


def test_no_data():
    for x, message in (([], SEQUENCES + "(0,)"), (X[:0], "x: expected at least one example, got none")):
        model = classifier().build(D)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.fit(x, Y[:0], verbose=0)
        with pytest.raises(ValueError, match=f"^validation_data: {re.escape(message)}$"):
            model.fit(X, Y, validation_data=(x, Y[:0]), verbose=0)


def test_validation_data_for_a_model_that_is_not_built():
    for x, message in (
        (X[..., :2], "x: expected 3 features, as in training, got (100, 7, 2)"),
        ([X[0, :, :2]] * N, "x: expected 3 features, as in training, got a list of (T_i, 2) arrays"),
        (X[:, 0], "x: expected shape (N, T, D) or a list of (T_i, D) arrays for layer 0 (GRU), got (100, 3); one "),
    ):
        model = classifier()
        with pytest.raises(ValueError, match=f"^validation_data: {re.escape(message)}"):
            model.fit(X, Y, validation_data=(x, Y), verbose=0)
        assert not model.built


@pytest.mark.parametrize(
    ("make", "y", "message"),
    [
        (classifier, Y[1:], "y: expected shape (100,), a label for each example, got (99,)"),
        (
            classifier,
            STEPS,
            "y: expected shape (100,), a label for each example, got (100, 7); "
            "for a label for each step every GRU is to have return_sequences=True",
        ),
        (
            tagger,
            Y,
            "y: expected shape (100, 7), a label for each step, got (100,); "
            "for a label for each example the last GRU is to have return_sequences=False",
        ),
        (tagger, STEPS[:, 1:], "y: expected shape (100, 7), a label for each step, got (100, 6)"),
        (tagger, list(STEPS[1:]), "y: expected 100 sequences of labels, got 99"),
        (tagger, [*STEPS[1:], STEPS[0, 1:]], "y[99]: expected shape (7,), a label for each step, got (6,)"),
        (classifier, Y + K, "y: expected at least 0 and less than 4, the number of outputs, got 4"),
    ],
)
def test_wrong_labels(make, y, message):
    model = make()
    x = good_for(model)
    model.build(D)
    before = model.get_weights()
    for call in (lambda: model.fit(x, y, verbose=0), lambda: model.evaluate(x, y)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
    with pytest.raises(ValueError, match=f"^validation_data: {re.escape(message)}$"):
        model.fit(x, labels_for(model), validation_data=(x, y), verbose=0)
    checks.assert_same_arrays(model.get_weights(), before)


def test_the_labels_of_a_model_that_ends_in_a_gru_are_counted_too():
    model = compiled([cgru.GRU(K, activation="sigmoid")]).build(D)
    with pytest.raises(ValueError, match=r"^y: expected at least 0 and less than 4, the number of outputs, got 4$"):
        model.fit(X, np.where(np.arange(N) == 99, K, 0), batch_size=10, verbose=0)


@pytest.mark.parametrize(
    ("options", "x", "got"),
    [
        (
            {},
            X[0],
            "(7, 3); one recording (T, D): give x[None] or [x]; series of one feature (N, T): give x[..., None]",
        ),
        ({"input_size": D}, X[0], "(7, 3); one recording (T, D): give x[None] or [x]"),
        ({}, X[0, 0], "(3,); one series of one feature: give x[None, :, None]"),
        (
            {"time_major": True},
            X[0],
            "(7, 3); one recording (T, D): give x[:, None]; series of one feature (T, N): give x[..., None]",
        ),
        ({"time_major": True}, X[0, 0], "(3,); one series of one feature: give x[:, None, None]"),
    ],
)
def test_a_layer_gives_the_advice_too(options, x, got):
    expected = "(T, N, D)" if options.get("time_major") else "(N, T, D)"
    message = f"x: expected shape {expected} or a list of (T_i, D) arrays, got {got}"
    for given in ({}, {"lengths": [len(x)]}, {"mask": np.ones((1, len(x)), bool)}):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            cgru.GRU(5, **options)(x, **given)


def test_the_advice_is_right():
    series = np.linspace(0, 1, T)
    layer = cgru.GRU(5, seed=0)
    expected = layer(series.reshape(1, T, 1))
    for x in (series[None, :, None], series[None][..., None], series[:, None][None], [series[:, None]]):
        checks.assert_same_arrays(layer(x), expected)
    major = cgru.GRU(5, seed=0, time_major=True)
    for x in (series[:, None, None], series[:, None][..., None], series[:, None][:, None]):
        checks.assert_same_arrays(major(x), expected)


def test_classes_are_no_arrays():
    model = cgru.Sequential([cgru.GRU(3)], seed=0).build(2)
    for call in (model, model.step, lambda x: model.step(x, resets=[True]), lambda x: model([x, x])):
        with pytest.raises((TypeError, ValueError), match=r"^x\w*(\[0\])?: expected"):
            call(np.ndarray)
    with pytest.raises(TypeError, match=r"^weight_hh_l0: expected floating-point numbers, got type"):
        cgru.from_torch({"weight_ih_l0": np.ndarray, "weight_hh_l0": np.ndarray})
    with pytest.raises(TypeError, match="expected floating-point numbers, got type"):
        cgru.from_keras([np.ndarray, np.zeros((2, 6)), np.zeros(6)])
