"""Arrays in packed order (all rows of step 0, those left at step 1, ...) give what padded ones with lengths give."""

import checks
import numpy as np
import pytest

import cgru
from cgru import recurrence, scheduling

D, H = 5, 7
LENGTHS = {
    "falling": [9, 6, 6, 2, 1],
    "many": sorted(np.random.default_rng(0).integers(1, 24, 19), reverse=True),
    "equal": [6, 6, 6],
    "one row": [11],
    "one step": [1, 1],
}
SAME_BITS = cgru.get_backend() == "native"


def packed(padded, lengths):
    return np.concatenate([padded[: sum(n > t for n in lengths), t] for t in range(max(lengths))])


def assert_same(actual, expected, what):
    checks.assert_close(actual, expected, 0 if SAME_BITS else 1e-12, what)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
def test_as_with_lengths(rng, reset_after, name, reverse):
    lengths = np.array(LENGTHS[name])
    N, T = len(lengths), lengths.max()
    counts = (lengths[:, None] > np.arange(T)).sum(axis=0)
    p = checks.random_problem(rng, reset_after, sizes=(N, T, D, H))
    weights = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, reset_after=reset_after)

    plan = scheduling.schedule(N, T, lengths, reverse=reverse)
    y = np.zeros((N, T, H))
    h, tape = recurrence.forward(weights, p.x, p.h0, plan, y, training=True)
    expected = recurrence.backward(p.dy, p.dh, tape)

    x, dy = packed(p.x, lengths), packed(p.dy, lengths)
    found, dx = np.full((len(x), 3 + H), np.nan), np.full((len(x), D), np.nan)
    plan = scheduling.packed_schedule(counts, reverse)
    view = scheduling.packed_view(x, counts)
    assert np.shares_memory(view, x) and plan.steps == len(x)
    y_view = scheduling.packed_view(found, counts)[:, :, 3:]
    h_packed, tape = recurrence.forward(weights, view, p.h0, plan, y_view, training=True)
    h_inference, _ = recurrence.forward(weights, view, p.h0, plan)
    out = recurrence.Gradients(scheduling.packed_view(dx, counts), None, None, None, None)
    gradients = recurrence.backward(scheduling.packed_view(dy, counts), p.dh, tape, out=out)

    assert_same(found[:, 3:], packed(y, lengths), "y")
    assert np.isnan(found[:, :3]).all()
    assert_same(h_packed, h, "h")
    assert_same(h_inference, h, "h in inference")
    assert_same(dx, packed(expected.dx, lengths), "dx")
    for field in ("dh0", "kernel", "recurrent_kernel", "bias"):
        assert_same(getattr(gradients, field), getattr(expected, field), field)
