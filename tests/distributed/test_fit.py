"""`fit(all_reduce=)` with ranks that are threads: the numbers of one process, and nobody waits in vain."""

import math
import threading

import numpy as np
import pytest
import ranks

import cgru
from cgru.callbacks import Callback, CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

SIZES = (2, 3, 7)  # the last one is more than a batch has rows
COMMON = {"epochs": 3, "batch_size": 5, "verbose": 0}


def of_all(size, work, plain=False):
    """What `work` returned in each rank; the first error is raised."""
    results = ranks.run(size, work, plain)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def check(make, fit, sizes=SIZES, rtol=1e-9, plain=False):
    """One process and several give the same weights and history."""

    def work(all_reduce):
        model = make()
        fit(model, all_reduce=all_reduce)
        return ranks.figures(model)

    alone = make()
    fit(alone)
    expected = ranks.figures(alone)
    assert all(np.isfinite(array).all() for array in expected[0])
    for size in sizes:
        for found in of_all(size, work, plain):
            ranks.assert_close(found, expected, rtol)
    return expected


def fits(*data, **options):
    return lambda model, **more: model.fit(*data, **COMMON | options, **more)


X, Y = ranks.data()
STEPS = [(np.cumsum(row[:, 0]) > 0).astype(int) for row in X]
SEVEN = ranks.data(7, seed=1)
IDS = [np.arange(len(row)) % 5 for row in X]


def tagger():
    layers = [
        cgru.Embedding(5, 3, dtype="float64", mask_zero=False),
        cgru.GRU(
            4, return_sequences=True, bidirectional=True, recurrent_dropout=0.2, zoneout=0.1,
            recurrent_regularizer="l2", dtype="float64",
        ),
        cgru.Dropout(0.2),
        cgru.Dense(2, activation="softmax", dtype="float64"),
    ]
    return ranks.model(layers=layers)


def regressor(**options):
    layers = [cgru.GRU(4, num_layers=2, layer_dropout=0.3, dtype="float64"), cgru.Dense(1, dtype="float64", **options)]
    return ranks.model(layers=layers, optimizer="rmsprop", loss="mse", metrics=["mae", "mse"])


@pytest.mark.parametrize("plain", [False, True], ids=["with rank and size", "plain functions"])
def test_ranks_give_the_numbers_of_one_process(plain):
    """With dropout, clipping by the norm of all, penalties, weights, validation; batches smaller than the ranks are
    many, and a last one of three."""
    check(
        ranks.model, fits(X, Y, validation_data=SEVEN, sample_weight=np.linspace(0, 2, 23), class_weight="balanced"),
        (1, *SIZES), plain=plain,
    )  # fmt: skip


CASES = {
    "a label a step": (tagger, fits(IDS, STEPS, validation_data=(IDS[:3], STEPS[:3]))),
    "weights of steps": (tagger, fits(IDS, STEPS, sample_weight=[np.linspace(0, 1, len(row)) for row in X])),
    "values": (regressor, fits(X, Y.astype(float), validation_split=0.2)),
    "in order": (regressor, fits(X, Y.astype(float), shuffle=False)),
    "a last batch of one": (ranks.model, fits(X[:6], Y[:6], validation_data=(X[:1], Y[:1]))),
    "batches of one": (ranks.model, fits(X[:4], Y[:4], batch_size=1, epochs=2)),
    "fewer examples than ranks": (ranks.model, fits(X[:1], Y[:1], validation_data=(X[:2], Y[:2]))),
    "batches of an iterable": (
        ranks.model,
        fits([(X[:4], Y[:4]), (X[4:5], Y[4:5]), (X[5:], Y[5:])], validation_data=lambda: [SEVEN, (X[:1], Y[:1])]),
    ),
    "rows without a step": (
        tagger, fits([IDS[0], *[row[:0] for row in IDS[1:8]]], [STEPS[0], *[[]] * 7], batch_size=2)
    ),
    "a frozen layer": (
        lambda: ranks.model(layers=[cgru.GRU(4, trainable=False, dtype="float64"), cgru.Dense(2, "softmax")]),
        fits(X, Y),
    ),
    "a penalty of the outputs": (
        lambda: ranks.model(
            layers=[cgru.GRU(4, activity_regularizer="l1", dtype="float64"), cgru.Dense(2, "softmax", dtype="float64")]
        ),
        fits(X, Y, validation_data=SEVEN),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_of_all_kinds_of_examples(case):
    make, fit = CASES[case]
    expected = check(make, fit, (2, 7), rtol=1e-9 if case != "a frozen layer" else 1e-4)
    assert expected[1]["loss"]


def test_a_penalty_of_the_outputs_at_each_step():
    """The mean is over rows there: as long as all have the same steps, shares weigh the same."""


    def make():
        gru = cgru.GRU(4, return_sequences=True, activity_regularizer="l2", dtype="float64")
        return ranks.model(layers=[gru, cgru.Dense(1, dtype="float64")], loss="mse", metrics=[])

    check(make, fits(np.stack(ranks.data(ragged=False)[0]), np.ones((23, 6, 1))), (2, 7))


def test_float32_and_a_function_as_a_metric():
    """Which sees all outputs at once: every rank makes all of them."""

    def share(y_true, y_pred):
        return float((y_pred[y_true == 1, 1] > 0.5).mean())

    fit = fits(X, Y, validation_data=SEVEN)
    check(lambda: ranks.model("float32", metrics=["accuracy", share]), fit, rtol=2e-4)


def test_an_encoder_with_a_decoder():
    def make():
        encoder = cgru.Sequential(
            [cgru.Embedding(6, 4, dtype="float64"), cgru.GRU(5, return_sequences=True, dtype="float64")]
        )
        decoder = cgru.Sequential(
            [
                cgru.Embedding(6, 4, dtype="float64"),
                cgru.GRU(5, return_sequences=True, dropout=0.2, dtype="float64"),
                cgru.Dense(6, "softmax", dtype="float64"),
            ]
        )
        model = cgru.Seq2Seq(encoder, decoder, attention="dot", start=1, end=2, seed=0)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    source = [np.arange(n) % 3 + 3 for n in (3, 5, 1, 4, 2, 6, 3)]
    target = [row[::-1] for row in source]
    check(make, fits(source, target, batch_size=4, validation_data=(source[:1], target[:1])), (2, 5))


def test_resets_and_masks():
    rng = np.random.default_rng(0)
    x, mask, resets = rng.standard_normal((9, 6, 3)), rng.random((9, 6)) < 0.7, rng.random((9, 6)) < 0.3

    def make():
        gru = cgru.GRU(4, return_sequences=True, dtype="float64")
        return ranks.model(layers=[gru, cgru.Dense(2, "softmax", dtype="float64")])

    y = (x[..., 0] > 0).astype(int)
    check(make, fits(x, y, mask=mask, resets=resets, batch_size=4), (2, 5))


def test_one_sum_a_step_and_one_an_epoch():
    """Of all gradients, the loss and the number of its terms; of what metrics count. No length depends on a share."""
    x, y = ranks.data(23)

    def work(all_reduce):
        model = ranks.model("float32")
        model.fit(x, y, validation_data=SEVEN, all_reduce=all_reduce, **COMMON)
        return all_reduce.calls, sum(array.size for array in model.get_weights())

    for calls, parameters in of_all(7, work):
        steps = [(parameters + 11, "float32")] * 5
        begin, *calls = calls
        assert calls == [*steps, calls[5]] * 3 and calls[5][1] == begin[1] == "float64"


# -- decisions


def callbacks():
    return [
        EarlyStopping("val_loss", patience=2, min_delta=0.02, restore_best_weights=True),
        ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.02),
    ]


def test_plateaus_are_those_of_the_reduced_numbers():
    """Shares differ so much that each rank by itself would decide otherwise."""
    x, y = ranks.data(30, seed=2)
    held = (sorted(SEVEN[0], key=len), np.arange(7) % 2)
    stopped = {}

    def fit(model, **more):
        stopping, plateau = callbacks()
        options = COMMON | {"epochs": 25, "validation_data": held}
        model.fit(x, y, callbacks=[stopping, plateau], **options, **more)
        stopped[threading.get_ident()] = stopping.stopped_epoch, stopping.best_epoch, model.optimizer.learning_rate

    _, history = check(ranks.model, fit)
    assert len(set(stopped.values())) == 1 and len(history["loss"]) < 25
    assert next(iter(stopped.values()))[2] < 0.05  # the rate was lowered


class Stop(Callback):
    """Stops on one rank alone, behind a batch or an epoch."""

    def __init__(self, rank, epoch, batch=None):
        self.rank, self.epoch, self.batch, self.logs, self.begun = rank, epoch, batch, [], 0

    def on_epoch_begin(self, epoch):
        self.begun += 1

    def _stop(self):
        if self.training.rank == self.rank:
            self.training.stop()

    def on_batch_end(self, batch, logs):
        self.logs.append(dict(logs))
        if (self.training.epoch, batch) == (self.epoch, self.batch):
            self._stop()

    def on_epoch_end(self, epoch, logs):
        if self.batch is None and epoch == self.epoch:
            self._stop()


@pytest.mark.parametrize("batch", [None, 0, 4])
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("epoch", [0, 2])
def test_where_one_stops_all_do(rank, epoch, batch):
    def work(all_reduce):
        model, stop = ranks.model(), Stop(rank, epoch, batch)
        model.fit(X, Y, callbacks=[stop], all_reduce=all_reduce, validation_data=SEVEN, **COMMON)
        return ranks.figures(model), model.iterations, stop.logs, stop.begun

    results = of_all(3, work)
    for figures, iterations, logs, begun in results:
        if batch is not None:  # else others learn it at the first step of the next one
            assert begun == epoch + 1
        ranks.assert_close(figures, results[0][0], rtol=0)
        assert iterations == epoch * 5 + (5 if batch is None else batch + 1)
        assert logs == results[0][2] and set(logs[-1]) == {"loss"} and len(logs) == iterations
    assert len(results[0][0][1]["loss"]) == epoch + 1


# -- errors


def test_a_number_that_is_not_finite_ends_all_before_the_update():
    x = [row.copy() for row in X]
    x[11][0, 1] = np.nan
    models = []

    def work(all_reduce):
        model = ranks.model()
        models.append(model)
        model.fit(x, Y, all_reduce=all_reduce, shuffle=False, **COMMON)

    found = ranks.errors_of(3, work)
    named = [error for error in found if isinstance(error, ValueError)]
    assert len(named) == 1 and "row 11, step 0, feature 1 (epoch 1, batch 3)" in str(named[0])
    for error in found:
        if error is not named[0]:
            assert isinstance(error, RuntimeError)
            assert "1 of the other ranks failed in epoch 1, batch 3, of which no update was made" in str(error)
    for model in models:
        assert model.iterations == 2
        for array, other in zip(model.get_weights(), models[0].get_weights(), strict=True):
            np.testing.assert_array_equal(array, other)


class Steep(cgru.losses.Loss):
    """Whose gradient is not finite for labels of 7."""

    name, labels = "steep", "values"

    def values(self, outputs, labels):
        return ((outputs - labels) ** 2).mean(axis=1)

    def gradients(self, outputs, labels):
        return np.where(labels == 7, np.inf, 2 * (outputs - labels)) / outputs.shape[1]


def test_a_gradient_that_is_not_finite_ends_all_before_the_update():
    y = np.where(np.arange(23) == 11, 7.0, 0.0)

    def work(all_reduce):
        layers = [cgru.GRU(4, dtype="float64"), cgru.Dense(1, dtype="float64")]
        ranks.model(layers=layers, loss=Steep(), metrics=[]).fit(X, y, all_reduce=all_reduce, shuffle=False, **COMMON)

    found = ranks.errors_of(3, work)
    assert all(isinstance(error, FloatingPointError) and "epoch 1, batch 3" in str(error) for error in found)
    assert sorted("because of row 11" in str(error) for error in found) == [False, False, True]
    assert sum("the gradient of all ranks together" in str(error) for error in found) == 2


class Failing(Callback):
    """Raises on one rank, in one of its methods."""

    def __init__(self, where, rank=1):
        self.where, self.rank = where, rank

    def _fail(self, where):
        if where == self.where and self.training.rank == self.rank:
            raise OSError("disk full")

    def on_train_begin(self, training):
        super().on_train_begin(training)
        self._fail("on_train_begin")

    def on_epoch_begin(self, epoch):
        self._fail(f"on_epoch_begin {epoch}")

    def on_batch_end(self, batch, logs):
        self._fail(f"on_batch_end {batch}")

    def on_epoch_end(self, epoch, logs):
        self._fail(f"on_epoch_end {epoch}")


@pytest.mark.parametrize(
    "where",
    ["on_train_begin", "on_epoch_begin 0", "on_epoch_begin 2", "on_batch_end 0", "on_batch_end 4", "on_epoch_end 1"],
)
def test_a_callback_that_fails_on_one_rank_ends_all(where):
    def work(all_reduce):
        callbacks = [Failing(where)]
        ranks.model().fit(X, Y, callbacks=callbacks, all_reduce=all_reduce, validation_data=SEVEN, **COMMON)

    found = ranks.errors_of(3, work)
    assert f"Failing.{where.split()[0]}: OSError: disk full" in str(found[1])
    for error in (found[0], found[2]):
        assert isinstance(error, RuntimeError) and "1 of the other ranks failed" in str(error)


def test_a_callback_that_fails_behind_the_last_epoch_is_not_waited_for():
    def work(all_reduce):
        model = ranks.model()
        model.fit(X, Y, callbacks=[Failing("on_epoch_end 2")], all_reduce=all_reduce, **COMMON)
        return len(model.history.epochs)

    found = ranks.run(3, work)
    assert (found[0], found[2]) == (3, 3) and isinstance(found[1], RuntimeError)


def test_validation_that_fails_on_one_rank_ends_all():
    def work(all_reduce):
        model = ranks.model()
        if all_reduce.rank == 1:
            model._evaluate = lambda *arguments: 1 / 0
        model.fit(X, Y, all_reduce=all_reduce, validation_data=SEVEN, **COMMON)

    found = ranks.errors_of(3, work)
    assert isinstance(found[1], ZeroDivisionError)
    assert all(isinstance(error, RuntimeError) for error in (found[0], found[2]))


def kept(**options):
    model = cgru.Sequential([cgru.GRU(4, **options), cgru.Dense(2, "softmax")], seed=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def identity(array):
    pass


identity.rank, identity.size = 0, 1


class Wrong:
    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def __call__(self, array):
        pass


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (kept, {"all_reduce": 3}, TypeError, "all_reduce: expected a function that sums an array .* got int"),
        (kept, {"all_reduce": Wrong}, TypeError, "all_reduce: .* got the class Wrong"),
        (kept, {"all_reduce": np.copy}, TypeError, "all_reduce: expected a function that sums in place"),
        (kept, {"all_reduce": Wrong(2, 2)}, ValueError, "all_reduce: expected a rank less than the size 2, got 2"),
        (kept, {"all_reduce": Wrong(0, None)}, TypeError, "all_reduce.size"),
        (kept, {"chunk": 2}, ValueError, "chunk: expected None beside all_reduce, got 2"),
        (
            lambda: kept(stateful=True), {"shuffle": False, "batch_size": 23}, ValueError,
            r"all_reduce: expected None beside a state that is kept, got layer 0 \(GRU\)",
        ),
        (
            lambda: kept(return_sequences=True, activity_regularizer="l2"), {"y": STEPS}, ValueError,
            r"all_reduce: expected sequences of one length beside activity_regularizer, .* in layer 0 \(GRU\)",
        ),
    ],
)  # fmt: skip
def test_what_ranks_cannot_share_is_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        make().fit(**{"x": X, "y": Y, "all_reduce": identity, **COMMON} | options)


# -- what is written


def test_rank_0_alone_prints_and_saves(tmp_path, capsys):
    """Each rank could write the file; a run that goes on from it has the numbers of one that was never interrupted."""
    def work(all_reduce, epochs=2, resume=False):
        name = str(tmp_path / "run.safetensors")
        model = cgru.load(name) if resume else ranks.model()
        writes = [ModelCheckpoint(name), CSVLogger(tmp_path / "run.csv")]
        model.fit(
            X, Y, callbacks=writes, all_reduce=all_reduce, resume=resume, validation_data=SEVEN,
            **COMMON | {"epochs": epochs, "verbose": 2},
        )  # fmt: skip
        return ranks.figures(model)

    of_all(3, work)
    assert capsys.readouterr().out.count("epoch 1/2") == 1
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 3
    alone = ranks.model()
    alone.fit(X, Y, validation_data=SEVEN, **COMMON | {"epochs": 4})
    found = of_all(2, lambda all_reduce: work(all_reduce, 4, resume=True))
    for figures in found:
        ranks.assert_close(figures, ranks.figures(alone))
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 5


def test_checkpoints_within_an_epoch_are_refused(tmp_path):
    def work(all_reduce):
        writes = [ModelCheckpoint(tmp_path / "run", every=2)]
        ranks.model().fit(X, Y, callbacks=writes, all_reduce=all_reduce, **COMMON)

    for error in ranks.errors_of(2, work):
        assert "between epochs alone beside all_reduce" in str(error)
    model = ranks.model()

    class Interrupt(Callback):
        def on_batch_end(self, batch, logs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[Interrupt()], **COMMON)
    with pytest.raises(ValueError, match="resume: expected a run saved between epochs"):
        model.fit(X, Y, resume=True, all_reduce=identity, **COMMON)


def test_figures_of_an_epoch_without_a_term_are_nan():
    def work(all_reduce):
        model = tagger()
        model.fit([row[:0] for row in IDS[:4]], [[]] * 4, all_reduce=all_reduce, **COMMON)
        return model.history.history["loss"]

    for losses in of_all(3, work):
        assert all(math.isnan(loss) for loss in losses)
