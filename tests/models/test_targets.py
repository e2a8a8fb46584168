"""What people pass as labels of every kind of loss, and what is refused with the line that would do."""

import re

import numpy as np
import pytest

import cgru

N, T, D = 6, 4, 3
LENGTHS = np.array([4, 2, 3, 1, 4, 2])
VALID = np.arange(T) < LENGTHS[:, None]


def model_of(loss, units, steps=False, activation=None):
    activation = activation or {"binary_crossentropy": "sigmoid", "categorical_crossentropy": "softmax"}.get(loss)
    model = cgru.Sequential([cgru.GRU(4, return_sequences=steps), cgru.Dense(units, activation)], seed=0)
    model.compile("adam", loss)
    return model


def fitted(loss, units, x, y, steps=False, **options):
    model = model_of(loss, units, steps)
    model.fit(x, y, shuffle=False, verbose=0, batch_size=4, **options)
    return [*model.get_weights(), np.array(list(model.evaluate(x, y, **options).values()))]


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def inputs(rng):
    return rng.standard_normal((N, T, D)).astype("float32")


def series(y):
    return pytest.importorskip("pandas").Series(y, index=range(7, 7 + len(y)))


KINDS = {
    "list": lambda y: y.tolist(),
    "column": lambda y: y[:, None],
    "list of columns": lambda y: y[:, None].tolist(),
    "float32": lambda y: y.astype("float32"),
    "objects": lambda y: y.astype(object),
    "strided": lambda y: np.repeat(y, 2)[::2],
    "series": series,
    "data frame": lambda y: series(y).to_frame("y"),
    "masked array without a mask": lambda y: np.ma.array(y),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_crossentropy"])
def test_one_number_for_each_example(rng, loss, kind):
    x, y = inputs(rng), rng.integers(0, 9, N) / 8
    assert_same(fitted(loss, 1, x, KINDS[kind](y)), fitted(loss, 1, x, y))


def test_integers_and_bools_are_numbers(rng):
    x, y = inputs(rng), rng.integers(0, 2, N)
    expected = fitted("binary_crossentropy", 1, x, y.astype(float))
    for kind in (y, y.astype(bool), y.astype("uint8"), y[:, None], y.tolist(), y.astype(bool).tolist()):
        assert_same(fitted("binary_crossentropy", 1, x, kind), expected)
    assert_same(fitted("mse", 1, x, y - 3), fitted("mse", 1, x, y - 3.0))


@pytest.mark.parametrize(("loss", "units"), [("mse", 2), ("categorical_crossentropy", 3), ("binary_crossentropy", 3)])
def test_numbers_for_each_example(rng, loss, units):
    x, y = inputs(rng), np.eye(units)[rng.integers(0, units, N)]
    expected = fitted(loss, units, x, y)
    for kind in (y.tolist(), y.astype("int8"), y.astype(bool), np.asfortranarray(y), y.astype(object)):
        assert_same(fitted(loss, units, x, kind), expected)


@pytest.mark.parametrize(("loss", "units"), [("mse", 1), ("binary_crossentropy", 1), ("mse", 2),
                                             ("categorical_crossentropy", 3)])  # fmt: skip
def test_numbers_for_each_step(rng, loss, units):
    """Padded, with anything in the padding, or a list of arrays."""
    x, y = inputs(rng), np.eye(max(2, units))[rng.integers(0, units, (N, T))][..., :units]
    sequences = [row[:n] for row, n in zip(x, LENGTHS, strict=True)]
    rows = [row[:n] for row, n in zip(y, LENGTHS, strict=True)]
    expected = fitted(loss, units, x, y, steps=True, lengths=LENGTHS)
    for padding in (np.nan, np.inf, -100):
        given = np.where(VALID[..., None], y, padding)
        assert_same(fitted(loss, units, x, given, steps=True, lengths=LENGTHS), expected)
        assert_same(fitted(loss, units, x, given, steps=True, mask=VALID), expected)
        if units == 1:
            assert_same(fitted(loss, units, x, given[..., 0], steps=True, lengths=LENGTHS), expected)
    kinds = [rows, tuple(rows), [row.tolist() for row in rows], [row.astype("int32") for row in rows]]
    if units == 1:
        kinds += [[row[:, 0] for row in rows], [series(row[:, 0]) for row in rows]]
    for kind in kinds:
        assert_same(fitted(loss, units, sequences, kind, steps=True), expected)


def test_sequences_without_steps_have_empty_labels():
    x = [np.ones((2, D)), np.zeros((0, D)), np.ones((3, D))]
    for y in ([[1.0, 2.0], [], [3.0, 4.0, 5.0]], [np.ones((2, 1)), np.ones((0, 1)), np.ones((3, 1))]):
        assert np.isfinite(fitted("mse", 1, x, y, steps=True)[-1]).all()


def test_outputs_in_the_order_of_the_processing(rng):
    """With go_backwards labels stand where the outputs are, the padding before them."""
    x, y = inputs(rng), rng.standard_normal((N, T))
    model = cgru.Sequential([cgru.GRU(4, return_sequences=True, go_backwards=True), cgru.Dense(1)], seed=0)
    model.compile("adam", "mse")
    given = np.where(VALID[:, ::-1], y, np.nan)
    history = model.fit(x, given, lengths=LENGTHS, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    with pytest.raises(ValueError, match="y: expected finite numbers in float32, got nan"):
        model.fit(x, np.where(VALID, y, np.nan), lengths=LENGTHS, verbose=0)


def words(rng):
    return np.array(["no", "yes"])[rng.integers(0, 2, N)]


CCE, BCE = "categorical_crossentropy", "binary_crossentropy"


@pytest.mark.parametrize(
    ("loss", "units", "make", "error", "message"),
    [
        (BCE, 1, words, TypeError, "y: expected numbers, got dtype <U3; make them: classes, y = np.unique(y, retu"),
        (CCE, 2, words, TypeError, "classes, y = np.unique(y, return_inverse=True); y = np.eye(len(classes))[y]"),
        ("mse", 1, words, TypeError, "y: expected numbers, got dtype <U3; make them: y = np.asarray(y, float)"),
        ("mse", 1, lambda rng: np.full(N, np.nan), ValueError, "y: expected finite numbers in float32, got nan"),
        ("mse", 1, lambda rng: np.full(N, 1e300), ValueError, "y: expected finite numbers in float32, got 1e+300"),
        ("mse", 1, lambda rng: np.full(N, 1j), TypeError, "y: expected numbers, got dtype complex128"),
        ("mse", 1, lambda rng: np.ones(N - 1), ValueError,
         "y: expected shape (6,) or (6, 1), a number for each example, got (5,)"),
        ("mse", 1, lambda rng: np.ones((N, N)), ValueError, "y: expected shape (6,) or (6, 1), a number for each exam"),
        ("mse", 1, lambda rng: np.ones((1, N)), ValueError, "a number for each example, got (1, 6)"),
        ("mse", 1, lambda rng: np.ones((N, T)), ValueError,
         "got (6, 4); for a label for each step every GRU is to have return_sequences=True"),
        ("mse", 1, lambda rng: np.ones((N, T, 1)), ValueError, "for a label for each step every GRU is to have return"),
        ("mse", 2, lambda rng: np.ones(N), ValueError,
         "y: expected shape (6, 2), 2 numbers for each example, got (6,); for one number the last layer is Dense(1)"),
        ("mse", 1, lambda rng: None, ValueError, "a number for each example, got NoneType"),
        (CCE, 3, lambda rng: np.ones(N, int), ValueError,
         "got (6,); for class numbers take the loss 'sparse_categorical_crossentropy'"),
        (CCE, 3, lambda rng: np.full((N, 3), -0.5), ValueError, "y: expected probabilities, from 0 to 1, got -0.5"),
        (BCE, 1, lambda rng: np.arange(N) % 3, ValueError,
         "y: expected probabilities, from 0 to 1, got 2.0; for class numbers take the loss 'sparse_categorical_cro"),
        (BCE, 1, lambda rng: np.arange(N) % 2 * 2 - 1, ValueError, "for labels of -1 and 1 give (y + 1) / 2"),
        ("sparse_categorical_crossentropy", 1, lambda rng: np.arange(N) % 2, ValueError,
         "for one output and labels 0 and 1 take the loss 'binary_crossentropy'"),
    ],
)  # fmt: skip
def test_refused_before_any_work(rng, loss, units, make, error, message):
    model = model_of(loss, units, activation="softmax" if loss.startswith("sparse") else None)
    y = make(rng)
    for call in (model.fit, model.evaluate):
        with pytest.raises(error, match=re.escape(message)):
            call(inputs(rng), y)
    assert not model.built


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows[1:], ValueError, "y: expected 6 sequences of labels, got 5"),
        (lambda rows: [rows[0][1:], *rows[1:]], ValueError, "y[0]: expected shape (4, 1), a label for each step, got"),
        (lambda rows: [np.array(list("abcd")), *rows[1:]], TypeError, "y[0]: expected numbers, got dtype <U1; make"),
        (lambda rows: [rows[0] * np.nan, *rows[1:]], ValueError, "y[0]: expected finite numbers in float64, got nan"),
        (lambda rows: np.ones(N), ValueError, "got (6,); for a label for each example the last GRU is to have return"),
        (lambda rows: np.ones((N, T + 1)), ValueError,
         "y: expected shape (6, 4) or (6, 4, 1), a number for each step, got (6, 5)"),
    ],
)  # fmt: skip
def test_refused_labels_of_steps(rng, change, error, message):
    model = model_of("mse", 1, steps=True)
    x = [row[:n] for row, n in zip(inputs(rng), LENGTHS, strict=True)]
    with pytest.raises(error, match=re.escape(message)):
        model.fit(x, change([np.ones(n) for n in LENGTHS]))
    assert not model.built


@pytest.mark.parametrize(
    ("loss", "activation", "message"),
    [
        (BCE, "linear", "'binary_crossentropy' expected probabilities: a sigmoid last layer, got activation 'linear'"),
        (CCE, "tanh", "expected probabilities: a softmax (or sigmoid) last layer, got activation 'tanh'"),
        (cgru.losses.BinaryCrossentropy(from_logits=True), "sigmoid", "expected logits: a linear last layer"),
    ],
)
def test_losses_want_outputs_of_their_kind(loss, activation, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cgru.Sequential([cgru.Dense(2, activation)]).compile("adam", loss)


def test_states_are_no_probabilities(rng):
    model = cgru.Sequential([cgru.GRU(1)])
    model.compile("adam", "binary_crossentropy")
    with pytest.raises(ValueError, match="got the states of a GRU with activation 'tanh': put a Dense with a sigmoid"):
        model.fit(inputs(rng), np.ones(N))
