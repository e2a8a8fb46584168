"""The estimators in what scikit-learn has around estimators."""

import sys
import warnings

import cloudpickle
import numpy as np
import pytest
import sklearn
from joblib import Parallel, delayed, parallel_config
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline

import cgru
from cgru.sklearn import GRUClassifier, GRURegressor, GRUTagger, SequenceScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**options):
    return GRUClassifier(**{"hidden_size": 5, "max_iter": 8, "learning_rate_init": 0.05, "random_state": 0} | options)


@pytest.fixture
def data(rng):
    y = np.arange(48) % 3
    X = [rng.standard_normal((4 + i % 5, 2)) * 3 + [[3 * k, 7]] for i, k in enumerate(y)]
    return X, np.array(["low", "middle", "top"])[y]


def test_lists_are_split(data):
    X, y = data
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    assert isinstance(X_train, list)
    assert classifier().fit(X_train, y_train).predict(X_test).shape == y_test.shape


def test_pipeline_and_search(data):
    X, y = data
    pipeline = make_pipeline(SequenceScaler(), classifier())
    grid = {"gruclassifier__hidden_size": [1, 6], "gruclassifier__pooling": ["last", "mean"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.6 and search.predict(X).shape == y.shape
    assert set(search.best_params_) == set(grid)
    assert search.best_estimator_.score(X, y) == search.score(X, y)
    with pytest.raises(ValueError, match="expecting 2 features"):
        search.predict([x[:, :1] for x in X])


def test_search_gives_the_same_bits_for_any_number_of_workers(data):
    X, y = data
    found = []
    for jobs in (1, 2):
        search = RandomizedSearchCV(
            classifier(max_iter=2), {"hidden_size": [3, 9]}, n_iter=2, cv=2, n_jobs=jobs, random_state=0
        ).fit(X, y)
        # Of each fold the numbers themselves: a score is rounded by what computes it, not by what was trained.
        folds = cross_validate(classifier(max_iter=2), X, y, cv=2, n_jobs=jobs, return_estimator=True)["estimator"]
        fitted = [search, *folds]
        found.append([*search.cv_results_["mean_test_score"], *(p for f in fitted for p in f.predict_proba(X).ravel())])
    np.testing.assert_array_equal(*found)


def test_any_number_of_threads_gives_the_same_bits(rng):
    X = rng.standard_normal((64, 40, 3))
    y = np.arange(64) % 2
    found = []
    before = cgru.get_num_threads()
    try:
        for threads in (1, 2, 3):
            cgru.set_num_threads(threads)
            fitted = classifier(hidden_size=48, batch_size=64, max_iter=2, dropout=0.2).fit(X, y)
            found.append(fitted.predict_proba(X))
    finally:
        cgru.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


class Seen(GRUClassifier):
    """Notes how many threads training has."""

    def _new_model(self, *arguments):
        model = super()._new_model(*arguments)
        fit = model.fit

        def seen(*given, **options):
            self.threads_ = cgru.get_num_threads()
            return fit(*given, **options)

        model.fit = seen
        return model


def threads_of_a_fit(X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Seen(3, max_iter=1, random_state=0).fit(X, y).threads_


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_workers_of_joblib_have_one_thread_each(data, backend, monkeypatch):
    """Those of loky have their share of the processors, as scikit-learn's own estimators do."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # of a large machine, which would start a worker for each processor
    X, y = data
    before = cgru.get_num_threads()
    try:
        cgru.set_num_threads(3)
        assert threads_of_a_fit(X, y) == 3
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers may not find this file
        with parallel_config(backend=backend):
            assert set(Parallel(n_jobs=2)(delayed(threads_of_a_fit)(X, y) for _ in range(2))) == {1}
        assert threads_of_a_fit(X, y) == 3
    finally:
        cgru.set_num_threads(before)
        if __name__ in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_cross_validation(data):
    X, y = data
    scores = cross_val_score(make_pipeline(SequenceScaler(), classifier()), X, y, cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.6
    proba = cross_val_predict(classifier(), X, y, cv=2, method="predict_proba")
    assert proba.shape == (48, 3)
    assert cross_val_score(GRURegressor(4, max_iter=2), X, np.arange(48.0), cv=2, scoring="r2").shape == (2,)


def test_a_fold_may_lack_a_class(data):
    X, y = data
    weighted = classifier(max_iter=2, class_weight={"low": 1, "middle": 2, "top": 3})
    order = np.argsort(y, kind="stable")
    X, y = [X[i] for i in order], y[order]
    assert cross_val_score(weighted, X, y, cv=KFold(3), error_score="raise").shape == (3,)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration(data, method, ensemble):
    X, y = data
    calibrated = CalibratedClassifierCV(classifier(), cv=2, method=method, ensemble=ensemble).fit(X, y)
    proba = calibrated.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert calibrated.score(X, y) > 0.6 and calibrated.classes_.tolist() == ["low", "middle", "top"]


def test_other_wrappers(data):
    X, y = data
    target = np.array([x[:, 0].mean() for x in X]) * 1000 + 5000
    scaled = TransformedTargetRegressor(
        make_pipeline(SequenceScaler(), GRURegressor(6, max_iter=40, learning_rate_init=0.03, random_state=0)),
        func=lambda v: (v - 5000) / 4000, inverse_func=lambda v: v * 4000 + 5000, check_inverse=False,
    )  # fmt: skip
    assert scaled.fit(X, target).score(X, target) > 0.7
    full = np.stack([x[:4] for x in X])
    voting = VotingClassifier([("a", classifier()), ("b", classifier(reset_after=True))], voting="soft")
    assert voting.fit(full, y).score(full, y) > 0.6
    assert OneVsRestClassifier(classifier(max_iter=2)).fit(full, y).predict(full).shape == (48,)
    flat = full[..., 0]
    importance = permutation_importance(classifier(max_iter=2).fit(flat, y), flat, y, n_repeats=1)
    assert importance.importances.shape == (4, 1)


# -- metadata


@pytest.fixture
def routed(data):
    X, _ = data
    lengths = np.array([len(x) for x in X])
    full = np.full((48, 8, 2), np.nan)
    for row, x in zip(full, X, strict=True):
        row[: len(x)] = x
    with config_context(enable_metadata_routing=True):
        yield full, lengths


def test_lengths_and_weights_are_requested_by_default():
    with config_context(enable_metadata_routing=True):
        for estimator in (GRUClassifier(), GRURegressor(), GRUTagger()):
            request = estimator.get_metadata_routing()
            for method in (request.fit, request.score, request.partial_fit):
                assert method.requests["lengths"] is True and method.requests["sample_weight"] is True
            assert request.predict.requests == {"lengths": True}
        assert GRUTagger().get_metadata_routing().predict_proba.requests == {"lengths": True}
        assert SequenceScaler().get_metadata_routing().transform.requests == {"lengths": True}
        refused = GRUClassifier().set_fit_request(lengths=False).get_metadata_routing()
        assert refused.fit.requests == {"lengths": False, "sample_weight": True} | (
            {"classes": None} if "classes" in refused.fit.requests else {}
        )


def test_lengths_are_routed(data, routed):
    """Through a pipeline, a search and a cross-validation: the bits of the lists."""
    X, y = data
    full, lengths = routed
    weights = np.linspace(0.5, 1.5, 48)
    pipeline = Pipeline([("scale", SequenceScaler()), ("gru", classifier(max_iter=3))])
    pipeline.fit(full, y, lengths=lengths, sample_weight=weights)
    found = pipeline.predict_proba(full, lengths=lengths)
    expected = pipeline.fit(X, y, sample_weight=weights).predict_proba(X)
    np.testing.assert_array_equal(found, expected)
    grid = {"gru__hidden_size": [2, 5]}
    if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8):  # before, a pipeline's score lacks them
        lists = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
        padded = GridSearchCV(pipeline, grid, cv=2).fit(full, y, lengths=lengths)
        np.testing.assert_array_equal(lists.cv_results_["mean_test_score"], padded.cv_results_["mean_test_score"])
    given = {"lengths": lengths, "sample_weight": weights}
    np.testing.assert_array_equal(
        cross_val_score(classifier(max_iter=3), full, y, cv=2, params=given),
        cross_val_score(classifier(max_iter=3), X, y, cv=2, params={"sample_weight": weights}),
    )
