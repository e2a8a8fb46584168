"""The buffers of one step: arrays that overlap, that are misaligned, and those that are left out."""

import itertools

import checks
import numpy as np
import pytest

import cgru
from cgru import kernels

MODES = pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])


def carved(buffer, shape, start):
    """The C-contiguous array of this shape that begins `start` elements into the buffer."""
    return buffer[start : start + int(np.prod(shape))].reshape(shape)


@MODES
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 3, 7, 8, 70])
def test_an_output_fed_back_in_place(rng, eager, n, threads, reset_after):
    """`out` is the input, the state or both; a thread is done with its part while another still reads."""
    layer = checks.random_layer(rng, 48, reset_after=reset_after, seed=1, input_size=48)
    kernels.set_num_threads(1)
    x, h = (rng.standard_normal((n, 48)).astype("float32") for _ in range(2))
    fed, after = layer.step(h, h), layer.step(x, h)
    kernels.set_num_threads(threads)
    for _ in range(200):
        both, out_is_x, out_is_h = h.copy(), x.copy(), h.copy()
        assert layer.step(both, both, out=both) is both
        layer.step(out_is_x, h, out=out_is_x)
        layer.step(x, out_is_h, out=out_is_h)
        np.testing.assert_array_equal(both, fed)
        np.testing.assert_array_equal(out_is_x, after)
        np.testing.assert_array_equal(out_is_h, after)


@MODES
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(("n", "units", "inputs"), [(1, 5, 5), (3, 16, 5), (9, 5, 16), (70, 7, 7)])
def test_arrays_that_overlap_anywhere(rng, eager, n, units, inputs, num_layers, dtype, threads, reset_after):
    layer = checks.random_layer(
        rng, units, reset_after=reset_after, num_layers=num_layers, dtype=dtype, seed=1, input_size=inputs
    )
    kernels.set_num_threads(threads)
    state = (n, units) if num_layers == 1 else (num_layers, n, units)
    size, row = int(np.prod(state)), units
    places = [0, 1, row, n * units, size - 1, size, size + inputs * n]
    for x_at, h_at, out_at in itertools.product(places, places, places):
        buffer = rng.standard_normal(3 * size + 3 * inputs * n).astype(dtype)
        x, h, out = carved(buffer, (n, inputs), x_at), carved(buffer, state, h_at), carved(buffer, state, out_at)
        expected, untouched = layer.step(x.copy(), h.copy()), buffer.copy()
        layer.step(x, h, out=out)
        np.testing.assert_array_equal(out, expected)
        carved(untouched, state, out_at)[:] = expected
        np.testing.assert_array_equal(buffer, untouched)


def misaligned(array):
    return np.frombuffer(bytearray(b"\0" + array.tobytes()), array.dtype, offset=1).reshape(array.shape)


def in_a_record(array):
    records = np.zeros(1, [("tag", "i1"), ("value", array.dtype, array.shape)])
    records["value"][0] = array
    return records["value"][0]


def in_raw_memory(array):
    """No ndarray, and its buffer calls itself an aligned one."""
    memory = memoryview(bytearray(b"\0" + array.tobytes()))[1:]
    return memory.cast(array.dtype.char, array.shape)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("odd", [misaligned, in_a_record, in_raw_memory])
def test_misaligned_arrays(rng, odd, dtype, num_layers):
    layer = checks.random_layer(rng, 5, num_layers=num_layers, dtype=dtype, seed=1, input_size=3)
    state = (2, 5) if num_layers == 1 else (num_layers, 2, 5)
    x, h, out = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 3), state, state))
    assert np.asarray(odd(x)).ctypes.data % x.itemsize  # is what it says
    for _ in range(2):  # not built in advance, and built
        expected = layer.step(x, h)
        np.testing.assert_array_equal(layer.step(odd(x), odd(h)), expected)
        np.testing.assert_array_equal(layer.step(odd(x), h, out=out), expected)
        np.testing.assert_array_equal(layer.step(x, odd(h), out=out), expected)
        given = odd(h)
        with pytest.raises((TypeError, ValueError), match=r"^out: expected .*(aligned|ndarray)"):
            layer.step(x, h, out=given)
        np.testing.assert_array_equal(given, h)


@MODES
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_what_is_left_out(rng, eager, n, num_layers, learned, threads, reset_after):
    """Without a state a step starts from the initial one, zero or learned; without `out` it makes an array."""
    layer = checks.random_layer(
        rng, 13, reset_after=reset_after, num_layers=num_layers, learn_initial_state=learned, seed=1, input_size=4
    )
    kernels.set_num_threads(threads)
    x = rng.standard_normal((n, 4)).astype("float32")
    state = (n, 13) if num_layers == 1 else (num_layers, n, 13)
    h0 = np.zeros(state, "float32")
    if learned:
        starts = [p for name, p in layer.parameters.items() if name.rpartition(".")[2] == "initial_state"]
        h0 += np.reshape(starts, (*state[:-2], 1, 13))
    expected, out = layer.step(x, h0, out=np.empty_like(h0)), np.empty_like(h0)
    assert layer.step(x, None, out=out) is out
    results = [layer.step(x), layer.step(x, h0), out]
    for result in results:
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.float32 and result.flags.carray and result.base is None
    assert results[0] is not results[1]
    if n:
        _, final, _ = layer.forward(x[:, None])
        np.testing.assert_array_equal(final, expected)


def test_a_step_while_another_backend_is_chosen(rng, monkeypatch):
    layer = checks.random_layer(rng, 5, seed=1, input_size=3)
    x = rng.standard_normal((2, 3))  # of another type, so that the general way converts it
    expected, ready, calls = layer.step(x), layer._ready, []

    def ready_and_outdated():
        prepared = ready()
        if not calls:
            cgru.set_backend("blas")
        calls.append(prepared)
        return prepared

    before = cgru.get_backend()
    monkeypatch.setattr(layer, "_ready", ready_and_outdated)
    try:
        checks.assert_close(layer.step(x), expected, 1e-5)
    finally:
        cgru.set_backend(before)
    assert len(calls) == 2
