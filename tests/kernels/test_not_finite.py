"""Infinities and NaN go exactly where the equations take them: what pads units and features to whole vectors takes part
in nothing."""

import checks
import numpy as np
import pytest

import cgru
from cgru import kernels, recurrence, reference, scheduling

MODES = pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
VALUES = (np.inf, -np.inf, np.nan)
SIZES = (3, 4, 5)  # N, T, D: D is no whole vector either


def computed(problem, reset_after, activation, recurrent_activation, backend="native"):
    """What the kernels make of a problem, by name."""
    weights = recurrence.prepare(
        problem.kernel, problem.recurrent_kernel, problem.bias, reset_after=reset_after, activation=activation,
        recurrent_activation=recurrent_activation, backend=backend,
    )  # fmt: skip
    n, t, _ = problem.x.shape
    plan, y = scheduling.schedule(n, t), np.zeros_like(problem.dy)
    h, tape = recurrence.forward(weights, problem.x, problem.h0, plan, y, training=True)
    y_inference = np.zeros_like(y)
    h_inference, _ = recurrence.forward(weights, problem.x, problem.h0, plan, y_inference)
    np.testing.assert_array_equal(y_inference, y)
    np.testing.assert_array_equal(h_inference, h)
    gradients = recurrence.backward(problem.dy, problem.dh, tape)._asdict()
    assert gradients.pop("gain") is gradients.pop("initial") is None
    return {"y": y, "h": h, **gradients}


def expected(problem, reset_after, activation, recurrent_activation):
    p = problem
    with np.errstate(invalid="ignore", over="ignore"):
        y, h, tape = reference.forward(
            p.x, p.kernel, p.recurrent_kernel, p.bias, p.h0, reset_after, activation, recurrent_activation
        )
        return {"y": y, "h": h, **reference.backward(p.dy, p.dh, tape)}


def assert_same_places(actual, wanted, tolerance, where):
    """NaN at the same places, the same infinities, and the rest as close as ever."""
    for name, array in wanted.items():
        found = actual[name]
        what = f"{name}, {where}"
        np.testing.assert_array_equal(np.isnan(found), np.isnan(array), what)
        np.testing.assert_array_equal(np.isposinf(found), np.isposinf(array), what)
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(array), what)
        finite = np.isfinite(array)
        checks.assert_close(found[finite], array[finite], tolerance, what)


def poisoned(problem, rng, places):
    """Copies of the problem with one element of one array replaced, and what it is."""
    for field in problem._fields:
        for _ in range(places):
            arrays = {name: array.copy() for name, array in problem._asdict().items()}
            index = tuple(int(rng.integers(size)) for size in arrays[field].shape)
            value = VALUES[rng.integers(len(VALUES))]
            arrays[field][index] = value
            yield checks.Problem(**arrays), f"{value} at {field}{list(index)}"


@MODES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", range(1, 18))
def test_as_the_equations_have_it(rng, units, dtype, reset_after):
    problem = checks.random_problem(rng, reset_after, sizes=(*SIZES, units))
    problem = checks.Problem(*(array.astype(dtype) for array in problem))
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    for case, where in poisoned(problem, rng, 4):
        wanted = expected(case, reset_after, "tanh", "sigmoid")
        assert_same_places(computed(case, reset_after, "tanh", "sigmoid"), wanted, tolerance, where)


@MODES
@pytest.mark.parametrize("activation,recurrent_activation", checks.PAIRS)
def test_every_activation(rng, activation, recurrent_activation, reset_after):
    for units in (3, 17):
        sizes = (*SIZES, units)
        problem = checks.random_problem(rng, reset_after, activation, recurrent_activation, sizes)
        for case, where in poisoned(problem, rng, 3):
            wanted = expected(case, reset_after, activation, recurrent_activation)
            found = computed(case, reset_after, activation, recurrent_activation)
            assert_same_places(found, wanted, 1e-12, where)


@MODES
def test_the_same_by_blas(rng, reset_after):
    problem = checks.random_problem(rng, reset_after, sizes=(*SIZES, 5))
    for case, where in poisoned(problem, rng, 6):
        wanted = expected(case, reset_after, "tanh", "sigmoid")
        assert_same_places(computed(case, reset_after, "tanh", "sigmoid", "blas"), wanted, 1e-12, where)


@MODES
@pytest.mark.parametrize("rows", [1, 2, 3, 20])
def test_the_same_however_the_work_is_shared(rng, rows, reset_after):
    """By units and by rows, in blocks of few steps, with two threads."""
    problem = checks.random_problem(rng, reset_after, sizes=(rows, 6, 5, 21))
    before, threads = kernels.tune(thread_work=0, team_work=0, measured=0), kernels.get_num_threads()
    try:
        for case, where in poisoned(problem, rng, 3):
            kernels.tune(large_rows=512, block_rows=64)
            kernels.set_num_threads(1)
            alone = computed(case, reset_after, "tanh", "sigmoid")
            kernels.set_num_threads(2)
            for large_rows in (512, rows):
                kernels.tune(large_rows=large_rows, block_rows=rows)
                shared = computed(case, reset_after, "tanh", "sigmoid")
                assert_same_places(shared, alone, 1e-12, where)
    finally:
        kernels.tune(**before)
        kernels.set_num_threads(threads)


@MODES
@pytest.mark.parametrize("units", [5, 16])
def test_one_infinity_in_the_input(rng, units, reset_after):
    """It saturates the gates: outputs and the gradient of the input stay finite, and of the weights only the kernel's
    row of that feature is lost."""
    layer = cgru.GRU(units, reset_after=reset_after, return_sequences=True, input_size=3, seed=0)
    x = rng.standard_normal((2, 4, 3)).astype("float32")
    x[0, 2, 0] = np.inf
    y, _, tape = layer.forward(x, training=True)
    dx, dh0, gradients = layer.backward(np.ones_like(y), tape)
    assert np.isfinite(y).all() and np.isfinite(dx).all() and np.isfinite(dh0).all()
    assert np.isnan(gradients["kernel"][0]).all() and np.isfinite(gradients["kernel"][1:]).all()
    assert np.isfinite(gradients["recurrent_kernel"]).all() and np.isfinite(gradients["bias"]).all()


@MODES
def test_a_nan_stays_in_its_row(rng, reset_after):
    """In a batch of any size, whatever the units: the other rows have the bits that they have without it."""
    for rows, units in ((2, 5), (3, 16), (9, 7), (20, 33)):
        layer = cgru.GRU(units, reset_after=reset_after, return_sequences=True, input_size=3, seed=0)
        x = rng.standard_normal((rows, 4, 3)).astype("float32")
        dy = rng.standard_normal((rows, 4, units)).astype("float32")
        clean = layer.forward(x, training=True)
        dx_clean, dh0_clean, _ = layer.backward(dy, clean[2])
        x[1, 2, 1] = np.nan
        y, h, tape = layer.forward(x, training=True)
        dx, dh0, _ = layer.backward(dy, tape)
        assert np.isnan(y[1, 2:]).all() and np.isfinite(y[1, :2]).all() and np.isnan(dx[1]).all()
        for a, b in ((y, clean[0]), (h, clean[1]), (dx, dx_clean), (dh0, dh0_clean)):
            np.testing.assert_array_equal(np.delete(a, 1, axis=0), np.delete(b, 1, axis=0))
