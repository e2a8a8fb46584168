"""What resets make of rows: every valid step in one segment, and schedules that the kernels may have."""

import numpy as np
import pytest

from cgru.segments import cut, segments


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("time_major", [False, True], ids=["batch", "time"])
def test_schedules_of_random_resets(rng, time_major, reverse):
    for _ in range(100):
        N, T = rng.integers(0, 6), rng.integers(0, 9)
        valid = None if rng.random() < 0.3 else rng.random((N, T)) < rng.random()
        steps = np.ones((N, T), bool) if valid is None else valid
        found = cut(segments(rng.random((N, T)) < 0.4, valid, time_major), reverse)
        plan, S = found.plan, len(found.segments.owners)
        assert S >= N and sorted(plan.rows) == list(range(S))
        counts = np.diff(plan.offsets)
        assert (np.diff(counts) <= 0).all() and (counts >= min(S, 1)).all() and counts.sum() == plan.steps
        order = np.arange(N * T).reshape(T, N).T if time_major else np.arange(N * T).reshape(N, T)
        assert sorted(plan.times) == sorted(order[steps])
        rows, own = found.packed_steps()
        assert (np.bincount(rows, minlength=N) == steps.sum(axis=1)).all()
        times = [np.flatnonzero(row)[::-1] if reverse else np.flatnonzero(row) for row in steps]
        assert plan.times.tolist() == [order[i, times[i][k]] for i, k in zip(rows, own, strict=True)]
        array = np.arange(N * T * 2.0).reshape((T, N, 2) if time_major else (N, T, 2))
        array = array.swapaxes(0, 1) if time_major else array
        view = found.view(array)
        assert view.shape == (S, N * T, 2) and (not view.size or np.shares_memory(view, array))
        for i in range(N):
            if len(times[i]):
                first = plan.times[np.flatnonzero((rows == i) & (own == 0))[0]]
                assert (view[0, first] == array[i, times[i][0]]).all()
