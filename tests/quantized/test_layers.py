"""Layers with small weights: of 16 bits the bits of float32 layers with rounded weights, of int8 those of integers."""

import copy
import itertools
import pickle

import children
import numpy as np
import pytest

import cgru
from cgru import kernels

KINDS = ("float16", "bfloat16", "int8")
HALVES = KINDS[:2]
N, T, D, H = 5, 7, 11, 13
FORMS = {
    "plain": {},
    "reset_after": {"reset_after": True},
    "reverse": {"reverse": True, "activation": "relu"},
    "go_backwards": {"go_backwards": True, "use_bias": False},
    "deep": {"num_layers": 2, "layer_norm": True, "learn_initial_state": True},
    "deep_after": {"num_layers": 2, "layer_norm": True, "reset_after": True, "zoneout": 0.1},
    "both_ways": {"bidirectional": True, "merge_mode": "mul", "zero_output_for_mask": False, "reset_after": True},
    "hard": {"activation": "hard_sigmoid", "recurrent_activation": "hard_sigmoid_keras2", "time_major": True},
    "others": {"activation": "linear", "recurrent_activation": "tanh", "return_state": False},
}


@pytest.fixture(params=["narrow", "wide"])
def widening(request):
    """Calls that take their 16 bits as they are, whatever their size, or all widen them first."""
    narrow = {"near_bytes": 0, "many_rows": 10**9}
    before = kernels.tune(**narrow if request.param == "narrow" else {"near_bytes": 10**9, "near_rows": 0})
    yield
    kernels.tune(**before)


def trained(rng, inputs=D, units=H, **options):
    """A float32 GRU of random weights, biases and the like included."""
    options = {"return_sequences": True, "return_state": True} | options
    layer = cgru.GRU(units, **options, input_size=inputs, seed=int(rng.integers(1000)))
    with layer.update() as parameters:
        for name, array in parameters.items():
            array += rng.normal(0, 0.1, array.shape) * (not name.endswith("kernel"))
    return layer


def rounded(layer, small):
    """The float32 layer that computes with the weights of a small one."""
    other = layer.with_options()
    other.set_weights(small.get_weights())
    return other


def equal(one, other):
    one, other = (x if isinstance(x, tuple) else (x,) for x in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def bfloat16(x):
    """The nearest numbers with the upper 16 bits of float32, ties to even, one by one."""
    nearest = []
    for value in x.ravel():
        bits = int(np.float32(value).view(np.uint32))
        low, high = bits & 0xFFFF, bits >> 16
        up = low > 0x8000 or (low == 0x8000 and high & 1)
        nearest.append(np.uint32((high + up) << 16).view(np.float32))
    return np.reshape(nearest, x.shape)


def int8(w, axis=0):
    scale = np.maximum(np.abs(w).max(axis, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    return np.rint(w / scale), scale


# -- weights


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_the_nearest_of_their_kind(rng, form):
    layer = trained(rng, **FORMS[form])
    for kind in KINDS:
        small = cgru.quantize(layer, kind)
        assert small.kind == kind and f"kind='{kind}'" in repr(small)
        assert small.parameters.keys() == layer.parameters.keys()
        for name, array in layer.parameters.items():
            wanted = array
            if name.endswith("kernel"):
                codes, scale = int8(array)
                halves = {"float16": array.astype(np.float16).astype(np.float32), "bfloat16": bfloat16(array)}
                wanted = codes * scale if kind == "int8" else halves[kind]
            assert np.array_equal(small.parameters[name], wanted), (kind, name)
            assert small.parameters[name].dtype == np.float32 and not small.parameters[name].flags.writeable


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 40), (19, 80), (70, 33)])
def test_codes_come_back_from_the_panels(rng, kind, sizes):
    layer = trained(rng, *sizes)
    stored = cgru.quantize(layer, kind).stored()
    for name in ("kernel", "recurrent_kernel"):
        array = layer.parameters[name]
        if kind == "int8":
            codes, scale = int8(array)
            assert np.array_equal(stored[name], codes) and stored[name].dtype == np.int8
            assert np.array_equal(stored[f"{name}_scale"], scale[0])
        elif kind == "float16":
            assert np.array_equal(stored[name], array.astype(np.float16))
        else:
            assert np.array_equal(stored[name], bfloat16(array).view(np.uint32) >> 16)
    assert np.array_equal(stored["bias"], layer.parameters["bias"])


def test_memory_is_a_half_and_a_quarter(rng):
    layer = trained(rng, 96, 128)
    whole = sum(array.nbytes for array in layer.parameters.values())
    for kind, share in (("float16", 0.5), ("bfloat16", 0.5), ("int8", 0.25)):
        small = cgru.quantize(layer, kind)
        small(np.zeros((1, 2, 96)))
        held = [value for value in vars(small).values() if isinstance(value, np.ndarray)]
        assert not held and small.nbytes < share * whole * 1.12  # scales, sums and biases
        assert all(cell.kernel.base is not None for cell in small._prepared.cells)
        blobs = {id(small._parameters[name].blob) for name in ("kernel", "recurrent_kernel")}
        assert {id(a) for cell in small._prepared.cells for a in (cell.kernel, cell.recurrent_kernel)} == blobs


# -- 16 bits: the same sums


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("form", FORMS)
def test_halves_give_the_bits_of_rounded_float32(rng, form, kind, widening):
    layer = trained(rng, **FORMS[form])
    small = cgru.quantize(layer, kind)
    exact = rounded(layer, small)
    turned = layer.time_major
    x = rng.standard_normal((T, N, D) if turned else (N, T, D)).astype(np.float32)
    lengths, cut = rng.integers(0, T + 1, N), rng.random((N, T)) < 0.3
    holes, cut = ((a.T if turned else a) for a in (rng.random((N, T)) < 0.6, cut))
    state = rng.standard_normal(layer._state_shape(N)).astype(np.float32)
    calls = [{}, {"lengths": lengths}, {"mask": holes}, {"resets": cut}, {"initial_state": state},
             {"initial_state": state, "mask": holes, "resets": cut}]  # fmt: skip
    for given in calls:
        assert equal(exact(x, **given), small(x, **given)), given.keys()
    if not turned:
        assert equal(exact([x[0], x[1, :3]]), small([x[0], x[1, :3]]))


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("sizes", [(1, 8, 40), (1, 20, 160), (3, 20, 65), (9, 33, 96), (40, 16, 32), (40, 512, 48)])
@pytest.mark.parametrize("reset_after", [False, True])
def test_halves_give_these_bits_at_all_sizes(rng, reset_after, sizes, kind, widening):
    n, inputs, units = sizes
    layer = trained(rng, inputs, units, reset_after=reset_after)
    small = cgru.quantize(layer, kind)
    exact = rounded(layer, small)
    x = rng.standard_normal((n, 9, inputs)).astype(np.float32)
    for threads in (1, 2, 3):
        with cgru.limit_threads(threads):
            assert equal(exact(x), small(x)), threads


@pytest.mark.parametrize("kind", HALVES)
def test_halves_of_dense_give_the_bits_of_rounded_float32(rng, kind):
    for F, K, activation in [(1, 1, "linear"), (13, 40, "softmax"), (70, 33, "relu"), (40, 200, "sigmoid")]:
        layer = cgru.Dense(K, activation, seed=1, use_bias=activation != "relu")
        layer.build(F)
        small = cgru.quantize(layer, kind)
        exact = rounded(layer, small)
        for n in (1, 3, 50):
            x = rng.standard_normal((n, F)).astype(np.float32)
            assert equal(exact(x), small(x)) and equal(exact.step_rows(x), small.step_rows(x))
        steps, lengths = x.reshape(5, 10, F), [3, 0, 1, 10, 4]
        assert equal(exact(steps, lengths=lengths), small(steps, lengths=lengths))


# -- int8: exact sums of integers


def product(x, w):
    """x @ w as int8 has it: pieces of 4096, in float32."""
    codes, scale = int8(w)
    total = np.zeros((len(x), w.shape[1]), np.float32)
    for k in range(0, len(w), 4096):
        part = x[:, k : k + 4096]
        m = np.abs(part).max(1, keepdims=True)
        with np.errstate(all="ignore"):
            q = np.where(m > 0, np.rint(part * (np.float32(127) / m)), 0)
        sums = (q.astype(np.int64) @ codes[k : k + 4096].astype(np.int64)).astype(np.float32)
        total += sums * (scale * (m / np.float32(127)))
    return total


def emulated_step(layer, x, h):
    """The state after one step from h, in float32 but for the rounding of the last bits."""
    W, U, b = (layer.parameters[name] for name in ("kernel", "recurrent_kernel", "bias"))
    f, g = (activation(name) for name in (layer.recurrent_activation, layer.activation))
    xg = product(x, W)
    if layer.reset_after:
        hg = product(h, U)
        r, z, n = (xg + b[0])[:, :H], (xg + b[0])[:, H : 2 * H], (xg + b[0])[:, 2 * H :]
        hr, hz, q = np.split(hg + b[1], 3, axis=1)
        r, z = f(r + hr), f(z + hz)
        n = g(n + r * q)
    else:
        xg = xg + b
        hg = product(h, U[:, : 2 * H])
        r, z = f(xg[:, :H] + hg[:, :H]), f(xg[:, H : 2 * H] + hg[:, H:])
        n = g(xg[:, 2 * H :] + product(r * h, U[:, 2 * H :]))
    return (1 - z) * h + z * n


def activation(name):
    return {
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
        "tanh": np.tanh,
        "relu": lambda a: np.maximum(a, 0),
        "linear": lambda a: a,
        "hard_sigmoid": lambda a: np.clip(a / 6 + 0.5, 0, 1),
        "hard_sigmoid_keras2": lambda a: np.clip(0.2 * a + 0.5, 0, 1),
    }[name]


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("g", ["tanh", "relu", "hard_sigmoid"])
def test_int8_is_integers_and_scales(rng, g, reset_after):
    layer = trained(rng, activation=g, reset_after=reset_after)
    small = cgru.quantize(layer, "int8")
    x = rng.standard_normal((N, T, D)).astype(np.float32)
    start = rng.standard_normal((N, H)).astype(np.float32) * np.float32(1.5)  # beyond what tanh gives
    y, _ = small(x, initial_state=start)
    h = start
    for t in range(T):  # step by step: a state that differs in its last bit may round to another code
        assert np.abs(emulated_step(layer, x[:, t], h) - y[:, t]).max() < 2e-6, t
        h = y[:, t]


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("g", ["tanh", "relu"])
def test_int8_keeps_as_much_of_small_states_as_of_large_ones(rng, g, reset_after):
    layer = trained(rng, activation=g, reset_after=reset_after, use_bias=False, return_state=False)
    small = cgru.quantize(layer, "int8")
    x = rng.standard_normal((20, 30, D)).astype(np.float32)
    errors = []
    for size in (1, 1e-2, 1e-4, 1e-8):
        y = layer(x * np.float32(size))
        errors.append(np.sqrt(np.square(small(x * np.float32(size)) - y).sum() / np.square(y).sum()))
    assert max(errors) < 0.02, errors  # a fixed scale makes a fifth of it, and more


def test_int8_of_dense_is_integers_and_scales(rng):
    for F, K, n in [(1, 1, 1), (5, 3, 2), (130, 40, 7), (4096, 5, 2), (4097, 20, 3), (9001, 17, 2), (140_000, 2, 1)]:
        layer = cgru.Dense(K, seed=2)
        layer.build(F)
        with layer.update() as parameters:
            parameters["bias"][...] = rng.standard_normal(K)
        x = rng.standard_normal((n, F)).astype(np.float32) * np.float32(10) ** rng.integers(-3, 4, (n, 1)).astype("f4")
        y = cgru.quantize(layer, "int8")(x)
        expected = product(x, layer.parameters["kernel"]) + layer.parameters["bias"]
        assert np.abs(y - expected).max() <= 1e-6 * np.abs(x).max() * np.sqrt(F), (F, K)


@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize("large", [0, 0.3, 1])
def test_int8_of_many_large_inputs(rng, large, dots):
    """Codes of 127 in some or all places, whose products leave least room, by instructions for them and without."""
    before = kernels.tune()
    kernels.tune(dots=before["dots"] if dots else 0)
    try:
        for F, K, n in [(1, 1, 1), (4, 9, 2), (37, 16, 5), (130, 40, 7), (256, 136, 1), (4500, 72, 13)]:
            layer = cgru.Dense(K, use_bias=False, seed=2)
            layer.build(F)
            with layer.update() as parameters:  # of 127 and -127 as well
                parameters["kernel"][...] = np.where(rng.random((F, K)) < 0.5, 1, rng.uniform(-1, 1, (F, K)))
                parameters["kernel"][:, ::2] *= -1
            x = rng.uniform(-1, 1, (n, F)).astype(np.float32)
            x[rng.random((n, F)) < large] = 1
            x[:, ::3] *= -1
            y = cgru.quantize(layer, "int8")(x)
            expected = product(x, layer.parameters["kernel"])
            assert np.abs(y - expected).max() <= 1e-6 * np.abs(expected).max(), (F, K)
    finally:
        kernels.tune(**before)


@pytest.mark.parametrize("sizes", [(D, H, 6), (40, 160, 5), (30, 72, 1), (200, 200, 14)])
@pytest.mark.parametrize("reset_after", [False, True])
def test_int8_gives_the_same_bits_without_instructions_for_it(rng, sizes, reset_after):
    inputs, units, n = sizes
    small = cgru.quantize(trained(rng, inputs, units, reset_after=reset_after), "int8")
    x = rng.standard_normal((n, T, inputs)).astype(np.float32)
    x[:, ::2] = np.sign(x[:, ::2])
    outputs = small(x)
    before = kernels.tune(dots=0)
    try:
        for threads in (1, 2):
            with cgru.limit_threads(threads):
                assert equal(small(x), outputs)
                assert equal(small.step(x[:, 0]), outputs[0][:, 0])
    finally:
        kernels.tune(**before)


def test_int8_of_extreme_inputs(rng):
    layer = cgru.Dense(3, use_bias=False, seed=0)
    layer.build(6)
    small = cgru.quantize(layer, "int8")
    x = rng.standard_normal((6, 6)).astype(np.float32)
    x[1], x[2, 3], x[3, 1], x[4] = 0, np.nan, -np.inf, x[4] * np.float32(1e30)
    y = small(x)
    assert (y[1] == 0).all() and np.isnan(y[2:4]).all() and np.isfinite(y[[0, 1, 4, 5]]).all()
    assert equal(y[5:], small(x[5:]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e-42])
@pytest.mark.parametrize("f", ["sigmoid", "relu", "hard_sigmoid"])
@pytest.mark.parametrize("g", ["tanh", "relu"])
def test_int8_rows_do_not_see_each_other(rng, f, g, value):
    small = cgru.quantize(trained(rng, activation=g, recurrent_activation=f, return_state=False), "int8")
    x = rng.standard_normal((N, T, D)).astype(np.float32)
    start = rng.standard_normal((N, H)).astype(np.float32)
    clean = small(x, initial_state=start)
    x[1, 2, 3] = start[3, 0] = value
    y = small(x, initial_state=start)
    others = [0, 2, 4]
    assert equal(y[others], clean[others]) and equal(y[1, :2], clean[1, :2])
    if not np.isfinite(value):
        assert np.isnan(y[1, 2:]).all() and np.isnan(y[3]).all()


# -- the same bits however it is computed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("sizes", [(D, H, 6), (40, 160, 5), (24, 96, 33)])
def test_the_same_bits_for_threads_batch_cuts_and_steps(rng, sizes, reset_after, kind, widening):
    inputs, units, n = sizes
    small = cgru.quantize(trained(rng, inputs, units, reset_after=reset_after), kind)
    x = rng.standard_normal((n, T, inputs)).astype(np.float32)
    whole, last = small(x)
    for threads in (1, 2, 3):
        with cgru.limit_threads(threads):
            assert equal(small(x), (whole, last))
            state = None
            for t in range(T):
                state = small.step(x[:, t], state)
                assert equal(state, whole[:, t])
    alone = np.concatenate([small(x[i : i + 1])[0] for i in range(n)])
    first, state = small(x[:, :3])
    rest, end = small(x[:, 3:], initial_state=state)
    assert equal(alone, whole) and equal(np.concatenate([first, rest], 1), whole) and equal(end, last)
    out = np.empty_like(state)
    assert small.step(x[:, 3], state, out=out) is out and equal(out, whole[:, 3])


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", HALVES)
def test_calls_that_widen_give_the_bits_of_calls_that_do_not(rng, kind, many):
    """On both sides of each of the limits."""
    small = cgru.quantize(trained(rng, 30, 40), kind)
    before = kernels.tune(near_bytes=0) if many else kernels.tune()
    try:
        limit = (before["many_rows"], before["far_steps"]) if many else (1, before["near_rows"])
        x = rng.standard_normal((limit[0], limit[1], 30)).astype(np.float32)
        wide = small(x)
        short, state = small(x[:, :-1])
        assert equal(short, wide[0][:, :-1]) and equal(small(x[:, -1:], initial_state=state)[1], wide[1])
        if many:
            assert equal(small(x[1:])[0], wide[0][1:])
    finally:
        kernels.tune(**before)


@pytest.mark.parametrize("kind", HALVES)
def test_threads_that_share_a_row_give_its_bits_widened_or_not(rng, kind):
    small = cgru.quantize(trained(rng, 30, 40), kind)
    size = 4 * 3 * 40 * (30 + 40)
    before = kernels.tune(near_rows=2, measured=0, thread_work=0, small_work=0, team_work=0)
    x = rng.standard_normal((1, 20, 30)).astype(np.float32)
    try:
        outputs = []
        for near, threads in [(0, 1), (2 * size, 1), (2 * size, 2), (8 * size, 2)]:
            kernels.tune(near_bytes=near)
            with cgru.limit_threads(threads):
                outputs.append(small(x))
        assert all(equal(one, outputs[0]) for one in outputs[1:])
    finally:
        kernels.tune(**before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_backend_does_not_matter(rng, kind):
    small = cgru.quantize(trained(rng), kind)
    dense = cgru.quantize(built_dense(), kind)
    x = rng.standard_normal((N, T, D)).astype(np.float32)
    native, rows = small(x), dense(x[:, 0])
    with cgru.backend("blas"):
        assert equal(small(x), native) and equal(small.step(x[:, 0]), native[0][:, 0]) and equal(dense(x[:, 0]), rows)
        prepared = small._prepared
        small(x)
        assert small._prepared is prepared


def built_dense(units=4):
    layer = cgru.Dense(units, seed=0)
    layer.build(D)
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_those_of_the_outputs(rng, kind):
    small = cgru.quantize(trained(rng, reset_after=True), kind)
    x = rng.standard_normal((N, T, D)).astype(np.float32)
    r, z, n, h = small.gates(x)
    before = np.concatenate([np.zeros((N, 1, H), np.float32), h[:, :-1]], 1)
    assert equal(h, small(x)[0]) and np.allclose((1 - z) * before + z * n, h, atol=1e-6) and (r > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_stateful_layers_go_on(rng, kind):
    small = cgru.quantize(trained(rng, stateful=True), kind)
    x = rng.standard_normal((N, T, D)).astype(np.float32)
    whole, _ = small(x)
    small.reset_states()
    assert equal(np.concatenate([small(x[:, :3])[0], small(x[:, 3:])[0]], 1), whole)
    other = small.with_options(stateful=False, return_state=False)
    assert type(other) is type(small) and equal(other(x), whole)


# -- embeddings


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings(rng, kind):
    layer = cgru.Embedding(20, 6, mask_zero=True, seed=0)
    layer.build()
    small = cgru.quantize(layer, kind)
    table = layer.parameters["embeddings"]
    codes, scale = int8(table, axis=1)
    halves = {"float16": table.astype(np.float16).astype(np.float32), "bfloat16": bfloat16(table)}
    assert equal(small.parameters["embeddings"], codes * scale if kind == "int8" else halves[kind])
    exact = rounded(layer, small)
    ids, lengths = rng.integers(0, 20, (4, 5)), [5, 0, 2, 1]
    assert equal(exact(ids), small(ids))
    assert equal(exact(np.maximum(ids, 1), lengths=lengths), small(np.maximum(ids, 1), lengths=lengths))
    assert equal(exact.step_rows(np.maximum(ids[:, 0], 1)), small.step_rows(np.maximum(ids[:, 0], 1)))
    assert small.nbytes <= table.nbytes * {"int8": 0.25}.get(kind, 0.5) + (20 * 4 if kind == "int8" else 0)
    with pytest.raises(ValueError, match="less than input_dim"):
        small([[20]])


# -- copies, pickles, forks, threads


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles(rng, kind):
    for layer in (trained(rng, num_layers=2), built_dense(), built_embedding()):
        small = cgru.quantize(layer, kind)
        x = rng.integers(0, 7, (2, 3)) if isinstance(layer, cgru.Embedding) else rng.standard_normal((2, 3, D))
        for other in (copy.copy(small), copy.deepcopy(small), pickle.loads(pickle.dumps(small)), small.with_options()):
            assert type(other) is type(small) and repr(other) == repr(small) and equal(other(x), small(x))
            assert other.get_config() == small.get_config() and other.nbytes == small.nbytes
        assert len(pickle.dumps(small)) < {"int8": 0.45}.get(kind, 0.65) * len(pickle.dumps(layer)) + 3000


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_of_any_protocol_have_memory_of_their_own(rng, kind):
    for layer in (trained(rng), built_dense(), built_embedding()):
        small = cgru.quantize(layer, kind)
        x = rng.integers(0, 7, (2, 3)) if isinstance(layer, cgru.Embedding) else rng.standard_normal((2, 3, D))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert equal(pickle.loads(pickle.dumps(small, protocol))(x), small(x)), protocol
        outside = []
        data = pickle.dumps(small, 5, buffer_callback=outside.append)
        memory = [bytearray(buffer.raw()) for buffer in outside]
        other = pickle.loads(data, buffers=memory)
        for buffer in memory:
            buffer[:] = b"3" * len(buffer)
        assert memory and equal(other(x), small(x))


def built_embedding():
    layer = cgru.Embedding(300, 16, seed=0)
    layer.build()
    return layer


def test_a_pickle_serves_builds_with_wider_and_narrower_panels(rng, tmp_path):
    x = rng.standard_normal((2, 3, D)).astype(np.float32)
    cases = []
    for kind in KINDS:
        small, dense = cgru.quantize(trained(rng, return_state=False), kind), cgru.quantize(built_dense(40), kind)
        cases.append((small, dense, small(x), dense(x)))
    (tmp_path / "pickle").write_bytes(pickle.dumps((x, cases)))
    text = """
import pickle, sys
from cgru import kernels
x, cases = pickle.load(open(sys.argv[1], "rb"))
print(kernels.fuses, max(max(abs(s(x) - y).max(), abs(d(x) - rows).max()) for s, d, y, rows in cases))
"""
    for isa in kernels.available:
        env = children.environment(CGRU_ISA=isa)
        fuses, difference = children.printed("-c", text, str(tmp_path / "pickle"), env=env).split()
        assert float(difference) <= (0 if fuses == str(kernels.fuses) else 5e-3), isa  # which may cost an int8 a step


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads
def test_forks_and_threads():
    text = """
import os, threading, warnings, numpy as np, cgru
warnings.simplefilter("ignore", DeprecationWarning)
layer = cgru.quantize(cgru.GRU(64, input_size=32, return_sequences=True, seed=0), "int8")
dense = cgru.quantize(cgru.Sequential([cgru.Dense(40, seed=0)]).build(64), "float16")
x = np.random.default_rng(0).standard_normal((3, 20, 32)).astype(np.float32)
y = layer(x)
rows = dense(y)
wrong = []
def work():
    for _ in range(30):
        own = layer(x)
        if not (np.array_equal(own, y) and np.array_equal(dense(own), rows)):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
if hasattr(os, "fork"):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if np.array_equal(layer(x), y) else 1)
    wrong += [1] * (os.waitpid(pid, 0)[1] != 0)
print(len(wrong))
"""
    assert children.printed("-c", text) == "0"


def test_every_kind_and_layer_has_a_signature_and_a_configuration(rng):
    for layer, kind in itertools.product((trained(rng), built_dense(), built_embedding()), KINDS):
        small = cgru.quantize(layer, kind)
        config = small.get_config()
        assert config["kind"] == kind and not config["trainable"] and not small.trainable
        again = type(small).from_config(config)
        assert again.get_config() == config and not again.built
        with pytest.raises(ValueError, match=r"has no weights: cgru[.]quantize makes such a layer"):
            again.build(D)
