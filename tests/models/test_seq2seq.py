"""cgru.Seq2Seq: what fits together, gradients, teacher forcing, forms of input, files."""

import copy
import pickle

import numpy as np
import pytest

import cgru
from cgru.layers import Attention
from cgru.models.runs import Totals

SCORES = [None, "dot", "general", "additive"]
V, K = 9, 8  # ids of source and target


def model_of(encoder=None, decoder=None, attention=None, units=6, seed=0, dtype="float32", compiled=True, **options):
    """A small one; `encoder` and `decoder` are the GRUs, or their options."""
    encoder, decoder = (
        part if isinstance(part, list) else [cgru.GRU(units, return_sequences=True, dtype=dtype, **(part or {}))]
        for part in (encoder, decoder)
    )
    model = cgru.Seq2Seq(
        cgru.Sequential([cgru.Embedding(V, 5, dtype=dtype), *encoder]),
        cgru.Sequential([cgru.Embedding(K, 4, dtype=dtype), *decoder, cgru.Dense(K, "softmax", dtype=dtype)]),
        attention=attention, seed=seed, **options,
    )  # fmt: skip
    if compiled:
        model.compile(cgru.optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def examples(rng, N=7, longest=6):
    source = [rng.integers(0, V, n) for n in rng.integers(1, longest, N)]
    target = [rng.integers(3, K, n) for n in rng.integers(0, longest, N)]
    return source, target


def padded(listed, value=0):
    lengths = np.array([len(row) for row in listed])
    array = np.full((len(listed), lengths.max() + 2), value)
    for row, ids in zip(array, listed, strict=True):
        row[: len(ids)] = ids
    return array, lengths


def teacher_forced(target):
    """(what the decoder reads, what it is to say), padded, and their lengths."""
    reads, lengths = padded([[1, *ids] for ids in target])
    return reads, padded([[*ids, 2] for ids in target])[0], lengths


# -- the passes

PARTS = {
    "one": ({}, {}),
    "two layers": ({"num_layers": 2}, {"num_layers": 2}),
    "the last of two": ({"num_layers": 2}, {}),
    "two GRUs": (
        lambda dtype: [cgru.GRU(n, return_sequences=True, dtype=dtype) for n in (4, 6)],
        lambda dtype: [cgru.GRU(n, return_sequences=True, dtype=dtype) for n in (4, 6)],
    ),
    "a stack to two GRUs": (
        {"num_layers": 2},
        lambda dtype: [
            cgru.GRU(6, return_sequences=True, dtype=dtype), cgru.Dropout(0.0),
            cgru.GRU(6, return_sequences=True, dtype=dtype),
        ],
    ),
    "concat": (lambda dtype: [cgru.GRU(3, return_sequences=True, bidirectional=True, dtype=dtype)], {}),
    **{mode: ({"bidirectional": True, "merge_mode": mode}, {}) for mode in ("sum", "ave", "mul")},
    "two layers of two directions": (
        lambda dtype: [cgru.GRU(3, return_sequences=True, bidirectional=True, num_layers=2, dtype=dtype)],
        {"num_layers": 2, "reset_after": True},
    ),
    "reverse": ({"reverse": True}, {}),
    "layer_norm": ({"layer_norm": True}, {"layer_norm": True, "reset_after": True}),
    "go_backwards": ({"go_backwards": True, "reset_after": True}, {}),
}  # fmt: skip


def built(name, attention, dtype="float64"):
    encoder, decoder = (part(dtype) if callable(part) else part for part in PARTS[name])
    return model_of(encoder, decoder, attention, dtype=dtype)


@pytest.mark.parametrize(("name", "attention"), [*((name, None) for name in PARTS), *((n, "general") for n in PARTS)])
def test_gradients_are_finite_differences(name, attention, rng):
    check_gradients(built(name, attention), rng)


@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_gradients_through_attention_are_finite_differences(attention, rng):
    check_gradients(built("one", attention), rng)


def check_gradients(model, rng):
    source, target = examples(rng, 4)
    target[0] = target[0][:0]
    weights = rng.uniform(0.5, 2, 4)
    batch, targets = model._examples(source, target, {"sample_weight": weights})
    model._build_for(batch)
    pair, own = model._rows_of(batch, targets, np.arange(4))
    gradients = model._gradients(pair, own)
    assert set(gradients) == {(i, n) for i, layer in enumerate(model.layers) for n in layer.parameters}
    start = model.get_weights()
    direction = [rng.standard_normal(p.shape) for p in start]
    expected = sum((g * d).sum() for g, d in zip(in_order(model, gradients), direction, strict=True))
    losses = []
    for step in (1e-6, -1e-6):
        model.set_weights([p + step * d for p, d in zip(start, direction, strict=True)])
        losses.append(model.evaluate(source, target, sample_weight=weights)["loss"])
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_gradients_under_dropout_are_finite_differences(rng):
    options = {"dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.3, "return_sequences": True, "dtype": "float64"}
    parts = [cgru.Dropout(0.3), cgru.GRU(6, **options), cgru.Dropout(0.3)]
    model = model_of(parts, copy.deepcopy(parts), "general", dtype="float64")
    batch, targets = model._examples(*examples(rng, 4), {})
    model._build_for(batch)
    pair, own = model._rows_of(batch, targets, np.arange(4))
    key = cgru.masks.Key(5, examples=np.arange(4))
    start, gradients = model.get_weights(), model._gradients(pair, own, key=key)
    direction = [rng.standard_normal(p.shape) for p in start]
    losses = []
    for step in (1e-6, -1e-6):
        model.set_weights([p + step * d for p, d in zip(start, direction, strict=True)])
        total, count = model._run(pair, own, key=key).seen(Totals(model))["loss"]
        losses.append(total / count)
    expected = sum((g * d).sum() for g, d in zip(in_order(model, gradients), direction, strict=True))
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, rel=1e-6, abs=1e-9)


def in_order(model, gradients):
    return [gradients[i, name] for i, layer in enumerate(model.layers) for name in layer.parameters]


@pytest.mark.parametrize("attention", SCORES)
def test_frozen_layers_change_nothing_but_themselves(attention, rng):
    source, target = examples(rng)
    whole = model_of(attention=attention)
    batch, targets = whole._examples(source, target, {})
    whole._build_for(batch)
    pair, own = whole._rows_of(batch, targets, np.arange(7))
    expected = whole._gradients(pair, own)
    for frozen in ([0], [0, 1], [1], [2, 3], range(len(whole.layers) - 1)):
        for i, layer in enumerate(whole.layers):
            layer.trainable = i not in frozen
        found = whole._gradients(pair, own)
        assert {i for i, _ in found} == {i for i, _ in expected} - set(frozen)
        for key, gradient in found.items():
            np.testing.assert_array_equal(gradient, expected[key])


def test_the_state_is_handed_over():
    model = model_of(dtype="float64")
    model.build()
    encoder, (embedding, gru, dense) = model.encoder, model.decoder.layers
    source, target = np.array([[3, 4, 5]]), np.array([[6, 7]])
    h = encoder(source)[:, -1]
    read = embedding.parameters["embeddings"][[[1, 6, 7]]]
    y = gru(read, initial_state=h)[0]
    p = dense.parameters
    logits = y @ p["kernel"] + p["bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    found = model.predict(source, target)
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    losses = -np.log(expected[[0, 1, 2], [6, 7, 2]])
    assert model.evaluate(source, target)["loss"] == pytest.approx(losses.mean())


# -- forms of input


@pytest.mark.parametrize("attention", [None, "additive"])
def test_every_form_of_the_same_examples_gives_the_same(attention, rng):
    source, target = examples(rng)
    x, lengths = padded(source, value=7777)
    y, target_lengths = padded(target, value=-3)
    reads, says, read_lengths = teacher_forced(target)
    mask = np.arange(x.shape[1]) < lengths[:, None]
    forms = [
        ((source, target), {}),
        ((x, y), {"lengths": lengths, "target_lengths": target_lengths}),
        ((x, y[..., None].astype(float)), {"mask": mask, "target_lengths": target_lengths}),
        (([list(map(int, ids)) for ids in source], [list(map(int, ids)) for ids in target]), {}),
        (([x, reads], says), {"lengths": lengths, "target_lengths": read_lengths}),
        (((source, [r[:n] for r, n in zip(reads, read_lengths, strict=True)]),
          [r[:n] for r, n in zip(says, read_lengths, strict=True)]), {}),
    ]  # fmt: skip
    weights, losses = [], []
    for arrays, given in forms:
        model = model_of(attention=attention)
        losses.append(model.evaluate(*arrays, **given))
        model.fit(*arrays, epochs=2, batch_size=3, verbose=0, **given)
        weights.append(model.get_weights())
        assert losses[-1] == losses[0]
        for a, b in zip(weights[-1], weights[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_two_sources_are_not_mistaken_for_keras_inputs():
    model = model_of()
    assert model.evaluate([[3, 4], [5, 6]], [[3], [4]]) == model.evaluate(np.array([[3, 4], [5, 6]]), [[3], [4]])
    assert model.evaluate([np.array([3, 4]), np.array([5])], [[3], [4]])["loss"] > 0
    numbers = cgru.Seq2Seq(cgru.Sequential([cgru.GRU(6)]), model.decoder)
    numbers.compile(loss="sparse_categorical_crossentropy")
    sequences = [np.ones((3, 2)), np.ones((2, 2))]
    keras = [np.ones((1, 3, 2)), np.array([[1, 3, 4]])]
    assert numbers.evaluate(sequences, [[3], [4, 5]])["loss"] > 0
    expected = numbers.evaluate(np.ones((1, 3, 2)), [[3, 4]])
    assert numbers.evaluate(keras, np.array([[3, 4, 2]])) == expected


def test_predictions_are_those_of_each_example_alone(rng):
    model = model_of(attention="general")
    source, target = examples(rng)
    listed = model.predict(source, target)
    for i in range(7):
        np.testing.assert_array_equal(model.predict([source[i]], [target[i]])[0], listed[i])
    x, lengths = padded(source)
    reads, _, read_lengths = teacher_forced(target)
    whole = model.predict([x, reads], lengths=lengths, target_lengths=read_lengths, batch_size=2)
    for i, n in enumerate(read_lengths):
        np.testing.assert_array_equal(whole[i, :n], listed[i])
        assert not whole[i, n:].any()


def test_other_losses(rng):
    source, target = examples(rng)
    results = []
    for loss in ("sparse_categorical_crossentropy", "categorical_crossentropy"):
        model = model_of(dtype="float64")
        model.compile(cgru.optimizers.Adam(0.01), loss, ["accuracy", "perplexity"])
        model.fit(source, target, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


# -- training


def test_what_fit_takes(rng):
    source, target = examples(rng, 24)
    model = model_of({"bidirectional": True, "merge_mode": "sum"}, attention="dot")
    stopping = cgru.callbacks.EarlyStopping(patience=5)
    history = model.fit(
        source, target, epochs=6, batch_size=8, validation_split=0.25, sample_weight=np.linspace(1, 2, 24),
        class_weight={2: 2.0}, callbacks=[stopping], verbose=0,
    )  # fmt: skip
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.history["loss"][-1] < history.history["loss"][0]
    more = {"lengths": padded(source)[1], "target_lengths": padded(target)[1]}
    data = (padded(source)[0], padded(target)[0], more)
    model.fit(source, target, validation_data=data, verbose=0)
    assert model.history.history["val_loss"][0] == pytest.approx(model.evaluate(source, target)["loss"], rel=1e-6)
    model.fit(lambda: iter([(source[:8], target[:8]), data]), epochs=2, verbose=0, validation_data=lambda: iter([data]))
    seen = model.test_on_batch(source, target)
    assert model.train_on_batch(source, target)["loss"] == pytest.approx(seen["loss"], rel=1e-5)
    assert model.test_on_batch(source, target)["loss"] < seen["loss"]


def test_weights_of_steps(rng):
    source, target = [rng.integers(0, V, 3)] * 2, [np.array([3, 4]), np.array([5])]
    model = model_of(dtype="float64")
    p = model.predict(source, target)
    losses = [-np.log(p[0][[0, 1, 2], [3, 4, 2]]), -np.log(p[1][[0, 1], [5, 2]])]
    weights = [np.array([1.0, 0, 3]), np.array([0.5, 2])]
    expected = sum((a * w).sum() for a, w in zip(losses, weights, strict=True)) / 5
    assert model.evaluate(source, target, sample_weight=weights)["loss"] == pytest.approx(expected, rel=1e-12)
    whole = np.array([[1.0, 0, 3], [0.5, 2, np.nan]])
    assert model.evaluate(source, target, sample_weight=whole)["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("attention", [None, "additive"])
def test_a_run_goes_on_to_the_bit(attention, rng, tmp_path):
    source, target = examples(rng, 12)
    whole, part = (model_of({"num_layers": 2}, attention=attention) for _ in range(2))
    whole.fit(source, target, epochs=4, batch_size=5, verbose=0)
    part.fit(source, target, epochs=2, batch_size=5, verbose=0)
    cgru.save(part, tmp_path / "state", training_state=True)
    again = cgru.load(tmp_path / "state")
    again.fit(source, target, epochs=4, batch_size=5, verbose=0, resume=True)
    assert again.history.history == whole.history.history
    for a, b in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("attention", [*SCORES, Attention("additive", units=3)])
def test_saved_loaded_copied(attention, rng, tmp_path):
    source, target = examples(rng)
    model = model_of(attention=copy.deepcopy(attention))
    model.fit(source, target, verbose=0)
    cgru.save(model, tmp_path / "model")
    for again in (cgru.load(tmp_path / "model"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.get_config() == model.get_config()
        assert repr(again) == repr(model)
        assert again.parameters.keys() == model.parameters.keys()
        for a, b in zip(again.predict(source, target), model.predict(source, target), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(again.generate(source, 4), model.generate(source, 4), strict=True):
            np.testing.assert_array_equal(a, b)
        assert again.layers[:2] == again.encoder.layers and again.layers[-1] is again.decoder.layers[-1]
    names = {name.rpartition(".")[0] for name in model.parameters}
    assert names >= {"encoder.0", "encoder.1", "decoder.0", "decoder.1", "decoder.2"}
    assert cgru.Seq2Seq.from_config(model.get_config()).get_config() == model.get_config()


def test_seeds():
    def weights(encoder_seed, seed):
        encoder = cgru.Sequential([cgru.Embedding(V, 5), cgru.GRU(6)], seed=encoder_seed)
        decoder = cgru.Sequential([cgru.Embedding(K, 4), cgru.GRU(6, return_sequences=True), cgru.Dense(K, "softmax")])
        return cgru.Seq2Seq(encoder, decoder, seed=seed).build().get_weights()

    def same(a, b):
        return [np.array_equal(x, y) for x, y in zip(a, b, strict=True) if x.any()]

    assert all(same(weights(None, 3), weights(None, 3)))
    assert not any(same(weights(None, 3), weights(None, 4)))
    mixed = same(weights(5, 3), weights(5, 4))
    assert all(mixed[:3]) and not any(mixed[3:])


def test_shown(capsys):
    model = model_of([cgru.GRU(3, return_sequences=True, bidirectional=True)], attention="general")
    assert "attention='general', start=1, end=2, seed=0)" in repr(model)
    model.summary()
    before = capsys.readouterr().out
    assert "not built" in before and "Attention    (N, T, 12)" in before and "so far" in before
    model.build().summary()
    out = capsys.readouterr().out
    assert "5  Dense        (N, T, 8)              104         416  kernel 12x8  bias 8" in out
    assert "not built" not in out
    assert not cgru.Seq2Seq(cgru.Sequential([cgru.GRU(6)]), model.decoder).built
    with pytest.raises(AttributeError, match="start is read-only"):
        model.start = 3


def test_where_attention_looks(rng):
    source, target = examples(rng)
    model = model_of(attention="dot")
    weights = model.attention_weights(source, target)
    assert weights.shape == (7, max(map(len, target)) + 1, max(map(len, source)))
    for w, s, t in zip(weights, source, target, strict=True):
        np.testing.assert_allclose(w[: len(t) + 1].sum(axis=1), 1, rtol=1e-6)
        assert not w[len(t) + 1 :].any() and not w[:, len(s) :].any()
    alone = model.attention_weights(source[:1], target[:1])[0]
    np.testing.assert_array_equal(alone, weights[0][: len(target[0]) + 1, : len(source[0])])
    with pytest.raises(ValueError, match="attention: expected a model with attention, got None"):
        model_of().attention_weights(source, target)


def test_dropout_acts_in_training_alone(rng):
    source, target = examples(rng)
    dropped = {"dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.3, "return_sequences": True}
    model = model_of([cgru.Dropout(0.5), cgru.GRU(6, **dropped)], [cgru.GRU(6, **dropped), cgru.Dropout(0.5)], "dot")
    seen = model.evaluate(source, target)
    assert model.evaluate(source, target) == seen
    assert model.train_on_batch(source, target)["loss"] != pytest.approx(seen["loss"], rel=1e-4)
    assert all(len(ids) <= 4 for ids in model.generate(source, 4))


# -- what is refused

E, H = cgru.Embedding, cgru.GRU


def S(**options):
    return H(6, return_sequences=True, **options)


def two(encoder, decoder, **options):
    return cgru.Seq2Seq(cgru.Sequential(encoder), cgru.Sequential(decoder), **options)


def decoder(*grus, ids=K, activation="softmax"):
    return [E(ids, 4), *(grus or [S()]), cgru.Dense(K, activation=activation)]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: cgru.Seq2Seq(E(V, 5), cgru.Sequential(decoder())), TypeError, "encoder: expected a Sequential"),
        (lambda: two([H(7)], decoder()), ValueError, r"decoder: expected 7 units in layer 1 \(GRU\), .*got 6"),
        (lambda: two([H(6, bidirectional=True)], decoder()), ValueError, "of 12 units, 6 in each direction, got 6"),
        (lambda: two([H(6)], decoder(S(num_layers=2))), ValueError, "decoder: expected at most 1 layers"),
        (lambda: two([E(V, 5)], decoder()), ValueError, "encoder: expected at least one GRU"),
        (lambda: two([H(6), cgru.Dense(3)], decoder()), ValueError, "encoder: expected a GRU as its last layer"),
        (lambda: two([H(6)], decoder(), attention="dot"), ValueError, "encoder: expected an output at each step"),
        (lambda: two([H(6, stateful=True)], decoder()), ValueError, "encoder: .*stateful=True in layer 0"),
        (lambda: two([H(6)], decoder(H(6))), ValueError, "decoder: .*return_sequences=False in layer 1"),
        (lambda: two([H(6)], decoder(S(reverse=True))), ValueError, "decoder: .*reverse=True"),
        (lambda: two([H(6)], decoder(S(learn_initial_state=True))), ValueError, "decoder: .*state comes from the enc"),
        (lambda: two([H(6)], decoder(S(bidirectional=True))), ValueError, "decoder: .*bidirectional"),
        (lambda: two([H(6)], decoder()[1:]), ValueError, "decoder: expected an Embedding as its first layer"),
        (lambda: two([H(6)], decoder()[:-1]), ValueError, "decoder: expected a Dense with softmax as its last layer"),
        (lambda: two([H(6)], decoder(activation="tanh")), ValueError, "decoder: expected a Dense with softmax"),
        (lambda: two([H(6)], [E(K, 4), cgru.Dense(K, "softmax")]), ValueError, "decoder: expected at least one GRU"),
        (lambda: two([H(6)], decoder(ids=K - 1)), ValueError, f"decoder: expected an Embedding of at least {K} ids"),
        (lambda: two([H(6)], decoder(), start=K), ValueError, f"start: expected less than {K}"),
        (lambda: two([H(6)], decoder(), end=-1), ValueError, "end"),
        (lambda: two([S()], decoder(), attention="luong"), ValueError, r"attention: expected one of \['additive'"),
        (lambda: two([S()], decoder(), attention=3), TypeError, "attention: expected None, a name"),
        (
            lambda: two([S(), cgru.Dense(5)], decoder(), attention="dot"),
            ValueError, "attention: memory: expected 6 features, .*got 5",
        ),
        (
            lambda: two([S()], decoder(), attention=Attention("general", memory_size=5)),
            ValueError, "attention: expected memory_size=6",
        ),
        (lambda: cgru.Seq2Seq.from_config({"layers": [], "seed": 0}), ValueError, "config: expected a dict of encoder"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("arrays", "given", "error", "words"),
    [
        (([[3]], [[3, K]]), {}, ValueError, f"target: .* less than {K}, .*got {K} in row 0, step 1"),
        (([[3]], [[-1]]), {}, ValueError, "target: expected ids of at least 0"),
        (([[3]], [[3, 2]]), {}, ValueError, "target: expected no start 1 and no end 2.*got 2 in row 0, step 1"),
        (([[3]], [[1, 3]]), {}, ValueError, "got 1 in row 0, step 0"),
        (([[3]], [["a"]]), {}, TypeError, "target"),
        (([[3]], None), {}, ValueError, r"target: expected ids .* got None"),
        (([[3]], [[0.5]]), {}, ValueError, "target: expected integer labels"),
        (([[3], [4]], [[3]]), {}, ValueError, "target: expected 2 rows, as source has, got 1"),
        (([[3]], np.ones((1, 2, 3), int)), {}, ValueError, "target: expected ids"),
        (([[V]], [[3]]), {}, ValueError, f"source: expected ids of at least 0 and less than input_dim = {V}"),
        ((np.ones((1, 3), int), [[3]]), {"lengths": [4]}, ValueError, "lengths: expected values from 0 to T = 3"),
        ((np.ones((1, 3), int), np.full((1, 2), 3)), {"target_lengths": [3]}, ValueError, "target_lengths: expected"),
        ((np.ones((1, 3), int), [[3], [4]]), {"lengths": [1, 1]}, ValueError, "lengths: expected shape"),
        (([[3]], [[3], [4, 5]]), {"target_lengths": [1, 1]}, ValueError, "target: expected 1 rows"),
        (([[3], [4]], [[3], [4, 5]]), {"target_lengths": [1, 1]}, ValueError, "target_lengths, mask: a ragged list"),
        (([np.ones((2, 3), int), np.ones((1, 3), int)], np.ones((2, 3))), {}, ValueError, r"source\[1\]: expected ids"),
        (([np.ones((2, 3), int), np.full((2, 3), K)], np.ones((2, 3))), {}, ValueError, r"source\[1\]: expected ids"),
        (([np.ones((2, 3), int), np.ones((2, 3), int)], np.ones((2, 4))), {}, ValueError, r"target: expected shape"),
        (([[3]], [[3]]), {"sample_weight": [1, 2]}, ValueError, "sample_weight"),
        (([[3]], [[3]]), {"chunk": 5}, ValueError, "chunk: expected None"),
        (([[3]], [[3]]), {"validation_data": ([[3]], [[1]])}, ValueError, "validation_data: target: expected no start"),
        (([[3]], [[3]]), {"validation_data": ([[3]], [[3]], {"length": 1})}, ValueError, "target_lengths="),
        (([([[3]], [[2]])], None), {}, ValueError, "batch 1: target: expected no start 1 and no end 2"),
        (([([[3]], [[3]])], None), {"target_lengths": [1]}, ValueError, "target_lengths: expected none"),
        ((np.ones((0, 3), int), np.ones((0, 2), int)), {}, ValueError, "source: expected at least one example"),
    ],
)  # fmt: skip
def test_examples_that_do_not_fit_train_nothing(arrays, given, error, words):
    model = model_of()
    model.build()
    before = model.get_weights()
    with pytest.raises(error, match=words):
        model.fit(*arrays, verbose=0, **given)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_that_does_not_fit():
    with pytest.raises(ValueError, match="loss"):
        model_of().compile(loss=cgru.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(RuntimeError, match="compile"):
        model_of(compiled=False).fit([[3]], [[3]])


def test_sources_that_are_not_finite_are_named():
    model = cgru.Seq2Seq(cgru.Sequential([H(6)]), cgru.Sequential(decoder()), seed=0)
    model.compile(loss="sparse_categorical_crossentropy")
    x = np.ones((2, 3, 2))
    x[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"source: expected finite numbers .* row 1, step 2, feature 0"):
        model.fit(x, [[3], [4]], shuffle=False, verbose=0)
    model.fit(x, [[3], [4]], lengths=[3, 2], verbose=0)


# -- zeros as padding


@pytest.mark.parametrize("attention", [None, "general"])
def test_zeros_are_padding_where_embeddings_say_so(attention, rng):
    source = [rng.integers(1, V, n) for n in (3, 1, 5, 2)]
    target = [rng.integers(3, K, n) for n in (0, 4, 2, 3)]
    x, y = padded(source)[0], padded(target)[0]
    reads, says, _ = teacher_forced(target)
    model = model_of(attention=attention)
    config = model.get_config()
    for part in ("encoder", "decoder"):
        config[part]["layers"][0]["config"]["mask_zero"] = True
    masked = cgru.Seq2Seq.from_config(config)
    masked.compile(cgru.optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(source, target, batch_size=2, epochs=2, verbose=0)
    masked.fit(x, y, batch_size=2, epochs=2, verbose=0)
    for a, b in zip(masked.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert masked.evaluate([x, reads], says) == model.evaluate(source, target)
    masked.set_weights([*masked.get_weights()[:-1], np.eye(K)[0] * 50])  # 0 would be said all the time
    assert not any(0 in ids for ids in masked.generate(x, 5))
    with pytest.raises(ValueError, match="target: expected 0, which is padding by mask_zero=True, behind"):
        masked.evaluate([[3]], [[3, 0, 4]])
    with pytest.raises(ValueError, match="start: expected another id than 0"):
        cgru.Seq2Seq.from_config(config | {"start": 0})


def test_gradients_of_penalties_are_finite_differences(rng):
    options = {"dtype": "float64", "return_sequences": True}
    options |= {"recurrent_regularizer": "l2", "activity_regularizer": "l2"}
    check_gradients(model_of([cgru.GRU(6, **options)], [cgru.GRU(6, **options)], "general", dtype="float64"), rng)


def test_penalties_and_constraints_count():
    def layers(size, *last, **options):
        return [cgru.Embedding(size, 4), cgru.GRU(5, return_sequences=True, **options), *last]

    last = cgru.Dense(K, "softmax", kernel_regularizer="l2")
    model = cgru.Seq2Seq(
        cgru.Sequential(layers(V, recurrent_regularizer="l1", kernel_constraint="unit_norm")),
        cgru.Sequential(layers(K, last, activity_regularizer="l2")), "dot", seed=0,
    )  # fmt: skip
    model.compile(loss="sparse_categorical_crossentropy")
    bare = copy.deepcopy(model)
    loss = model.evaluate([[3, 4]], [[5]])["loss"]
    assert model.penalty() > 0 and loss > model.penalty()
    model.fit([[3, 4]], [[5]], verbose=0)
    kernel = model.encoder.layers[1].parameters["kernel"]
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    assert bare.evaluate([[3, 4]], [[5]])["loss"] == loss
