"""GRU: the face of the recurrent layer, its options, calls and checks of arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import kernels, masks, recurrence
from cgru.checks import check_bool, check_int, check_name, check_rate, check_recompute
from cgru.layers import gates
from cgru.layers.gates import GatesOrDict
from cgru.layers.stack import Stack, Tape
from cgru.sequences import Batch, as_batch, as_mask, as_numeric
from cgru.typing import (
    Activation,
    Array,
    ArrayOrPair,
    ConstraintLike,
    DType,
    InitializerLike,
    MergeMode,
    Recompute,
    RegularizerLike,
)

MERGE_MODES = ("concat", "sum", "mul", "ave")


class GRU(Stack):
    """Gated recurrent unit: layers and directions of it, forward, backward and step by step.

    Parameters
    ----------
    units : int
        Size H of the state of one layer in one direction.
    activation, recurrent_activation : str
        g of the candidate and f of the gates: "sigmoid", "tanh", "relu", "linear", "hard_sigmoid" (clip(x/6 + 0.5, 0,
        1), Keras 3) or "hard_sigmoid_keras2" (clip(0.2 x + 0.5, 0, 1), Keras 2 and ONNX).
    use_bias : bool
        Whether there are biases.
    return_sequences : bool
        Whether a call returns the outputs of all steps, (N, T, H), or those of the last, (N, H).
    return_state : bool
        Whether a call returns the final state as well.
    go_backwards : bool
        Read the input from its end and return the outputs in that order, the last step's first, as Keras does.
        **Outputs are not in the order of the input**; `reverse` is what most people want. A stack is flipped once,
        before its first layer.
    reverse : bool
        Run from each row's last valid step to its first; outputs in the order of the input.
    stateful : bool
        Start each call from the state that the last one left, until `reset_states`.
    kernel_initializer, recurrent_initializer, bias_initializer : str, Initializer or callable
        From `cgru.initializers`.
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer : str or Regularizer, optional
        From `cgru.regularizers`: what the parameters, in every layer and direction, and the outputs add to the loss of
        a model.
    kernel_constraint, recurrent_constraint, bias_constraint : str, Constraint or callable, optional
        From `cgru.constraints`: what is done with the parameters after each update.
    dropout : float
        In training, the probability with which a feature of the input of the first layer is dropped: one choice a
        sequence, for all steps, gates and directions. Here and below what is kept is scaled, so that means stay.
    recurrent_dropout : float
        In training, the probability with which a unit is dropped from the state that the products read, in every layer
        and direction: one choice a sequence. What the update gate keeps of the state is not touched.
    layer_dropout : float
        In training, the probability with which an output of a layer is dropped before the next layer reads it: a choice
        for every element.
    zoneout : float
        The probability with which a unit keeps its old state at a step of training; in inference each state is the
        expectation, ``zoneout * h + (1 - zoneout) * h'``.
    layer_norm : bool
        Whether the products with the kernels are normalised, see the notes; each cell then has a parameter `gain`.
    reset_after : bool
        Whether the reset gate acts after the product with the recurrent kernel (PyTorch, cuDNN, Keras' default) or
        before it.
    num_layers : int
        Layers; each reads the merged outputs of the one below.
    bidirectional : bool
        Whether every layer also runs from the end to the start.
    merge_mode : {"concat", "sum", "mul", "ave"}
        How the outputs of the two directions become one.
    learn_initial_state : bool
        Whether each cell has a parameter `initial_state` (H,), used where a call gives none; it starts at zero.
    time_major : bool
        Whether arrays are (T, N, .) instead of (N, T, .).
    zero_output_for_mask : bool
        Whether outputs at steps that are not valid are zero, or repeat the last output before them in processing order
        (zero where there is none).
    trainable : bool
        Whether `Sequential.fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Of parameters, state and results; inputs of another type are converted once.
    seed : int, optional
        Of the initial parameters.
    input_size : int, optional
        Number D of input features; with it the parameters are built now, else at the first call.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, unknown or out of range; the message names it.

    Notes
    -----
    With sigmoid f and tanh g, one step is (reset_after=False: K. Cho et al. 2014, arXiv:1406.1078, in the form of J.
    Chung et al. 2014, arXiv:1412.3555)::

        r  = f(x W_r + h U_r + b_r)
        z  = f(x W_z + h U_z + b_z)
        n  = g(x W_n + (r * h) U_n + b_n)         reset_after: g(x W_n + b_n + r * (h U_n + c_n))
        h' = (1 - z) * h + z * n

    Parameters of one cell, gate blocks in the order r, z, n: `kernel` (D, 3H), `recurrent_kernel` (H, 3H), `bias`
    (3H,), or (2, 3H) with reset_after: row 0 of the input, row 1 recurrent; with `layer_norm` a `gain` (2, 3H) as well,
    which starts at one. With several layers or directions their names are "l0.forward.kernel", "l0.backward.kernel" and
    so on.

    With `layer_norm` (J. L. Ba et al. 2016, arXiv:1607.06450) each of the products x W_rz, x W_n, h U_rz and h U_n
    (without reset_after: (r * h) U_n) is replaced by LN of it, before biases are added::

        LN(v) = gain * (v - mean(v)) / sqrt(var(v) + 1e-5)

    over the 2H columns of r and z together and over the H of n. Row 0 of `gain` is of the input, row 1 recurrent.

    What dropout and zoneout (D. Krueger et al. 2017, arXiv:1606.01305) choose in training follows from the key of the
    pass (`cgru.masks`): from the seed, the update, the example, the layer, the direction, the step and the unit. It
    depends on no other row, on no padding and on no thread.

    The state is (N, H) for one layer in one direction, else (num_layers * directions, N, H), forward before backward
    within a layer.

    Resets cut a row into segments, whose outputs have the bits of each run by itself. A given initial state is only
    where the row starts, and a reset at its first step overrides it. One at a step that is not valid acts before the
    row's next valid step, and never changes the final state, which is that of the row's last segment. In a reverse
    direction a reset acts between the same two steps; `go_backwards` flips resets with the input. Gradients stop there:
    they go to the learned initial state, or nowhere. Dropout and zoneout choose as they would without resets.

    Any number of threads may call one layer at once, unless it is stateful. Bool, integer and half-precision inputs are
    converted.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.GRU(4, return_sequences=True, return_state=True, seed=0)
    >>> y, h = layer(np.ones((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h.shape
    ((2, 5, 4), (2, 4))
    >>> bool((y[1, 2:] == 0).all() and (h[1] == y[1, 1]).all())
    True
    """

    _options: tuple[str, ...] = (
        *("units", "activation", "recurrent_activation", "use_bias", "return_sequences", "return_state"),
        *("go_backwards", "reverse", "stateful", "kernel_initializer", "recurrent_initializer", "bias_initializer"),
        *("kernel_regularizer", "recurrent_regularizer", "bias_regularizer", "activity_regularizer"),
        *("kernel_constraint", "recurrent_constraint", "bias_constraint"),
        *("dropout", "recurrent_dropout", "layer_dropout", "zoneout", "layer_norm"),
        *("reset_after", "num_layers", "bidirectional", "merge_mode", "learn_initial_state", "time_major"),
        "zero_output_for_mask",
    )

    def __init__(
        self,
        units: SupportsIndex,
        activation: Activation = "tanh",
        *,
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        reverse: bool = False,
        stateful: bool = False,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        recurrent_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        layer_dropout: float = 0.0,
        zoneout: float = 0.0,
        layer_norm: bool = False,
        reset_after: bool = False,
        num_layers: SupportsIndex = 1,
        bidirectional: bool = False,
        merge_mode: MergeMode = "concat",
        learn_initial_state: bool = False,
        time_major: bool = False,
        zero_output_for_mask: bool = True,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
        input_size: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.units = check_int(units, "units", 1)
        if isinstance(activation, (int, np.integer)) and not isinstance(activation, bool):
            raise TypeError(
                f"activation: expected a name, got {activation}: "
                f"PyTorch's GRU({self.units}, {activation}) is GRU({activation}, input_size={self.units}) here"
            )
        self.activation = check_name(activation, "activation", recurrence.ACTIVATIONS)
        self.recurrent_activation = check_name(recurrent_activation, "recurrent_activation", recurrence.ACTIVATIONS)
        self.use_bias = check_bool(use_bias, "use_bias")
        self.return_sequences = check_bool(return_sequences, "return_sequences")
        self.return_state = check_bool(return_state, "return_state")
        self.go_backwards = check_bool(go_backwards, "go_backwards")
        self.reverse = check_bool(reverse, "reverse")
        self.stateful = check_bool(stateful, "stateful")
        self._keep(kernel_initializer=kernel_initializer, kernel_regularizer=kernel_regularizer)
        self._keep(recurrent_initializer=recurrent_initializer, recurrent_regularizer=recurrent_regularizer)
        self._keep(bias_initializer=bias_initializer, bias_regularizer=bias_regularizer)
        self._keep(activity_regularizer=activity_regularizer, kernel_constraint=kernel_constraint)
        self._keep(recurrent_constraint=recurrent_constraint, bias_constraint=bias_constraint)
        self.dropout = check_rate(dropout, "dropout")
        self.recurrent_dropout = check_rate(recurrent_dropout, "recurrent_dropout")
        self.layer_dropout = check_rate(layer_dropout, "layer_dropout")
        self.zoneout = check_rate(zoneout, "zoneout")
        self.layer_norm = check_bool(layer_norm, "layer_norm")
        self.reset_after = check_bool(reset_after, "reset_after")
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.bidirectional = check_bool(bidirectional, "bidirectional")
        self.merge_mode = check_name(merge_mode, "merge_mode", MERGE_MODES)
        self.learn_initial_state = check_bool(learn_initial_state, "learn_initial_state")
        self.time_major = check_bool(time_major, "time_major")
        self.zero_output_for_mask = check_bool(zero_output_for_mask, "zero_output_for_mask")
        for name in ("go_backwards", "reverse"):
            if getattr(self, name) and self.bidirectional:
                raise ValueError(f"{name}: expected False beside bidirectional=True, got True")
        if self.go_backwards and self.reverse:
            raise ValueError("go_backwards, reverse: give one of the two, got both")
        self._prepared = None
        self._state = None
        self._directions = ("forward", "backward") if self.bidirectional else ("forward",)
        self._state_is_flat = self.num_layers == 1 and not self.bidirectional
        self._runs_forward = not (self.bidirectional or self.reverse or self.go_backwards)
        special = self.stateful or self.learn_initial_state
        self._check_axes()
        self._is_plain = self._state_is_flat and self._runs_forward and not special
        if input_size is not None:
            self.build(input_size)

    def _shown(self) -> Iterator[str]:
        yield from super()._shown()
        if self.built:
            yield f"input_size={self.input_size}"

    # -- calls

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
        """Return (y, h, tape), as a call does; the tape is what `backward` needs, None unless `training`.

        `tape.penalty` is what the regularizers add to the loss; their gradients are among what `backward` returns.

        In training dropout and zoneout act. `seed`, an int or a `cgru.masks.Key`, says what they choose: with the same
        one they choose the same. Without it they choose anew at each call.

        With `recompute`, a number k of steps, the tape keeps the state of every k-th step, and all that backward needs
        of the last k steps alone: of the others `backward` computes it again, k steps at a time. It is the same bits in
        less memory and more time, half as much again at most. "auto" is the square root of the number of steps, for
        which a tape and the states that are kept are about as large. A smaller k than makes a tape of 1 MB, or than the
        block of steps whose gradients are summed at once, of N rows 512 / N steps, counts as that. Of rows of unequal
        lengths it is k steps on average; with resets, as many of all segments at once as take that memory. The outputs
        of lower layers of a stack are kept.

        The tape refers to x where x needed no conversion: leave its values alone until backward is done.

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

    def _as_batch(self, x: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None, resets: Any) -> Batch:
        if isinstance(x, np.ndarray) and x.ndim != 3 and x.dtype != object:  # before lengths or mask are looked at
            raise self._wrong_shape(x.shape)
        return as_batch(x, lengths, mask, resets, dtype=self.dtype, time_major=self.time_major)

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
        ValueError
            If the layer is bidirectional, reverse or go_backwards, or an argument has the wrong shape.
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
