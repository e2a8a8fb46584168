"""A run of `fit` that is killed and resumed from its last checkpoint has the bits of one that was not."""

import copy
import json
import os
import pickle
import re
import signal

import checks
import children
import numpy as np
import pytest

import cgru
from cgru import callbacks, files, losses, optimizers, schedules

LOSS = "sparse_categorical_crossentropy"
N, T, D, K = 30, 5, 3, 2

# -- a process that is killed

PROGRAM = """
import json, os, signal, sys
import numpy as np
import cgru
from cgru import callbacks, optimizers

kill_at, where, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
cgru.set_num_threads(threads)
rng = np.random.default_rng(5)
x, y = rng.standard_normal((30, 5, 3)).astype("float32"), np.arange(30) % 2
batches, replace = [0], os.replace

def after_batch(batch, logs):
    batches[0] += 1
    if batches[0] == kill_at and where == "batch":
        os.kill(os.getpid(), signal.SIGKILL)

def killed_replace(*names):
    if batches[0] >= kill_at and where == "save":  # the new file is written and has not its name yet
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)

os.replace = killed_replace
if os.path.exists("run.st"):
    model = cgru.load("run.st")
else:
    layers = [cgru.GRU(4), cgru.Dropout(0.3), cgru.Dense(2, "softmax")]
    model = cgru.Sequential(layers, seed=0 if threads else None)
    model.compile(optimizers.Adam(0.03), "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(
    x, y, epochs=7, batch_size=7, validation_split=0.3, verbose=0, resume=True,
    callbacks=[
        callbacks.LambdaCallback(on_batch_end=after_batch),
        callbacks.ModelCheckpoint("run.st", every=2),
        callbacks.EarlyStopping(patience=4, min_delta=0.5, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(patience=1, factor=0.5),
        callbacks.CSVLogger("log.csv"),
    ],
)
slots = [slot for slots in model._states[0].slots.values() for slot in slots]
np.savez("result.npz", *model.get_weights(), *slots, model.optimizer.learning_rate)
open("history.json", "w").write(json.dumps(history.history))
"""


def child(folder, kill_at, where="batch", threads=1):
    return children.python("-c", PROGRAM, str(kill_at), where, str(threads), cwd=folder)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_run_that_is_killed_several_times(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    done = child(whole, 0)
    assert done.returncode == 0, done.stderr
    for kill_at, where, threads in ((3, "batch", 2), (4, "save", 1), (6, "batch", 2)):
        assert child(killed, kill_at, where, threads).returncode == -signal.SIGKILL
    done = child(killed, 0, threads=2)
    assert done.returncode == 0, done.stderr
    found, expected = (np.load(folder / "result.npz") for folder in (killed, whole))
    checks.assert_same_arrays(dict(found), dict(expected))
    for name in ("history.json", "log.csv"):
        assert (killed / name).read_text() == (whole / name).read_text()
    assert len(json.loads((whole / "history.json").read_text())["loss"]) == 5
    ends = [cgru.load(folder / "run.st") for folder in (killed, whole)]
    checks.assert_same_arrays(ends[0].get_weights(), ends[1].get_weights())


# -- in one process


class Kill(Exception):
    pass


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, T, D)).astype(np.float32)


@pytest.fixture
def y():
    return np.arange(N) % K


def made(seed=0, **options):
    model = cgru.Sequential([cgru.GRU(4, **options), cgru.Dropout(0.3), cgru.Dense(K, "softmax")], seed=seed)
    model.compile(optimizers.Adam(0.03), LOSS, metrics=["accuracy"])
    return model


def killer(at):
    """A callback that ends the run after so many batches."""
    count = 0

    def after_batch(batch, logs):
        nonlocal count
        count += 1
        if count == at:
            raise Kill

    return callbacks.LambdaCallback(on_batch_end=after_batch)


def assert_same_training(model, other):
    checks.assert_same_arrays(model.get_weights(), other.get_weights())
    assert model.history.history == other.history.history and model.history.epochs == other.history.epochs
    assert model.iterations == other.iterations
    checks.assert_same_arrays(model._states[0].slots, other._states[0].slots)
    states = [[layer._state for layer in m.layers if getattr(layer, "stateful", False)] for m in (model, other)]
    if states[0]:
        checks.assert_same_arrays(*states)


@pytest.mark.parametrize("at", range(1, 13))
@pytest.mark.parametrize("every", ["epoch", 3])
def test_killed_after_any_batch(x, y, tmp_path, at, every):
    path = tmp_path / "run.st"
    options = {"epochs": 3, "batch_size": 8, "verbose": 0, "validation_data": (x[:9], y[:9])}
    whole = made()
    whole.fit(x, y, callbacks=[callbacks.ModelCheckpoint(tmp_path / "other.st", every=every)], **options)
    with pytest.raises(RuntimeError, match="Kill"):
        made().fit(x, y, callbacks=[callbacks.ModelCheckpoint(path, every=every), killer(at)], **options)
    model = cgru.load(path) if path.exists() else made()
    model.fit(x, y, callbacks=[callbacks.ModelCheckpoint(path, every=every)], resume=True, **options)
    assert_same_training(model, whole)
    assert path.read_bytes() == (tmp_path / "other.st").read_bytes()


COMPILED = {
    "schedule": {
        "optimizer": optimizers.AdamW(
            schedules.CosineDecay(0.0, 20, warmup_target=0.03, warmup_steps=3), global_clipnorm=0.5
        ),
        "metrics": ["macro_f1", "perplexity"],
    },
    "momentum": {"optimizer": optimizers.RMSprop(0.01, momentum=0.5, centered=True, clipvalue=0.1), "metrics": []},
    "weights": {"optimizer": optimizers.SGD(0.1, momentum=0.9), "loss": losses.SparseCategoricalCrossentropy()},
}


@pytest.mark.parametrize("case", ["batches", "stateful", "no shuffle", "without a seed", "ragged", *COMPILED])
def test_other_runs(x, y, tmp_path, case):
    path = tmp_path / "run.st"
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, N, 8)]
    ragged = [row[: 1 + i % T] for i, row in enumerate(x)]
    data, options, layer = {
        "batches": ((lambda: iter(batches),), {}, {}),
        "stateful": ((x, y), {"shuffle": False, "batch_size": 10}, {"stateful": True}),
        "no shuffle": ((x, y), {"shuffle": False}, {}),
        "without a seed": ((x, y), {}, {}),
        "ragged": ((ragged, y), {}, {}),
        "schedule": ((x, y), {"validation_split": 0.2}, {}),
        "momentum": ((x, y), {}, {"num_layers": 2, "reset_after": True}),
        "weights": ((x, y), {"sample_weight": np.arange(1.0, N + 1), "class_weight": "balanced"}, {}),
    }[case]
    options = {"epochs": 4, "batch_size": 8, "verbose": 0} | options
    whole = made(None if case == "without a seed" else 0, **layer)
    if case in COMPILED:
        whole.compile(**{"loss": LOSS} | COMPILED[case])
    whole.build(D)
    cgru.save(whole, path, training_state=True)  # before the first run
    begun = cgru.load(path)
    if case == "stateful":
        for model in (whole, begun):
            model.predict(x[:10])  # each epoch starts from this state
    whole.fit(*data, **options)
    with pytest.raises(RuntimeError, match="Kill"):
        begun.fit(*data, callbacks=[callbacks.ModelCheckpoint(path, every=3), killer(5)], **options)
    model = cgru.load(path)
    model.fit(*data, callbacks=[callbacks.ModelCheckpoint(path, every=3)], resume=True, **options)
    assert_same_training(model, whole)


def test_a_run_that_has_ended_goes_on_to_more_epochs(x, y, tmp_path):
    whole, model = made(), made()
    whole.fit(x, y, epochs=5, verbose=0)
    model.fit(x, y, epochs=2, verbose=0)
    cgru.save(model, tmp_path / "m.st", training_state=True)
    again = cgru.load(tmp_path / "m.st")
    assert repr(again.optimizer) == repr(model.optimizer) and repr(again.loss) == repr(model.loss)
    assert again.history.history == model.history.history
    for one in (model, again):
        one.fit(x, y, epochs=5, verbose=0, resume=True)
        assert_same_training(one, whole)
    assert again.fit(x, y, epochs=5, verbose=0, resume=True).epochs == [0, 1, 2, 3, 4]  # nothing is left to do


def test_a_run_that_was_stopped_stays_so(x, y, tmp_path):
    path = tmp_path / "m.st"

    def given():
        return [callbacks.ModelCheckpoint(path), callbacks.EarlyStopping("loss", patience=1, min_delta=9)]

    model = made()
    model.fit(x, y, epochs=9, verbose=0, callbacks=given())
    again = cgru.load(path)
    history = again.fit(x, y, epochs=9, verbose=0, callbacks=given(), resume=True)
    assert history.epochs == [0, 1]
    checks.assert_same_arrays(again.get_weights(), model.get_weights())


def test_a_run_that_was_stopped_within_an_epoch_ends_it(x, y, tmp_path):
    """The checkpoint was written after the batch that was the last: figures and validation follow."""
    path = tmp_path / "m.st"

    class Stop(callbacks.Callback):
        def on_batch_end(self, batch, logs):
            if batch == 1 and self.training.epoch == 1:
                self.training.stop()
                self.training.save(str(path))

    options = {"epochs": 9, "batch_size": 8, "validation_split": 0.2, "verbose": 0}
    model = made()
    model.fit(x, y, callbacks=[Stop()], **options)
    again = cgru.load(path)
    again.fit(x, y, callbacks=[Stop()], resume=True, **options)
    assert again.history.epochs == [0, 1]
    assert_same_training(again, model)


def test_saves_that_are_asked_for_at_other_moments(x, y, tmp_path):
    class Save(callbacks.Callback):
        def on_train_begin(self, training):
            self.training = training
            training.save(str(tmp_path / "begin"))

        def on_epoch_begin(self, epoch):
            self.training.save(str(tmp_path / f"epoch {epoch}"))

        def on_train_end(self):
            self.training.save(str(tmp_path / "end"), training_state=False)

    model = made().build(D)
    start = model.get_weights()
    model.fit(x, y, epochs=2, batch_size=8, callbacks=[Save()], verbose=0)
    checks.assert_same_arrays(cgru.load(tmp_path / "begin").get_weights(), start)
    end = cgru.load(tmp_path / "end")
    assert end.loss is None
    checks.assert_same_arrays(end.get_weights(), model.get_weights())
    for name in ("begin", "epoch 0", "epoch 1"):
        again = cgru.load(tmp_path / name)
        again.fit(x, y, epochs=2, batch_size=8, callbacks=[Save()], verbose=0, resume=True)
        assert_same_training(again, model)


def test_without_resume_a_loaded_model_begins_a_run_that_goes_on_in_everything_else(x, y, tmp_path):
    model = made()
    model.fit(x, y, epochs=2, verbose=0)
    cgru.save(model, tmp_path / "m.st", training_state=True)
    again = cgru.load(tmp_path / "m.st")
    results = [m.fit(x, y, epochs=2, verbose=0).history for m in (model, again)]
    assert results[0] == results[1] and len(results[0]["loss"]) == 2


def test_ctrl_c_and_a_save_afterwards(x, y, tmp_path):
    """Before the next update, whichever batch it hits."""
    whole = made()
    whole.fit(x, y, epochs=3, batch_size=8, verbose=0)
    for at in (1, 4, 6):
        model, count = made(), 0

        def interrupt(batch, logs, at=at):
            nonlocal count
            count += 1
            if count == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            model.fit(
                x, y, epochs=3, batch_size=8, verbose=0, callbacks=[callbacks.LambdaCallback(on_batch_end=interrupt)]
            )
        cgru.save(model, tmp_path / "m.st", training_state=True)
        again = cgru.load(tmp_path / "m.st")
        for one in (model, again):
            one.fit(x, y, epochs=3, batch_size=8, verbose=0, resume=True)
            assert_same_training(one, whole)


def test_the_order_of_an_epoch_is_of_the_seed_and_the_epoch_alone(x, y):
    class Recording(cgru.Dense):
        def forward_batch(self, batch, state=None, key=None, training=False):
            seen.append(batch.data[:, 0].tolist())
            return super().forward_batch(batch, state, key, training)

    rows, labels, seen, orders = np.arange(10.0)[:, None], np.zeros(10, int), [], []
    for first in (0, 2):
        model = cgru.Sequential([Recording(K, "softmax")], seed=4)
        model.compile("adam", LOSS)
        model.fit(rows, labels, epochs=4, initial_epoch=first, batch_size=4, verbose=0)
        orders.append([tuple(np.concatenate(seen[i : i + 3])) for i in range(0, len(seen), 3)])
        seen.clear()
    assert orders[0][2:] == orders[1] and len(set(orders[0])) == 4


@pytest.mark.parametrize("threads", [2, 3])
def test_one_seed_gives_one_result_whatever_the_number_of_threads(x, y, threads):
    found = []
    for count in (1, threads):
        with cgru.limit_threads(count):
            model = made()
            model.fit(x, y, epochs=3, batch_size=8, validation_split=0.2, verbose=0)
            found.append(model)
    assert_same_training(*found)


def test_copies_of_a_model_in_the_midst_of_a_run(x, y):
    """A callback that keeps the best model whole; a function of its own is in no pickle."""
    model, kept = made(), []

    def keep(epoch, logs):
        kept.append(pickle.loads(pickle.dumps(model)))
        kept.append(copy.deepcopy(model))

    model.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=[callbacks.LambdaCallback(on_epoch_end=keep)])
    for i, other in enumerate(kept):
        assert other.iterations == 4 * (1 + i // 2)
    checks.assert_same_arrays(kept[-1].get_weights(), model.get_weights())
    kept[0].fit(x, y, epochs=1, batch_size=8, verbose=0)
    checks.assert_same_arrays(kept[0].get_weights(), model.get_weights())


# -- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 29}, "x: expected 30 examples, as in the run that is resumed, got 29 examples"),
        ({"batch_size": 9}, "batch_size: expected 8, as in the run that is resumed, got 9"),
        ({"chunk": 3}, "chunk: expected None, as in the run that is resumed, got 3"),
        ({"shuffle": False}, "shuffle: expected True, as in the run that is resumed, got False"),
        ({"initial_epoch": 1}, "initial_epoch: expected 0 beside resume=True, got 1"),
        (
            {"callbacks": []},
            "callbacks: expected those of the run that is resumed, EarlyStopping, in this order, got none",
        ),
    ],
)
def test_another_run_is_refused(x, y, tmp_path, change, message):
    options = {"epochs": 2, "batch_size": 8, "callbacks": [callbacks.EarlyStopping("loss")], "verbose": 0}
    model = made()
    model.fit(x, y, **options)
    cgru.save(model, tmp_path / "m.st", training_state=True)
    again = cgru.load(tmp_path / "m.st")
    rows = change.pop("x", N)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        again.fit(x[:rows], y[:rows], **options | change | {"epochs": 3}, resume=True)
    checks.assert_same_arrays(again.get_weights(), model.get_weights())


def test_what_cannot_be_saved(x, y, tmp_path):
    class Mine(optimizers.Adam):
        pass

    path = tmp_path / "m.st"
    model = made().build(D)
    model.compile(Mine(), LOSS)
    message = "training_state: expected optimizer of cgru.optimizers, got Mine(), which the file could not bring back"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        cgru.save(model, path, training_state=True)
    with pytest.raises(TypeError, match=f"ModelCheckpoint.on_train_begin: {re.escape(message)}"):
        model.fit(x, y, callbacks=[callbacks.ModelCheckpoint(path)], verbose=0)
    assert model.iterations == 0
    cgru.save(model, path)
    with pytest.raises(RuntimeError, match="training_state: expected a model that is compiled"):
        cgru.save(cgru.Sequential([cgru.Dense(2)]).build(3), path, training_state=True)
    with pytest.raises(TypeError, match="training_state: expected a Sequential or Seq2Seq, got a layer by itself, GRU"):
        cgru.save(cgru.GRU(2, input_size=3), path, training_state=True)
    with pytest.raises(TypeError, match="training_state: expected True or False, got 1"):
        cgru.save(model, path, training_state=1)


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({"monitor": "loss"}, {"monitor": "accuracy"}, "monitor: expected 'loss' with mode='min', as in the run"),
        ({"monitor": "loss"}, {"monitor": "loss", "mode": "max"}, "that is resumed, got 'loss' with mode='max'"),
        ({"monitor": "loss"}, {"monitor": "loss", "mode": "min"}, None),
    ],
)
@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"])
def test_a_callback_that_watches_something_else_is_another_one(x, y, tmp_path, kind, first, then, message):
    def kept(options):
        made_of = {"path": tmp_path / "c.st", "save_best_only": True} if kind == "ModelCheckpoint" else {}
        return [getattr(callbacks, kind)(**made_of, **options)]

    model = made()
    model.fit(x, y, epochs=1, verbose=0, callbacks=kept(first))
    weights = model.get_weights()
    if message is None:
        model.fit(x, y, epochs=2, verbose=0, callbacks=kept(then), resume=True)
        return
    with pytest.raises(ValueError, match=f"callbacks: {kind}.set_state: monitor: ") as raised:
        model.fit(x, y, epochs=2, verbose=0, callbacks=kept(then), resume=True)
    assert message in str(raised.value)
    checks.assert_same_arrays(model.get_weights(), weights)


def test_states_of_ones_own(x, y, tmp_path):
    class Counting(callbacks.Callback):
        def __init__(self):
            self.state = {"none": None, "count": 0, "values": [], "deep": {"array": np.arange(3), "nan": float("nan")}}

        def on_epoch_end(self, epoch, logs):
            self.state["count"] += 1
            self.state["values"].append(np.float32(logs["loss"]))

        def get_state(self):
            return self.state

        def set_state(self, state):
            self.state = state

    path, kept = tmp_path / "m.st", Counting()
    made().fit(x, y, epochs=2, callbacks=[kept, callbacks.ModelCheckpoint(path)], verbose=0)
    other = Counting()
    model = cgru.load(path)
    model.fit(x, y, epochs=3, callbacks=[other, callbacks.ModelCheckpoint(path)], verbose=0, resume=True)
    assert other.state["count"] == 3 and other.state["values"] == pytest.approx(model.history.history["loss"])
    assert other.state["none"] is None and np.isnan(other.state["deep"]["nan"])
    np.testing.assert_array_equal(other.state["deep"]["array"], np.arange(3))
    kept.get_state = lambda: [1]
    with pytest.raises(TypeError, match=r"callbacks: Counting.get_state: expected a dict, got list"):
        made().fit(x, y, callbacks=[kept, callbacks.ModelCheckpoint(path)], verbose=0)
    del kept.get_state
    kept.state["deep"]["array"] = {1, 2}
    message = "callbacks: Counting.get_state: expected numbers, texts, arrays, lists and dicts of them, got set"
    with pytest.raises(TypeError, match=message):
        made().fit(x, y, callbacks=[kept, callbacks.ModelCheckpoint(path)], verbose=0)


# -- the file


def test_files_without_a_state_are_as_they_were(tmp_path):
    model = made().build(D)
    cgru.save(model, tmp_path / "m.st")
    tensors = files.load_tensors(tmp_path / "m.st")
    assert set(tensors) == set(model.parameters)
    assert b'"format_version":"1"' in (tmp_path / "m.st").read_bytes()
    again = cgru.load(tmp_path / "m.st")
    assert again.loss is None and again.history is None


def test_other_readers_find_the_parameters(x, y, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model = made()
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callbacks.EarlyStopping("loss", restore_best_weights=True)])
    cgru.save(model, tmp_path / "m.st", training_state=True)
    tensors = safetensors.load_file(tmp_path / "m.st")
    for name, parameter in model.parameters.items():
        np.testing.assert_array_equal(tensors[name], parameter)


def altered(path, change, monkeypatch):
    """Write the file anew with another state of training, hashes and all."""
    model = cgru.load(path)
    before = files.json.dumps

    def dumps(value, **options):
        if isinstance(value, dict) and "compile" in value:
            value = change(value)
        return before(value, **options)

    monkeypatch.setattr(files.json, "dumps", dumps)
    cgru.save(model, path, training_state=True)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: None,
        lambda s: [],
        lambda s: s | {"compile": 3},
        lambda s: s | {"compile": s["compile"] | {"optimizer": {"class": "Optimizer_", "config": {}}}},
        lambda s: s | {"compile": s["compile"] | {"loss": {"class": "get", "config": {}}}},
        lambda s: s | {"compile": s["compile"] | {"loss": {"class": "np", "config": {}}}},
        lambda s: s | {"compile": s["compile"] | {"optimizer": {"class": "Adam", "config": {"rate": 1}}}},
        lambda s: s | {"compile": s["compile"] | {"optimizer": {"class": "Adam", "config": 1}}},
        lambda s: s | {"seed": "a"},
        lambda s: s | {"states": []},
        lambda s: s | {"states": [{"$tensor": "training.0"}, None, None]},
        lambda s: s | {"optimizer": {"iterations": -1, "slots": []}},
        lambda s: s | {"optimizer": {"iterations": 1, "slots": [[0, "kernel", []]]}},
        lambda s: s | {"optimizer": {"iterations": 1, "slots": [[9, "kernel", []]]}},
        lambda s: s | {"optimizer": {"iterations": 1, "slots": [[0, "kernel", [{"$tensor": "nothing"}] * 2]]}},
        lambda s: s | {"run": {}},
        lambda s: s | {"run": s["run"] | {"epoch": 9}},
        lambda s: s | {"run": s["run"] | {"results": [3]}},
        lambda s: s | {"run": s["run"] | {"batches": 1}},
        lambda s: s | {"run": s["run"] | {"totals": {"loss": [1.0, 2]}}},
        lambda s: s | {"run": s["run"] | {"callbacks": [3]}},
        lambda s: s | {"run": s["run"] | {"settings": 3}},
    ],
)
def test_an_altered_state_is_refused_with_a_value_error(x, y, tmp_path, monkeypatch, change):
    path = tmp_path / "m.st"
    model = made()
    model.fit(x, y, epochs=1, verbose=0)
    cgru.save(model, path, training_state=True)
    altered(path, change, monkeypatch)
    with pytest.raises(ValueError, match=re.escape(os.fspath(path))):
        cgru.load(path)
