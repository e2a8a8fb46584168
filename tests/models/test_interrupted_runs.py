"""Ctrl-C at any line of a run of `fit`: it goes on from there to the bits of one that was never interrupted."""

import os
import sys

import numpy as np
import pytest

import cgru
from cgru import callbacks, optimizers

N, T, D, K = 12, 6, 2, 3
FILES = ("loop.py", "hooks.py", "updates.py", "chunks.py", "base.py", "plateaus.py", "records.py")  # with the state


class Interrupt:
    """Ctrl-C before the line `at`, counted over the lines of FILES."""

    def __init__(self, at=None):
        self.at, self.lines = at, 0

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, kind, *_):
        sys.settrace(self._before)
        return kind is KeyboardInterrupt

    def _called(self, frame, event, argument):
        path = frame.f_code.co_filename
        return self._line if os.path.basename(path) in FILES and "cgru" in path else None

    def _line(self, frame, event, argument):
        self.lines += event == "line"
        if self.lines == self.at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return self._line


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, T, D))


def made(by_step):
    layers = [cgru.GRU(3, return_sequences=by_step), cgru.Dropout(0.3), cgru.Dense(K, "softmax")]
    model = cgru.Sequential(layers, seed=1)
    model.compile(optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fitted(model, x, y, options, resume=False):
    kept = [
        callbacks.EarlyStopping(patience=0, min_delta=0.05, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(patience=0, min_delta=0.5),
        callbacks.CSVLogger("log.csv"),
    ]
    return model.fit(
        x, y, epochs=3, batch_size=4, validation_split=0.3, verbose=0, callbacks=kept, resume=resume, **options
    )


def result(model):
    with open("log.csv", encoding="utf-8") as file:
        lines = file.read()
    slots = [slot for slots in model._states[0].slots.values() for slot in slots]
    arrays = [array.tobytes() for array in [*model.get_weights(), *slots]]
    return arrays, model.optimizer.learning_rate, model.iterations, model.history.history, lines


@pytest.mark.parametrize("options", [{}, {"chunk": 2}, {"chunk": 2, "by_step": False}], ids=str)
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a file between `open` and `with`
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_before_any_line(x, rng, options, saved):
    by_step = options.get("by_step", "chunk" in options)
    given = {key: value for key, value in options.items() if key != "by_step"}
    lengths = rng.integers(1, T + 1, N)
    given["lengths"] = lengths
    y = rng.integers(0, K, (N, T) if by_step else N)
    whole = made(by_step)
    with Interrupt() as counter:
        fitted(whole, x, y, given)
    expected = result(whole)
    lines = counter.lines
    assert lines > 200
    for at in range(1 + saved, lines, lines // 60):
        model = made(by_step)
        if os.path.exists("log.csv"):
            os.remove("log.csv")
        with np.errstate(), Interrupt(at) as stopped:  # before the line that ends NumPy's it would keep them
            fitted(model, x, y, given)
        assert stopped.lines == at
        if saved and model.history is not None:  # it is built
            cgru.save(model, "run.st", training_state=True)
            model = cgru.load("run.st")
        fitted(model, x, y, given, resume=True)
        assert result(model) == expected, at
