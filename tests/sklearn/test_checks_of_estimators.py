"""scikit-learn's own checks of estimators, and what is left out of them."""

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from cgru.sklearn import GRUClassifier, GRURegressor, SequenceScaler

MINIBATCHES = "updates are made for minibatches, which a repeated sequence cuts elsewhere than one of double weight"
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": MINIBATCHES}
ESTIMATORS = [
    GRUClassifier(8, max_iter=10, batch_size=64, learning_rate_init=0.06, tol=0.01, random_state=0),
    GRURegressor(16, reset_after=True, max_iter=20, learning_rate_init=0.05, random_state=0),
    SequenceScaler(),
]


def checks():
    """Each check with its estimator; those that are known to fail are marked, and named with the reason."""
    for estimator in ESTIMATORS:
        failing = {} if isinstance(estimator, SequenceScaler) else EXPECTED_FAILURES
        yield from estimator_checks_generator(estimator, expected_failed_checks=failing, mark="xfail")


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning"
)
@pytest.mark.parametrize("estimator, check", list(checks()), ids=lambda v: getattr(v, "func", type(v)).__name__)
def test_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_tags(estimator):
    tags = estimator.__sklearn_tags__()
    assert tags.input_tags.two_d_array and tags.input_tags.three_d_array and not tags.input_tags.allow_nan
    assert not tags.no_validation and not tags._skip_test and not tags.non_deterministic
