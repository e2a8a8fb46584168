"""The parts of docs/examples/estimators.py."""

import numpy as np
import pytest

from tests import examples

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def estimators():
    return examples.load("estimators")


def test_a_fold_is_scaled_by_what_it_learns_from(estimators):
    pipeline = estimators.pipeline(epochs=3).set_params(model__hidden_size=5)
    assert pipeline["model"].max_iter == 3 and [name for name, _ in pipeline.steps] == ["scale", "model"]
    rng = np.random.default_rng(0)
    x = [5 + 3 * rng.standard_normal((length, 2)) for length in (4, 5, 6, 7)]
    with pytest.warns(match="max_iter"):
        pipeline.fit(x, [0, 1, 0, 1])
    np.testing.assert_allclose(pipeline["scale"].mean_, np.concatenate(x).mean(axis=0))


def test_the_search_finds_what_separates_and_keeps_its_settings(estimators, capsys):
    rng = np.random.default_rng(1)
    y = np.arange(24) % 2
    x = [rng.standard_normal((length, 3)) + 4 * label for length, label in zip(rng.integers(3, 9, 24), y, strict=True)]
    found = estimators.search(x, y, widths=(2, 4), folds=2, epochs=20)
    rows = estimators.rows(found)
    assert [row[0] for row in rows] == [2, 4] and max(row[1] for row in rows) == 1
    assert found.best_params_["model__hidden_size"] in (2, 4)
    np.testing.assert_array_equal(found.predict(x), y)
    assert capsys.readouterr().out.count("END") == 4
