"""`fit(all_reduce=)` on ranks that are not alike: all of them see it, at the same step."""

import numpy as np
import pytest
import ranks

import cgru
from cgru.callbacks import Callback

COMMON = {"epochs": 3, "batch_size": 5, "verbose": 0}
X, Y = ranks.data()
SEVEN = ranks.data(7, seed=1)


@pytest.mark.parametrize("difference", ["seed", "weights", "epochs", "examples", "no seed"])
def test_ranks_that_differ_are_refused_before_the_first_update(difference):
    def work(all_reduce):
        other = all_reduce.rank == 1
        model = ranks.model()
        if difference == "seed" and other:
            model = cgru.Sequential([cgru.GRU(5), cgru.Dense(2, "softmax")], seed=4)
        elif difference in ("no seed", "seed"):
            seed = None if difference == "no seed" else 3
            model = cgru.Sequential([cgru.GRU(5), cgru.Dense(2, "softmax")], seed=seed)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.build(3)
        if difference == "weights" and other:
            model.set_weights([array + 0.01 for array in model.get_weights()])
        before = model.get_weights()
        x, y = (X[:22], Y[:22]) if difference == "examples" and other else (X, Y)
        options = COMMON | ({"epochs": 4} if difference == "epochs" and other else {})
        try:
            model.fit(x, y, all_reduce=all_reduce, **options)
        finally:
            for array, known in zip(model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(array, known)

    for error in ranks.errors_of(3, work):
        assert isinstance(error, ValueError)
        assert "all_reduce: expected ranks that begin with the same weights" in str(error)


@pytest.mark.parametrize("what", ["units", "dtype", "epochs", "labels", "no examples", "batch_size"])
def test_what_fails_or_differs_before_the_first_sum_of_gradients_is_seen_by_all(what):
    """No rank waits for one that raised, or comes with a buffer of another length or type."""

    def work(all_reduce):
        other = all_reduce.rank == 1
        dtype = "float64" if what == "dtype" and other else "float32"
        units = 6 if what == "units" and other else 5
        model = cgru.Sequential([cgru.GRU(units, dtype=dtype), cgru.Dense(2, "softmax")], seed=3)
        model.compile("sgd", "sparse_categorical_crossentropy")
        options = COMMON | {"x": X, "y": Y}
        if other:
            options |= {
                "labels": {"y": Y + 9}, "no examples": {"x": [], "y": []}, "batch_size": {"batch_size": 0},
                "epochs": {"epochs": 0},
            }.get(what, {})  # fmt: skip
        model.fit(**options, all_reduce=all_reduce)

    found = ranks.errors_of(3, work)
    if what in ("labels", "no examples", "batch_size"):
        assert all("1 of the other ranks failed" in str(found[i]) for i in (0, 2))
        assert isinstance(found[1], ValueError)
    else:
        assert all("expected ranks that begin with the same weights" in str(error) for error in found)


@pytest.mark.parametrize("makes", ["nothing", "means", "plain means", "another type"])
def test_what_does_not_sum_is_seen(makes):
    def work(all_reduce):
        class Wrong:
            rank, size = all_reduce.rank, all_reduce.size

            def __call__(self, array):
                copy = array.copy()
                all_reduce(copy)
                if "means" in makes:
                    array[:] = copy / 2
                return copy.tolist() if makes == "another type" else None

        wrong = Wrong()
        ranks.model().fit(X, Y, all_reduce=(lambda array: wrong(array)) if makes == "plain means" else wrong, **COMMON)

    for error in ranks.errors_of(2, work):
        assert "all_reduce: expected a function that sums" in str(error)


def other_settings(other, model, options):
    """What one rank has that others have not."""
    return {
        "rate": lambda: model.compile(cgru.optimizers.SGD(0.1), model.loss),
        "optimizer": lambda: model.compile("rmsprop", model.loss),
        "loss": lambda: model.compile("sgd", "mse"),
        "options of a layer": lambda: None,
        "examples": lambda: options.update(x=X[::-1]),
        "labels": lambda: options.update(y=1 - Y),
        "weights of examples": lambda: options.update(sample_weight=np.linspace(1, 2, 23)),
        "weights of classes": lambda: options.update(class_weight={0: 1.0, 1: 3.0}),
        "validation": lambda: options.update(validation_data=(X[:5], Y[:5])),
        "batches": lambda: options.update(x=[(X[:4], Y[:4]), (X[4:9], Y[4:9])][:: -1 if other else 1], y=None),
    }


DIFFERENCES = list(other_settings(False, None, {}))


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_ranks_of_other_settings_or_data_are_refused_before_the_first_update(difference):
    def work(all_reduce):
        other = all_reduce.rank == 1
        dropout = 0.1 * (other and difference == "options of a layer")
        model = cgru.Sequential([cgru.GRU(5, dropout=dropout), cgru.Dense(2, "softmax")], seed=3)
        model.compile("sgd", "sparse_categorical_crossentropy" if difference != "loss" else "mae")
        options = COMMON | {"x": X, "y": Y, "validation_data": SEVEN}
        if difference == "loss":
            options |= {"y": np.eye(2)[Y], "validation_data": None}
        if other or difference == "batches":
            other_settings(other, model, options)[difference]()
        try:
            model.fit(**options, all_reduce=all_reduce)
        finally:
            assert model.iterations == 0

    for error in ranks.errors_of(3, work):
        assert isinstance(error, ValueError) and "rank" in str(error)


def test_a_rank_that_is_there_twice_is_seen():
    def work(all_reduce):
        class Twice:
            rank, size = 0, 2

            def __call__(self, array):
                all_reduce(array)

        ranks.model().fit(X, Y, all_reduce=Twice(), **COMMON)

    for error in ranks.errors_of(2, work):
        assert "sums over ranks from 0 to 1, each once" in str(error)


def test_a_learning_rate_that_one_rank_sets_is_seen():
    class Setting(Callback):
        def on_epoch_end(self, epoch, logs):
            if self.training.rank == 1:
                self.training.learning_rate = 0.5

    def work(all_reduce):
        model = ranks.model()
        try:
            model.fit(X, Y, callbacks=[Setting()], all_reduce=all_reduce, **COMMON)
        finally:
            assert model.iterations == 5

    for error in ranks.errors_of(3, work):
        assert "learning_rate: expected each rank to have the same" in str(error)


@pytest.mark.parametrize("fails", [False, True])
def test_iterables_that_end_or_fail_on_one_rank_end_all(fails):
    def work(all_reduce):
        def batches():
            yield X[:4], Y[:4]
            yield X[4:9], Y[4:9]
            if all_reduce.rank == 1:
                if fails:
                    raise OSError("no disk")
                return
            yield X[9:], Y[9:]

        model = ranks.model()
        try:
            model.fit(batches, all_reduce=all_reduce, **COMMON | {"batch_size": 32})
        finally:
            assert model.iterations == 2

    found = ranks.errors_of(3, work)
    if fails:
        assert isinstance(found[1], OSError) and "1 of the other ranks failed" in str(found[0])
    else:
        assert all("x: expected as many batches on each rank" in str(error) for error in found)
