"""The parts of docs/examples/recombination_rates.py."""

import numpy as np
import pytest

import cgru
from tests import examples


@pytest.fixture(scope="module")
def rates():
    return examples.load("recombination_rates")


@pytest.fixture(scope="module")
def windows(rates):
    return rates.mosaic(40, seed=3, sites=(5, 12))


def test_mosaics_change_as_often_as_their_rate_says(rates):
    windows = rates.mosaic(300, seed=1, sites=(200, 220))
    assert {200, 220} >= {windows.sites().min(), windows.sites().max()} and len(windows) == 300
    assert rates.r_squared(windows.rates, windows.best) > 0.9  # counting is a good estimate
    seen = np.array([np.abs(np.diff(alleles, axis=0)).mean() for alleles in windows.alleles])
    assert np.corrcoef(seen, windows.rates)[0, 1] > 0.9  # errors of copying are rare
    assert all(alleles.dtype == np.int8 and set(np.unique(alleles)) == {0, 1} for alleles in windows.alleles)


def test_r_squared_of_all_and_of_nothing(rates):
    true = np.array([1.0, 2.0, 4.0, 5.0])
    assert rates.r_squared(true, true) == 1
    assert rates.r_squared(true, np.full(4, 3.0)) == 0
    assert rates.r_squared(true, true + 1) == pytest.approx(1 - 4 / 10)


def test_features_are_alleles_and_distances(rates):
    alleles = np.array([[0, 1, 1], [1, 0, 0]], np.int8)
    found = rates.features(alleles, np.array([0.25, 0.375], np.float32), 8.0)
    assert found.dtype == np.float32
    assert found.tolist() == [[-1, 1, 1, 2], [1, -1, -1, 1]]
    found = rates.features(alleles, np.array([0.25, 0.375], np.float32), 8.0, [2, 0, 1])
    assert found.tolist() == [[1, -1, 1, 2], [-1, 1, -1, 1]]


def test_an_epoch_has_every_window_once_with_its_own_target(rates, windows):
    batches = rates.shuffled(windows, windows.rates, 1.0, size=7)
    for _ in range(2):
        brought = list(batches())
        targets = np.concatenate([y[:, 0] for _, y in brought])
        assert sorted(targets) == sorted(windows.rates) and [len(x) for x, _ in brought].count(7) == 5
        for x, y in brought:
            lengths = [windows.sites()[windows.rates == rate][0] for rate in y[:, 0]]
            assert [len(row) for row in x] == lengths
    first, second = (np.concatenate([y[:, 0] for _, y in batches()]) for _ in range(2))
    assert (first != second).any()


def test_windows_come_back_from_a_file(rates, windows, tmp_path):
    path = tmp_path / "windows.npz"
    rates.save_windows(windows, path)
    found = rates.load_windows(path)
    assert found.made == windows.made and len(found) == 40
    for name in ("alleles", "positions"):
        for a, b in zip(getattr(found, name), getattr(windows, name), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    np.testing.assert_array_equal(found.rates, windows.rates)
    np.testing.assert_array_equal(found.best, windows.best)


def test_other_files_are_refused_by_their_name(rates, windows, tmp_path, capsys):
    junk, other, short = tmp_path / "junk.npz", tmp_path / "other.npz", tmp_path / "short.npz"
    junk.write_bytes(b"no archive")
    np.savez(other, rates=np.ones(3))
    rates.save_windows(windows, short)
    held = dict(np.load(short))
    np.savez(short, **held | {"positions": held["positions"][:-1]})
    for path, words in ((junk, "could not read it"), (other, "it has no 'alleles'"), (short, "do not fit together")):
        with pytest.raises(ValueError, match=f"{path.name}.*{words}"):
            rates.load_windows(path)
        with pytest.raises(SystemExit, match=f"--data: .*{path.name}.*{words}"):
            rates.windows_of(rates.options(["--data", str(path)]))
    with pytest.raises(SystemExit):
        rates.options(["--data", str(tmp_path / "absent.npz")])
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--windows", "--epochs", "--remember"])
def test_numbers_that_cannot_be_are_refused(rates, option):
    with pytest.raises(SystemExit, match=f"{option}: expected at least .*, got 0"):
        rates.options([option, "0"])


def test_without_msprime_the_windows_are_synthetic_and_it_is_said(rates, monkeypatch, capsys):
    monkeypatch.setattr(rates.importlib.util, "find_spec", lambda name: None)
    windows = rates.windows_of(rates.options(["--windows", "64"]))
    assert windows.best is not None and len(windows) == 64
    out = capsys.readouterr().out
    assert "pip install msprime" in out and "synthetic windows" in out


def test_the_network_has_the_published_sizes(rates):
    model = rates.network().build(21)
    shapes = {name: array.shape for name, array in model.parameters.items()}
    assert [shape for name, shape in shapes.items() if name.endswith("recurrent_kernel")] == [(84, 252)] * 2
    assert [shape for name, shape in shapes.items() if name.startswith(("1.", "3.", "5."))] == [
        *((168, 256), (256,)), *((256, 64), (64,)), *((64, 1), (1,)),
    ]  # fmt: skip
    biases = [name for name in shapes if name.endswith("bias")]
    start = rates.network(longest=2).build(21).parameters
    assert model.parameters[biases[0]].any() and not any(start[name].any() for name in biases)
    assert [layer.rate for layer in model.layers if isinstance(layer, cgru.Dropout)] == [0.35, 0.35]


def test_predictions_are_in_the_order_of_the_windows(rates, windows):
    model = rates.network(units=4, dense=(3,)).build(5)
    found = rates.predict(model, windows, 1.0, size=6)
    alone = [model.predict(rates.inputs(windows, [i], 1.0))[0, 0] for i in range(len(windows))]
    np.testing.assert_array_equal(found, alone)


def test_times_are_medians_of_rounds_without_the_first(rates, monkeypatch, capsys):
    clock, called = iter(range(1000)), []
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(rates.time, "process_time", lambda: 0)
    found = rates.times({"a": lambda x, y: called.append(x), "b": lambda x, y: next(clock)}, [(1, 2), (3, 4)], rounds=3)
    assert found == {"a": (1, 0), "b": (3, 0)} and called == [3, 1, 3] * 4
    assert capsys.readouterr().out.count("round") == 8


@pytest.fixture(scope="module")
def same_length(rates, windows):
    """(a small model, windows of one length): nothing is padded, and nothing dropped."""
    rows = np.flatnonzero(windows.sites() == windows.sites()[0])
    model = rates.network(units=4, dense=(3,), dropout=0.0).build(5)
    return model, rates.inputs(windows, rows, 1.0), windows.rates[rows, None]


def two_losses(rates, model, x, y):
    """Those of a copy of the model, before its first update and after it."""
    twin = rates.network(units=4, dense=(3,), dropout=0.0).build(5)
    twin.set_weights(model.get_weights())
    twin.compile(cgru.optimizers.Adam(1e-3), loss="mse")
    return [twin.train_on_batch(x, y)["loss"] for _ in range(2)]


@pytest.mark.parametrize("packed", [False, True])
def test_pytorch_makes_the_same_update(rates, same_length, packed):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    model, x, y = same_length
    try:
        update = rates.torch_update(model, packed)
        losses = [update(x, y) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(losses, two_losses(rates, model, x, y), rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_keras_makes_the_same_update(rates, same_length, masked):
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    model, x, y = same_length
    update = rates.keras_update(model, masked, compiled=False)
    np.testing.assert_allclose([update(x, y) for _ in range(2)], two_losses(rates, model, x, y), rtol=1e-4)
