"""sample_weight and class_weight: what they do to loss, gradients and updates, and what is refused."""

import re

import checks
import numpy as np
import pytest

import cgru
from cgru.models.runs import FusedRun

N, T, D, K = 7, 4, 2, 3
LENGTHS = np.array([4, 2, 3, 1, 4, 0, 2])
VALID = np.arange(T) < LENGTHS[:, None]
LOSSES = {
    "sparse_categorical_crossentropy": (K, "softmax"),
    "categorical_crossentropy": (K, "softmax"),
    "binary_crossentropy": (1, "sigmoid"),
    "mse": (2, "linear"),
}


def model_of(loss, steps=False, dtype="float64", metrics=()):
    units, activation = LOSSES[loss]
    layers = [cgru.GRU(4, return_sequences=steps, dtype=dtype), cgru.Dense(units, activation, dtype=dtype)]
    model = cgru.Sequential(layers, seed=0)
    model.compile(cgru.optimizers.Adam(0.01), loss, metrics=list(metrics))
    return model


def built(model):
    return model.build(D)


def labels_for(loss, rng, shape):
    if loss == "mse":
        return rng.standard_normal((*shape, 2))
    if loss == "binary_crossentropy":
        return rng.integers(0, 2, shape)
    y = np.resize(np.arange(K), shape)
    return y if loss.startswith("sparse") else np.eye(K)[y]


def classes_of(loss, y):
    return y.argmax(axis=-1) if loss == "categorical_crossentropy" else y


def trained(model, x, y, **options):
    history = model.fit(x, y, epochs=3, batch_size=3, shuffle=False, verbose=0, **options).history
    return [*model.get_weights(), np.array(history["loss"])]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_the_weighted_sum_by_the_number_of_terms(rng, loss):
    for steps in (False, True):
        model = model_of(loss, steps)
        shape = (N, T) if steps else (N,)
        x, y = rng.standard_normal((N, T, D)), labels_for(loss, rng, shape)
        options = {"lengths": LENGTHS} if steps else {}
        valid = VALID if steps else np.ones(N, bool)
        outputs = model.predict(x, **options)
        y3 = y if y.ndim > len(shape) or loss.startswith("sparse") else y[..., None]
        values = model.loss.values(outputs[valid], y3[valid].astype(y3.dtype if loss.startswith("sparse") else float))
        for weight in [rng.random(N), rng.random(shape)]:
            each = np.broadcast_to(weight if weight.ndim == len(shape) else weight[:, None], shape)
            expected = (values * each[valid]).sum() / valid.sum()
            for batch_size in (2, N):
                found = model.evaluate(x, y, batch_size=batch_size, sample_weight=weight, **options)["loss"]
                assert found == pytest.approx(expected, rel=1e-12)
            data = x, y, {**options, "sample_weight": weight}
            twin = model_of(loss, steps)
            history = twin.fit(x, y, validation_data=data, verbose=0, **options).history
            after = twin.evaluate(x, y, sample_weight=weight, **options)["loss"]
            assert history["val_loss"] == [after] and after != twin.evaluate(x, y, **options)["loss"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [False, True])
def test_whole_weights_are_repetitions(rng, loss, steps):
    """A weight of 2 is the example twice but for the number of terms: gradients are those of the sum."""
    model = built(model_of(loss, steps))
    weight = np.array([1, 2, 0, 3, 1, 1, 2])
    x, y = rng.standard_normal((N, T, D)), labels_for(loss, rng, (N, T) if steps else (N,))
    given = {"lengths": LENGTHS} if steps else {}
    batch, shape = cgru.models.examples.inputs(model.layers, x, **given)
    weighted = model._gradients(batch, model._targets(y, batch, shape, sample_weight=weight))
    repeated = np.repeat(np.arange(N), weight)
    many, shape = cgru.models.examples.inputs(model.layers, x[repeated], **{k: v[repeated] for k, v in given.items()})
    expected = model._gradients(many, model._targets(y[repeated], many, shape))
    counts = (LENGTHS.sum(), (weight * LENGTHS).sum()) if steps else (N, weight.sum())
    for key, gradient in weighted.items():
        checks.assert_close(gradient * counts[0], expected[key] * counts[1], 1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [False, True])
def test_weights_of_one_are_none_to_the_bit(rng, loss, steps):
    x, y = rng.standard_normal((N, T, D)), labels_for(loss, rng, (N, T) if steps else (N,))
    options = {"lengths": LENGTHS} if steps else {}
    expected = trained(model_of(loss, steps, "float32"), x, y, **options)
    for weight in (np.ones(N), np.ones(N, int), [True] * N, np.ones((N, 1)), *([np.ones((N, T))] if steps else [])):
        found = trained(model_of(loss, steps, "float32"), x, y, sample_weight=weight, **options)
        checks.assert_same_arrays(found, expected)
    if loss != "mse":
        ones = dict.fromkeys(range(2), 1.0)
        found = trained(model_of(loss, steps, "float32"), x, y, class_weight=ones, **options)
        checks.assert_same_arrays(found, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_steps_as_lists_and_with_anything_in_the_padding(rng, loss):
    x, y, weight = rng.standard_normal((N, T, D)), labels_for(loss, rng, (N, T)), rng.random((N, T))
    expected = trained(model_of(loss, True), x, y, sample_weight=weight, lengths=LENGTHS)
    for padding in (np.nan, -1, np.inf):
        given = np.where(VALID, weight, padding)
        checks.assert_same_arrays(trained(model_of(loss, True), x, y, sample_weight=given, lengths=LENGTHS), expected)
        checks.assert_same_arrays(trained(model_of(loss, True), x, y, sample_weight=given, mask=VALID), expected)
    ragged = [[row[:n] for row, n in zip(a, LENGTHS, strict=True)] for a in (x, y, weight)]
    checks.assert_same_arrays(trained(model_of(loss, True), *ragged[:2], sample_weight=ragged[2]), expected)
    ragged[2] = [row.tolist() for row in ragged[2]]
    checks.assert_same_arrays(trained(model_of(loss, True), *ragged[:2], sample_weight=ragged[2]), expected)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "mse"])
@pytest.mark.parametrize("steps", [False, True])
def test_class_weights_are_weights_of_the_labels(rng, loss, steps):
    x, y = rng.standard_normal((N, T, D)), labels_for(loss, rng, (N, T) if steps else (N,))
    options, valid = ({"lengths": LENGTHS}, VALID) if steps else ({}, np.ones(N, bool))
    classes, K = classes_of(loss, y), 2 if loss.startswith("binary") else 3
    table = np.array([0.5, 2, 1])[:K]
    expected = trained(model_of(loss, steps), x, y, sample_weight=table[classes], **options)
    found = trained(model_of(loss, steps), x, y, class_weight={0: 0.5, np.int64(1): 2}, **options)
    checks.assert_same_arrays(found, expected)

    own = rng.random(N)
    both = table[classes] * (own[:, None] if steps else own)
    expected = trained(model_of(loss, steps), x, y, sample_weight=both, **options)
    found = trained(model_of(loss, steps), x, y, sample_weight=own, class_weight=dict(enumerate(table)), **options)
    checks.assert_same_arrays(found, expected)

    counts = np.bincount(classes[valid], minlength=K)
    balanced = valid.sum() / (K * counts)
    expected = trained(model_of(loss, steps), x, y, sample_weight=balanced[classes], **options)
    found = trained(model_of(loss, steps), x, y, class_weight="balanced", **options)
    checks.assert_same_arrays(found, expected)


def test_class_weights_do_not_act_on_validation_data(rng):
    x, y = rng.standard_normal((N, T, D)), np.arange(N) % K
    model = model_of("sparse_categorical_crossentropy")
    history = model.fit(x, y, class_weight={0: 9}, validation_data=(x, y), verbose=0).history
    assert history["val_loss"][0] == model.evaluate(x, y)["loss"]


def test_metrics_are_not_weighted(rng):
    x, y = rng.standard_normal((N, T, D)), np.arange(N) % K
    model = model_of("sparse_categorical_crossentropy", metrics=["accuracy", "perplexity"])
    plain, weighted = model.evaluate(x, y), model.evaluate(x, y, sample_weight=np.arange(N))
    assert plain.pop("loss") != weighted.pop("loss")
    assert plain == weighted


def test_weights_stay_in_the_fused_pass(rng):
    for loss in ("sparse_categorical_crossentropy", "binary_crossentropy"):
        model = built(model_of(loss, metrics=["accuracy"]))
        batch, shape = cgru.models.examples.inputs(model.layers, rng.standard_normal((N, T, D)))
        targets = model._targets(np.arange(N) % 2, batch, shape, class_weight={1: 2}, sample_weight=np.ones(N))
        assert isinstance(model._run(batch, targets), FusedRun)


def test_a_batch_of_zero_weights_changes_nothing(rng):
    x, y = rng.standard_normal((6, T, D)), np.arange(6) % K
    model = model_of("sparse_categorical_crossentropy")
    model.compile(cgru.optimizers.Adam(0.1, beta_1=0.0), "sparse_categorical_crossentropy")
    model.build(D)
    before = model.get_weights()
    model.fit(x[:3], y[:3], sample_weight=[0, 0, 1], batch_size=2, shuffle=False, verbose=0)
    assert not np.array_equal(model.get_weights()[0], before[0])
    batch, shape = cgru.models.examples.inputs(model.layers, x)
    part = model._targets(y, batch, shape, sample_weight=[0, 0, 0, 1, 1, 1]).take(np.arange(3), slice(None))
    for gradient in model._gradients(batch.take(np.arange(3)), part).values():
        assert not gradient.any()


def test_weights_of_nothing(rng):
    """Where no step is valid, or no example given, nothing has a weight, and none is asked for."""
    model = model_of("mse", True)
    x, y = rng.standard_normal((N, T, D)), np.ones((N, T, 2))
    assert np.isnan(model.evaluate(x, y, lengths=[0] * N, sample_weight=np.ones(N))["loss"])
    assert np.isnan(model.evaluate(x[:0], y[:0], sample_weight=[])["loss"])


def test_one_batch_may_lack_a_class_or_weigh_nothing(rng):
    x, y = rng.standard_normal((N, T, D)), np.arange(N) % 2
    model, table = model_of(SCE), {0: 1, 1: 3, 2: 5}
    first = model.train_on_batch(x, y, class_weight=table)["loss"]
    twin = model_of(SCE)
    assert first == twin.train_on_batch(x, y, sample_weight=[1, 3] * 3 + [1])["loss"]
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())
    assert model.train_on_batch(x, y, sample_weight=np.zeros(N))["loss"] == 0
    batches = [(x[:3], y[:3], {"sample_weight": np.zeros(3)}), (x[3:], y[3:], {"sample_weight": np.ones(4)})]
    assert model.fit(batches, verbose=0).history["loss"][0] > 0
    with pytest.raises(ValueError, match="class_weight: 'balanced' counts the classes of all examples, got one batch"):
        model.train_on_batch(x, y, class_weight="balanced")


def test_batches_bring_their_weights(rng):
    """As the arrays that they were cut from."""
    x, y, weight = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, 2)), rng.random((N, T))
    model, twin = model_of("mse", True), model_of("mse", True)
    expected = trained(model, x, y, lengths=LENGTHS, sample_weight=weight)
    rows = [slice(i, i + 3) for i in range(0, N, 3)]
    batches = [(x[r], y[r], {"lengths": LENGTHS[r], "sample_weight": weight[r]}) for r in rows]
    history = twin.fit(batches, epochs=3, verbose=0).history
    checks.assert_same_arrays([*twin.get_weights(), np.array(history["loss"])], expected)
    found = twin.evaluate(batches)["loss"]
    assert found == pytest.approx(twin.evaluate(x, y, lengths=LENGTHS, sample_weight=weight)["loss"], rel=1e-12)
    batches[1][2]["sample_weight"] = -weight[3:6]
    with pytest.raises(ValueError, match=r"^x, batch 2: sample_weight: expected finite numbers of at least 0"):
        twin.fit(batches, verbose=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_in_chunks_of_time(rng, loss):
    """Each chunk has its steps' weights; one chunk is the whole."""
    x, y, weight = rng.standard_normal((N, T, D)), labels_for(loss, rng, (N, T)), rng.random((N, T))
    options = {"lengths": LENGTHS, "sample_weight": weight, "batch_size": N, "shuffle": False, "verbose": 0}
    models = [model_of(loss, True) for _ in range(3)]
    losses = [model.fit(x, y, chunk=chunk, **options).history["loss"][0]
              for model, chunk in zip(models, (None, T, 2), strict=True)]  # fmt: skip
    checks.assert_same_arrays(models[0].get_weights(), models[1].get_weights())
    assert losses[0] == losses[1] and losses[2] == pytest.approx(losses[0], abs=0.05)


def test_a_validation_split_takes_its_weights_along(rng):
    x, y, weight = rng.standard_normal((10, T, D)), np.arange(10) % K, rng.random(10)
    table = {0: 3, 1: 0.5}
    model, twin = model_of(SCE), model_of(SCE)
    own = {"sample_weight": weight[:7], "class_weight": table}
    held = x[7:], y[7:], {"sample_weight": weight[7:]}
    expected = model.fit(x[:7], y[:7], validation_data=held, verbose=0, **own).history
    found = twin.fit(x, y, validation_split=0.3, sample_weight=weight, class_weight=table, verbose=0).history
    assert found == expected
    checks.assert_same_arrays(twin.get_weights(), model.get_weights())


@pytest.mark.parametrize(("part", "what"), [(slice(0, 7), "trains"), (slice(7, None), "validates")])
def test_no_part_of_a_split_weighs_nothing(rng, part, what):
    x, y, weight = rng.standard_normal((10, T, D)), np.arange(10) % K, np.ones(10)
    weight[part] = 0
    model = model_of(SCE)
    with pytest.raises(ValueError, match=f"sample_weight: expected some weight above 0 in the part that {what}, got"):
        model.fit(x, y, validation_split=0.3, sample_weight=weight, verbose=0)
    assert model.iterations == 0


def test_a_row_of_nan_is_found_beside_weights(rng):
    x, y = rng.standard_normal((6, T, D)), np.arange(6) % K
    model = model_of("mse")
    y = np.full((6, 2), 1e300)
    with pytest.raises(FloatingPointError, match=r"the loss of row [0-9] of x is inf in epoch 1, batch 1"):
        model.fit(x, y, sample_weight=np.arange(6) + 1.0, verbose=0)


# -- what is refused, before any work

SCE, BCE, CCE = "sparse_categorical_crossentropy", "binary_crossentropy", "categorical_crossentropy"
ONES = np.ones(N)


@pytest.mark.parametrize(
    ("steps", "weight", "error", "message"),
    [
        (False, -ONES, ValueError, "sample_weight: expected finite numbers of at least 0, got -1.0"),
        (False, ONES * np.nan, ValueError, "sample_weight: expected finite numbers of at least 0, got nan"),
        (False, ONES * np.inf, ValueError, "sample_weight: expected finite numbers of at least 0, got inf"),
        (False, ONES * 0, ValueError, "sample_weight: expected some weight above 0, got zeros alone"),
        (False, ONES[1:], ValueError, "sample_weight: expected shape (7,), a weight for each example, got (6,)"),
        (False, np.ones((N, T)), ValueError, "sample_weight: expected shape (7,), a weight for each example, got (7"),
        (False, 1.0, ValueError, "sample_weight: expected shape (7,), a weight for each example, got float"),
        (False, ["a"] * N, TypeError, "sample_weight: expected numbers, got dtype <U1"),
        (False, "balanced", ValueError, "sample_weight: expected shape (7,), a weight for each example, got str"),
        (True, np.ones((N, T + 1)), ValueError,
         "expected shape (7,), a weight for each example, or (7, 4), one for each step, got (7, 5)"),
        (True, np.ones((N, T)) * ~VALID, ValueError, "sample_weight: expected some weight above 0, got zeros alone"),
        (True, ONES * (LENGTHS == 0), ValueError, "sample_weight: expected some weight above 0, got zeros alone"),
        (True, -np.ones((N, T)), ValueError, "sample_weight: expected finite numbers of at least 0, got -1.0"),
        (True, [np.ones(4)] * N, ValueError, "sample_weight[1]: expected shape (2,), a weight for each step, got (4,)"),
        (True, [np.ones(4)] * 2, ValueError, "sample_weight: expected 7 sequences of weights, got 2"),
        (True, [-np.ones(n) for n in LENGTHS], ValueError, "sample_weight[0]: expected finite numbers of at least 0, "),
    ],
)  # fmt: skip
def test_refused_weights_of_examples(rng, steps, weight, error, message):
    model = model_of(SCE, steps)
    x, y = rng.standard_normal((N, T, D)), labels_for(SCE, rng, (N, T) if steps else (N,))
    options = {"lengths": LENGTHS} if steps else {}
    for call in (model.fit, model.evaluate):
        with pytest.raises(error, match=f"^{re.escape(message)}" if message.startswith("s") else re.escape(message)):
            call(x, y, sample_weight=weight, **options)
    with pytest.raises(error, match=f"^validation_data: .*{re.escape(message)}"):
        model.fit(x, y, validation_data=(x, y, {**options, "sample_weight": weight}), **options)
    assert not model.built


@pytest.mark.parametrize(
    ("loss", "weight", "error", "message"),
    [
        (SCE, {0: -1}, ValueError, "class_weight[0]: expected a finite number of at least 0, got -1"),
        (SCE, {0: np.nan}, ValueError, "class_weight[0]: expected a finite number of at least 0, got nan"),
        (SCE, {0: np.inf}, ValueError, "class_weight[0]: expected a finite number of at least 0, got inf"),
        (SCE, {0: "2"}, TypeError, "class_weight[0]: expected a number, got '2'"),
        (SCE, {3: 1}, ValueError, "class_weight: expected classes from 0 to 2, got 3"),
        (SCE, {-1: 1}, ValueError, "class_weight, a class: expected at least 0, got -1"),
        (SCE, {"dog": 1}, TypeError, "class_weight: expected the classes as numbers, as in y, got 'dog'"),
        (SCE, {0.5: 1}, TypeError, "class_weight, a class: expected an integer, got 0.5"),
        (SCE, {2: 1}, ValueError, "class_weight: class 2 never occurs in y"),
        (CCE, {2: 1}, ValueError, "class_weight: class 2 never occurs in y"),
        (SCE, "balanced", ValueError, "class_weight: 'balanced' expected every class in y, got none of 2; a dict"),
        (SCE, {0: 0, 1: 0}, ValueError, "class_weight: expected some weight above 0, got zeros alone"),
        (SCE, "even", TypeError, "class_weight: expected a dict class -> weight or 'balanced', got 'even'"),
        (SCE, [1, 2, 3], TypeError, "or 'balanced', got list; give dict(enumerate(weights))"),
        (SCE, np.ones(3), TypeError, "or 'balanced', got ndarray; give dict(enumerate(weights))"),
        (BCE, {2: 1}, ValueError, "class_weight: expected classes from 0 to 1, got 2"),
        ("mse", {0: 1}, ValueError, "class_weight: expected a loss of classes, got 'mean_squared_error': give each"),
    ],
)
def test_refused_weights_of_classes(rng, loss, weight, error, message):
    model = model_of(loss)
    x, y = rng.standard_normal((N, T, D)), np.arange(N) % 2
    y = {CCE: np.eye(3)[y], "mse": np.ones((N, 2))}.get(loss, y)
    with pytest.raises(error, match=re.escape(message)):
        model.fit(x, y, class_weight=weight)
    assert not model.built


def test_refused_together(rng):
    x, y = rng.standard_normal((N, T, D)), np.arange(N) % 2
    with pytest.raises(ValueError, match="sample_weight, class_weight: expected some weight above 0, got zeros alone"):
        model_of(BCE).fit(x, y, sample_weight=y, class_weight={1: 0})
    with pytest.raises(ValueError, match=r"class_weight: expected labels 0 and 1, got 0.5"):
        model_of(BCE).fit(x, y / 2, class_weight={1: 2})
    model = cgru.Sequential([cgru.GRU(3), cgru.Dense(2, "sigmoid")])
    model.compile("adam", BCE)
    with pytest.raises(ValueError, match="got 'binary_crossentropy' of 2 outputs: give each example its sample_weight"):
        model.fit(x, np.eye(2)[y], class_weight={1: 2})


def test_validation_data_says_what_it_takes(rng):
    x, y = rng.standard_normal((N, T, D)), np.arange(N) % 2
    with pytest.raises(ValueError, match=r"dict\(sample_weight=...\), which Keras means by it"):
        model_of(BCE).fit(x, y, validation_data=(x, y, ONES))
    options = {"sample_weight": ONES}
    model_of(BCE).fit(x, y, validation_data=(x, y, options), verbose=0)
    assert list(options) == ["sample_weight"]
