"""Large products whose left side is turned before: the same sums in the same order."""

import numpy as np
import pytest

import cgru
from cgru import kernels, recurrence, scheduling


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("sizes", [(1, 40, 1, 3), (5, 9, 67, 129), (70, 3, 130, 64), (3, 300, 7, 65)], ids=str)
def test_turned_or_not_changes_no_bit(rng, dtype, reset_after, sizes):
    N, T, D, H = sizes
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((D, 3 * H), (H, 3 * H))]
    weights = recurrence.prepare(*arrays, reset_after=reset_after, backend="native")
    x, dy = (rng.standard_normal((N, T, size)).astype(dtype) for size in (D, H))
    lengths = rng.integers(1, T + 1, N).astype(np.intp)
    plan = scheduling.schedule(N, T, lengths)
    _, tape = recurrence.forward(weights, x, np.zeros((N, H), dtype), plan, training=True)
    found, threads = [], cgru.get_num_threads()
    before = kernels.tune(thread_work=0, small_work=0, team_work=0, measured=0)
    try:
        for bytes_ in (10**15, 0):
            for count in (1, 2):
                cgru.set_num_threads(count)
                kernels.tune(turned_bytes=bytes_)
                found.append(recurrence.backward(dy, None, tape))
    finally:
        kernels.tune(**before)
        cgru.set_num_threads(threads)
    for other in found[1:]:
        for name in ("dx", "dh0", "kernel", "recurrent_kernel", "bias"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name), name)
