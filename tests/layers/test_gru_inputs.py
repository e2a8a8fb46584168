"""What goes into a GRU and what comes out: layouts and types, padding, order in time, state, and whose memory it is."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cgru
from cgru.sequences import as_batch

N, T, D, H = 4, 7, 3, 5
LENGTHS = np.array([3, 7, 0, 5])
MASK = np.array(
    [
        [1, 0, 1, 1, 0, 0, 1],
        [0, 0, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
    ],
    bool,
)

LAYERS = [
    {},
    {"reset_after": True},
    {"reverse": True},
    {"go_backwards": True},
    {"num_layers": 2, "go_backwards": True},
    {"bidirectional": True},
    {"bidirectional": True, "merge_mode": "sum"},
    {"bidirectional": True, "merge_mode": "mul", "num_layers": 2, "reset_after": True},
    {"bidirectional": True, "merge_mode": "ave", "return_sequences": False},
    {"bidirectional": True, "merge_mode": "mul", "return_sequences": False},
    {"num_layers": 3, "return_sequences": False},
    {"learn_initial_state": True, "use_bias": False},
]
VALID = [{}, {"lengths": LENGTHS}, {"mask": MASK}]


def name_of(options):
    return "-".join(f"{k}={v}" if not isinstance(v, (bool, np.ndarray)) else k for k, v in options.items()) or "plain"


every_layer = pytest.mark.parametrize("options", LAYERS, ids=name_of)
every_validity = pytest.mark.parametrize("valid", VALID, ids=name_of)


def gru(input_size=D, **options):
    """A float64 GRU with random weights everywhere, biases and initial states included."""
    arguments = {"units": H, "return_sequences": True, "dtype": "float64", "input_size": input_size, **options}
    layer = cgru.GRU(**arguments)
    rng = np.random.default_rng(5)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])
    return layer


def twin(layer, **options):
    """A layer with the same weights and other options."""
    other = cgru.GRU(**layer.get_config() | {"input_size": layer.input_size} | options)
    other.set_weights(layer.get_weights())
    return other


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def validity(valid):
    """(N, T) bool of the arguments of a call."""
    if "lengths" in valid:
        return np.arange(T) < valid["lengths"][:, None]
    return valid.get("mask", np.ones((N, T), bool))


def run(layer, x, h0, dy, dh, **valid):
    """Everything that one forward and one backward return, as a dict."""
    y, h, tape = layer.forward(x, initial_state=h0, training=True, **valid)
    dx, dh0, grads = layer.backward(dy, tape, dh=dh)
    return {"y": y, "h": h, "dx": dx, "dh0": dh0, **grads}


def problem(layer, x=None, rows=N, steps=T):
    """x, h0, dy and dh for a layer."""
    x = values(rows, steps, layer.input_size) if x is None else x
    y, h, _ = layer.forward(x)
    return [x, values(*h.shape, seed=1), values(*y.shape, seed=2), values(*h.shape, seed=3)]


def same(a, b, exact=True, rtol=1e-12):
    assert a.keys() == b.keys()
    for key in a:
        if exact:
            assert_array_equal(a[key], b[key], err_msg=key)
        else:
            assert_allclose(a[key], b[key], rtol=rtol, atol=rtol, err_msg=key)


# ---- memory layouts and types


def misaligned_field(a):
    packed = np.zeros(a.shape, np.dtype([("tag", "u1"), ("value", a.dtype)]))
    packed["value"] = a
    return packed["value"]


def misaligned_buffer(a):
    return np.frombuffer(b"?" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


def readonly(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def wide(a, axis):
    return np.repeat(a, 3, axis=axis)[(slice(None),) * (axis % a.ndim) + (slice(None, None, 3),)]


def backwards(a, axis):
    return np.flip(np.flip(a, axis).copy(), axis)


LAYOUTS = {
    "read-only": readonly,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
    "time-major view": lambda a: np.swapaxes(np.ascontiguousarray(np.swapaxes(a, 0, 1)), 0, 1),
    "wide rows": lambda a: wide(a, 0),
    "wide steps": lambda a: wide(a, 1),
    "wide features": lambda a: wide(a, -1),
    "cut out": lambda a: np.pad(a, 2, constant_values=np.nan)[(slice(2, -2),) * a.ndim],
    "backward rows": lambda a: backwards(a, 0),
    "backward steps": lambda a: backwards(a, 1),
    "backward features": lambda a: backwards(a, -1),
    "misaligned field": misaligned_field,
    "misaligned buffer": misaligned_buffer,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "longdouble": lambda a: a.astype(np.longdouble),
    "list": lambda a: a.tolist(),
    "tuple of lists": lambda a: tuple(a.tolist()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float32"},
        {"bidirectional": True, "num_layers": 2},
        {"reverse": True, "return_sequences": False},
        {"input_size": 1, "units": 1, "reverse": True},  # no stride of the features says where the next step is
    ],
    ids=name_of,
)
def test_layouts(options, layout):
    layer = gru(**options)
    arrays = [a.astype(layer.dtype) for a in problem(layer)]
    expected = run(layer, *arrays)
    changed = [LAYOUTS[layout](a) for a in arrays]
    for a, b in zip(arrays, changed, strict=True):
        assert_array_equal(a, np.asarray(b))
    # BLAS may add up in another order for another distance of the rows.
    same(run(layer, *changed), expected, exact=False, rtol=1e-5 if layer.dtype == np.float32 else 1e-12)
    for valid in VALID[1:]:
        same(
            run(layer, *changed, **valid), run(layer, *arrays, **valid),
            exact=False, rtol=1e-5 if layer.dtype == np.float32 else 1e-12,
        )  # fmt: skip
    assert expected["y"].dtype == expected["dx"].dtype == layer.dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_a_step(layout):
    layer = gru(dtype="float32", num_layers=2)
    x_t, h = values(N, D).astype(np.float32), values(2, N, H, seed=1).astype(np.float32)
    got = layer.step(LAYOUTS[layout](x_t), LAYOUTS[layout](h))
    assert_allclose(got, layer.step(x_t, h), rtol=1e-6)


@pytest.mark.parametrize(
    "kind", ["bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64", ">i2", ">f8"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_are_converted(kind, dtype):
    layer = gru(dtype=dtype)
    arrays = [np.random.default_rng(i).integers(0, 2, a.shape) for i, a in enumerate(problem(layer))]
    got = run(layer, *(a.astype(kind) for a in arrays))
    same(got, run(layer, *(a.astype(dtype) for a in arrays)))
    assert {a.dtype for a in got.values()} == {np.dtype(dtype)}
    step = layer.step(arrays[0][:, 0].astype(kind), arrays[1].astype(kind))
    assert step.dtype == dtype
    assert_array_equal(step, layer.step(arrays[0][:, 0], arrays[1]))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", ">i8"])
def test_types_of_lengths(kind):
    layer, x = gru(), values(N, T, D)
    expected = layer(x, lengths=LENGTHS)
    for lengths in (LENGTHS.astype(kind), LENGTHS.astype(kind).tolist(), tuple(LENGTHS), np.repeat(LENGTHS, 2)[::2]):
        assert_array_equal(layer(x, lengths=lengths), expected)


@pytest.mark.parametrize("layout", ["read-only", "Fortran", "wide rows", "wide features", "backward rows", "list"])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"go_backwards": True}], ids=name_of)
def test_layouts_of_the_mask(options, layout):
    layer, x = gru(**options), values(N, T, D)
    assert_array_equal(layer(x, mask=LAYOUTS[layout](MASK)), layer(x, mask=MASK))


@pytest.mark.parametrize("shape", [(1, T, D), (N, 1, D), (N, T, 1), (1, 1, D), (1, T, 1), (N, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("stride", [0, 1, 3, -7, 1 << 40])
@pytest.mark.parametrize("order", ["C", "F", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_axes_of_size_one_have_any_stride(shape, stride, order, dtype):
    layer = gru(shape[-1], dtype=dtype, bidirectional=True)

    def odd(a):
        base = backwards(a, 0) if order == "backward" else np.array(a, order=order)
        strides = [stride if size == 1 else given for size, given in zip(a.shape, base.strides, strict=True)]
        view = np.lib.stride_tricks.as_strided(base, a.shape, strides)
        assert_array_equal(view, a)
        return view

    arrays = [a.astype(dtype) for a in problem(layer, rows=shape[0], steps=shape[1])]
    same(run(layer, *map(odd, arrays)), run(layer, *arrays), exact=False, rtol=1e-5 if dtype == "float32" else 1e-12)
    if shape[1] == 1:
        forward = gru(shape[-1], dtype=dtype)
        x_t, h = arrays[0][:, 0], values(shape[0], H).astype(dtype)
        assert_allclose(forward.step(odd(x_t), odd(h)), forward.step(x_t, h), rtol=1e-5)


# ---- ragged lists, lengths, masks


@every_layer
@every_validity
def test_the_layer_protocol_is_the_same_with_batches(options, valid):
    layer = gru(**options)
    x, _, dy, _ = problem(layer)
    y, _, tape = layer.forward(x, training=True, **valid)
    dx, _, grads = layer.backward(dy, tape)
    batch = as_batch(x, **valid)
    out, _, _, batch_tape = layer.forward_batch(batch, training=True)
    assert_array_equal(out.data, y)
    if layer.return_sequences:
        assert_array_equal(np.broadcast_to(True, (N, T)) if out.valid is None else out.valid, y.any(axis=2))
    else:
        assert out.lengths is out.mask is None
    got, _, got_grads = layer.backward_batch(dy, None, batch_tape)
    same({"dx": got, **got_grads}, {"dx": dx, **grads})
    assert layer.backward_batch(dy, None, batch_tape, need_dx=False)[0] is None
    assert layer.forward_batch(batch)[3] is None
    major = twin(layer, time_major=True)  # batches are batch-major always
    assert_array_equal(major.forward_batch(batch)[0].data, y)


@every_layer
def test_a_ragged_list_is_a_padded_array_with_lengths(options):
    layer = gru(**options)
    arrays = problem(layer)
    ragged = [row[:n] for row, n in zip(arrays[0], LENGTHS, strict=True)]
    expected = run(layer, *arrays, lengths=LENGTHS)
    same(run(layer, ragged, *arrays[1:]), expected)
    same(run(layer, tuple(ragged), *arrays[1:]), expected)
    mixed = [ragged[0].astype(np.float32).astype(np.float64), *ragged[1:]]
    assert layer(mixed).dtype == layer.dtype


def test_a_ragged_list_is_never_time_major():
    layer, x = gru(time_major=True), values(N, T, D)
    ragged = [row[:n] for row, n in zip(x, LENGTHS, strict=True)]
    assert_array_equal(layer(ragged), layer(x.swapaxes(0, 1), lengths=LENGTHS))


def test_a_ragged_list_may_have_equal_lengths_or_none():
    layer, x = gru(), values(N, T, D)
    assert_array_equal(layer(list(x)), layer(x))
    assert layer([x[0, :0], x[1, :0]]).shape == (2, 0, H)
    assert layer([x[0]]).shape == (1, T, H)


@every_layer
def test_lengths_are_the_mask_before_them(options):
    layer = gru(**options)
    arrays = problem(layer)
    same(run(layer, *arrays, lengths=LENGTHS), run(layer, *arrays, mask=np.arange(T) < LENGTHS[:, None]))


@every_layer
def test_lengths_and_masks_of_all_steps_change_nothing(options):
    layer = gru(**options)
    arrays = problem(layer)
    expected = run(layer, *arrays)
    same(run(layer, *arrays, lengths=[T] * N), expected)
    same(run(layer, *arrays, mask=np.ones((N, T), bool)), expected)


@every_layer
@pytest.mark.parametrize("valid", [{}, {"lengths": LENGTHS}, {"mask": MASK}], ids=name_of)
def test_inputs_are_not_modified(options, valid):
    layer = gru(**options)
    arrays = problem(layer)
    given = [*arrays, *valid.values()]
    before = [a.copy() for a in given]
    run(layer, *arrays, **valid)
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


@every_layer
@every_validity
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_valid_is_not_read(options, valid, poison):
    """Neither in x nor in dy, and no warning comes of it."""
    if not valid:
        valid = {"mask": np.zeros((N, T), bool)}
    layer = gru(**options)
    x, h0, dy, dh = problem(layer)
    invalid = ~validity(valid)
    x_bad, dy_bad = x.copy(), dy.copy()
    x_bad[invalid] = poison
    if dy.ndim == 3:
        dy_bad[invalid[:, ::-1] if layer.go_backwards else invalid] = poison
    expected = run(layer, x, h0, dy, dh, **valid)
    same(run(layer, x_bad, h0, dy_bad, dh, **valid), expected)
    assert all(np.isfinite(a).all() for a in expected.values())
    assert not expected["dx"][invalid].any()
    single = twin(layer, dtype="float32")
    with np.errstate(over="ignore"):  # 1e300 as a float32, on entry
        got = run(single, x_bad, h0, dy_bad, dh, **valid)
    same(got, run(single, x, h0, dy, dh, **valid))


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.5},
        {"activity_regularizer": "l2", "return_sequences": False},
        {"return_sequences": False, "learn_initial_state": True, "num_layers": 2, "layer_dropout": 0.5},
        {"bidirectional": True, "merge_mode": "sum", "return_sequences": False},
    ],
    ids=name_of,
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_spreads_without_a_warning(options):
    """inf - inf and 0 * inf are NaN where they are met, in any pass."""
    layers = [gru(activation=activation, dtype="float32", **options) for activation in ("tanh", "linear")]
    for seed in range(50):
        rng, layer = np.random.default_rng(seed), layers[seed % 2]
        x, h0, dy, dh = (np.array(array, "float32") for array in problem(layer))
        for array in (x, h0, dy, dh):
            few = rng.integers(0, array.size, rng.integers(array.size))
            array.reshape(-1)[few] = rng.choice(np.float32([np.inf, -np.inf, np.nan, 3e38, -3e38]), len(few))
        _, _, tape = layer.forward(x, h0, training=True, seed=seed)
        layer.backward(dy, tape, dh)
        layer(x, h0, lengths=LENGTHS)
        layer.gates(x, h0)


def test_what_is_not_valid_is_not_read_where_outputs_repeat():
    layer = gru(zero_output_for_mask=False)
    x, h0, dy, dh = problem(layer)
    expected = run(layer, x, h0, dy, dh, mask=MASK)
    x[~MASK] = np.nan
    dy[1, :2] = dy[2] = np.nan  # before the first output there is nothing to repeat
    same(run(layer, x, h0, dy, dh, mask=MASK), expected)


@every_layer
@every_validity
def test_nan_stays_in_its_row(options, valid):
    layer = gru(**options)
    clean = problem(layer)
    expected = run(layer, *clean, **valid)
    for which in (0, 1, 2, 3):  # x, h0, dy, dh
        arrays = [a.copy() for a in clean]
        row = 3  # full or nearly so in every case
        rows = np.arange(N) != row
        arrays[which][(row,) if which in (0, 2) else (..., row, slice(None))] = np.nan
        got = run(layer, *arrays, **valid)
        for key in ("y", "dx"):
            assert_array_equal(got[key][rows], expected[key][rows])
            assert np.isfinite(got[key][rows]).all()
        for key in ("h", "dh0"):
            assert_array_equal(got[key][..., rows, :], expected[key][..., rows, :])
        if which in (0, 1):
            assert np.isnan(got["h"][..., row, :]).any() and np.isnan(got["y"][row]).any()
        else:
            assert_array_equal(got["y"], expected["y"])
            assert_array_equal(got["h"], expected["h"])
        assert np.isnan(got["dh0"][..., row, :]).any() and np.isnan(got["dx"][row]).any()


def test_nan_starts_at_its_step():
    layer, x = gru(), values(N, T, D)
    expected = layer(x)
    x[1, 4, 0] = np.nan
    y = layer(x)
    assert_array_equal(y[1, :4], expected[1, :4])
    assert np.isnan(y[1, 4:]).all()


@every_layer
@every_validity
def test_a_batch_is_its_rows_one_by_one(options, valid):
    layer = gru(**options)
    arrays = problem(layer)
    together = run(layer, *arrays, **valid)
    total = dict.fromkeys(layer.parameters, 0)
    for i in range(N):
        x, h0, dy, dh = arrays
        rows = [x[i : i + 1], h0[..., i : i + 1, :], dy[i : i + 1], dh[..., i : i + 1, :]]
        alone = run(layer, *rows, **{k: v[i : i + 1] for k, v in valid.items()})
        for key in ("y", "dx"):
            assert_allclose(alone[key][0], together[key][i], rtol=1e-12, atol=1e-12, err_msg=key)
        for key in ("h", "dh0"):
            assert_allclose(alone[key][..., 0, :], together[key][..., i, :], rtol=1e-12, atol=1e-12, err_msg=key)
        for name in total:
            total[name] += alone[name]
    for name in total:
        assert_allclose(total[name], together[name], rtol=1e-12, atol=1e-12, err_msg=name)


@every_layer
@every_validity
def test_rows_in_any_order(options, valid):
    layer = gru(**options)
    x, h0, dy, dh = problem(layer)
    expected = run(layer, x, h0, dy, dh, **valid)
    p = np.array([2, 0, 3, 1])
    got = run(layer, x[p], h0[..., p, :], dy[p], dh[..., p, :], **{k: v[p] for k, v in valid.items()})
    for key in ("y", "dx"):
        assert_allclose(got[key], expected[key][p], rtol=1e-12, atol=1e-12)
    for key in ("h", "dh0"):
        assert_allclose(got[key], expected[key][..., p, :], rtol=1e-12, atol=1e-12)


# ---- outputs and final states


@every_layer
@every_validity
def test_outputs_at_steps_that_are_not_valid_are_zero(options, valid):
    layer = gru(**options)
    x, h0, *_ = problem(layer)
    y = layer(x, h0, **valid)
    if layer.return_sequences:
        taken = validity(valid)[:, ::-1] if layer.go_backwards else validity(valid)
        assert not y[~taken].any() and y[taken].all()


@every_validity
@pytest.mark.parametrize(
    "options", [{}, {"reverse": True}, {"go_backwards": True}, {"bidirectional": True}, {"num_layers": 2}], ids=name_of
)
def test_the_final_state_is_that_of_the_last_valid_step(options, valid):
    layer = gru(**options)
    x, h0, *_ = problem(layer)
    y, h, tape = layer.forward(x, h0, **valid)
    assert tape is None
    taken = validity(valid)[:, ::-1] if layer.go_backwards else validity(valid)
    for i in range(N):
        steps = np.flatnonzero(taken[i])
        if not len(steps):
            assert_array_equal(h[..., i, :], h0[..., i, :])
        elif layer.bidirectional:
            assert_array_equal(h[:, i], [y[i, steps[-1], :H], y[i, steps[0], H:]])
        else:
            assert_array_equal(
                h[..., i, :] if h.ndim == 2 else h[-1, i], y[i, steps[0] if layer.reverse else steps[-1]]
            )


@every_layer
@every_validity
def test_without_return_sequences_the_output_is_that_of_the_final_state(options, valid):
    layer = gru(**options | {"return_sequences": False, "return_state": True})
    x, h0, *_ = problem(layer)
    y, h = layer(x, h0, **valid)
    finals = h.reshape(-1, N, H)[-2:] if layer.bidirectional else [h.reshape(-1, N, H)[-1]]
    merge = {"sum": lambda a, b: a + b, "mul": lambda a, b: a * b, "ave": lambda a, b: (a + b) / 2}.get(
        layer.merge_mode, lambda *v: np.concatenate(v, axis=-1)
    )
    assert_array_equal(y, merge(*finals))
    sequences = twin(layer, return_sequences=True)
    assert_array_equal(sequences(x, h0, **valid)[1], h)


def test_what_a_call_returns():
    x = values(N, T, D)
    for sequences in (False, True):
        layer = gru(return_sequences=sequences)
        y, h, tape = layer.forward(x)
        assert tape is None and isinstance(layer(x), np.ndarray)
        assert_array_equal(layer(x), y)
        both = twin(layer, return_state=True)(x)
        assert isinstance(both, tuple) and len(both) == 2
        assert_array_equal(both[0], y)
        assert_array_equal(both[1], h)
        y_training, h_training, tape = layer.forward(x, training=True)
        assert tape is not None
        assert_array_equal(y_training, y)
        assert_array_equal(h_training, h)


@every_layer
def test_no_steps(options):
    layer = gru(**options)
    x, h0, _, dh = problem(layer)
    for arguments in (
        {"x": x[:, :0]},
        {"x": x[:, :0], "lengths": [0] * N},
        {"x": x, "lengths": [0] * N},
        {"x": x[:, :0], "mask": MASK[:, :0]},
    ):
        y, h, tape = layer.forward(initial_state=h0, training=True, **arguments)
        assert_array_equal(h, h0)
        if layer.return_sequences:
            assert y.shape == (N, arguments["x"].shape[1], layer.output_size(D)) and not y.any()
        dx, dh0, grads = layer.backward(np.zeros_like(y), tape, dh=dh)
        assert_array_equal(dh0, dh)
        assert dx.shape == arguments["x"].shape and not dx.any() and not any(g.any() for g in grads.values())


@every_layer
@pytest.mark.parametrize("steps", [0, T])
def test_no_rows(options, steps):
    layer = gru(**options)
    x = np.zeros((0, steps, D))
    for valid in ({}, {"lengths": np.zeros(0, int)}, {"lengths": []}, {"mask": np.zeros((0, steps), bool)}):
        y, h, tape = layer.forward(x, training=True, **valid)
        assert y.shape == ((0, steps, layer.output_size(D)) if layer.return_sequences else (0, layer.output_size(D)))
        assert h.shape[-2:] == (0, H)
        dx, dh0, grads = layer.backward(y, tape, dh=h)
        assert dx.shape == x.shape and dh0.shape == h.shape and not any(g.any() for g in grads.values())


def test_no_rows_in_a_step():
    assert gru().step(np.zeros((0, D)), np.zeros((0, H))).shape == (0, H)


# ---- order in time


@every_layer
@every_validity
def test_time_major_is_batch_major_with_the_axes_exchanged(options, valid):
    layer = gru(**options)
    major = twin(layer, time_major=True)
    x, h0, dy, dh = problem(layer)
    expected = run(layer, x, h0, dy, dh, **valid)

    def turned(a):
        return a.swapaxes(0, 1) if a.ndim == 3 else a

    arguments = {k: v.T if k == "mask" else v for k, v in valid.items()}
    got = run(major, turned(x), h0, turned(dy), dh, **arguments)
    got["y"], got["dx"] = turned(got["y"]), turned(got["dx"])
    same(got, expected, exact=False)
    contiguous = run(major, turned(x).copy(), h0, turned(dy).copy(), dh, **arguments)
    contiguous["y"], contiguous["dx"] = turned(contiguous["y"]), turned(contiguous["dx"])
    same(contiguous, expected, exact=False)


def flipped_rows(x, valid):
    """Each row's valid steps in reverse, where they were."""
    result = x.copy()
    for row, source, taken in zip(result, x, validity(valid), strict=True):
        row[taken] = source[taken][::-1]
    return result


@every_validity
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "reset_after": True}], ids=name_of)
def test_reverse_and_go_backwards(options, valid):
    layer = gru(**options)
    arrays = problem(layer)
    x, h0, dy, dh = arrays
    # `reverse`: from each row's last valid step; everything in the order of the input.
    expected = run(layer, flipped_rows(x, valid), h0, flipped_rows(dy, valid), dh, **valid)
    expected["y"], expected["dx"] = flipped_rows(expected["y"], valid), flipped_rows(expected["dx"], valid)
    reverse = run(twin(layer, reverse=True), *arrays, **valid)
    same(reverse, expected, exact=False)
    # `go_backwards`: the same with outputs, and their gradient, in processing order: the last step's first.
    backwards = run(twin(layer, go_backwards=True), x, h0, dy[:, ::-1], dh, **valid)
    backwards["y"] = backwards["y"][:, ::-1]
    same(backwards, expected, exact=False)


MERGE = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": np.add,
    "mul": np.multiply,
    "ave": lambda a, b: (a + b) / 2,
}


@every_validity
@pytest.mark.parametrize("merge_mode", MERGE)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_bidirectional_stack_is_single_layers_merged(num_layers, merge_mode, valid):
    layer = gru(bidirectional=True, merge_mode=merge_mode, num_layers=num_layers)
    x, h0, *_ = problem(layer)
    y, h, _ = layer.forward(x, h0, **valid)
    below = x
    for index in range(num_layers):
        outputs = []
        for d, direction in enumerate(("forward", "backward")):
            single = cgru.GRU(H, return_sequences=True, reverse=d == 1, dtype="float64", input_size=below.shape[-1])
            single.set_weights([v for name, v in layer.parameters.items() if name.startswith(f"l{index}.{direction}.")])
            out, final, _ = single.forward(below, h0[2 * index + d], **valid)
            assert_allclose(h[2 * index + d], final, rtol=1e-12)
            outputs.append(out)
        below = MERGE[merge_mode](*outputs)
    assert_allclose(y, below, rtol=1e-12)


def repeated(y, taken, backwards):
    """y with the last output repeated where there is none, in processing order."""
    result, source = np.zeros_like(y), np.full(taken.shape, -1)
    for i in range(len(y)):
        last = -1
        for t in reversed(range(taken.shape[1])) if backwards else range(taken.shape[1]):
            last = t if taken[i, t] else last
            source[i, t] = last
            if last >= 0:
                result[i, t] = y[i, last]
    return result, source


@pytest.mark.parametrize("valid", VALID[1:], ids=name_of)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reverse": True},
        {"go_backwards": True},
        {"num_layers": 2},
        {"bidirectional": True},
        {"bidirectional": True, "num_layers": 2},
    ],
    ids=name_of,
)
def test_zero_output_for_mask_false_repeats_the_last_output(options, valid):
    zeros = gru(**options)
    layer = twin(zeros, zero_output_for_mask=False)
    x, h0, dy, dh = problem(layer)
    taken = validity(valid)[:, ::-1] if layer.go_backwards else validity(valid)
    expected = run(zeros, x, h0, dy, dh, **valid)
    directions = (False, True) if layer.bidirectional else (layer.reverse,)
    gathered = np.zeros_like(dy)  # the gradient flows to what was repeated
    for d, backward in enumerate(directions):
        half = slice(d * H, (d + 1) * H)
        expected["y"][..., half], source = repeated(expected["y"][..., half], taken, backward)
        for i, t in zip(*np.nonzero(source >= 0), strict=True):
            gathered[i, source[i, t], half] += dy[i, t, half]
    expected = run(zeros, x, h0, gathered, dh, **valid) | {"y": expected["y"]}
    same(run(layer, x, h0, dy, dh, **valid), expected, exact=False)
    both = twin(layer, return_sequences=False)
    assert_array_equal(both(x, h0, **valid), twin(zeros, return_sequences=False)(x, h0, **valid))


# ---- stateful layers


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "reset_after": True}, {"return_sequences": False}], ids=name_of
)
@pytest.mark.parametrize("training", [False, True])
def test_stateful_halves_make_the_whole(options, training):
    plain = gru(**options)
    layer = twin(plain, stateful=True, return_state=True)
    x, h0, *_ = problem(plain)
    y, h, _ = plain.forward(x)

    def halves():
        first, _, _ = layer.forward(x[:, :3], training=training)
        second, state, _ = layer.forward(x[:, 3:], training=training)
        return np.concatenate([first, second], axis=1) if layer.return_sequences else second, state

    for got in (halves(), (layer.reset_states(), halves())[1]):
        assert_allclose(got[0], y, rtol=1e-12)
        assert_allclose(got[1], h, rtol=1e-12)
    # Set from outside; a given initial state goes before the kept one; either is kept afterwards.
    layer.reset_states(h0)
    y, h, _ = plain.forward(x, h0)
    assert_allclose(layer(x)[0], y, rtol=1e-12)
    assert_allclose(layer(x)[0], plain(x, h), rtol=1e-12)
    assert_allclose(layer(x, initial_state=h0)[0], y, rtol=1e-12)
    assert_allclose(layer(x)[0], plain(x, h), rtol=1e-12)


def test_stateful_with_lengths_and_another_batch_size():
    plain = gru()
    layer = twin(plain, stateful=True)
    x = values(N, T, D)
    _, h, _ = plain.forward(x, lengths=LENGTHS)
    layer(x, lengths=LENGTHS)
    assert_allclose(layer(x), plain(x, h), rtol=1e-12)
    layer.reset_states()
    assert_array_equal(layer(x[:2]), plain(x[:2]))
    layer.reset_states(np.zeros((1, H)))
    assert_array_equal(layer(x[:1]), plain(x[:1]))


def test_the_kept_state_is_the_layers_own():
    layer = gru(stateful=True, return_state=True)
    x, given = values(N, T, D), values(N, H)
    layer.reset_states(given)
    expected = gru()(x, given)
    given[:] = 9
    y, h = layer(x)
    assert_array_equal(y, expected)
    kept = h.copy()
    h[:] = 9
    assert_array_equal(layer(x)[0], gru()(x, kept))


def test_a_step_of_a_stateful_layer_starts_from_its_state_and_leaves_it():
    layer, x = gru(stateful=True), values(N, T, D)
    layer(x)
    first = layer.step(x[:, 0])
    assert_array_equal(layer.step(x[:, 0]), first)
    assert_allclose(first, layer(x[:, :1])[:, 0], rtol=1e-12)


def test_a_learned_initial_state():
    layer, x = gru(learn_initial_state=True, num_layers=2), values(N, T, D)
    h0 = np.stack([np.tile(layer.parameters[f"l{i}.forward.initial_state"], (N, 1)) for i in range(2)])
    assert_array_equal(layer(x), layer(x, h0))
    assert_allclose(layer.step(x[:, 0])[-1], layer(x)[:, 0], rtol=1e-12)
    y, _, tape = layer.forward(x, training=True)
    _, dh0, grads = layer.backward(np.ones_like(y), tape)
    for i in range(2):
        assert_allclose(grads[f"l{i}.forward.initial_state"], dh0[i].sum(axis=0), rtol=1e-12)
    _, _, tape = layer.forward(x, h0, training=True)
    assert not layer.backward(np.ones_like(y), tape)[2]["l0.forward.initial_state"].any()


# ---- whose memory it is


@pytest.mark.parametrize("options", [*LAYERS, {"bidirectional": True, "zero_output_for_mask": False}], ids=name_of)
@every_validity
def test_results_are_the_callers(options, valid):
    """Writing into what came back, or into what was given, changes neither the tape nor the layer."""
    layer = gru(**options)
    x, h0, dy, dh = problem(layer)
    expected = run(layer, x, h0, dy, dh, **valid)
    valid = {k: v.copy() for k, v in valid.items()}
    h_given = h0.copy()
    y, h, tape = layer.forward(x, h_given, training=True, **valid)
    assert not np.shares_memory(y, h) and not np.shares_memory(h, h_given)
    assert y.flags.writeable and h.flags.writeable
    for a in (y, h, h_given, *valid.values()):
        a[...] = 0
    for _ in range(2):
        dx, dh0, grads = layer.backward(dy, tape, dh=dh)
        same({"dx": dx, "dh0": dh0, **grads}, {k: expected[k] for k in ("dx", "dh0", *grads)})
        arrays = [dx, dh0, *grads.values()]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        assert not any(np.shares_memory(a, b) for a in arrays for b in (x, dy, dh))
        for a in arrays:
            a[...] = np.nan
    weights = layer.get_weights()
    assert_array_equal(layer(x, h0), layer.forward(x, h0, training=True)[0])
    assert all(np.array_equal(a, b) for a, b in zip(weights, layer.get_weights(), strict=True))


@every_layer
def test_backward_takes_either_gradient(options):
    """It is linear: of dy alone and of dh alone add up to that of both."""
    layer = gru(**options)
    x, h0, dy, dh = problem(layer)
    _, _, tape = layer.forward(x, h0, lengths=LENGTHS, training=True)
    results = [layer.backward(dy, tape), layer.backward(None, tape, dh=dh), layer.backward(dy, tape, dh)]
    a, b, both = ({"dx": dx, "dh0": dh0, **grads} for dx, dh0, grads in results)
    same({k: a[k] + b[k] for k in both}, both, exact=False)
    dx, dh0, grads = layer.backward(dy, tape, dh, need_dx=False)
    assert dx is None
    same({"dh0": dh0, **grads}, {k: both[k] for k in ("dh0", *grads)}, exact=False)


def test_the_tape_keeps_the_weights_of_its_forward_pass():
    layer = gru()
    x, h0, dy, dh = problem(layer)
    _, _, tape = layer.forward(x, h0, training=True)
    before = layer.backward(dy, tape, dh)
    layer.set_weights([w * 2 for w in layer.get_weights()])
    after = layer.backward(dy, tape, dh)
    assert_array_equal(before[0], after[0])


# ---- step


@pytest.mark.parametrize(
    "options", [{}, {"reset_after": True}, {"num_layers": 3}, {"dtype": "float32"}, {"activation": "relu"}], ids=name_of
)
def test_steps_make_the_sequence(options):
    layer = gru(**options)
    x, h0, *_ = problem(layer)
    y, final, _ = layer.forward(x, h0)
    rtol = 1e-5 if layer.dtype == np.float32 else 1e-12
    h = h0
    out = np.empty(h0.shape, layer.dtype)
    in_place = h0.astype(layer.dtype)
    for t in range(T):
        before = h.copy()
        new = layer.step(x[:, t], h)
        assert_array_equal(h, before)
        assert new is not h and new.dtype == layer.dtype
        assert layer.step(x[:, t], h, out=out) is out
        assert_array_equal(out, new)
        assert layer.step(x[:, t], in_place, out=in_place) is in_place
        assert_array_equal(in_place, new)
        h = new
        assert_allclose(h if h.ndim == 2 else h[-1], y[:, t], rtol=rtol, atol=rtol)
    assert_allclose(h, final, rtol=rtol, atol=rtol)


def test_chunks_make_the_sequence():
    layer = gru(num_layers=2)
    x, h, *_ = problem(layer)
    y, final, _ = layer.forward(x, h)
    for t in range(0, T, 2):
        chunk, h, _ = layer.forward(x[:, t : t + 2], h)
        assert_allclose(chunk, y[:, t : t + 2], rtol=1e-12)
    assert_allclose(h, final, rtol=1e-12)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_prepared_call_is_the_general_one(dtype, time_major, return_sequences):
    layer = gru(dtype=dtype, time_major=time_major, return_sequences=return_sequences, return_state=True)
    x, h0 = (array.astype(dtype) for array in (values(*(T, N, D) if time_major else (N, T, D)), values(N, layer.units)))
    strided = np.repeat(h0, 2, axis=1)[:, ::2]
    layer(x)  # builds and prepares
    for state in (None, h0, strided, h0.astype("float64"), h0.tolist()):
        given = None if state is None else np.array(state)
        y, h, _ = layer.forward(x, state)
        called = layer(x, initial_state=state)
        for a, b in zip(called, (y, h), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == dtype and a.shape == b.shape
        if state is not None:
            np.testing.assert_array_equal(state, given)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_step_with_out_allocates_no_arrays(num_layers):
    units, rows = 16, 256
    layer = gru(units=units, num_layers=num_layers, dtype="float32")
    x_t = np.ones((rows, D), np.float32)
    h = np.zeros((rows, units) if num_layers == 1 else (num_layers, rows, units), np.float32)
    layer.step(x_t, h, out=h)
    peaks = []
    tracemalloc.start()
    try:
        with cgru.limit_threads(1):  # by default files are read now and then
            for _ in range(51):
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                layer.step(x_t, h, out=h)
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    # An array of the state is 16 kB; what remains are the views that the call makes. In the midst of some steps another
    # thread of the process may allocate, or Python collect its garbage.
    assert np.median(peaks) < 8000
