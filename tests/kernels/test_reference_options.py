"""Dropout, zoneout and normalisation in the NumPy reference: finite differences, alone and in pairs, and the equations
spelled out."""

import itertools

import checks
import numpy as np
import pytest

from cgru import reference

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def some(rng, shape):
    """Factors of which those of one unit of each row are zero."""
    return (np.arange(shape[1]) != rng.integers(0, shape[1], (shape[0], 1))) / 0.6


OPTIONS = {
    "dropout": lambda rng: {"dropout": some(rng, (N, D))},
    "recurrent_dropout": lambda rng: {"recurrent_dropout": some(rng, (N, H))},
    "zoneout": lambda rng: {"zones": (rng.random((N, T, H)) < 0.3).astype(np.float64)},
    "expected_zoneout": lambda rng: {"zones": 0.3},
    "layer_norm": lambda rng: {"gain": rng.uniform(0.5, 1.5, (2, 3 * H))},
}
COMBINED = [(name,) for name in OPTIONS] + [
    pair for pair in itertools.combinations(OPTIONS, 2) if pair != ("zoneout", "expected_zoneout")
]
NAMES = ("x", "kernel", "recurrent_kernel", "bias", "h0")


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("names", COMBINED, ids="-".join)
@pytest.mark.parametrize("validity", checks.VALIDITY)
def test_gradients(rng, names, reset_after, validity):
    problem = checks.random_problem(rng, reset_after)
    options = {"reset_after": reset_after, "reverse": validity == "mask"} | checks.VALIDITY[validity]
    for name in names:
        options |= OPTIONS[name](rng)
    if "layer_norm" in names:
        problem = problem._replace(x=checks.away_from_zero(rng, (N, T, D)), h0=checks.away_from_zero(rng, (N, H)))
    arrays = {name: getattr(problem, name) for name in NAMES}
    if "gain" in options:
        arrays["gain"] = options["gain"]

    def run(arrays):
        given = options | ({"gain": arrays["gain"]} if "gain" in arrays else {})
        return reference.forward(*(arrays[name] for name in NAMES), **given)

    def loss(arrays):
        y, h, _ = run(arrays)
        return (problem.dy * y).sum() + (problem.dh * h).sum()

    gradients = reference.backward(problem.dy, problem.dh, run(arrays)[2])
    gradients["x"], gradients["h0"] = gradients.pop("dx"), gradients.pop("dh0")
    checks.assert_gradients(loss, arrays, gradients, rng, tolerance=1e-8, step=1e-3 if "gain" not in arrays else 1.5e-4)


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
def test_one_step_as_it_is_written(rng, reset_after):
    """All options at once, spelled out for one step."""
    p = checks.random_problem(rng, reset_after)
    options = {name: value for make in OPTIONS.values() for name, value in make(rng).items()}
    m, m_h, gain = options["dropout"], options["recurrent_dropout"], options["gain"]
    keeps = (rng.random((N, 1, H)) < 0.5).astype(float)

    def normalised(v, gain):
        return gain * (v - v.mean(axis=1, keepdims=True)) / np.sqrt(v.var(axis=1, keepdims=True) + 1e-5)

    x, h = p.x[:, 0] * m, p.h0 * m_h
    W, U, rz, new = p.kernel, p.recurrent_kernel, slice(0, 2 * H), slice(2 * H, 3 * H)
    b, c = p.bias if reset_after else (p.bias, np.zeros(3 * H))
    gates = normalised(x @ W[:, rz], gain[0, rz]) + normalised(h @ U[:, rz], gain[1, rz]) + b[rz] + c[rz]
    r, z = np.split(checks.sigmoid(gates), 2, axis=1)
    of_x = normalised(x @ W[:, new], gain[0, new]) + b[new]
    if reset_after:
        n = np.tanh(of_x + r * (normalised(h @ U[:, new], gain[1, new]) + c[new]))
    else:
        n = np.tanh(of_x + normalised((r * h) @ U[:, new], gain[1, new]))
    expected = np.where(keeps[:, 0], p.h0, (1 - z) * p.h0 + z * n)
    y, _, _ = reference.forward(
        p.x[:, :1], W, U, p.bias, p.h0, reset_after, dropout=m, recurrent_dropout=m_h, zones=keeps, gain=gain
    )
    checks.assert_close(y[:, 0], expected, 1e-14)


def test_the_expectation_of_one_step_is_the_mean_over_zones(rng):
    p = checks.random_problem(rng, False)
    first = [p.x[:, :1], *p[1:5]]
    total = sum(
        reference.forward(*first, zones=np.full((N, 1, H), float(zone)))[0] * weight
        for zone, weight in ((1, 0.3), (0, 0.7))
    )
    checks.assert_close(reference.forward(*first, zones=0.3)[0], total, 1e-15)
