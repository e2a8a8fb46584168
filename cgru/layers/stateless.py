"""Layers without a state, as one calls them: arrays in, arrays out, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import masks
from cgru.checks import check_bool, check_int, shape_text
from cgru.layers.base import Layer
from cgru.sequences import Batch, as_batch, as_numeric
from cgru.typing import Array, Shape


class Tape(NamedTuple):
    """What `backward` needs of a forward pass."""

    layer: Layer
    content: Any  # the tape of `forward_batch`
    shape: Shape  # of the outputs
    dtype: np.dtype[Any]
    penalty: float  # what the regularizers add to the loss; their gradients are among what `backward` returns


class Stateless(Layer):
    """Base class of the layers without a state: their array-valued faces. A subclass implements what `Layer` asks."""

    _takes_ids = False  # True: data (N, T) or (N,) of ids, which stay integers

    def __call__(
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: Any = None,
    ) -> Array:
        """Return the outputs for `x`; dropout does not act.

        Parameters
        ----------
        x : array_like of shape (N, F) or (N, T, F), ids (N,) or (N, T) of an Embedding; or a list of (T_i, ...) arrays
        lengths : array_like of N ints from 0 to T, optional
            Row i takes its steps at t < lengths[i]; the others are not read, and zero in the outputs.
        mask : bool array_like of shape (N, T), optional
            Row i takes a step at t where mask[i, t]. At most one of the two may be given.
        resets : bool array_like of shape (N, T), or for a list of x one of (T_i,); optional
            Row i starts anew before step t where resets[i, t]: no layer looks across, and one that gives one output for
            a row gives it for the steps behind the last reset.

        Returns
        -------
        ndarray of shape (N, K) or (N, T, K)
            Of a list, padded with zeros.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type, shape or range; the message names it.
        """
        batch = self._checked(x, lengths, mask, resets)
        with np.errstate(all="ignore"):  # inf - inf is NaN where it belongs, here and below
            return _apart(self.forward_batch(batch)[0].data, batch.data)

    def forward(
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: Any = None,
        training: bool = False,
        seed: SupportsIndex | None = None,
    ) -> tuple[Array, Tape | Any]:
        """Return (y, tape): the outputs as a call gives them, and what `backward` needs; None unless `training`.

        The tape refers to x where x needed no conversion: leave its values alone until backward is done.

        Parameters
        ----------
        x, lengths, mask, resets
            As in a call.
        training : bool
            Whether dropout acts and there is a tape.
        seed : int, optional
            Of what the layer draws in training: the same seed, the same dropout.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type, shape or range; the message names it.
        """
        training = check_bool(training, "training")
        key = None if seed is None else masks.Key(masks.seed_of(check_int(seed, "seed")))
        batch = self._checked(x, lengths, mask, resets)
        with np.errstate(all="ignore"):
            out, _, penalty, content = self.forward_batch(batch, None, key, training)
        y = out.data.copy() if training else _apart(out.data, batch.data)  # the tape may hold it
        return y, Tape(self, content, y.shape, y.dtype, penalty + self.penalty()) if training else None

    def backward(
        self, dy: ArrayLike, tape: Tape, need_dx: bool = True
    ) -> tuple[Array | Any, dict[str, Array]]:
        """Return (dx, grads): the gradients of the input and of the parameters, with those of `tape.penalty`.

        Parameters
        ----------
        dy : array_like of the shape of y
            Gradient of the outputs. Not read at steps that are not valid.
        tape : Tape
            From `forward(..., training=True)`. It is only read: backward may be called again.
        need_dx : bool
            Whether dx is wanted.

        Returns
        -------
        dx : ndarray of the shape of x (padded, for a list), or None
            None unless `need_dx`, and of ids.
        grads : dict name -> ndarray, as `parameters`

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape; the message names it.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected what forward(..., training=True) returned, got {type(tape).__name__}")
        if tape.layer is not self:
            raise ValueError("tape: expected one of this layer's forward passes, got another layer's")
        dy = as_numeric(dy, tape.dtype, "dy")
        if dy.shape != tape.shape:
            raise ValueError(f"dy: expected the shape of y, {tape.shape}, got {dy.shape}")
        need_dx = check_bool(need_dx, "need_dx")
        with np.errstate(all="ignore"):
            dx, _, grads = self.backward_batch(dy, None, tape.content, need_dx)
        return None if dx is None else _apart(dx, dy), self.add_penalties(grads)

    def _checked(
        self, x: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None, resets: Any = None
    ) -> Batch:
        dtype = None if self._takes_ids else self.dtype
        batch = as_batch(x, dtype=dtype)
        shape, least = batch.data.shape, 2 if self._takes_ids else 3
        expected = self.expected_shape(shape)
        if expected is not None:
            raise ValueError(f"x: expected shape {expected}, got {shape_text(shape)}")
        if lengths is not None or mask is not None or resets is not None:  # rows and steps are where they belong
            if len(shape) < least:
                names = "lengths, mask" if resets is None else "resets"
                raise ValueError(f"{names}: expected sequences beside them, got x of shape {shape_text(shape)}")
            batch = as_batch(x if batch.lengths is not None else batch.data, lengths, mask, resets, dtype=dtype)
            refused = None if resets is None else self.refuses_resets()
            if refused is not None:
                raise ValueError(f"resets: expected {refused}")
        elif batch.lengths is not None and len(shape) < least:
            raise ValueError(f"x: expected a list of arrays (T_i, F), or one array (N, F), got a list of {shape[1:]}")
        self.check_values(batch, "x")
        return batch


class Parameterless(Stateless):
    """Base class of those that have nothing to train. Results have the type of the inputs."""

    _has_dtype = False

    def __init__(self, seed: SupportsIndex | None = None, trainable: bool = True) -> None:
        super().__init__(seed=seed, trainable=trainable)
        self._parameters = {}

    def build(self, input_size: SupportsIndex) -> None:
        """Nothing to create; inputs of any size will do."""
        check_int(input_size, "input_size", 1)

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        return iter(())

    def output_size(self, input_size: Any) -> Any:
        return input_size


def _apart(result: Array, given: Any) -> Array:
    """The result, a copy where it is what was given: a caller may write into the one and keep the other."""
    return result.copy() if result is given else result
