"""One answer for each sequence, or numbers for each step: GRUClassifier and GRURegressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_array

from cgru.checks import check_finite, shape_text
from cgru.sklearn.base import Examples, GRUEstimator, Request, Routed, all_or_nothing, store
from cgru.sklearn.inputs import Sequences, axes, check_count, check_unmasked, frame_weights, listed, of_one_shape
from cgru.typing import AnyArray, Array, DType, IntArray, LearningRate, OptimizerName, Recompute

if TYPE_CHECKING:
    from typing_extensions import Self


class LabelledEstimator(Routed, GRUEstimator):
    """Base class of those that learn classes."""

    __metadata_request__predict_proba: ClassVar[Request] = {"lengths": True}
    classes_: AnyArray

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        reset_after: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        batch_size: int = 32,
        max_iter: int = 200,
        learning_rate_init: LearningRate = 0.003,
        solver: OptimizerName = "adam",
        alpha: float = 0.0,
        clipnorm: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        class_weight: Any = None,
        channels_first: bool = False,
        warm_start: bool = False,
        random_state: Any = None,
        dtype: DType = "float32",
        recompute: Recompute = None,
        verbose: bool = False,
    ) -> None:
        store(self, locals())

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on X and y, going on from what there is; the first call needs all `classes`.

        Raises
        ------
        TypeError, ValueError
            If a setting or an argument does not fit.
        """
        if classes is None and not hasattr(self, "model_"):
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return self._fit(X, y, sample_weight, lengths, incremental=True, classes=classes)

    def _encoded(self, labels: AnyArray, goes_on: bool, classes: Any = None) -> IntArray:
        """Return the number of each label's class, and note the classes."""
        if goes_on:
            known = self.classes_
            if classes is not None and not np.array_equal(np.unique(classes), known):
                raise ValueError(f"classes: expected those of the first call, {known.tolist()}, got {classes!r}")
        else:
            if classes is not None and axes(classes) != 1:
                raise ValueError(f"classes: expected labels (K,), got {classes!r}")
            known = np.unique(labels if classes is None else label_array(classes, "classes"))
        odd = np.setdiff1d(labels, known)
        if odd.size:
            which = "those of the call of fit before" if classes is None else "classes"
            raise ValueError(f"y: expected labels of {which}, {known.tolist()}, got {odd.tolist()} as well")
        self.classes_ = known
        return np.searchsorted(known, labels)

    def _class_weights(self, labels: AnyArray, incremental: bool) -> dict[int, float] | None:
        """What the classes weigh, by their numbers."""
        given = self.class_weight
        if given is None:
            return None
        if incremental and isinstance(given, str):
            raise ValueError(f"class_weight: expected a dict beside partial_fit, which sees a part of y, got {given!r}")
        if isinstance(given, dict):
            classes = self.classes_.tolist()
            unknown = [label for label in given if label not in classes]
            if unknown and any(label not in given for label in classes):  # others may be those of another fold
                raise ValueError(f"class_weight: expected classes of y, {classes}, got {unknown}")
            return {
                k: check_finite(given[label], f"class_weight[{label!r}]", 0)
                for k, label in enumerate(classes) if label in given
            }  # fmt: skip
        present = np.unique(labels)
        weights = compute_class_weight(given, classes=present, y=labels)
        return dict(zip(np.searchsorted(self.classes_, present).tolist(), weights.tolist(), strict=True))


def label_array(y: Any, name: str = "y") -> AnyArray:
    """y as an array (N,) of labels, as scikit-learn's classifiers take it."""
    check_unmasked(y, name)
    with of_one_shape(name):
        labels: AnyArray = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name=name)
    if labels.dtype == object and len({isinstance(label, str) for label in labels}) > 1:
        raise TypeError(f"{name}: expected labels of one type, got texts and others")
    check_classification_targets(labels)
    return labels


class GRUClassifier(ClassifierMixin, LabelledEstimator):
    """Classify sequences.

    Parameters
    ----------
    hidden_size : int
        Units of each layer and direction.
    num_layers : int
    bidirectional : bool
        Whether each layer also reads from the end; the outputs of both stand beside each other.
    reset_after : bool
        The form of the reset gate, see `cgru.GRU`.
    dropout : float
        The share of values that is dropped between layers and before the output.
    pooling : {"last", "mean", "max", "attention"}
        What is made of a sequence: the state after its last step, the mean or the largest of all states, or their mean
        with learned weights.
    batch_size : int
        Sequences of an update.
    max_iter : int
        The most epochs.
    learning_rate_init : float or callable
        Or a schedule of `cgru.schedules`.
    solver : {"adam", "adamw", "rmsprop", "sgd"}
        "sgd" has Nesterov's momentum of 0.9.
    alpha : float
        Strength of the L2 penalty: half of the kernels' squares times this is added to the loss. The weight decay of
        "adamw".
    clipnorm : float, optional
        The most that the norm of all gradients may be; what is longer is scaled.
    early_stopping : bool
        Whether `validation_fraction` of the sequences is held back, stratified, and training ends when the accuracy on
        them has not risen by more than `tol` for `n_iter_no_change` epochs. The best epoch's weights are kept.
        Otherwise it ends when the loss has not fallen so.
    validation_fraction : float
    n_iter_no_change : int
    tol : float
    class_weight : dict label -> weight, or "balanced"; optional
    channels_first : bool
        Whether sequences are (F, T): X is (N, F, T), or a list of (F, T_i) arrays.
    warm_start : bool
        Whether `fit` goes on with the model that there is.
    random_state : int, RandomState or None
        The same number gives the same bits, whatever the number of threads and of workers.
    dtype : {"float32", "float64"}
    recompute : int or "auto", optional
        For long sequences: less memory for more time, as in `Sequential.fit`.
    verbose : bool
        Whether a line is printed for each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
        F; of 2-D X its T.
    feature_names_in_ : ndarray
        Of X that was made of data frames with names for columns.
    model_ : cgru.Sequential
        Its output k is the probability of `classes_[k]`. `cgru.save` and `model_.step` work as with any model.
    loss_curve_ : list of float
        The mean loss of each epoch; `loss_` is the last one. With `warm_start` and `partial_fit` it goes on.
    validation_scores_ : list of float or None
        The accuracy on what was held back after each epoch, with `early_stopping`.
    n_iter_ : int
        Epochs.
    best_iter_ : int
        The epoch, from 1, with the best score, whose weights are kept; without `early_stopping` that of the least loss.

    Notes
    -----
    X is a list of N arrays (T_i, F), of any lengths: the form that `train_test_split`, `GridSearchCV` and `Pipeline`
    hand on as it is. Or (N, T, F), with `lengths` if they are padded. Or 2-D: (N, T), series of one feature, all of the
    T of `fit`. NaN and infinities are refused, but for those behind `lengths`, which are never read.

    `lengths` and `sample_weight` are requested by default where metadata routing is on. There is no `n_jobs`: training
    takes the threads of `cgru.get_num_threads`, and one in each of joblib's workers.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import GRUClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((length, 2)) + (length % 2) for length in range(5, 45)]
    >>> y = ["odd" if len(x) % 2 else "even" for x in X]
    >>> classifier = GRUClassifier(8, max_iter=30, learning_rate_init=0.02, tol=0.01, random_state=0).fit(X, y)
    >>> classifier.predict([np.ones((7, 2)), np.zeros((20, 2))])
    array(['odd', 'even'], dtype='<U4')
    """

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None) -> Self:
        """Train on sequences X with labels y (N,), numbers or texts.

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
        if any(hasattr(row, "__array__") for row in listed(y) or ()):
            raise ValueError("y: expected a label for each sequence, got arrays; for a label for each step: GRUTagger")
        labels = label_array(y)
        check_count(x, labels)
        numbers = self._encoded(labels, goes_on, classes)
        self._train(
            Examples(x, numbers, sample_weight), len(self.classes_), incremental, strata=numbers,
            class_weight=self._class_weights(labels, incremental),
        )  # fmt: skip
        return self

    def predict_proba(self, X: Any, lengths: ArrayLike | None = None) -> Array:
        """Return the probabilities (N, K) of the classes, in the order of `classes_`."""
        outputs: Array = self._outputs(X, lengths)[1]
        return outputs

    def predict(self, X: Any, lengths: ArrayLike | None = None) -> AnyArray:
        """Return the most probable label of each sequence, (N,)."""
        best = self.predict_proba(X, lengths).argmax(axis=1)
        found: AnyArray = self.classes_[best]
        return found

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None) -> float:
        """Return the accuracy."""
        return float(accuracy_score(y, self.predict(X, lengths), sample_weight=sample_weight))


class GRURegressor(RegressorMixin, Routed, GRUEstimator):
    """Predict numbers of sequences: one, several, or some for each step.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, reset_after, dropout, pooling, batch_size, max_iter, learning_rate_init
        As `GRUClassifier`.
    solver, alpha, clipnorm, early_stopping, validation_fraction, n_iter_no_change, tol, channels_first, warm_start
        As `GRUClassifier`; what early stopping looks at is R^2, of sequences that are held back without strata.
    random_state, dtype, recompute, verbose
        As `GRUClassifier`.

    Attributes
    ----------
    n_features_in_, feature_names_in_, model_, loss_curve_, n_iter_, best_iter_
        As those of `GRUClassifier`. The loss is the mean squared error.
    validation_scores_ : list of float or None
        R^2 on what was held back after each epoch, with `early_stopping`.

    Notes
    -----
    X is as `GRUClassifier` takes it. y is (N,), or (N, K) for K numbers of a sequence. For numbers of each step it is a
    list of arrays (T_i,) or (T_i, K), or an array (N, T, K); predictions then have its form, and `pooling` has to be
    "last". Numbers far from 1 are learned slowly: scale y, for instance by
    `sklearn.compose.TransformedTargetRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import GRURegressor
    >>> X = [np.random.default_rng(i).standard_normal((5 + i % 7, 1)) for i in range(60)]
    >>> sums = [x.sum() for x in X]
    >>> model = GRURegressor(16, learning_rate_init=0.02, tol=0.01, random_state=0).fit(X, sums)
    >>> model.score(X, sums) > 0.9
    True
    """

    _monitor, _activation, _loss = "val_r2_score", "linear", "mse"
    _form: _Form

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _metric(self) -> Any:
        return r2_score

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None) -> Self:
        """Train on sequences X with numbers y.

        Raises
        ------
        TypeError, ValueError
            If a setting or an argument does not fit.
        """
        return self._fit(X, y, sample_weight, lengths)

    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch on X and y, going on from what there is.

        Raises
        ------
        TypeError, ValueError
            If a setting or an argument does not fit.
        """
        return self._fit(X, y, sample_weight, lengths, incremental=True)

    @all_or_nothing
    def _fit(self, X: Any, y: Any, sample_weight: Any, lengths: Any, incremental: bool = False) -> Self:
        x, goes_on = self._begin(X, y, lengths, incremental)
        values, form = _numbers(x, y)
        if goes_on and form != self._form:
            raise ValueError(f"y: expected {self._form}, as in the call of fit before, got {form}")
        self._form = form
        self._train(Examples(x, values, sample_weight), form.outputs, incremental)
        return self

    @property
    def _each_step(self) -> bool:  # type: ignore[override]
        return self._form.steps

    def predict(self, X: Any, lengths: ArrayLike | None = None) -> Any:
        """Return numbers in the form of y: (N,) or (N, K); for each step a list of (T_i,) or (T_i, K) for a list X,
        else (N, T) or (N, T, K), zero behind `lengths`."""
        _, outputs = self._outputs(X, lengths)
        if isinstance(outputs, list):
            return [self._like_y(row) for row in outputs]
        return self._like_y(outputs)

    def _like_y(self, outputs: Array) -> Array:
        return (outputs if self._form.axis else outputs[..., 0]).astype(np.float64)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None) -> float:
        """Return R^2, of all steps where there are numbers for each."""
        x, outputs = self._outputs(X, lengths)
        if self._form.steps:
            y, outputs = x.frames(y, "y"), x.frames(outputs, "X")
            sample_weight = frame_weights(sample_weight, x.counts)
        return float(r2_score(y, self._like_y(outputs), sample_weight=sample_weight))


class _Form(NamedTuple):
    """What y is: numbers of sequences or of steps."""

    outputs: int
    axis: bool  # whether y has an axis for the outputs
    steps: bool

    def __str__(self) -> str:
        sizes = f", {self.outputs}" if self.axis else ","
        return f"a list of arrays (T_i{sizes})" if self.steps else f"shape (N{sizes})"


def _numbers(x: Sequences, y: Any) -> tuple[Any, _Form]:
    """Return y as a model takes it, and what it is."""
    rows = listed(y)
    if rows is not None and not any(hasattr(row, "__array__") or not axes(row) for row in rows):
        rows = rows if len({*map(len, rows)}) > 1 else None  # nested lists, (N, K)
    check_unmasked(y, "y")
    if rows is None and axes(y) < 3:
        with of_one_shape("y"):
            values = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if values.ndim == 2 and values.shape[1] == 1:
            values = column_or_1d(values, warn=True)
        check_count(x, values)
        axis = values.ndim == 2
        return values, _Form(values.shape[1] if axis else 1, axis, steps=False)
    if rows is None:
        with of_one_shape("y"):
            y = np.asarray(y)
        if y.ndim != 3:
            raise ValueError(f"y: expected shape (N,), (N, K) or (N, T, K), or a list of arrays, got {y.shape}")
        check_count(x, y)
        x.frames(y, "y")
        return y, _Form(y.shape[2], axis=True, steps=True)
    check_count(x, rows)
    steps = x.frames(rows, "y")
    if steps.ndim > 2:
        raise ValueError(f"y[0]: expected shape (T_i,) or (T_i, K), got {shape_text(np.shape(rows[0]))}")
    return rows, _Form(steps.shape[1] if steps.ndim == 2 else 1, steps.ndim == 2, steps=True)
