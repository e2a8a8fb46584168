"""The compiled activations: units in the last place, infinities, NaN.

benchmarks/activation_accuracy.py tries every float32.
"""

import checks
import numpy as np
import pytest

from cgru import kernels, recurrence

EXTREMES = {  # at -inf and inf
    "sigmoid": (0, 1),
    "tanh": (-1, 1),
    "relu": (0, np.inf),
    "linear": (-np.inf, np.inf),
    "hard_sigmoid": (0, 1),
    "hard_sigmoid_keras2": (0, 1),
}


def as_gate(name, x):
    """f(x) through the loop of the gates."""
    y = np.empty_like(x)
    kernels.activate(recurrence.ACTIVATIONS[name], x, y)
    return y


def as_candidate(name, x):
    """g(x) through the loop of the candidate: x is the bias of 37 units; z is linear and 1, everything else 0."""
    units = 37
    zeros = np.zeros((units, 3 * units), x.dtype)
    rows = np.resize(x, (-(-len(x) // units), units))
    y = np.empty_like(rows)
    for i, row in enumerate(rows):
        bias = np.concatenate([0 * zeros[0, :units], 1 + zeros[0, :units], row])  # r z n
        weights = recurrence.prepare(
            zeros[:1], zeros, bias, reset_after=False, activation=name, recurrent_activation="linear"
        )
        kernels.Handle([weights]).step(zeros[:1, :1], zeros[:1, :units], y[i : i + 1], 1)
    return y.reshape(-1)[: len(x)]


@pytest.mark.parametrize("loop", [as_gate, as_candidate])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
class TestUnitsInTheLastPlace:
    def test_float32_around_special_values(self, name, loop):
        x = checks.special_float32()
        checks.assert_ulp_float32(name, x, loop(name, x))

    def test_float32_everywhere(self, name, loop):
        bits = np.arange(0, 0x7F800000, 2503 if loop is as_gate else 50021, dtype="uint32")
        for sign in (0, 0x80000000):
            x = (bits | np.uint32(sign)).view("float32")
            checks.assert_ulp_float32(name, x, loop(name, x))

    def test_float32_densely_where_the_function_moves(self, rng, name, loop):
        for low, high in ((-1, 1), (-20, 20), (-104, -80)):
            x = rng.uniform(low, high, 300_000 if loop is as_gate else 30_000).astype("float32")
            checks.assert_ulp_float32(name, x, loop(name, x))

    def test_float64(self, rng, name, loop):
        mp = pytest.importorskip("mpmath").mp
        exponents = rng.uniform(-1074, 10, 1500)
        x = np.concatenate(
            [
                rng.choice([-1, 1], 1500) * 2.0**exponents, rng.uniform(-1, 1, 1500), rng.uniform(-40, 40, 3000),
                rng.uniform(-750, -690, 500), np.arange(-2060, 60) * np.log(2) / 2, [0.0, 710.0, -710.0, 1e308, -1e308],
            ]
        )  # fmt: skip
        info = np.finfo("float64")
        with mp.workprec(200):
            for a, y in zip(x, loop(name, x), strict=True):
                # Past +-800 both functions are 0 or +-1 to more than these 200 bits.
                exact_x = max(-800, min(800, mp.mpf(float(a))))
                exact = mp.tanh(exact_x) if name == "tanh" else 1 / (1 + mp.exp(-exact_x))
                error = abs(mp.mpf(float(y)) - exact)
                if abs(exact) >= info.tiny:
                    ulp = mp.ldexp(1, mp.frexp(exact)[1] - 53)
                    assert error <= 4 * ulp, f"{name}({a!r}): {float(error / ulp)} ulp"
                else:
                    assert error <= info.tiny, f"{name}({a!r}) = {y!r}"


@pytest.mark.parametrize("loop", [as_gate, as_candidate])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", checks.ACTIVATIONS)
def test_infinities_saturate_and_nan_stays(name, dtype, loop):
    """At every place of a vector and of the rest behind it; neighbours stay what they are."""
    low, high = EXTREMES[name]
    ordinary = loop(name, np.full(1, 0.25, dtype))[0]
    for size in (1, 5, 37):
        for i in range(size):
            for value, expected in ((np.inf, high), (-np.inf, low), (np.nan, np.nan), (-np.nan, np.nan)):
                x = np.full(size, 0.25, dtype)
                x[i] = value
                y = loop(name, x)
                np.testing.assert_array_equal(y[i], expected)
                np.testing.assert_allclose(np.delete(y, i), ordinary, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loop", [as_gate, as_candidate])
def test_piecewise_linear_ones(rng, loop, dtype):
    x = np.concatenate([rng.uniform(-4, 4, 5000), np.arange(-6, 6.5, 0.5), [1e30, -1e30, 0.0, -0.0]]).astype(dtype)
    exact = x.astype("float64")
    one_rounding = np.finfo(dtype).eps
    np.testing.assert_array_equal(loop("relu", x), np.maximum(x, 0))
    np.testing.assert_array_equal(loop("linear", x), x)
    np.testing.assert_allclose(loop("hard_sigmoid", x), np.clip(exact / 6 + 0.5, 0, 1), rtol=0, atol=one_rounding)
    np.testing.assert_allclose(
        loop("hard_sigmoid_keras2", x), np.clip(0.2 * exact + 0.5, 0, 1), rtol=0, atol=one_rounding
    )
    for name, corner in (("hard_sigmoid", 3), ("hard_sigmoid_keras2", 2.5)):
        y = loop(name, np.array([-corner - 0.01, 0, corner + 0.01], dtype))
        assert y.tolist() == [0, 0.5, 1]
