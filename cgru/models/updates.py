"""One update of a model, made whole or not at all.

An update is computed aside, with new parameters and a new optimizer state in arrays of their own, which then take the
places of those in use; these are written by the next update, unless somebody still holds one of them. Ctrl-C can come
at any moment: before the exchange nothing has changed, and one that it interrupts is made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from cgru import constraints, masks
from cgru.applying import by_layer, ready
from cgru.layers import Dense, Layer, QuantizedDense
from cgru.locks import owned, unshared
from cgru.losses import Loss
from cgru.metrics import Function, Metric
from cgru.models import examples, finite
from cgru.models.model import Model
from cgru.models.ranks import Passed, Ranks
from cgru.models.runs import FusedRun, Run, Totals, metrics_of
from cgru.models.targets import Targets, targets
from cgru.optimizers import Optimizer, State
from cgru.sequences import Batch
from cgru.typing import Array, IntArray, Parameter, Recompute, Shape, States

if TYPE_CHECKING:
    from typing_extensions import Self


class Updatable(Model):
    """A model whose parameters can be updated: a subclass implements `build`, `_forward` and `_backward`."""

    _options: tuple[str, ...] = ("optimizer", "loss", "metrics")  # of `compile`
    optimizer: Optimizer | Any  # None before `compile`, as the two below
    loss: Loss | Any
    metrics: list[Metric | Function] | Any
    _states: tuple[State, State] | None  # the optimizer's: the current one and the spare
    _proposed: dict[Parameter, Array] | Any  # new parameters, computed aside
    _logits: Array | None  # memory for those of a batch, while `fit` runs
    _recompute: Recompute = None  # what `fit` was given, while it runs

    def __init__(self, layers: Sequence[Layer], seed: SupportsIndex | None = None) -> None:
        super().__init__(layers, seed)
        self.optimizer = self.loss = self.metrics = None
        self._states = self._proposed = self._logits = None

    # -- what a subclass implements

    def build(self, input_size: SupportsIndex | None = None) -> Self:
        """Create the parameters of all layers, once."""
        raise NotImplementedError

    def _forward(
        self,
        batch: Batch,
        states: States | None = None,
        training: bool = False,
        key: Any = None,
        end: int | None = None,
        first: int = 0,
        recompute: Recompute = None,
    ) -> tuple[Batch, States, list[Any], float]:
        """Return (Batch of outputs, list of the layers' states, list of their tapes, what the outputs of the layers add
        to the loss); nothing is kept. With `end`, of the layers before that one. Those before `first` need no tapes,
        the others have them as `recompute` says."""
        raise NotImplementedError

    def _backward(self, d_out: Array, tapes: list[Any], at_logits: bool) -> dict[Parameter, Array]:
        """Return dict (layer index, parameter name) -> gradient, of the trainable layers, from the gradient of the
        outputs, or with `at_logits` from that at the input of the last activation; with those of the penalties."""
        raise NotImplementedError

    # -- what goes in: a subclass of other inputs than one array has its own

    _inputs = "x"  # what messages call them
    _beside: tuple[str, ...] = ("lengths", "mask", "resets", "sample_weight")  # that may come with x and y

    def _examples(
        self, x: Any, y: Any, options: Mapping[str, Any], like: Batch | None = None, whole: bool = True
    ) -> tuple[Any, Targets]:
        """Return the batch and the targets of what was passed, checked in the caller's words: `options` are lengths, a
        mask, resets, weights. `like` are data of as many features; `whole`: these are all examples."""
        validity = options.get("lengths"), options.get("mask"), options.get("resets")
        batch, shape = examples.inputs(self.layers, x, *validity, like=like, by_batches=True)
        weights = {name: options.get(name) for name in ("sample_weight", "class_weight")}
        return batch, self._targets(y, batch, shape, whole=whole, **weights)

    def _output_shape(self, batch: Any) -> Shape:
        """The shape of the outputs for a batch of `_examples`."""
        return examples.output_shape(self.layers, batch.data.shape, self._inputs, "")

    def _targets(self, y: Any, batch: Any, shape: Shape, **options: Any) -> Targets:
        """Return the targets for a batch with outputs of `shape`; `options` are weights, and whether these are all
        examples."""
        return targets(self.layers, self.loss, self.metrics, y, batch, shape, **options)

    def _rows_of(self, batch: Any, targets: Targets, rows: IntArray) -> tuple[Any, Targets]:
        """Return the batch and the targets of `rows`, ready for a pass."""
        return examples.rows_of(self.layers, batch, targets, rows)

    def _converted(self, batch: Any) -> Any:
        """The batch in the type that the first layer reads."""
        return examples.converted(self.layers, batch)

    def _build_for(self, batch: Any) -> None:
        """Create the parameters that a batch needs, once."""
        self.build(batch.data.shape[-1] if batch.data.ndim > 1 else None)

    @contextmanager
    def _recomputing(self, recompute: Recompute) -> Iterator[None]:
        """Context in which updates have their tapes as `recompute` says."""
        before = self._recompute
        try:
            self._recompute = recompute
            yield
        finally:
            self._recompute = before

    # -- an update

    def _check_compiled(self, training: bool = False) -> None:
        if training:
            self._check_trainable("training")
        if self.loss is None:
            raise RuntimeError("the model has no loss yet: call compile(optimizer, loss) first")

    def _check_trainable(self, what: str, otherwise: str = "") -> None:
        """ValueError if a layer cannot be trained at all; `otherwise` is what else could be done."""
        for i, layer in enumerate(self.layers):
            refused = layer.refuses_training()
            if refused is not None:
                raise ValueError(f"{what}: expected layers that can be trained, got {examples.title(self.layers, i)}: "
                                 f"{refused}{otherwise}")  # fmt: skip

    def penalty(self) -> float:
        """Return what the regularizers of the parameters add to the loss."""
        return sum((layer.penalty() for layer in self.layers), 0.0)

    def _first_trained(self) -> int:
        """Index of the first layer with parameters that are trained, to which gradients go back."""
        for i, layer in enumerate(self.layers):
            if layer.trainable and layer._parameters != {}:  # None: not built yet
                return i
        return len(self.layers)

    @property
    def iterations(self) -> int:
        """Number of updates since `compile`."""
        return 0 if self._states is None else self._states[0].iterations

    def _key(self, place: finite.Place) -> masks.Key:
        """What the random numbers of the next update with these examples are drawn from."""
        return masks.Key(self._training_seed, self.iterations, place.examples, step=place.step)

    @staticmethod
    def _layer_key(key: masks.Key | None, i: int, layer: Layer) -> masks.Key | None:
        """The key of layer i, which may have a seed of its own."""
        if key is None or layer.seed is None:
            return key and key._replace(layer=i)
        return key._replace(seed=masks.seed_of(layer.seed), layer=i)

    def _update(
        self,
        batch: Batch,
        targets: Targets,
        totals: Totals,
        place: finite.Place,
        states: States | None = None,
        passed: Callable[[States], None] | None = None,
        ranks: Ranks | None = None,
    ) -> States:
        """One update from a batch that starts from these states; adds what it saw to `totals`, and returns the states
        after it. It is made whole, or refused whole. `passed` notes that it was made, and may do so twice. With `ranks`
        the batch is this rank's share, and all of them make the update of the whole."""

        def work() -> Passed:
            run = self._run(batch, targets, states, self._key(place))
            seen = run.seen(totals)
            if not math.isfinite(seen["loss"][0]):
                raise finite.loss_error(self, batch, run.row_losses(len(targets)), place)
            gradients = run.gradients()
            return Passed(run, seen, gradients, gradients)

        with np.errstate(all="ignore"):  # what is not finite is looked for below
            if ranks is None:
                run, seen, own, gradients = work()
            else:
                run, seen, own, gradients = ranks.step(self, place, work if len(targets) else None)
            parameters = {(i, name): self.layers[i]._built_parameters()[name] for i, name in gradients}
            self._states, self._proposed = ready(self.optimizer, parameters, self._states, self._proposed or {})
            current, spare = self._states
            proposed = self._proposed = unshared(self._proposed)
            known = self.optimizer.propose(parameters, gradients, current, proposed, spare)
            known = not constraints.act(self.layers, proposed) and known
            if not known and not finite.all_finite(gradients.values(), squares=True):
                raise finite.gradient_error(self, batch, targets, own, place, states)
            if not known and not finite.all_finite(proposed.values()):
                raise finite.update_error(self, proposed, place)
        sums, after = totals.plus(seen), [None] * len(self.layers) if run is None else run.states

        def enter() -> None:
            totals.sums = sums
            if passed is not None:
                passed(after)

        self._publish((spare, current), after, enter)
        return after

    def _gradients(
        self, batch: Batch, targets: Targets, states: States | None = None, key: Any = None
    ) -> dict[Parameter, Array]:
        """The gradients that a batch gives, dict (layer index, parameter name) -> array; nothing is updated."""
        return self._run(batch, targets, states, key).gradients()

    def _run(self, batch: Batch, targets: Targets, states: States | None = None, key: Any = None) -> Run | FusedRun:
        """The forward pass of a batch in training, with its loss."""
        in_place = self.loss.knows("replace_logits") and self._fuses_loss("forward_batch", "backward_batch")
        in_place = in_place and False not in [metric.fuses_with(self.loss) for metric in metrics_of(self)]
        return (FusedRun if in_place else Run)(self, batch, targets, states, key)

    def _fuses_loss(self, *methods: str) -> bool:
        """Whether the loss knows its gradient at the input of the last layer's activation, and the layer has these
        methods from `Dense`."""
        last = self.layers[-1]
        return (
            isinstance(last, Dense)
            and self.loss.knows("logit_gradients")
            and last.activation == self.loss.fused_activation
            and last.activity_regularizer is None
            and [getattr(type(last), name) for name in methods]
            in [[getattr(own, name) for name in methods] for own in (Dense, QuantizedDense)]
        )

    def _logits_of(self, rows: int, layer: Dense) -> Array:
        """Memory for the logits (rows, units) of a batch: what is large comes from the system, page by page, so it is
        asked for once."""
        kept, size = self._logits, rows * layer.units
        if kept is None or kept.size < size or kept.dtype != layer.dtype:
            kept = self._logits = np.empty(size, layer.dtype)
        return kept[:size].reshape(rows, layer.units)

    def _publish(self, optimizer_states: tuple[State, State], states: States, enter: Callable[[], None]) -> None:
        """Exchange the parameters for those proposed, and `enter` the update in what counts them."""
        new = by_layer(self.layers, self._proposed)
        spare = {(i, name): self.layers[i]._built_parameters()[name] for i, name in self._proposed}
        with self._lock:
            try:
                self._exchange(new, spare, optimizer_states, states, enter)
            except KeyboardInterrupt:
                self._exchange(new, spare, optimizer_states, states, enter)
                raise

    def _exchange(
        self,
        new: dict[int, dict[str, Array]],
        spare: dict[Parameter, Array],
        optimizer_states: tuple[State, State],
        states: States,
        enter: Callable[[], None],
    ) -> None:
        """Doing it twice is doing it once."""
        for i, parameters in new.items():
            self.layers[i]._publish(parameters)
        self._proposed, self._states = spare, optimizer_states
        self._keep_states(states)
        enter()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_logits": None, "_recompute": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._proposed = self._proposed and {key: owned(array) for key, array in self._proposed.items()}
