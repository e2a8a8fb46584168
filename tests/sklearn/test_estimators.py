"""What GRUClassifier and GRURegressor learn, and what they say when they cannot."""

import copy
import functools
import pickle
import warnings

import checks
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.metrics import r2_score

import cgru
from cgru import recomputing
from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor, GRUTagger

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**options):
    return GRUClassifier(**{"hidden_size": 6, "max_iter": 3, "learning_rate_init": 0.03, "random_state": 0} | options)


def regressor(**options):
    return GRURegressor(**{"hidden_size": 6, "max_iter": 3, "learning_rate_init": 0.03, "random_state": 0} | options)


@pytest.fixture
def data(rng):
    """Sequences whose first feature says their class, and texts."""
    y = np.arange(60) % 3
    X = [rng.standard_normal((4 + i % 5, 2)) + [[k, 0]] for i, k in enumerate(y)]
    return X, np.array(["low", "middle", "top"])[y]


@pytest.mark.parametrize("options", [
    {}, {"pooling": "mean"}, {"pooling": "max"}, {"pooling": "attention"}, {"bidirectional": True, "num_layers": 2},
    {"reset_after": True, "dropout": 0.1}, {"solver": "adamw", "alpha": 0.001}, {"solver": "rmsprop"}, {"alpha": 1e-4},
    {"solver": "sgd", "learning_rate_init": 0.1, "clipnorm": 1.0}, {"dtype": "float64"}, {"class_weight": "balanced"},
    {"learning_rate_init": cgru.schedules.CosineDecay(0.05, 150)}, {"early_stopping": True, "validation_fraction": 0.2},
], ids=str)  # fmt: skip
def test_every_setting_learns(data, options):
    X, y = data
    fitted = classifier(max_iter=40, **options).fit(X, y)
    assert fitted.score(X, y) > 0.75
    assert fitted.classes_.tolist() == ["low", "middle", "top"]
    proba = fitted.predict_proba(X)
    assert proba.shape == (60, 3) and proba.dtype == fitted.dtype
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[proba.argmax(axis=1)])


def test_what_is_built(data):
    X, y = data
    options = {"num_layers": 2, "bidirectional": True, "reset_after": True, "dropout": 0.25, "pooling": "attention"}
    model = classifier(alpha=0.02, dtype="float64", clipnorm=2.0, max_iter=1, **options).fit(X, y).model_
    gru, pool, dropout, dense = model.layers
    assert (gru.units, gru.num_layers, gru.bidirectional, gru.reset_after) == (6, 2, True, True)
    assert gru.layer_dropout == 0.25
    assert gru.kernel_regularizer.l2 == dense.kernel_regularizer.l2 == 0.01 and gru.dtype == np.float64
    assert isinstance(pool, cgru.AttentionPooling) and dropout.rate == 0.25
    assert (dense.units, dense.activation) == (3, "softmax") and model.optimizer.global_clipnorm == 2


def test_early_stopping(data):
    X, y = data
    options = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 4, "max_iter": 100}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = classifier(**options).fit(X, y)
    assert not caught
    scores = fitted.validation_scores_
    assert len(scores) == len(fitted.loss_curve_) == fitted.n_iter_ == fitted.best_iter_ + 4 < 100
    assert fitted.loss_ == fitted.loss_curve_[-1]
    assert scores[fitted.best_iter_ - 1] == max(scores)
    short = classifier(**options | {"max_iter": fitted.best_iter_}).fit(X, y)  # the weights are those of the best epoch
    np.testing.assert_array_equal(fitted.predict_proba(X), short.predict_proba(X))


def test_what_is_held_back_is_stratified(data, rng):
    """A class of four of a hundred, by a quarter, validates once: its score says so."""
    X = [rng.standard_normal((5, 2)) for _ in range(100)]
    y = np.r_[np.zeros(96), np.ones(4)]
    fitted = classifier(early_stopping=True, validation_fraction=0.25, max_iter=2).fit(X, y)
    assert fitted.validation_scores_ == [0.96, 0.96]
    with pytest.raises(ValueError, match=r"early_stopping, validation_fraction=0.01: .*test_size = 1 should be"):
        classifier(early_stopping=True, validation_fraction=0.01).fit(X, y)


def test_convergence(data):
    X, y = data
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached and the optimization") as caught:
        fitted = classifier(max_iter=2).fit(X, y)
    assert caught[0].filename == __file__
    assert (fitted.n_iter_, fitted.validation_scores_) == (2, None)
    fitted = classifier(max_iter=500, tol=0.05, n_iter_no_change=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.fit(X, y)
        classifier().partial_fit(X, y, classes=np.unique(y))
    curve = fitted.loss_curve_
    assert fitted.best_iter_ == fitted.n_iter_ - 3 and min(curve[-3:]) > curve[fitted.best_iter_ - 1] - 0.05


def test_class_weight(data):
    """As scikit-learn has it: by label, and "balanced" counts."""
    X, y = data
    keep = np.r_[np.flatnonzero(y == "top")[:4], np.flatnonzero(y != "top")]
    X, y = [X[i] for i in keep], y[keep]
    balanced = {c: len(y) / (3 * (y == c).sum()) for c in np.unique(y)}
    first = classifier(class_weight="balanced").fit(X, y).predict_proba(X)
    np.testing.assert_allclose(first, classifier(class_weight=balanced).fit(X, y).predict_proba(X), rtol=1e-5)
    weights = [balanced[label] for label in y]
    np.testing.assert_allclose(first, classifier().fit(X, y, sample_weight=weights).predict_proba(X), rtol=1e-4)
    plain = classifier(max_iter=10).fit(X, y).predict_proba(X)[:, 2].mean()
    assert classifier(max_iter=10, class_weight={"top": 30}).fit(X, y).predict_proba(X)[:, 2].mean() > 2 * plain
    with pytest.raises(ValueError, match=r"class_weight: expected classes of y, \['low', .*'top'\], got \['best'\]"):
        classifier(class_weight={"best": 2}).fit(X, y)
    more = classifier(class_weight=balanced | {"of another fold": 2}).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(first, more, rtol=1e-5)
    for wrong in (-1, np.nan, "heavy"):
        with pytest.raises((ValueError, TypeError), match=r"class_weight\['top'\]: expected a"):
            classifier(class_weight={"top": wrong}).fit(X, y)
    with pytest.raises((ValueError, TypeError), match="class_weight"):
        classifier(class_weight="equal").fit(X, y)


def test_sample_weight(data):
    X, y = data
    weights = np.where(y == "top", 0.0, 1.0)
    fitted = classifier(max_iter=20).fit(X, y, sample_weight=weights)
    assert not (fitted.predict(X) == "top").any() and fitted.score(X, y, sample_weight=weights) > 0.8
    for wrong in (weights[:, None], [np.ones(len(x)) for x in X]):
        with pytest.raises(ValueError, match=r"sample_weight: expected shape \(60,\), a weight for each sequence, got"):
            classifier().fit(X, y, sample_weight=wrong)
    for wrong in (-weights, weights[:5], weights * np.nan, np.zeros(60), "text"):
        with pytest.raises((ValueError, TypeError), match="sample_weight"):
            classifier().fit(X, y, sample_weight=wrong)


def test_forms_of_sample_weight_are_those_of_sequences(data):
    """With sequences held back, too: neither an index nor the form moves them."""
    X, y = data
    weights = np.linspace(0.1, 3, 60)
    options = {"early_stopping": True, "validation_fraction": 0.25}
    expected = classifier(**options).fit(X, y, sample_weight=weights).loss_curve_
    for given in (pd.Series(weights, index=np.arange(60)[::-1]), weights.tolist(), tuple(weights)):
        assert classifier(**options).fit(X, y, sample_weight=given).loss_curve_ == expected
    for wrong in (weights[:5], 2.0, "text"):
        with pytest.raises((ValueError, TypeError), match=r"sample_weight: expected shape \(60,\), a weight for each"):
            classifier(**options).fit(X, y, sample_weight=wrong)


def test_what_weighs_nothing_is_not_held_back(data):
    """Labels of weight 0 say nothing, and may be of a class that has no other."""
    X, y = data
    weights = np.where(np.arange(60) < 30, 1.0, 0.0)
    options = {"early_stopping": True, "validation_fraction": 0.4, "max_iter": 10}
    first, second = (
        classifier(**options).fit(X, [*y[:30], *others], sample_weight=weights)
        for others in (["odd", *["low"] * 29], [*["top"] * 29, "odd"])
    )
    assert first.validation_scores_ == second.validation_scores_ and first.loss_curve_ == second.loss_curve_
    assert len(set(first.validation_scores_)) > 1


def test_partial_fit(data):
    """Epoch by epoch it is what fit does; classes that come later are known from the first call on."""
    X, y = data
    whole = classifier(max_iter=3).fit(X, y)
    steps = classifier()
    for _ in range(3):
        steps.partial_fit(X, y, classes=["top", "low", "middle"])
    np.testing.assert_array_equal(steps.predict_proba(X), whole.predict_proba(X))
    assert steps.loss_curve_ == whole.loss_curve_ and steps.n_iter_ == 3
    part = classifier().partial_fit(X[:1], y[:1], classes=np.unique(y)).partial_fit(X[1:5], y[1:5])
    assert part.predict_proba(X).shape == (60, 3)
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        classifier().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"classes: expected those of the first call, \['low', 'middle', 'top'\]"):
        part.partial_fit(X, y, classes=["low", "top"])
    for wrong in ("low", [["low", "top"]], [0.5, 1, 2], [0, 1, np.nan], np.array(["low", 1], object)):
        with pytest.raises((ValueError, TypeError), match=r"classes|Unknown label type"):
            classifier().partial_fit(X, y, classes=wrong)
    with pytest.raises(ValueError, match=r"y: expected labels of .*\['low', .*'top'\], got \['new'\] as well"):
        part.partial_fit(X[:1], ["new"])
    weighted = classifier(class_weight={"low": 1, "middle": 2, "top": 3})
    assert weighted.partial_fit(X[:1], y[:1], classes=np.unique(y)).partial_fit(X[1:3], y[1:3]).n_iter_ == 2
    with pytest.raises(ValueError, match="class_weight: expected a dict beside partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))
    with pytest.raises(ValueError, match="early_stopping: expected False beside partial_fit"):
        classifier(early_stopping=True).partial_fit(X, y, classes=np.unique(y))
    with pytest.raises(ValueError, match="X has 3 features, but GRUClassifier is expecting 2 features"):
        part.partial_fit([np.ones((4, 3))], ["low"])


def test_warm_start(data):
    X, y = data
    fitted = classifier(warm_start=True).fit(X, y)
    first = copy.deepcopy(fitted)
    fitted.fit(X, y)
    assert fitted.n_iter_ == 6 and fitted.loss_curve_[:3] == first.loss_curve_ and fitted.model_ is not first.model_
    assert fitted.loss_curve_[3] < fitted.loss_curve_[0]
    assert classifier().fit(X, y).fit(X, y).loss_curve_ == first.loss_curve_  # without it, all anew
    with pytest.raises(ValueError, match=r"y: expected labels of those of the call of fit before.*got \['new'\]"):
        fitted.fit(X, ["new", *y[1:]])
    with pytest.raises(ValueError, match="GRUClassifier: expected the settings of the model that is trained on"):
        fitted.set_params(hidden_size=7).fit(X, y)


def test_one_class_and_two(rng):
    X = list(rng.standard_normal((6, 4, 1)))
    assert classifier().fit(X, ["a"] * 6).predict(X).tolist() == ["a"] * 6
    assert classifier().fit(X, [True, False] * 3).predict_proba(X).shape == (6, 2)
    assert classifier().fit(X, [True, False] * 3).predict(X).dtype == bool


@pytest.mark.parametrize("y, message", [
    (None, "requires y to be passed, but the target y is None"),
    (np.linspace(0, 1, 60), "Unknown label type"),
    (["a", "b"], r"Found input variables with inconsistent numbers of samples: \[60, 2\]"),
    (np.zeros((60, 2)), "y should be a 1d array"),
    ([[0, 1], [1]], "^y: expected an array, got nested lists of unequal lengths"),
    ([np.zeros(4), np.zeros(5)] * 30, "y: expected a label for each sequence, got arrays; .*: GRUTagger"),
    (np.ma.masked_less(np.arange(60) % 3, 1), "y: expected no masked values"),
    (np.array(["a", 1] * 30, object), "y: expected labels of one type"),
    (np.array(["a", None] * 30, object), "y: expected labels of one type"),
])  # fmt: skip
def test_labels_that_are_refused(data, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        classifier().fit(data[0], y)


@pytest.mark.parametrize("options, message", [
    ({"hidden_size": 0}, "hidden_size: expected at least 1"), ({"num_layers": 1.5}, "num_layers: expected an integer"),
    ({"bidirectional": 1}, "bidirectional: expected True or False"), ({"dropout": 1.0}, "dropout: expected a number"),
    ({"pooling": "sum"}, "pooling: expected one of"), ({"batch_size": "auto"}, "batch_size: expected an integer"),
    ({"max_iter": 0}, "max_iter: expected at least 1"), ({"learning_rate_init": -1}, "learning_rate_init: expected"),
    ({"solver": "lbfgs"}, "solver: expected one of"), ({"alpha": -1}, "alpha: expected"),
    ({"tol": -1}, "tol: expected"),
    ({"clipnorm": 0}, "^clipnorm: expected"), ({"early_stopping": "yes"}, "early_stopping: expected True"),
    ({"validation_fraction": 1}, "validation_fraction: expected"), ({"n_iter_no_change": 0}, "n_iter_no_change"),
    ({"dtype": "float16"}, "dtype: expected"), ({"random_state": "x"}, "cannot be used to seed"),
    ({"warm_start": None}, "warm_start"), ({"channels_first": 2}, "channels_first"),
    ({"reset_after": "no"}, "reset_after"), ({"recompute": 0}, "recompute: expected a number"),
    ({"verbose": "no"}, "verbose: expected an integer"),
])  # fmt: skip
@pytest.mark.parametrize("make", [classifier, regressor])
def test_settings_that_are_refused(data, make, options, message):
    estimator = make(**options)  # which only stores them
    with pytest.raises((ValueError, TypeError), match=message):
        estimator.fit(data[0], np.arange(60) % 3)


@pytest.mark.parametrize("lengths", [None, [5, 5, 5], [5, 2, 0]])
def test_sequences_without_features(lengths):
    with pytest.raises(ValueError, match="Found array with 0 feature"):
        classifier().fit(np.zeros((3, 5, 0)), [0, 1, 0], lengths=lengths)


def test_a_class_of_numbers_is_no_lengths():
    with pytest.raises((TypeError, ValueError), match=r"^lengths: expected"):
        classifier().fit(np.zeros((3, 5, 1)), [0, 1, 0], lengths=np.float32)


@pytest.mark.parametrize(("make", "labels"), [
    (classifier, [[0, 1], [1], [0]]), (classifier, [[[0]], [1], [0]]), (regressor, [[[0.0]], [1.0], [0.5]])
])  # fmt: skip
def test_lists_of_unequal_lengths_are_no_labels(rng, make, labels):
    with pytest.raises(ValueError, match=r"^y: expected an array, got nested lists of unequal lengths"):
        make().fit(rng.standard_normal((3, 5, 2)), labels)


@pytest.mark.parametrize("kind", [
    GRUClassifier, GRURegressor, GRUTagger, functools.partial(GRUForecaster, window=9, horizon=4)
])  # fmt: skip
def test_recompute_changes_no_bit(rng, native, limits, outlines, monkeypatch, kind):
    limits(large_rows=4)
    monkeypatch.setattr(recomputing, "LEAST_TAPE", 0)
    X, found = rng.standard_normal((12, 17, 3)), []
    y = (X.sum(axis=2) > 0 if kind is GRUTagger else X.sum(axis=(1, 2)) > 0).astype(int)
    for recompute in (None, 5, "auto"):
        outlines.clear()
        made = kind(4, max_iter=2, random_state=0, recompute=recompute)
        found.append((made.fit(X) if isinstance(made, GRUForecaster) else made.fit(X, y)).model_.get_weights())
        assert bool(outlines) == (recompute is not None)
    checks.assert_same_arrays(found[1:], [found[0]] * 2)


def test_copies(data):
    X, y = data
    fitted = classifier(class_weight={"top": 2.0}).fit(X, y)
    expected = fitted.predict_proba(X)
    for made in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), clone(fitted).fit(X, y)):
        assert made.get_params() == fitted.get_params()
        np.testing.assert_array_equal(made.predict_proba(X), expected)
    assert not hasattr(clone(fitted), "model_")


class Interrupt(cgru.callbacks.Callback):
    """Ctrl-C behind an update."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch == self.epoch

    def on_batch_end(self, batch, logs=None):
        if self.now:
            raise KeyboardInterrupt


@pytest.fixture
def interrupt(monkeypatch):
    """Interrupt training in its epoch of this number."""
    plain = cgru.Sequential.fit

    def begin(epoch):
        def fit(model, *given, callbacks=(), **options):
            return plain(model, *given, callbacks=[*callbacks, Interrupt(epoch)], **options)

        monkeypatch.setattr(cgru.Sequential, "fit", fit)

    return begin


@pytest.mark.parametrize("warm_start", [False, True])
def test_fit_is_all_or_nothing(data, interrupt, warm_start):
    """What fails, or is interrupted, leaves the estimator as it was, and a new one unfitted."""
    X, y = data
    fitted = classifier(warm_start=warm_start).fit(X, y)
    known, before = fitted.predict_proba(X), dict(vars(fitted))

    def same():
        assert vars(fitted) == before
        np.testing.assert_array_equal(fitted.predict_proba(X), known)

    other = list(y) if warm_start else [f"other {label}" for label in y]
    for given in ((X, other, -np.ones(60)), ([x[:, :1] for x in X], y[:-1]), ([x * 2e38 for x in X], y)):
        with pytest.raises((ValueError, FloatingPointError)):
            fitted.fit(*given)
        same()
    interrupt(3 if warm_start else 0)
    new = classifier()
    for estimator in (fitted, new):
        with pytest.raises(KeyboardInterrupt):
            estimator.set_params(max_iter=5).fit(X, other)
    fitted.set_params(max_iter=3)
    same()
    assert vars(new) == classifier(max_iter=5).get_params()


def test_partial_fit_keeps_updates_that_were_made(data, interrupt):
    X, y = data
    fitted = classifier().fit(X, y)
    known, before = fitted.predict_proba(X), dict(vars(fitted))
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        fitted.partial_fit(X, y)
    assert vars(fitted) == before and (fitted.predict_proba(X) != known).any()


def test_the_model_is_one_of_the_library(data, tmp_path):
    X, y = data
    fitted = classifier().fit(X, y)
    cgru.save(fitted.model_, tmp_path / "model.safetensors")
    model = cgru.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model.predict(X), fitted.predict_proba(X))
    state = None
    for x_t in X[3].astype("float32"):
        y_t, state = model.step(x_t[None], state)
    np.testing.assert_array_equal(y_t[0], fitted.predict_proba(X)[3])


def test_verbose(data, capsys):
    X, y = data
    classifier(max_iter=2).fit(X, y)
    assert not capsys.readouterr().out
    classifier(max_iter=2, verbose=True).fit(X, y)
    assert "loss" in "".join(capsys.readouterr())


# -- numbers


def test_one_number_and_several(rng):
    X = [rng.standard_normal((3 + i % 4, 2)) for i in range(80)]
    sums = np.array([x.sum(axis=0) for x in X])
    one = regressor(max_iter=60, pooling="mean").fit(X, sums[:, 0])
    assert one.predict(X).shape == (80,) and one.predict(X).dtype == np.float64 and one.score(X, sums[:, 0]) > 0.7
    several = regressor(max_iter=60, hidden_size=12).fit(X, sums)
    assert several.predict(X).shape == (80, 2) and several.score(X, sums) > 0.7
    assert several.score(X, sums) == r2_score(sums, several.predict(X))
    with pytest.warns(DataConversionWarning, match="column-vector"):
        column = regressor().fit(X, sums[:, :1])
    np.testing.assert_array_equal(column.predict(X), regressor().fit(X, sums[:, 0]).predict(X))
    assert regressor().fit(X, sums.tolist()).predict(X).shape == (80, 2)


@pytest.fixture
def steps(rng):
    X = [rng.standard_normal((3 + i % 4, 1)) for i in range(60)]
    return X, [np.cumsum(x[:, 0]) for x in X]


def test_a_number_a_step(steps):
    X, y = steps
    fitted = regressor(max_iter=60, hidden_size=12).fit(X, y)
    found = fitted.predict(X)
    assert [p.shape for p in found] == [t.shape for t in y]
    assert fitted.score(X, y) == r2_score(np.concatenate(y), np.concatenate(found)) > 0.8
    weights = np.arange(60.0)
    expected = r2_score(
        np.concatenate(y), np.concatenate(found), sample_weight=np.repeat(weights, [len(t) for t in y])
    )
    assert fitted.score(X, y, sample_weight=weights) == expected


def test_forms_of_a_number_a_step_give_the_same_bits(steps):
    X, y = steps
    lengths = np.array([len(x) for x in X])
    full, target = np.full((60, 6, 1), np.nan), np.full((60, 6, 1), np.nan)
    for i, n in enumerate(lengths):
        full[i, :n], target[i, :n, 0] = X[i], y[i]
    expected = regressor().fit(X, y).predict(X)
    padded = regressor().fit(full, target, lengths=lengths)
    found = padded.predict(full, lengths=lengths)
    assert found.shape == (60, 6, 1)
    two = regressor().fit(X, [t[:, None] for t in y]).predict(X)
    mixed = regressor().fit(full, y, lengths=lengths).predict(full, lengths=lengths)
    assert mixed.shape == (60, 6)
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(found[i, :n, 0], expected[i])
        np.testing.assert_array_equal(two[i][:, 0], expected[i])
        np.testing.assert_array_equal(mixed[i, :n], expected[i])
        assert not found[i, n:].any()
    assert padded.score(full, target, lengths=lengths) == regressor().fit(X, y).score(X, y)


def test_early_stopping_of_numbers(steps):
    X, y = steps
    fitted = regressor(early_stopping=True, validation_fraction=0.2, max_iter=30).fit(X, y)
    assert len(fitted.validation_scores_) == fitted.n_iter_
    assert fitted.validation_scores_[fitted.best_iter_ - 1] == max(fitted.validation_scores_)
    sums = np.array([t[-1] for t in y])
    again = regressor(early_stopping=True, validation_fraction=0.2, max_iter=30).fit(X, sums)
    assert max(again.validation_scores_) <= 1 and again.validation_scores_[0] != again.validation_scores_[-1]


@pytest.mark.parametrize("change, message", [
    (lambda y: y[:-1], r"inconsistent numbers of samples: \[60, 59\]"),
    (lambda y: [t[:-1] for t in y], r"y\[0\]: expected something for each of 3 steps, got shape \(2,\)"),
    (lambda y: [*y[:-1], np.full(6, np.nan)], r"y(\[59\])?: expected .*finite|Input y\[59\] contains NaN"),
    (lambda y: [*y[:-1], y[-1].astype(str)], "y"),
    (lambda y: np.ma.masked_less(np.arange(60.0), 3), "y: expected no masked values"),
    (lambda y: [*y[:-1], np.ma.masked_less(y[-1], 9)], r"y\[59\]: expected no masked values"),
    (lambda y: [1.0, *(t.tolist() for t in y[1:])], r"y\[0\]: expected something for each of 3 steps, got shape \(\)"),
    (lambda y: np.zeros((60, 3, 1)), r"y: expected a list of arrays \(T_i,\) or shape \(60, 6\), got \(60, 3, 1\)"),
])  # fmt: skip
def test_numbers_that_are_refused(steps, change, message):
    X, y = steps
    with pytest.raises((ValueError, TypeError), match=message):
        regressor().fit(X, change(y))


def test_a_sequence_without_steps_has_nothing_for_a_step(steps):
    X, y = steps
    for own in (y, [t[:, None] for t in y]):
        fitted = regressor().fit([np.zeros((0, 1)), *X[1:]], [[], *own[1:]])
        assert fitted.predict(X)[1].shape == own[1].shape


def test_two_numbers_have_to_be_held_back(steps):
    X, y = steps
    with pytest.raises(ValueError, match=r"validation_fraction=0.1: expected at least 2 numbers .* R\^2, got 1"):
        regressor(early_stopping=True).fit(X[:8], np.arange(8))
    assert len(regressor(early_stopping=True).fit(X[:8], y[:8]).validation_scores_) == 3  # of steps, there are more


def test_steps_do_not_pool(steps):
    with pytest.raises(ValueError, match="pooling: expected 'last' where y has something for each step, got 'mean'"):
        regressor(pooling="mean").fit(*steps)
    fitted = regressor().fit(*steps)
    with pytest.raises(ValueError, match=r"y: expected a list of arrays \(T_i,\), as in the call of fit before"):
        fitted.partial_fit(steps[0], np.zeros(60))


def test_regressor_goes_on(steps):
    X, y = steps
    whole, part = regressor(max_iter=2).fit(X, y), regressor().partial_fit(X, y).partial_fit(X, y)
    for a, b in zip(whole.predict(X), part.predict(X), strict=True):
        np.testing.assert_array_equal(a, b)
    assert regressor(warm_start=True).fit(X, y).fit(X, y).n_iter_ == 6
