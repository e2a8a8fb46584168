"""SequenceScaler: one scale over all steps."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone

from cgru.sklearn import SequenceScaler


@pytest.fixture
def X(rng):
    return [rng.standard_normal((length, 3)) * [1, 10, 0.1] + [5, 0, -1] for length in (5, 9, 2, 7)]


def test_mean_and_deviation_of_all_steps(X):
    steps = np.concatenate(X)
    scaler = SequenceScaler().fit(X)
    np.testing.assert_allclose(scaler.mean_, steps.mean(axis=0))
    np.testing.assert_allclose(scaler.scale_, steps.std(axis=0))
    assert (scaler.n_steps_seen_, scaler.n_features_in_) == (23, 3)
    found = scaler.transform(X)
    assert [f.shape for f in found] == [x.shape for x in X]
    np.testing.assert_allclose(np.concatenate(found), (steps - steps.mean(axis=0)) / steps.std(axis=0))
    for back, x in zip(scaler.inverse_transform(found), X, strict=True):
        np.testing.assert_allclose(back, x, atol=1e-12)


def test_forms(X):
    expected = SequenceScaler().fit_transform(X)
    full, lengths = np.full((4, 9, 3), np.nan), [len(x) for x in X]
    for row, x in zip(full, X, strict=True):
        row[: len(x)] = x
    found = SequenceScaler().fit_transform(full, lengths=lengths)
    turned = SequenceScaler(channels_first=True).fit_transform(full.swapaxes(1, 2), lengths=lengths)
    listed = SequenceScaler(channels_first=True).fit_transform([x.T for x in X])
    np.testing.assert_array_equal(turned.swapaxes(1, 2), found)
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(found[i, :n], expected[i])
        np.testing.assert_array_equal(listed[i].T, expected[i])
        assert not found[i, n:].any()
    flat = SequenceScaler().fit(full[:, :2, 0])
    assert flat.mean_.shape == (1,) and flat.transform(full[:, :2, 0]).shape == (4, 2)


def test_one_row_at_a_time_is_all_at_once(X):
    whole, parts = SequenceScaler().fit(X), SequenceScaler()
    for x in X:
        parts.partial_fit([x])
    np.testing.assert_allclose(parts.mean_, whole.mean_)
    np.testing.assert_allclose(parts.scale_, whole.scale_)
    assert parts.n_steps_seen_ == 23
    assert parts.partial_fit([np.zeros((0, 3))]).n_steps_seen_ == 23
    again = parts.fit(X[:1])  # begins anew
    assert again.n_steps_seen_ == 5


def test_types_constants_and_options(X):
    single = [x.astype("float32") for x in X]
    assert {x.dtype for x in SequenceScaler().fit_transform(single)} == {np.dtype("float32")}
    assert not np.concatenate(SequenceScaler().fit_transform([np.full((3, 1), 7)])).any()
    plain = SequenceScaler(with_mean=False, with_std=False).fit(X)
    np.testing.assert_array_equal(plain.transform(X)[0], X[0])
    assert plain.scale_ is None
    with pytest.raises(TypeError, match="with_mean: expected True or False, got 1"):
        SequenceScaler(with_mean=1).fit(X)
    empty = SequenceScaler().fit(X).transform([np.zeros((0, 3)), X[0]])
    assert empty[0].shape == (0, 3)


def test_containers(X):
    """`set_output` acts on tables; sequences stay arrays."""
    flat = np.arange(12.0).reshape(4, 3)
    scaler = SequenceScaler().set_output(transform="pandas")
    assert list(scaler.fit_transform(flat).columns) == ["x0", "x1", "x2"]
    assert isinstance(scaler.fit_transform(X)[0], np.ndarray) and isinstance(scaler.transform(X)[0], np.ndarray)
    with config_context(transform_output="pandas"):
        assert isinstance(SequenceScaler().fit_transform(X), list)
    assert SequenceScaler().fit(X).get_feature_names_out().tolist() == ["x0", "x1", "x2"]


def test_what_fails_changes_nothing(X):
    scaler = SequenceScaler().fit(X)
    before = dict(vars(scaler))
    for call in (scaler.fit, scaler.partial_fit):
        with pytest.raises(ValueError, match="contains NaN"):
            call([np.full((2, 3), np.nan)])
        assert vars(scaler) == before


def test_copies(X):
    scaler = pickle.loads(pickle.dumps(SequenceScaler(with_std=False).fit(X)))
    np.testing.assert_array_equal(scaler.transform(X)[1], clone(scaler).fit_transform(X)[1])
    with pytest.raises(ValueError, match="X has 2 features, but SequenceScaler is expecting 3 features"):
        scaler.transform([x[:, :2] for x in X])
