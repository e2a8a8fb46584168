"""Dropout, zoneout and normalisation in the compiled layer: against finite differences and the NumPy reference, and the
same bits whoever shares the work and however rows and sequences are cut."""

import contextlib
import itertools

import checks
import numpy as np
import pytest

import cgru
from cgru import kernels, masks

N, T, D, H = checks.N, checks.T, checks.D, checks.H
OPTIONS = {
    "dropout": {"dropout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "layer_dropout": {"layer_dropout": 0.4},
    "zoneout": {"zoneout": 0.3},
    "layer_norm": {"layer_norm": True},
}
COMBINED = [(name,) for name in OPTIONS] + list(itertools.combinations(OPTIONS, 2)) + [tuple(OPTIONS)]
KINDS = {
    "sequences": {"return_sequences": True},
    "reverse": {"return_sequences": True, "reverse": True},
    "go_backwards": {"return_sequences": True, "go_backwards": True, "num_layers": 2},
    "concat": {"return_sequences": True, "bidirectional": True, "num_layers": 2},
    "mul-last": {"bidirectional": True, "num_layers": 2, "merge_mode": "mul"},
    "three-layers-last": {"num_layers": 3},
    "repeat": {"return_sequences": True, "zero_output_for_mask": False, "num_layers": 2},
    "no-bias": {"return_sequences": True, "use_bias": False, "num_layers": 2},
}
KEY = masks.Key(0xFEDCBA9876543210, update=3, layer=1)
FORWARD = {"float64": 1e-12, "float32": 2e-5}  # normalising amplifies what is rounded
BACKWARD = {"float64": 1e-11, "float32": 4e-4}


def options_of(names):
    return {name: value for each in names for name, value in OPTIONS[each].items()}


class Case:
    def __init__(self, rng, options, validity="all", dtype="float64", sizes=(N, T, D, H)):
        n, t, d, h = sizes
        self.layer = checks.random_layer(rng, h, input_size=d, dtype=dtype, **options)
        usual = sizes == (N, T, D, H)
        self.validity = checks.VALIDITY[validity] if usual else checks.random_validity(rng, validity, n, t)
        self.x = rng.uniform(-1, 1, (n, t, d)).astype(dtype)
        self.h0 = rng.uniform(-1, 1, self.layer._state_shape(n)).astype(dtype)
        y, h, _ = self.forward()
        self.dy, self.dh = rng.standard_normal(y.shape).astype(dtype), rng.standard_normal(h.shape).astype(dtype)

    def forward(self, key=None, **changes):
        given = {"x": self.x, "initial_state": self.h0, "training": key is not None, "seed": key} | self.validity
        return self.layer.forward(**given | changes)

    def everything(self, key, **changes):
        """Outputs and gradients of a pass in training."""
        y, h, tape = self.forward(key, **changes)
        return [y, h, *checks.arrays_in(self.layer.backward(self.dy, tape, self.dh))]


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("names", COMBINED, ids="-".join)
@pytest.mark.parametrize(("kind", "validity"), [("sequences", "all"), ("mul-last", "lengths"), ("concat", "mask")])
def test_gradients(rng, names, reset_after, kind, validity):
    case = Case(rng, options_of(names) | KINDS[kind] | {"reset_after": reset_after}, validity)
    if "layer_norm" in names:
        case.x, case.h0 = (checks.away_from_zero(rng, array.shape) for array in (case.x, case.h0))

    def loss(arrays):
        with case.layer.update() as parameters:
            for name in parameters:
                parameters[name] = arrays[name]
        y, h, _ = case.forward(KEY, x=arrays["x"], initial_state=arrays["h0"])
        return (case.dy * y).sum() + (case.dh * h).sum()

    arrays = {"x": case.x, "h0": case.h0} | {name: array.copy() for name, array in case.layer.parameters.items()}
    dx, dh0, grads = case.layer.backward(case.dy, case.forward(KEY)[2], case.dh)
    step = 1.5e-4 if "layer_norm" in names else 1e-3  # its curvature grows where few features are left
    checks.assert_gradients(loss, arrays, {"x": dx, "h0": dh0} | grads, rng, tolerance=1e-8, step=step)


def assert_as_the_reference(case, key, dtype):
    shape = (-1, len(case.x), case.layer.units)
    h0, dh = case.h0.reshape(shape).astype(np.float64), case.dh.reshape(shape).astype(np.float64)
    x, dy = case.x.astype(np.float64), case.dy.astype(np.float64)
    y, h, tape = case.forward(key, training=True) if key else (*case.forward(training=False)[:2], None)
    expected = checks.reference_layer(case.layer, x, h0, dy, dh, key=key, **case.validity)
    checks.assert_close(y, expected[0], FORWARD[dtype], "y")
    checks.assert_close(h.reshape(shape), expected[1], FORWARD[dtype], "h")
    if key is not None:
        dx, dh0, grads = case.layer.backward(case.dy, tape, case.dh)
        for name, array in {"dx": dx, "dh0": dh0.reshape(shape), **grads}.items():
            checks.assert_close(array, expected[2][name], BACKWARD[dtype], name)


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("names", COMBINED, ids="-".join)
def test_the_compiled_layer_is_the_reference(rng, names, reset_after):
    """Options alone with each kind of layer, pairs with some of them, in either type."""
    some = COMBINED.index(names) % 4 + 4 * reset_after
    for i, (kind, dtype) in enumerate(itertools.product(KINDS, ("float64", "float32"))):
        if len(names) == 1 or i % 8 == some:
            validity = ("all", "lengths", "mask")[i % 3]
            case = Case(rng, options_of(names) | KINDS[kind] | {"reset_after": reset_after}, validity, dtype)
            assert_as_the_reference(case, KEY, dtype)
            assert_as_the_reference(case, None, dtype)


@pytest.mark.parametrize("backend", ["native", "blas"])
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("sizes", [(1, 9, 3, 67), (13, 7, 37, 1), (2, 35, 5, 130), (33, 5, 4, 16)])
def test_other_sizes(rng, sizes, reset_after, backend):
    options = options_of(OPTIONS) | {"reset_after": reset_after, "num_layers": 2, "return_sequences": True}
    with cgru.backend(backend):
        for validity in ("all", "lengths"):
            case = Case(rng, options, validity, sizes=sizes)
            assert_as_the_reference(case, KEY, "float64")
            assert_as_the_reference(case, None, "float64")


@contextlib.contextmanager
def limits(threads, **changes):
    before, threads_before = kernels.tune(measured=0, **changes), kernels.get_num_threads()
    kernels.set_num_threads(threads)
    try:
        yield
    finally:
        kernels.tune(**before)
        kernels.set_num_threads(threads_before)


WAYS = {
    "rows": {"thread_work": 0, "small_work": 0, "few_rows": 1},
    "units": {"thread_work": 0, "small_work": 0, "few_rows": 100, "team_work": 0},
    "units in blocks": {"thread_work": 0, "few_rows": 100, "team_work": 0, "block_rows": 2, "step_rows": 100},
    "turned": {"turned_bytes": 0, "dx_rows": 7},
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("names", [*[(name,) for name in OPTIONS], tuple(OPTIONS)], ids=lambda names: "-".join(names))
def test_threads_change_no_bit(rng, names, reset_after, dtype):
    options = options_of(names) | {"reset_after": reset_after, "num_layers": 2, "return_sequences": True}
    for sizes in ((5, 6, 3, 67), (17, 4, 9, 40)):
        case = Case(rng, options, "lengths", dtype, sizes)
        with limits(1):
            expected = case.everything(KEY)
            in_inference = case.forward()[:2]
        for changes in WAYS.values():
            for threads in (1, 2, 3):
                with limits(threads, **changes):
                    checks.assert_same_arrays(case.everything(KEY), expected, f"{changes} {threads}")
                    checks.assert_same_arrays(case.forward()[:2], in_inference, f"{changes} {threads}")


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["sequences", "reverse", "go_backwards", "concat", "repeat"])
def test_rows_depend_on_no_other_row(rng, kind, reset_after):
    """Examples one by one, in another order and beside longer ones, have the bits that they have together."""
    options = options_of(OPTIONS) | KINDS[kind] | {"reset_after": reset_after}
    layer = checks.random_layer(rng, 13, input_size=4, dtype="float32", **options)
    lengths, examples = np.array([3, 7, 0, 5, 7, 1]), np.array([10, 4, 99, 2**40, 0, 7])
    x = rng.uniform(-1, 1, (6, 7, 4)).astype(np.float32)
    dy = rng.standard_normal((6, 7, layer.output_size(None))).astype(np.float32)
    dy *= checks.valid_steps(6, 7, lengths)[:, :: -1 if layer.go_backwards else 1, None]  # repeats have gradients
    key = KEY._replace(examples=examples)
    flips = layer.go_backwards

    def valid_part(array, n):
        return array[len(array) - n :] if flips else array[:n]

    y, h, tape = layer.forward(x, lengths=lengths, training=True, seed=key)
    dx, dh0, _ = layer.backward(dy, tape)
    for i, n in enumerate(lengths):
        own = key._replace(examples=examples[i : i + 1])
        y_i, h_i, tape_i = layer.forward(x[i : i + 1, :n], training=True, seed=own)
        dx_i, dh0_i, _ = layer.backward(valid_part(dy[i], n)[None], tape_i)
        checks.assert_same_arrays(
            [y_i[0], h_i[..., 0, :], dx_i[0], dh0_i[..., 0, :]],
            [valid_part(y[i], n), h[..., i, :], dx[i, :n], dh0[..., i, :]], f"row {i}",
        )  # fmt: skip
    order = np.array([3, 1, 5])
    y_some, h_some, _ = layer.forward(
        x[order], lengths=lengths[order], training=True, seed=key._replace(examples=examples[order])
    )
    checks.assert_same_arrays([y_some, h_some], [y[order], h[..., order, :]])


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_sequence_in_pieces(rng, reset_after, dtype):
    """In training, with the step in the key, and in inference, piece by piece and step by step."""
    options = options_of(OPTIONS) | {"reset_after": reset_after, "num_layers": 2, "return_sequences": True}
    case = Case(rng, options, dtype=dtype, sizes=(3, 8, 5, 19))
    for key in (KEY, None):
        y, h, _ = case.forward(key)
        state, parts = case.h0, []
        for start, end in ((0, 3), (3, 4), (4, 8)):
            piece = key and key._replace(step=start)
            part, state, _ = case.forward(piece, x=case.x[:, start:end], initial_state=state)
            parts.append(part)
        checks.assert_same_arrays([np.concatenate(parts, axis=1), state], [y, h])
    state = case.h0
    for t in range(8):
        state = case.layer.step(case.x[:, t], state)
        checks.assert_same_arrays(state[-1], np.ascontiguousarray(y[:, t]))


@pytest.mark.parametrize("names", [("zoneout",), ("layer_norm",), ("zoneout", "layer_norm")], ids="-".join)
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
def test_the_short_ways_of_inference(rng, names, reset_after):
    """A plain call, and steps of one layer, have the bits of the general way."""
    layer = checks.random_layer(
        rng, 21, input_size=6, dtype="float32", reset_after=reset_after, return_sequences=True, **options_of(names)
    )
    x = rng.uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    y, h, _ = layer.forward(x)
    checks.assert_same_arrays(layer(x), y)
    state = None
    for t in range(5):
        state = layer.step(x[:, t], state)
        checks.assert_same_arrays(state, np.ascontiguousarray(y[:, t]))
    checks.assert_same_arrays(state, h)


def test_steps_that_are_not_valid_are_not_read(rng):
    case = Case(rng, options_of(OPTIONS) | KINDS["concat"], "mask")
    expected = case.everything(KEY)
    valid = checks.valid_steps(N, T, **case.validity)
    x, dy = checks.spoiled(case.x, valid), checks.spoiled(case.dy, valid)
    y, h, tape = case.forward(KEY, x=x)
    checks.assert_same_arrays([y, h, *checks.arrays_in(case.layer.backward(dy, tape, case.dh))], expected)


def test_the_tape_is_only_read(rng):
    case = Case(rng, options_of(OPTIONS) | KINDS["concat"])
    _, _, tape = case.forward(KEY)
    first = checks.arrays_in(case.layer.backward(case.dy, tape, case.dh))
    checks.assert_same_arrays(case.layer.backward(case.dy, tape, case.dh), first)
    x, h0 = case.x.copy(), case.h0.copy()
    checks.assert_same_arrays([case.x, case.h0], [x, h0])
