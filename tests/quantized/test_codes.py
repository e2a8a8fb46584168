"""Codes of arbitrary numbers: as near as their kind can be, the same again, back from any panels."""

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cgru import small

KINDS = ("float16", "bfloat16", "int8")
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 50))


def matrices(largest):
    numbers = st.floats(-largest, largest, width=32)
    return SIZES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=numbers))


@hypothesis.given(matrices(65504.0))
def test_16_bits_are_the_nearest(w):
    for kind, bits, least in (("float16", 11, 2.0**-24), ("bfloat16", 8, 2.0**-133)):
        wide = small.widen(small.narrow(w, kind))
        assert wide.dtype == np.float32
        assert (np.abs(wide.astype(float) - w) <= np.maximum(np.abs(w.astype(float)) * 2.0**-bits, least / 2)).all()
        assert np.array_equal(small.widen(small.narrow(wide, kind)), wide)


@hypothesis.given(matrices(2.0**126), st.integers(0, 1))
def test_int8_is_within_half_a_step(w, axis):
    codes, scales = small.narrow(w, "int8", axis)
    assert codes.dtype == np.int8 and codes.min() >= -127 and (scales > 0).all() and np.isfinite(scales).all()
    step = np.expand_dims(scales, axis).astype(float)
    assert (np.abs(codes * step - w) <= step * 0.50001).all()
    largest = np.take_along_axis(codes, np.expand_dims(np.abs(w).argmax(axis), axis), axis)
    assert (np.abs(largest) == 127)[np.abs(w).max(axis, keepdims=True) > 1e-35].all()


def test_the_largest_numbers_stay_finite():
    largest = np.finfo(np.float32).max
    for factor in (1, 1 - 2.0**-24, 1 - 2.0**-20, 0.99):
        w = np.float32([[largest * factor, 1], [-largest, 0]])
        for axis in (0, 1):
            wide = small.widen(small.narrow(w, "int8", axis), axis)
            assert np.isfinite(wide).all() and (np.abs(wide - w) <= np.abs(w).max(axis, keepdims=True) / 250).all()


@hypothesis.given(matrices(1000.0), st.sampled_from(KINDS), st.sampled_from([1, 3]))
def test_codes_come_back_from_the_panels(w, kind, blocks):
    w = np.tile(w, (1, blocks))
    codes = small.narrow(w, kind)
    again = small.SmallMatrix(kind, codes, blocks).codes()
    assert np.array_equal(again.codes, codes.codes)
    assert again.scales is None if codes.scales is None else np.array_equal(again.scales, codes.scales)
