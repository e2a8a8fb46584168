"""Callbacks of `fit`: what they decide, what is refused before training, and what is left when one fails."""

import csv
import math
import re
import types

import checks
import numpy as np
import pytest

import cgru
from cgru import callbacks, optimizers, schedules

LOSS = "sparse_categorical_crossentropy"
N, T, D, K = 12, 4, 3, 2


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, T, D)).astype(np.float32)


@pytest.fixture
def y():
    return np.arange(N) % K


def made(rate=0.05, **options):
    model = cgru.Sequential([cgru.GRU(4, **options), cgru.Dropout(0.2), cgru.Dense(K, "softmax")], seed=0)
    model.compile(optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    return model


class Fake:
    """A training that only hands out the figures it was given."""

    def __init__(self, name="val_loss", rate=1.0):
        self.names, self.epochs, self.epoch, self.batches, self.resumed = [name], 100, 0, 1, False
        self.learning_rate, self.stopped, self.weights, self.saved = rate, False, 0, []

    def stop(self):
        self.stopped = True

    def get_weights(self):
        return [np.array(self.weights)]

    def set_weights(self, weights):
        self.weights = int(weights[0])

    def check_saving(self, training_state, path=None):
        pass

    def save(self, path, training_state=True):
        self.saved.append(path)


def drive(callback, values, name="val_loss", start=0):
    """Epochs whose figures are these; the weights are the number of the epoch."""
    training = Fake(name)
    callback.on_train_begin(training)
    rates = []
    for epoch, value in enumerate(values, start=start):
        training.weights = training.epoch = epoch
        callback.on_epoch_end(epoch, {name: value})
        rates.append(training.learning_rate)
        if training.stopped:
            break
    callback.on_train_end()
    return training, rates


# -- what they decide


@pytest.mark.parametrize(
    ("options", "values", "last", "restored"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2.2, 2.1], 3, 1),
        ({"patience": 0}, [3, 2, 1, 1, 0], 3, 2),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 2.2, 1.9], 1, 0),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 2, 1], 3, 2),
        ({"patience": 2, "baseline": 1.0}, [3, 2, 1.5, 0.5], 3, 3),
        ({"patience": 1, "baseline": 1.0}, [3, 2, 2.5], 2, 1),
        ({"patience": 1, "start_from_epoch": 2}, [1, 2, 3, 4, 5], 3, 2),
        ({"patience": 9}, [3, 2, 4], 2, 1),
        ({"patience": 1}, [math.nan, math.nan, 1], 1, 0),
        ({"patience": 2}, [math.nan, 2, 3, 1, math.nan, 2], 5, 3),
    ],
)
def test_early_stopping(options, values, last, restored):
    callback = callbacks.EarlyStopping(restore_best_weights=True, **options)
    training, rates = drive(callback, values)
    assert len(rates) - 1 == last and training.weights == restored
    assert training.stopped is (callback.stopped_epoch is not None)
    training, _ = drive(callbacks.EarlyStopping(**options), values)
    assert training.weights == last  # nothing is restored unless it is asked for


@pytest.mark.parametrize(("name", "best"), [("val_accuracy", 2), ("val_loss", 0), ("auc", 2), ("val_macro_f1", 2)])
def test_the_direction_that_auto_takes(name, best):
    callback = callbacks.EarlyStopping(name, patience=9)
    drive(callback, [1, 2, 3], name)
    assert callback.best_epoch == best


@pytest.mark.parametrize(
    ("options", "values", "rates"),
    [
        ({"patience": 1}, [3, 3, 3], [1, 0.5, 0.25]),
        ({"patience": 2}, [3, 2, 2, 2, 2], [1, 1, 1, 0.5, 0.5]),
        ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 1, "min_lr": 0.4}, [3, 3, 3, 3], [1, 0.5, 0.4, 0.4]),
        ({"patience": 1, "min_delta": 1}, [3, 2.5, 1.4], [1, 0.5, 0.5]),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 3], [1, 1, 1, 0.5]),
    ],
)
def test_reduce_on_plateau(options, values, rates):
    assert drive(callbacks.ReduceLROnPlateau(factor=0.5, **options), values)[1] == pytest.approx(rates)


def test_stopping_and_the_best_weights_in_fit(x, y):
    """Every epoch of a high rate is worse than the first ones."""
    seen = []
    model = made(rate=0.5)
    stopping = callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    keep = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    history = model.fit(x, y, epochs=50, validation_data=(x, 1 - y), callbacks=[keep, stopping], verbose=0)
    assert history.epochs == list(range(len(seen))) and len(seen) == stopping.best_epoch + 3 < 50
    assert stopping.best == min(history.history["val_loss"])
    checks.assert_same_arrays(model.get_weights(), seen[stopping.best_epoch])


def test_the_order_of_calls_and_what_they_are_told(x, y):
    class Tell:
        def __init__(self):
            self.calls = []

        def on_train_begin(self, training):
            self.training = training
            assert training.epochs == 4 and training.batches == 3 and not training.resumed
            assert training.names == ["loss", "accuracy", "val_loss", "val_accuracy"]
            self.calls.append("begin")

        def on_epoch_begin(self, epoch):
            assert self.training.epoch == epoch
            self.calls.append(f"epoch {epoch}")

        def on_batch_end(self, batch, logs):
            assert set(logs) == {"loss", "accuracy"}
            self.calls.append(batch)

        def on_epoch_end(self, epoch, logs):
            assert self.training.epoch == epoch and list(logs) == self.training.names
            self.calls.append(f"end {epoch}")

        def on_train_end(self):
            self.calls.append("end")

    tell = Tell()
    history = made().fit(
        x, y, epochs=4, initial_epoch=2, batch_size=4, validation_data=(x, y), callbacks=[tell], verbose=0
    )
    assert history.epochs == [2, 3] and len(history.history["loss"]) == 2
    assert tell.calls == ["begin", "epoch 2", 0, 1, 2, "end 2", "epoch 3", 0, 1, 2, "end 3", "end"]


def test_a_callback_may_set_rate_and_weights_and_stop_within_an_epoch(x, y):
    model, rates = made(), []

    class Change(callbacks.Callback):
        def on_batch_end(self, batch, logs):
            self.training.learning_rate /= 2
            rates.append(self.training.learning_rate)
            self.training.set_weights([np.zeros_like(w) for w in self.training.get_weights()])
            if len(rates) == 4:
                self.training.stop()

    history = model.fit(x, y, epochs=5, batch_size=4, callbacks=[Change()], verbose=0)
    assert rates == [0.025, 0.0125, 0.00625, 0.003125] and model.optimizer.learning_rate == rates[-1]
    assert history.epochs == [0, 1] and not any(w.any() for w in model.get_weights())


def test_the_last_share_validates(x, y):
    model, twin = made(), made()
    history = model.fit(x, y, epochs=2, batch_size=4, validation_split=0.3, verbose=0).history
    expected = twin.fit(x[:8], y[:8], epochs=2, batch_size=4, validation_data=(x[8:], y[8:]), verbose=0).history
    assert history == expected
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())
    weighted = {"sample_weight": np.arange(1.0, N + 1), "class_weight": {1: 3.0}, "shuffle": False, "verbose": 0}
    history = made().fit(x, y, validation_split=0.3, **weighted).history
    data = (x[8:], y[8:], {"sample_weight": weighted["sample_weight"][8:]})  # classes weigh in training alone
    weighted["sample_weight"] = weighted["sample_weight"][:8]
    assert history == made().fit(x[:8], y[:8], validation_data=data, **weighted).history
    ragged = [row[: 1 + i % T] for i, row in enumerate(x)]
    history = made().fit(ragged, y, validation_split=0.3, verbose=0).history
    assert history == made().fit(ragged[:8], y[:8], validation_data=(ragged[8:], y[8:]), verbose=0).history


# -- files


def test_checkpoints_have_names_and_hold_the_model(x, y, tmp_path):
    model, seen = made(), []
    path = tmp_path / "{epoch:02d}-{val_loss:.3f}.st"
    saving = callbacks.ModelCheckpoint(path, training_state=False)
    keep = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    history = model.fit(x, y, epochs=3, validation_split=0.25, callbacks=[saving, keep], verbose=0).history
    for i, (value, weights) in enumerate(zip(history["val_loss"], seen, strict=True)):
        again = cgru.load(tmp_path / f"{i + 1:02d}-{value:.3f}.st")
        assert again.loss is None
        checks.assert_same_arrays(again.get_weights(), weights)


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({}, [0, 1, 2, 3]),
        ({"save_best_only": True}, [0, 1, 3]),
        ({"save_best_only": True, "mode": "max"}, [0, 2]),
        ({"save_best_only": True, "initial_value_threshold": 2.5}, [1, 3]),
    ],
)
def test_which_epochs_are_saved(options, saved):
    training, _ = drive(callbacks.ModelCheckpoint("{epoch}", **options), [3, 2, 4, 1])
    assert training.saved == [str(epoch + 1) for epoch in saved]


def test_the_csv_file(x, y, tmp_path):
    path = tmp_path / "log.csv"
    for options, lines in (({}, 3), ({"append": True}, 6), ({}, 3)):
        history = made().fit(x, y, epochs=3, callbacks=[callbacks.CSVLogger(path, **options)], verbose=0).history
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [row["epoch"] for row in rows] == ["0", "1", "2"] * (lines // 3)
        for name, values in history.items():
            assert [float(row[name]) for row in rows[-3:]] == values
    made().fit(x, y, callbacks=[callbacks.CSVLogger(path, ";")], verbose=0)
    assert path.read_text().splitlines()[0] == "epoch;loss;accuracy"


# -- bad input


def test_a_schedule_and_a_callback_that_sets_the_rate(x, y):
    model = made()
    model.compile(optimizers.SGD(schedules.ExponentialDecay(0.1, 1, 0.5)), LOSS)
    seen = []
    told = callbacks.LambdaCallback(on_train_begin=lambda training: seen.append(training))
    model.fit(x, y, batch_size=4, callbacks=[told], verbose=0)
    assert seen[0].learning_rate == pytest.approx(0.1 * 0.5**3)
    with pytest.raises(ValueError, match=r"on_train_begin: learning_rate: expected a number, which can be set"):
        model.fit(x, y, callbacks=[callbacks.ReduceLROnPlateau("loss")], verbose=0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (callbacks.EarlyStopping(), TypeError, "callbacks: expected a list of callbacks, got EarlyStopping"),
        ([callbacks.EarlyStopping], TypeError, "callbacks[0]: expected an object, got the class EarlyStopping: write"),
        ([object()], TypeError, "callbacks[0]: expected an object with a method among on_train_begin, on_epoch_begin"),
        (
            [types.SimpleNamespace(on_epoch_end=print), type("Other", (), {"on_train_batch_end": print})()],
            TypeError,
            "callbacks[1]: expected methods among on_train_begin, on_epoch_begin, on_batch_end, on_epoch_end, on_train_"
            "end, as cgru.callbacks.Callback has them, got on_train_batch_end of Other",
        ),
        (
            [callbacks.EarlyStopping()],
            ValueError,
            "callbacks: EarlyStopping.on_train_begin: monitor: expected one of ['loss', 'accuracy'], got 'val_loss'; "
            "validation_data or validation_split gives it",
        ),
        ([callbacks.ReduceLROnPlateau("los")], ValueError, "monitor: expected one of ['loss', 'accuracy'], got 'los'"),
        ([callbacks.ModelCheckpoint("a", save_best_only=True)], ValueError, "got 'val_loss'"),
        (
            [callbacks.ModelCheckpoint("{epoch}-{val_loss}")],
            ValueError,
            "path: expected fields among ['epoch', 'loss', 'accuracy'], got {val_loss} in '{epoch}-{val_loss}'",
        ),
        ([callbacks.CSVLogger("missing/folder/log.csv")], RuntimeError, "CSVLogger.on_train_begin: FileNotFoundError"),
        ([callbacks.EarlyStopping("loss")] * 2, TypeError, ""),
    ],
)
def test_refused_before_anything_is_trained(x, y, given, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = made().build(D)
    before = model.get_weights()
    if message == "":
        error, message = ValueError, "callbacks: expected each one once, got EarlyStopping again at index 1"
    with pytest.raises(error, match=re.escape(message)):
        model.fit(x, y, callbacks=given, verbose=0)
    checks.assert_same_arrays(model.get_weights(), before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: callbacks.EarlyStopping(7), TypeError, "monitor: expected a name such as 'val_loss', got 7"),
        (lambda: callbacks.EarlyStopping(patience=-1), ValueError, "patience: expected at least 0, got -1"),
        (lambda: callbacks.EarlyStopping(mode="up"), ValueError, "mode: expected one of ['auto', 'max', 'min'], got"),
        (lambda: callbacks.EarlyStopping(baseline="a"), TypeError, "baseline: expected a number, got 'a'"),
        (lambda: callbacks.ReduceLROnPlateau(factor=1), ValueError, "factor: expected a number of more than 0 and"),
        (lambda: callbacks.ReduceLROnPlateau(min_lr=-1), ValueError, "min_lr: expected a finite number of at least 0"),
        (lambda: callbacks.ModelCheckpoint(None), TypeError, "path: expected a str or os.PathLike that names a file"),
        (lambda: callbacks.ModelCheckpoint("a{"), ValueError, "path: expected fields as str.format has them, got 'a{'"),
        (lambda: callbacks.ModelCheckpoint("a", every=0), ValueError, "every: expected at least 1, got 0"),
        (
            lambda: callbacks.ModelCheckpoint("a", every=3, save_best_only=True),
            ValueError,
            "every: expected 'epoch' beside save_best_only=True, got 3",
        ),
        (lambda: callbacks.CSVLogger("a", ""), TypeError, "separator: expected a text, got ''"),
        (lambda: callbacks.LambdaCallback(on_epoch_end=3), TypeError, "on_epoch_end: expected a function, got 3"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_train_end"])
def test_one_that_fails_is_named_and_the_model_is_whole(x, y, hook):
    """The parameters are those after the last whole update, and the history holds the finished epochs."""

    class Broken(callbacks.Callback):
        count = 0

        def fail(self, *arguments):
            self.count += 1
            if self.count == 2 or hook.startswith("on_train"):
                raise KeyError("on purpose")

    broken = Broken()
    setattr(broken, hook, broken.fail)
    model, twin, weights = made(), made(), []
    twin.fit(
        x, y, epochs=3, batch_size=6, verbose=0,
        callbacks=[callbacks.LambdaCallback(on_batch_end=lambda batch, logs: weights.append(twin.get_weights()))],
    )  # fmt: skip
    first = twin.fit(x, y, epochs=0, verbose=0) and made().build(D).get_weights()
    with pytest.raises(RuntimeError, match=f"^callbacks: Broken.{hook}: KeyError: 'on purpose'$") as raised:
        model.fit(x, y, epochs=3, batch_size=6, callbacks=[broken], verbose=0)
    assert isinstance(raised.value.__cause__, KeyError)
    updates, epochs = {
        "on_train_begin": (0, 0), "on_epoch_begin": (2, 1), "on_batch_end": (2, 0), "on_epoch_end": (4, 2),
        "on_train_end": (6, 3),
    }[hook]  # fmt: skip
    checks.assert_same_arrays(model.get_weights(), weights[updates - 1] if updates else first)
    assert model.iterations == updates and len(model.history.epochs) == epochs
    model.fit(x, y, verbose=0)  # and it trains


def test_a_save_that_fails_leaves_the_model_whole(x, y, tmp_path):
    model, folder = made(), tmp_path / "folder"
    folder.mkdir()
    removing = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: folder.rmdir())
    with pytest.raises(OSError):
        model.fit(x, y, callbacks=[callbacks.ModelCheckpoint(folder / "m.st"), removing], verbose=0)
    assert model.iterations == 1 and model.history.epochs == [0]


@pytest.mark.parametrize("path", ["", "none/m.st", "none/{epoch}.st"])
def test_where_no_file_can_be_written_nothing_is_trained(x, y, tmp_path, path):
    model = made()
    for made_for in (callbacks.ModelCheckpoint, callbacks.CSVLogger):
        with pytest.raises(RuntimeError, match=rf"callbacks: {made_for.__name__}.on_train_begin: .*Error: .*"):
            model.fit(x, y, callbacks=[made_for(tmp_path / path)], verbose=0)
        assert model.iterations == 0


def test_only_a_figure_that_validation_would_bring_is_told_so(x, y):
    model = made()
    for name, data, told in (("val_acc", (x, y), False), ("val_loss", None, True), ("acc", None, False)):
        with pytest.raises(ValueError, match="monitor: expected one of") as raised:
            model.fit(x, y, validation_data=data, callbacks=[callbacks.EarlyStopping(name)], verbose=0)
        assert ("validation_split gives it" in str(raised.value)) == told
