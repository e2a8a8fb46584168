"""What kernels take for an array (views.pxi): another type, other axes or strides are refused before any work."""

import numpy as np
import pytest

from cgru import kernels

NATIVE = 0


def matrices(dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.integers(-3, 4, shape).astype(dtype) for shape in ((3, 4), (4, 5), (3, 5))]


def readonly(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def apart(array, strides):
    """The matrix with these strides in bytes."""
    memory = np.zeros(1000, np.uint8)
    result = np.ndarray(array.shape, array.dtype, memory, 0, strides)
    result[...] = array
    return result


REFUSED = {
    "another type": lambda a, b, c: (a, b.astype("float64"), c),
    "half": lambda a, b, c: (a.astype("float16"), b, c),
    "integers": lambda a, b, c: (a.astype("int32"), b, c),
    "another byte order": lambda a, b, c: (a.astype(">f4"), b, c),
    "complex": lambda a, b, c: (a, b, c.astype("complex64")),
    "structures": lambda a, b, c: (a.view([("x", "f4")]), b, c),
    "objects": lambda a, b, c: (a.astype(object), b, c),
    "a vector": lambda a, b, c: (a[0], b, c),
    "three axes": lambda a, b, c: (a, b, c[None]),
    "no whole elements apart": lambda a, b, c: (apart(a, (18, 4)), b, c),
    "read-only": lambda a, b, c: (a, b, readonly(c)),
    "sums that are not contiguous": lambda a, b, c: (a, b, c, np.zeros(10, "float32")[::2]),
    "sums of another type": lambda a, b, c: (a, b, c, np.zeros(5)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    a, b, c, *sums = REFUSED[kind](*matrices())
    before = c.copy()
    with pytest.raises(ValueError):
        kernels.multiply(a, b, c, *(sums or [None]), False, NATIVE, 1)
    assert np.array_equal(c, before)


@pytest.mark.parametrize("given", [[[1.0]], "text"], ids=str)
def test_what_is_no_array_is_refused(given):
    _, b, c = matrices()
    with pytest.raises(TypeError):
        kernels.multiply(given, b, c, None, False, NATIVE, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_taken_in_any_layout(dtype):
    a, b, c = matrices(dtype)
    expected, size = a @ b, a.itemsize
    shifted = np.frombuffer(bytearray(b"?" + a.tobytes()), np.uint8)[1:].view(dtype).reshape(a.shape)
    turned = a[::-1, ::-1].copy()[::-1, ::-1]
    for left in (a, readonly(a), np.asfortranarray(a), apart(a, (10 * size, 2 * size)), turned, shifted):
        sums = np.empty(5, dtype)
        kernels.multiply(left, b, c, sums, False, NATIVE, 1)
        assert np.array_equal(c, expected) and np.array_equal(sums, b.sum(axis=0))


@pytest.mark.parametrize("dtype", ["int16", "uint64", "float64"])
def test_ids_are_as_wide_as_addresses(dtype):
    table, out = np.ones((3, 2)), np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"expected 1 axes of type n, whole elements apart, got array\("):
        kernels.gather(table, np.zeros(2, dtype), None, out, 1)
    assert not out.any()
    kernels.gather(table, np.zeros(2, np.intp), None, out, 1)
    assert out.all()
