"""A GRU as one calls it: arrays in, arrays out, forward, backward and step by step.

Here arguments are checked, and time comes where `time_major` says; `Stack` is batch-major.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import kernels, masks
from cgru.checks import check_bool, check_recompute
from cgru.layers import gates
from cgru.layers.gates import GatesOrDict
from cgru.layers.stack import Stack, Tape
from cgru.sequences import Batch, as_batch, as_mask, as_numeric
from cgru.typing import Array, ArrayOrPair, Recompute, Shape


class Calls(Stack):
    """The array-valued face of a GRU, as `Stateless` is that of the layers without a state; `GRU` has the options."""

    _runs_forward: bool  # so that it can step
    _is_plain: bool  # one layer that runs forward and starts at zero: calls of microseconds

    def __call__(
        self,
        x: ArrayLike,
        initial_state: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        resets: Any = None,
    ) -> ArrayOrPair:
        """Return the outputs, and the final state with return_state.

        Parameters
        ----------
        x : array_like of shape (N, T, D), or (T, N, D) with time_major; or a list of (T_i, D) arrays
        initial_state : array_like of shape (N, H), or (num_layers * directions, N, H); optional
        lengths : array_like of N ints from 0 to T, optional
            Row i takes its steps at t < lengths[i].
        mask : bool array_like of shape (N, T), or (T, N) with time_major; optional
            Row i takes a step at t where mask[i, t]; holes are allowed.
        resets : bool array_like of shape (N, T), or (T, N) with time_major; or for a list of x one of (T_i,); optional
            Before step t the state of row i becomes the initial one, learned or zero, where resets[i, t]: `x` holds
            several episodes in a row. See the notes.

        Returns
        -------
        y : ndarray of shape (N, T, F), or (T, N, F) with time_major; (N, F) without return_sequences
            F is 2H for a bidirectional layer with merge_mode "concat", else H.
        h : ndarray of shape (N, H), or (num_layers * directions, N, H); with return_state
            The state after each row's last valid step; the initial state where there is none.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape; the message names it.
        """
        prepared = self._prepared
        if self._is_plain and prepared is not None and lengths is None and mask is None and resets is None:
            result = self._plain_call(prepared.handle, x, initial_state)
            if result is not None:
                return result
        y, h, _ = self.forward(x, initial_state, lengths, mask, resets=resets)
        return (y, h) if self.return_state else y

    def forward(
        self,
        x: ArrayLike,
        initial_state: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        training: bool = False,
        seed: SupportsIndex | masks.Key | None = None,
        *,
        resets: Any = None,
        recompute: Recompute = None,
    ) -> tuple[Array, Array, Tape | Any]:
        """Return the outputs, the final state and, in training, the tape that `backward` needs.

        Parameters
        ----------
        x, initial_state, lengths, mask, resets
            As in a call. The tape refers to x where x needed no conversion: leave its values alone until backward is
            done.
        training : bool
            Whether there is a tape, and dropout and zoneout act.
        seed : int or cgru.masks.Key, optional
            What dropout and zoneout choose: the same with the same one, and anew at each call without it.
        recompute : int or "auto", optional
            With a number k of steps the tape keeps the state of every k-th step, and all that backward needs of the
            last k steps alone: of the others `backward` computes it again, k steps at a time. It is the same bits in
            less memory and more time, half as much again at most. "auto" is the square root of the number of steps, for
            which a tape and the states that are kept are about as large. A smaller k than makes a tape of 1 MB, or than
            the block of steps whose gradients are summed at once, of N rows 512 / N steps, counts as that. Of rows of
            unequal lengths it is k steps on average; with resets, as many of all segments at once as take that memory.
            The outputs of lower layers of a stack are kept.

        Returns
        -------
        y, h : ndarray
            As of a call with return_state.
        tape : Tape, or None without training
            `tape.penalty` is what the regularizers add to the loss; their gradients are among what `backward` returns.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type, shape or range; the message names it.
        """
        training = check_bool(training, "training")
        every = check_recompute(recompute, training)
        batch, key = self._as_batch(x, lengths, mask, resets), masks.as_key(seed)
        with np.errstate(all="ignore"):  # inf - inf is NaN in its own row, here and below
            y, h, _, tape = self._run(batch, initial_state, training, self._chance(key) if training else None, every)
        self._keep_state(h)
        return self._time_order(y), h, tape

    def backward(
        self, dy: ArrayLike | None, tape: Tape, dh: ArrayLike | None = None, need_dx: bool = True
    ) -> tuple[Array | Any, Array, dict[str, Array]]:
        """Return (dx, dh0, grads): the gradients of the input, of the initial state and of the parameters.

        Parameters
        ----------
        dy : array_like of the shape of y, or None
            Gradient of the outputs. Not read at steps that are not valid.
        tape : Tape
            From `forward(..., training=True)`. It is only read: backward may be called again.
        dh : array_like of the shape of the state, optional
            Gradient of the final state.
        need_dx : bool
            Whether dx is wanted; it is None otherwise.

        Returns
        -------
        dx : ndarray of the shape of x (padded, for a ragged list), or None
        dh0 : ndarray of the shape of the state
        grads : dict name -> ndarray, as `parameters`

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape; the message names it.
        """
        self._check_tape(tape)
        if dy is None and dh is None:
            raise ValueError("dy, dh: expected at least one gradient, got None for both")
        if dy is not None:
            dy = as_numeric(dy, self.dtype, "dy")
            given = dy.shape
            if dy.ndim == 3 and self.time_major:
                dy = dy.swapaxes(0, 1)
            if dy.shape != tape.output_shape:
                expected = self._time_order_shape(tape.output_shape)
                raise ValueError(f"dy: expected the shape of y, {expected}, got {given}")
        if dh is not None:
            dh = as_numeric(dh, self.dtype, "dh")
            expected = self._state_shape(len(tape.batch.data))
            if dh.shape != expected:
                raise ValueError(f"dh: expected the shape of the state, {expected}, got {dh.shape}")
        with np.errstate(all="ignore"):
            dx, dh0, grads = self._pull(dy, dh, tape, check_bool(need_dx, "need_dx"))
            return self._time_order(dx), dh0, self.add_penalties(grads)

    def step(
        self, x_t: ArrayLike, h: ArrayLike | None = None, out: Array | None = None, *, resets: ArrayLike | None = None
    ) -> Array:
        """One time step: return the state after `h` and the input `x_t`.

        Parameters
        ----------
        x_t : array_like of shape (N, D)
        h : array_like of shape (N, H), or (num_layers, N, H); optional
            The state; None is the initial state.
        out : ndarray of the state's shape and the layer's dtype, C-contiguous and aligned; optional
            Written and returned, with nothing allocated; it may be `h` or `x_t` itself, or overlap them.
        resets : bool array_like of shape (N,), optional
            Rows that start from the initial state instead of `h`.

        Returns
        -------
        ndarray of the state's shape
            The output of the step is that of the last layer: itself, or its last row block.

        Raises
        ------
        TypeError, ValueError
            If the layer is bidirectional, reverse or go_backwards, or an argument is of the wrong type or shape.
        """
        if resets is not None and self._runs_forward:
            x_t = as_numeric(x_t, self.dtype, "x_t")
            resets = as_mask(resets, x_t.shape[:1], "resets")
            if x_t.ndim == 2:
                self._build_for(x_t, "x_t")
                h = self.restarted(h, resets)
        prepared = self._prepared
        if self._runs_forward and prepared is not None and (h is not None or self._state is None):
            after = prepared.handle.step(x_t, h, out, kernels.get_num_threads())
            if after is not None:
                return after
        for name in ("bidirectional", "reverse", "go_backwards"):
            if getattr(self, name):
                raise ValueError(f"step: expected a layer that runs forward in time, got {name}=True")
        x_t = as_numeric(x_t, self.dtype, "x_t")
        if x_t.ndim != 2:
            raise ValueError(f"x_t: expected shape (N, D), got {x_t.shape}")
        self._build_for(x_t, "x_t")
        N = len(x_t)
        shape = self._state_shape(N)
        ready = self._ready()
        if h is None:
            h = self._initial_state(None, N, ready.learned, "x_t")[0].reshape(shape)
        else:
            h = as_numeric(h, self.dtype, "h")
            if h.shape != shape:
                raise ValueError(f"h: expected shape {shape}, got {h.shape}")
        if out is not None:
            self._check_out(out, shape)
        x_t, h = np.ascontiguousarray(x_t), np.ascontiguousarray(h)
        while (after := ready.handle.step(x_t, h, out, kernels.get_num_threads())) is None:
            ready = self._ready()  # another thread has chosen another backend since
        return after

    def gates(
        self,
        x: ArrayLike,
        initial_state: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        resets: Any = None,
    ) -> GatesOrDict:
        """Return reset gate, update gate, candidate and state of every step, as they are in inference.

        Parameters
        ----------
        x, initial_state, lengths, mask, resets
            As in a call. The state of a stateful layer is where the rows start, and stays as it is.

        Returns
        -------
        Gates, or dict of Gates
            `r`, `z`, `n` and `h`, each (N, T, H), or (T, N, H) with time_major, zero where a row takes no step. With
            several layers or directions a dict, whose keys are those of the parameters: "l0.forward", "l0.backward",
            "l1.forward" and so on. `h` has the bits of the outputs (with merge_mode "concat" of their half), and, with
            ``h_before`` one step earlier, is ``(1 - z) * h_before + z * n`` to rounding.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape; the message names it.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> layer = cgru.GRU(4, return_sequences=True, seed=0)
        >>> x = np.random.default_rng(0).standard_normal((2, 5, 3))
        >>> r, z, n, h = layer.gates(x, lengths=[5, 2])
        >>> z.shape, bool((h == layer(x, lengths=[5, 2])).all()), bool((z[1, 2:] == 0).all())
        ((2, 5, 4), True, True)
        """
        with np.errstate(all="ignore"):
            *_, tape = self._run(self._as_batch(x, lengths, mask, resets), initial_state, record=True)
        assert tape is not None
        found = [gates.Gates(*map(self._time_order, gates.of_tape(cell))) for cell in tape.cells]
        if self._state_is_flat:
            return found[0]
        return {prefix.rstrip("."): cell for prefix, cell in zip(self._prefixes, found, strict=True)}

    # -- what they share

    def _plain_call(self, handle: kernels.Handle, x: ArrayLike, initial_state: ArrayLike | None) -> ArrayOrPair | None:
        """The usual inference, without the microseconds that everything else costs; None where it is not that."""
        if type(x) is not np.ndarray or x.ndim != 3:  # a masked array is one, too
            return None
        if self.time_major:
            x = x.swapaxes(0, 1)
        N, T, _ = x.shape
        if initial_state is None:
            h = np.empty((N, self.units), self.dtype)
        elif type(initial_state) is not np.ndarray or initial_state.dtype != self.dtype:
            return None
        elif initial_state.shape == (N, self.units):
            h = np.array(initial_state, order="C")
        else:
            return None
        y = rows = None
        if self.return_sequences:
            y = np.empty((T, N, self.units) if self.time_major else (N, T, self.units), self.dtype)
            rows = y.swapaxes(0, 1) if self.time_major else y
        if not handle.sequence(x, rows, h, initial_state is not None, kernels.get_num_threads()):
            return None
        y = h.copy() if y is None else y
        return (y, h) if self.return_state else y

    def _as_batch(self, x: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None, resets: Any) -> Batch:
        if isinstance(x, np.ndarray) and x.ndim != 3 and x.dtype != object:  # before lengths or mask are looked at
            raise self._wrong_shape(x.shape)
        return as_batch(x, lengths, mask, resets, dtype=self.dtype, time_major=self.time_major)

    def _time_order(self, array: Any) -> Any:
        """A batch-major result in the layer's order."""
        return array.swapaxes(0, 1) if self.time_major and array is not None and array.ndim == 3 else array

    def _time_order_shape(self, shape: Shape) -> Shape:
        return (shape[1], shape[0], *shape[2:]) if self.time_major and len(shape) == 3 else shape

    def _check_out(self, out: Array, shape: Shape) -> None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out: expected an ndarray, got {type(out).__name__}")
        if out.shape != shape or out.dtype != self.dtype or not out.flags.carray:  # C-contiguous, aligned, writable
            raise ValueError(
                f"out: expected a writable, aligned, C-contiguous array of shape {shape} and dtype {self.dtype}, "
                f"got shape {out.shape}, dtype {out.dtype}, strides {out.strides}"
            )
