"""What the estimators share: their settings, how a model is made of them, and how it is trained."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import joblib.parallel
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from cgru import optimizers, regularizers
from cgru.callbacks import EarlyStopping
from cgru.checks import (
    as_array,
    check_bool,
    check_dtype,
    check_finite,
    check_int,
    check_name,
    check_number,
    check_rate,
    check_recompute,
    shape_text,
)
from cgru.layers import GRU, AttentionPooling, Dense, Dropout, GlobalAveragePooling1D, GlobalMaxPooling1D
from cgru.models import Sequential
from cgru.sklearn.inputs import Sequences, listed, read
from cgru.threads import limit_threads
from cgru.typing import DType, IntArray, LearningRate, OptimizerName, Recompute

_SOLVERS: dict[str, Any] = {
    "adam": optimizers.Adam, "adamw": optimizers.AdamW, "rmsprop": optimizers.RMSprop, "sgd": optimizers.SGD,
}  # fmt: skip
POOLING = ("last", "mean", "max", "attention")
Request: TypeAlias = dict[str, bool]  # what a method is handed where metadata routing is on
Method = TypeVar("Method", bound=Callable[..., Any])
_BATCH = 256  # sequences at once where nothing is trained


class Examples(NamedTuple):
    """What a model is trained with."""

    x: Sequences
    y: Any
    weights: Any = None

    def take(self, rows: IntArray) -> Examples:
        return Examples(self.x.take(rows), rows_of(self.y, rows), rows_of(self.weights, rows))


def rows_of(values: Any, rows: IntArray) -> Any:
    """These rows of an array or of a list; of None, None."""
    if values is None:
        return None
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]


def store(estimator: Any, settings: dict[str, Any]) -> None:
    """Keep the arguments of an `__init__`, its `locals()`, as they are: scikit-learn wants them checked in `fit`."""
    for name, value in settings.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


def all_or_nothing(method: Method) -> Method:
    """A method of an estimator that leaves its attributes as they were where it fails, or is interrupted."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *arguments, **options)
        except BaseException:
            self.__dict__ = before
            raise

    return call  # type: ignore[return-value]


class Routed:
    """What is requested by default where metadata routing is on."""

    __metadata_request__fit: ClassVar[Request] = {"lengths": True, "sample_weight": True}
    __metadata_request__partial_fit: ClassVar[Request] = {"lengths": True, "sample_weight": True}
    __metadata_request__score: ClassVar[Request] = {"lengths": True, "sample_weight": True}
    __metadata_request__predict: ClassVar[Request] = {"lengths": True}


class GRUEstimator(BaseEstimator):
    """Base class of the estimators. A subclass has an `__init__` that stores its settings, and says what is learned."""

    _monitor = "val_accuracy"  # what early stopping looks at; more is better
    _activation: Any = "softmax"  # of the output layer
    _loss: Any = "sparse_categorical_crossentropy"
    _each_step = False  # whether there are outputs for each step

    model_: Sequential
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    n_iter_: int
    n_features_in_: int
    _seed: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        return tags

    # -- settings

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
        channels_first: bool = False,
        warm_start: bool = False,
        random_state: Any = None,
        dtype: DType = "float32",
        recompute: Recompute = None,
        verbose: bool = False,
    ) -> None:
        store(self, locals())

    def _check_settings(self) -> None:
        """TypeError or ValueError names the setting that does not fit."""
        for name in ("hidden_size", "num_layers", "batch_size", "max_iter", "n_iter_no_change"):
            check_int(getattr(self, name), name, 1)
        for name in ("bidirectional", "reset_after", "early_stopping", "warm_start", "channels_first"):
            check_bool(getattr(self, name, False), name)
        if not isinstance(self.verbose, (bool, np.bool_)):
            check_int(self.verbose, "verbose")
        check_rate(self.dropout, "dropout")
        check_name(self.solver, "solver", _SOLVERS)
        check_name(self.pooling, "pooling", POOLING)
        check_finite(self.alpha, "alpha", 0)
        if check_number(self.tol, "tol") == -np.inf or not self.tol >= 0:
            raise ValueError(f"tol: expected a number of at least 0, got {self.tol!r}")
        if not 0 < check_number(self.validation_fraction, "validation_fraction") < 1:
            got = repr(self.validation_fraction)
            raise ValueError(f"validation_fraction: expected a number between 0 and 1, got {got}")
        check_dtype(self.dtype)
        check_recompute(self.recompute)

    def _optimizer(self) -> optimizers.Optimizer:
        name = check_name(self.solver, "solver", _SOLVERS)
        options: dict[str, Any] = {"global_clipnorm": self.clipnorm}
        if name == "sgd":
            options |= {"momentum": 0.9, "nesterov": True}
        if name == "adamw":
            options["weight_decay"] = self.alpha or None
        try:
            made: optimizers.Optimizer = _SOLVERS[name](self.learning_rate_init, **options)
        except (TypeError, ValueError) as error:  # in the names of the settings
            raise type(error)(
                str(error).replace("learning_rate:", "learning_rate_init:").replace("global_clipnorm:", "clipnorm:")
            ) from None
        return made

    def _new_model(self, outputs: int, seed: int) -> Sequential:
        adamw = check_name(self.solver, "solver", _SOLVERS) == "adamw"
        penalty = regularizers.L2(self.alpha / 2) if self.alpha and not adamw else None
        pooling = check_name(self.pooling, "pooling", POOLING)
        if self._each_step and pooling != "last":
            raise ValueError(f"pooling: expected 'last' where y has something for each step, got {pooling!r}")
        each = self._each_step or pooling != "last"
        layers: list[Any] = [
            GRU(
                self.hidden_size, num_layers=self.num_layers, bidirectional=self.bidirectional, return_sequences=each,
                reset_after=self.reset_after, layer_dropout=self.dropout if self.num_layers > 1 else 0.0,
                kernel_regularizer=penalty, recurrent_regularizer=penalty, dtype=self.dtype,
            )
        ]  # fmt: skip
        if pooling != "last":
            attention = pooling == "attention"
            kind: Any = GlobalMaxPooling1D if pooling == "max" else GlobalAveragePooling1D
            layers.append(AttentionPooling(self.hidden_size, dtype=self.dtype) if attention else kind())
        if self.dropout:
            layers.append(Dropout(self.dropout))
        layers.append(Dense(outputs, activation=self._activation, kernel_regularizer=penalty, dtype=self.dtype))
        return Sequential(layers, seed=seed)

    # -- training

    def _goes_on(self, incremental: bool) -> bool:
        """Whether training goes on with the model that there is."""
        return hasattr(self, "model_") and (incremental or self.warm_start)

    def _begin(self, X: Any, y: Any, lengths: Any, incremental: bool) -> tuple[Sequences, bool]:
        """Check what comes before y: return the sequences, and whether training goes on."""
        self._check_settings()
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        goes_on = self._goes_on(incremental)
        return read(self, X, lengths, reset=not goes_on), goes_on

    def _train(
        self, examples: Examples, outputs: int, incremental: bool = False, strata: Any = None,
        class_weight: Mapping[int, float] | None = None, held: tuple[IntArray, IntArray] | None = None,
    ) -> None:  # fmt: skip
        """Train a new model, or go on. `strata` are the classes of the sequences where there are any; `held` (rows that
        train, rows that validate) stands instead of a random choice of them."""
        examples = examples._replace(weights=self._weights(examples))
        goes_on = self._goes_on(incremental)
        seed = self._seed if goes_on else int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        model = self._new_model(outputs, seed)
        if goes_on and model.get_config() != self.model_.get_config():
            raise ValueError(
                f"{type(self).__name__}: expected the settings of the model that is trained on, {self.model_!r}, got "
                f"those of {model!r}: give warm_start=False"
            )
        metric = self._metric()
        if goes_on:  # `fit` is all or nothing, `partial_fit` keeps each update
            model = self.model_ if incremental else copy.deepcopy(self.model_)
        if not incremental or not goes_on:
            model.compile(self._optimizer(), self._loss, [metric] if self.early_stopping else [])
        first = self.n_iter_ if goes_on else 0
        losses, scores = (list(self.loss_curve_), self.validation_scores_) if goes_on else ([], None)
        options: dict[str, Any] = {}
        stopping = None
        if incremental and self.early_stopping:
            raise ValueError("early_stopping: expected False beside partial_fit, which holds nothing back, got True")
        if self.early_stopping:
            rows, validating = held or self._split(examples, strata, seed)
            part, examples = examples.take(validating), examples.take(rows)
            if self._monitor == "val_r2_score" and self._scored(part) < 2:
                got = f"{self.validation_fraction}: expected at least 2 numbers to hold back for R^2"
                raise ValueError(f"early_stopping, validation_fraction={got}, got {self._scored(part)}")
            options["validation_data"] = (part.x.x, part.y, {"lengths": part.x.lengths})
        if class_weight:  # of what trains: a part of y, or what is not held back, may lack a class
            present = np.unique(examples.x.frames(examples.y, "y") if self._each_step else examples.y).tolist()
            class_weight = {k: weight for k, weight in class_weight.items() if k in present}
        if not incremental:
            stopping = EarlyStopping(
                self._monitor if self.early_stopping else "loss", self.tol, self.n_iter_no_change,
                "max" if self.early_stopping else "min", restore_best_weights=self.early_stopping,
            )  # fmt: skip
            options["callbacks"] = [stopping]
        epochs = 1 if incremental else self.max_iter
        with one_thread_in_workers():
            history = model.fit(
                examples.x.x, examples.y, examples.x.lengths, initial_epoch=first, epochs=first + epochs,
                batch_size=self.batch_size, verbose=bool(self.verbose), sample_weight=examples.weights,
                class_weight=class_weight, recompute=self.recompute, **options,
            ).history  # fmt: skip
        losses += history["loss"]
        if self.early_stopping:
            scores = (scores or []) + history[self._monitor]
        self._seed, self.model_ = seed, model
        self.loss_curve_, self.loss_, self.n_iter_, self.validation_scores_ = losses, losses[-1], len(losses), scores
        best = None if stopping is None or stopping.best_epoch is None else stopping.best_epoch + 1
        self.best_iter_ = best or self.n_iter_
        if stopping is not None and stopping.stopped_epoch is None:
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't converged yet: give a "
                "larger max_iter, learning_rate_init or tol",
                ConvergenceWarning, stacklevel=5,
            )  # fmt: skip

    def _metric(self) -> Any:
        return "accuracy"

    def _scored(self, part: Examples) -> int:
        """How many numbers the score of what is held back is of."""
        return int(part.x.counts.sum()) if self._each_step else len(part.x.counts)

    def _weights(self, examples: Examples) -> Any:
        """`sample_weight` as an array or a list; ValueError unless there are as many as sequences."""
        given, count = examples.weights, len(examples.x.counts)
        if given is None:
            return None
        rows = listed(given)
        weights: Any = as_array(given, "sample_weight") if rows is None else rows
        shape = weights.shape if rows is None else (len(weights), "T_i")
        if not shape or shape[0] != count or (len(shape) > 1 and not self._each_step):
            wanted = f"({count},), a weight for each sequence"
            raise ValueError(f"sample_weight: expected shape {wanted}, got {shape_text(shape)}")
        return weights

    def _split(self, examples: Examples, strata: Any, seed: int) -> tuple[IntArray, IntArray]:
        """The rows that train, and those that are held back: of sequences that weigh nothing none."""
        from sklearn.model_selection import train_test_split

        every = counted = np.arange(len(examples.x.counts))
        if examples.weights is not None:
            counted = np.flatnonzero([np.any(weight) for weight in examples.weights])
        try:
            _, validating = train_test_split(
                counted, test_size=self.validation_fraction, stratify=None if strata is None else strata[counted],
                random_state=seed,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"early_stopping, validation_fraction={self.validation_fraction}: {error}") from None
        return np.setdiff1d(every, validating), np.sort(validating)

    # -- inference

    def _outputs(self, X: Any, lengths: Any = None) -> tuple[Sequences, Any]:
        """Return (the sequences of X, the model's outputs for them)."""
        check_is_fitted(self, "model_")
        found = read(self, X, lengths)
        return found, self._run(found)

    def _run(self, x: Sequences) -> Any:
        with one_thread_in_workers():
            return self.model_.predict(x.x, x.lengths, batch_size=_BATCH)


def one_thread_in_workers() -> Any:
    """A context in which the workers of joblib use one thread each. Those of loky have their share of the processors
    from joblib itself, in OMP_NUM_THREADS, as scikit-learn's own estimators have it."""
    backend, _ = joblib.parallel.get_active_backend()
    within = getattr(backend, "nesting_level", 0) and "OMP_NUM_THREADS" not in os.environ
    return limit_threads(1) if within else nullcontext()
