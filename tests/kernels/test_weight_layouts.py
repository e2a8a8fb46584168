"""Weights of any gate order, sign of z and strides: packed without a copy before, gradients written back the same
way."""

import itertools

import checks
import numpy as np
import pytest

from cgru import kernels, recurrence, reference, scheduling

D, H = checks.D, checks.H
ORDERS = ["".join(order) for order in itertools.permutations("rzn")]
LAYOUTS = [recurrence.Layout(order, z) for order in ORDERS for z in ("new", "old")]
STORED = {  # how somebody's memory holds a matrix (., 3H)
    "rows": lambda matrix: np.ascontiguousarray(matrix.T).T,
    "columns": np.ascontiguousarray,
    "every second": lambda matrix: np.repeat(np.repeat(matrix, 2, axis=0), 2, axis=1)[::2, ::2],
    "backwards": lambda matrix: matrix[::-1, ::-1].copy()[::-1, ::-1],
}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


def foreign(array, layout):
    """Our (., 3H) in another layout."""
    blocks = dict(zip("rzn", np.split(array, 3, axis=-1), strict=True))
    if layout.z == "old":
        blocks["z"] = -blocks["z"]
    return np.concatenate([blocks[gate] for gate in layout.gates], axis=-1)


def problem(rng, reset_after, dtype, sizes=(checks.N, checks.T, D, H)):
    return checks.Problem(*(a.astype(dtype) for a in checks.random_problem(rng, reset_after, sizes=sizes)))


def gradients(weights, p, **out):
    n, t, _ = p.x.shape
    plan = scheduling.schedule(n, t)
    _, tape = recurrence.forward(weights, p.x, p.h0, plan, training=True)
    return recurrence.backward(p.dy, p.dh, tape, **out)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.gates}-{layout.z}")
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
def test_another_layout_is_the_same_layer(rng, reset_after, layout, stored, dtype):
    p = problem(rng, reset_after, dtype)
    own = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, reset_after=reset_after)
    store = STORED[stored]
    kernel, recurrent = (store(foreign(a, layout)) for a in (p.kernel, p.recurrent_kernel))
    bias = foreign(p.bias, layout)
    bias = tuple(bias) if reset_after else bias
    before = kernel.copy(), recurrent.copy()
    weights = recurrence.prepare(kernel, recurrent, bias, reset_after=reset_after, layout=layout, backward="now")
    assert (kernel == before[0]).all() and (recurrent == before[1]).all()
    assert weights._sources is None  # nothing was copied for later
    checks.assert_same_arrays([weights.kernel, weights.recurrent_kernel], [own.kernel, own.recurrent_kernel])
    assert (weights.bias == own.bias).all()  # the padding of z may be -0
    checks.assert_same_arrays(weights.back(), own.back())

    expected = gradients(own, p)
    new = gradients(weights, p)
    given = [store(np.full_like(foreign(a, layout), np.nan)) for a in (p.kernel, p.recurrent_kernel)]
    vectors = [np.full(3 * H, np.nan, dtype) for _ in range(2)] if reset_after else np.full(3 * H, np.nan, dtype)
    dx, dh0 = np.full_like(p.x, np.nan), np.full_like(p.h0, np.nan)
    out = recurrence.Gradients(dx, dh0, *given, vectors)
    written = gradients(weights, p, out=out)
    for array, where in zip(written, out, strict=True):
        assert array is where
    for found in (new, written):
        checks.assert_same_arrays([found.dx, found.dh0], [expected.dx, expected.dh0])
        for name in ("kernel", "recurrent_kernel", "bias"):
            wanted = foreign(getattr(expected, name), layout)
            assert (np.array(getattr(found, name)) == wanted).all(), name


@pytest.mark.parametrize("backend", ["native", "blas"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_ones_on_threads(rng, threads, backend, dtype):
    """The panels of a large matrix are packed, and written back, by several threads."""
    most = kernels.get_num_threads()
    layout = recurrence.Layout("znr", "old")
    p = problem(rng, True, dtype, (2, 3, 131, 149))
    options = {"backend": backend, "reset_after": True}
    own = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, **options, threads=1)
    rows = [np.ascontiguousarray(foreign(a, layout).T).T for a in (p.kernel, p.recurrent_kernel)]
    expected = gradients(own, p)
    try:
        kernels.set_num_threads(threads)
        weights = recurrence.prepare(*rows, foreign(p.bias, layout), layout=layout, **options)
        found = gradients(weights, p)
    finally:
        kernels.set_num_threads(most)
    names = ("kernel", "recurrent_kernel")
    checks.assert_same_arrays([getattr(weights, name) for name in names], [getattr(own, name) for name in names])
    checks.assert_same_arrays(weights.back(), own.back())
    for name in (*names, "bias"):
        assert (getattr(found, name) == foreign(getattr(expected, name), layout)).all(), name


def test_weights_for_later(rng, dtype):
    """What backward reads is the same whenever it is made, and is made once."""
    p = problem(rng, True, dtype)
    now = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, reset_after=True, backward="now")
    later = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, reset_after=True)
    checks.assert_same_arrays(later.back(), now.back())
    assert later.back() is later.back()


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
def test_z_of_the_old_state_needs_a_symmetric_gate(rng, activation):
    p = problem(rng, False, "float64")
    with pytest.raises(ValueError, match="recurrent_activation: expected one of sigmoid, .* got '" + activation):
        recurrence.prepare(
            *p[1:4], reset_after=False, recurrent_activation=activation, layout=recurrence.Layout(z="old")
        )


@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"])
def test_z_of_the_old_state_by_its_own_equation(rng, activation):
    """h' = z h + (1 - z) n, one step, in plain NumPy."""
    p = problem(rng, False, "float64", (checks.N, 1, D, H))
    layout = recurrence.Layout("zrn", "old")
    weights = recurrence.prepare(*p[1:4], reset_after=False, recurrent_activation=activation, layout=layout)
    h, _ = recurrence.forward(weights, p.x, p.h0, scheduling.schedule(checks.N, 1))
    f, x, h0 = reference.ACTIVATIONS[activation][0], p.x[:, 0], p.h0
    W_z, W_r, W_n = np.split(p.kernel, 3, axis=1)
    U_z, U_r, U_n = np.split(p.recurrent_kernel, 3, axis=1)
    b_z, b_r, b_n = np.split(p.bias, 3)
    r, z = f(x @ W_r + h0 @ U_r + b_r), f(x @ W_z + h0 @ U_z + b_z)
    n = np.tanh(x @ W_n + (r * h0) @ U_n + b_n)
    checks.assert_close(h, z * h0 + (1 - z) * n, 1e-13)
