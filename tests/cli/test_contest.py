"""How `cgru bench` and benchmarks/ measure: processes that take turns, results that are checked first, times."""

import importlib.util
import math

import children
import numpy as np
import pytest

from cgru.cli import contestants, timing, worker
from cgru.cli.case import Case, draw
from cgru.cli.contest import Contest, Process, WorkerError

CASES = (Case(2, 3, 5, 7), Case(3, 4, 2, 5, "training"), Case(1, 4, 3, 5, "step"))
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def contest_of(*workers, rounds=2, **options):
    return Contest(list(workers), rounds, 0.01, TOLERANCE, **options)


# -- contestants


@pytest.mark.parametrize("name", contestants.CONTESTANTS)
def test_contestants_agree_with_the_reference(name):
    for package in contestants.CONTESTANTS[name].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with contest_of(Process(name, 1)) as contest:
        for case in CASES:
            entries = contest.measure(case)
            if name == "onnxruntime" and case.mode == "training":
                assert entries == []
            else:
                assert 0 < entries[0].difference < 1e-6
                assert len(entries[0].rounds) == 2 and entries[0].median > 0


def test_every_array_and_nan_count_in_the_difference():
    case = CASES[1]
    with contest_of() as contest:
        expected = contest.expected(case, draw(case))
    assert set(expected) == {"y", "dx", "l0.forward.kernel", "l0.forward.recurrent_kernel", "l0.forward.bias"}
    found = {name: array.astype("float32") for name, array in expected.items()}
    assert worker.difference(found, expected, None, case) < 1e-6
    for name in expected:
        for wrong, away in ((1.5, 0.5), (np.nan, np.nan)):
            spoilt = found | {name: found[name] * np.float32(wrong)}
            np.testing.assert_allclose(worker.difference(spoilt, expected, None, case), away, rtol=1e-4)
        with pytest.raises(ValueError, match=f"{name}: expected float32"):
            worker.difference(found | {name: found[name][:1, :1]}, expected, None, case)


# -- processes


def test_a_process_says_what_failed():
    nobody = Process("nobody", 1)
    with contest_of(nobody) as contest:
        with pytest.raises(WorkerError, match="KeyError: 'nobody'"):
            nobody.ask("burst", key=0, seconds=0.1)
        nobody._process.kill()
        with pytest.raises(WorkerError, match="its process ended"):
            nobody.ask("hello")
    assert contest.workers == []


def test_a_process_ends_with_its_pipe():
    numpy = Process("numpy", 1)
    with contest_of(numpy):
        assert numpy.hello["versions"]["numpy"] == np.__version__
        numpy._process.stdin.close()
        assert numpy._process.wait(children.PATIENCE) == 0


@pytest.mark.parametrize("name", ["cgru", "numpy"])
def test_a_process_takes_no_package_from_the_working_directory(name, tmp_path, monkeypatch):
    (tmp_path / "cgru").mkdir()
    (tmp_path / "cgru" / "__init__.py").write_text("raise ImportError('not built')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    with contest_of(Process(name, 1)) as contest:
        assert contest.measure(CASES[0])[0].difference < 1e-5


class Scripted:
    """A process that gives these answers; an exception is raised."""

    def __init__(self, name, *answers):
        self.name, self.threads, self.answers, self.ours = name, 1, list(answers), name == "cgru"

    def ask(self, operation, **arguments):
        if operation == "release":
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if operation == "prepare" else {"median": answer, "times": None}

    def close(self):
        pass


class Tolerant(Contest):
    """Any name is a contestant; failures are kept."""

    contestants = dict.fromkeys(
        ("cgru", "numpy", "without", "wrong", "dead", "late", "slow"), contestants.CONTESTANTS["numpy"]
    )

    def __init__(self, *workers, rounds=3, **options):
        super().__init__(list(workers), rounds, 0.01, TOLERANCE, **options)
        self.failures, self.turns = {}, 0

    def failed(self, worker, error, case):
        self.failures[worker.name] = str(error)
        self.drop(worker)

    def round_done(self):
        self.turns += 1


def test_failures_leave_the_contest():
    workers = (
        Scripted("cgru", 1e-7, 2.0, 9.0, 1.0),
        Scripted("numpy", 1e-7, 30.0, 10.0, 20.0),
        Scripted("wrong", float("nan")),
        Scripted("dead", WorkerError("its process ended (-9)")),
        Scripted("late", 1e-7, 1.0, WorkerError("MemoryError: ")),
    )
    with Tolerant(*workers) as contest:
        entries = contest.measure(CASES[0])
        left = [worker.name for worker in contest.workers]
    assert left == ["cgru", "numpy"]
    assert contest.failures == {
        "wrong": "differs from the reference by nan of the largest value",
        "dead": "its process ended (-9)",
        "late": "MemoryError: ",
    }
    assert {entry.label: entry.median for entry in entries} == {"cgru": 2.0, "numpy": 20.0}
    assert contest.turns == 3


def test_a_slow_case_has_one_round():
    with Tolerant(Scripted("cgru", 0.0, 5.0), longest=-1) as contest:
        assert contest.measure(CASES[0])[0].rounds == [5.0] and contest.turns == 3


def test_a_hopeless_peer_sits_out():
    answers = {"cgru": [1.0] * 4, "numpy": [10.0, 9.0, 8.0, 9.0], "slow": [20.0, 30.0]}
    workers = [Scripted(name, 0.0, *times) for name, times in answers.items()]
    with Tolerant(*workers, rounds=4, hopeless=2.0) as contest:
        entries = contest.measure(CASES[0])
    assert {entry.label: entry.rounds for entry in entries} == answers


# -- times


@pytest.fixture
def clock(monkeypatch):
    """A list of one time in ns, which whoever "works" adds to; looking at it takes 3 ns."""
    now = [0]

    def look():
        now[0] += 3
        return now[0]

    monkeypatch.setattr(timing.time, "perf_counter_ns", look)
    return now


def work(clock, ns):
    clock[0] += ns


def test_a_burst_is_the_time_of_calls(clock):
    times = timing.burst(lambda: work(clock, 2_000_000), 0.01)
    assert set(times) == {2_000_000} and len(times) == 5  # in 10 ms, the clock's own cost taken off
    assert len(timing.burst(lambda: None, 0.01, calls=7)) == 7


def test_before_runs_outside_the_time(clock):
    order = []
    before = lambda: (order.append("before"), work(clock, 10**7))  # noqa: E731
    times = timing.single_calls(lambda: order.append("call"), 0, 3, before)
    assert order == ["before", "call"] * 3 and times == [3] * 3


@pytest.mark.parametrize("count", range(2, 6))
def test_turns_are_fair(count):
    """Everybody has every place equally often."""
    rounds = [timing.turns(range(count), index) for index in range(2 * count)]
    places = [[order[place] for order in rounds] for place in range(count)]
    assert all(sorted(place) == sorted(2 * list(range(count))) for place in places)
    assert timing.turns([], 3) == []


def test_interleaved_calls_take_turns(monkeypatch):
    order = []
    found = timing.interleave([lambda: order.append(0), lambda: order.append(1), lambda: order.append(2)], 4)
    assert [len(times) for times in found] == [4, 4, 4] and min(map(min, found)) > 0
    assert order == [each for index in range(4) for each in timing.turns(range(3), index)]
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert len(timing.interleave([lambda: None], 2, seconds=5)[0]) == 6  # it looks at the clock from the second on


def test_lower_bound_of_the_median():
    # Of 30 values the 11th: with fewer than 11 below the median the bound is wrong, at a chance of 0.0494.
    values = np.random.default_rng(0).permutation(30)
    assert timing.lower_bound(values) == 10
    assert sum(math.comb(30, k) for k in range(11)) / 2**30 < 0.05 < sum(math.comb(30, k) for k in range(12)) / 2**30
    assert timing.lower_bound([3.0] * 4) == -math.inf and timing.lower_bound([3.0] * 5) == 3.0
    assert timing.lower_bound([]) == -math.inf


def test_lower_bound_holds_in_about_95_of_100(rng):
    held = [timing.lower_bound(rng.exponential(size=31)) <= math.log(2) for _ in range(2000)]
    assert 0.94 < np.mean(held) < 0.985


def test_the_better_one_is_chosen_apart_from_where_it_is_scored():
    """Rounds 0, 1, 4, 5 choose, rounds 2, 3, 6, 7 score: who was lucky only where it is chosen gains nothing."""
    lucky = [1.0, 1.0, 9.0, 9.0, 1.0, 1.0, 9.0, 9.0]
    assert timing.chosen_and_scored({"ours": [3.0] * 8, "one": [2.0] * 8, "two": lucky}, "ours") == ("two", 3.0 / 9.0)
    lucky_later = [9.0, 9.0, 1.0, 1.0, 9.0, 9.0, 1.0, 1.0]
    assert timing.chosen_and_scored({"ours": [3.0] * 8, "one": [2.0] * 8, "two": lucky_later}, "ours") == ("one", 1.5)


def test_ratios_are_those_of_pairs():
    """Drift that hits both of a round leaves their ratio alone."""
    drift = [1.0, 5.0, 2.0, 30.0, 7.0, 1.0, 0.5, 11.0]
    runs = {"ours": [1.2 * each for each in drift], "one": drift, "two": [2 * each for each in drift]}
    better, ratio = timing.chosen_and_scored(runs, "ours")
    assert better == "one" and ratio == pytest.approx(1.2)


def test_chosen_among_equals_scores_one(rng):
    """Pure noise: no bias from choosing the luckier of two."""
    ratios = []
    for _ in range(300):
        runs = {name: rng.lognormal(0, 0.3, 12) for name in ("ours", "one", "two")}
        ratios.append(timing.chosen_and_scored(runs, "ours")[1])
    assert 0.96 < np.exp(np.mean(np.log(ratios))) < 1.04
