"""The forms of X, and what is said where X is none of them."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

import cgru
from cgru.sklearn import GRUClassifier, GRURegressor, GRUTagger, SequenceScaler, sequences

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**options):
    return GRUClassifier(4, **{"max_iter": 2, "random_state": 0} | options)


@pytest.fixture
def X(rng):
    return [rng.standard_normal((length, 3)) for length in (5, 9, 2, 7, 7, 3, 8, 4)]


Y = ["a", "b", "b", "a", "c", "c", "a", "b"]


def padded(X, value=0.0):
    lengths = np.array([len(x) for x in X])
    out = np.full((len(X), lengths.max(), X[0].shape[1]), value)
    for row, x in zip(out, X, strict=True):
        row[: len(x)] = x
    return out, lengths


FORMS = ["tuple", "objects", "frames", "nested", "padded", "channels", "padded channels", "series"]


@pytest.mark.parametrize("form", FORMS)
def test_forms_give_the_same_bits(X, form):
    given, options, lengths = X, {}, None
    if form == "tuple":
        given = tuple(X)
    elif form == "objects":
        given = np.empty(len(X), object)
        given[:] = X
    elif form == "series":
        given = pd.Series(list(X), index=list("hgfedcba"), dtype=object)
    elif form == "frames":
        given = [pd.DataFrame(x, columns=["u", "v", "w"]) for x in X]
    elif form == "nested":
        given = [x.tolist() for x in X]
    elif form == "channels":
        given, options = [x.T for x in X], {"channels_first": True}
    elif form == "padded":
        given, lengths = padded(X, np.nan)
    else:
        given, lengths = padded(X, np.inf)
        given, options = given.swapaxes(1, 2), {"channels_first": True}
    expected = classifier().fit(X, Y)
    found = classifier(**options).fit(given, Y, lengths=lengths)
    assert found.n_features_in_ == 3
    np.testing.assert_array_equal(found.predict_proba(given, lengths), expected.predict_proba(X))
    assert found.score(given, Y, lengths=lengths) == expected.score(X, Y)


def test_channels_first_frames_name_no_features(X):
    """Their columns are steps, of which each has another number."""
    fitted = classifier(channels_first=True).fit([pd.DataFrame(x.T).rename(columns=str) for x in X], Y)
    assert fitted.n_features_in_ == 3 and not hasattr(fitted, "feature_names_in_")
    np.testing.assert_array_equal(fitted.predict_proba([x.T for x in X]), classifier().fit(X, Y).predict_proba(X))
    turned = SequenceScaler(channels_first=True).fit([pd.DataFrame(x.T) for x in X])
    np.testing.assert_array_equal(turned.mean_, SequenceScaler().fit(X).mean_)


def test_2d_is_series_of_one_feature(rng):
    x = rng.standard_normal((10, 6))
    y = np.arange(10) % 2
    flat, deep = classifier().fit(x, y), classifier().fit(x[..., None], y)
    assert (flat.n_features_in_, deep.n_features_in_) == (6, 1)
    np.testing.assert_array_equal(flat.predict_proba(x), deep.predict_proba(x[..., None]))
    np.testing.assert_array_equal(flat.predict_proba([row[:, None] for row in x]), flat.predict_proba(x))
    np.testing.assert_array_equal(flat.predict_proba(x[:, :4, None]), deep.predict_proba(x[:, :4, None]))
    wrong = (
        "X has 5 features, but GRUClassifier is expecting 6 features as input; .*"
        r"pass x\[\.\.\., None\] or a list for variable length"
    )
    with pytest.raises(ValueError, match=wrong):
        flat.predict(x[:, :5])
    with pytest.raises(ValueError, match="X has 2 features a step, but GRUClassifier is expecting 1 feature"):
        flat.predict(np.ones((3, 6, 2)))
    lengths = np.arange(10) % 6 + 1
    x[np.arange(6) >= lengths[:, None]] = np.nan
    assert flat.fit(x, y, lengths=lengths).predict(x, lengths=lengths).shape == (10,)


def test_2d_after_sequences_is_refused(X):
    fitted = classifier().fit(X, Y)
    with pytest.raises(ValueError, match=r"X: expected sequences of 3 features.*one recording \(T, F\): give \[X\]"):
        fitted.predict(X[0])
    assert fitted.predict([X[0]]).shape == (1,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(X, bad):
    """In scikit-learn's words, naming the sequence; behind `lengths` it is not read."""
    fitted = classifier().fit(X, Y)
    X[3][1, 2] = bad
    full, lengths = padded(X)
    word = "NaN" if np.isnan(bad) else "infinity"
    for call in (fitted.predict, fitted.predict_proba, lambda X, **k: classifier().fit(X, Y, **k)):
        with pytest.raises(ValueError, match=rf"Input X\[3\] contains {word}"):
            call(X)
        with pytest.raises(ValueError, match=f"Input X contains {word}"):
            call(full)
        with pytest.raises(ValueError, match=f"Input X contains {word}"):
            call(full, lengths=lengths)
    with pytest.raises(ValueError, match=rf"Input X\[3\] contains {word}"):
        SequenceScaler().fit(X)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        classifier().fit(X[:3], [0.0, np.nan, 1.0])


WRONG_ORDER = [
    (lambda x: x.swapaxes(1, 2), "X has 9 features, but GRUClassifier is expecting 3 features as input; X has 3 steps: "
     "features before time? give X.swapaxes(1, 2); channels_first=True is for (N, F, T)"),
    (lambda x: [row.T for row in x], "X has 9 features, but GRUClassifier is expecting 3 features as input; X has 3 "
     "steps: features before time? give [x.T for x in X]; channels_first=True is for lists of (F, T_i)"),
    (lambda x: x[..., :2], "X has 2 features, but GRUClassifier is expecting 3 features as input"),
]  # fmt: skip


@pytest.mark.parametrize("change, message", WRONG_ORDER)
def test_wrong_order_of_axes(rng, change, message):
    x = rng.standard_normal((8, 9, 3))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        classifier().fit(x, Y).predict(change(x))


def test_wrong_order_of_axes_in_fit(X, rng):
    with pytest.raises(ValueError, match=r"X\[1\]: expected 5 features .* got 9; .* is 3 in all .*channels_first=True"):
        classifier().fit([x.T for x in X], Y)
    with pytest.raises(ValueError, match=r"X has 11 sequences, y 8; X has as many steps: .*X.swapaxes\(0, 1\)"):
        classifier().fit(rng.standard_normal((11, 8, 3)), Y)
    with pytest.raises(ValueError, match=r"lengths: expected shape \(11,\).*time before sequences\?"):
        classifier().fit(rng.standard_normal((11, 8, 3)), Y, lengths=[2] * 8)
    turned, tags = rng.standard_normal((8, 3, 9)), np.zeros((8, 9), int)
    for given, labels in ((turned, tags), (turned, list(tags)), (list(turned), list(tags))):
        with pytest.raises(ValueError, match=r"y.*; X has 9 features: features before time\?"):
            GRUTagger(max_iter=1).fit(given, labels)
        with pytest.raises(ValueError, match=r"y.*; X has 9 features: features before time\?"):
            GRURegressor(max_iter=1).fit(given, labels[..., None] if labels is tags else labels)
    with pytest.raises(ValueError, match="channels_first=True is for lists"):
        classifier(channels_first=True).fit([np.ones((3, 4))] * 8, Y).predict([np.ones((4, 3))])


@pytest.mark.parametrize("given, message", [
    ([np.ones(4), np.ones(5)], r"arrays \(T_i,\) of unequal lengths: one feature is array\[:, None\]"),
    ([[1, 2], [3]], r"arrays \(T_i,\) of unequal lengths"),
    ([np.ones((4, 3)), np.ones(4)], r"X\[1\]: expected an array \(T_i, F\), got shape \(4,\)"),
    ([np.ones((4, 3)), np.ones((4, 2))], r"X\[1\]: expected 3 features a step, as X\[0\] has, got 2"),
    ([np.ones((4, 3)), np.array([["x"] * 3])], r"X\[1\]: expected real numbers"),
    ([np.ones((0, 3)), np.ones((0, 3))], r"0 step\(s\)"),
    (np.ones((2, 3, 4, 5)), "dim"),
    (np.ones(2), "Expected 2D array, got 1D array"),
    ([], "Expected 2D array|0 sample"),
    (np.ones((0, 4, 3)), r"0 sample\(s\)"),
    (np.ones((2, 4, 0)), r"0 feature\(s\)"),
    ("text", "Expected 2D array|could not convert"),
    (np.ones((2, 4), "M8[s]"), "X: expected real numbers, got dtype datetime64"),
    (pd.DataFrame({"day": pd.date_range("2020-01-01", periods=2), "v": [1.0, 2]}), "X: expected real .* column 'day'"),
    (np.ones((2, 4, 3), "m8[s]"), "X: expected real numbers, got dtype timedelta64"),
])  # fmt: skip
def test_other_forms_are_refused(given, message):
    for fit in (lambda: classifier().fit(given, [0, 1]), lambda: SequenceScaler().fit(given)):
        with pytest.raises((ValueError, TypeError), match=message):
            fit()


def test_numbers_that_the_model_cannot_hold(X):
    fitted = classifier().fit(X, Y)
    X[2][0, 1] = 1e300
    full, _ = padded(X)
    for given, name in ((X, r"X\[2\]"), (full, "X")):
        with pytest.raises(ValueError, match=rf"Input {name} contains infinity or a value too large for dtype\('f"):
            fitted.predict(given)
    assert classifier(dtype="float64").fit(X, Y).predict(X).shape == (8,)


def test_masked_arrays_are_refused():
    x = np.ma.masked_array(np.ones((8, 4, 3)), mask=np.zeros((8, 4, 3), bool))
    assert classifier().fit(x, Y).predict(x[..., :]).shape == (8,)
    x[1, 2] = np.ma.masked
    for given in (x, x[..., 0], list(x)):
        with pytest.raises(ValueError, match="expected no masked values"):
            classifier().fit(given, Y)


def test_sequences_without_steps(X):
    for empty in (np.zeros((0, 3)), []):
        fitted = classifier().fit([empty, *X[1:]], Y)
        np.testing.assert_array_equal(fitted.predict_proba([empty, X[1]])[1:], fitted.predict_proba([X[1]]))
    alone = fitted.predict_proba([np.zeros((0, 3))])
    turned = classifier(channels_first=True).fit([[], *(x.T for x in X[1:])], Y)
    np.testing.assert_array_equal(turned.predict_proba([np.zeros((3, 0))]), alone)


def test_lengths_are_checked(X):
    full, lengths = padded(X)
    with pytest.raises(ValueError, match="lengths: a list X brings its own"):
        classifier().fit(X, Y, lengths=lengths)
    with pytest.raises(ValueError, match=r"lengths: expected values from 0 to T = 9, got 10 in row 0"):
        classifier().fit(full, Y, lengths=[10, *lengths[1:]])
    with pytest.raises(ValueError, match=r"lengths: expected shape \(8,\)"):
        classifier().fit(full, Y, lengths=lengths[:3])


def test_names_of_features(X):
    frames = [pd.DataFrame(x, columns=["u", "v", "w"]) for x in X]
    fitted = classifier().fit(frames, Y)
    assert fitted.feature_names_in_.tolist() == ["u", "v", "w"]
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict([frame.rename(columns={"u": "other"}) for frame in frames])
    with pytest.raises(ValueError, match=re.escape("X[1]: expected the columns ['u', 'v', 'w']")):
        classifier().fit([frames[0], frames[1][["v", "u", "w"]]], Y[:2])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(X)


@pytest.mark.parametrize("estimator", [GRUClassifier(), GRURegressor(), GRUTagger()], ids=lambda e: type(e).__name__)
def test_not_fitted(estimator, X):
    with pytest.raises(NotFittedError, match=f"This {type(estimator).__name__} instance is not fitted yet"):
        estimator.predict(X)
    with pytest.raises(NotFittedError):
        SequenceScaler().transform(X)


def test_inputs_are_left_alone(X):
    before = [x.copy() for x in X]
    for x in X:
        x.flags.writeable = False
    fitted = classifier().fit(X, Y)
    fitted.predict(X)
    SequenceScaler().fit_transform(X)
    for x, old in zip(X, before, strict=True):
        np.testing.assert_array_equal(x, old)


# -- data frames in long form


@pytest.fixture
def frame():
    return pd.DataFrame({
        "t": [3, 1, 2, 1, 2], "id": ["b", "b", "a", "a", "b"], "u": [1.0, 2.0, 3.0, 4.0, 5.0], "v": [6, 7, 8, 9, 10],
    })  # fmt: skip


def test_sequences_of_a_long_frame(frame):
    b, a = sequences(frame, by="id", time="t")
    np.testing.assert_array_equal(b, [[2, 7], [5, 10], [1, 6]])
    np.testing.assert_array_equal(a, [[4, 9], [3, 8]])
    [b, a] = sequences(frame, by="id", columns=["v", "t"])
    np.testing.assert_array_equal(b, [[6, 3], [7, 1], [10, 2]])
    frame["other"] = ["x", "x", "x", "y", "x"]
    assert [len(s) for s in sequences(frame, by=["id", "other"], time="t", columns=["u"])] == [3, 1, 1]
    frame["t"] = pd.to_datetime(frame["t"], unit="D")
    np.testing.assert_array_equal(sequences(frame, "id", "t", ["u"])[0], [[2], [5], [1]])
    assert sequences(frame[:0], "id", "t", ["u"]) == []


def test_columns_of_several_types(frame):
    frame["b"], frame["i"] = frame["u"] > 2, pd.array([1, 2, 3, 4, None], dtype="Int64")
    first, _ = sequences(frame, by="id", time="t")
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, [[2, 7, 0, 2], [5, 10, 1, np.nan], [1, 6, 0, 1]])
    np.testing.assert_array_equal(sequences(frame, "id", "t", "u")[1], [[4], [3]])


def test_times_of_a_category_have_its_order(frame):
    frame["day"] = pd.Categorical(["Wed", "Mon", "Tue", "Mon", "Tue"], ["Mon", "Tue", "Wed"], ordered=True)
    frame["phase"] = frame["day"].cat.rename_categories({"Mon": "warm", "Tue": "hot", "Wed": "cold"})
    for time in ("day", "phase"):
        np.testing.assert_array_equal(sequences(frame.set_index("u"), "id", time, ["v"])[0], [[7], [10], [6]])


@pytest.mark.parametrize("change, options, message", [
    (lambda f: f, {"by": "name"}, r"by: expected a column of the frame, \['t', 'id', 'u', 'v'\], got 'name'"),
    (lambda f: f, {"time": "when"}, "time: expected a column"),
    (lambda f: f, {"columns": ["w"]}, "columns: expected a column"),
    (lambda f: f.assign(u="x"), {}, "columns: expected numbers, got dtype .* in 'u'"),
    (lambda f: f.assign(t=1), {}, r"time: expected each time once in a sequence, got 1 again in \['b'\]"),
    (lambda f: f.assign(t=[1, 2, None, 4, 5]), {}, "by, time: expected a value in every row, got none in row 2"),
    (lambda f: f[["id", "t"]], {}, "columns: expected at least one feature"),
    (lambda f: f.to_numpy(), {}, "frame: expected a DataFrame of pandas, got ndarray"),
    (lambda f: f, {"by": []}, "by: expected at least one column"),
    (lambda f: f, {"time": ["t"]}, "time: expected a column of the frame"),
    (lambda f: f.set_axis(["t", "id", "u", "u"], axis=1), {}, "frame: expected names of columns that are unique"),
])  # fmt: skip
def test_frames_that_are_refused(frame, change, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sequences(change(frame), **{"by": "id", "time": "t"} | options)


def test_a_frame_trains(frame):
    X = sequences(frame, by="id", time="t")
    assert classifier().fit(X, ["b", "a"]).predict(X).shape == (2,)


def test_ships_as_a_room_of_its_own():
    assert "sklearn" not in dir(cgru) or cgru.sklearn.__name__ == "cgru.sklearn"
