"""Explanations of models with all kinds of layers: convolved, pooled, normalised, masked, with penalties."""

import numpy as np
import pytest
from checks import VALIDITY, D, N, T, assert_close, random_layer, spoiled, valid_steps

import cgru
from cgru import interpret

K = 4
OPTIONS = {"dtype": "float64", "seed": 1}


def model_of(rng, *layers):
    return cgru.Sequential([*layers, cgru.Dense(K, "softmax", **OPTIONS)], seed=2)


def gru(rng, inputs=D, **options):
    return random_layer(rng, 7, input_size=inputs, dtype="float64", **options)


MODELS = {
    "convolved": lambda rng: model_of(rng, cgru.Conv1D(6, 2, strides=2, activation="tanh", **OPTIONS), gru(rng, 6)),
    "same": lambda rng: model_of(rng, cgru.Conv1D(6, 3, padding="same", **OPTIONS), gru(rng, 6)),
    "largest": lambda rng: model_of(rng, gru(rng, return_sequences=True), cgru.GlobalMaxPooling1D()),
    "mean": lambda rng: model_of(rng, gru(rng, return_sequences=True), cgru.GlobalAveragePooling1D()),
    "attention": lambda rng: model_of(rng, gru(rng, return_sequences=True), cgru.AttentionPooling(5, **OPTIONS)),
    "normalised": lambda rng: model_of(
        rng, cgru.Dense(5, "tanh", **OPTIONS), cgru.LayerNormalization(dtype="float64"), gru(rng, 5)
    ),
    "masking": lambda rng: model_of(rng, cgru.Masking(), gru(rng)),
}


def differences(function, x, eps=1e-5):
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape[1:]):
        at = (slice(None), *index)
        for shift, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = x.copy()
            moved[at] += shift * eps
            found[at] += weight * function(moved) / (12 * eps)
    return found


@pytest.mark.parametrize("kind", VALIDITY)
@pytest.mark.parametrize("name", MODELS)
def test_gradients(rng, name, kind):
    model, validity = MODELS[name](rng), VALIDITY[kind]
    x, baseline = rng.uniform(0.1, 1, (2, N, T, D))
    valid = valid_steps(N, T, **validity)
    found = interpret.saliency(model, spoiled(x, valid), 1, **validity)
    assert_close(found, differences(lambda x: model.predict(x, **validity)[:, 1], x), 1e-9)
    assert not found[~valid].any()
    tolerance = 1e-5 if name == "largest" else 1e-9  # of another step at once: the gradient jumps
    options = {"baseline": baseline, "tolerance": tolerance} | validity
    parts = interpret.integrated_gradients(model, spoiled(x, valid), 1, **options)
    change = model.predict(x, **validity) - model.predict(baseline, **validity)
    assert_close(parts.sum(axis=(1, 2)), change[:, 1], 10 * tolerance)


@pytest.mark.parametrize("padding", ["valid", "causal"])
def test_outputs_at_other_steps_than_the_inputs(rng, padding):
    conv = cgru.Conv1D(6, 2, strides=2, padding=padding, **OPTIONS)
    model = model_of(rng, conv, gru(rng, 6, return_sequences=True))
    rows = [rng.uniform(-1, 1, (length, D)) for length in (7, 4, 3)]
    found = interpret.saliency(model, rows, 2)
    for part, row in zip(found, rows, strict=True):
        last = len(model.predict([row])[0]) - 1
        assert_close(part, interpret.saliency(model, row[None], 2, step=last)[0], 1e-14)
        assert_close(part[None], differences(lambda x: model.predict(x)[:, -1, 2], row[None]), 1e-9)
    assert len(interpret.gradient_norm_by_distance(model, rows)) == 7
    with pytest.raises(ValueError, match="step: expected None where a Conv1D leaves steps out, got 0"):
        interpret.gradient_norm_by_distance(model, rows, step=0)
    with pytest.raises(ValueError, match="step: expected a step that every sequence has, got 2, which row 1 lacks"):
        interpret.saliency(model, rows, step=2)


def test_what_is_masked_by_its_values_is_padding(rng):
    layer = gru(rng)
    model, plain = model_of(rng, cgru.Masking(-9.0), layer), model_of(rng, layer.with_options())
    x, lengths = rng.uniform(-1, 1, (N, T, D)), np.array([3, 5, 1])
    x[np.arange(T) >= lengths[:, None]] = -9
    y, options = [0, 1, 2], {"baseline": -9.0}
    plain.predict(x)
    model.predict(x)
    plain.set_weights(model.get_weights())
    for function, settings in (
        (interpret.saliency, {}),
        (interpret.integrated_gradients, options),
        (interpret.gradient_norm_by_distance, {}),
    ):
        expected = function(plain, x, 1, lengths=lengths, **settings)
        assert (function(model, x, 1, **settings) == expected).all()
    for either in (model, plain):
        either.compile(loss="sparse_categorical_crossentropy")
    expected = interpret.permutation_importance(plain, x, y, lengths=lengths)
    assert (interpret.permutation_importance(model, x, y).drops == expected.drops).all()


def test_ids_that_are_padding(rng):
    ids = np.array([[3, 1, 2, 0, 0], [1, 4, 2, 3, 1], [2, 0, 0, 0, 0]])
    layers = [cgru.Embedding(5, 3, mask_zero=True, **OPTIONS), cgru.GRU(7, return_sequences=True, **OPTIONS)]
    model = model_of(rng, *layers)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    for function in (interpret.saliency, interpret.integrated_gradients):
        found = function(model, ids, 1)
        assert (found[ids == 0] == 0).all() and (found[ids > 0] != 0).all()
        assert (function(model, ids, 1, step=0)[ids == 0] == 0).all()
    y = rng.integers(0, K, ids.shape)
    found = interpret.permutation_importance(model, ids, y, repeats=2)
    assert found.score == model.evaluate(ids, y)["accuracy"]


def test_penalties_have_no_part_in_explanations(rng):
    layers = [cgru.Conv1D(5, 2, **OPTIONS), cgru.GRU(6, return_sequences=True, **OPTIONS), cgru.Dense(K, **OPTIONS)]
    model = cgru.Sequential(layers, seed=0)
    x = rng.standard_normal((N, T, D))
    model.predict(x)
    twin = cgru.Sequential([layer.with_options(activity_regularizer="l2") for layer in layers], seed=0)
    for logits in (False, True):
        assert (interpret.saliency(twin, x, 1, logits=logits) == interpret.saliency(model, x, 1, logits=logits)).all()
