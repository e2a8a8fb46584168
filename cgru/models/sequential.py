"""Sequential: layers in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike

from cgru import masks
from cgru.checks import check_bool, check_int
from cgru.layers.rows import counts_of
from cgru.models import examples, measures, stateful, stepping
from cgru.models.training import Trainable
from cgru.sequences import Batch, as_numeric, unpad
from cgru.typing import Array, ArrayOrList, BoolArray, Key, Parameter, Recompute, Shape, States

if TYPE_CHECKING:
    from typing_extensions import Self


class Tape(NamedTuple):
    """What `Sequential.backward` needs of a forward pass; `valid` (N, T) says at which steps there are outputs, None
    means at all."""

    model: Sequential
    layers: list[Any]
    valid: BoolArray | None
    shape: Shape  # of the outputs
    dtype: np.dtype[Any]
    penalty: float  # what the regularizers add to the loss; their gradients are among what `Sequential.backward` gives


class Sequential(Trainable):
    """Layers, each fed by the one before.

    Parameters
    ----------
    layers : list of Layer
        At least one; no layer twice.
    seed : int, optional
        Seed of the initial parameters and of the dropout masks, for layers without a seed of their own, and of the
        order of the examples in `fit`.

    Attributes
    ----------
    layers : tuple of Layer
    history : History or None
        That of the last `fit`, also of one that was interrupted.

    Raises
    ------
    TypeError, ValueError
        If `layers` is not a list of layers, is empty or holds a layer twice, or `seed` is not an integer of at least 0.

    Notes
    -----
    Inputs, wherever there are any: an array (N, T, D), (N, D), or ids (N, T), with `lengths` (N,) or `mask` (N, T) or
    neither; or a list of N arrays (T_i, D) or (T_i,), which bring their lengths. With `resets` (N, T), or a list of
    arrays (T_i,), row i starts anew before step t where resets[i, t], as in a `GRU`; no layer looks across, and one
    output for a row is that of what follows the last reset. Labels of a loss of classes: integers (N,), or for a model
    with an output at each step (N, T) or a list of N arrays (T_i,). Of other losses: numbers like the outputs, (N, K),
    (N, T, K) or a list of N arrays (T_i, K); of a single output the last axis may lack. What lies outside lengths or
    mask is never read.

    In inference any number of threads may use one model; `fit` wants the model to itself.

    With a stateful GRU, row i of a call goes on from where row i of the call before ended, until `reset_states`: every
    call has the same rows, in the same order. `predict` and `evaluate` refuse a `batch_size` that would cut them, and
    `fit`, where rows go on from batch to batch, refuses what would mix them. The state is kept when a call is done, not
    when it fails.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> x = [np.full((length, 1), length % 2) for length in range(2, 12)]
    >>> y = [length % 2 for length in range(2, 12)]
    >>> model = cgru.Sequential([cgru.GRU(8), cgru.Dense(2, activation="softmax")], seed=0)
    >>> model.compile(cgru.optimizers.Adam(0.02), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(x, y, epochs=30, verbose=0)
    >>> model.evaluate(x, y)["accuracy"]
    1.0
    """

    _plan = None  # of `step`, made at the first one

    def build(self, input_size: SupportsIndex | None = None) -> Self:
        """Create the parameters of all layers for inputs of `input_size` features (not needed before an Embedding).

        Raises
        ------
        TypeError, ValueError
            If `input_size` is not a positive integer, or a layer was built for another size.
        """
        size = input_size
        for layer in self.layers:
            layer.build(size)
            size = layer.output_size(size)
        return self

    def predict(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        batch_size: SupportsIndex = 32,
        *,
        resets: Any = None,
    ) -> ArrayOrList:
        """Return the outputs for examples `x`, in their order.

        Returns
        -------
        ndarray or list
            (N, K); or, from a model with an output at each step, (N, T, K) with zeros at invalid steps, and for a list
            of sequences a list of arrays (T_i, K).

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        batch_size = check_int(batch_size, "batch_size", 1)
        batch, _ = examples.inputs(self.layers, x, lengths, mask, resets, by_batches=True)
        ragged = lengths is None and batch.lengths is not None
        return self._outputs(batch, ragged, batch_size)

    def __call__(
        self, x: ArrayLike, lengths: ArrayLike | None = None, mask: ArrayLike | None = None, *, resets: Any = None
    ) -> ArrayOrList:
        """Return the outputs for examples `x`, as `predict` does, from one pass over all of them.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        batch, _ = examples.inputs(self.layers, x, lengths, mask, resets)
        return self._outputs(batch, lengths is None and batch.lengths is not None, max(1, len(batch.data)))

    def predict_on_batch(
        self, x: ArrayLike, lengths: ArrayLike | None = None, mask: ArrayLike | None = None, *, resets: Any = None
    ) -> ArrayOrList:
        """Return the outputs for examples `x` from one pass over all of them: what a call of the model returns.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        return self(x, lengths, mask, resets=resets)

    def forward(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        training: bool = False,
        seed: SupportsIndex | None = None,
        *,
        resets: Any = None,
        recompute: Recompute = None,
    ) -> tuple[Array, Tape | Any]:
        """Return (y, tape), for a training loop of one's own: the outputs, and what `backward` needs.

        Parameters
        ----------
        x, lengths, mask, resets
            As described for the class.
        training : bool
            Whether dropout acts and there is a tape.
        seed : int, optional
            Of what the layers draw in training: the same seed, the same dropout.
        recompute : int or "auto", optional
            As in `fit`.

        Returns
        -------
        y : ndarray of shape (N, K) or (N, T, K)
            Zero at invalid steps; of a list of sequences, padded.
        tape : object
            None unless `training`. `tape.valid` says at which steps there are outputs, (N, T); None means at all.
            `tape.penalty` is what the layers' regularizers add to the loss. It refers to x where x needed no
            conversion: leave its values alone until backward is done.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(1)], seed=0)
        >>> optimizer, loss = cgru.optimizers.SGD(0.1), lambda y: float((y**2).mean())
        >>> y, tape = model.forward(np.ones((2, 5, 3)), training=True)
        >>> optimizer.apply(model, model.backward(2 * y / y.size, tape))
        >>> loss(model(np.ones((2, 5, 3)))) < loss(y)
        True
        """
        training = check_bool(training, "training")
        recompute = measures.check_recompute(self.layers, recompute, training)
        key = None
        if seed is not None:  # as the number of the update, too: a layer with a seed of its own takes that instead
            drawn = masks.seed_of(check_int(seed, "seed"))
            key = masks.Key(drawn, drawn)
        batch, _ = examples.inputs(self.layers, x, lengths, mask, resets)
        with np.errstate(all="ignore"):  # inf - inf is NaN in its own row
            out, states, tapes, penalty = self._forward(batch, training=training, key=key, recompute=recompute)
        self._keep_states(states)
        y = out.data.copy() if training or out.data is batch.data else out.data  # the tape may hold it
        if not training:
            return y, None
        return y, Tape(self, tapes, out.valid, y.shape, y.dtype, penalty + self.penalty())

    @overload
    def backward(self, dy: ArrayLike, tape: Tape, need_dx: Literal[False] = False) -> dict[str, Array]: ...

    @overload
    def backward(self, dy: ArrayLike, tape: Tape, need_dx: Literal[True]) -> tuple[Array | None, dict[str, Array]]: ...

    def backward(
        self, dy: ArrayLike, tape: Tape, need_dx: bool = False
    ) -> dict[str, Array] | tuple[Array | None, dict[str, Array]]:
        """Return the gradients of the trainable layers' parameters, dict "layer index.name" -> array: of the loss
        whose gradient at the outputs is given, and of `tape.penalty`. With `need_dx`, (dx, that dict).

        Parameters
        ----------
        dy : array_like of the shape of y
            Gradient of the outputs. Not read at steps that are not valid.
        tape : object
            From `forward(..., training=True)`. It is only read: backward may be called again.
        need_dx : bool
            Whether the gradient of the input is wanted, for what made it: another model, say. It has the shape of x,
            padded for a list; None of ids.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape.
        """
        need_dx = check_bool(need_dx, "need_dx")
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected what forward(..., training=True) returned, got {type(tape).__name__}")
        if tape.model is not self:
            raise ValueError("tape: expected one of this model's forward passes, got another model's")
        dy = as_numeric(dy, tape.dtype, "dy")
        if dy.shape != tape.shape:
            raise ValueError(f"dy: expected the shape of y, {tape.shape}, got {dy.shape}")
        with np.errstate(all="ignore"):
            dx, gradients = self._back(dy, tape.layers, at_logits=False, need_dx=need_dx)
        named = {f"{i}.{name}": gradients[i, name] for i, name in sorted(gradients, key=lambda key: key[0])}
        return (dx.copy() if dx is dy else dx, named) if need_dx else named

    def step(
        self,
        x_t: ArrayLike,
        state: Sequence[ArrayLike | None] | None = None,
        *,
        resets: ArrayLike | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Run one time step: return what the model would return if the sequence ended there, and the state after it.

        Parameters
        ----------
        x_t : array_like of shape (N, D), or ids (N,) before an Embedding
            One time step of N sequences.
        state : tuple, optional
            What the last step returned: one entry for each layer with a state: of a GRU (N, H) or (num_layers, N, H),
            of a causal Conv1D the inputs before, of pooling what it has seen. None at the start, or as an entry, is
            where a sequence starts from; in a stateful GRU, which a step leaves as it is, from its state.
        resets : bool array_like of shape (N,), optional
            Rows that start anew with this step, whatever the state.

        Returns
        -------
        y_t : ndarray of shape (N, K)
            To the bit the model's output for the sequence up to here, or its last time step.
        state : tuple

        Raises
        ------
        TypeError, ValueError
            If a GRU is bidirectional, reverse or go_backwards, another layer needs steps that come later, or an
            argument does not fit.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(3, activation="softmax")], seed=0)
        >>> x, state = np.ones((2, 5, 6), np.float32), None
        >>> for t in range(5):
        ...     y_t, state = model.step(x[:, t], state)
        >>> bool((y_t == model(x)).all())
        True
        """
        plan = self._plan
        if plan is None:
            plan = self._plan = stepping.plan(self, x_t)
        try:
            if resets is not None:
                state = stepping.restarted(self.layers, x_t, state, resets)
            return plan.run(x_t, plan.start if state is None else state)
        except (TypeError, ValueError, AttributeError) as error:
            raise stepping.wrong_step(self.layers, x_t, state, error) from None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_plan": None}

    def _outputs(self, batch: Batch, ragged: bool, batch_size: int) -> ArrayOrList:
        count = len(batch.data)
        stateful.check_one_batch(self.layers, count, batch_size)
        outputs: Any = None
        for rows in self._chunks(batch, batch_size):
            taken = examples.taken(self.layers, batch, rows)
            y, states, *_ = self._forward(taken)
            part = y.data
            if outputs is None:
                steps = examples.output_steps(self.layers, batch)
                shape = (count, steps.data.shape[1]) if part.ndim == 3 else (count,)
                outputs = np.zeros((*shape, part.shape[-1]), part.dtype)
            if part.ndim == 3:
                outputs[rows, examples.steps_of(self.layers, taken, outputs.shape[1])] = part
            else:
                outputs[rows] = part
        self._keep_states(states)
        if ragged and outputs.ndim == 3:
            return unpad(outputs, counts_of(steps), examples.padding_first(self.layers))
        return outputs

    def _forward(
        self,
        batch: Batch,
        states: States | None = None,
        training: bool = False,
        key: Key = None,
        end: int | None = None,
        first: int = 0,
        recompute: Recompute = None,
    ) -> tuple[Batch, States, list[Any], float]:
        tapes, after, total = [], [], 0.0
        for i, layer in enumerate(self.layers[:end]):
            state = None if states is None else states[i]
            taped = training and (i >= first or layer.draws)
            options = {"recompute": recompute} if taped and layer.recomputes else {}
            batch, state, penalty, tape = layer.forward_batch(
                batch, state, self._layer_key(key, i, layer), taped, **options
            )
            after.append(state)
            tapes.append(tape)
            total += penalty
        return batch, after, tapes, total

    def _backward(self, d_out: Array, tapes: list[Any], at_logits: bool) -> dict[Parameter, Array]:
        return self._back(d_out, tapes, at_logits)[1]

    def _back(
        self, d_out: Array, tapes: list[Any], at_logits: bool, need_dx: bool = False
    ) -> tuple[Array | None, dict[Parameter, Array]]:
        """Return (dx, dict (layer index, parameter name) -> gradient, of the trainable layers), from the gradient of
        the outputs, or with `at_logits` from that at the input of the last activation, (M, K) for the valid steps; with
        those of the penalties. Without `need_dx` nothing goes back further than to the first layer that is trained."""
        trained = [i for i, layer in enumerate(self.layers) if layer.trainable and layer._built_parameters()]
        first, last = 0 if need_dx else self._first_trained(), len(self.layers) - 1
        gradients: dict[Parameter, Array] = {}
        d: Any = d_out
        for i in range(last, first - 1, -1):
            layer, passes = self.layers[i], need_dx or i > first
            wanted: dict[str, bool] = {} if i in trained or not layer._built_parameters() else {"need_grads": False}
            if at_logits and i == last:
                d, grads = layer.backward_logits(d, tapes[i], passes, **wanted)
            else:
                d, _, grads = layer.backward_batch(d, None, tapes[i], need_dx=passes, **wanted)
            if i in trained:
                gradients.update({(i, name): gradient for name, gradient in layer.add_penalties(grads).items()})
        return d if need_dx else None, gradients
