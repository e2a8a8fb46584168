"""fit(recompute=k), and whatever else trains: the bits of a run whose tapes hold all steps."""

import checks
import numpy as np
import pytest

import cgru
from cgru import callbacks, recomputing
from cgru.layers.stack import Stack

N, T, D, H, K = 6, 13, 3, 5, 2


@pytest.fixture(autouse=True)
def small_pieces(native, limits, monkeypatch):
    limits(large_rows=4, block_rows=3)
    monkeypatch.setattr(recomputing, "LEAST_TAPE", 0)


def made(by_step=False, **options):
    layers = [cgru.GRU(H, return_sequences=by_step, **options), cgru.Dense(K, "softmax")]
    model = cgru.Sequential(layers, seed=1)
    model.compile(cgru.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def data(rng, by_step=False):
    return rng.standard_normal((N, T, D)), rng.integers(0, K, (N, T) if by_step else N)


def result(model):
    slots = [slot for slots in model._states[0].slots.values() for slot in slots]
    return [*model.get_weights(), *slots]


RUNS = {
    "last": ({}, {}),
    "sequences": ({"by_step": True}, {}),
    "stack": ({"num_layers": 2, "bidirectional": True, "zoneout": 0.2, "dropout": 0.2, "layer_dropout": 0.2}, {}),
    "chunks": ({"by_step": True}, {"chunk": 5}),
    "chunks of the last": ({}, {"chunk": 8}),
    "stateful": ({"stateful": True}, {"shuffle": False}),
    "lengths": ({"recurrent_dropout": 0.3}, {"lengths": [13, 2, 7, 0, 13, 9]}),
    "resets": ({"learn_initial_state": True}, {"resets": np.arange(N * T).reshape(N, T) % 5 == 0}),
    "penalties": ({"activity_regularizer": "l2", "kernel_regularizer": "l1"}, {}),
}


@pytest.mark.parametrize("recompute", [1, 4, "auto", 100])
@pytest.mark.parametrize("run", RUNS)
def test_fit(rng, outlines, run, recompute):
    options, given = RUNS[run]
    x, y = data(rng, options.get("by_step", False))
    models = [made(**options), made(**options)]
    common = {"epochs": 2, "batch_size": 3, "verbose": 0, "validation_data": (x, y)}
    histories = [
        model.fit(x, y, **common, **given, **more).history
        for model, more in zip(models, ({}, {"recompute": recompute}), strict=True)
    ]
    assert histories[0] == histories[1]
    checks.assert_same_arrays(result(models[1]), result(models[0]))
    assert bool(outlines) == (recompute != 100)
    assert models[1]._recompute is None


def test_one_update_and_a_loop_of_ones_own(rng, outlines):
    x, y = data(rng)
    models = [made(dropout=0.3), made(dropout=0.3)]
    seen = [model.train_on_batch(x, y, recompute=more) for model, more in zip(models, (None, 4), strict=True)]
    assert seen[0] == seen[1] and len(outlines) == 1
    checks.assert_same_arrays(result(models[1]), result(models[0]))
    found = []
    for more in (None, 4):
        out, tape = models[0].forward(x, training=True, seed=5, recompute=more)
        found.append([out, models[0].backward(out, tape, need_dx=True)])
    checks.assert_same_arrays(found[1], found[0])
    assert len(outlines) == 2


def test_layers_without_steps_are_left_alone(outlines):
    models = []
    for recompute in (None, 3):
        layers = [
            cgru.Masking(), cgru.Conv1D(4, 2), cgru.GRU(H, return_sequences=True), cgru.Dropout(0.2),
            cgru.LayerNormalization(), cgru.GRU(H, reverse=True), cgru.Dense(K, "softmax"),
        ]  # fmt: skip
        layers[2].trainable = False
        model = cgru.Sequential(layers, seed=1)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(*data(np.random.default_rng(0)), verbose=0, recompute=recompute)
        models.append(model)
    checks.assert_same_arrays(result(models[1]), result(models[0]))
    assert len(outlines) == 2


def test_an_encoder_decoder(rng, outlines):
    ids = rng.integers(3, 7, (5, 9))
    models = []
    for recompute in (None, 2):
        encoder = cgru.Sequential([cgru.Embedding(7, 4), cgru.GRU(H, bidirectional=True, return_sequences=True)])
        decoder = cgru.Sequential(
            [cgru.Embedding(7, 4), cgru.GRU(2 * H, return_sequences=True), cgru.Dense(7, "softmax")]
        )
        model = cgru.Seq2Seq(encoder, decoder, attention="dot", seed=0)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(ids, ids[:, ::-1], verbose=0, recompute=recompute)
        model.train_on_batch(ids, ids, recompute=recompute)
        models.append(model)
    checks.assert_same_arrays(result(models[1]), result(models[0]))
    assert len(outlines) == 6


def test_a_run_goes_on_with_another(rng, outlines):
    """It changes no bit, so a run need not be resumed with the one it had."""
    x, y = data(rng)
    models = [made(), made()]
    stop = callbacks.LambdaCallback(on_batch_end=lambda batch, logs: (_ for _ in ()).throw(KeyboardInterrupt))
    models[0].fit(x, y, epochs=2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        models[1].fit(x, y, epochs=2, verbose=0, callbacks=[stop], recompute=4)
    assert models[1]._recompute is None
    models[1].fit(x, y, epochs=2, verbose=0, resume=True, recompute="auto")
    checks.assert_same_arrays(result(models[1]), result(models[0]))


def test_what_is_not_finite_is_named(rng):
    x, y = data(rng)
    model = made(activation="linear")
    model.fit(x, y, verbose=0)
    model.layers[0].set_weights([np.full_like(w, 1e30) for w in model.layers[0].get_weights()])
    errors = []
    for recompute in (None, 4):
        with pytest.raises(FloatingPointError) as caught:
            model.fit(x, y, verbose=0, recompute=recompute)
        errors.append(str(caught.value))
    assert errors[0] == errors[1] and model._recompute is None


def test_a_callback_trains_within(rng, outlines):
    """The setting of the run is that of the run again, when another call of the same model is done."""
    x, y = data(rng)
    model = made()
    within = callbacks.LambdaCallback(on_batch_end=lambda batch, logs: model.train_on_batch(x, y))
    model.fit(x, y, batch_size=3, verbose=0, callbacks=[within], recompute=4)
    assert len(outlines) == 2


class Own(cgru.GRU):
    """A layer that knows nothing of it."""

    def forward_batch(self, batch, state=None, key=None, training=False):
        return super().forward_batch(batch, state, key, training)


def test_a_layer_of_ones_own(rng):
    x, y = data(rng)
    model = cgru.Sequential([Own(H, return_sequences=True), cgru.GRU(H), cgru.Dense(K, "softmax")], seed=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, verbose=0, recompute=4)
    assert Own.forward_batch is not Stack.forward_batch and not model.layers[0].recomputes


# -- bad input


@pytest.mark.parametrize("wrong", [0, -3, True, 1.5, "all", [2]])
def test_what_recompute_may_not_be(rng, wrong):
    x, y = data(rng)
    model = made(stateful=True)
    calls = [
        lambda: model.fit(x, y, verbose=0, shuffle=False, recompute=wrong),
        lambda: model.train_on_batch(x, y, recompute=wrong),
        lambda: model.forward(x, training=True, recompute=wrong),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match="recompute: expected a number of steps"):
            call()
    assert not model.layers[0].built and model.history is None and model._course is None


def test_recompute_where_nothing_is(rng):
    x, y = data(rng)
    with pytest.raises(ValueError, match="recompute: expected None beside training=False"):
        made().forward(x, recompute=3)
    model = cgru.Sequential([cgru.Dense(K, "softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    for call in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="recompute: expected None without a GRU"):
            call(x[:, 0], y, recompute=3)
    model = made()
    model.build(D)
    with pytest.raises(ValueError, match="training: quantised layers cannot be trained"):
        cgru.quantize(model, "int8").forward(x, training=True, recompute=3)
