"""Ranks that are threads of one process, and what tests of all engines train."""

import threading

import numpy as np

import cgru

PATIENCE = 500  # seconds after which a rank that waits for the others gives up


class Sum:
    """all_reduce of one of `size` threads, in the order of their ranks: the same bits for each of them."""

    def __init__(self, group, rank):
        self._group, self.rank, self.size, self.calls = group, rank, group.size, []

    def __call__(self, array):
        assert array.ndim == 1 and array.flags.c_contiguous and array.dtype in (np.float32, np.float64)
        self.calls.append((len(array), array.dtype.name))
        self._group.sum(self.rank, array)


class Group:
    """Threads that sum; like an engine, it fails for all if one of them ends, or comes with another length."""

    def __init__(self, size):
        self.size, self.arrays, self.barrier = size, [None] * size, threading.Barrier(size)

    def sum(self, rank, array):
        self.arrays[rank] = array
        self.barrier.wait(PATIENCE)
        lengths = {len(other) for other in self.arrays}
        assert len(lengths) == 1, f"ranks came with arrays of {lengths}"
        total = np.sum(self.arrays, axis=0, dtype=array.dtype)
        self.barrier.wait(PATIENCE)
        array[:] = total


def run(size, work, plain=False):
    """Call ``work(all_reduce)`` in `size` threads; return what each returned, or the exception that it raised. `plain`
    functions do not say which rank they are."""
    group, results = Group(size), [None] * size

    def rank(i):
        own = Sum(group, i)
        try:
            with cgru.limit_threads(1):
                results[i] = work((lambda array: own(array)) if plain else own)
        except BaseException as error:
            results[i] = error
            if isinstance(error, threading.BrokenBarrierError | AssertionError):
                group.barrier.abort()

    threads = [threading.Thread(target=rank, args=[i], daemon=True) for i in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a rank hangs"
    return results


def errors_of(size, work):
    """What `work` raised in each rank."""
    results = run(size, work)
    assert all(isinstance(result, Exception) for result in results), results
    return results


def data(count=23, seed=0, ragged=True):
    """Sequences (T_i, 3) of unequal lengths, or of 6 steps, and their labels: 0 or 1."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, count) if ragged else np.full(count, 6)
    x = [rng.standard_normal((n, 3)).astype(np.float32) for n in lengths]
    return x, np.array([int(row[:, 0].sum() > 0) for row in x])


def model(dtype="float64", dropout=0.3, layers=None, optimizer=None, metrics=("accuracy", "macro_f1"), **loss):
    """A classifier, the same in every process; in float64, so that roundings are small."""
    if layers is None:
        layers = [
            cgru.GRU(5, dropout=dropout, kernel_regularizer="l2", dtype=dtype),
            cgru.Dense(2, activation="softmax", dtype=dtype),
        ]
    made = cgru.Sequential(layers, seed=3)
    optimizer = cgru.optimizers.Adam(0.05, global_clipnorm=0.5) if optimizer is None else optimizer
    made.compile(optimizer, loss.get("loss", "sparse_categorical_crossentropy"), metrics=list(metrics))
    return made


def figures(model):
    """What two ways of training have to agree in: weights, and the history."""
    return model.get_weights(), model.history.history


def assert_close(found, expected, rtol=1e-9):
    (weights, history), (known_weights, known_history) = found, expected
    assert history.keys() == known_history.keys()
    for name in history:
        np.testing.assert_allclose(history[name], known_history[name], rtol=rtol, atol=rtol, err_msg=name)
    for array, known in zip(weights, known_weights, strict=True):
        np.testing.assert_allclose(array, known, rtol=rtol, atol=rtol)
