"""How many threads there are to choose from, and how the choice between one and several finds its way."""

import os
import threading
import time

import children
import numpy as np
import pytest

import cgru
from cgru import kernels
from cgru.kernels import runtime

ALONE, UNITS, ROWS, ONCE = 0, 1, 2, 13  # of two threads


@pytest.fixture
def threads():
    """Afterwards the number is as it was."""
    yield
    kernels.set_num_threads(None)


def rehearse(times, calls=400, first=ALONE, threads=2, **possible):
    """The ways that calls choose which take so long; `times` may change: a function of the call's number."""
    time_of = (lambda i, way: times(i)[way]) if callable(times) else (lambda i, way: times[way])
    return kernels.rehearse(time_of, calls, first, threads, **possible)


@pytest.mark.parametrize("first", [ALONE, UNITS, ROWS])
@pytest.mark.parametrize("fast", [ALONE, UNITS, ROWS])
def test_the_fast_way_is_found(fast, first):
    times = dict.fromkeys((ALONE, UNITS, ROWS), 1.3) | {fast: 1.0}
    ways = rehearse(times, first=first, by_units=True, by_rows=True)
    assert set(ways[:40]) == {ALONE, UNITS, ROWS}
    later = ways[40:]
    assert later.count(fast) >= 0.9 * len(later) and set(later) == {ALONE, UNITS, ROWS}  # the others now and then


def test_only_what_is_possible_is_tried():
    times = dict.fromkeys((ALONE, UNITS, ROWS, ONCE), 1.0)
    assert set(rehearse(times, by_units=True)) == {ALONE, UNITS}
    assert set(rehearse(times, by_rows=True)) == {ALONE, ROWS}
    assert set(rehearse(times, by_units=True, pair=True)) == {ALONE, UNITS, ONCE}


def test_one_trial_of_a_way_that_is_far_behind_is_enough():
    ways = rehearse({ALONE: 4.0, UNITS: 1.0}, 160, UNITS, by_units=True)
    assert ways[:31].count(ALONE) == 1 and ways.count(ALONE) == 2


def test_long_calls_are_of_one_kind_if_workers_are_awake():
    """The pieces of a sequence go with what calls for the whole have shown. Who must be woken comes late to a piece."""
    awake, asleep = ([kernels.length_key(steps, 256, ready) for steps in (1, 100, 256, 3000)] for ready in (1, 0))
    assert awake[2] == awake[3] and len({*awake, *asleep}) == 7


def test_a_single_slow_trial_costs_some_calls_alone():
    """The first time another way is tried, it is held up."""
    shared = []

    def time(i, way):
        if way == ALONE:
            return 1.0
        shared.append(i)
        return 20.0 if len(shared) == 1 else 0.6

    ways = kernels.rehearse(time, 200, ALONE, 2, by_units=True)
    assert ways[40:].count(UNITS) >= 0.9 * len(ways[40:])


def test_many_threads_are_found_step_by_step():
    def way(level, rows):
        return 2 * level - 1 + rows

    times = {ALONE: 8.0} | {way(level, rows): 8 / 2**level + 0.3 * 2**level for level in range(1, 5) for rows in (0, 1)}
    ways = rehearse(times, 1000, way(4, 1), 16, by_units=True, by_rows=True)
    best = min(times.values())
    assert np.median([times[w] for w in ways[200:]]) == best


def test_a_crowded_machine_ends_sharing_within_some_calls_and_a_quiet_one_brings_it_back():
    quiet, crowded = {ALONE: 1.0, UNITS: 0.6}, {ALONE: 1.1, UNITS: 30.0}
    ways = rehearse(lambda i: crowded if 100 <= i < 600 else quiet, 2000, UNITS, by_units=True)
    assert np.median([w == UNITS for w in ways[20:100]]) == 1
    assert sum(w == UNITS for w in ways[100:110]) <= 5
    assert sum(w == UNITS for w in ways[110:600]) <= 12
    assert ways[-200:].count(UNITS) >= 180


def test_single_outliers_change_nothing():
    rng = np.random.default_rng(0)
    ways = rehearse(
        lambda i: {ALONE: 1.0 * rng.choice([1] * 9 + [20]), UNITS: 0.8 * rng.choice([1] * 9 + [20])},
        3000, ALONE, by_units=True,
    )  # fmt: skip
    assert ways[50:].count(UNITS) > 0.85 * len(ways[50:])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_is_pinned_after_the_import_has_one_thread():
    code = """
import os, time, cgru
before = cgru.get_num_threads()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
time.sleep(0.02)
print(before, cgru.get_num_threads())
"""
    printed = children.printed("-c", code, env=children.environment("OMP_NUM_THREADS"))
    before, after = map(int, printed.split())
    assert after == 1 and 1 <= before <= len(os.sched_getaffinity(0))


def group(root, cgroup, **files):
    """A folder as / with these control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("_cfs", ".cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu_max": "max 100000\n"}, None),
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "390000 100000\n"}, 3),
        ("0::/not/seen/from/inside\n", {"cpu_max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu_max": "no number\n"}, None),
        ("0::/\n", {}, None),
        ("4:cpu,cpuacct:/x\n1:name=systemd:/\n",
         {"cpu__x__cpu_cfs_quota_us": "150000\n", "cpu__x__cpu_cfs_period_us": "50000\n"}, 3),
        ("4:cpu,cpuacct:/\n", {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_quota_of_control_groups(tmp_path, cgroup, files, expected):
    assert kernels.read_quota(group(tmp_path, cgroup, **files)) == expected


def test_quota_without_control_groups(tmp_path):
    assert kernels.read_quota(str(tmp_path)) is None


@pytest.mark.parametrize("how", ["limit_threads", "set_num_threads"])
def test_who_asks_for_one_thread_reads_no_files(threads, monkeypatch, how):
    looked, read_quota = [], runtime.read_quota
    monkeypatch.setattr(runtime, "read_quota", lambda: looked.append(True) or read_quota())
    if how == "set_num_threads":
        cgru.set_num_threads(1)
    with cgru.limit_threads(1 if how == "limit_threads" else None):
        time.sleep(1.01)  # files are looked at again after a second
        assert kernels.get_num_threads() == 1 and not looked
    cgru.set_num_threads(None)
    kernels.get_num_threads()
    assert looked or os.environ.get("OMP_NUM_THREADS") == "1"


def test_limit_threads_is_of_this_thread_alone(threads):
    cgru.set_num_threads(5)
    seen = {}

    def look():
        seen["other"] = cgru.get_num_threads()

    with cgru.limit_threads(3):
        assert cgru.get_num_threads() == 3
        other = threading.Thread(target=look)
        other.start()
        other.join()
        with cgru.limit_threads(1):
            assert cgru.get_num_threads() == 1
        with cgru.limit_threads(7):
            assert cgru.get_num_threads() == 5
        with cgru.limit_threads(None):
            assert cgru.get_num_threads() == 5
        assert cgru.get_num_threads() == 3
    assert cgru.get_num_threads() == 5 and seen == {"other": 5}
    with pytest.raises(RuntimeError), cgru.limit_threads(2):
        raise RuntimeError
    assert cgru.get_num_threads() == 5


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (True, TypeError), (1.5, TypeError), ("2", TypeError)])
def test_limits_are_checked(threads, n, error):
    with pytest.raises(error, match=r"^n: expected .* got "), cgru.limit_threads(n):
        pass


def test_none_is_the_default(threads):
    cgru.set_num_threads(None)  # a test before may have set what was the default then
    default = cgru.get_num_threads()
    cgru.set_num_threads(default + 3)
    assert cgru.get_num_threads() == default + 3
    cgru.set_num_threads(None)
    assert cgru.get_num_threads() == default


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=["one", "both"])
@pytest.mark.parametrize(("n", "t"), [(1, 700), (3, 400), (9, 150), (40, 30)])
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
def test_whatever_way_is_tried_the_bits_stay(n, t, options, reset_after):
    """Calls that are shared now this way and now that one, with workers that come late or not at all."""
    rng = np.random.default_rng(n)
    layer = cgru.GRU(35, return_sequences=True, reset_after=reset_after, input_size=5, seed=0, **options)
    x = rng.standard_normal((n, t, 5)).astype("float32")
    before = kernels.tune(small_work=0, cold_work=0, close_ns=10**9, alone_work=10_000)
    kernels.forget()
    try:
        with cgru.limit_threads(1):
            y, _, tape = layer.forward(x, training=True)
            expected = layer.backward(y, tape)
        for _ in range(24):
            y_again, _, tape = layer.forward(x, training=True)
            np.testing.assert_array_equal(y_again, y)
            np.testing.assert_array_equal(layer(x), y)
            again = layer.backward(y, tape)
            for a, b in zip([*again[:2], *again[2].values()], [*expected[:2], *expected[2].values()], strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        kernels.tune(**before)
