"""One time step through a model, against the whole sequence."""

import copy
import pickle
import re
import threading

import checks
import numpy as np
import pytest

import cgru

N, T, D, K = 3, 6, 4, 5
MODELS = {
    "one GRU": lambda **o: [cgru.GRU(7, **o)],
    "a classifier": lambda **o: [cgru.GRU(7, **o), cgru.Dense(K, activation="softmax")],
    "a tagger": lambda **o: [cgru.GRU(7, return_sequences=True, **o), cgru.Dense(K, activation="tanh")],
    "two GRUs": lambda **o: [
        cgru.Dropout(0.5),
        cgru.GRU(7, return_sequences=True, **o),
        cgru.Dropout(0.5),
        cgru.Dense(3, activation="relu"),
        cgru.GRU(6, **o),
        cgru.Dense(4, activation="sigmoid"),
        cgru.Dense(K),
    ],
    "a stack": lambda **o: [cgru.GRU(7, num_layers=3, **o)],
    "a stack inside": lambda **o: [cgru.GRU(7, num_layers=2, return_sequences=True, **o), cgru.GRU(3, **o)],
    "embedded": lambda **o: [cgru.Embedding(9, 3), cgru.GRU(7, return_sequences=True, **o), cgru.Dense(K)],
    "two types": lambda **o: [cgru.GRU(7, return_sequences=True, dtype="float64", **o), cgru.Dense(K)],
    "a Dense before": lambda **o: [cgru.Dense(3), cgru.GRU(7, **o)],
}
OPTIONS = {
    "": {},
    "reset_after": {"reset_after": True},
    "learned": {"learn_initial_state": True},
    "time_major": {"time_major": True},
    "no biases": {"use_bias": False, "activation": "relu"},
}


def made(rng, kind, options, dtype=None):
    given = dict(options)
    model = cgru.Sequential(MODELS[kind](**given), seed=0)
    model.build(D)
    weights = [array + 0.1 * rng.standard_normal(array.shape) for array in model.get_weights()]  # learned states too
    model.set_weights(weights)
    return model


def data(rng, kind, N=N):
    if kind == "embedded":
        return rng.integers(0, 9, (N, T))
    return rng.standard_normal((N, T, D)).astype(np.float32)


def last(outputs):
    return outputs[:, -1] if outputs.ndim == 3 else outputs


@pytest.mark.parametrize("rows", [1, N, 0])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", MODELS)
def test_each_step_is_the_sequence_up_to_there(rng, kind, options, rows):
    model, x = made(rng, kind, options), data(rng, kind, rows)
    state = None
    for t in range(T):
        y_t, state = model.step(x[:, t], state)
        checks.assert_same_arrays(y_t, last(model(x[:, : t + 1])), f"step {t}")
    grus = [layer for layer in model.layers if isinstance(layer, cgru.GRU)]
    assert isinstance(state, tuple) and [h.shape for h in state] == [layer._state_shape(rows) for layer in grus]
    _, states, *_ = model._forward(cgru.sequences.as_batch(x))
    checks.assert_same_arrays(state, [h for h in states if h is not None])


def test_a_step_reads_its_arguments_only(rng):
    model, x = made(rng, "two GRUs", {}), data(rng, "two GRUs")
    x_t = np.asfortranarray(x[:, 0].astype(np.float64))
    x_t.flags.writeable = False
    _, state = model.step(x_t)
    before = [h.copy() for h in state]
    first = model.step(x[:, 1], state)
    again = model.step(x[:, 1].tolist(), list(state))
    checks.assert_same_arrays(again, first)
    checks.assert_same_arrays(state, before)


def test_the_output_is_not_the_memory_of_the_state(rng):
    for kind in ("one GRU", "a stack"):
        model, x = made(rng, kind, {}), data(rng, kind)
        y, state = model.step(x[:, 0])
        before = [h.copy() for h in state]
        y[...] = 7
        checks.assert_same_arrays(state, before)


def test_entries_may_be_none(rng):
    model, x = made(rng, "two GRUs", {"learn_initial_state": True}), data(rng, "two GRUs")
    checks.assert_same_arrays(model.step(x[:, 0], (None, None)), model.step(x[:, 0]))


def test_a_model_that_is_not_built_and_one_without_a_gru(rng):
    model = cgru.Sequential([cgru.GRU(7), cgru.Dense(K)], seed=0)
    x = data(rng, "")
    y, state = model.step(x[:, 0])
    checks.assert_same_arrays(y, cgru.Sequential([cgru.GRU(7), cgru.Dense(K)], seed=0)(x[:, :1]))
    model = cgru.Sequential([cgru.Dense(K, activation="tanh")], seed=0)
    y, state = model.step(x[:, 0])
    assert state == ()
    checks.assert_same_arrays(model.step(x[:, 0], state)[0], model(x[:, 0]))


def test_new_weights_are_seen(rng):
    model, x = made(rng, "a classifier", {}), data(rng, "a classifier")
    model.step(x[:, 0])
    model.set_weights([array * 2 for array in model.get_weights()])
    checks.assert_same_arrays(model.step(x[:, 0])[0], model(x[:, :1]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_steps_through_layers_of_its_own(rng, copied):
    model, x = made(rng, "a classifier", {}), data(rng, "a classifier")
    expected, _ = model.step(x[:, 0])
    other = copied(model)
    other.set_weights([array * 2 for array in model.get_weights()])
    checks.assert_same_arrays(model.step(x[:, 0])[0], expected)
    checks.assert_same_arrays(other.step(x[:, 0])[0], other(x[:, :1]))
    assert not np.array_equal(other.step(x[:, 0])[0], expected)


def test_a_stateful_model_starts_from_its_state_and_keeps_it(rng):
    plain = made(rng, "a classifier", {})
    model, x = cgru.Sequential(MODELS["a classifier"](stateful=True)).build(D), data(rng, "a classifier")
    model.set_weights(plain.get_weights())
    model(x[:, :3])
    kept = model.layers[0]._state.copy()
    y, state = model.step(x[:, 3])
    checks.assert_same_arrays(model.layers[0]._state, kept)
    checks.assert_same_arrays(y, plain(x[:, :4]))
    checks.assert_same_arrays(model.step(x[:, 4], state)[0], plain(x[:, :5]))


def test_steps_from_many_threads(rng):
    model, x = made(rng, "two GRUs", {}), data(rng, "two GRUs", 8)
    expected = model(x)
    fresh = cgru.Sequential(MODELS["two GRUs"]()).build(D)
    fresh.set_weights(model.get_weights())
    barrier, results = threading.Barrier(8), [None] * 8

    def work(row):
        state = None
        barrier.wait()
        for t in range(T):
            results[row], state = fresh.step(x[row : row + 1, t], state)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checks.assert_same_arrays(np.concatenate(results), expected)


X = np.zeros((N, D), np.float32)


IDS = [cgru.Embedding(9, 2), cgru.GRU(3)]
VECTORS = "x_t: expected shape (N, D), one time step of N sequences, got "
FEATURES = "x_t: expected 4 features, as layer 0 ({}) was built for, got shape (3, 3)"
ENTRIES = "state: expected a tuple with one entry for each of {} GRUs, got {}"


@pytest.mark.parametrize(
    ("layers", "arguments", "error", "message"),
    [
        ([cgru.GRU(3, bidirectional=True)], (X,), ValueError, "forward in time, got bidirectional=True in layer 0"),
        ([cgru.Dense(2), cgru.GRU(3, reverse=True)], (X,), ValueError, "got reverse=True in layer 1 (GRU)"),
        ([cgru.GRU(3, go_backwards=True)], (X,), ValueError, "got go_backwards=True in layer 0 (GRU)"),
        ([cgru.GRU(3), cgru.GRU(3)], (X,), ValueError, "give layer 0 (GRU) return_sequences=True"),
        ([cgru.GRU(3)], (X[None],), ValueError, VECTORS + "(1, 3, 4)"),
        ([cgru.GRU(3)], (X[0],), ValueError, VECTORS + "(4,)"),
        ([cgru.GRU(3)], (X[:, 1:],), ValueError, FEATURES.format("GRU")),
        ([cgru.Dense(3)], (X[:, 1:],), ValueError, FEATURES.format("Dense")),
        ([cgru.GRU(3)], ("a",), TypeError, "x_t: expected real numbers, got dtype <U1"),
        ([cgru.GRU(3)], (X, X), TypeError, ENTRIES.format(1, "ndarray")),
        ([cgru.GRU(3)], (X, ()), TypeError, ENTRIES.format(1, "0 entries")),
        ([cgru.GRU(3)], (X, (None, None)), TypeError, ENTRIES.format(1, "2 entries")),
        ([cgru.Dense(3)], (X, (X,)), TypeError, ENTRIES.format(0, "1 entries")),
        ([cgru.GRU(3)], (X, (X,)), ValueError, "state[0]: expected shape (3, 3), of layer 0 (GRU) for 3 rows, got"),
        (
            [cgru.GRU(3, return_sequences=True), cgru.Dense(2), cgru.GRU(5, num_layers=2)],
            (X, (None, X)),
            ValueError,
            "state[1]: expected shape (2, 3, 5), of layer 2 (GRU) for 3 rows, got (3, 4)",
        ),
        ([cgru.GRU(3)], (X, ("a",)), TypeError, "state[0]: expected real numbers, got dtype <U1"),
        (IDS, (X,), ValueError, "x_t: expected shape (N,), one time step of N sequences, got (3, 4)"),
        (IDS, (X[0],), TypeError, "x_t: expected integer ids, got dtype float32"),
        (IDS, ([1, 9],), ValueError, "x_t: expected ids of at least 0 and less than input_dim = 9, got 9 in row 1"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_step_refuses(layers, arguments, error, message, begun):
    model = cgru.Sequential([copy.deepcopy(layer) for layer in layers], seed=0)
    model.build(D)
    if begun and "layer 0 (GRU) return" not in message and "=True in" not in message:
        model.step([0, 1] if isinstance(layers[0], cgru.Embedding) else X)
    with pytest.raises(error, match=re.escape(message)):
        model.step(*arguments)


def test_a_step_of_no_ids():
    """NumPy makes floats of an empty list."""
    model = cgru.Sequential([cgru.Embedding(5, 3), cgru.GRU(4)], seed=0)
    model(np.zeros((1, 2), int))
    for ids in ([], np.zeros(0), np.zeros(0, np.uint64)):
        y, _ = model.step(ids)
        assert y.shape == (0, 4)
