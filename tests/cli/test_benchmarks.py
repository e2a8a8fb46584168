"""The scripts of benchmarks/: what they count, not what they measure."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from cgru import kernels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script by name."""
    if not BENCHMARKS.exists():
        pytest.skip("the benchmarks are in the checkout")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


def test_cells_of_default_threads(script):
    default_threads = script("default_threads")
    cases = default_threads.cells()
    assert 150 <= len(cases) == len(set(cases)) <= 200
    for name, values in {
        "mode": {"inference", "training"},
        "reset_after": {True, False},
        "N": set(default_threads.ROWS),
        "T": {1, 1000},
        "H": {H for _, H in default_threads.SIZES},
    }.items():
        assert values <= {getattr(case, name) for case in cases}
    assert min(case.N for case in cases) == 1 and max(case.N for case in cases) == 64
    assert max(case.T for case in cases) == 1000
    assert all(case.flops <= default_threads.MOST_FLOPS for case in cases)
    for mode, reset_after in default_threads.FORMS:
        sizes = {(case.D, case.H) for case in cases if (case.mode, case.reset_after) == (mode, reset_after)}
        assert sizes == set(default_threads.SIZES)


@pytest.mark.parametrize(
    ("ratio", "bound", "slower"),
    [
        (1.05, None, False),
        (1.30, None, True),  # it has not run again
        (1.30, 1.05, False),  # it was chance
        (1.30, 1.11, True),
        (1.30, 1.10, False),
    ],
)
def test_which_cells_count_as_slower(script, ratio, bound, slower):
    assert script("default_threads").counts({"ratio": ratio, "bound": bound}) == slower


def test_default_threads_measures_a_cell(script, monkeypatch):
    default_threads = script("default_threads")
    asked, limits = [], kernels.tune()
    monkeypatch.setattr(default_threads.cgru, "set_num_threads", asked.append)
    monkeypatch.setattr(default_threads, "BURST", 1e-4)
    case = default_threads.Case(1, 2, 3, 4, "training", False)
    ways = {"default": (None, False), "one": (1, False), "two": (2, False), "forced": (2, True)}
    found = default_threads.measure(case, ways, seconds=0)
    assert default_threads.Case(**found["case"]) == case and found["better"] in ("one", "two", "forced")
    assert set(found["microseconds"]) == set(ways) and found["ratio"] > 0 and found["bound"] is None
    rounds = default_threads.ROUNDS[0]
    assert [asked.count(each) for each in (None, 1, 2)] == [1 + rounds, 2 + rounds, 2 + 2 * rounds]
    assert kernels.tune() == limits
    default_threads.measure_again(found, ways, pairs=6)
    assert 0 < found["bound"] <= found["again"]
    summary = default_threads.summarise([found, found | {"ratio": 4 * found["ratio"]}])
    assert summary["cells"] == 2 and summary["worst"] == 4 * found["ratio"]
    assert summary["geometric_mean"] == pytest.approx(2 * found["ratio"])


def test_products_of_a_training_step(script):
    """Forward has one product for each weight, backward two of the same size."""
    models = script("models")
    case = models.cases.Case(3, 7, 11, 13, "words")
    found = sum(count * product.flops for count, product in models.products(case))
    forward = 2 * 3 * 7 * (3 * 13 * (11 + 13) + 13 * models.WORDS)
    assert found == 3 * forward


def test_a_model_of_words_starts_from_the_losses_of_numpy(script, monkeypatch):
    harness, models = script("harness"), script("models")
    monkeypatch.setattr(models, "WORDS", 50)  # in this process; the others have as many as the arrays say
    options = harness.parse(harness.parser(""), ["--quick", "--threads", "1"])
    names = ["cgru", *(name for name in ("torch", "cgru.torch") if importlib.util.find_spec("torch"))]
    with harness.Contest(options, names) as contest:
        entries = contest.measure(models.cases.Case(3, 4, 5, 6, "words"))
        assert contest.failures == []
    assert [entry.label for entry in entries] == names
    assert all(0 < entry.difference < 1e-6 for entry in entries)


def test_differences_are_those_of_rounds(script):
    step_costs = script("step_costs")
    times = {"a": [5.0, 9.0, 2.0], "b": [4.0, 7.0, 1.5]}
    assert step_costs.above(times, "a", "b") == "+1.00" and step_costs.above(times, "b", "a") == "-1.00"
    assert step_costs.medians(times) == {"a": 5.0, "b": 4.0}
    found = step_costs.measure({"short": lambda: None, "long": lambda: sum(range(2000))}, 4, 5)
    assert [len(each) for each in found.values()] == [4, 4] and step_costs.medians(found)["long"] > 1


def test_what_the_table_of_estimators_says(script, monkeypatch, capsys):
    """Means over the seeds, times against ours, and a line for who is not installed or cannot."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the script sets them when it is imported
    estimators = script("estimators")

    def missing(seed):
        raise ImportError("no", name="peer")

    contestants = {
        "ours": lambda seed: {"score": 0.5 + seed / 10, "fit": 2.0, "predict": 0.25},
        "peer": missing,
        "other": lambda seed: {"score": 0.25, "fit": 10.0, "predict": 0.5},
        "equal lengths": missing,
    }
    found = estimators.table(contestants, lambda c, seed: c(seed), range(3), "accuracy", ["equal lengths"], ["other"])
    assert found.keys() == {"ours", "other"} and len(found["ours"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "| ours | 0.600 | 0.5 to 0.7 | 2 | 0.25 | 1.0 |" in lines
    assert "| other, padded with zeros | 0.250 | 0.25 to 0.25 | 10 | 0.5 | 5.0 |" in lines
    assert "| peer | | not installed: peer | | | |" in lines
    assert "| equal lengths | | takes sequences of one length only | | | |" in lines
    assert estimators.versions()["cgru"] == estimators.cgru.__version__
