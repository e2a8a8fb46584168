"""cgru.interpret.permutation_importance: what is exchanged, and what models lose whose features are known."""

import numpy as np
import pytest
from checks import random_layer

import cgru
from cgru import interpret
from cgru.interpret.exchange import _donors

N, T, D = 30, 6, 4


def reads_only(feature, rng, steps=False, activation="softmax", outputs=3, loss="sparse_categorical_crossentropy"):
    """A compiled model with random weights that one feature alone reaches."""
    layer = random_layer(rng, 8, input_size=D, return_sequences=steps)
    with layer.update() as parameters:
        parameters["kernel"][np.arange(D) != feature] = 0
        parameters["kernel"][feature] *= 3
    model = cgru.Sequential([layer, cgru.Dropout(0.5), cgru.Dense(outputs, activation=activation, seed=0)], seed=0)
    model.compile(loss=loss)
    return model


VALIDITY = {
    "all": lambda rng: {},
    "lengths": lambda rng: {"lengths": rng.integers(0, T + 1, N)},
    "mask": lambda rng: {"mask": rng.random((N, T)) < 0.6},
}


@pytest.mark.parametrize("kind", VALIDITY)
@pytest.mark.parametrize("steps", [False, True])
def test_only_the_feature_that_is_read_counts(rng, kind, steps):
    model, validity = reads_only(2, rng, steps), VALIDITY[kind](rng)
    x = rng.standard_normal((N, T, D)).astype("float32")
    y = model.predict(x, **validity).argmax(axis=-1)
    found = interpret.permutation_importance(model, x, y, **validity, metric="accuracy", repeats=3, batch_size=7)
    assert found.score == 1 and found.drops.shape == (D, 3)
    assert not found.drops[[0, 1, 3]].any()
    assert found.mean[2] > 0.1
    assert (found.mean == found.drops.mean(axis=1)).all() and (found.std == found.drops.std(axis=1)).all()


@pytest.mark.parametrize("metric", [None, "loss", "Loss", "mse", "mae"])
def test_errors_that_grow_are_losses_too(rng, metric):
    model = reads_only(1, rng, activation="linear", outputs=1, loss="mse")
    x = rng.standard_normal((N, T, D)).astype("float32")
    y = model.predict(x)[:, 0] + 0.01 * rng.standard_normal(N)
    found = interpret.permutation_importance(model, x, y, metric=metric)
    assert found.mean.argmax() == 1 and found.mean[1] > 10 * found.score > 0
    assert not found.mean[[0, 2, 3]].any()


def test_metrics_of_the_model_and_of_ones_own(rng):
    model = reads_only(1, rng)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["macro_f1", "accuracy"])
    x = rng.standard_normal((N, T, D)).astype("float32")
    y = rng.integers(0, 3, N)
    figures = model.evaluate(x, y)
    assert interpret.permutation_importance(model, x, y, repeats=1).score == figures["macro_f1"]
    for name in ("accuracy", cgru.metrics.Accuracy()):
        assert interpret.permutation_importance(model, x, y, metric=name, repeats=1).score == figures["accuracy"]
    found = interpret.permutation_importance(model, x, y, metric="loss", repeats=1)
    assert found.score == pytest.approx(figures["loss"], rel=1e-6)

    def error(labels, outputs):
        return float((outputs.argmax(axis=1) != labels).mean())

    of_hits = interpret.permutation_importance(model, x, y, metric="accuracy")
    of_errors = interpret.permutation_importance(model, x, y, metric=error, greater_is_better=False)
    assert of_errors.score == pytest.approx(1 - of_hits.score)
    np.testing.assert_allclose(of_errors.drops, of_hits.drops, atol=1e-12)
    np.testing.assert_allclose(
        interpret.permutation_importance(model, x, y, metric=error).drops, -of_hits.drops, atol=1e-12
    )


@pytest.mark.parametrize("backwards", [False, True])
def test_score_is_that_of_evaluate(rng, backwards):
    layers = [
        random_layer(rng, 8, input_size=D, return_sequences=True, go_backwards=backwards),
        cgru.Dense(3, "softmax"),
    ]
    model = cgru.Sequential(layers, seed=0)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x, lengths = rng.standard_normal((N, T, D)).astype("float32"), rng.integers(0, T + 1, N)
    y = rng.integers(0, 3, (N, T))
    figures, before = model.evaluate(x, y, lengths=lengths), x.copy()
    for name in ("accuracy", "loss"):
        found = interpret.permutation_importance(model, x, y, lengths=lengths, metric=name, repeats=2, batch_size=N)
        assert found.score == pytest.approx(figures[name], rel=1e-6)
    assert (x == before).all()


def test_one_seed_gives_one_result(rng):
    model, x, y = reads_only(2, rng), rng.standard_normal((N, T, D)), rng.integers(0, 3, N)
    one, again, other, any_batch = (
        interpret.permutation_importance(model, x, y, repeats=4, **options).drops
        for options in ({}, {"seed": 0}, {"seed": 1}, {"batch_size": 5})
    )
    assert (one == again).all() and (one == any_batch).all() and (one != other).any()


@pytest.mark.parametrize("kind", ["lengths", "mask"])
def test_values_are_exchanged_at_each_step_among_those_who_have_it(rng, kind):
    validity = VALIDITY[kind](rng)
    valid = validity["mask"] if kind == "mask" else np.arange(T) < validity["lengths"][:, None]
    donors = _donors(rng.permutation(N), valid)
    for t in range(T):
        rows = np.flatnonzero(valid[:, t])
        assert sorted(donors[rows, t]) == rows.tolist()
        if len(rows) > 1:
            assert (donors[rows, t] != rows).all()
        others = np.flatnonzero(~valid[:, t])
        assert (donors[others, t] == others).all()
    if kind == "lengths":  # who gives goes on giving until it has ended
        i, t = np.nonzero(valid[:, 1:])
        goes_on = valid[donors[i, t], t + 1]
        assert (donors[i, t + 1] == donors[i, t])[goes_on].all() and goes_on.any()


def test_without_lengths_whole_series_are_exchanged(rng):
    donors = _donors(rng.permutation(N), None)
    assert sorted(donors[:, 0]) == list(range(N)) and (donors[:, 0] != np.arange(N)).all()
    assert (_donors(np.arange(3), np.ones((3, 2), bool)) == _donors(np.arange(3), None)).all()


def test_padding_takes_no_part(rng):
    model, lengths = reads_only(2, rng), rng.integers(0, T + 1, N)
    x, y = rng.standard_normal((N, T, D)).astype("float32"), rng.integers(0, 3, N)
    spoiled = np.where(np.arange(T)[:, None] < lengths[:, None, None], x, np.nan)
    found = interpret.permutation_importance(model, x, y, lengths=lengths)
    assert (interpret.permutation_importance(model, spoiled, y, lengths=lengths).drops == found.drops).all()
    listed = [row[:length] for row, length in zip(x, lengths, strict=True)]
    assert (interpret.permutation_importance(model, listed, y).drops == found.drops).all()
    assert np.isfinite(found.drops).all()


def test_of_ids_and_of_vectors(rng):
    words = cgru.Sequential([cgru.Embedding(9, 5), cgru.GRU(8), cgru.Dense(9, activation="softmax")], seed=0)
    words.compile(cgru.optimizers.Adam(0.03), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    ids = rng.integers(0, 9, (90, 3))
    words.fit(ids, ids[:, -1], epochs=15, verbose=0)
    found = interpret.permutation_importance(words, ids, ids[:, -1], lengths=[3] * 90)
    assert found.drops.shape == (1, 5) and found.mean[0] > 0.5
    x = rng.standard_normal((40, 3)).astype("float32")
    flat = cgru.Sequential([cgru.Dense(1, seed=0)])
    flat.compile(loss="mse")
    with flat.build(3).layers[0].update() as parameters:
        parameters["kernel"][:] = [[0], [1], [2]]
    mean = interpret.permutation_importance(flat, x, x @ [0, 1, 2]).mean
    assert mean[0] == 0 and 0 < mean[1] < mean[2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": np.zeros((1, T, D)), "y": [0]}, ValueError, "x: expected at least two sequences"),
        ({"y": [0, 1]}, ValueError, r"y: expected shape \(3,\)"),
        ({"y": [0, 1, 3]}, ValueError, "y: expected at least 0 and less than 3"),
        ({"metric": "precision"}, ValueError, "metric: expected one of"),
        ({"repeats": 0}, ValueError, "repeats: expected at least 1"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
        ({"greater_is_better": 1}, TypeError, "greater_is_better: expected True or False"),
        ({"lengths": [9, 1, 1]}, ValueError, "lengths: expected"),
    ],
)
def test_wrong_arguments_are_named(rng, arguments, error, message):
    given = {"model": reads_only(0, rng), "x": np.zeros((3, T, D)), "y": [0, 1, 2]} | arguments
    with pytest.raises(error, match=message):
        interpret.permutation_importance(**given)


def test_a_model_without_a_loss_is_refused():
    with pytest.raises(RuntimeError, match="compile"):
        interpret.permutation_importance(cgru.Sequential([cgru.GRU(3)]), np.zeros((3, T, D)), [0, 1, 2])
