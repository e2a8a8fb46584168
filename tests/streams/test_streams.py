"""Many streams through one model, against the model on each whole sequence."""

import copy
import pickle

import checks
import numpy as np
import pytest

import cgru

D = 4
MODELS = {
    "a layer": lambda: cgru.GRU(7, seed=0),
    "a layer of sequences": lambda: cgru.GRU(7, return_sequences=True, reset_after=True, seed=0),
    "a stack with a learned state": lambda: cgru.GRU(5, num_layers=3, learn_initial_state=True, seed=0),
    "float64": lambda: cgru.GRU(5, dtype="float64", seed=0),
    "a classifier": lambda: cgru.Sequential([cgru.GRU(7), cgru.Dense(3, activation="softmax")], seed=0),
    "a tagger": lambda: cgru.Sequential(
        [
            cgru.Dropout(0.5),
            cgru.GRU(6, num_layers=2, return_sequences=True),
            cgru.GRU(3, return_sequences=True),
            cgru.Dense(2),
        ],
        seed=0,
    ),
    "ids": lambda: cgru.Sequential([cgru.Embedding(9, 3), cgru.GRU(5, return_sequences=True)], seed=0),
    "padding refused": lambda: cgru.Sequential([cgru.Masking(), cgru.GRU(5, return_sequences=True)], seed=0),
    "windows": lambda: cgru.Sequential(
        [cgru.Conv1D(5, 3, padding="causal", dilation_rate=2), cgru.GRU(6, return_sequences=True)], seed=0
    ),
    "windows of one step": lambda: cgru.Sequential([cgru.Conv1D(5, 1), cgru.GRU(6)], seed=0),
    "the largest": lambda: cgru.Sequential(
        [cgru.GRU(5, return_sequences=True), cgru.GlobalMaxPooling1D(), cgru.Dense(2)], seed=0
    ),
    "the mean": lambda: cgru.Sequential(
        [cgru.GRU(5, return_sequences=True), cgru.GlobalAveragePooling1D(), cgru.Dense(2)], seed=0
    ),
    "time-major, with a state returned": lambda: cgru.Sequential(
        [cgru.GRU(5, time_major=True, return_sequences=True, return_state=True), cgru.LayerNormalization()], seed=0
    ),
    "no state at all": lambda: cgru.Sequential([cgru.Dense(5), cgru.Dense(3, "softmax")], seed=0),
    "pooling alone": lambda: cgru.Sequential([cgru.GlobalAveragePooling1D()]),
}


@pytest.fixture
def clock(monkeypatch):
    """A list of one number, the time in seconds."""
    now = [100.0]
    monkeypatch.setattr("cgru.slots.time.monotonic", lambda: now[0])
    return now


def data(rng, kind, steps):
    shape = (steps,) if kind == "ids" else (steps, D)
    return rng.integers(0, 9, shape) if kind == "ids" else rng.standard_normal(shape).astype(np.float32)


def random_weights(rng, model):
    """New ones everywhere: biases and learned states begin as zeros."""
    if not model.built:
        model.build(D)
    model.set_weights([array + 0.1 * rng.standard_normal(array.shape) for array in model.get_weights()])
    return model


def whole(model, x):
    """The model's output for one sequence."""
    return np.asarray(model([x]) if isinstance(model, cgru.Sequential) else model(x[None]))[0]


@pytest.mark.parametrize("kind", MODELS)
def test_any_interleaving_gives_the_bits_of_each_whole_sequence(rng, kind):
    model = MODELS[kind]()
    if kind not in ("pooling alone", "a layer", "windows"):  # which are built by the first step
        random_weights(rng, model)
    keys = ["a", 2, ("c", 3), None, b"e", 6.5]
    left = {key: data(rng, kind, int(steps)) for key, steps in zip(keys, rng.integers(5, 12, len(keys)), strict=True)}
    sequences, outputs = dict(left), {key: [] for key in keys}
    streams = cgru.Streams(model, max_streams=len(keys))
    while left:
        some = [key for key in rng.permutation(np.array([*left, 0], object)[:-1]) if rng.random() < 0.7]
        if rng.random() < 0.5:
            x = np.stack([left[key][0] for key in some]) if some else data(rng, kind, 0)
            y, taken = streams.step(some, x), dict.fromkeys(some, 1)
            for key, row in zip(some, y, strict=True):
                outputs[key].append(row)
        else:
            taken = {key: int(rng.integers(1, len(left[key]) + 1)) for key in some}
            for key, y in streams.feed({key: left[key][:n] for key, n in taken.items()}).items():
                outputs[key] += list(np.atleast_2d(y))
        left = {key: x[taken.get(key, 0) :] for key, x in left.items() if len(x) > taken.get(key, 0)}
    assert set(streams) == set(keys) and len(streams) == len(keys)
    for key, x in sequences.items():
        expected = whole(model, x)
        found = np.stack(outputs[key])
        checks.assert_same_arrays(found if expected.ndim == 2 else found[-1], expected, f"stream {key!r}")


@pytest.mark.parametrize("kind", ["a layer", "a tagger", "windows"])
def test_a_crowd_of_streams_is_as_one(rng, kind):
    model, sequences = random_weights(rng, MODELS[kind]()), np.stack([data(rng, kind, 4) for _ in range(150)])
    with cgru.limit_threads(2):
        streams = cgru.Streams(model, max_streams=150)
        for t in range(4):
            order = rng.permutation(150)
            y = streams.step(order, sequences[order, t])
    for i in (0, 77, 149):
        expected = whole(model, sequences[i])
        checks.assert_same_arrays(y[order == i][0], expected if expected.ndim == 1 else expected[-1])


def test_outputs_have_the_shape_of_the_models_own(rng):
    tagger, classifier = (cgru.Streams(random_weights(rng, MODELS[kind]())) for kind in ("a tagger", "a classifier"))
    x = data(rng, "", 6)
    assert tagger.step(["a"], x[:1]).shape == (1, 2) and tagger.step([], x[:0]).shape == (0, 2)
    assert {key: y.shape for key, y in tagger.feed({"a": x, "b": x[:0], "c": x[:2]}).items()} == {
        "a": (6, 2), "b": (0, 2), "c": (2, 2),
    }  # fmt: skip
    assert "b" in tagger and tagger.feed({}) == {}
    assert classifier.feed({"a": x})["a"].shape == (3,)
    with pytest.raises(ValueError, match=r"chunks\['b'\]: expected at least one step, got shape \(0, 4\)"):
        classifier.feed({"a": x, "b": x[:0]})
    assert cgru.Streams(MODELS["windows"]()).feed({"a": x[:0]})["a"].shape == (0, 6)


def test_new_weights_count_from_the_next_step_on(rng):
    layer = random_weights(rng, cgru.GRU(5, seed=0))
    streams, x = cgru.Streams(layer), data(rng, "", 2)
    h = streams.step(["a"], x[:1])
    random_weights(rng, layer)
    checks.assert_same_arrays(streams.step(["a"], x[1:]), layer.step(x[1:], h))


# -- nothing moves on an error

BAD_STEPS = [
    ({"keys": ["a", "a"]}, ValueError, "keys: expected each key once, got 'a' again"),
    ({"keys": ["a", ["b"]]}, TypeError, r"keys: expected hashable keys, got \['b'\] at index 1"),
    ({"keys": ["a", ([],)]}, TypeError, r"keys: expected hashable keys, got \(\[\],\) at index 1"),
    ({"keys": "ab"}, TypeError, "keys: expected a list of keys, got 'ab'"),
    ({"keys": {"a", "b"}}, TypeError, "keys: expected a list of keys in the order of the rows of x, got a set"),
    ({"keys": np.ma.masked_equal([1, 2], 2)}, ValueError, "keys: expected no masked values, got 1"),
    ({"keys": [np.nan, "a"]}, ValueError, "keys: expected keys that are equal to themselves, got nan"),
    ({"keys": np.array(["NaT", "NaT"], "M8[s]")}, (TypeError, ValueError), "keys: expected"),
    ({"keys": 7}, TypeError, "keys: expected a list of keys, got 7"),
    ({"keys": np.ones((2, 1))}, TypeError, r"keys: expected a list of keys, got shape \(2, 1\)"),
    ({"keys": ["a"]}, ValueError, r"x: expected 1 rows, one for each key, got shape \(2, 4\)"),
    ({"x": np.ones((2, 3))}, ValueError, r"x: expected 4 features, got shape \(2, 3\)"),
    ({"x": np.ones((2, 4, 1))}, ValueError, r"x: expected shape \(K, D\), got \(2, 4, 1\)"),
    ({"x": np.ones(2)}, ValueError, r"x: expected shape \(K, D\), got \(2,\)"),
    ({"x": 3}, ValueError, r"x: expected 2 rows"),
    ({"x": [["q"] * 4] * 2}, TypeError, "x: expected real numbers"),
    ({"x": [[0] * 4, [0, np.nan, 0, 0]]}, ValueError, r"x: expected finite numbers, got .*nan.* for the key 'new'"),
    ({"x": [[0] * 4, [np.inf] * 4]}, ValueError, "x: expected finite numbers"),
    ({"x": [[0] * 4, [1e300] * 4]}, ValueError, "x: expected finite numbers"),
    ({"keys": ["a", "n1", "n2"], "x": np.zeros((3, 4))}, RuntimeError, "max_streams=3 streams, got 2 new beside 2"),
]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(("changes", "error", "message"), BAD_STEPS, ids=[str(i) for i in range(len(BAD_STEPS))])
def test_a_step_that_is_refused_moves_no_stream(rng, changes, error, message):
    streams = cgru.Streams(random_weights(rng, MODELS["a classifier"]()), max_streams=3)
    streams.step(["a", "b"], data(rng, "", 2))
    before = streams.snapshot()
    with pytest.raises(error, match=message):
        streams.step(**{"keys": ["a", "new"], "x": np.zeros((2, 4))} | changes)
    assert_same_streams(streams.snapshot(), before)
    streams.step(["a", "new"], np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("chunks", "error", "message"),
    [
        ([1], TypeError, "chunks: expected a dict of key -> steps, got list"),
        ({"a": np.zeros(4)}, ValueError, r"chunks\['a'\]: expected shape \(T, D\), got \(4,\)"),
        ({"b": np.zeros((2, 4)), "a": np.zeros((2, 5))}, ValueError, r"chunks\['a'\]: expected 4 features"),
        ({"b": np.zeros((2, 4)), "a": [[0] * 4, [np.nan] * 4]}, ValueError, r"chunks\['a'\]: .* in step 1"),
    ],
)
def test_chunks_that_are_refused_move_no_stream(rng, chunks, error, message):
    streams = cgru.Streams(random_weights(rng, MODELS["a classifier"]()))
    streams.step(["a", "b"], data(rng, "", 2))
    before = streams.snapshot()
    with pytest.raises(error, match=message):
        streams.feed(chunks)
    assert_same_streams(streams.snapshot(), before)


def test_what_is_refused_builds_no_model():
    streams = cgru.Streams(cgru.GRU(3))
    for x in np.full((1, 7), np.nan), np.zeros((1, 7, 1)), np.zeros((2, 7)):
        with pytest.raises(ValueError, match="x: expected"):
            streams.step(["a"], x)
    for second in np.zeros((1, 6)), np.full((1, 7), np.inf):
        with pytest.raises(ValueError, match=r"chunks\['b'\]: expected"):
            streams.feed({"a": np.zeros((2, 7)), "b": second})
    assert not streams.model.built
    assert streams.step(["a"], np.zeros((1, 5))).shape == (1, 3)


class Failing(cgru.Dense):
    """Raises what stands in `errors`."""

    errors = ()

    def step_rows(self, x):
        for error in self.errors:
            raise error("on purpose")
        return super().step_rows(x)

    def forward_batch(self, *arguments, **options):
        for error in self.errors:
            raise error("on purpose")
        return super().forward_batch(*arguments, **options)


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("full", ["refuse", "replace"])
def test_a_step_that_fails_within_moves_no_stream(rng, monkeypatch, full, error):
    """Nor does it keep a slot, or cost one that would have been replaced."""
    model = random_weights(rng, cgru.Sequential([cgru.GRU(5, return_sequences=True), Failing(2)]))
    streams = cgru.Streams(model, max_streams=2 if full == "replace" else 3, when_full=full)
    streams.step(["a", "b"], data(rng, "", 2))
    before = streams.snapshot()
    for call in (lambda: streams.step(["a", "c"], data(rng, "", 2)), lambda: streams.feed({"c": data(rng, "", 2)})):
        with monkeypatch.context() as patched, pytest.raises(error, match="on purpose"):
            patched.setattr(Failing, "errors", [error])
            call()
        assert_same_streams(streams.snapshot(), before)
    streams.step(["a", "c"], data(rng, "", 2))
    assert "c" in streams and ("b" in streams) == (full == "refuse")


@pytest.mark.parametrize("calls", range(12))
def test_ctrl_c_while_streams_are_written_leaves_them_whole(rng, monkeypatch, calls):
    """It comes at any place of what a call does to the slots: all streams have moved, or none."""
    layer = random_weights(rng, cgru.GRU(3, seed=0))
    streams = cgru.Streams(layer, max_streams=3)
    x = data(rng, "", 2)
    streams.step(["a", "b"], x)
    before, left = streams.snapshot(), [calls]

    def interrupted(function):
        def replacement(*arguments):
            result = function(*arguments)
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return result

        return replacement

    with monkeypatch.context() as patched:
        for name in ("_wait", "_drop_idle", "_room", "enter", "_write", "write", "_end"):
            patched.setattr(streams._slots, name, interrupted(getattr(streams._slots, name)))
        try:
            streams.step(["a", "c"], x)
        except KeyboardInterrupt:
            assert calls < 7
        else:
            assert calls >= 6
    after = dict(zip(streams, streams.snapshot()["layer0"], strict=True))
    moved = "c" in after
    assert moved == bool((after["a"] != before["layer0"][0]).any())
    if not moved:
        assert_same_streams(streams.snapshot(), before)
    assert not streams._slots._claims
    streams.step(["d", "a"] if not moved else ["c", "a"], x)


def test_ids_and_padding_are_refused_as_in_a_step():
    streams = cgru.Streams(MODELS["ids"]())
    streams.step(["a", "b"], [1, 8])
    before = streams.snapshot()
    for call in (lambda: streams.step(["a", "b"], [1, 9]), lambda: streams.feed({"a": [1, 9]})):
        with pytest.raises(ValueError, match="9"):
            call()
    with pytest.raises(ValueError, match=r"x: expected shape \(K,\) of ids, got \(2, 1\)"):
        streams.step(["a", "b"], [[1], [2]])
    assert_same_streams(streams.snapshot(), before)
    masked = cgru.Streams(MODELS["padding refused"]())
    masked.step(["a"], np.ones((1, D)))
    for call in (lambda: masked.step(["a"], np.zeros((1, D))), lambda: masked.feed({"a": [[1] * D, [0] * D]})):
        with pytest.raises(ValueError, match="x: expected no step of 0 alone, which is padding"):
            call()


# -- how many, and how long


def test_idle_streams_are_dropped_and_begin_anew(rng, clock):
    layer = random_weights(rng, cgru.GRU(3, seed=0))
    streams, x = cgru.Streams(layer, max_streams=2, idle=10), data(rng, "", 1)
    first = streams.step(["a"], x)
    clock[0] += 6
    streams.step(["b"], x)
    clock[0] += 4  # a has been idle for 10 s, not longer
    assert (streams.step(["a"], x) != first).any()
    clock[0] += 7
    checks.assert_same_arrays(streams.step(["c"], x), first, "in b's place")
    assert set(streams) == {"a", "c"}
    clock[0] += 11
    checks.assert_same_arrays(streams.step(["a"], x), first, "anew")
    assert set(streams) == {"a"}
    with pytest.raises(RuntimeError, match=r"got 2 new beside 1, none of them idle for 10 s: drop some"):
        streams.step(["b", "c"], x.repeat(2, 0))


def test_those_that_waited_longest_give_way(rng, clock):
    layer = random_weights(rng, cgru.GRU(3, seed=0))
    streams, x = cgru.Streams(layer, max_streams=3, when_full="replace"), data(rng, "", 4)
    for key in "abc":
        clock[0] += 1
        streams.step([key], x[:1])
    clock[0] += 1
    streams.step(["a"], x[:1])
    first = streams.step(["d", "b"], x[:2])[0]  # b is in the call itself, so c goes
    assert set(streams) == {"a", "b", "d"}
    checks.assert_same_arrays(first, layer.step(x[:1])[0])
    with pytest.raises(RuntimeError, match="max_streams=3 streams, got 4 new beside 3"):
        streams.step(list("wxyz"), x)
    assert set(streams) == {"a", "b", "d"}


def test_what_is_dropped_begins_anew(rng):
    layer = random_weights(rng, cgru.GRU(3, learn_initial_state=True, seed=0))
    streams, x = cgru.Streams(layer, max_streams=2), data(rng, "", 2)
    first = streams.step(["a", "b"], x)
    assert streams.drop(["a", "nobody"]) == 1 and list(streams) == ["b"]
    assert streams.drop(["a"]) == 0
    checks.assert_same_arrays(streams.step(["a"], x[:1])[0], first[0])
    with pytest.raises(TypeError, match="keys: expected a list of keys, got 'a'"):
        streams.drop("a")


def test_many_come_and_go_in_few_slots(rng):
    layer = random_weights(rng, cgru.GRU(3, seed=0))
    streams = cgru.Streams(layer, max_streams=5)
    x = data(rng, "", 300)
    for i in range(300):
        y = streams.feed({i: x[i : i + 1]})[i]
        if i % 50 == 0:
            checks.assert_same_arrays(y, layer(x[None, i : i + 1])[0])
        if i >= 4:
            streams.drop([i - 4])
    assert list(streams) == [296, 297, 298, 299]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": cgru.Dense(3)}, TypeError, "model: expected a Sequential or a GRU, got Dense"),
        ({"model": cgru.GRU(3, bidirectional=True)}, ValueError, "got bidirectional=True in layer 0"),
        ({"model": cgru.GRU(3, stateful=True)}, ValueError, r"got stateful=True in layer 0 \(GRU\): with_options"),
        ({"model": cgru.Sequential([cgru.Conv1D(3, 3), cgru.GRU(2)])}, ValueError, 'padding="causal"'),
        ({"max_streams": 0}, ValueError, "max_streams"),
        ({"max_streams": 2.5}, TypeError, "max_streams"),
        ({"idle": 0}, ValueError, "idle: expected seconds above 0, or None, got 0"),
        ({"idle": "long"}, TypeError, "idle"),
        ({"when_full": "wait"}, ValueError, "when_full: expected one of"),
    ],
)
def test_arguments_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        cgru.Streams(**{"model": cgru.GRU(3)} | options)


# -- snapshots


def assert_same_streams(one, other):
    assert one.keys() == other.keys()
    for name in one:
        if name != "ages":
            assert one[name].tolist() == other[name].tolist(), name


@pytest.mark.parametrize("kind", ["a stack with a learned state", "windows", "the mean", "ids"])
@pytest.mark.parametrize("by", ["itself", "pickle", "npz"])
def test_a_restored_snapshot_goes_on_with_the_same_bits(rng, tmp_path, kind, by):
    model = random_weights(rng, MODELS[kind]())
    streams = cgru.Streams(model)
    chunks = {key: data(rng, kind, n) for key, n in (("ann", 3), ("bob", 5))}
    streams.feed(chunks)
    snapshot = streams.snapshot()
    if by == "pickle":
        snapshot = pickle.loads(pickle.dumps(snapshot))
    elif by == "npz":
        np.savez(tmp_path / "streams.npz", **snapshot)
        snapshot = np.load(tmp_path / "streams.npz")  # which refuses pickles
    cgru.save(model, tmp_path / "model")
    other = cgru.Streams(cgru.load(tmp_path / "model"), max_streams=2)
    other.feed({"old": chunks["ann"], "ann": chunks["bob"]})
    other.restore(snapshot)
    assert set(other) == {"ann", "bob"}
    assert_same_streams(other.snapshot(), streams.snapshot())
    more = {"bob": data(rng, kind, 4), "ann": data(rng, kind, 2)}
    expected = streams.feed(more)
    for key, y in other.feed(more).items():
        checks.assert_same_arrays(y, expected[key])


def test_copies_and_pickles_are_streams_of_their_own(rng, clock):
    streams = cgru.Streams(random_weights(rng, MODELS["a classifier"]()), idle=10)
    x = data(rng, "", 2)
    streams.step(["a", ("b", 1)], x)
    others = [copy.copy(streams), copy.deepcopy(streams), pickle.loads(pickle.dumps(streams))]
    y = streams.step(["a", ("b", 1)], x)
    clock[0] += 9
    for other in others:
        checks.assert_same_arrays(other.step(["a", ("b", 1)], x), y)
        other.model.set_weights([0 * array for array in other.model.get_weights()])
    clock[0] += 9
    streams.step(["c"], x[:1])
    assert list(streams) == ["c"]


@pytest.mark.parametrize(
    "keys", [[1, 2], ["a", "b"], [1, "1"], [True, 1.5], ["a\0", "b"], [b"x"], [("t", 1), None], [2**70], []]
)
def test_keys_come_back_as_they_were(rng, keys):
    streams = cgru.Streams(random_weights(rng, cgru.GRU(3, seed=0)))
    streams.step(keys, data(rng, "", len(keys)))
    array = streams.snapshot()["keys"]
    assert array.dtype.kind == ("i" if keys in ([1, 2], []) else "U" if keys == ["a", "b"] else "O")
    other = cgru.Streams(streams.model)
    other.restore(streams.snapshot())
    assert list(other) == keys and list(map(type, other)) == list(map(type, keys))


def test_ages_count_on(rng, clock):
    streams = cgru.Streams(random_weights(rng, cgru.GRU(3, seed=0)), idle=10)
    streams.step(["a"], data(rng, "", 1))
    clock[0] += 8
    snapshot = streams.snapshot()
    assert snapshot["ages"].tolist() == [8]
    clock[0] += 1000
    streams.restore(snapshot)
    clock[0] += 2
    streams.step(["b"], data(rng, "", 1))
    assert set(streams) == {"a", "b"}
    clock[0] += 0.5
    streams.step(["b"], data(rng, "", 1))
    assert set(streams) == {"b"}


def test_a_snapshot_that_does_not_fit_is_refused(rng):
    streams = cgru.Streams(random_weights(rng, MODELS["a classifier"]()), max_streams=2)
    streams.step(["a", "b"], data(rng, "", 2))
    before = streams.snapshot()
    other = random_weights(rng, MODELS["a classifier"]())
    one = cgru.Streams(other)
    one.step(["c"], data(rng, "", 1))
    activated = random_weights(rng, cgru.Sequential([cgru.GRU(7, "relu"), cgru.Dense(3, activation="softmax")]))
    tagger = cgru.Streams(random_weights(rng, MODELS["a tagger"]()))
    many = cgru.Streams(streams.model, max_streams=3)
    many.step(["a", "b", "c"], data(rng, "", 3))
    wrong = {
        "of the same layers with other weights": one.snapshot(),
        "one of another: GRU Dense": cgru.Streams(activated).snapshot(),
        "one of another: Dropout GRU GRU Dense": tagger.snapshot(),
        "at most max_streams=2 streams, got 3": many.snapshot(),
        r"expected keys, ages, model, layer0, got keys": {"keys": before["keys"]},
        r"got nothing": {},
        r"snapshot\['model'\]: expected what snapshot\(\) wrote": before | {"model": np.array("junk")},
        r"snapshot\['layer0'\]: expected shape \(2, 7\) and dtype float32": before | {"layer0": np.zeros((2, 7))},
        r"snapshot\['ages'\]: expected shape \(2,\)": before | {"ages": np.zeros(3)},
        r"snapshot\['ages'\]: expected seconds of at least 0, got \[nan": before | {"ages": np.array([np.nan, 0])},
        r"snapshot\['ages'\]: expected seconds of at least 0, got \[0.0, -1": before | {"ages": np.array([0.0, -1])},
        r"keys that are equal to themselves, got nan": before | {"keys": np.array([1, np.nan])},
        r"snapshot\['keys'\]: expected each key once": before | {"keys": np.array(["a", "a"])},
    }
    for message, snapshot in wrong.items():
        with pytest.raises(ValueError, match=message):
            streams.restore(snapshot)
        assert_same_streams(streams.snapshot(), before)
    with pytest.raises(TypeError, match="snapshot: expected what snapshot"):
        streams.restore([1])
    for call in (cgru.Streams(cgru.GRU(3)).snapshot, lambda: cgru.Streams(cgru.GRU(3)).restore(before)):
        with pytest.raises(RuntimeError, match="no parameters yet"):
            call()
