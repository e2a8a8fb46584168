"""Models with convolution, pooling, attention, normalisation and masking: training, prediction, steps, files."""

import json
import re

import numpy as np
import pytest

import cgru


def tagger(**options):
    return cgru.Sequential(
        [
            cgru.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu"),
            cgru.LayerNormalization(),
            cgru.GRU(5, return_sequences=True),
            cgru.Dense(3, activation="softmax"),
        ],
        seed=1,
        **options,
    )


def classifier(pooling, first=()):
    return cgru.Sequential(
        [
            *first,
            cgru.Conv1D(6, 3, strides=2, padding="same", activation="tanh"),
            cgru.GRU(5, bidirectional=True, return_sequences=True),
            pooling,
            cgru.Dense(2, activation="softmax"),
        ],
        seed=1,
    )


POOLINGS = [
    cgru.GlobalMaxPooling1D,
    cgru.GlobalAveragePooling1D,
    cgru.AttentionPooling,
    lambda: cgru.AttentionPooling(4),
]
COMPILED = {"optimizer": cgru.optimizers.Adam(0.02), "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_trains_saves_and_predicts_the_same_in_any_batch(pooling, rng, tmp_path):
    model = classifier(pooling())
    x = [rng.standard_normal((n, 4)) for n in rng.integers(1, 20, 60)]
    y = np.array([int(row[:, 0].mean() > 0) for row in x])
    model.compile(**COMPILED)
    history = model.fit(x, y, epochs=25, verbose=0).history
    assert history["accuracy"][-1] > 0.9 and history["loss"][-1] < 0.6 * history["loss"][0]
    outputs = model(x)
    for i in (0, 7, 31):
        np.testing.assert_array_equal(outputs[i], model([x[i]])[0])
    np.testing.assert_array_equal(outputs, model.predict(x, batch_size=7))
    cgru.save(model, tmp_path / "model")
    again = cgru.load(tmp_path / "model")
    np.testing.assert_array_equal(again(x), outputs)
    assert again.get_config() == model.get_config() and repr(again) == repr(model)


def test_labels_for_each_output_follow_lengths_that_strides_change(rng):
    model = cgru.Sequential(
        [cgru.Conv1D(4, 2, strides=2), cgru.GRU(3, return_sequences=True), cgru.Dense(2, activation="softmax")], seed=0
    )
    lengths = [9, 1, 4, 6]
    x = [rng.standard_normal((n, 3)) for n in lengths]
    y = [rng.integers(0, 2, n // 2) for n in lengths]
    model.compile(**COMPILED)
    model.fit(x, y, epochs=2, batch_size=3, verbose=0)
    found = model.predict(x)
    assert [len(part) for part in found] == [4, 0, 2, 3]
    padded, labels = np.full((4, 9, 3), np.nan), np.full((4, 4), 99)
    for i, (row, own) in enumerate(zip(x, y, strict=True)):
        padded[i, : len(row)], labels[i, : len(own)] = row, own
    expected = model.evaluate(x, y)
    assert model.evaluate(padded, labels, lengths=lengths) == expected
    with pytest.raises(ValueError, match=r"y\[1\]: expected shape \(0,\)"):
        model.fit(x, [rng.integers(0, 2, max(1, n // 2)) for n in lengths], verbose=0)
    with pytest.raises(ValueError, match=r"y: expected shape \(4, 4\)"):
        model.fit(padded, np.zeros((4, 9), int), lengths=lengths, verbose=0)


@pytest.mark.parametrize("chain", ["backwards then kept", "backwards then strided", "twice backwards"])
def test_ragged_labels_behind_processing_order(chain, rng):
    """The outputs of go_backwards come from each row's last step; what is behind it keeps that, or not."""
    backwards = cgru.GRU(3, return_sequences=True, go_backwards=True)
    layers = {
        "backwards then kept": [backwards, cgru.Conv1D(4, 3, padding="same")],
        "backwards then strided": [backwards, cgru.Conv1D(4, 3, padding="same", strides=2)],
        "twice backwards": [backwards, cgru.GRU(3, return_sequences=True, go_backwards=True)],
    }[chain]
    model = cgru.Sequential([*layers, cgru.Dense(2, activation="softmax")], seed=0)
    x = [rng.standard_normal((n, 3)) for n in (5, 2, 7)]
    model.compile(**COMPILED)
    found = model.predict(x)
    for row, own in zip(x, found, strict=True):
        np.testing.assert_array_equal(own, model.predict(row[None])[0])
    y = [part.argmax(axis=1) for part in found]
    assert model.evaluate(x, y)["accuracy"] == 1
    assert model.evaluate(x, y, batch_size=1)["accuracy"] == 1


@pytest.mark.parametrize("first", ["masking", "ids"])
def test_padding_that_values_tell_is_that_of_lengths(first, rng):
    lengths = np.array([7, 2, 5])
    valid = np.arange(7) < lengths[:, None]
    if first == "masking":
        x, layer = rng.standard_normal((3, 7, 4)), cgru.Masking(-5.0)
        marked, garbage = np.where(valid[..., None], x, -5.0), np.where(valid[..., None], x, np.nan)
    else:
        x, layer = rng.integers(1, 9, (3, 7)), cgru.Embedding(9, 4, mask_zero=True)
        marked = garbage = np.where(valid, x, 0)
    model = cgru.Sequential([layer, cgru.GRU(5, return_sequences=True), cgru.Dense(3, activation="softmax")], seed=0)
    y = np.where(valid, rng.integers(0, 3, (3, 7)), -1)  # no class where there is no step
    model.compile(**COMPILED)
    np.testing.assert_array_equal(model(marked), model(garbage, lengths=lengths))
    assert model.evaluate(marked, y) == model.evaluate(garbage, y, lengths=lengths)
    model.fit(marked, y, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="y: expected"):
        model.fit(marked, np.full((3, 7), -1), verbose=0)


def test_steps_are_the_sequence_up_to_there_to_the_bit(rng):
    for pooling in (None, cgru.GlobalMaxPooling1D(), cgru.GlobalAveragePooling1D()):
        layers = list(tagger().layers)
        model = cgru.Sequential(layers if pooling is None else [*layers[:-1], pooling, layers[-1]], seed=0)
        x, state = rng.standard_normal((3, 8, 4)).astype(np.float32), None
        model(x)
        for t in range(8):
            y_t, state = model.step(x[:, t], state)
            expected = model(x[:, : t + 1])
            np.testing.assert_array_equal(y_t, expected[:, -1] if pooling is None else expected)
        for wrong in ((None,), None if pooling is None else (None, None), [1, 2, 3, 4]):
            if wrong is not None:
                with pytest.raises(TypeError, match="state: expected a tuple with one entry for each of"):
                    model.step(x[:, 0], wrong)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [cgru.Conv1D(3, 2)],
            "step: expected padding=\"causal\" and strides=1, got padding='valid' in layer 0 (Conv1D)",
        ),
        ([cgru.Conv1D(3, 2, padding="causal", strides=2)], "got strides=2 in layer 0 (Conv1D)"),
        ([cgru.GRU(3, return_sequences=True), cgru.AttentionPooling()], "in layer 1 (AttentionPooling)"),
        ([cgru.Masking(), cgru.GRU(3)], "x_t: expected no step of 0 alone, which is padding, got one in row 1"),
    ],
)
def test_steps_that_cannot_be(layers, message):
    model = cgru.Sequential(layers)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.step(np.array([[1.0, 2.0], [0.0, 0.0]]))


def test_an_id_that_is_padding_is_no_step():
    model = cgru.Sequential([cgru.Embedding(5, 2, mask_zero=True), cgru.GRU(3)])
    with pytest.raises(ValueError, match="x_t: expected ids of a step, because mask_zero=True, got 0 in row 1"):
        model.step(np.array([3, 0]))


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([cgru.Conv1D(3, 2)], (4, 5), "x: expected shape (N, T, F) or a list of (T_i, F) arrays for layer 0 (Conv1D)"),
        ([cgru.GRU(3), cgru.GlobalMaxPooling1D()], (4, 5, 2), "give layer 0 (GRU) return_sequences=True"),
        ([cgru.GlobalMaxPooling1D(), cgru.GRU(3)], (4, 5, 2), "got (4, 2) from layer 0 (GlobalMaxPooling1D)"),
        ([cgru.LayerNormalization(), cgru.Dense(2)], (4,), "x: expected shape (N, F) or (N, T, F)"),
    ],
)
def test_wrong_shapes_name_the_layer(layers, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cgru.Sequential(layers)(np.zeros(shape))


def test_summary_and_repr(capsys):
    model = classifier(cgru.AttentionPooling(4)).build(3)
    model.summary()
    printed = capsys.readouterr().out
    assert "Conv1D" in printed and "kernel 3x3x6" in printed and "(N, (T)/2, 6)" in printed and "query 4" in printed
    assert "Conv1D(6, 3, strides=2, padding='same', activation='tanh')" in repr(model)
    assert json.loads(json.dumps(model.get_config())) == model.get_config()
    head, *rows, _ = printed.splitlines()
    assert all(row.index("(N, ") == head.index("output shape") for row in rows)  # names of any length


def test_chunks_are_refused_where_windows_would_be_cut(rng):
    model = tagger()
    model.compile(**COMPILED)
    with pytest.raises(
        ValueError, match=r"chunk: expected layers that go from step to step, .* got layer 0 \(Conv1D\)"
    ):
        model.fit(rng.standard_normal((2, 6, 3)), np.zeros((2, 6), int), chunk=3, verbose=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cgru.Conv1D(0, 3), ValueError, "filters: expected at least 1, got 0"),
        (lambda: cgru.Conv1D(2, 0), ValueError, "kernel_size: expected at least 1, got 0"),
        (lambda: cgru.Conv1D(2, (3, 3)), TypeError, "kernel_size: expected an integer"),
        (lambda: cgru.Conv1D(2, 3, strides=0), ValueError, "strides: expected at least 1"),
        (lambda: cgru.Conv1D(2, 3, padding="full"), ValueError, "padding: expected one of ['causal', 'same', 'valid']"),
        (lambda: cgru.Conv1D(2, 3, dilation_rate=-1), ValueError, "dilation_rate: expected at least 1, got -1"),
        (lambda: cgru.Conv1D(2, 3, activation="gelu"), ValueError, "activation: expected one of"),
        (
            lambda: cgru.Conv1D(2, 3, bias_constraint=cgru.constraints.MaxNorm(1, axis=1)),
            ValueError,
            "bias_constraint: ",
        ),
        (lambda: cgru.AttentionPooling(0), ValueError, "units: expected at least 1, got 0"),
        (lambda: cgru.LayerNormalization(epsilon=0), ValueError, "epsilon: expected a positive, finite number"),
        (lambda: cgru.LayerNormalization(center=1), TypeError, "center: expected True or False"),
        (lambda: cgru.Masking("0"), TypeError, "mask_value: expected a number"),
        (lambda: cgru.Masking(float("nan")), ValueError, "mask_value: expected a finite number, got nan"),
        (lambda: cgru.Conv1D(2, 3).step(np.ones((2, 2))), ValueError, "step: expected padding"),
        (
            lambda: cgru.Conv1D(2, 3, padding="causal").step(np.ones(2)),
            ValueError,
            "x_t: expected shape (N, F), got (2,)",
        ),
        (lambda: cgru.Conv1D(2, 3)(np.ones((2, 5))), ValueError, "x: expected shape (N, T, F)"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_decoders_that_cannot_run_step_by_step():
    encoder = cgru.Sequential([cgru.Embedding(9, 4, mask_zero=True), cgru.GRU(5)])
    middle = [cgru.Conv1D(4, 2, padding="causal"), cgru.GRU(5, return_sequences=True)]
    decoder = cgru.Sequential([cgru.Embedding(9, 4), *middle, cgru.Dense(9, activation="softmax")])
    with pytest.raises(ValueError, match=r"got layer 1 \(Conv1D\)"):
        cgru.Seq2Seq(encoder, decoder)


def test_the_penalties_of_encoder_and_decoder_are_in_the_loss(rng):
    def made(**options):
        model = cgru.Seq2Seq(
            cgru.Sequential([cgru.Embedding(9, 4, mask_zero=True), cgru.GRU(5, **options)], seed=1),
            cgru.Sequential(
                [
                    cgru.Embedding(9, 4),
                    cgru.GRU(5, return_sequences=True, **options),
                    cgru.Dense(9, activation="softmax"),
                ],
                seed=2,
            ),
            seed=3,
        )
        model.compile(cgru.optimizers.SGD(0.0001), "sparse_categorical_crossentropy")
        return model

    source, target = rng.integers(3, 9, (6, 5)), rng.integers(3, 9, (6, 4))
    plain, held = made(), made(kernel_regularizer="l2")
    losses = [model.fit(source, target, verbose=0, shuffle=False).history["loss"][0] for model in (plain, held)]
    np.testing.assert_allclose(losses[1] - losses[0], held.penalty(), rtol=1e-3)
