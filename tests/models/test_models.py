"""Sequential: training, evaluation, prediction, bad input, and Ctrl-C at every point of an update."""

import contextlib
import copy
import json
import pickle
import re
import sys
import threading
from pathlib import Path

import checks
import numpy as np
import pytest

import cgru
from cgru import losses, metrics, optimizers
from cgru.models import Sequential

LOSS = "sparse_categorical_crossentropy"
D, K = 2, 3
LENGTHS = [4, 2, 5, 1, 3, 5, 2]
N, PADDED = len(LENGTHS), max(LENGTHS)


def compiled(layers, seed=0, rate=0.01, loss=LOSS):
    model = cgru.Sequential(layers, seed=seed)
    model.compile(optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
    return model


def classifier(seed=0, **options):
    return compiled([cgru.GRU(5, bidirectional=True), cgru.Dropout(0.4), cgru.Dense(K, "softmax")], seed, **options)


def tagger(seed=0, **options):
    layers = [cgru.Embedding(11, 4), cgru.GRU(5, return_sequences=True), cgru.Dense(K, "softmax")]
    return compiled(layers, seed, **options)


def ragged(rng, features=D):
    return [rng.standard_normal((n, features)).astype(np.float32) for n in LENGTHS]


def padded(sequences, junk):
    data = np.full((len(sequences), PADDED, *sequences[0].shape[1:]), junk, sequences[0].dtype)
    for row, sequence in zip(data, sequences, strict=True):
        row[: len(sequence)] = sequence
    return data


def masked():
    return np.arange(PADDED) < np.array(LENGTHS)[:, None]


# -- training


def test_fit_learns_to_tell_sequences_apart(rng):
    x = [rng.standard_normal((rng.integers(2, 9), D)) for _ in range(60)]
    y = np.array([int(s[:, 0].sum() > 0) + int(s[-1, 1] > 0) for s in x])
    model = classifier(rate=0.02)
    history = model.fit(x, y, epochs=40, batch_size=16, verbose=0)
    assert history is model.history
    assert history.epochs == list(range(40)) and set(history.history) == {"loss", "accuracy"}
    assert history.history["loss"][-1] < 0.3 < 0.8 < history.history["loss"][0]
    assert model.evaluate(x, y)["accuracy"] > 0.9
    assert np.mean(model.predict(x).argmax(axis=1) == y) == model.evaluate(x, y)["accuracy"]


def test_fit_learns_to_tag_steps(rng):
    x = [rng.integers(0, 11, rng.integers(1, 9)) for _ in range(60)]
    y = [np.append(0, s[:-1] % K) for s in x]  # the step before says it: memory is needed
    model = tagger(rate=0.03)
    model.fit(x, y, epochs=80, verbose=0)
    assert model.evaluate(x, y)["accuracy"] > 0.95
    assert all((p.argmax(axis=1) == labels).mean() > 0.5 for p, labels in zip(model.predict(x), y, strict=True))


def test_an_update_is_adam_on_the_mean_gradient(rng):
    """One update of the whole model against finite differences of its loss."""
    layers = [cgru.GRU(3, dtype="float64", return_sequences=True), cgru.Dense(K, "softmax", dtype="float64")]
    model = compiled(layers, rate=0.1)
    x = padded([s.astype(float) for s in ragged(rng)], np.nan)
    y = rng.integers(0, K, (len(x), PADDED))
    model.build(D)
    start = model.get_weights()

    def loss(arrays):
        model.set_weights(list(arrays.values()))
        outputs = model.predict(x, lengths=LENGTHS)
        terms = [-np.log(outputs[i, t, y[i, t]]) for i, t in zip(*np.nonzero(masked()), strict=True)]
        return np.mean(terms)

    arrays = dict(zip(model.parameters, start, strict=True))
    expected = {name: np.zeros_like(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            unit = np.zeros_like(array)
            unit[index] = 1
            expected[name][index] = checks.derivative(lambda e, n=name, u=unit: loss({**arrays, n: arrays[n] + e * u}))
    model.set_weights(start)
    first = loss(arrays)
    history = model.fit(x, y, lengths=LENGTHS, verbose=0)
    checks.assert_close(history.history["loss"][0], first, 1e-12)
    # After one update m is a tenth of the gradient.
    for (index, name), (m, _) in model._states[0].slots.items():
        checks.assert_close(m * 10, expected[f"{index}.{name}"], 1e-9, name)
    after = dict(zip(arrays, model.get_weights(), strict=True))
    for name, array in arrays.items():
        g = expected[name]
        checks.assert_close(after[name], array - 0.1 * g / (np.abs(g) + 1e-7 / np.sqrt(1e-3)), 1e-4, name)


@pytest.mark.parametrize("form", ["lengths", "mask", "list of lists"])
def test_ragged_and_padded_are_the_same(rng, form):
    ids = [rng.integers(0, 11, n) for n in LENGTHS]
    tags = [rng.integers(0, K, n) for n in LENGTHS]
    cases = (classifier(), ragged(rng), rng.integers(0, K, N), (np.nan, 0)), (tagger(), ids, tags, (-1, -7))
    for model, x, y, junk in cases:
        twin = copy.deepcopy(model)
        given = {"mask": masked()} if form == "mask" else {"lengths": LENGTHS}
        full_x = padded(x, junk[0])
        full_y = y if y is not tags else tags if form == "list of lists" else padded(tags, junk[1])
        if y is tags and form == "list of lists":
            full_y = [list(row) for row in tags]
        expected = model.fit(x, y, epochs=2, batch_size=3, verbose=0).history
        assert twin.fit(full_x, full_y, **given, epochs=2, batch_size=3, verbose=0).history == expected
        checks.assert_same_arrays(twin.get_weights(), model.get_weights())
        results = twin.evaluate(full_x, full_y, **given)
        checks.assert_close(list(results.values()), list(model.evaluate(x, y).values()), 1e-6)
        outputs = twin.predict(full_x, **given)
        if y is tags:
            assert outputs.shape == (len(x), PADDED, K) and (outputs[~masked()] == 0).all()
            outputs = [row[:n] for row, n in zip(outputs, LENGTHS, strict=True)]
        for actual, row in zip(outputs, model.predict(x), strict=True):
            checks.assert_close(actual, row, 1e-6)


def test_inputs_are_not_modified(rng):
    x, y = padded(ragged(rng), np.nan), rng.integers(0, K, N)
    before = x.copy(), y.copy()
    x.flags.writeable = y.flags.writeable = False
    model = classifier()
    model.fit(x, y, lengths=LENGTHS, verbose=0, validation_data=(x, y, {"lengths": LENGTHS}))
    model.predict(x, lengths=LENGTHS)[:] = 0
    checks.assert_same_arrays((x, y), before)
    model = cgru.Sequential([cgru.Dropout(0.5)])  # passes its input on: the caller's array must not come back
    data = np.ones((3, D), np.float32)
    model.predict(data)[:] = 0
    assert (data == 1).all()


def test_the_seed_fixes_everything(rng):
    x, y = ragged(rng), rng.integers(0, K, N)

    def run(seed, **options):
        model = classifier(seed)
        history = model.fit(x, y, epochs=3, batch_size=3, verbose=0, **options).history
        return model.get_weights(), history

    first, again, other = run(1), run(1), run(2)
    checks.assert_same_arrays(first[0], again[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0][0], other[0][0])
    assert run(1, shuffle=False)[1] != first[1]
    unseeded = [cgru.Sequential([cgru.Dense(K)]).build(D).get_weights()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_layers_draw_differently_and_keep_a_seed_of_their_own():
    layers = [cgru.Dense(4), cgru.Dense(4), cgru.Dense(4, seed=9)]
    weights = cgru.Sequential(layers, seed=1).build(4).get_weights()
    assert not np.array_equal(weights[0], weights[2])
    alone = cgru.Dense(4, seed=9)
    alone.build(4)
    checks.assert_same_arrays(weights[4], alone.get_weights()[0])


def test_two_fits_are_one_longer_fit(rng):
    x, y = ragged(rng), rng.integers(0, K, N)
    once, twice = classifier(), classifier()
    expected = once.fit(x, y, epochs=4, batch_size=3, verbose=0)
    first = twice.fit(x, y, epochs=3, batch_size=3, verbose=0)
    resumed = pickle.loads(pickle.dumps(twice))  # the optimizer's state and the random generators travel
    last = resumed.fit(x, y, batch_size=3, verbose=0)
    checks.assert_same_arrays(resumed.get_weights(), once.get_weights())
    assert first.history["loss"] + last.history["loss"] == expected.history["loss"]
    assert resumed._states[0].iterations == 4 * 3


def test_compile_starts_the_optimizer_afresh(rng):
    x, y = ragged(rng), rng.integers(0, K, N)
    model = classifier()
    model.fit(x, y, verbose=0)
    model.compile("adam", LOSS)
    model.fit(x, y, verbose=0)
    assert model._states[0].iterations == 1
    assert list(model.history.history) == ["loss"]


def test_weights_set_between_updates_are_the_ones_trained_on(rng):
    x, y = ragged(rng), rng.integers(0, K, N)
    model, twin = classifier(rate=1e-3), classifier(rate=1e-3)
    model.fit(x, y, verbose=0)
    weights = [w + 1 for w in model.get_weights()]
    model.set_weights(weights)
    model.fit(x, y, verbose=0)
    assert all(np.abs(a - b).max() < 3e-3 for a, b in zip(model.get_weights(), weights, strict=True))
    twin.fit(x, y, epochs=2, verbose=0)
    assert not np.array_equal(twin.get_weights()[0], model.get_weights()[0] - 1)


def test_validation_data(rng):
    x, y = ragged(rng), rng.integers(0, K, N)
    others, labels = [s + 1 for s in x[:-1]], (y[:-1] + 1) % K
    model = classifier()
    data = (padded(others, np.nan), labels, {"lengths": LENGTHS[:-1]})
    history = model.fit(x, y, epochs=2, validation_data=data, verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 2 for values in history.values())
    expected = model.evaluate(others, labels)
    assert (history["val_loss"][-1], history["val_accuracy"][-1]) == (expected["loss"], expected["accuracy"])
    assert model.fit(x, y, validation_data=(others, labels), verbose=0).history.keys() == history.keys()


def test_the_order_of_the_examples():
    class Recording(cgru.Dense):
        def forward_batch(self, batch, state=None, key=None, training=False):
            seen.append(batch.data[:, 0].tolist())
            return super().forward_batch(batch, state, key, training)

    x, y = np.arange(10.0)[:, None], np.zeros(10, int)
    model = compiled([Recording(K, "softmax")])
    seen = []
    model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2
    seen.clear()
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    orders = [[number for batch in epoch for number in batch] for epoch in (seen[:3], seen[3:])]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1] and list(range(10)) not in orders


def test_the_loss_of_an_epoch_is_a_mean_over_steps_not_over_batches(rng):
    """Batches of unequal numbers of steps; a rate so small that the parameters stay what they are."""
    model = compiled([cgru.GRU(4, return_sequences=True), cgru.Dense(K, "softmax")], rate=1e-30)
    x, y = ragged(rng), [rng.integers(0, K, n) for n in LENGTHS]
    history = model.fit(x, y, batch_size=2, verbose=0).history
    results = model.evaluate(x, y, batch_size=100)
    checks.assert_close(history["loss"][0], results["loss"], 1e-6)
    assert history["accuracy"][0] == results["accuracy"]


def test_epochs_of_zero_and_rows_without_steps(rng):
    x, y = padded(ragged(rng), np.nan), rng.integers(0, K, N)
    model = classifier()
    before = model.build(D).get_weights()
    assert model.fit(x, y, lengths=LENGTHS, epochs=0, verbose=0).history == {}
    checks.assert_same_arrays(model.get_weights(), before)
    lengths = np.zeros(len(x), int)
    assert np.isfinite(model.fit(x, y, lengths=lengths, verbose=0).history["loss"][0])
    model = compiled([cgru.GRU(4, return_sequences=True), cgru.Dense(K, "softmax")])
    before = model.build(D).get_weights()
    history = model.fit(x, np.zeros((len(x), PADDED), int), lengths=lengths, verbose=0).history
    assert np.isnan(history["loss"][0])  # nothing counted
    checks.assert_same_arrays(model.get_weights(), before)


# -- evaluation and prediction


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predict_keeps_the_order(rng, batch_size):
    x = ragged(rng)
    model = classifier()
    outputs = model.predict(x, batch_size=batch_size)
    assert outputs.shape == (len(x), K) and outputs.dtype == np.float32
    for row, sequence in zip(outputs, x, strict=True):
        checks.assert_close(model.predict([sequence])[0], row, 1e-6)
    steps = compiled([cgru.GRU(4, return_sequences=True), cgru.Dense(K, "softmax")])
    outputs = steps.predict(x, batch_size=batch_size)
    assert [row.shape for row in outputs] == [(n, K) for n in LENGTHS]
    for row, sequence in zip(outputs, x, strict=True):
        checks.assert_close(steps.predict(sequence[None])[0], row, 1e-6)


def test_predict_of_nothing():
    model = classifier()
    assert model.predict(np.zeros((0, PADDED, D))).shape == (0, K)
    assert np.isnan(model.evaluate(np.zeros((0, PADDED, D)), np.zeros(0, int))["loss"])
    steps = compiled([cgru.GRU(4, return_sequences=True), cgru.Dense(K, "softmax")])
    assert steps.predict(np.zeros((2, 0, D))).shape == (2, 0, K)


def test_stateful_layers_see_rows_in_their_order(rng):
    x = padded(ragged(rng), 0)
    model = cgru.Sequential([cgru.GRU(4, stateful=True)], seed=0)
    first = model.predict(x, lengths=LENGTHS)
    layer = cgru.GRU(4)
    layer.build(D)
    layer.set_weights(model.get_weights())
    others = LENGTHS[::-1]  # sorted by length, the rows of the two calls would not be the same
    second = model.predict(x, lengths=others)
    checks.assert_close(second, layer(x, initial_state=first, lengths=others), 1e-6)


def test_inference_from_many_threads(rng):
    x = ragged(rng) * 4
    y = rng.integers(0, K, len(x))
    model, twin = classifier(), classifier()
    barrier, results = threading.Barrier(4), [None] * 4

    def work(index):
        barrier.wait()
        results[index] = model.predict(x, batch_size=3), model.evaluate(x, y, batch_size=3)  # the first call builds

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outputs, scores in results:
        checks.assert_same_arrays(outputs, twin.predict(x, batch_size=3))
        assert scores == twin.evaluate(x, y, batch_size=3)


# -- parameters and configuration


def test_parameters_weights_and_summary(rng, capsys):
    model = cgru.Sequential([cgru.Embedding(11, 4), cgru.GRU(5), cgru.Dropout(0.1), cgru.Dense(K)], seed=0)
    model.summary()
    assert re.search(r"^1  GRU +\(N, 5\) +not built$", capsys.readouterr().out, re.MULTILINE)
    assert model.build() is model and model.built
    names = ["0.embeddings", "1.kernel", "1.recurrent_kernel", "1.bias", "3.kernel", "3.bias"]
    assert list(model.parameters) == names
    with pytest.raises(ValueError, match="read-only"):
        model.parameters["1.bias"][0] = 1
    weights = [rng.standard_normal(p.shape) for p in model.parameters.values()]
    model.set_weights(weights)
    for parameter, weight in zip(model.parameters.values(), weights, strict=True):
        checks.assert_same_arrays(parameter, weight.astype(np.float32))
    model.summary()
    out = capsys.readouterr().out
    count = 11 * 4 + 4 * 15 + 5 * 15 + 15 + 5 * 3 + 3
    assert out.splitlines() == [
        "   layer        output shape    parameters       bytes",
        "0  Embedding    (N, T, 4)               44         176  embeddings 11x4",
        "1  GRU          (N, 5)                 150         600  kernel 4x15  recurrent_kernel 5x15  bias 15",
        "2  Dropout      (N, 5)                   0           0",
        "3  Dense        (N, 3)                  18          72  kernel 5x3  bias 3",
        f"{count} parameters in {4 * count} bytes",
    ]


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [
        ([cgru.Dense(5), cgru.Dropout(0.5)], ["(N, 5)", "(N, 5)"]),
        ([cgru.Dropout(0.5), cgru.Dense(5)], ["(N, D)", "(N, 5)"]),
        ([cgru.Dense(5), cgru.GRU(4, return_sequences=True)], ["(N, T, 5)", "(N, T, 4)"]),
        ([cgru.GRU(4, bidirectional=True)], ["(N, 8)"]),
        ([cgru.GRU(4, bidirectional=True, merge_mode="sum", num_layers=2)], ["(N, 4)"]),
        ([cgru.GRU(4), cgru.GRU(3), cgru.Dense(2)], ["(N, 4)", "?", "?"]),
    ],
)
def test_the_output_shapes_of_a_summary(layers, shapes, capsys):
    model = cgru.Sequential(layers)
    model.summary()
    lines = capsys.readouterr().out.splitlines()[1:-1]
    assert [line[16:31].strip() for line in lines] == shapes


def test_reprs_show_the_configuration():
    layers = [
        cgru.Embedding(11, 4, dtype="float64"),
        cgru.GRU(5, "relu", return_sequences=True, seed=3),
        cgru.GRU(5, input_size=5),
        cgru.Dropout(0.25),
        cgru.Dense(K, activation="softmax", use_bias=False),
        cgru.Dense(K),
    ]
    reprs = [
        "Embedding(11, 4, dtype='float64')",
        "GRU(5, activation='relu', return_sequences=True, seed=3)",
        "GRU(5, input_size=5)",
        "Dropout(0.25)",
        "Dense(3, activation='softmax', use_bias=False)",
        "Dense(3)",
    ]
    assert [repr(layer) for layer in layers] == reprs
    for text, layer in zip(reprs, layers, strict=True):
        assert eval(text, vars(cgru)).get_config() == layer.get_config()
    model = cgru.Sequential(layers[2:3], seed=7)
    assert repr(model) == str(model) == "Sequential([\n    GRU(5, input_size=5),\n], seed=7)"
    assert eval(repr(model), vars(cgru)).get_config() == model.get_config()
    assert repr(cgru.Sequential([cgru.Dense(2)])) == "Sequential([\n    Dense(2),\n])"
    assert repr(optimizers.Adam()) == "Adam()" and repr(optimizers.Adam(0.5)) == "Adam(learning_rate=0.5)"
    assert repr(losses.SparseCategoricalCrossentropy(True)) == "SparseCategoricalCrossentropy(from_logits=True)"
    assert repr(metrics.get("accuracy")) == "Accuracy()"


def test_the_repr_of_a_history(rng):
    model = classifier()
    model.fit(ragged(rng), np.arange(N) % K, epochs=0, verbose=0)
    assert repr(model.history) == "<History of 0 epochs>"
    model.fit(ragged(rng), np.arange(N) % K, epochs=2, verbose=0)
    assert re.fullmatch(r"<History of 2 epochs, the last: loss \d\.\d{4}  accuracy \d\.\d{4}>", repr(model.history))


def test_config_makes_the_same_model(rng):
    model = classifier(seed=4)
    again = Sequential.from_config(json.loads(json.dumps(model.get_config())))
    assert again.get_config() == model.get_config()
    x = ragged(rng)
    checks.assert_same_arrays(again.predict(x), model.predict(x))
    checks.assert_same_arrays(again.get_weights(), model.get_weights())


def test_set_weights_refuses_and_changes_nothing():
    model = cgru.Sequential([cgru.GRU(5), cgru.Dense(K)], seed=0).build(D)
    weights = model.get_weights()
    changed = [w + 1 for w in weights]
    names = "0.kernel, 0.recurrent_kernel, 0.bias, 1.kernel, 1.bias"
    for wrong, error, message in (
        (changed[:-1], ValueError, f"weights: expected 5 arrays ({names}), got 4"),
        (changed[0], TypeError, "weights: expected a list of arrays, got ndarray"),
        ([*changed[:-1], np.zeros(4)], ValueError, "layer 1 (Dense): bias: expected shape (3,), got (4,)"),
        ([*changed[:-1], ["a"] * 3], TypeError, "layer 1 (Dense): bias: expected real numbers, got dtype <U1"),
    ):
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            model.set_weights(wrong)
        checks.assert_same_arrays(model.get_weights(), weights)


# -- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cgru.Sequential([]), ValueError, "layers: expected at least one layer, got none"),
        (lambda: cgru.Sequential(cgru.Dense(2)), TypeError, "layers: expected a list of layers, got Dense"),
        (lambda: cgru.Sequential([cgru.Dense(2), "Dense"]), TypeError, "layers: expected layers, at index 1 got str"),
        (lambda: cgru.Sequential([cgru.Dense]), TypeError, "layers: expected layers, at index 0 got type"),
        (
            lambda: cgru.Sequential([cgru.Dense(2)] * 2),
            ValueError,
            "layers: expected each layer once, got Dense again at index 1",
        ),
        (lambda: cgru.Sequential([cgru.Dense(2)], seed=1.5), TypeError, "seed: expected an integer, got 1.5"),
        (lambda: cgru.Sequential([cgru.Dense(2)], seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (
            lambda: cgru.Sequential([cgru.Dense(2)]).parameters,
            RuntimeError,
            "layer 0 (Dense) has no parameters yet: call build(input_size), or use the model on data",
        ),
        (lambda: cgru.Sequential([cgru.Dense(2)]).get_weights(), RuntimeError, "layer 0 (Dense) has no parameters yet"),
        (lambda: cgru.Sequential([cgru.Dense(2)]).set_weights([]), RuntimeError, "layer 0 (Dense) has no parameters"),
        (lambda: cgru.Sequential([cgru.Dense(2)]).build(), TypeError, "input_size: expected an integer, got None"),
        (lambda: cgru.Sequential([cgru.Dense(2)]).build(0), ValueError, "input_size: expected at least 1, got 0"),
        (lambda: Sequential.from_config([]), ValueError, "config: expected a dict of 'layers' and 'seed', got []"),
        (
            lambda: Sequential.from_config({"layers": [{"class": "LSTM", "config": {}}], "seed": 0}),
            ValueError,
            "config: expected a class among ['Attention', 'AttentionPooling', 'Conv1D', 'Dense', ",
        ),
        (
            lambda: Sequential.from_config({"layers": ["GRU"], "seed": 0}),
            ValueError,
            "config: expected each layer to be a dict of 'class' and 'config', got 'GRU'",
        ),
        (
            lambda: Sequential.from_config({"layers": [{"class": "Dense", "config": {"unit": 2}}], "seed": 0}),
            TypeError,
            "unit",
        ),
    ],
)
def test_wrong_models(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"optimizer": "adagrad"}, ValueError, "'rmsprop', 'sgd'] or an Optimizer, got 'adagrad'"),
        ({"loss": None}, ValueError, f"'mse', '{LOSS}'] or a Loss, got None"),
        ({"metrics": "accuracy"}, TypeError, "metrics: expected a list of names, got 'accuracy'"),
        ({"metrics": ["acc"]}, ValueError, "metrics[0]: expected one of ['accuracy', "),
        ({"metrics": ["mse", metrics.AUC]}, ValueError, "metrics[1]: expected one of ['accuracy', "),
        ({"metrics": [metrics.AUC]}, ValueError, "(y_true, y_pred), got the class AUC: write AUC(...)"),
        ({"loss": losses.Huber}, ValueError, "or a Loss, got the class Huber: write Huber(...)"),
        ({"optimizer": optimizers.Adam}, ValueError, "or an Optimizer, got the class Adam: write Adam(...)"),
        ({"metrics": ["mse"]}, ValueError, "metrics: 'mse' compares outputs with labels that are numbers like them"),
        ({"metrics": ["accuracy"] * 2}, ValueError, "metrics: expected each name once, got ['accuracy', 'accuracy']"),
        (
            {"loss": losses.SparseCategoricalCrossentropy(from_logits=True)},
            ValueError,
            f"loss: '{LOSS}' expected logits: a linear last layer, got activation 'softmax'",
        ),
    ],
)
def test_compile_refuses_and_changes_nothing(arguments, error, message):
    model = classifier()
    before = model.optimizer, model.loss, model.metrics
    with pytest.raises(error, match=re.escape(message)):
        model.compile(**{"loss": LOSS, **arguments})
    assert (model.optimizer, model.loss, model.metrics) == before


def test_what_compile_and_the_constructor_took_is_read_only():
    model = classifier()
    before = model.optimizer
    for name, value in (("optimizer", "adam"), ("loss", None), ("metrics", ["accuracy"]), ("layers", []), ("seed", 1)):
        advice = r"compile\(" if name in ("optimizer", "loss", "metrics") else r"make a new Sequential\("
        with pytest.raises(AttributeError, match=f"^{name} is read-only after construction: {advice}{name}="):
            setattr(model, name, value)
    model.compile("adam", LOSS)
    assert model.metrics == [] and model.loss is not None and model.optimizer is not before


def test_compile_wants_probabilities():
    message = "expected probabilities: a softmax (or sigmoid) last layer, got activation 'tanh'"
    with pytest.raises(ValueError, match=re.escape(message)):
        compiled([cgru.Dense(K, "tanh")])
    model = compiled([cgru.GRU(K)])
    message = "expected probabilities, got the states of a GRU with activation 'tanh': put a Dense with a softmax"
    for call in (lambda: model.fit(X, Y, verbose=0), lambda: model.evaluate(X, Y)):
        with pytest.raises(ValueError, match=message):
            call()
    compiled([cgru.GRU(K, "sigmoid")]).fit(X, Y, verbose=0)
    compiled([cgru.GRU(K)], loss=losses.SparseCategoricalCrossentropy(from_logits=True)).fit(X, Y, verbose=0)
    compiled([cgru.Dense(K, "sigmoid")])
    compiled([cgru.Dense(K)], loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    assert metrics.get("accuracy").name == "accuracy"


@pytest.mark.parametrize("from_logits", [False, True])
def test_softmax_inside_the_model_or_inside_the_loss(rng, from_logits):
    x, y = ragged(rng), rng.integers(0, K, N)
    loss = losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model = compiled([cgru.GRU(5), cgru.Dense(K, "linear" if from_logits else "softmax")], loss=loss)
    history = model.fit(x, y, epochs=3, verbose=0).history
    expected = compiled([cgru.GRU(5), cgru.Dense(K, "softmax")]).fit(x, y, epochs=3, verbose=0).history
    checks.assert_close(history["loss"], expected["loss"], 1e-6)


def test_use_before_compile():
    model = cgru.Sequential([cgru.Dense(K)])
    x, y = np.zeros((2, D)), np.zeros(2, int)
    for call in (lambda: model.fit(x, y), lambda: model.evaluate(x, y)):
        with pytest.raises(RuntimeError, match=r"the model has no loss yet: call compile\(optimizer, loss\) first"):
            call()


X = np.zeros((N, PADDED, D))
Y = np.zeros(N, int)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": Y[:-1]}, ValueError, "y: expected shape (7,), a label for each example, got (6,)"),
        ({"y": Y[:, None, None]}, ValueError, "y: expected shape (7,), a label for each example, got (7, 1, 1)"),
        ({"y": Y + 0.5}, ValueError, "y: expected integer labels, got 0.5"),
        ({"y": Y / np.float64("nan")}, ValueError, "y: expected integer labels, got nan"),
        ({"y": ["a"] * N}, TypeError, "y: expected integer labels, got dtype <U1; number them: classes, y = np.uni"),
        ({"y": Y + K}, ValueError, "y: expected at least 0 and less than 3, the number of outputs, got 3"),
        ({"y": Y - 1}, ValueError, "y: expected at least 0 and less than 3, the number of outputs, got -1"),
        ({"y": [[0], [0, 1]] * 3}, ValueError, "a label for each example, got nested lists of unequal lengths"),
        ({"y": [[0] * 5]}, ValueError, "y: expected shape (7,), a label for each example, got (1, 5)"),
        ({"y": [[0.5] * 5] * N}, ValueError, "y: expected shape (7,), a label for each example, got (7, 5)"),
        ({"y": np.eye(K)[Y]}, ValueError, "got (7, 3); of one-hot rows or probabilities take y.argmax(axis=-1)"),
        ({"y": np.zeros((N, PADDED), int)}, ValueError, "got (7, 5); for a label for each step every GRU is to have"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "x: expected at least one example, got none"),
        ({"x": X + 1j}, TypeError, "x: expected real numbers, got dtype complex128"),
        ({"x": X[:, 0]}, ValueError, "x: expected shape (N, T, 2) or a list of (T_i, 2) arrays for"),
        ({"lengths": [1] * 6}, ValueError, "lengths: expected shape (7,), one for each row, got (6,)"),
        ({"lengths": [9] * N}, ValueError, "lengths: expected values from 0 to T = 5, got 9 in row 0"),
        ({"lengths": LENGTHS, "mask": masked()}, ValueError, "lengths, mask: give one of the two, got both"),
        ({"mask": masked()[:, 1:]}, ValueError, "mask: expected shape (7, 5), got (7, 4)"),
        ({"epochs": -1}, ValueError, "epochs: expected at least 0, got -1"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"batch_size": None}, TypeError, "batch_size: expected an integer, got None"),
        ({"shuffle": "batch"}, TypeError, "shuffle: expected True or False, got 'batch'"),
        ({"verbose": 3}, ValueError, "verbose: expected 0, 1, 2 or 'auto', got 3"),
        ({"verbose": "no"}, ValueError, "verbose: expected 0, 1, 2 or 'auto', got 'no'"),
        ({"validation_data": (X,)}, ValueError, "validation_data: expected (x, y) or (x, y, dict(lengths=..., mas"),
        ({"validation_data": X}, ValueError, "validation_data: expected (x, y) or (x, y, dict(lengths=..., mas"),
        ({"validation_data": (X, Y, masked())}, ValueError, "got ndarray as the third: say what it is, dict(lengths="),
        ({"validation_data": (X, Y, LENGTHS)}, ValueError, "got list as the third: say what it is, dict(lengths="),
        ({"validation_data": (X, Y, {"weights": Y})}, ValueError, "got 'weights' in the dict"),
        ({"validation_data": (X, Y, {"sample_weight": Y})}, ValueError, "validation_data: sample_weight: expected"),
        ({"validation_data": (X, Y[1:])}, ValueError, "validation_data: y: expected shape (7,), a label for"),
        ({"validation_data": (X, Y + K)}, ValueError, "validation_data: y: expected at least 0 and less than 3"),
        ({"validation_data": (X, Y, {"lengths": [6] * N})}, ValueError, "validation_data: lengths: expected"),
        ({"y": None}, ValueError, "y: expected shape (7,), a label for each example, got NoneType"),
        ({"validation_split": 1}, ValueError, "validation_split: expected a number of at least 0 and less than 1, got"),
        ({"validation_split": "a"}, TypeError, "validation_split: expected a number, got 'a'"),
        ({"validation_split": 0.9999}, ValueError, "validation_split: expected at least one example to train on and"),
        ({"validation_split": 0.5, "validation_data": (X, Y)}, ValueError, "validation_data, validation_split: give"),
        ({"initial_epoch": -1}, ValueError, "initial_epoch: expected at least 0, got -1"),
        ({"resume": 1}, TypeError, "resume: expected True or False, got 1"),
    ],
)
def test_fit_refuses_and_trains_nothing(arguments, error, message):
    model = classifier().build(D)
    before = model.get_weights()
    with pytest.raises(error, match=re.escape(message)):
        model.fit(**{"x": X, "y": Y, "verbose": 0, **arguments})
    checks.assert_same_arrays(model.get_weights(), before)


def test_evaluate_and_predict_refuse():
    model = classifier()
    for call in (lambda **k: model.evaluate(X, Y, **k), lambda **k: model.predict(X, **k)):
        with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
            call(batch_size=0)
        with pytest.raises(ValueError, match="lengths: expected values from 0 to T = 5, got 6 in row 0"):
            call(lengths=[6] * N)
    with pytest.raises(ValueError, match=re.escape("y: expected shape (7,), a label for each example, got (6,)")):
        model.evaluate(X, Y[1:])
    with pytest.raises(TypeError, match=r"^x: expected integer ids, got dtype float64"):
        tagger().predict(X[:, :, 0])
    with pytest.raises(ValueError, match=r"^x: expected ids of .* input_dim = 11, got 11 in row 0, step 0"):
        tagger().predict(np.full((2, 3), 11))


def test_outputs_that_are_not_probabilities_stop_the_first_update(rng):
    model = compiled([cgru.GRU(K), cgru.Dropout(0)])
    before = model.build(D).get_weights()
    with pytest.raises(ValueError, match=r"expected probabilities, got an output of -"):
        model.fit(ragged(rng), np.arange(N) % K, epochs=5, verbose=0)
    checks.assert_same_arrays(model.get_weights(), before)


# -- progress


def test_a_line_an_epoch_without_tqdm(rng, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    x, y = ragged(rng), rng.integers(0, K, N)
    classifier().fit(x, y, epochs=2, validation_data=(x, y))
    out, err = capsys.readouterr()
    number = r"\d+\.\d{4}"
    figures = f"loss {number}  accuracy {number}  val_loss {number}  val_accuracy {number}"
    assert re.fullmatch(rf"epoch 1/2  {figures}  \d+\.\d\d s\nepoch 2/2  {figures}  \d+\.\d\d s\n", out)
    assert err == ""


def test_lines_stay_above_the_bar_with_tqdm(rng, capsys):
    pytest.importorskip("tqdm")
    classifier().fit(ragged(rng), rng.integers(0, K, N), epochs=2, batch_size=2)
    out, err = capsys.readouterr()
    line = r"epoch {}/2  loss \d\.\d{{4}}  accuracy \d\.\d{{4}}  \d+\.\d\d s\n"
    assert re.fullmatch(line.format(1) + line.format(2), out)
    assert "epoch 1/2" in err and "epoch 2/2" in err and "4/4" in err


def test_lines_alone(rng, capsys):
    classifier().fit(ragged(rng), rng.integers(0, K, N), epochs=2, batch_size=2, verbose=2)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and err == ""


@pytest.mark.parametrize("verbose", [0, False])
def test_silence(rng, capsys, verbose):
    classifier().fit(ragged(rng), rng.integers(0, K, N), verbose=verbose)
    assert capsys.readouterr() == ("", "")


# -- Ctrl-C

PACKAGE = str(Path(cgru.__file__).parent)
PUBLISHING = {"_publish", "_exchange", "_changed"}


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line of the package, or bytecode of the functions that publish an update."""

    def __init__(self, at):
        self.at = at
        self.count = 0
        self.where = None

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exception):
        sys.settrace(self._before)

    def trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = frame.f_code.co_name in PUBLISHING
        if event in ("line", "opcode", "call"):
            self.count += 1
            if self.count == self.at:
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno} ({event})"
                raise KeyboardInterrupt
        return self.trace


def small(rng):
    """A model with every kind of layer, after one update, and the batch of the next."""
    layers = [cgru.Embedding(5, 2), cgru.GRU(2), cgru.Dropout(0.5), cgru.Dense(2, "softmax")]
    model = compiled(layers, rate=0.1)
    x, y = rng.integers(0, 5, (2, 3)), np.array([0, 1])
    model.fit(x, y, verbose=0)
    return model, x, y


def snapshot(model):
    state = model._states[0]
    slots = [slot.copy() for slots in state.slots.values() for slot in slots]
    return state.iterations, [*model.get_weights(), *slots]


def test_interrupted_anywhere_the_model_is_as_a_finished_update_left_it(rng):
    start, x, y = small(rng)
    finished = {}
    for updates in range(2):
        model = copy.deepcopy(start)
        if updates:
            model.fit(x, y, verbose=0)
        iterations, arrays = snapshot(model)
        finished[iterations] = arrays
    assert list(finished) == [1, 2]

    seen, at, places = set(), 0, set()
    while True:
        at += 1
        model = copy.deepcopy(start)
        model.history = None
        model.predict(x)  # packs the weights
        with np.errstate(), Interrupt(at) as interrupt, contextlib.suppress(KeyboardInterrupt):  # NumPy's is one place
            model.fit(x, y, verbose=0)
        if interrupt.where is None:
            break  # there are fewer places than that
        places.add(interrupt.where.split(":")[0])
        iterations, arrays = snapshot(model)
        seen.add(iterations)
        checks.assert_same_arrays(arrays, finished[iterations], f"interrupted at {interrupt.where}")
        # The history holds finished epochs, one update each; the last may be published and not yet entered.
        assert model.history is not None or iterations == 1
        if model.history is not None:
            assert iterations - 1 - len(model.history.epochs) in (0, 1), interrupt.where
            assert all(len(v) == len(model.history.epochs) for v in model.history.history.values())
        if interrupt.where.split(":")[0] in PUBLISHING:
            # What was packed from the old parameters is gone: the outputs are those of the new ones.
            outputs = model.predict(x)
            model.set_weights(model.get_weights())
            checks.assert_same_arrays(model.predict(x), outputs, interrupt.where)
            model.fit(x, y, verbose=0)  # still trains
    assert seen == {1, 2}
    assert PUBLISHING | {"fit", "_update", "forward_batch", "forward_logits", "backward_logits", "propose"} <= places
