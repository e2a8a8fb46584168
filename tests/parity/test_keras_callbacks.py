"""EarlyStopping, ReduceLROnPlateau and ModelCheckpoint decide as Keras' own, on the same figures."""

import itertools

import numpy as np
import pytest

from cgru import callbacks

keras = pytest.importorskip("keras", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Ours:
    """What our callbacks see."""

    def __init__(self, name):
        self.names, self.epochs, self.epoch, self.batches, self.resumed = [name], 100, 0, 1, False
        self.learning_rate, self.stopped, self.weights, self.saved = 1.0, False, 0, []

    def stop(self):
        self.stopped = True

    def get_weights(self):
        return [np.array(self.weights)]

    def set_weights(self, weights):
        self.weights = int(weights[0])

    def check_saving(self, training_state, path=None):
        pass

    def save(self, path, training_state=True):
        self.saved.append(self.epoch)


class Theirs:
    """What Keras' callbacks see of a model."""

    def __init__(self):
        self.stop_training, self.weights, self.saved, self.epoch = False, 0, [], 0
        self.optimizer = keras.optimizers.SGD(1.0)
        self.metrics, self._compile_metrics, self.distribute_strategy = [], None, None

    def get_weights(self):
        return [np.array(self.weights)]

    def set_weights(self, weights):
        self.weights = int(weights[0])

    def save(self, path, overwrite=True, **options):
        self.saved.append(self.epoch)


def ours(callback, values, name):
    training = Ours(name)
    callback.on_train_begin(training)
    rates = []
    for epoch, value in enumerate(values):
        training.weights = training.epoch = epoch
        callback.on_epoch_end(epoch, {name: value})
        rates.append(training.learning_rate)
        if training.stopped:
            break
    callback.on_train_end()
    return rates, training.weights, training.saved


def theirs(callback, values, name):
    model = Theirs()
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        model.weights = model.epoch = epoch
        callback.on_epoch_end(epoch, {name: value})
        rates.append(float(model.optimizer.learning_rate.numpy()))
        if model.stop_training:
            break
    callback.on_train_end()
    return rates, model.weights, model.saved


SERIES = [np.round(np.random.default_rng(i).uniform(0, 3, 12), 1).tolist() for i in range(12)]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_early_stopping(mode):
    cases = itertools.product(SERIES[:5], (0, 1, 3), (0, 0.35), (None, 1.55), (0, 2))
    for values, patience, delta, baseline, start in cases:
        options = {
            "monitor": "val_loss", "mode": mode, "patience": patience, "min_delta": delta, "baseline": baseline,
            "restore_best_weights": True, "start_from_epoch": start,
        }  # fmt: skip
        found = ours(callbacks.EarlyStopping(**options), values, "val_loss")
        assert found == theirs(keras.callbacks.EarlyStopping(**options), values, "val_loss"), (values, options)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_reduce_on_plateau(mode):
    for values, patience, delta, cooldown in itertools.product(SERIES[:6], (1, 2), (1e-4, 0.35), (0, 2)):
        options = {
            "monitor": "val_loss", "mode": mode, "patience": patience, "min_delta": delta, "cooldown": cooldown,
            "factor": 0.5, "min_lr": 0.1,
        }  # fmt: skip
        found, expected = (
            run(cls(**options), values, "val_loss")
            for run, cls in ((ours, callbacks.ReduceLROnPlateau), (theirs, keras.callbacks.ReduceLROnPlateau))
        )
        assert found[0] == pytest.approx(expected[0], rel=1e-6), (values, options)


@pytest.mark.parametrize(("name", "mode"), [("val_loss", "min"), ("val_accuracy", "max"), ("val_loss", "auto")])
def test_which_epochs_are_saved(name, mode):
    for values, threshold in itertools.product(SERIES, (None, 1.55)):
        options = {"monitor": name, "mode": mode, "save_best_only": True, "initial_value_threshold": threshold}
        found = ours(callbacks.ModelCheckpoint("a", **options), values, name)[2]
        assert found == theirs(keras.callbacks.ModelCheckpoint("a.keras", **options), values, name)[2], values
