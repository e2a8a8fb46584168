"""Resets within the rows of a model: no layer looks across, and training is that with the segments as examples."""

import itertools

import checks
import numpy as np
import pytest

import cgru

N, T, D = 3, 10, 4
SAME_BITS = cgru.get_backend() == "native"
RESETS = np.isin(np.arange(T), [3, 4, 8]) & np.array([[True], [True], [False]])
RESETS[2, 6] = True
LAYERS = {
    "tags": lambda: [cgru.GRU(5, return_sequences=True), cgru.LayerNormalization(), cgru.Dense(2)],
    "windows": lambda: [cgru.Conv1D(6, 3, padding="causal", dilation_rate=2), cgru.GRU(5, return_sequences=True)],
    "both_sides": lambda: [cgru.Conv1D(6, 4, padding="same"), cgru.Dense(3)],
    "last": lambda: [cgru.GRU(5, num_layers=2), cgru.Dense(2)],
    "largest": lambda: [cgru.GRU(5, return_sequences=True), cgru.GlobalMaxPooling1D(), cgru.Dense(2)],
    "mean": lambda: [cgru.Conv1D(5, 3, padding="causal"), cgru.GlobalAveragePooling1D()],
    "attention": lambda: [cgru.GRU(5, return_sequences=True), cgru.AttentionPooling(3)],
}


def model_of(name, seed=0):
    return cgru.Sequential(LAYERS[name](), seed=seed).build(D)


def segments(x, resets):
    """(row, steps) of each segment."""
    found = []
    for i, row in enumerate(resets):
        cuts = [0, *(np.flatnonzero(row[1:]) + 1), len(row)]
        found += [(i, slice(a, b)) for a, b in itertools.pairwise(cuts)]
    return found


def same(actual, expected):
    checks.assert_close(actual, expected, 0 if SAME_BITS else 1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_looks_across(rng, name):
    model, x = model_of(name), rng.standard_normal((N, T, D)).astype("float32")
    y = model(x, resets=RESETS)
    same(model.predict(x, batch_size=2, resets=RESETS), y)
    same(model.predict_on_batch(x, resets=RESETS), y)
    same(model.forward(x, resets=RESETS)[0], y)
    for i, steps in segments(x, RESETS):
        alone = model(x[i : i + 1, steps])[0]
        if y.ndim == 3:
            same(y[i, steps], alone)
        elif steps.stop == T:
            same(y[i], alone)


@pytest.mark.parametrize("name", ["tags", "windows", "last", "largest", "mean"])
def test_step_by_step(rng, name):
    model, x, state = model_of(name), rng.standard_normal((N, T, D)).astype("float32"), None
    resets = RESETS.copy()
    resets[1, 0] = True
    y = model(x, resets=resets)
    for t in range(T):
        y_t, state = model.step(x[:, t], state, resets=resets[:, t])
        if y.ndim == 3:
            same(y_t, y[:, t])
    if y.ndim == 2:
        same(y_t, y)


@pytest.mark.parametrize("name", ["tags", "windows", "both_sides"])
def test_an_update_is_that_of_the_segments(rng, name):
    x = rng.standard_normal((N, T, D)).astype("float32")
    y = rng.standard_normal((N, T, model_of(name)(x).shape[2]))
    places = segments(x, RESETS)
    first, second = model_of(name), model_of(name)
    seen = []
    for model, arguments in (
        (first, {"x": x, "y": y, "resets": RESETS}),
        (second, {"x": [x[place] for place in places], "y": [y[place] for place in places]}),
    ):
        model.compile("sgd", loss="mse")
        seen.append([model.evaluate(**arguments), model.test_on_batch(**arguments), model.train_on_batch(**arguments)])
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-6) and seen[0][2] == pytest.approx(seen[1][2], rel=1e-6)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        same(a, b)


@pytest.mark.parametrize("name", ["last", "largest", "mean", "attention"])
def test_gradients_of_one_output_for_a_row_stop_at_the_last_reset(rng, name):
    x = rng.standard_normal((N, T, D))
    model, apart = (cgru.Sequential(LAYERS[name](), seed=0).build(D) for _ in range(2))
    ends = [x[i, steps] for i, steps in segments(x, RESETS) if steps.stop == T]
    y, tape = model.forward(x, resets=RESETS, training=True)
    y_apart, tape_apart = apart.forward(ends, training=True)
    dy = rng.standard_normal(y.shape)
    same(y, y_apart)
    gradients, expected = model.backward(dy, tape), apart.backward(dy, tape_apart)
    for key in expected:
        checks.assert_close(gradients[key], expected[key], 1e-6, key)


def test_fit_takes_them_in_every_form(rng):
    x, y = rng.standard_normal((6, T, D)), rng.standard_normal((6, T, 2))
    resets, lengths = rng.random((6, T)) < 0.3, np.array([10, 3, 7, 1, 10, 5])
    given = {"lengths": lengths, "resets": resets}
    histories, weights = [], []
    listed = [rows[:n] for rows, n in zip(x, lengths, strict=True)]
    for arguments in (
        {"x": x, "y": y, **given, "validation_data": (x, y, given)},
        {"x": x, "y": y, "mask": np.arange(T) < lengths[:, None], "resets": resets, "validation_data": (x, y, given)},
        {"x": listed, "y": [rows[:n] for rows, n in zip(y, lengths, strict=True)], "validation_data": (x, y, given),
         "resets": [rows[:n] for rows, n in zip(resets, lengths, strict=True)]},
        {"x": [(x[i : i + 2], y[i : i + 2], {"lengths": lengths[i : i + 2], "resets": resets[i : i + 2]})
               for i in (0, 2, 4)], "validation_data": (x, y, given)},
    ):  # fmt: skip
        model = model_of("tags")
        model.compile("adam", loss="mse")
        history = model.fit(**arguments, epochs=2, batch_size=2, shuffle=False, verbose=0)
        histories.append(history.history["loss"] + history.history["val_loss"])
        weights.append(model.get_weights())
    for other, own in zip(histories[1:], weights[1:], strict=True):
        assert other == pytest.approx(histories[0], rel=1e-6)
        checks.assert_same_arrays(own, weights[0])


@pytest.mark.parametrize("chunk", [1, 3, 4, 20])
def test_chunks_carry_a_reset_to_the_next_valid_step(rng, chunk):
    x, y, mask = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, 2)), rng.random((N, T)) < 0.6
    acting = np.zeros((N, T), bool)
    for i in range(N):
        for t in np.flatnonzero(RESETS[i]):
            after = np.flatnonzero(mask[i, t:])
            acting[i, t + after[:1]] = True
    weights = []
    for resets in RESETS, acting:
        model = model_of("tags")
        model.compile("sgd", loss="mse")
        model.fit(x, y, mask=mask, resets=resets, chunk=chunk, epochs=1, verbose=0)
        weights.append(model.get_weights())
    checks.assert_same_arrays(*weights)


def test_chunks_carry_a_reset_over_what_several_maskings_hide(rng):
    x, y = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, 2))
    x[:, [3, 7]], x[:, [4, 6]] = 0, -1
    moved = RESETS.copy()
    moved[:, 5] |= moved[:, 3] | moved[:, 4]
    moved[:, 8] |= moved[:, 6]
    weights = []
    for resets in RESETS, moved:
        layers = [cgru.Masking(0.0), cgru.Masking(-1.0), cgru.GRU(5, return_sequences=True), cgru.Dense(2)]
        model = cgru.Sequential(layers, seed=0)
        model.compile("sgd", loss="mse")
        model.fit(x, y, resets=resets, chunk=4, epochs=1, verbose=0)
        weights.append(model.get_weights())
    checks.assert_same_arrays(*weights)


@pytest.mark.parametrize("by_batches", [False, True])
def test_chunks_refuse_resets_that_may_wait_behind_other_layers(rng, by_batches):
    x, y = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, 5))
    model = cgru.Sequential([cgru.Dense(3), cgru.Masking(), cgru.GRU(5, return_sequences=True)], seed=0)
    model.compile("sgd", loss="mse")
    data, beside = ([(x, y, {"resets": RESETS})],), {}
    if not by_batches:
        data, beside = (x, y), {"resets": RESETS}
    with pytest.raises(ValueError, match=r"resets: expected none beside chunk.* layer 1 \(Masking\) does"):
        model.fit(*data, **beside, chunk=4, verbose=0)
    assert model.iterations == 0
    model.fit(x, y, chunk=4, verbose=0)


def test_rows_without_a_step_hide_their_resets(rng):
    x, hidden = rng.standard_normal((N, T, D)), np.zeros((N, T), bool)
    layer = cgru.GRU(5, return_sequences=True, time_major=True)
    for model in model_of("tags"), model_of("last"), cgru.Sequential([layer], seed=0):
        checks.assert_same_arrays([model(x, mask=hidden, resets=RESETS)], [model(x, mask=hidden)])
        checks.assert_same_arrays([model(x, np.zeros(N, int), resets=RESETS)], [model(x, np.zeros(N, int))])


def test_chunks_are_those_of_a_model_that_is_told_the_states(rng):
    x, y = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, 2))
    model = model_of("tags")
    model.compile("sgd", loss="mse")
    model.fit(x, y, resets=RESETS, chunk=5, epochs=1, verbose=0)
    other = model_of("tags")
    other.compile("sgd", loss="mse")
    stateful = cgru.Sequential([layer.with_options(stateful=True) if isinstance(layer, cgru.GRU) else layer
                                for layer in other.layers])  # fmt: skip
    stateful.compile("sgd", loss="mse")
    for steps in (slice(0, 5), slice(5, 10)):
        stateful.train_on_batch(x[:, steps], y[:, steps], resets=RESETS[:, steps])
    for a, b in zip(model.get_weights(), stateful.get_weights(), strict=True):
        checks.assert_close(a, b, 1e-7)


def test_masking_moves_a_reset_to_the_next_step(rng):
    x = rng.standard_normal((N, T, D))
    x[:, [3, 5]] = -1
    model = cgru.Sequential([cgru.Masking(-1.0), cgru.GRU(5, return_sequences=True)], seed=0)
    moved = RESETS.copy()
    moved[:, 4] |= moved[:, 3]
    checks.assert_same_arrays([model(x, resets=RESETS)], [model(x, resets=moved)])
    ids = rng.integers(1, 9, (N, T))
    ids[:, [3, 5]] = 0
    model = cgru.Sequential([cgru.Embedding(9, 3, mask_zero=True), cgru.GRU(5)], seed=0)
    checks.assert_same_arrays([model(ids, resets=RESETS)], [model(ids, resets=moved)])


def test_what_has_no_definition_is_refused(rng):
    x = rng.standard_normal((N, T, D))
    for layer, got in ((cgru.Conv1D(3, 3), "padding='valid'"), (cgru.Conv1D(3, 2, strides=2, padding="same"), "str")):
        with pytest.raises(ValueError, match="resets: expected an output for each step"):
            layer(x, resets=RESETS)
        with pytest.raises(ValueError, match=rf"resets: expected an output for each step.*got {got}.*layer 0 \(Conv1D"):
            cgru.Sequential([layer, cgru.GRU(2)]).predict(x, resets=RESETS)
    for call in cgru.Dense(2), cgru.Sequential([cgru.Dense(2)]):
        with pytest.raises(ValueError, match="resets: expected sequences"):
            call(x[:, 0], resets=RESETS[:, :D])
    model = cgru.Seq2Seq(
        cgru.Sequential([cgru.GRU(4)]), cgru.Sequential([cgru.Embedding(5, 2), cgru.GRU(4, return_sequences=True),
                                                         cgru.Dense(5, activation="softmax")])
    )  # fmt: skip
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="resets: expected None"):
        model.fit(x, np.full((N, 2), 3), resets=RESETS)
    model = model_of("tags")
    for resets in np.zeros(N + 1, bool), np.full(N, 3), "x":
        with pytest.raises((TypeError, ValueError), match="resets: expected"):
            model.step(x[:, 0], resets=resets)
    with pytest.raises(TypeError, match="state: expected a tuple"):
        model.step(x[:, 0], (None, None), resets=np.zeros(N, bool))


def test_the_faces_of_layers_take_them(rng):
    x = rng.standard_normal((N, T, D)).astype("float32")
    for layer in cgru.Dense(3), cgru.Conv1D(3, 3, padding="same"), cgru.GlobalMaxPooling1D(), cgru.AttentionPooling():
        y, tape = layer.forward(x, resets=RESETS, training=True)
        same(layer(x, resets=RESETS), y)
        dy = rng.standard_normal(y.shape).astype("float32")
        dx, _ = layer.backward(dy, tape)
        for i, steps in segments(x, RESETS):
            part = x[i : i + 1, steps]
            y_part, own = layer.forward(part, training=True)
            if y.ndim == 3:
                same(y[i, steps], y_part[0])
                checks.assert_close(dx[i, steps], layer.backward(dy[i : i + 1, steps], own)[0][0], 1e-6)
            elif steps.stop == T:
                same(y[i], y_part[0])
                checks.assert_close(dx[i, steps], layer.backward(dy[i : i + 1], own)[0][0], 1e-6)
            else:
                assert (dx[i, steps] == 0).all()
    weights = cgru.AttentionPooling(seed=0).attention(x, resets=RESETS)
    assert (weights[:2, :8] == 0).all() and np.allclose(weights.sum(axis=1), 1)
