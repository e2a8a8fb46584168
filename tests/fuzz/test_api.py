"""Some random programs of each kind; that the fuzzer finds what it is for; and what it has found, by hand."""

import os

import api
import calling
import checks
import draw
import leaks
import numpy as np
import programs
import pytest

import cgru
from cgru import kernels

SEED = int(os.environ.get("CGRU_TEST_SEED", "0"))
EACH = {"estimators": 1, "seq2seq": 4, "gru": 12, "stateless": 12}


@pytest.mark.parametrize("kind", programs.KINDS)
def test_random_programs(kind):
    for seed in range(1000 * SEED, 1000 * SEED + max(1, round(checks.MORE * EACH.get(kind, 8)))):
        _, found, taken = api.once(kind, seed)
        assert found is None, f"CGRU_FUZZ_SEED={kind}-{seed}: {api.simplified(kind, seed, found, taken)}"


class Faulty:
    """What a program makes; `total` is one of the faults that the fuzzer is for."""

    def __init__(self, fault):
        self.fault, self.count = fault, 0

    def total(self, x):
        if self.fault == "no room":
            return [][np.ndim(x)]
        if self.fault == "warns":
            return np.float32(1) / np.zeros(1, np.float32)
        if self.fault == "writes" and isinstance(x, np.ndarray):
            x[...] = 0
        if self.fault == "strides" and x.flags.f_contiguous:
            return x.sum() + 1
        if self.fault == "half":
            self.count += 1
            if x.shape[0] == 0:
                raise ValueError("x: expected a row")
            return float(self.count)
        if self.fault == "inner words":
            raise ValueError("operands could not be broadcast together")
        return np.float32(x.sum())


@pytest.mark.parametrize(
    "fault, words",
    [
        ("no room", "IndexError"),
        ("warns", "RuntimeWarning"),
        ("writes", "an argument was written to"),
        ("strides", "in this form and in the plain one"),
        ("half", "in this form and in the plain one"),
        ("inner words", "could not be broadcast"),
        ("none", None),
    ],
)
def test_faults_are_found(fault, words, monkeypatch):
    def program(draw):
        def rows(n):
            return np.asfortranarray(np.ones((n, 3), np.float32))

        calls = [calling.Call("total", calling.method("total"), (rows(n),), {}, True) for n in (2, 0, 2)]
        return calling.Program(lambda: Faulty(fault), calls, shared=False)

    monkeypatch.setitem(programs.KINDS, "faulty", (program, 1))
    found = api.once("faulty", 0)[1]
    assert found is None if words is None else words in found


def test_what_is_found_gets_simpler(monkeypatch):
    def program(draw):
        def refuse(made, x):
            if len(x) > 6:
                raise IndexError(f"of {x.shape}, {x.flags.c_contiguous and x.dtype.isnative}")

        x = draw.array((draw.size(), draw.size()))
        return calling.Program(lambda: None, [calling.Call("call", refuse, (x,), {})], shared=False)

    monkeypatch.setitem(programs.KINDS, "refused", (program, 1))
    for seed in range(30):
        _, found, draw = api.once("refused", seed)
        if found:
            assert ", 2), True" in api.simplified("refused", seed, found, draw)  # the first size, the first form


def test_leaks_of_others_are_not_ours():
    other = "Direct leak of 8 byte(s) in 1 object(s) allocated from:\n    #0 malloc (liblsan.so)\n    #1 f (numpy/x.so)"
    own = "Indirect leak of 8 byte(s):\n    #0 malloc (liblsan.so)\n    #1 f (/a/cgru/kernels/calls.so+0x1)"
    far = other + "\n    #2 g ()" * 20 + "\n    #22 h (cgru/kernels/calls.so)"
    assert leaks.ours(f"==1==ERROR\n\n{other}\n\n{own}\n\n{far}\n\nSUMMARY: 24 bytes") == [own]


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (3, 7, 2), (6, 40, 17), (17, 2, 5), (5, 9, 64), (1, 3, 48)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_repeated_rows_and_columns(m, k, n, dtype, rng):
    b = rng.standard_normal((k, n)).astype(dtype)
    for a in (
        np.broadcast_to(rng.standard_normal((m, 1)).astype(dtype), (m, k)),
        np.broadcast_to(rng.standard_normal((1, m)).astype(dtype), (k, m)).T,
        np.broadcast_to(np.asarray(0.7, dtype), (m, k)),
    ):
        np.testing.assert_array_equal(kernels.gemm(a, b), kernels.gemm(a.copy(), b))
    a = rng.standard_normal((m, k)).astype(dtype)
    for b in (
        np.broadcast_to(rng.standard_normal((1, n)).astype(dtype), (k, n)),
        np.broadcast_to(rng.standard_normal((k, 1)).astype(dtype), (k, n)),
        np.broadcast_to(np.asarray(0.7, dtype), (k, n)),
    ):
        np.testing.assert_array_equal(kernels.gemm(a, b), kernels.gemm(a, b.copy()))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_gradients_in_any_form(name):
    def updated(form):
        layer, optimizer = cgru.GRU(4, input_size=3, seed=0), getattr(cgru.optimizers, name)()
        random = np.random.default_rng(0)
        grads = {key: form(random.standard_normal(p.shape).astype("float32")) for key, p in layer.parameters.items()}
        optimizer.apply(layer, grads)
        return layer.get_weights()

    expected = updated(np.ascontiguousarray)
    for form in (lambda a: np.repeat(a, 2, -1)[..., ::2], lambda a: a[..., ::-1].copy()[..., ::-1]):
        checks.assert_same_arrays(updated(form), expected)


@pytest.mark.parametrize("dtype", ["i8", "i4", "f4", "f8"])
def test_no_check_passes_on_what_is_not_aligned(dtype):
    array = draw.unaligned(np.arange(6).astype(dtype).reshape(2, 3))
    assert not array.flags.aligned
    found = [cgru.checks.as_array(array, "x"), cgru.sequences.as_numeric(array)]
    found += [cgru.checks.as_outputs(array), cgru.checks.whole_numbers(cgru.checks.as_array(array, "x"), "x")]
    assert all(one.flags.aligned and (one == array).all() for one in found)


def test_measures_keep_the_type_of_any_byte_order():
    outputs = np.array([[0.25, 0.75]], ">f4")
    assert cgru.losses.get("mse").gradient(outputs, outputs * 0).dtype == np.float32
    assert cgru.losses.get("mse")(outputs, outputs * 0) == cgru.losses.get("mse")(outputs.astype("f4"), outputs * 0)


@pytest.mark.parametrize("valid", [0.5, [1, 0], [[True], [False]], [True], "x", [True, False, True]])
@pytest.mark.parametrize("ask", [cgru.losses.get("mse"), cgru.losses.get("mse").gradient, cgru.metrics.get("mse")])
def test_what_counts_is_checked(ask, valid):
    outputs = np.ones((2, 1))
    with pytest.raises((TypeError, ValueError), match="valid: expected"):
        ask(outputs, outputs, valid)
    np.testing.assert_array_equal(ask(outputs, outputs, [True, False]), ask(outputs, outputs, np.array([True, False])))


@pytest.mark.parametrize("layer", [cgru.AttentionPooling(), cgru.LayerNormalization(), cgru.GlobalAveragePooling1D()])
def test_infinities_warn_of_nothing(layer):
    x = np.ones((2, 3, 4), np.float32)
    x[0, 0] = np.inf, -np.inf, np.inf, 1
    y, tape = layer.forward(x, training=True)
    dx, _ = layer.backward(np.full_like(y, np.inf), tape)
    assert dx.shape == x.shape
    model = cgru.Sequential([cgru.Dropout(0.5), type(layer)(), cgru.Dense(2)], seed=0)
    y, tape = model.forward(x, training=True, seed=1)
    assert model.backward(np.full_like(y, np.inf), tape, need_dx=True)[0].shape == x.shape
    assert np.isfinite(layer(x)[1]).all()
