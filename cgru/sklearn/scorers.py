"""Scorers over the steps of all sequences, where scikit-learn's own fail on labels of unequal lengths."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics
from sklearn.utils.metadata_routing import MetadataRequest

from cgru.checks import check_bool, check_name, shape_text
from cgru.sklearn.inputs import frame_weights, frames


class FrameScorer:
    """What `make_frame_scorer` returns."""

    def __init__(self, function: Callable[..., Any], response_method: str, sign: int, options: dict[str, Any]) -> None:
        self.function, self.response_method, self.sign, self.options = function, response_method, sign, options

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> float:
        """Return the score of a fitted estimator on sequences X with y for each step; more is better."""
        given = {} if lengths is None else {"lengths": lengths}
        found = getattr(estimator, self.response_method)(X, **given)
        if isinstance(found, list):
            counts = np.array([len(row) for row in found], np.intp)
        elif found.ndim < 2:
            raise ValueError(
                f"{type(estimator).__name__}.{self.response_method}: expected something for each step, got shape "
                f"{shape_text(found.shape)}: the scorers of scikit-learn are for that"
            )
        else:
            counts = np.full(len(found), found.shape[1], np.intp) if lengths is None else np.asarray(lengths)
        options = dict(self.options)
        if sample_weight is not None:
            options["sample_weight"] = frame_weights(sample_weight, counts)
        if self.response_method == "predict_proba" and "labels" in inspect.signature(self.function).parameters:
            options.setdefault("labels", estimator.classes_)
        value = self.function(frames(y, counts, "y"), frames(found, counts, self.response_method), **options)
        return self.sign * float(value)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        less = "" if self.sign > 0 else ", greater_is_better=False"
        response = "" if self.response_method == "predict" else f", response_method={self.response_method!r}"
        return f"make_frame_scorer({getattr(self.function, '__name__', self.function)}{response}{less}{options})"

    def get_metadata_routing(self) -> MetadataRequest:
        """What scikit-learn hands on to a scorer where metadata routing is on."""
        request = MetadataRequest(owner=type(self).__name__)
        for name in ("sample_weight", "lengths"):
            request.score.add_request(param=name, alias=True)
        return request


def make_frame_scorer(
    score_func: Callable[..., Any],
    *,
    response_method: str = "predict",
    greater_is_better: bool = True,
    **options: Any,
) -> FrameScorer:
    """Return a scorer that counts steps, for `scoring` in `cross_val_score` and `GridSearchCV`.

    Parameters
    ----------
    score_func : callable
        Of `sklearn.metrics`, or like those: ``(y_true, y_pred, **options) -> float``, called once with the labels and
        the predictions of all steps that count.
    response_method : {"predict", "predict_proba"}
    greater_is_better : bool
        Whether `score_func` is a score; a loss is negated.
    **options
        For `score_func`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Examples
    --------
    >>> from sklearn.metrics import f1_score
    >>> from cgru.sklearn import make_frame_scorer
    >>> make_frame_scorer(f1_score, average="macro")
    make_frame_scorer(f1_score, average='macro')
    """
    if not callable(score_func):
        raise TypeError(f"score_func: expected a function (y_true, y_pred), got {score_func!r}")
    response_method = check_name(response_method, "response_method", ("predict", "predict_proba"))
    sign = 1 if check_bool(greater_is_better, "greater_is_better") else -1
    return FrameScorer(score_func, response_method, sign, options)


frame_accuracy = make_frame_scorer(metrics.accuracy_score)
frame_balanced_accuracy = make_frame_scorer(metrics.balanced_accuracy_score)
frame_macro_f1 = make_frame_scorer(metrics.f1_score, average="macro")
frame_neg_log_loss = make_frame_scorer(metrics.log_loss, response_method="predict_proba", greater_is_better=False)
frame_r2 = make_frame_scorer(metrics.r2_score)
frame_neg_mean_absolute_error = make_frame_scorer(metrics.mean_absolute_error, greater_is_better=False)
frame_neg_mean_squared_error = make_frame_scorer(metrics.mean_squared_error, greater_is_better=False)
