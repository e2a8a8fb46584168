"""GRUForecaster: windows of series, and what follows them."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score

import cgru
from cgru.sklearn import GRUForecaster

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def dated(y):
    """A data frame with a column of dates beside the values."""
    return pd.DataFrame({"day": pd.date_range("2020-01-01", periods=len(y)), "load": y})



def forecaster(**options):
    given = {"window": 12, "horizon": 4, "max_iter": 3, "learning_rate_init": 0.01, "random_state": 0}
    return GRUForecaster(**{"hidden_size": 6} | given | options)


@pytest.fixture
def y():
    return 50 + 10 * np.sin(np.arange(150) / 3)


def test_it_forecasts_in_the_units_of_the_series(y):
    fitted = forecaster(hidden_size=16, max_iter=60).fit(y[:140])
    np.testing.assert_allclose(fitted.predict(), y[140:144], atol=2)
    np.testing.assert_array_equal(fitted.predict(2), fitted.predict()[:2])
    np.testing.assert_array_equal(fitted.predict(3, y=y[:140]), fitted.predict(3))
    np.testing.assert_allclose(fitted.predict(4, y=y[:100]), y[100:104], atol=2)
    assert fitted.score(y[110:]) > 0.95
    windows = [y[i : i + 12] for i in range(15)]
    found = np.stack([fitted.predict(y=window) for window in windows])
    true = np.stack([y[i + 12 : i + 16] for i in range(15)])
    np.testing.assert_allclose(fitted.score(y[:30]), r2_score(true.ravel(), found.ravel()))


def test_forms(y):
    one = forecaster().fit(y)
    assert one.predict().shape == (4,) and one.n_features_in_ == 1 and one.predict().dtype == np.float64
    for same in (y.tolist(), pd.Series(y), y.astype("float64")):
        np.testing.assert_array_equal(forecaster().fit(same).predict(), one.predict())
    column = forecaster().fit(y[:, None])
    np.testing.assert_array_equal(column.predict()[:, 0], one.predict())
    two = forecaster().fit(pd.DataFrame({"a": y, "b": -y}))
    assert two.predict(3).shape == (3, 2) and two.n_features_in_ == 2
    many = forecaster().fit([y[:60], y[20:], y[5:50]])
    assert many.predict(3).shape == (3, 3) and many.predict(y=y[:20]).shape == (4,)
    assert forecaster().fit(np.stack([y, y])[..., None]).predict().shape == (2, 4, 1)
    np.testing.assert_array_equal(many.predict()[1], many.predict(y=y[20:]))
    np.testing.assert_array_equal(forecaster().fit([y]).predict()[0], one.predict())
    assert many.score([y[:40], y[10:60]]) < 1


def test_no_window_spans_two_series(y):
    """Where one goes on at another height there is no jump to be seen: what was learned holds for both."""
    fitted = forecaster(scale=False).fit([y[:60], y[60:] + 1000])
    windows, counts = fitted._windows([y[:60, None], y[60:, None] + 1000], None)
    assert counts == [45, 75]
    assert (np.ptp(windows.x.x[..., 0], axis=1) < 30).all() and len(windows.y) == 120


def test_what_else_is_known(rng):
    """Without X the noise cannot be forecast, with it it can; one row of X acts on its own step and on later ones."""
    X = rng.standard_normal((260, 1))
    y = 100 + 20 * X[:, 0] + np.sin(np.arange(260))
    fitted = forecaster(hidden_size=12, max_iter=40).fit(y[:240], X[:240])
    found = fitted.predict(4, X=X[240:244])
    assert np.abs(found - y[240:244]).max() < 8
    np.testing.assert_array_equal(fitted.predict(2, X=X[240:242]), found[:2])
    np.testing.assert_array_equal(fitted.predict(4, X=X[:244], y=y[:240]), found)
    later = X[240:244].copy()
    later[2] += 3
    changed = fitted.predict(4, X=later)
    np.testing.assert_array_equal(changed[:2], found[:2])
    assert abs(changed[2] - found[2]) > 20
    assert fitted.score(y[200:], X[200:]) > 0.9 > 0.5 > forecaster(max_iter=10).fit(y[:240]).score(y[200:])
    many = forecaster().fit([y[:100], y[100:]], [X[:100], X[100:]])
    assert many.predict(3, X=[X[:3], X[3:6]]).shape == (2, 3)


@pytest.mark.parametrize("known", [False, True])
def test_early_stopping_holds_the_end_back(rng, known):
    """The last windows, and none before them whose forecasts they see: what happens at the end trains nothing."""
    X = rng.standard_normal((120, 1)) if known else None
    y = np.sin(np.arange(120) / 3)
    changed = y.copy()
    changed[-11:] += 5  # the last values of the windows that are held back
    options = {"early_stopping": True, "validation_fraction": 0.1, "scale": False, "max_iter": 2, "n_iter_no_change": 9}
    a, b = forecaster(**options).fit(y, X), forecaster(**options).fit(changed, X)
    assert a.loss_curve_ == b.loss_curve_ and a.validation_scores_ != b.validation_scores_
    assert len(a.validation_scores_) == 2 and max(a.validation_scores_) <= 1
    with pytest.raises(ValueError, match=r"early_stopping, validation_fraction=0\.1: expected windows to"):
        forecaster(**options).fit(y[:16], None if X is None else X[:16])


def test_validation_scores_are_those_of_score(rng):
    X, y = rng.standard_normal((120, 1)), np.sin(np.arange(120) / 3)
    for given in ((y,), (y, X)):
        fitted = forecaster(early_stopping=True, validation_fraction=0.2, max_iter=4).fit(*given)
        count = round(105 * 0.8)
        held = [part[count:] for part in given]
        assert fitted.score(*held) == pytest.approx(max(fitted.validation_scores_), abs=1e-5)


def test_training_goes_on(y):
    whole, parts = forecaster(max_iter=2).fit(y), forecaster().partial_fit(y).partial_fit(y)
    np.testing.assert_array_equal(whole.predict(), parts.predict())
    warm = forecaster(warm_start=True).fit(y).fit(y[:60])
    assert warm.n_iter_ == 6
    with pytest.raises(ValueError, match="window, horizon"):
        warm.set_params(horizon=5).fit(y)
    np.testing.assert_array_equal(forecaster().fit(y[:60], y[:60]).fit(y).predict(), forecaster().fit(y).predict())


def test_same_seed_same_bits_and_copies(y):
    fitted = forecaster(num_layers=2, dropout=0.1).fit(y)
    before = cgru.get_num_threads()
    try:
        cgru.set_num_threads(2)
        again = clone(fitted).fit(y)
    finally:
        cgru.set_num_threads(before)
    for made in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), again):
        assert made.get_params() == fitted.get_params()
        np.testing.assert_array_equal(made.predict(), fitted.predict())
    assert (clone(fitted).set_params(random_state=1).fit(y).predict() != fitted.predict()).any()
    with pytest.raises(NotFittedError):
        clone(fitted).predict()
    assert clone(fitted).get_params()["window"] == 12


def test_what_fails_changes_nothing(y):
    fitted = forecaster().fit(y, y)
    found = fitted.predict(4, X=y[:4])
    for given in ((y[:100] * 9, np.nan * y[:100]), (y[:100] * 1e40, y[:100])):
        with pytest.raises(ValueError):
            fitted.set_params(scale=False).fit(*given)
        np.testing.assert_array_equal(fitted.predict(4, X=y[:4]), found)


def test_columns_have_their_names(y):
    """Of data frames, as everywhere in scikit-learn: what stands in another order is refused."""
    table, X = pd.DataFrame({"a": y, "b": 2 * y}), pd.DataFrame({"u": y, "v": -y})
    fitted = forecaster().fit(table, X)
    found = fitted.predict(2, X=X[:2])
    np.testing.assert_array_equal(fitted.predict(2, X=X[:2].to_numpy()), found)
    with pytest.raises(ValueError, match=r"X: expected the columns \['u', 'v'\], as fit had, got \['v', 'u'\]"):
        fitted.predict(2, X=X[["v", "u"]][:2])
    with pytest.raises(ValueError, match=r"y: expected the columns \['a', 'b'\], as fit had, got \['b', 'a'\]"):
        fitted.score(table[["b", "a"]], X)
    with pytest.raises(ValueError, match=r"y\[1\]: expected the columns \['a', 'b'\], as y\[0\]"):
        forecaster().fit([table, table[["b", "a"]]])
    assert fitted.fit(X, table).predict(1, X=table[:1]).shape == (1, 2)


def test_settings(y):
    for options in ({"pooling": "mean"}, {"bidirectional": True, "reset_after": True}, {"dtype": "float64"}):
        assert forecaster(**options).fit(y).predict().shape == (4,)
    unscaled = forecaster(scale=False).fit(y / 50)
    assert unscaled.y_scaler_ is None and unscaled.predict().shape == (4,)
    assert forecaster().fit(np.full(40, 3.0)).predict(1) == pytest.approx(3.0, abs=1)


def test_search_over_time(y):
    cv = TimeSeriesSplit(2, test_size=30)
    search = GridSearchCV(forecaster(), {"hidden_size": [3, 8]}, cv=cv, error_score="raise")
    search.fit(y)
    assert search.best_estimator_.predict(2).shape == (2,)
    X = np.cos(np.arange(150))
    with config_context(enable_metadata_routing=True):
        search.fit(y, exogenous=X)
        assert search.best_estimator_.predict(1, X=[0.0]).shape == (1,)
        scores = cross_val_score(search.best_estimator_, y, cv=cv, params={"exogenous": X}, error_score="raise")
    train, test = list(cv.split(y))[1]
    assert scores[1] == clone(search.best_estimator_).fit(y[train], X[train]).score(y[test], X[test])


@pytest.mark.parametrize("call, message", [
    (lambda f, y: f.fit(None), "requires y to be passed"),
    (lambda f, y: f.fit([]), r"y: expected at least window \+ horizon = 16 values, got 0"),
    (lambda f, y: f.fit(y).score(y[:15]), r"y: expected at least window \+ horizon = 16 values, got 15"),
    (lambda f, y: f.fit(y[:15]), r"y: expected at least window \+ horizon = 16 values, got 15"),
    (lambda f, y: f.fit([y, y[:15]]), r"y\[1\]: expected at least window \+ horizon = 16 values, got 15"),
    (lambda f, y: f.fit([y[:, None], np.stack([y, y], axis=1)]), r"y\[1\]: expected 1 values a step, got 2"),
    (lambda f, y: f.fit(np.where(y > 55, np.nan, y)), "Input y contains NaN"),
    (lambda f, y: f.fit([y, np.where(y > 55, np.inf, y)]), r"Input y\[1\] contains infinity"),
    (lambda f, y: f.fit(y, y[:-1]), "X: expected 150 steps, got 149"),
    (lambda f, y: f.fit(y, [y]), "X: expected an array, as y is, got a list"),
    (lambda f, y: f.fit([y, y], [y]), "X: expected 2 series, as y has, got 1"),
    (lambda f, y: f.fit(y).predict(5), "h: expected at most the horizon of training, 4, got 5: fit with horizon=5"),
    (lambda f, y: f.fit(y).predict(0), "h: expected at least 1"),
    (lambda f, y: f.fit(y).predict(1.5), "h: expected an integer"),
    (lambda f, y: f.fit(y).predict(2, X=y[:2]), "X: expected none, as fit had, got some"),
    (lambda f, y: f.fit(y, y).predict(2), "X: expected what is known of each step, as fit had, got none"),
    (lambda f, y: f.fit(y, y).predict(2, X=y[:3]), "X: expected 2 steps, got 3"),
    (lambda f, y: f.fit(y, y).predict(2, X=np.stack([y, y], 1)[:2]), "X: expected 1 values a step, got 2"),
    (lambda f, y: f.fit(y).predict(2, y=y[:11]), "y: expected at least window = 12 values, got 11"),
    (lambda f, y: f.set_params(window=0).fit(y), "window: expected at least 1"),
    (lambda f, y: f.set_params(scale="yes").fit(y), "scale: expected True or False"),
    (lambda f, y: f.set_params(pooling="mean").fit(y, y), "pooling: expected 'last'"),
    (lambda f, y: f.set_params(early_stopping=True).partial_fit(y), "early_stopping: expected False"),
    (lambda f, y: f.fit(np.array(["a"] * 40)), "convert|numeric"),
    (lambda f, y: f.fit(np.ma.masked_greater(y, 55)), "y: expected no masked values"),
    (lambda f, y: f.fit([y, np.ma.masked_greater(y, 55)]), r"y\[1\]: expected no masked values"),
    (lambda f, y: f.fit(y, np.ma.masked_greater(y, 55)), "X: expected no masked values"),
    (lambda f, y: f.fit(y.astype("M8[s]")), "y: expected real numbers, got dtype datetime64"),
    (lambda f, y: f.fit(dated(y)), "y: expected real numbers, got dtype datetime64.* in the column 'day'"),
    (lambda f, y: f.fit([dated(y)]), r"y\[0\]: expected real numbers, got dtype datetime64.* in the column 'day'"),
    (lambda f, y: f.fit(y, dated(y)), "X: expected real numbers, got dtype datetime64.* in the column 'day'"),
    (lambda f, y: f.fit(3.0), r"y: expected shape \(T,\) or \(T, K\), got \(\)"),
    (lambda f, y: f.fit(np.stack([y, y])), "got 2; values before time?"),
    (lambda f, y: f.fit(y[:, None]).predict(y=y[None]), "expected 1 values a step, got 150; values before time?"),
    (lambda f, y: f.fit([y, y[:, None]]), r"y\[1\]: expected as many axes as those before, 1, got 2"),
    (lambda f, y: f.set_params(scale=False).fit(y * 1e40), "Input y contains infinity or a value too large"),
    (lambda f, y: f.fit(y).predict(y=y * 1e60), "Input y contains infinity or a value too large"),
    (lambda f, y: f.fit(y, y).predict(1, X=[1e60]), "Input X contains infinity or a value too large"),
    (lambda f, y: f.set_params(horizon=1, early_stopping=True).fit(y[:20]), "at least 2 numbers to hold back for R.2"),
])  # fmt: skip
def test_what_is_refused(y, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(forecaster(), y)
