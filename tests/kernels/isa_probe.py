"""Check one build of the kernels and save what it computes: isa_probe.py FILE.npz, run by test_isa.py aside."""

import itertools
import sys

import checks
import numpy as np

from cgru import kernels, masks, recurrence, scheduling


def main(path):
    results = {}
    for reset_after, validity, dtype in itertools.product((False, True), checks.VALIDITY, ("float32", "float64")):
        options = {"bidirectional": True, "num_layers": 2, "return_sequences": True, "reset_after": reset_after}
        rng = np.random.default_rng(5)  # the same numbers in every build
        layer = checks.random_layer(rng, 37, dtype=dtype, input_size=checks.D, **options)
        outputs = against_reference(layer, rng, checks.VALIDITY[validity])
        results |= {f"{dtype} {reset_after} {validity} {i}": array for i, array in enumerate(outputs)}
    for activation, recurrent_activation in zip(checks.ACTIVATIONS, reversed(checks.ACTIVATIONS), strict=True):
        rng = np.random.default_rng(5)
        layer = checks.random_layer(
            rng, 19, activation=activation, recurrent_activation=recurrent_activation, return_sequences=True,
            dtype="float64", input_size=checks.D,
        )  # fmt: skip
        outputs = against_reference(layer, rng, {})
        results |= {f"float64 {activation} {i}": array for i, array in enumerate(outputs)}
    chances = {"dropout": 0.3, "recurrent_dropout": 0.3, "layer_dropout": 0.3, "zoneout": 0.3, "layer_norm": True}
    for reset_after, dtype in itertools.product((False, True), ("float32", "float64")):
        rng = np.random.default_rng(5)
        options = {"num_layers": 2, "return_sequences": True, "reset_after": reset_after}
        layer = checks.random_layer(rng, 37, dtype=dtype, input_size=checks.D, **options, **chances)
        outputs = against_reference(layer, rng, {"lengths": checks.LENGTHS}, masks.Key(11))
        results |= {f"{dtype} {reset_after} with options {i}": array for i, array in enumerate(outputs)}
    by_differences()
    for name in checks.SMOOTH:
        x = checks.special_float32()
        y = np.empty_like(x)
        kernels.activate(recurrence.ACTIVATIONS[name], x, y)
        checks.assert_ulp_float32(name, x, y)
    np.savez(path, **results)
    print(kernels.isa)


def against_reference(layer, rng, validity, key=None):
    """Outputs, state and gradients, compared with the reference first."""
    x = rng.uniform(-1, 1, (checks.N, checks.T, checks.D)).astype(layer.dtype)
    h0 = rng.uniform(-1, 1, layer._state_shape(checks.N)).astype(layer.dtype)
    y, h, tape = layer.forward(x, h0, training=True, seed=key, **validity)
    dy, dh = rng.standard_normal(y.shape).astype(layer.dtype), rng.standard_normal(h.shape).astype(layer.dtype)
    dx, dh0, grads = layer.backward(dy, tape, dh)
    cells = h0.astype("float64").reshape(-1, checks.N, layer.units)
    expected_y, expected_h, expected = checks.reference_layer(
        layer, x.astype("float64"), cells, dy.astype("float64"), dh.reshape(cells.shape).astype("float64"), key,
        **validity,
    )  # fmt: skip
    forward, backward = (5e-6, 2e-5) if layer.dtype == np.float32 else (1e-13, 1e-12)
    checks.assert_close(y, expected_y, forward, "y")
    checks.assert_close(h.reshape(cells.shape), expected_h, forward, "h")
    actual = {"dx": dx, "dh0": dh0.reshape(cells.shape), **grads}
    for name, gradient in expected.items():
        checks.assert_close(actual[name], gradient, backward, name)
    return [y, h, *actual.values()]


def by_differences():
    """Finite differences of one cell in both reset modes, at a size with whole vectors and a rest."""
    for reset_after in (False, True):
        rng = np.random.default_rng(6)
        problem = checks.random_problem(rng, reset_after, sizes=(checks.N, checks.T, checks.D, 19))
        plan = scheduling.schedule(checks.N, checks.T, mask=checks.MASK, reverse=True)

        def run(arrays, training=False, reset_after=reset_after, problem=problem, plan=plan):
            weights = recurrence.prepare(
                arrays["kernel"], arrays["recurrent_kernel"], arrays["bias"], reset_after=reset_after
            )
            y = np.zeros_like(problem.dy)
            h, tape = recurrence.forward(weights, arrays["x"], arrays["h0"], plan, y, training)
            return (problem.dy * y).sum() + (problem.dh * h).sum(), tape

        arrays = {name: getattr(problem, name) for name in ("x", "kernel", "recurrent_kernel", "bias", "h0")}
        gradients = recurrence.backward(problem.dy, problem.dh, run(arrays, True)[1])._asdict()
        gradients["x"], gradients["h0"] = gradients.pop("dx"), gradients.pop("dh0")
        assert gradients.pop("gain") is gradients.pop("initial") is None
        checks.assert_gradients(lambda arrays, run=run: run(arrays)[0], arrays, gradients, rng)


if __name__ == "__main__":
    main(sys.argv[1])
