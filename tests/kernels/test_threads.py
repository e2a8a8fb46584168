"""Sharing a call among threads, the routes of the products, and what they promise: the same bits."""

import os
import platform
import threading

import checks
import children
import numpy as np
import pytest

import cgru
from cgru import kernels, recurrence, scheduling

MODES = pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])


def run(problem, weights, plan, threads):
    """Outputs, final state and gradients with so many threads."""
    kernels.set_num_threads(threads)
    n, t, _ = problem.x.shape
    y = np.zeros((n, t, problem.h0.shape[1]), problem.x.dtype)
    h, tape = recurrence.forward(weights, problem.x, problem.h0, plan, y, training=True)
    inference = np.zeros_like(y)
    h_inference, _ = recurrence.forward(weights, problem.x, problem.h0, plan, inference)
    return [y, h, inference, h_inference, *recurrence.backward(problem.dy, problem.dh, tape)]


def typed(problem, dtype):
    return checks.Problem(*(array.astype(dtype) for array in problem))


@MODES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["all", "lengths", "mask"])
@pytest.mark.parametrize(
    ("n", "few_rows"), [(1, 8), (2, 8), (3, 8), (3, 1), (7, 8), (7, 2), (8, 8), (31, 8), (31, 40), (67, 8)]
)
def test_the_number_of_threads_changes_no_bit(rng, eager, n, few_rows, kind, dtype, reset_after):
    kernels.tune(few_rows=few_rows)  # below by units, from there on by rows
    sizes = (n, 37, 5, 150)
    problem = typed(checks.random_problem(rng, reset_after, sizes=sizes), dtype)
    weights = recurrence.prepare(problem.kernel, problem.recurrent_kernel, problem.bias, reset_after=reset_after)
    for reverse in (False, True):
        plan = scheduling.schedule(n, 37, **checks.random_validity(rng, kind, n, 37), reverse=reverse)
        alone = run(problem, weights, plan, 1)
        for threads in (2, 5):
            for a, b in zip(alone, run(problem, weights, plan, threads), strict=True):
                np.testing.assert_array_equal(a, b)


@MODES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_calls_that_find_a_worker_awake_change_no_bit(rng, eager, dtype, reset_after):
    kernels.tune(measured=1, small_work=0, close_ns=10**9)
    kernels.forget()
    layer = cgru.GRU(37, return_sequences=True, reset_after=reset_after, dtype=dtype, seed=1, input_size=5)
    x = rng.standard_normal((3, 200, 5)).astype(dtype)
    results = []
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        h, states = np.zeros((3, 37), dtype), []
        for t in range(200):  # so close that a worker wakes, and is still awake when the next one comes
            states.append(layer.step(np.ascontiguousarray(x[:, t]), h, h).copy())
        results.append((np.stack(states, axis=1), layer(x[:1]), layer(x)))
        np.testing.assert_array_equal(results[-1][0], results[-1][2])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@MODES
@pytest.mark.parametrize("n", [1, 4, 9])
def test_both_directions_at_once(rng, eager, n, reset_after):
    layer = cgru.GRU(33, reset_after=reset_after, num_layers=2, bidirectional=True, input_size=5, seed=0)
    x = rng.standard_normal((n, 40, 5)).astype("float32")
    lengths = rng.integers(0, 41, n)
    results = []
    for threads in (1, 2):
        kernels.set_num_threads(threads)
        y, h, tape = layer.forward(x, lengths=lengths, training=True)
        dx, dh0, grads = layer.backward(np.ones_like(y), tape, dh=np.ones_like(h))
        results.append([y, h, dx, dh0, *grads.values()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@MODES
@pytest.mark.parametrize("threads", [1, 2])
def test_however_a_sequence_is_cut(rng, eager, threads, reset_after):
    """Rows alone, chunks, and single steps give the bits of the whole batch."""
    kernels.set_num_threads(threads)
    layer = cgru.GRU(70, reset_after=reset_after, return_sequences=True, return_state=True, input_size=9, seed=0)
    x = rng.standard_normal((29, 150, 9)).astype("float32")  # more rows than a thread takes at a time
    y, h = layer(x)
    for rows in (slice(0, 1), slice(3, 6), slice(4, 11)):
        y_rows, h_rows = layer(x[rows])
        np.testing.assert_array_equal(y_rows, y[rows])
        np.testing.assert_array_equal(h_rows, h[rows])
    state, parts = None, []
    for start, end in ((0, 1), (1, 65), (65, 66), (66, 150)):
        part, state = layer(x[:, start:end], initial_state=state)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), y)
    for rows in (slice(0, 1), slice(2, 13), slice(0, 29)):
        state = np.zeros_like(h[rows])
        for t in range(150):
            layer.step(x[rows, t], state, out=state)
            np.testing.assert_array_equal(state, y[rows, t])


def test_two_callers_at_once(rng, eager):
    """One of them finds the pool busy and works alone."""
    kernels.set_num_threads(2)
    layer = cgru.GRU(130, input_size=7, seed=0)
    batches = [rng.standard_normal((n, 60, 7)).astype("float32") for n in (1, 2, 9, 20)]
    expected = [layer(x) for x in batches]
    wrong = []

    def call(x, y):
        for _ in range(30):
            if not np.array_equal(layer(x), y):
                wrong.append(x.shape)

    callers = [threading.Thread(target=call, args=pair) for pair in zip(batches, expected, strict=True)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_num_threads():
    before = cgru.get_num_threads()
    try:
        cgru.set_num_threads(3)
        assert cgru.get_num_threads() == 3
        for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)):
            with pytest.raises(error, match=r"^n: expected .* got "):
                cgru.set_num_threads(wrong)
        assert cgru.get_num_threads() == 3
    finally:
        cgru.set_num_threads(before)


def child(code, **environment):
    """The output of Python code in a process of its own."""
    return children.printed("-c", code, env=children.environment(**environment))


@pytest.mark.parametrize(("value", "expected"), [("3", "3"), ("4,2", "4"), ("1", "1")])
def test_omp_num_threads(value, expected):
    assert child("import cgru; print(cgru.get_num_threads())", OMP_NUM_THREADS=value) == expected


def test_threadpoolctl_limits_us():
    pytest.importorskip("threadpoolctl")
    code = """
import threadpoolctl, cgru
cgru.set_num_threads(4)
with threadpoolctl.threadpool_limits(1):
    inside = cgru.get_num_threads()
ours = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "cgru"]
print(inside, cgru.get_num_threads(), ours)
"""
    assert child(code) == "1 4 [4]"
    late = "import cgru, threadpoolctl; from cgru.threads import register_threadpoolctl as r; r(); r()"
    assert child(code.replace("import threadpoolctl, cgru", late)) == "1 4 [4]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("n", [1, 40])
def test_a_forked_child_has_threads_again(n):
    code = f"""
import os, warnings, numpy as np, cgru
from cgru import kernels
warnings.simplefilter("ignore")
kernels.tune(thread_work=0, team_work=0, measured=0)
cgru.set_num_threads(2)
layer, x = cgru.GRU(140, input_size=3, seed=0), np.ones(({n}, 200, 3), "float32")
y = layer(x)
child = os.fork()
if child == 0:
    os._exit(0 if all(np.array_equal(layer(x), y) for _ in range(20)) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(layer(x), y))
"""
    assert child(code) == "0 True"


def test_denormals_are_flushed_inside_and_nowhere_else(eager):
    """A state that decays is zero from the first denormal number on; arithmetic outside keeps them."""
    kernels.set_num_threads(2)
    tiny = np.float32(1e-40)
    for n in (1, 16):
        units = 80
        layer = cgru.GRU(
            units, activation="linear", recurrent_activation="linear", return_sequences=True, return_state=True,
            input_size=1,
        )  # fmt: skip
        zeros = [np.zeros_like(w) for w in layer.get_weights()]
        zeros[2][units : 2 * units] = 0.5  # z: the state halves at every step
        layer.set_weights(zeros)
        y, h = layer(np.zeros((n, 200, 1)), initial_state=np.ones((n, units)))
        assert (y[:, :126] > 0).all() and (h == 0).all()
        if platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64"):
            assert (y[:, 126:] == 0).all()
        assert tiny * np.float32(0.5) != 0
