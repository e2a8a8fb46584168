"""The GRU layer: parameters, stacked layers and directions, and the state that goes in and out. The arithmetic is in
recurrence.py."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from cgru import initializers, kernels, recurrence
from cgru.layers import Layer, check_bool, check_initializer, check_int
from cgru.sequences import Batch, as_batch, as_numeric

MERGE_MODES = ("concat", "sum", "mul", "ave")


class Tape(NamedTuple):
    """What `GRU.backward` needs of one forward pass. It belongs to the caller and is only read."""

    layer: Layer  # whose forward pass it was
    batch: Batch  # as the stack saw it
    cells: list  # recurrence.Tape, in the order of the state
    outputs: list  # per layer: the outputs of its directions where the merge needs them, else None
    learned: bool  # the initial state came from the parameters
    output_shape: tuple  # of the gradient that backward takes


class _Prepared(NamedTuple):
    cells: list  # recurrence.Weights of every cell, in the order of the state
    learned: object  # initial states (cells, H); None where they are not learned
    handle: object  # kernels.Handle of them, for calls of microseconds


class GRU(Layer):
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
    kernel_initializer, recurrent_initializer, bias_initializer : str
        Names from `cgru.initializers`.
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
    (3H,), or (2, 3H) with reset_after: row 0 of the input, row 1 recurrent. With several layers or directions their
    names are "l0.forward.kernel", "l0.backward.kernel" and so on.

    The state is (N, H) for one layer in one direction, else (num_layers * directions, N, H), forward before backward
    within a layer.

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

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        reverse=False,
        stateful=False,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        reset_after=False,
        num_layers=1,
        bidirectional=False,
        merge_mode="concat",
        learn_initial_state=False,
        time_major=False,
        zero_output_for_mask=True,
        dtype="float32",
        seed=None,
        input_size=None,
    ):
        super().__init__(dtype, seed)
        self.units = check_int(units, "units", 1)
        self.activation = _check_name(activation, "activation", recurrence.ACTIVATIONS)
        self.recurrent_activation = _check_name(recurrent_activation, "recurrent_activation", recurrence.ACTIVATIONS)
        self.use_bias = check_bool(use_bias, "use_bias")
        self.return_sequences = check_bool(return_sequences, "return_sequences")
        self.return_state = check_bool(return_state, "return_state")
        self.go_backwards = check_bool(go_backwards, "go_backwards")
        self.reverse = check_bool(reverse, "reverse")
        self.stateful = check_bool(stateful, "stateful")
        self.kernel_initializer = check_initializer(kernel_initializer, "kernel_initializer")
        self.recurrent_initializer = check_initializer(recurrent_initializer, "recurrent_initializer")
        self.bias_initializer = check_initializer(bias_initializer, "bias_initializer")
        self.reset_after = check_bool(reset_after, "reset_after")
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.bidirectional = check_bool(bidirectional, "bidirectional")
        self.merge_mode = _check_name(merge_mode, "merge_mode", MERGE_MODES)
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
        self._is_plain = self._state_is_flat and self._runs_forward and not special
        if input_size is not None:
            self.build(input_size)

    # -- configuration, parameters

    def get_config(self):
        names = """
            units activation recurrent_activation use_bias return_sequences return_state go_backwards reverse stateful
            kernel_initializer recurrent_initializer bias_initializer reset_after num_layers bidirectional merge_mode
            learn_initial_state time_major zero_output_for_mask
        """.split()
        return {name: getattr(self, name) for name in names} | super().get_config()

    def output_size(self, input_size):
        return self.units * (2 if self.bidirectional and self.merge_mode == "concat" else 1)

    @cached_property
    def _prefixes(self):
        return list(self._each_prefix())

    def _each_prefix(self):
        """Yield what the parameters' names of each cell begin with, in the order of the state."""
        if self._state_is_flat:
            yield ""
            return
        for layer in range(self.num_layers):
            for direction in self._directions:
                yield f"l{layer}.{direction}."

    def parameter_shapes(self, input_size):
        H = self.units
        for index, prefix in enumerate(self._each_prefix()):
            yield prefix + "kernel", (input_size if index < len(self._directions) else self.output_size(None), 3 * H)
            yield prefix + "recurrent_kernel", (H, 3 * H)
            if self.use_bias:
                yield prefix + "bias", (2, 3 * H) if self.reset_after else (3 * H,)
            if self.learn_initial_state:
                yield prefix + "initial_state", (H,)

    def _initial(self, name):
        kind = name.rpartition(".")[2]
        return {
            "kernel": initializers.get(self.kernel_initializer),
            "recurrent_kernel": initializers.get(self.recurrent_initializer),
            "bias": initializers.get(self.bias_initializer),
            "initial_state": initializers.zeros,
        }[kind]

    def _changed(self):
        self._prepared = None

    def _ready(self):
        """What a call reads of the parameters, all of one moment; made once and dropped when they change."""
        prepared = self._prepared
        if prepared is None:
            with self._lock:
                parameters = self._built_parameters()
                cells = [
                    recurrence.prepare(
                        parameters[prefix + "kernel"],
                        parameters[prefix + "recurrent_kernel"],
                        parameters.get(prefix + "bias"),
                        reset_after=self.reset_after,
                        activation=self.activation,
                        recurrent_activation=self.recurrent_activation,
                    )
                    for prefix in self._prefixes
                ]
                learned = None
                if self.learn_initial_state:
                    learned = np.stack([parameters[prefix + "initial_state"] for prefix in self._prefixes])
                prepared = _Prepared(cells, learned, kernels.Handle(cells))
                self._prepared = prepared  # in one assignment: readers see the old form or the whole new one
        return prepared

    def __getstate__(self):
        return super().__getstate__() | {"_prepared": None}

    # -- state

    def _state_shape(self, N):
        return (N, self.units) if self._state_is_flat else (len(self._prefixes), N, self.units)

    def reset_states(self, states=None):
        """Forget the state of a stateful layer, or set it.

        Parameters
        ----------
        states : ndarray of shape (N, H), or (num_layers * directions, N, H); optional
            What the next call starts from; None is the initial state.

        Raises
        ------
        RuntimeError
            If the layer is not stateful.
        TypeError, ValueError
            If `states` is of the wrong type or shape.
        """
        if not self.stateful:
            raise RuntimeError("reset_states: expected a layer with stateful=True, got stateful=False")
        if states is not None:
            states = as_numeric(states, self.dtype, "states")
            rows = states.shape[-2] if states.ndim >= 2 else 0
            if states.shape != self._state_shape(rows):
                raise ValueError(f"states: expected shape {_shape_text(self._state_shape('N'))}, got {states.shape}")
            states = states.copy()
        self._state = states

    def _initial_state(self, initial_state, N, learned, name="x"):
        """Return ((cells, N, H), whether it is the learned one, (cells, H) or None)."""
        shape = self._state_shape(N)
        if initial_state is None and self._state is not None:
            if self._state.shape != shape:
                raise ValueError(
                    f"{name}: expected {self._state.shape[-2]} rows, as the state of this stateful layer has, got {N}; "
                    "reset_states() forgets it"
                )
            initial_state = self._state
        if initial_state is not None:
            h0 = as_numeric(initial_state, self.dtype, "initial_state")
            if h0.shape != shape:
                raise ValueError(f"initial_state: expected shape {shape}, got {h0.shape}")
            return np.ascontiguousarray(h0).reshape(len(self._prefixes), N, self.units), False
        h0 = np.zeros((len(self._prefixes), N, self.units), self.dtype)
        if learned is not None:
            h0 += learned[:, None]
        return h0, learned is not None

    # -- calls

    def __call__(self, x, initial_state=None, lengths=None, mask=None):
        """Return the outputs, and the final state with return_state.

        Parameters
        ----------
        x : array_like of shape (N, T, D), or (T, N, D) with time_major; or a list of (T_i, D) arrays
        initial_state : array_like of shape (N, H), or (num_layers * directions, N, H); optional
        lengths : array_like of N ints from 0 to T, optional
            Row i takes its steps at t < lengths[i].
        mask : bool array_like of shape (N, T), or (T, N) with time_major; optional
            Row i takes a step at t where mask[i, t]; holes are allowed.

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
        if self._is_plain and prepared is not None and lengths is None and mask is None:
            result = self._plain_call(prepared.handle, x, initial_state)
            if result is not None:
                return result
        y, h, _ = self.forward(x, initial_state, lengths, mask)
        return (y, h) if self.return_state else y

    def _plain_call(self, handle, x, initial_state):
        """The usual inference, without the microseconds that everything else costs; None where it is not that."""
        if not isinstance(x, np.ndarray) or x.ndim != 3:
            return None
        if self.time_major:
            x = x.swapaxes(0, 1)
        N, T, _ = x.shape
        if initial_state is None:
            h = np.empty((N, self.units), self.dtype)
        elif not isinstance(initial_state, np.ndarray) or initial_state.dtype != self.dtype:
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

    def forward(self, x, initial_state=None, lengths=None, mask=None, training=False):
        """Return (y, h, tape), as a call does; the tape is what `backward` needs, None unless `training`.

        The tape refers to x where x needed no conversion: leave its values alone until backward is done.
        """
        batch = as_batch(x, lengths, mask, dtype=self.dtype, time_major=self.time_major)
        y, h, tape = self._run(batch, initial_state, check_bool(training, "training"))
        return self._time_order(y), h, tape

    def backward(self, dy, tape, dh=None, need_dx=True):
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
        dx, dh0, grads = self._pull(dy, dh, tape, check_bool(need_dx, "need_dx"))
        return self._time_order(dx), dh0, grads

    def step(self, x_t, h=None, out=None):
        """One time step: return the state after `h` and the input `x_t`.

        Parameters
        ----------
        x_t : array_like of shape (N, D)
        h : array_like of shape (N, H), or (num_layers, N, H); optional
            The state; None is the initial state.
        out : ndarray of the state's shape and the layer's dtype, C-contiguous; optional
            Written and returned, with nothing allocated; it may be `h` itself.

        Returns
        -------
        ndarray of the state's shape
            The output of the step is that of the last layer: itself, or its last row block.

        Raises
        ------
        ValueError
            If the layer is bidirectional, reverse or go_backwards, or an argument has the wrong shape.
        """
        prepared = self._prepared
        if self._runs_forward and prepared is not None and out is not None:
            if prepared.handle.step(x_t, h, out, kernels.get_num_threads()):
                return out
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
        if out is None:
            out = np.empty(shape, self.dtype)
        elif not isinstance(out, np.ndarray):
            raise TypeError(f"out: expected an ndarray, got {type(out).__name__}")
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.carray:  # C-contiguous, aligned, writable
            raise ValueError(
                f"out: expected a writable, aligned, C-contiguous array of shape {shape} and dtype {self.dtype}, "
                f"got shape {out.shape}, dtype {out.dtype}, strides {out.strides}"
            )
        ready.handle.step(np.ascontiguousarray(x_t), np.ascontiguousarray(h), out, kernels.get_num_threads())
        return out

    # -- the layer protocol

    def forward_batch(self, batch, training=False):
        data = batch.data
        if data.dtype != self.dtype:
            data = as_numeric(data, self.dtype)
        y, _, tape = self._run(batch.with_data(data), None, training)
        if not self.return_sequences:
            return Batch(y), tape
        return (_flipped(batch) if self.go_backwards else batch).with_data(y), tape

    def backward_batch(self, d_out, tape, need_dx=True):
        self._check_tape(tape)
        if d_out.shape != tape.output_shape:
            raise ValueError(f"d_out: expected the shape of the outputs, {tape.output_shape}, got {d_out.shape}")
        dx, _, grads = self._pull(np.asarray(d_out, self.dtype), None, tape, need_dx)
        return dx, grads

    def _check_tape(self, tape):
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected what forward(..., training=True) returned, got {type(tape).__name__}")
        if tape.layer is not self:
            raise ValueError("tape: expected one of this layer's forward passes, got another layer's")

    # -- the stack, batch-major

    def _build_for(self, x, name):
        if x.shape[-1] < 1:
            raise ValueError(f"{name}: expected at least one feature, got shape {x.shape}")
        if self.built and x.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: expected {self.input_size} features, as the layer was built for, got {x.shape[-1]}"
            )
        self.build(x.shape[-1])

    def _run(self, batch, initial_state, training):
        """Return (y, h, tape); y is (N, T, F), or (N, F) without return_sequences."""
        x = batch.data
        if x.ndim != 3:
            shape = "(T, N, D)" if self.time_major else "(N, T, D)"
            given = x.swapaxes(0, 1) if self.time_major and x.ndim > 1 else x
            raise ValueError(f"x: expected shape {shape} or a list of (T_i, D) arrays, got {given.shape}")
        self._build_for(x, "x")
        N, T, _ = x.shape
        weights, learned, _ = self._ready()
        h0, is_learned = self._initial_state(initial_state, N, learned)
        if self.go_backwards:
            batch = _flipped(batch)
        plans = self._plans(batch)
        h = np.empty((len(weights), N, self.units), self.dtype)
        cells, outputs = [], []
        x = recurrence.readable(batch.data)
        for layer in range(self.num_layers):
            last = layer == self.num_layers - 1
            wanted = self.return_sequences or not last
            y, ys = self._allocate_outputs(N, T, plans[0].steps == N * T) if wanted else (None, [None] * len(plans))
            first = layer * len(plans)
            results = recurrence.run(
                *(
                    recurrence.forward_pass(weights[first + d], x, h0[first + d], plan, ys[d], training, h[first + d])
                    for d, plan in enumerate(plans)
                )
            )
            cells += [tape for _, tape in results]
            if last and wanted and not self.zero_output_for_mask and batch.valid is not None:
                for d, y_d in enumerate(ys):
                    _repeat_last(y_d, batch.valid, backwards=d == 1 or self.reverse)
            x = self._merge(y, ys) if wanted else None
            outputs.append(ys if self.merge_mode == "mul" and self.bidirectional else None)
        if not self.return_sequences:
            finals = list(h[-len(plans) :])
            x = self._merge(None, finals)
            if outputs[-1] is not None:
                outputs[-1] = [final.copy() for final in finals]  # h is the caller's
        if self.stateful:
            self._state = h.reshape(self._state_shape(N)).copy()
        state = h[0] if self._state_is_flat else h
        if not self.return_sequences and x.base is not None:
            x = x.copy()  # y and h are the caller's, one each
        return x, state, Tape(self, batch, cells, outputs, is_learned, x.shape) if training else None

    def _pull(self, dy, dh, tape, need_dx):
        """Return (dx, dh0, grads) for gradients in batch-major order."""
        directions = len(self._directions)
        N = len(tape.batch.data)
        shape = (len(tape.cells), N, self.units)
        dh = np.zeros(shape, self.dtype) if dh is None else dh.reshape(shape).copy()
        dh0 = np.empty_like(dh)
        grads = {}
        if dy is not None and not self.return_sequences:
            for d, term in enumerate(self._split(dy, tape.outputs[-1])):
                dh[len(tape.cells) - directions + d] += term
            dy = None
        for layer in reversed(range(self.num_layers)):
            dys = [None] * directions if dy is None else self._split(dy, tape.outputs[layer])
            last = layer == self.num_layers - 1
            dx = None
            if last and dy is not None and not self.zero_output_for_mask and tape.batch.valid is not None:
                dys = [
                    _gather_repeated(d_out, tape.batch.valid, backwards=d == 1 or self.reverse)
                    for d, d_out in enumerate(dys)
                ]
            dys = [d_out if d_out is None else recurrence.readable(d_out) for d_out in dys]
            first = layer * directions
            results = recurrence.run(
                *(
                    recurrence.backward_pass(dys[d], dh[first + d], tape.cells[first + d], need_dx or layer > 0)
                    for d in range(directions)
                )
            )
            for cell, g in enumerate(results, start=first):
                dh0[cell] = g.dh0
                if g.dx is not None:
                    dx = g.dx if dx is None else np.add(dx, g.dx, out=dx)
                prefix = self._prefixes[cell]
                grads[prefix + "kernel"] = g.kernel
                grads[prefix + "recurrent_kernel"] = g.recurrent_kernel
                if self.use_bias:
                    grads[prefix + "bias"] = g.bias
                if self.learn_initial_state:
                    used = g.dh0 if tape.learned else g.dh0[:0]
                    grads[prefix + "initial_state"] = used.sum(axis=0)
            dy = dx
        if self.go_backwards and dx is not None:
            dx = dx[:, ::-1]
        grads = {name: grads[name] for name in self._built_parameters()}
        return dx, dh0[0] if self._state_is_flat else dh0, grads

    def _plans(self, batch):
        """The schedule of each direction."""
        N, T, _ = batch.data.shape
        reverses = (False, True) if self.bidirectional else (self.reverse,)
        return [recurrence.schedule(N, T, batch.lengths, batch.mask, reverse) for reverse in reverses]

    def _allocate_outputs(self, N, T, all_valid):
        """(y or None, the array that each direction writes): halves of y for "concat", y itself for one direction."""
        empty = np.empty if all_valid else np.zeros
        H = self.units
        if self.bidirectional and self.merge_mode != "concat":
            return None, [empty((N, T, H), self.dtype) for _ in self._directions]
        if not (self.bidirectional or self.time_major):
            y = empty((N, T, H), self.dtype)
            return y, [y]
        shape = (T, N) if self.time_major else (N, T)
        y = empty((*shape, len(self._directions) * H), self.dtype)
        y = y.swapaxes(0, 1) if self.time_major else y
        return y, [y[:, :, d * H : (d + 1) * H] for d in range(len(self._directions))]

    def _merge(self, y, ys):
        """One array of the directions' arrays; y is the one that already holds them, if any."""
        if y is not None:
            return y
        if len(ys) == 1:
            return ys[0]
        if self.merge_mode == "concat":
            return np.concatenate(ys, axis=-1)
        if self.merge_mode == "mul":
            return ys[0] * ys[1]
        total = ys[0] + ys[1]
        return total if self.merge_mode == "sum" else total / 2

    def _split(self, dy, ys):
        """The gradient of each direction's array, from that of the merged one."""
        H = self.units
        if not self.bidirectional:
            return [dy]
        if self.merge_mode == "concat":
            return [dy[..., :H], dy[..., H:]]
        if self.merge_mode == "mul":
            with np.errstate(invalid="ignore", over="ignore"):  # steps that are not valid may hold anything
                return [dy * ys[1], dy * ys[0]]
        half = dy if self.merge_mode == "sum" else dy / 2
        return [half, half]

    def _time_order(self, array):
        """A batch-major result in the layer's order."""
        return array.swapaxes(0, 1) if self.time_major and array is not None and array.ndim == 3 else array

    def _time_order_shape(self, shape):
        return (shape[1], shape[0], *shape[2:]) if self.time_major and len(shape) == 3 else shape


def _check_name(value, name, allowed):
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {sorted(allowed)}, got {value!r}")
    return value


def _shape_text(shape):
    return f"({', '.join(map(str, shape))})"


def _flipped(batch):
    """The batch with time running backwards; lengths become a mask whose padding comes first."""
    valid = batch.valid
    return Batch(batch.data[:, ::-1], None, None if valid is None else valid[:, ::-1])


def _last_valid(valid, backwards):
    """(N, T): the last valid time up to each step in processing order, -1 where there is none."""
    T = valid.shape[1]
    times = np.where(valid, np.arange(T), T if backwards else -1)
    if not backwards:
        return np.maximum.accumulate(times, axis=1)
    last = np.minimum.accumulate(times[:, ::-1], axis=1)[:, ::-1]
    return np.where(last == T, -1, last)


def _repeat_last(y, valid, backwards):
    """Fill the steps of y (N, T, H) that are not valid with the output before them."""
    source = _last_valid(valid, backwards)
    filled = np.take_along_axis(y, np.maximum(source, 0)[:, :, None], axis=1)
    np.copyto(y, filled, where=(source >= 0)[:, :, None])


def _gather_repeated(dy, valid, backwards):
    """The gradient of the valid outputs when `_repeat_last` repeated them."""
    source = _last_valid(valid, backwards)
    rows, times = np.nonzero(source >= 0)
    total = np.zeros_like(dy)
    np.add.at(total, (rows, source[rows, times]), dy[rows, times])
    return total
