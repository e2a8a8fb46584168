"""Estimators for scikit-learn: classify, predict, tag and forecast sequences in its pipelines and searches.

They train `cgru.Sequential` models with `fit` of the library; the model of a fitted estimator is its `model_`.
"""

import re

try:
    import sklearn
except ModuleNotFoundError:
    raise ImportError('scikit-learn is not installed: pip install "cgru[sklearn]"', name="sklearn") from None
if tuple(map(int, re.findall(r"\d+", sklearn.__version__)[:2])) < (1, 6):
    raise ImportError(
        f'cgru.sklearn: expected scikit-learn 1.6 or later, got {sklearn.__version__}: pip install "cgru[sklearn]"',
        name="sklearn",
    )
del re, sklearn

from cgru.sklearn.estimators import GRUClassifier, GRURegressor  # noqa: E402
from cgru.sklearn.forecaster import GRUForecaster  # noqa: E402
from cgru.sklearn.frames import sequences  # noqa: E402
from cgru.sklearn.scaler import SequenceScaler  # noqa: E402
from cgru.sklearn.scorers import (  # noqa: E402
    frame_accuracy,
    frame_balanced_accuracy,
    frame_macro_f1,
    frame_neg_log_loss,
    frame_neg_mean_absolute_error,
    frame_neg_mean_squared_error,
    frame_r2,
    make_frame_scorer,
)
from cgru.sklearn.tagger import GRUTagger  # noqa: E402

__all__ = [
    "GRUClassifier",
    "GRUForecaster",
    "GRURegressor",
    "GRUTagger",
    "SequenceScaler",
    "frame_accuracy",
    "frame_balanced_accuracy",
    "frame_macro_f1",
    "frame_neg_log_loss",
    "frame_neg_mean_absolute_error",
    "frame_neg_mean_squared_error",
    "frame_r2",
    "make_frame_scorer",
    "sequences",
]
