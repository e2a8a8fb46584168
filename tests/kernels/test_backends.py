"""The products by our own kernels or by BLAS: the same numbers to rounding, and who takes which when."""

import threading

import checks
import children
import numpy as np
import pytest

import cgru
from cgru import kernels, recurrence, scheduling

MODES = pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])


def passes(problem, reset_after, plan, backend):
    weights = recurrence.prepare(
        problem.kernel, problem.recurrent_kernel, problem.bias, reset_after=reset_after, backend=backend
    )
    n, t, _ = problem.x.shape
    y = np.zeros((n, t, problem.h0.shape[1]), problem.x.dtype)
    h, tape = recurrence.forward(weights, problem.x, problem.h0, plan, y, training=True)
    inference = np.zeros_like(y)
    h_inference, _ = recurrence.forward(weights, problem.x, problem.h0, plan, inference)
    return [y, h, inference, h_inference, *recurrence.backward(problem.dy, problem.dh, tape)]


@MODES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["all", "lengths", "mask"])
@pytest.mark.parametrize(("n", "blas_rows"), [(1, 2048), (1, 7), (3, 2048), (13, 2048), (13, 1)])
def test_backends_agree(rng, n, blas_rows, kind, reverse, dtype, reset_after):
    """Over one block of steps and over several."""
    problem = checks.Problem(*(a.astype(dtype) for a in checks.random_problem(rng, reset_after, sizes=(n, 90, 21, 37))))
    plan = scheduling.schedule(n, 90, **checks.random_validity(rng, kind, n, 90), reverse=reverse)
    before = kernels.tune(blas_rows=blas_rows)
    try:
        results = [passes(problem, reset_after, plan, name) for name in kernels.BACKENDS]
    finally:
        kernels.tune(**before)
    for a, b in zip(*map(checks.arrays_in, results), strict=True):
        checks.assert_close(b, a, 2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("time_major", [False, True])
def test_views_and_orders(rng, native, time_major):
    """Inputs that BLAS reads in place, and those that it cannot step through."""
    layer = cgru.GRU(11, return_sequences=True, time_major=time_major, input_size=6, dtype="float64", seed=0)
    wide = rng.standard_normal((24, 30, 12))
    one_row_often = np.broadcast_to(wide[:1, :, :6], (5, 30, 6))
    for x in (wide[:4, :, :6], wide[:4, ::3, :6], wide[::-1, :, :6], wide[:1, :, 3:9], one_row_often):
        expected = layer(x)
        with cgru.backend("blas"):
            checks.assert_close(layer(x), expected, 1e-12)


@MODES
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "stack"])
def test_a_layer_takes_it_at_its_next_call_and_a_tape_keeps_it(rng, native, options, reset_after):
    layer = cgru.GRU(19, return_sequences=True, reset_after=reset_after, input_size=5, seed=0, **options)
    x = rng.standard_normal((3, 40, 5)).astype("float32")
    y, _, tape = layer.forward(x, training=True)
    expected = layer.backward(y, tape)
    with cgru.backend("blas"):
        by_blas, _, blas_tape = layer.forward(x, training=True)
        again = layer.backward(y, tape)
        assert all(cell.weights.backend == "blas" for cell in blas_tape.cells)
    assert all(cell.weights.backend == "native" for cell in tape.cells)
    checks.assert_close(by_blas, y, 2e-5)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(again[0], expected[0])
    for name in expected[2]:
        np.testing.assert_array_equal(again[2][name], expected[2][name])
        checks.assert_close(layer.backward(by_blas, blas_tape)[2][name], expected[2][name], 1e-4)


@MODES
def test_steps_take_it_too(rng, native, reset_after):
    layer = cgru.GRU(23, reset_after=reset_after, input_size=4, seed=0)
    x, h = rng.standard_normal((2, 4)).astype("float32"), rng.standard_normal((2, 23)).astype("float32")
    expected = layer.step(x, h)
    with cgru.backend("blas"):
        out = np.empty_like(h)
        assert layer.step(x, h, out) is out
        checks.assert_close(out, expected, 2e-6)
        assert layer._ready().cells[0].backend == "blas"
    np.testing.assert_array_equal(layer.step(x, h), expected)


def test_the_context_is_of_this_thread_alone(native):
    seen = []
    with cgru.backend("blas"):
        other = threading.Thread(target=lambda: seen.append(cgru.get_backend()))
        other.start()
        other.join()
        with cgru.backend("native"):
            assert cgru.get_backend() == "native"
        assert cgru.get_backend() == "blas"
    assert cgru.get_backend() == "native" and seen == ["native"]
    with pytest.raises(RuntimeError), cgru.backend("blas"):
        raise RuntimeError
    assert cgru.get_backend() == "native"


@pytest.mark.parametrize("wrong", ["fast", "BLAS", None, 1, True])
def test_unknown_backends_are_refused(native, wrong):
    with pytest.raises(ValueError, match=r"^backend: expected one of native, blas, got "):
        cgru.set_backend(wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match=r"^backend: "), cgru.backend(wrong):
            pass
    assert cgru.get_backend() == "native"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "native"),
        ("native", "native"),
        ("blas", "blas"),
        ("fast", "backend: expected one of native, blas, got 'fast'"),
    ],
)
def test_the_environment_chooses_the_first(value, expected):
    code = "try:\n import cgru; print(cgru.get_backend())\nexcept ValueError as error: print(error)"
    done = children.python("-c", code, env=children.environment(CGRU_BACKEND=value))
    assert done.stdout.strip() == expected, done.stderr
