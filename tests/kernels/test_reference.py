"""The NumPy reference against the equations and against finite differences: everything else is compared with it."""

import itertools
import math
from unittest import mock

import checks
import numpy as np
import pytest

from cgru import reference

NAMES = ("x", "kernel", "recurrent_kernel", "bias", "h0")


def run(arrays, options):
    return reference.forward(*(arrays[name] for name in NAMES), **options)


def loss_and_gradients(problem, options):
    """(loss, arrays, gradients) for `checks.assert_gradients`; the loss weighs every output and the final state."""

    def loss(arrays):
        y, h, _ = run(arrays, options)
        return (problem.dy * y).sum() + (problem.dh * h).sum()

    arrays = {name: getattr(problem, name) for name in NAMES}
    gradients = reference.backward(problem.dy, problem.dh, run(arrays, options)[2])
    gradients["x"], gradients["h0"] = gradients.pop("dx"), gradients.pop("dh0")
    return loss, arrays, gradients


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("validity", checks.VALIDITY)
class TestGradients:
    @pytest.mark.parametrize("pair", [("tanh", "sigmoid"), ("relu", "hard_sigmoid")], ids="-".join)
    def test_every_element(self, rng, reset_after, reverse, validity, pair):
        options = {
            "reset_after": reset_after,
            "activation": pair[0],
            "recurrent_activation": pair[1],
            "reverse": reverse,
        }
        options |= checks.VALIDITY[validity]
        checks.assert_gradients(*loss_and_gradients(checks.random_problem(rng, reset_after, *pair), options))

    @pytest.mark.parametrize("pair", checks.PAIRS, ids="-".join)
    def test_random_directions(self, rng, reset_after, reverse, validity, pair):
        options = {
            "reset_after": reset_after,
            "activation": pair[0],
            "recurrent_activation": pair[1],
            "reverse": reverse,
        }
        options |= checks.VALIDITY[validity]
        checks.assert_gradients(*loss_and_gradients(checks.random_problem(rng, reset_after, *pair), options), rng)


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("pair", checks.PAIRS, ids="-".join)
def test_problems_keep_away_from_kinks_and_reach_all_sides(rng, pair, reset_after):
    """What makes finite differences valid with relu and the hard sigmoids."""
    seen = {name: [] for name in pair}

    def recording(name):
        value, slope = reference.ACTIVATIONS[name]

        def function(a):
            seen[name].append(a)
            return value(a)

        return function, slope

    problem = checks.random_problem(rng, reset_after, *pair)
    with mock.patch.dict(reference.ACTIVATIONS, {name: recording(name) for name in pair}):
        _, h, _ = reference.forward(*problem[:5], reset_after, *pair)
    assert np.abs(h).max() < 20
    for name in pair:
        a = np.concatenate([v.ravel() for v in seen[name]])
        edges = [-np.inf, *checks.KINKS.get(name, ()), np.inf]
        for kink in edges[1:-1]:
            assert np.abs(a - kink).min() > 0.02
        if name in checks.KINKS:
            assert all(((low < a) & (a < high)).any() for low, high in itertools.pairwise(edges))


@pytest.mark.parametrize("which", ["dy", "dh"])
def test_a_gradient_that_is_none_is_zero(rng, which):
    problem = checks.random_problem(rng, True)
    _, _, tape = reference.forward(*problem[:5], True)
    dy, dh = (problem.dy, None) if which == "dy" else (None, problem.dh)
    zeros = (problem.dy, np.zeros_like(problem.dh)) if which == "dy" else (np.zeros_like(problem.dy), problem.dh)
    checks.assert_same_arrays(reference.backward(dy, dh, tape), reference.backward(*zeros, tape))


@pytest.mark.parametrize("reset_after", [False, True])
def test_the_equations_with_plain_numbers(reset_after):
    """One unit, two steps: every weight has a value of its own, and z weighs the new candidate."""
    w_r, w_z, w_n, u_r, u_z, u_n = 0.3, -0.7, 1.1, 0.9, 0.4, -1.3
    b_r, b_z, b_n, c_r, c_z, c_n = 0.1, -0.2, 0.5, 0.6, -0.8, 0.25

    def sigmoid(a):
        return 1 / (1 + math.exp(-a))

    h, outputs = 0.35, []
    for x in (0.8, -0.6):
        if reset_after:
            r = sigmoid(x * w_r + b_r + h * u_r + c_r)
            z = sigmoid(x * w_z + b_z + h * u_z + c_z)
            n = math.tanh(x * w_n + b_n + r * (h * u_n + c_n))
        else:
            r = sigmoid(x * w_r + h * u_r + b_r)
            z = sigmoid(x * w_z + h * u_z + b_z)
            n = math.tanh(x * w_n + (r * h) * u_n + b_n)
        h = (1 - z) * h + z * n
        outputs.append(h)

    bias = np.array([[b_r, b_z, b_n], [c_r, c_z, c_n]])
    y, final, _ = reference.forward(
        np.array([[[0.8], [-0.6]]]), np.array([[w_r, w_z, w_n]]), np.array([[u_r, u_z, u_n]]),
        bias if reset_after else bias[0], np.array([[0.35]]), reset_after,
    )  # fmt: skip
    np.testing.assert_allclose(y[0, :, 0], outputs, rtol=1e-15)
    assert final[0, 0] == y[0, -1, 0]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("validity", ["lengths", "mask"])
def test_rows_with_holes_are_the_rows_without_them(rng, validity, reverse):
    """A row's valid steps pushed together give the same; elsewhere the state is held, the output 0, NaN not read."""
    problem = checks.random_problem(rng, True)
    kind = checks.VALIDITY[validity]
    valid = checks.valid_steps(checks.N, checks.T, **kind)
    x = checks.spoiled(problem.x, valid)
    y, h, tape = reference.forward(x, *problem[1:5], True, reverse=reverse, **kind)
    gradients = reference.backward(checks.spoiled(problem.dy, valid), problem.dh, tape)
    total = 0
    for i in range(checks.N):
        row = slice(i, i + 1)
        y_i, h_i, tape_i = reference.forward(x[row, valid[i]], *problem[1:4], problem.h0[row], True, reverse=reverse)
        np.testing.assert_allclose(y[row, valid[i]], y_i, atol=1e-15)
        np.testing.assert_allclose(h[row], h_i, atol=1e-15)
        g = reference.backward(problem.dy[row, valid[i]], problem.dh[row], tape_i)
        np.testing.assert_allclose(gradients["dx"][row, valid[i]], g["dx"], atol=1e-14)
        np.testing.assert_allclose(gradients["dh0"][row], g["dh0"], atol=1e-14)
        total += g["recurrent_kernel"]
    assert (y[~valid] == 0).all() and (gradients["dx"][~valid] == 0).all()
    np.testing.assert_allclose(gradients["recurrent_kernel"], total, atol=1e-14)
    assert (h[2] == problem.h0[2]).all()  # no valid step


def test_reverse_is_forward_on_reversed_time(rng):
    problem = checks.random_problem(rng, False)
    y, h, _ = reference.forward(*problem[:5], reverse=True)
    y_flipped, h_flipped, _ = reference.forward(problem.x[:, ::-1], *problem[1:5])
    checks.assert_same_arrays((y, h), (np.ascontiguousarray(y_flipped[:, ::-1]), h_flipped))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_kept(rng, dtype):
    problem = [array.astype(dtype) for array in checks.random_problem(rng, True)]
    y, h, tape = reference.forward(*problem[:5], True)
    gradients = reference.backward(*problem[5:], tape)
    assert {v.dtype for v in (y, h, *gradients.values())} == {np.dtype(dtype)}
