"""kernels.multiply_pairs: the products of each pair by itself, to the bit, however they are shared."""

import numpy as np
import pytest

import cgru
from cgru import kernels

WEIGHTS, STEPS, MEMORY = 0, 1, 2
OWN, OTHER, F = [3, 0, 1, 8, 40, 2, 0], [5, 4, 0, 1, 70, 17, 0], 37  # steps of each pair; some have none
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def ends_of(counts):
    return np.concatenate([[0], np.cumsum(counts, dtype=np.intp)])


class Pairs:
    """Random matrices whose rows are parts of longer ones, and what is expected of their products."""

    def __init__(self, rng, dtype):
        self.ends, self.others = ends_of(OWN), ends_of(OTHER)
        self.places = ends_of([m * n for m, n in zip(OWN, OTHER, strict=True)])
        self.steps = rng.standard_normal((sum(OWN), F + 3)).astype(dtype)[:, 3:]
        self.memory = rng.standard_normal((sum(OTHER), F)).astype(dtype)
        self.weights = rng.standard_normal(self.places[-1]).astype(dtype)

    def call(self, what, outputs=None, **arrays):
        held = {"steps": self.steps, "memory": self.memory, "weights": self.weights} | arrays
        kernels.multiply_pairs(
            what, held["steps"], self.ends, held["memory"], self.others, held["weights"], self.places, outputs,
            kernels.get_num_threads(),
        )  # fmt: skip

    def each(self):
        """(rows of the steps, rows of the memory, places of the weights, weights (m, l)) of each pair."""
        for i, (m, n) in enumerate(zip(OWN, OTHER, strict=True)):
            places = slice(self.places[i], self.places[i + 1])
            own, other = slice(self.ends[i], self.ends[i + 1]), slice(self.others[i], self.others[i + 1])
            yield own, other, places, self.weights[places].reshape(m, n)

    def results(self):
        steps, memory = np.full_like(self.steps.base, np.nan)[:, 3:], np.full_like(self.memory, np.nan)
        weights, slopes = np.full_like(self.weights, np.nan), np.full_like(self.weights, np.nan)
        self.call(STEPS, steps=steps)
        self.call(MEMORY, memory=memory)
        self.call(WEIGHTS, weights=weights)
        self.call(WEIGHTS, weights=slopes, outputs=weights)
        return steps, memory, weights, slopes


@DTYPES
def test_products_are_those_of_each_pair(rng, dtype):
    pairs = Pairs(rng, dtype)
    steps, memory, weights, slopes = pairs.results()
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}
    for own, other, places, given in pairs.each():
        with cgru.backend("native"):
            np.testing.assert_array_equal(steps[own], kernels.gemm(given, pairs.memory[other]))
            np.testing.assert_array_equal(memory[other], kernels.gemm(given, pairs.steps[own], transpose_a=True))
        scores = pairs.steps[own].astype(float) @ pairs.memory[other].astype(float).T
        expected = np.exp(scores - scores.max(axis=1, initial=-np.inf, keepdims=True))
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(weights[places], expected.ravel(), **close)
        slope = expected * (scores - (expected * scores).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(slopes[places], slope.ravel(), rtol=close["rtol"], atol=20 * close["atol"])


@DTYPES
def test_threads_and_tasks_change_no_bit(rng, limits, dtype):
    pairs = Pairs(rng, dtype)
    expected = pairs.results()
    limits(small_work=0, gil_work=0, measured=0)
    for threads in (1, 2, 3, 7):
        kernels.set_num_threads(threads)
        for thread_work, signal_work in ((0, 1), (0, 10**9), (1000, 3000), (10**6, 1), (10**6, 10**9)):
            limits(thread_work=thread_work, signal_work=signal_work)
            for found, known in zip(pairs.results(), expected, strict=True):
                np.testing.assert_array_equal(found, known)


@DTYPES
def test_no_pair_at_all(dtype):
    none, ends = np.empty((0, 3), dtype), np.zeros(1, np.intp)
    for what in (WEIGHTS, STEPS, MEMORY):
        kernels.multiply_pairs(what, none, ends, none, ends, none[:, 0], ends, None, 2)
