"""scikit-learn's own checks of estimators, and what is left out of them."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from cgru.sklearn import GRUClassifier, GRURegressor, SequenceScaler

MINIBATCHES = "updates are made for minibatches, which a repeated sequence cuts elsewhere than one of double weight"
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": MINIBATCHES}
ESTIMATORS = [
    GRUClassifier(8, max_iter=15, learning_rate_init=0.03, tol=0.01, random_state=0),
    GRURegressor(8, max_iter=40, learning_rate_init=0.05, random_state=0),
    SequenceScaler(),
]


def expected_failures(estimator):
    return {} if isinstance(estimator, SequenceScaler) else EXPECTED_FAILURES


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning"
)
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_tags(estimator):
    tags = estimator.__sklearn_tags__()
    assert tags.input_tags.two_d_array and tags.input_tags.three_d_array and not tags.input_tags.allow_nan
    assert not tags.no_validation and not tags._skip_test and not tags.non_deterministic
