"""GRUTagger, and scorers over its steps."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import cgru
from cgru.sklearn import (
    GRUClassifier,
    GRURegressor,
    GRUTagger,
    SequenceScaler,
    frame_accuracy,
    frame_balanced_accuracy,
    frame_macro_f1,
    frame_neg_log_loss,
    frame_neg_mean_absolute_error,
    frame_neg_mean_squared_error,
    frame_r2,
    make_frame_scorer,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def tagger(**options):
    return GRUTagger(**{"hidden_size": 6, "max_iter": 3, "learning_rate_init": 0.03, "random_state": 0} | options)


@pytest.fixture
def data(rng):
    X = [rng.standard_normal((3 + i % 5, 2)) for i in range(40)]
    return X, [np.where(np.cumsum(x[:, 0]) > 0, "up", "down") for x in X]


def padded(values, fill):
    out = np.full((len(values), 7, *values[0].shape[1:]), fill, values[0].dtype)
    for row, value in zip(out, values, strict=True):
        row[: len(value)] = value
    return out, np.array([len(value) for value in values])


def test_tags(data):
    X, y = data
    fitted = tagger(max_iter=40, hidden_size=10).fit(X, y)
    assert fitted.classes_.tolist() == ["down", "up"] and fitted.n_features_in_ == 2
    found, proba = fitted.predict(X), fitted.predict_proba(X)
    assert [f.shape for f in found] == [t.shape for t in y] and proba[4].shape == (7, 2)
    for f, p in zip(found, proba, strict=True):
        np.testing.assert_array_equal(f, fitted.classes_[p.argmax(axis=1)])
    assert fitted.score(X, y) == accuracy_score(np.concatenate(y), np.concatenate(found)) > 0.85
    assert fitted.predict([X[0], np.zeros((0, 2))])[1].shape == (0,)


def test_forms_give_the_same_bits(data):
    X, y = data
    expected = tagger().fit(X, y)
    full, lengths = padded(X, np.nan)
    labels, _ = padded(y, "none")
    fitted = tagger().fit(full, labels, lengths=lengths)
    assert fitted.classes_.tolist() == ["down", "up"]  # what pads is not read
    found = fitted.predict(full, lengths=lengths)
    assert found.shape == (40, 7) and found[0, 3:].tolist() == [""] * 4
    for row, proba, e, p, n in zip(
        found, fitted.predict_proba(full, lengths=lengths), expected.predict(X), expected.predict_proba(X), lengths,
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(row[:n], e)
        np.testing.assert_array_equal(proba[:n], p)
        assert not proba[n:].any()
    assert fitted.score(full, labels, lengths=lengths) == expected.score(X, y)
    for X_, y_ in ((full, y), (X, labels)):
        given = {} if X_ is X else {"lengths": lengths}
        again = tagger().fit(X_, y_, **given)
        np.testing.assert_array_equal(again.predict_proba(X)[3], expected.predict_proba(X)[3])
    flat = tagger().fit(np.ones((6, 4)), np.arange(24).reshape(6, 4) % 2)
    assert flat.predict(np.ones((2, 4))).shape == (2, 4)


def test_weights(data):
    """Of sequences, of steps, of classes."""
    X, y = data
    of_sequences = np.where(np.arange(40) < 20, 1.0, 0.5)
    of_steps = [np.full(len(x), w) for x, w in zip(X, of_sequences, strict=True)]
    first = tagger().fit(X, y, sample_weight=of_sequences)
    for weights in (of_steps, padded(of_steps, np.nan)[0]):
        second = tagger().fit(X, y, sample_weight=weights)
        np.testing.assert_array_equal(first.predict_proba(X)[7], second.predict_proba(X)[7])
        assert second.score(X, y, sample_weight=weights) == first.score(X, y, sample_weight=of_sequences)
    down = [np.where(t == "up", 0.0, 1.0) for t in y]
    assert np.concatenate(tagger(max_iter=20).fit(X, y, sample_weight=down).predict_proba(X))[:, 0].mean() > 0.8
    plain, heavy = (tagger(class_weight=w).fit(X, y).predict_proba(X) for w in (None, {"up": 20.0}))
    assert np.concatenate(heavy)[:, 1].mean() > np.concatenate(plain)[:, 1].mean() + 0.1
    assert tagger(class_weight="balanced").fit(X, y).score(X, y) > 0.5
    for score in (tagger().fit(X, y).score, partial(frame_accuracy, first)):
        with pytest.raises(ValueError, match=r"sample_weight: expected shape \(40,\) or of the steps, got \(3,\)"):
            score(X, y, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match=r"sample_weight\[0\]: expected shape \(3,\)"):
        tagger().fit(X, y, sample_weight=[np.ones(1)] * 40)


def test_training_goes_on(data):
    X, y = data
    whole, parts = tagger(max_iter=2).fit(X, y), tagger()
    for _ in range(2):
        parts.partial_fit(X, y, classes=["down", "up"])
    np.testing.assert_array_equal(whole.predict_proba(X)[2], parts.predict_proba(X)[2])
    rare = [np.array(["rare"] * len(x)) if i == 7 else t for i, (x, t) in enumerate(zip(X, y, strict=True))]
    full, lengths = padded(X, np.nan)
    for seed in range(4):  # where a class may be among what is held back alone
        for weight in ({"rare": 9.0}, "balanced"):
            options = {"class_weight": weight, "max_iter": 1, "random_state": seed}
            held = tagger(early_stopping=True, validation_fraction=0.5, **options)
            assert held.fit(X, rare).loss_ == held.fit(full, rare, lengths=lengths).loss_
    weighted = tagger(class_weight={"up": 2, "down": 3}).partial_fit(X[:1], [["up"] * 3], classes=["up", "down"])
    assert weighted.n_iter_ == 1
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        tagger().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y: expected labels of .* got \['side'\]"):
        parts.partial_fit(X[:1], [np.array(["side"] * 3)])
    assert tagger(warm_start=True).fit(X, y).fit(X, y).n_iter_ == 6
    stopped = tagger(early_stopping=True, validation_fraction=0.25, max_iter=60, n_iter_no_change=3).fit(X, y)
    assert stopped.n_iter_ == stopped.best_iter_ + 3 == len(stopped.validation_scores_)


def test_same_seed_same_bits_and_copies(data):
    X, y = data
    fitted = tagger(class_weight={"up": 2.0}, bidirectional=True).fit(X, y)
    expected = fitted.predict_proba(X)
    before = cgru.get_num_threads()
    try:
        cgru.set_num_threads(2)
        again = clone(fitted).fit(X, y)
    finally:
        cgru.set_num_threads(before)
    for made in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), again):
        assert made.get_params() == fitted.get_params()
        for a, b in zip(made.predict_proba(X), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    other = clone(fitted).set_params(random_state=1).fit(X, y)
    assert (other.predict_proba(X)[0] != expected[0]).any()
    with pytest.raises(NotFittedError):
        clone(fitted).predict(X)


@pytest.mark.parametrize("change, message", [
    (lambda X, y: (X, None), "requires y to be passed"),
    (lambda X, y: (X, y[:-1]), r"inconsistent numbers of samples: \[40, 39\]"),
    (lambda X, y: (X, [t[:-1] for t in y]), r"y\[0\]: expected something for each of 3 steps, got shape \(2,\)"),
    (lambda X, y: (X, [t[0] for t in y]), r"y: expected a list of arrays \(T_i,\) or shape \(40, 7\)"),
    (lambda X, y: (X, [t[:, None].repeat(2, axis=1) for t in y]), "1d array"),
    (lambda X, y: (X, [np.full(len(t), np.nan) for t in y]), "Input y contains NaN"),
    (lambda X, y: (X, [np.linspace(0.1, 0.9, len(t)) for t in y]), "Unknown label type"),
    (lambda X, y: ([x.T for x in X], y), "channels_first=True"),
    (lambda X, y: (X, 3), "y: expected something for each sequence, got 3"),
    (lambda X, y: (np.ones((2, 3, 1)), np.ones((2, 4))), r"y: expected shape \(2, 3\), as X, got \(2, 4\)"),
    (lambda X, y: (X, [np.arange(3), *y[1:]]), r"y\[1\]: expected int64, as in those before, got <U4"),
    (lambda X, y: (X, [*y[:-1], np.ma.masked_equal(y[-1], "up")]), r"y\[39\]: expected no masked values"),
])  # fmt: skip
def test_what_is_refused(data, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tagger().fit(*change(*data))


@pytest.mark.parametrize("kind", [int, str, bool])
def test_a_sequence_without_steps_leaves_the_labels_their_type(data, kind):
    X, y = data
    labels = [(t == "up").astype(kind) for t in y]
    fitted = tagger().fit([np.zeros((0, 2)), *X[1:]], [[], *labels[1:]])
    assert fitted.classes_.dtype == np.unique(np.concatenate(labels)).dtype
    assert fitted.predict(X)[2].dtype == fitted.classes_.dtype


def test_steps_do_not_pool(data):
    with pytest.raises(ValueError, match="pooling: expected 'last' where y has something for each step"):
        tagger(pooling="max").fit(*data)


# -- scorers


def test_scorers_count_steps(data):
    X, y = data
    fitted = tagger(max_iter=5).fit(X, y)
    true, found = np.concatenate(y), np.concatenate(fitted.predict(X))
    proba = np.concatenate(fitted.predict_proba(X))
    assert frame_accuracy(fitted, X, y) == accuracy_score(true, found) == fitted.score(X, y)
    assert frame_macro_f1(fitted, X, y) == f1_score(true, found, average="macro")
    assert frame_neg_log_loss(fitted, X, y) == -log_loss(true, proba)
    assert 0 < frame_balanced_accuracy(fitted, X, y) <= 1
    full, lengths = padded(X, np.nan)
    labels, _ = padded(y, "none")
    for scorer in (frame_accuracy, frame_neg_log_loss):
        assert scorer(fitted, full, labels, lengths=lengths) == scorer(fitted, X, y)
        assert scorer(fitted, full, y, lengths=lengths) == scorer(fitted, X, y)
    weights = np.arange(40.0)
    expected = accuracy_score(true, found, sample_weight=np.repeat(weights, lengths))
    assert frame_accuracy(fitted, X, y, sample_weight=weights) == expected
    with pytest.raises(ValueError, match=r"y\[1\]: expected something for each of 4 steps"):
        frame_accuracy(fitted, X[:2], [y[0], y[0]])
    one = GRUClassifier(3, max_iter=1).fit(X, np.arange(40) % 2)
    with pytest.raises(ValueError, match=r"GRUClassifier.predict: expected something for each step, got shape \(40,\)"):
        frame_accuracy(one, X, y)


def test_scorers_of_numbers(data):
    X, _ = data
    y = [np.cumsum(x[:, 0]) for x in X]
    fitted = GRURegressor(5, max_iter=4, random_state=0).fit(X, y)
    assert frame_r2(fitted, X, y) == fitted.score(X, y)
    expected = -mean_squared_error(np.concatenate(y), np.concatenate(fitted.predict(X)))
    assert frame_neg_mean_squared_error(fitted, X, y) == expected
    assert frame_neg_mean_absolute_error(fitted, X, y) < 0


def test_scorers_in_searches(data):
    X, y = data
    pipeline = make_pipeline(SequenceScaler(), tagger())
    scoring = {"accuracy": frame_accuracy, "f1": make_frame_scorer(f1_score, average="macro")}
    grid = {"grutagger__hidden_size": [2, 5]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring=scoring, refit="f1", error_score="raise")
    search.fit(X, y)
    assert (search.cv_results_["mean_test_accuracy"] > 0).all() and 0 < search.best_score_ <= 1
    assert len(search.predict(X)) == 40
    assert cross_val_score(tagger(), X, y, cv=2, scoring=frame_neg_log_loss).shape == (2,)
    np.testing.assert_array_equal(
        cross_val_score(tagger(), X, y, cv=2), cross_val_score(tagger(), X, y, cv=2, scoring=frame_accuracy)
    )


def test_scorers_are_copied_and_printed():
    assert repr(make_frame_scorer(f1_score, average="macro")) == "make_frame_scorer(f1_score, average='macro')"
    assert repr(pickle.loads(pickle.dumps(frame_neg_log_loss))) == (
        "make_frame_scorer(log_loss, response_method='predict_proba', greater_is_better=False)"
    )
    with pytest.raises(TypeError, match="score_func: expected a function"):
        make_frame_scorer("f1")
    with pytest.raises(ValueError, match="response_method: expected one of"):
        make_frame_scorer(f1_score, response_method="decision_function")
