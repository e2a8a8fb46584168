"""Where the batches of training come from: iterables, functions, memory-mapped arrays; and one batch by hand."""

import re
import tracemalloc

import checks
import numpy as np
import pytest

import cgru
from cgru import optimizers
from cgru.models import examples

LOSS = "sparse_categorical_crossentropy"
N, T, D, K = 14, 5, 3, 2


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, T, D)).astype(np.float32)


@pytest.fixture
def y():
    return np.arange(N) % K


def made(**options):
    model = cgru.Sequential([cgru.GRU(4, **options), cgru.Dropout(0.2), cgru.Dense(K, "softmax")], seed=0)
    model.compile(optimizers.Adam(0.05), LOSS, metrics=["accuracy"])
    return model


def in_batches(x, y, size=4):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


class Restartable:
    def __init__(self, batches):
        self.batches, self.starts = batches, 0

    def __iter__(self):
        self.starts += 1
        yield from self.batches


# -- iterables


@pytest.mark.parametrize("kind", ["list", "tuple", "object", "function", "generator function", "one generator"])
def test_batches_of_an_iterable_are_those_of_the_arrays(x, y, kind):
    batches, epochs = in_batches(x, y), 1 if kind == "one generator" else 3
    given = {
        "list": lambda: batches,
        "tuple": lambda: tuple(batches),
        "object": lambda: Restartable(batches),
        "function": lambda: lambda: iter(batches),
        "generator function": lambda: lambda: (batch for batch in batches),
        "one generator": lambda: (batch for batch in batches),
    }[kind]()
    model, twin = made(), made()
    history = model.fit(given, epochs=epochs, verbose=0, validation_data=(x, y)).history
    expected = twin.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, validation_data=(x, y)).history
    assert history == expected
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


def test_lengths_and_masks_and_ragged_lists_in_batches(x, y):
    lengths = 1 + np.arange(N) % T
    mask = np.arange(T) < lengths[:, None]
    ragged = [row[:n] for row, n in zip(x, lengths, strict=True)]
    parts = [slice(i, i + 4) for i in range(0, N, 4)]
    results = [
        made().fit(batches, epochs=2, verbose=0).history["loss"]
        for batches in (
            [(x[p], y[p], {"lengths": lengths[p]}) for p in parts],
            [(x[p], y[p], {"mask": mask[p]}) for p in parts],
            [(ragged[p], y[p]) for p in parts],
        )
    ]
    expected = made().fit(x, y, lengths=lengths, batch_size=4, shuffle=False, epochs=2, verbose=0).history["loss"]
    for found in results:
        checks.assert_close(found, expected, 1e-6)


def test_weights_in_batches(x, y):
    weights = np.arange(1.0, N + 1)
    parts = [slice(i, i + 4) for i in range(0, N, 4)]
    batches = [(x[p], y[p], {"sample_weight": weights[p]}) for p in parts]
    options = {"class_weight": {1: 3.0}, "epochs": 2, "verbose": 0}
    history = made().fit(batches, validation_data=lambda: iter(batches), **options).history
    data = (x, y, {"sample_weight": weights})
    twin = made().fit(x, y, sample_weight=weights, batch_size=4, shuffle=False, validation_data=data, **options)
    assert history == {name: pytest.approx(values) for name, values in twin.history.items()}


def test_evaluation_and_validation_with_an_iterable(x, y):
    model, batches = made(), Restartable(in_batches(x, y))
    history = model.fit(batches, epochs=2, verbose=0, validation_data=batches).history
    assert batches.starts == 4
    expected = model.evaluate(x, y)
    assert {name: values[-1] for name, values in history.items() if name[:3] == "val"} == pytest.approx(
        {f"val_{name}": value for name, value in expected.items()}
    )
    assert model.evaluate(batches) == pytest.approx(expected)
    assert model.evaluate(iter(in_batches(x, y))) == pytest.approx(expected)


def test_a_stateful_model_goes_on_from_batch_to_batch(x, y):
    model, twin = made(stateful=True), made(stateful=True)
    batches = in_batches(x[:12], y[:12])
    history = model.fit(batches, epochs=2, verbose=0).history
    assert history == twin.fit(x[:12], y[:12], batch_size=4, shuffle=False, epochs=2, verbose=0).history
    checks.assert_same_arrays(model.layers[0]._state, twin.layers[0]._state)
    assert model.evaluate(batches) == pytest.approx(
        {"loss": model.evaluate(batches)["loss"], "accuracy": model.evaluate(batches)["accuracy"]}
    )
    with pytest.raises(ValueError, match="x, batch 4: x: expected 4 rows, as the first batch has, because layer 0"):
        model.fit(in_batches(x, y), verbose=0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda b: {"x": iter(b), "epochs": 2}, ValueError, "x: expected an iterable that starts anew for each of 2"),
        (lambda b: {"x": (p for p in b), "epochs": 2}, ValueError, "epochs, got a generator, which ends with the fi"),
        (lambda b: {"x": b, "validation_data": iter(b), "epochs": 2}, ValueError, "starts anew for each of 2 epo"),
        (lambda b: {"x": b, "lengths": [1]}, ValueError, "lengths: expected none beside an iterable of batches"),
        (lambda b: {"x": b, "validation_split": 0.5}, ValueError, "validation_split: expected none beside an iterable"),
        (lambda b: {"x": iter(b), "y": [0]}, ValueError, "y: expected None beside an iterable of batches (x, y), got"),
        (lambda b: {"x": b, "class_weight": "balanced"}, ValueError, "x, batch 1: class_weight: 'balanced' counts the"),
        (lambda b: {"x": lambda: 3}, TypeError, "x: expected a function that returns an iterable, got int from it"),
        (lambda b: {"x": Restartable([])}, ValueError, "x: expected an iterable that brings batches whenever it is"),
        (lambda b: {"x": Restartable([3])}, ValueError, "x, batch 1: expected (x, y) or (x, y, dict(lengths=..., mask"),
        (lambda b: {"x": [(*b[0], b[0][1])]}, ValueError, "x, batch 1: expected (x, y) or (x, y, dict(lengths=..."),
        (lambda b: {"x": [(b[0][0], b[1][1][:2])]}, ValueError, "x, batch 1: y: expected shape (4,), a label for each"),
        (lambda b: {"x": [(b[0][0], b[0][1] + K)]}, ValueError, "x, batch 1: y: expected at least 0 and less than 2"),
        (lambda b: {"x": [(b[0][0][:, 0], b[0][1])]}, ValueError, "x, batch 1: x: expected shape (N, T, 3) or a list"),
        (lambda b: {"x": [(b[0][0][:0], [])]}, ValueError, "x, batch 1: x: expected at least one example, got none"),
        (lambda b: {"x": Restartable([]), "validation_data": (b[0][0], [9] * 4)}, ValueError, "validation_data: y: ex"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_trained(x, y, given, error, message):
    model = made().build(D)
    before = model.get_weights()
    with pytest.raises(error, match=re.escape(message)):
        model.fit(**{"verbose": 0, **given(in_batches(x, y))})
    checks.assert_same_arrays(model.get_weights(), before)


def test_an_iterable_that_cannot_start_again_is_seen_in_the_second_epoch(x, y):
    batches = in_batches(x, y)
    once = iter(batches)
    model = made()
    with pytest.raises(ValueError, match="x: expected an iterable that brings batches whenever it is started"):
        model.fit(lambda: once, epochs=3, verbose=0)
    assert model.history.epochs == [0] and model.iterations == len(batches)


def test_a_bad_batch_in_the_midst_leaves_the_model_as_the_last_update_did(x, y):
    model, twin = made(), made()
    batches = in_batches(x, y)
    x = batches[2][0].copy()
    x[1, 2, 0] = np.inf
    with pytest.raises(ValueError, match=r"got an input of inf in row 1, step 2, feature 0 \(epoch 1, batch 3\)"):
        model.fit([*batches[:2], (x, batches[2][1])], verbose=0)
    twin.fit(batches[:2], verbose=0)
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


# -- memory-mapped and other large arrays


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", ">f4"])
def test_mapped_arrays_are_read_batch_by_batch(rng, y, tmp_path, monkeypatch, dtype):
    """No array of the size of the data is made: what is converted is a batch."""
    x = (10 * rng.standard_normal((N, T, D))).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    mapped, labels = (np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    seen = []
    convert = examples.converted

    def converted(layers, batch):
        seen.append(len(batch.data))
        return convert(layers, batch)

    monkeypatch.setattr(examples, "converted", converted)
    model, twin = made(), made()
    history = model.fit(mapped, labels, batch_size=4, validation_split=0.3, epochs=2, verbose=0).history
    assert max(seen) == 4 and len(seen) == 2 * (3 + 2)
    plain = x.astype("float32")
    assert history == twin.fit(plain, y, batch_size=4, validation_split=0.3, epochs=2, verbose=0).history
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())
    np.testing.assert_array_equal(model.predict(mapped[2:], batch_size=4), twin.predict(plain[2:], batch_size=4))
    batch, _ = examples.inputs(model.layers, mapped[1:], by_batches=True)
    assert np.shares_memory(batch.data, mapped)


@pytest.mark.parametrize("kind", ["numbers", "ids"])
def test_what_a_fit_with_mapped_arrays_allocates(tmp_path, kind):
    """Batches, and some bytes an example, with a file of 64 MB."""
    rows, shape = 4000, (20, 100) if kind == "numbers" else (2000,)
    dtype = "float64" if kind == "numbers" else "int64"
    x = np.memmap(tmp_path / "x", dtype, "w+", shape=(rows, *shape))  # of zeros that are nowhere
    first = cgru.GRU(2) if kind == "numbers" else cgru.Embedding(3, 2)
    layers = [first, *([] if kind == "numbers" else [cgru.GRU(2, trainable=False)]), cgru.Dense(K, "softmax")]
    model = cgru.Sequential(layers, seed=0)
    model.compile("adam", LOSS)
    y = np.arange(rows) % K
    tracemalloc.start()
    try:
        model.fit(x[:64], y[:64], verbose=0)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        if kind == "numbers":
            model.fit(x, y, batch_size=100, validation_split=0.5, verbose=0)
        else:
            model.fit(x[:, :20], y, batch_size=100, verbose=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    blocks = 0 if cgru.get_backend() == "native" else 2 << 20  # BLAS multiplies for many steps at once
    assert peak - before < (4 << 20) + blocks


def test_large_arrays_of_another_type_are_converted_batch_by_batch(x, y, monkeypatch):
    monkeypatch.setattr(examples, "_LARGE", 1000)
    model, twin = made(), made()
    batch, _ = examples.inputs(model.layers, x.astype("float64"), by_batches=True)
    assert batch.data.dtype == np.float64
    assert examples.inputs(model.layers, x.astype("float64"))[0].data.dtype == np.float32
    assert examples.inputs(model.layers, x[:2].astype("float64"), by_batches=True)[0].data.dtype == np.float32
    lengths = 1 + np.arange(N) % T
    history = model.fit(x.astype("float64"), y, lengths=lengths, batch_size=4, verbose=0).history
    assert history == twin.fit(x, y, lengths=lengths, batch_size=4, verbose=0).history
    np.testing.assert_array_equal(model.predict(x.astype("float64")), twin.predict(x))


def test_ids_and_labels_of_steps_may_be_mapped(rng, tmp_path):
    ids, tags = rng.integers(0, 9, (N, T)).astype("int32"), rng.integers(0, K, (N, T))
    for name, array in (("ids", ids), ("tags", tags)):
        array.tofile(tmp_path / name)
    mapped = np.memmap(tmp_path / "ids", "int32", "r", shape=ids.shape)
    labels = np.memmap(tmp_path / "tags", tags.dtype, "r", shape=tags.shape)
    results = []
    for x, y in ((mapped, labels), (ids, tags)):
        layers = [cgru.Embedding(9, 4), cgru.GRU(4, return_sequences=True), cgru.Dense(K, "softmax")]
        model = cgru.Sequential(layers, seed=0)
        model.compile("adam", LOSS)
        results.append(model.fit(x, y, batch_size=4, epochs=2, verbose=0).history)
    assert results[0] == results[1]


# -- one batch


def test_updates_by_hand_are_those_of_fit(x, y):
    model, twin = made(), made()
    losses = [model.train_on_batch(x, y)["loss"] for _ in range(3)]
    history = twin.fit(x, y, batch_size=N, shuffle=False, epochs=3, verbose=0).history
    assert losses == history["loss"]
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())
    assert model.test_on_batch(x, y) == model.evaluate(x, y, batch_size=N)
    lengths = 1 + np.arange(N) % T
    np.testing.assert_array_equal(model.predict_on_batch(x, lengths), model.predict(x, lengths))
    assert model.test_on_batch(x, y, lengths=lengths) == model.evaluate(x, y, lengths, batch_size=N)


def test_a_batch_by_hand_is_checked(x, y):
    model = made()
    with pytest.raises(ValueError, match=re.escape("y: expected shape (14,), a label for each example, got (13,)")):
        model.train_on_batch(x, y[1:])
    with pytest.raises(ValueError, match="x: expected at least one example, got none"):
        model.train_on_batch(x[:0], y[:0])
    with pytest.raises(RuntimeError, match=r"call compile\(optimizer, loss\) first"):
        cgru.Sequential([cgru.Dense(2)]).train_on_batch(x, y)
    stateful = made(stateful=True)
    stateful.train_on_batch(x, y)
    with pytest.raises(ValueError, match="x: expected batches of 14 rows, as the state that layer 0"):
        stateful.train_on_batch(x[:3], y[:3])
