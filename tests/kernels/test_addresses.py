"""What is called with the addresses of arrays."""

import numpy as np
import pytest

from cgru import kernels, recurrence


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_at_addresses(rng, dtype, layers):
    N, D, H = 3, 5, 7
    cells = []
    for features in (D, H)[:layers]:
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((features, 3 * H), (H, 3 * H), (2, 3 * H))]
        cells.append(recurrence.prepare(*arrays, reset_after=True))
    handle = kernels.Handle(cells)
    x = rng.standard_normal((N, D)).astype(dtype)
    h = rng.standard_normal((N, H) if layers == 1 else (layers, N, H)).astype(dtype)
    for state in (h, None):
        expected = handle.step(x, state, None, 1)
        out = np.full_like(h, np.nan)
        start = 0 if state is None else state.ctypes.data
        assert handle.step_at(x.ctypes.data, start, out.ctypes.data, N, 1) is True
        np.testing.assert_array_equal(out, expected)
    before = out.copy()
    for odd in ((1, 0, 0), (0, 2, 0), (0, 0, 3)):
        addresses = [array.ctypes.data + shift for array, shift in zip((x, h, out), odd, strict=True)]
        assert handle.step_at(*addresses, N, 1) is False
    np.testing.assert_array_equal(out, before)


def test_memory_is_compared_byte_by_byte():
    array = np.array([0.0, 1.0, np.nan, 4.0])
    content = array.tobytes()
    assert kernels.memory_holds(array.ctypes.data, content)
    assert kernels.memory_holds(array.ctypes.data, b"")
    for i, value in ((0, -0.0), (3, np.nextafter(4.0, 5.0)), (2, -np.nan)):
        array[i], before = value, array[i]
        assert not kernels.memory_holds(array.ctypes.data, content)
        array[i] = before
    assert kernels.memory_holds(array.ctypes.data, content)
