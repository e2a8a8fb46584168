"""A label for each step: GRUTagger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score

from cgru.sklearn.base import Examples, all_or_nothing
from cgru.sklearn.estimators import LabelledEstimator, label_array
from cgru.sklearn.inputs import axes, check_count, frame_weights, listed
from cgru.typing import AnyArray

if TYPE_CHECKING:
    from typing_extensions import Self


class GRUTagger(LabelledEstimator):
    """Give each step of each sequence a label.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, reset_after, dropout, batch_size, max_iter, learning_rate_init, solver
        As `GRUClassifier`.
    alpha, clipnorm, early_stopping, validation_fraction, n_iter_no_change, tol, class_weight, channels_first
        As `GRUClassifier`; what is held back is drawn without strata, and its accuracy is that of the steps.
    warm_start, random_state, dtype, recompute, verbose
        As `GRUClassifier`.
    pooling : "last"
        Not used.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, model_, loss_curve_, validation_scores_, n_iter_, best_iter_
        As those of `GRUClassifier`.

    Notes
    -----
    X is as `GRUClassifier` takes it. y is a list of N arrays (T_i,) of labels, numbers or texts, or an array (N, T), of
    which nothing behind `lengths` is read. `sample_weight` is (N,), or of the steps, in the form of y. The scorers of
    scikit-learn fail on labels of unequal lengths; those of `make_frame_scorer` count the steps.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import GRUTagger
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((length, 1)) for length in range(5, 45)]
    >>> y = [np.where(np.cumsum(x) > 0, "up", "down") for x in X]
    >>> tagger = GRUTagger(8, max_iter=40, learning_rate_init=0.03, tol=0.01, random_state=0).fit(X, y)
    >>> tagger.predict([np.array([[2.0], [-1.0], [-3.0]])])
    [array(['up', 'up', 'down'], dtype='<U4')]
    """

    _each_step = True

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None) -> Self:
        """Train on sequences X with a label for each step.

        Raises
        ------
        TypeError, ValueError
            If a setting or an argument does not fit.
        """
        return self._fit(X, y, sample_weight, lengths)

    @all_or_nothing
    def _fit(
        self, X: Any, y: Any, sample_weight: Any, lengths: Any, incremental: bool = False, classes: Any = None
    ) -> Self:
        x, goes_on = self._begin(X, y, lengths, incremental)
        check_count(x, y)
        labels = label_array(x.frames(y, "y"))
        numbers = x.like(self._encoded(labels, goes_on, classes))
        if listed(sample_weight) is None and axes(sample_weight) == 2 and x.listed:
            sample_weight = x.like(x.frames(sample_weight, "sample_weight"))
        self._train(
            Examples(x, numbers, sample_weight), len(self.classes_), incremental,
            class_weight=self._class_weights(labels, incremental),
        )  # fmt: skip
        return self

    def predict_proba(self, X: Any, lengths: ArrayLike | None = None) -> Any:
        """Return the probabilities of the classes at each step: a list of arrays (T_i, K) for a list, else (N, T, K),
        zero behind `lengths`."""
        return self._outputs(X, lengths)[1]

    def predict(self, X: Any, lengths: ArrayLike | None = None) -> Any:
        """Return the most probable label of each step: a list of arrays (T_i,) for a list, else (N, T), zero or ""
        behind `lengths`."""
        x, outputs = self._outputs(X, lengths)
        steps: AnyArray = self.classes_[x.frames(outputs, "X").argmax(axis=-1)]
        return x.like(steps)

    def score(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> float:
        """Return the accuracy over all steps."""
        x, outputs = self._outputs(X, lengths)
        found = self.classes_[x.frames(outputs, "X").argmax(axis=-1)]
        weights = frame_weights(sample_weight, x.counts)
        return float(accuracy_score(x.frames(y, "y"), found, sample_weight=weights))
