"""What the numerical tests share: random problems, finite differences, and cgru.GRU rebuilt from cgru.reference."""

import os
from typing import NamedTuple

import hypothesis
import numpy as np
import scipy.special

import cgru
from cgru import masks, reference

ACTIVATIONS = tuple(reference.ACTIVATIONS)
PAIRS = [(g, f) for g in ACTIVATIONS for f in ACTIVATIONS]  # activation, recurrent activation
SMOOTH = ("sigmoid", "tanh")
KINKS = {"relu": (0.0,), "hard_sigmoid": (-3.0, 3.0), "hard_sigmoid_keras2": (-2.5, 2.5)}

# Pairwise distinct, so that no exchange of axes goes unseen; odd H, for the rest of a SIMD loop.
N, T, D, H = 3, 5, 2, 7
LENGTHS = np.array([2, 5, 0])
MASK = np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
VALIDITY = {"all": {}, "lengths": {"lengths": LENGTHS}, "mask": {"mask": MASK}}

# So many times as many examples of hypothesis as usual: nightly runs look longer, emulated ones less long.
MORE = float(os.environ.get("CGRU_TEST_EXAMPLES", "1"))


def examples(count):
    """Hypothesis' settings of a test that tries so many examples."""
    return hypothesis.settings(max_examples=max(1, round(MORE * count)))


# -- random problems


class Problem(NamedTuple):
    """One layer in one direction, with the gradients that come from above."""

    x: np.ndarray  # (N, T, D)
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray
    h0: np.ndarray  # (N, H)
    dy: np.ndarray  # (N, T, H)
    dh: np.ndarray  # (N, H)


def random_bias(rng, activation, size):
    """Biases on all sides of the kinks; a pre-activation stays on its side while the rest of the sum is below 0.3."""
    if activation == "relu":
        return rng.choice([-1, 1], size) * rng.uniform(0.5, 0.7, size)
    if activation in KINKS:
        return rng.choice([-4.5, 0, 4.5], size) + rng.uniform(-0.7, 0.7, size)
    return rng.uniform(-0.7, 0.7, size)


def random_parameters(rng, inputs, units, reset_after, activation="tanh", recurrent_activation="sigmoid"):
    """(kernel, recurrent_kernel, bias) in float64.

    Sigmoid gates with a smooth candidate get weights of order 1. With any other activation weights are small: states do
    not explode, and pre-activations stay away from kinks if inputs and states are within about +-1.
    """
    if activation in SMOOTH and recurrent_activation == "sigmoid":
        kernel = rng.standard_normal((inputs, 3 * units)) / np.sqrt(inputs)
        recurrent_kernel = rng.standard_normal((units, 3 * units)) / np.sqrt(units)
        bias = rng.standard_normal((2, 3 * units)) / 2
    else:
        kernel = rng.uniform(-0.15, 0.15, (inputs, 3 * units)) / inputs
        recurrent_kernel = rng.uniform(-0.1, 0.1, (units, 3 * units)) / units
        bias = np.stack(
            [
                np.concatenate(
                    [random_bias(rng, recurrent_activation, 2 * units), random_bias(rng, activation, units)]
                ),
                rng.uniform(-0.05, 0.05, 3 * units),
            ]
        )
    return kernel, recurrent_kernel, bias if reset_after else bias[0]


def random_problem(rng, reset_after, activation="tanh", recurrent_activation="sigmoid", sizes=(N, T, D, H)):
    n, t, d, h = sizes
    return Problem(
        rng.uniform(-1, 1, (n, t, d)),
        *random_parameters(rng, d, h, reset_after, activation, recurrent_activation),
        rng.uniform(-1, 1, (n, h)),
        rng.standard_normal((n, t, h)),
        rng.standard_normal((n, h)),
    )


def away_from_zero(rng, shape):
    """Numbers of which few beside zeros make no variance so small that normalising by it is curved strongly."""
    return rng.uniform(0.4, 1, shape) * rng.choice([-1, 1], shape)


def random_validity(rng, kind, n, t):
    """Keyword arguments for lengths or a mask of this kind; rows with no valid step are among them."""
    if kind == "lengths":
        return {"lengths": rng.integers(0, t + 1, n)}
    if kind == "mask":
        return {"mask": rng.random((n, t)) < rng.random((n, 1)) * 1.2 - 0.1}
    return {}


def valid_steps(n, t, lengths=None, mask=None):
    """Bool array (n, t)."""
    if lengths is not None:
        return np.arange(t) < np.asarray(lengths)[:, None]
    return np.ones((n, t), bool) if mask is None else mask


def spoiled(array, valid):
    """A copy with NaN at the steps that are not valid."""
    return np.where(valid[:, :, None], array, np.nan).astype(array.dtype)


def random_layer(rng, units, **options):
    """A cgru.GRU with random weights in every cell, biases and learned initial states included; give `input_size`."""
    layer = cgru.GRU(units, recurrent_initializer="zeros", **options)
    with layer.update() as parameters:
        for prefix in sorted({name.rpartition(".")[0] for name in parameters}):
            dot = f"{prefix}." if prefix else ""
            values = random_parameters(
                rng,
                len(parameters[dot + "kernel"]),
                units,
                layer.reset_after,
                layer.activation,
                layer.recurrent_activation,
            )
            for name, value in zip(("kernel", "recurrent_kernel", "bias"), values, strict=True):
                if dot + name in parameters:
                    parameters[dot + name] = value
            if dot + "initial_state" in parameters:
                parameters[dot + "initial_state"] = rng.uniform(-1, 1, units)
            if dot + "gain" in parameters:
                parameters[dot + "gain"] = rng.uniform(0.5, 1.5, (2, 3 * units))
    return layer


# -- comparisons


def assert_close(actual, expected, tolerance, what=""):
    """The largest difference is within the tolerance, times the largest expected value where that exceeds 1."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if actual.size:
        scale = max(1.0, float(np.abs(expected).max()))
        error = float(np.abs(actual - expected).max()) / scale
        assert error <= tolerance, f"{what}: off by {error:.2e} of {scale:.2e}, allowed {tolerance:.0e}"


def arrays_in(nested):
    """All arrays of nested tuples, lists and dicts, in order."""
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, (tuple, list)):
        return [array for part in nested for array in arrays_in(part)]
    return [nested] if isinstance(nested, np.ndarray) else []


def assert_same_arrays(actual, expected, what=""):
    """All arrays of the one are those of the other, bit for bit."""
    actual, expected = arrays_in(actual), arrays_in(expected)
    assert len(actual) == len(expected) > 0, what
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == e.dtype and a.shape == e.shape, f"{what}, array {i}"
        assert a.tobytes() == e.tobytes(), f"{what}: array {i} differs"


# -- units in the last place


def exact_float64(name, x):
    """sigmoid or tanh of float64 values, exact to about 1e-16 of the result."""
    return np.tanh(x) if name == "tanh" else scipy.special.expit(x)


def special_float32():
    """float32 values around everything where an implementation may change its mind, 16 neighbours on either side.

    Powers of two of all exponents, down to the subnormal ones; multiples of ln(2) / 4, where range reductions step; and
    the ends: tanh is 1 from 9.01 on; sigmoid is 1 from 16.6 on, subnormal below -87.34, 0 below -103.97.
    """
    centres = np.concatenate(
        [2.0 ** np.arange(-149, 128), np.arange(1, 640) * np.log(2) / 4, np.arange(80, 110), [9.01, 87.3365, 103.9721]]
    )
    bits = np.append(centres, [0.0, np.finfo("float32").max]).astype("float32").view("int32")[:, None] + np.arange(
        -16, 17
    )
    bits = bits[(bits >= 0) & (bits < 0x7F800000)]
    x = bits.astype("int32").view("float32")
    return np.concatenate([x, -x])


def assert_ulp_float32(name, x, y, most=4):
    """Within `most` ulp where the exact result is a normal number, else within the smallest normal number."""
    exact = exact_float64(name, x.astype("float64"))
    error, tiny = np.abs(y - exact), float(np.finfo("float32").tiny)
    assert not np.isnan(error).any() and y.min() >= (0 if name == "sigmoid" else -1) and y.max() <= 1
    normal = np.abs(exact) >= tiny
    ulp = 2.0 ** (np.floor(np.log2(np.abs(exact[normal]))) - 23)
    worst = np.argmax(error[normal] / ulp)
    assert error[normal][worst] <= most * ulp[worst], (
        f"{name}({x[normal][worst]!r}): {(error[normal] / ulp)[worst]:.2f} ulp"
    )
    assert (error[~normal] <= tiny).all(), f"{name}: wrong where the result is subnormal"


# -- finite differences


def derivative(f, step=1e-3):
    """f'(0) by central differences of 4th order; truncation and rounding err by about 1e-13 of |f| each."""
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)


def assert_gradients(loss, arrays, gradients, rng=None, tolerance=2e-10, step=1e-3):
    """Compare gradients with finite differences of `loss`.

    Parameters
    ----------
    loss : callable
        From a dict name -> array to a float.
    arrays, gradients : dict name -> float64 array
    rng : Generator, optional
        With it, each array is tried along two random directions of length 1, else every element by itself.
    step : float
        Of the differences: a smaller one where the loss is strongly curved.
    """
    assert set(arrays) == set(gradients)
    for name, array in arrays.items():
        assert gradients[name].shape == array.shape, f"{name}: shape {gradients[name].shape}, expected {array.shape}"
        if not array.size:
            continue
        if rng is None:
            directions = np.eye(array.size).reshape(-1, *array.shape)
        else:
            directions = rng.standard_normal((2, *array.shape))
            directions /= np.sqrt((directions**2).sum(axis=tuple(range(1, directions.ndim)), keepdims=True))
        along = [lambda e, v=v, a=array, n=name: loss({**arrays, n: a + e * v}) for v in directions]
        expected = [derivative(f, step) for f in along]
        actual = [np.vdot(gradients[name], v) for v in directions]
        assert_close(actual, expected, tolerance, name)


# -- a GRU as other frameworks write it


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def assert_round_trip(weights, layer, back):
    """`back` are the weights that the layer came from, bit for bit, under the same names; both may be nested."""
    assert layer.return_sequences and layer.return_state
    assert_same_names(back, weights)
    assert_same_arrays(sorted_arrays(back), sorted_arrays(weights))


def assert_same_names(actual, expected):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_same_names(actual[name], value)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same_names(a, e)
    elif not isinstance(expected, np.ndarray):
        assert actual == expected


def sorted_arrays(nested):
    """All arrays of nested dicts and lists, dicts by name."""
    if isinstance(nested, dict):
        nested = [nested[name] for name in sorted(nested)]
    if isinstance(nested, (tuple, list)):
        return [array for part in nested for array in sorted_arrays(part)]
    return [nested] if isinstance(nested, np.ndarray) else []


def foreign_gru(x, h0, W, U, b, c, *, reset_after, z_weighs, f=scipy.special.expit, g=np.tanh):
    """Outputs (N, T, H) of the equations with the gates apart, and z on the side where a framework has it.

    Parameters
    ----------
    W, U, b, c : dicts of "r", "z", "n" to (D, H), (H, H), (H,) and (H,)
    z_weighs : {"old", "new"}
    """
    h, ys = h0, []
    for t in range(x.shape[1]):
        r, z = (f(x[:, t] @ W[k] + b[k] + h @ U[k] + c[k]) for k in "rz")
        hidden = r * (h @ U["n"] + c["n"]) if reset_after else (r * h) @ U["n"] + c["n"]
        n = g(x[:, t] @ W["n"] + b["n"] + hidden)
        h = z * h + (1 - z) * n if z_weighs == "old" else (1 - z) * h + z * n
        ys.append(h)
    return np.stack(ys, axis=1)


def onnx_arrays(rng, directions=1, inputs=D, units=H, bias=True, dtype="float64"):
    """Random W, R and B of the GRU operator of ONNX; its biases are two that are not zero."""
    arrays = {
        "W": rng.standard_normal((directions, 3 * units, inputs)) / 2,
        "R": rng.standard_normal((directions, 3 * units, units)) / 3,
    }
    if bias:
        arrays["B"] = rng.standard_normal((directions, 6 * units)) / 2
    return {name: array.astype(dtype) for name, array in arrays.items()}


# -- cgru.GRU, cell by cell


def reference_layer(layer, x, h0, dy=None, dh=None, key=None, resets=None, **validity):
    """Return (y, h, gradients) of a built cgru.GRU, from cgru.reference in float64 and batch-major throughout.

    Gradients are a dict: "dx", "dh0" and those of the parameters; None if neither dy nor dh is given. With a key it is
    training. The gradient of an initial state that is learned is what resets add to it.
    """
    parameters = {name: array.astype(np.float64) for name, array in layer.parameters.items()}
    n, t, _ = x.shape
    cells, directions, units = len(h0), 2 if layer.bidirectional else 1, layer.units
    valid = valid_steps(n, t, **validity)
    dot = [
        f"l{c // directions}.{'backward' if c % directions else 'forward'}." if cells > 1 else "" for c in range(cells)
    ]
    if layer.go_backwards:
        x, valid = x[:, ::-1], valid[:, ::-1]
        resets = None if resets is None else resets[:, ::-1]
    backwards = [layer.reverse or c % directions == 1 for c in range(cells)]
    source = [_sources(valid, b) for b in backwards[:directions]]

    tapes, outputs, finals, inputs, factors = [], [], [], x, []
    for cell in range(cells):
        if cell % directions == 0 and cell:
            inputs = _merged(layer, outputs[-directions:])
            factors.append(_between(layer, key, inputs.shape, cell // directions, valid))
            inputs = inputs * factors[-1]
        y, h, tape = reference.forward(
            inputs, parameters[dot[cell] + "kernel"], parameters[dot[cell] + "recurrent_kernel"],
            parameters.get(dot[cell] + "bias", np.zeros((2, 3 * units) if layer.reset_after else 3 * units)),
            h0[cell], layer.reset_after, layer.activation, layer.recurrent_activation,
            mask=valid, reverse=backwards[cell], gain=parameters.get(dot[cell] + "gain"), resets=resets,
            initial_state=parameters.get(dot[cell] + "initial_state"),
            **_chosen(layer, key, inputs.shape, cell // directions, backwards[cell], valid),
        )  # fmt: skip
        if cell >= cells - directions and not layer.zero_output_for_mask:
            for i, step in zip(*np.nonzero(source[cell % directions] >= 0), strict=True):
                y[i, step] = y[i, source[cell % directions][i, step]]
        tapes.append(tape)
        outputs.append(y)
        finals.append(h)
    y = _merged(layer, outputs[-directions:] if layer.return_sequences else finals[-directions:])
    h = np.stack(finals)
    if dy is None and dh is None:
        return y, h, None

    dhs = np.zeros_like(h) if dh is None else dh.copy()
    dys = [None] * directions
    if dy is not None and layer.return_sequences:
        dys = _split(layer, dy, outputs[-directions:])
    elif dy is not None:
        dhs[-directions:] += _split(layer, dy, finals[-directions:])
    gradients, dh0 = {}, np.zeros_like(h)
    for first in range(cells - directions, -1, -directions):
        dx = 0
        for d in range(directions):
            cell, d_out = first + d, dys[d]
            if d_out is not None and first == cells - directions and not layer.zero_output_for_mask:
                gathered = np.zeros_like(d_out)
                for i, step in zip(*np.nonzero(source[d] >= 0), strict=True):
                    gathered[i, source[d][i, step]] += d_out[i, step]
                d_out = gathered
            g = reference.backward(d_out, dhs[cell], tapes[cell])
            dx = dx + g["dx"]
            dh0[cell] = g["dh0"]
            for name in ("kernel", "recurrent_kernel", "bias", "gain", "initial_state"):
                if dot[cell] + name in parameters and name in g:
                    gradients[dot[cell] + name] = g[name]
        if first:
            dx = dx * factors[first // directions - 1]
            dys = _split(layer, dx, outputs[first - directions : first])
    gradients["dx"] = dx[:, ::-1] if layer.go_backwards else dx
    gradients["dh0"] = dh0
    return y, h, gradients


def _between(layer, key, shape, index, valid):
    """Factors of the input of layer `index` above the first."""
    if key is None or not layer.layer_dropout:
        return 1.0
    steps = valid.cumsum(axis=1) - 1
    return masks.scales(key, shape, layer.layer_dropout, layer.dtype, "layers", index, 0, steps).astype(np.float64)


def _chosen(layer, key, shape, index, backwards, valid):
    """What chance chooses for one cell, as arguments of cgru.reference.forward."""
    n, t, d = shape
    if key is None:
        return {"zones": layer.zoneout or None}
    options = {}
    if layer.dropout and index == 0:
        options["dropout"] = masks.scales(key, (n, d), layer.dropout, layer.dtype, "input").astype(np.float64)
    where = (index, int(backwards))
    if layer.recurrent_dropout:
        factors = masks.scales(key, (n, layer.units), layer.recurrent_dropout, layer.dtype, "recurrent", *where)
        options["recurrent_dropout"] = factors.astype(np.float64)
    if layer.zoneout:
        taken = valid[:, ::-1].cumsum(axis=1)[:, ::-1] if backwards else valid.cumsum(axis=1)
        keep = masks.keep(key, (n, t, layer.units), layer.zoneout, "zoneout", *where, taken - 1)
        options["zones"] = 1.0 - keep
    return options


def _sources(valid, backwards):
    """(N, T): the step whose output stands at each step; -1 where there is none."""
    source = np.full(valid.shape, -1)
    for i, row in enumerate(valid):
        last = -1
        for step in reversed(range(len(row))) if backwards else range(len(row)):
            last = step if row[step] else last
            source[i, step] = last
    return source


def _merged(layer, ys):
    if len(ys) == 1:
        return ys[0]
    first, second = ys
    return {
        "concat": lambda: np.concatenate(ys, axis=-1),
        "sum": lambda: first + second,
        "mul": lambda: first * second,
        "ave": lambda: (first + second) / 2,
    }[layer.merge_mode]()


def _split(layer, dy, ys):
    if len(ys) == 1:
        return [dy]
    return {
        "concat": lambda: [dy[..., : layer.units], dy[..., layer.units :]],
        "sum": lambda: [dy, dy],
        "mul": lambda: [dy * ys[1], dy * ys[0]],
        "ave": lambda: [dy / 2, dy / 2],
    }[layer.merge_mode]()
