"""Products of whole matrices: what they are, and that each element is one sum over k in order."""

import math

import numpy as np
import pytest

import cgru
from cgru import kernels

ADAM = 7  # its code in jobs.pxd
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
NATIVE = pytest.mark.skipif(cgru.get_backend() != "native", reason="BLAS has an order of its own")
# M, K, N: below, at and above a tile, a panel, a vector; one row, column, term.
SHAPES = [
    (1, 1, 1), (1, 64, 8), (2, 33, 200), (3, 7, 5), (6, 16, 64), (7, 17, 65), (13, 300, 129), (64, 64, 8), (1, 70, 300),
    (40, 1, 40), (520, 30, 70), (90, 600, 16),
]  # fmt: skip


def matrices(rng, shape, dtype, transpose_a=False, transpose_b=False):
    M, K, N = shape
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    a = np.ascontiguousarray(a.T) if transpose_a else a
    return a, np.ascontiguousarray(b.T) if transpose_b else b


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_against_float64(rng, shape, dtype, transposed):
    options = dict(zip(("transpose_a", "transpose_b"), transposed, strict=True))
    a, b = matrices(rng, shape, dtype, *transposed)
    left, right = ((v.T if turned else v).astype("float64") for v, turned in zip((a, b), transposed, strict=True))
    bound = shape[1] * np.finfo(dtype).eps * (np.abs(left) @ np.abs(right)) + 1e-300
    assert (np.abs(kernels.gemm(a, b, **options) - left @ right) <= bound).all()
    # Into a part of a larger array, of which the rest stays.
    around = np.full((shape[0] + 2, shape[2] + 6), 7, dtype)
    inside = around[1:-1, 2:-4]
    assert kernels.gemm(a, b, inside, accumulate=True, **options) is inside
    assert (np.abs(inside - left @ right - 7) <= bound + 30 * np.finfo(dtype).eps).all()
    inside[...] = 7
    assert (around == 7).all()


@NATIVE
@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
def test_an_element_is_one_sum_whatever_is_around_it(rng, shape, dtype):
    M, _, N = shape
    a, b = matrices(rng, shape, dtype)
    whole = kernels.gemm(a, b)
    for i in rng.choice(M, min(M, 5), replace=False):
        np.testing.assert_array_equal(kernels.gemm(a[i : i + 1], b), whole[i : i + 1])
        for j in rng.choice(N, min(N, 5), replace=False):
            assert kernels.gemm(a[i : i + 1], b[:, j : j + 1])[0, 0] == whole[i, j]
    turned = kernels.gemm(np.asfortranarray(a), np.asfortranarray(b))
    np.testing.assert_array_equal(turned, whole)
    np.testing.assert_array_equal(kernels.gemm(b, a, transpose_a=True, transpose_b=True), whole.T)


@NATIVE
@DTYPES
def test_the_sum_runs_over_k_in_order(rng, dtype):
    """It may be cut anywhere and goes on from there."""
    a, b = matrices(rng, (9, 24, 70), dtype)
    whole = kernels.gemm(a, b)
    for cut in range(1, 24):
        parts = kernels.gemm(a[:, :cut], b[:cut])
        np.testing.assert_array_equal(kernels.gemm(a[:, cut:], b[cut:], parts, accumulate=True), whole)
    one_by_one = np.zeros_like(whole)
    for k in range(24):
        kernels.gemm(a[:, k : k + 1], b[k : k + 1], one_by_one, accumulate=True)
    np.testing.assert_array_equal(one_by_one, whole)


@NATIVE
@DTYPES
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)])
def test_blocks_and_threads_change_no_bit(rng, limits, dtype, transposed):
    options = dict(zip(("transpose_a", "transpose_b"), transposed, strict=True))
    a, b = matrices(rng, (101, 83, 301), dtype, *transposed)
    limits(thread_work=0, small_work=0, gil_work=0, measured=0)
    kernels.set_num_threads(1)
    whole = kernels.gemm(a, b, **options)
    for threads in (1, 2, 3, 7):
        kernels.set_num_threads(threads)
        for blocks in ((512, 4096, 512), (6, 64, 5), (7, 256, 16), (50, 512, 83), (1, 1, 1)):
            limits(**dict(zip(("product_rows", "product_bytes", "product_k"), blocks, strict=True)))
            np.testing.assert_array_equal(kernels.gemm(a, b, **options), whole)
    limits(signal_work=1)  # between two looks for signals: the least that there is
    np.testing.assert_array_equal(kernels.gemm(a, b, **options), whole)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["native", "blas"])
def test_sums_of_columns(rng, limits, shape, dtype, backend):
    """One sum over the rows in order."""
    _, M, N = shape
    x, d = rng.standard_normal((M, 5)).astype(dtype), rng.standard_normal((M, N)).astype(dtype)
    product, sums = np.empty((5, N), dtype), np.full(N, np.nan, dtype)
    route = kernels.BACKENDS.index(backend)
    kernels.multiply(x.T, d, product, sums, False, route, 1)
    in_order = np.add.accumulate(d, axis=0)[-1]
    if backend == "native":
        np.testing.assert_array_equal(sums, in_order)
        limits(thread_work=0, small_work=0, measured=0, product_rows=2, product_bytes=64, product_k=3, signal_work=1)
        kernels.multiply(x.T, d, np.empty_like(product), sums, False, route, 3)
        np.testing.assert_array_equal(sums, in_order)
    else:
        np.testing.assert_allclose(sums, in_order, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(product, x.T.astype("float64") @ d, rtol=1e-3, atol=1e-3)


@DTYPES
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(rng, value, dtype):
    for shape in SHAPES:
        M, _, N = shape
        a, b = matrices(rng, shape, dtype)
        clean = kernels.gemm(a, b)
        i, j = rng.integers(M), rng.integers(N)
        bad = a.copy()
        bad[i, 0] = value
        found = kernels.gemm(bad, b)
        assert not np.isfinite(found[i]).any()
        np.testing.assert_array_equal(np.delete(found, i, 0), np.delete(clean, i, 0))
        bad = b.copy()
        bad[-1, j] = value
        found = kernels.gemm(a, bad)
        assert not np.isfinite(found[:, j]).any()
        np.testing.assert_array_equal(np.delete(found, j, 1), np.delete(clean, j, 1))


def handle_of(kernel, bias, activation=3, packed=True):
    return kernels.DenseHandle(kernel, bias, activation, packed, 1)


class TestDenseHandle:
    @NATIVE
    @DTYPES
    @pytest.mark.parametrize("activation", [0, 1, 2, 3, 6])
    @pytest.mark.parametrize("biased", [True, False])
    def test_rows_do_not_depend_on_each_other_nor_on_the_way(self, rng, limits, dtype, activation, biased):
        for M, F, K in SHAPES:
            kernel, x = rng.standard_normal((F, K)).astype(dtype) / F, rng.standard_normal((M, F)).astype(dtype)
            bias = rng.standard_normal(K).astype(dtype) if biased else None
            packed, plain = (handle_of(kernel, bias, activation, packed) for packed in (True, False))
            expected, found = np.empty((M, K), dtype), np.empty((M, K), dtype)
            assert packed.apply(x, expected, 1)
            assert plain.apply(x, found, 1)
            np.testing.assert_array_equal(found, expected)
            for i in {0, M - 1}:
                for handle in (packed, plain):
                    assert handle.apply(x[i : i + 1], found[:1], 1)
                    np.testing.assert_array_equal(found[0], expected[i])
            limits(thread_work=0, small_work=0, measured=0, product_rows=7, product_bytes=64, product_k=9)
            for handle in (packed, plain):
                found.fill(7)
                assert handle.apply(x, found, 3)
                np.testing.assert_array_equal(found, expected)
            limits(product_rows=512, product_bytes=4096, product_k=512)

    def test_without_bias_and_activation(self, rng):
        kernel, x = rng.standard_normal((5, 3)), rng.standard_normal((4, 5))
        found = np.empty((4, 3))
        assert handle_of(kernel, np.ones(3), 6).apply(x, found, 1, raw=True)
        np.testing.assert_allclose(found, x @ kernel, atol=1e-14)

    def test_takes_parts_of_arrays(self, rng):
        kernel, wide, out = rng.standard_normal((5, 3)), rng.standard_normal((8, 9)), np.full((8, 7), 7.0)
        assert handle_of(kernel, None).apply(wide[::2, 2:7], out[1::2, 1:4], 1)
        np.testing.assert_allclose(out[1::2, 1:4], wide[::2, 2:7] @ kernel, atol=1e-14)
        out[1::2, 1:4] = 7
        assert (out == 7).all()

    def test_refuses_what_it_cannot_take_and_does_nothing(self):
        handle, x, out = handle_of(np.ones((5, 3)), None), np.ones((4, 5)), np.zeros((4, 3))
        odd = np.zeros(4 * 5 * 8 + 1, np.uint8)[1:].view("float64").reshape(4, 5)
        readonly = out.copy()
        readonly.flags.writeable = False
        for wrong in (
            x[0], x[:, :4], x.astype("float32"), x.astype(">f8"), x.tolist(), np.ones((4, 10))[:, ::2], odd, None,
            x[::-1], np.broadcast_to(x[0], (4, 5)), x[None],
        ):  # fmt: skip
            assert not handle.apply(wrong, out, 1)
        for wrong in (out[:3], out.T, out.astype("float32"), readonly, np.zeros((4, 6))[:, ::2], [[0.0] * 3] * 4):
            assert not handle.apply(x, wrong, 1)
        assert not out.any()
        assert handle.apply(x[:0], out[:0], 1)
        assert handle.apply(x, out, 1)
        assert (out == 5).all()


def softmax_of(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@DTYPES
@pytest.mark.parametrize("K", [1, 2, 3, 8, 31, 64, 65, 200, 1000])
def test_softmax_with_crossentropy(rng, limits, dtype, K):
    M = 23
    z, bias = 3 * rng.standard_normal((M, K)).astype(dtype), rng.standard_normal(K).astype(dtype)
    labels, scales = rng.integers(0, K, M), rng.uniform(0, 2, M)
    p = softmax_of((z + bias).astype("float64"))
    results = []
    for threads in (1, 3):
        gradient, seen, best = z.copy(), np.empty((M, 3), dtype), np.empty(M, np.intp)
        kernels.softmax_crossentropy(gradient, bias, labels, scales, seen, best, threads)
        results.append((gradient, seen, best))
        limits(thread_work=0, small_work=0, measured=0)
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)
    tolerance = 20 * np.finfo(dtype).eps
    expected = (p - (np.arange(K) == labels[:, None])) * scales[:, None]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance)
    rows, logits = np.arange(M), (z + bias).astype("float64")
    np.testing.assert_allclose(seen[:, 0], p[rows, labels], rtol=tolerance)
    np.testing.assert_allclose(seen[:, 1], logits[rows, labels] - logits.max(axis=1), rtol=tolerance, atol=tolerance)
    sums = np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(seen[:, 2], sums, rtol=tolerance)
    handle, outputs = handle_of(np.eye(K, dtype=dtype), bias, 6), np.empty((M, K), dtype)
    assert handle.apply(z, outputs, 1)
    np.testing.assert_array_equal(best, outputs.argmax(axis=1))
    np.testing.assert_array_equal(seen[:, 0], outputs[rows, labels])


@DTYPES
def test_softmax_at_the_ends(dtype):
    inf, nan, big = np.inf, np.nan, np.finfo(dtype).max
    z = np.array([
        [1e4, 0, -1e4], [-big, -big, -big], [inf, 0, 1], [-inf, 2, 2], [-inf, -inf, -inf], [nan, 0, 0], [0, 0, 0],
        [5, 5, 1],
    ], dtype)  # fmt: skip
    third = np.exp(-4.0) / (2 + np.exp(-4.0))
    expected = np.array([
        [1, 0, 0], [1 / 3] * 3, [nan] * 3, [0, 0.5, 0.5], [nan] * 3, [nan] * 3, [1 / 3] * 3,
        [(1 - third) / 2, (1 - third) / 2, third],
    ])  # fmt: skip
    gradient, seen, best = z.copy(), np.empty((8, 3), dtype), np.empty(8, np.intp)
    kernels.softmax_crossentropy(gradient, np.zeros(3, dtype), np.full(8, 2), np.ones(8), seen, best, 1)
    expected_gradient = expected - [0, 0, 1]
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=4 * np.finfo(dtype).eps)
    assert best.tolist() == [0, 0, -1, 1, -1, -1, 0, 0]
    outputs = np.empty_like(z)
    handle = handle_of(np.eye(3, dtype=dtype), None, 6)
    with np.errstate(all="ignore"):
        assert handle.apply(np.nan_to_num(z, posinf=0, neginf=0), outputs, 1)
    assert np.isfinite(outputs[[0, 1, 6, 7]]).all()


@DTYPES
@pytest.mark.parametrize("n", [0, 1, 5, 16, 1000, 40000])
def test_adam(rng, limits, dtype, n):
    limits(thread_work=0, small_work=0, measured=0)
    p, g, m = (rng.standard_normal(n).astype(dtype) for _ in range(3))
    v = rng.uniform(0, 1, n).astype(dtype)
    part_1, part_2, rate, epsilon = 0.1, 0.001, 0.01, 1e-7
    terms = (1.0, math.inf, 0.0, rate, part_1, part_2, epsilon, 0.0)
    before = [array.copy() for array in (p, g, m, v)]
    results = []
    for threads in (1, 2, 3):
        new = [np.full(n, np.nan, dtype) for _ in range(3)]
        assert kernels.update(ADAM, p, g, (m, v), new[0], tuple(new[1:]), terms, threads)
        results.append(new)
    for a, b, c in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    for array, kept in zip((p, g, m, v), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    p, g, m, v = (array.astype("float64") for array in (p, g, m, v))
    m, v = m + part_1 * (g - m), v + part_2 * (g * g - v)
    tolerance = 10 * np.finfo(dtype).eps
    for found, expected in zip(results[0], (p - rate * m / (np.sqrt(v) + epsilon), m, v), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@DTYPES
def test_an_update_says_whether_all_is_finite(dtype):
    n = 40000
    terms = (1.0, math.inf, 0.0, 0.01, 0.1, 0.001, 1e-7, 0.0)
    for bad in (np.nan, np.inf, np.finfo(dtype).max):
        for place in (0, 17, n - 1):
            g = np.zeros(n, dtype)
            g[place] = bad
            zeros = [np.zeros(n, dtype) for _ in range(6)]
            assert not kernels.update(ADAM, zeros[0], g, zeros[1:3], zeros[3], zeros[4:], terms, 2)


@DTYPES
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 16384, 50001])
def test_the_sum_of_squares(rng, limits, dtype, n):
    limits(thread_work=0, small_work=0, measured=0)
    g = (1e30 * rng.standard_normal(n)).astype(dtype)  # no float32 holds such a square
    found = {kernels.squares_sum(g, threads) for threads in (1, 2, 3)}
    assert len(found) == 1
    np.testing.assert_allclose(found.pop(), math.fsum(g.astype(float) ** 2), rtol=1e-14)
    if n:
        g[n // 2] = np.nan
        assert math.isnan(kernels.squares_sum(g, 2))
