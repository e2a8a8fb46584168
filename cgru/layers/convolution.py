"""Conv1D: a window of steps, weighted, at every step.

The window's steps are brought together as one row, and the rows go through the same products as those of Dense. They
are made for a block of outputs at a time, so that the memory they take is small and stays in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import kernels
from cgru.checks import check_bool, check_int, check_name
from cgru.layers.affine import ACTIVATIONS, Affine
from cgru.layers.base import expected_sequences
from cgru.layers.rows import Rows, column_sums, counts_of, from_valid_rows, rows_of, segment_counts
from cgru.sequences import Batch, as_numeric
from cgru.typing import (
    Array,
    BoolArray,
    ConstraintLike,
    DenseActivation,
    DType,
    InitializerLike,
    IntArray,
    Key,
    Padding,
    RegularizerLike,
    Shape,
)

_BLOCK = 1 << 20  # elements of the windows that are made at once


class _Windows(NamedTuple):
    """Which rows the windows of the outputs hold."""

    counts: IntArray  # (N,): outputs of each sequence
    first: IntArray  # (outputs,): the first row of each window, counted from the start of the sequence; may be < 0
    start: IntArray  # (outputs,): where the rows of its sequence begin
    rows: IntArray  # (outputs,): how many there are


class _Tape(NamedTuple):
    handle: kernels.DenseHandle  # which has the kernel
    rows: Rows
    windows: _Windows
    y: Array  # (outputs, filters)
    leading: Shape  # (N, T of the outputs)
    valid: BoolArray | None  # steps of the outputs
    d_penalty: Array | None


class Conv1D(Affine):
    """Convolution over the time steps: (N, T, F) to (N, T', filters).

    Output j is ``activation(sum over i of x[j * strides + i * dilation_rate - left] kernel[i] + bias)``, where `left`
    is 0 for padding "valid", and what is outside of a sequence counts as zero.

    Parameters
    ----------
    filters : int
        Number of output features.
    kernel_size : int
        Number of steps in a window.
    strides : int
        Steps from window to window.
    padding : {"valid", "same", "causal"}
        "valid": windows lie within the sequence, so a sequence of n steps has ``(n - reach) // strides + 1`` outputs,
        reach being ``(kernel_size - 1) * dilation_rate + 1``, or none if it is shorter than that. "same": zeros on both
        sides, for ``ceil(n / strides)`` outputs. "causal": as many, with zeros before the start alone; a window ends at
        its own step, so that the layer can run step by step.
    dilation_rate : int
        Steps from one element of a window to the next.
    activation : {"linear", "relu", "sigmoid", "softmax", "tanh"}
        Applied to the output; None is "linear".
    use_bias : bool
        Whether there is a bias.
    kernel_initializer, bias_initializer : str, Initializer or callable
        From `cgru.initializers`.
    kernel_regularizer, bias_regularizer, activity_regularizer : str or Regularizer, optional
        From `cgru.regularizers`.
    kernel_constraint, bias_constraint : str, Constraint or callable, optional
        From `cgru.constraints`.
    trainable : bool
        Whether `Sequential.fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, out of range or unknown; the message names it.

    Notes
    -----
    Parameters: `kernel` (kernel_size, F, filters) and `bias` (filters,), as Keras has them.

    Each sequence is convolved by itself, as if it stood alone: with lengths or a mask its valid steps are one sequence,
    what pads them is not read, and the outputs have lengths of their own (a mask stays where there is an output for
    each step). So is each of the parts into which resets cut it, where there is an output for each step.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.Conv1D(4, 3, seed=0)
    >>> layer(np.ones((2, 10, 5))).shape
    (2, 8, 4)
    """

    dtype: np.dtype[Any]
    _options = (
        *("filters", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias"),
        *("kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer", "activity_regularizer"),
        *("kernel_constraint", "bias_constraint"),
    )
    _takes_sequences = True
    _has_step_state = True

    def __init__(
        self,
        filters: SupportsIndex,
        kernel_size: SupportsIndex,
        *,
        strides: SupportsIndex = 1,
        padding: Padding = "valid",
        dilation_rate: SupportsIndex = 1,
        activation: DenseActivation | None = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.filters = check_int(filters, "filters", 1)
        self.kernel_size = check_int(_one(kernel_size), "kernel_size", 1)
        self.strides = check_int(_one(strides), "strides", 1)
        self.padding = check_name(padding, "padding", ("valid", "same", "causal"))
        self.dilation_rate = check_int(_one(dilation_rate), "dilation_rate", 1)
        self.activation = check_name("linear" if activation is None else activation, "activation", ACTIVATIONS)
        self.use_bias = check_bool(use_bias, "use_bias")
        self._keep(kernel_initializer=kernel_initializer, bias_initializer=bias_initializer)
        self._keep(kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer)
        self._keep(activity_regularizer=activity_regularizer)
        self._keep(kernel_constraint=kernel_constraint, bias_constraint=bias_constraint)
        self._check_axes()
        self._reach = (self.kernel_size - 1) * self.dilation_rate + 1

    @property
    def draws(self) -> bool:
        return type(self).forward_batch is not Conv1D.forward_batch  # whatever that does in training

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        yield "kernel", (self.kernel_size, input_size, self.filters)
        if self.use_bias:
            yield "bias", (self.filters,)

    def _inputs_of_an_output(self, input_size: int) -> int:
        return self.kernel_size * input_size

    # -- shapes

    def output_size(self, input_size: Any) -> int:
        return self.filters

    def output_shape(self, shape: Shape) -> Shape:
        N, T, _ = shape
        return (N, self._steps_text(T) if isinstance(T, str) else int(self._outputs(T)), self.filters)

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_sequences(shape, self.input_size)

    def output_steps(self, batch: Batch) -> Batch:
        N, T = batch.data.shape[:2]
        return self._steps_of(batch, np.empty((N, int(self._outputs(T)), 0)), self._outputs(counts_of(batch)))

    def _outputs(self, n: Any) -> Any:
        """How many outputs sequences of n steps have."""
        if self.padding == "valid":
            return np.maximum(n - self._reach + self.strides, 0) // self.strides
        return (n + self.strides - 1) // self.strides

    def _steps_text(self, T: str) -> str:
        if self.padding == "valid" and self._reach > 1:
            T = f"{T}-{self._reach - 1}"
        return T if self.strides == 1 else f"({T})/{self.strides}"

    @property
    def keeps_steps(self) -> bool:
        """Whether there is an output for each step."""
        return self.strides == 1 and (self.padding != "valid" or self._reach == 1)

    def _steps_of(self, batch: Batch, data: Array, counts: IntArray) -> Batch:
        """The batch of the outputs `data`."""
        if self.keeps_steps:
            return batch.with_data(data)
        return Batch(data) if batch.valid is None else Batch(data, np.asarray(counts, np.intp))

    # -- what is computed

    def _windows(self, rows: Rows) -> _Windows:
        counts: IntArray = self._outputs(rows.counts)
        left: Any = 0
        if self.padding == "causal":
            left = self._reach - 1
        elif self.padding == "same":
            left = np.repeat(np.maximum((counts - 1) * self.strides + self._reach - rows.counts, 0) // 2, counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return _Windows(
            counts, number * self.strides - left, np.repeat(rows.starts, counts), np.repeat(rows.counts, counts)
        )

    def _blocks(self, windows: _Windows, F: int) -> Iterator[tuple[slice, IntArray, IntArray | None]]:
        """Yield (slice of the outputs, rows of the inputs, their places among the rows of the windows, or None for all)
        of a block of windows."""
        outputs, size = len(windows.first), self.kernel_size
        step = max(1, _BLOCK // (size * F))
        for begin in range(0, outputs, step):
            block = slice(begin, min(outputs, begin + step))
            at = windows.first[block, None] + np.arange(size) * self.dilation_rate
            inside = (at >= 0) & (at < windows.rows[block, None])
            rows = at + windows.start[block, None]
            if inside.all():
                yield block, rows.reshape(-1), None
            else:
                yield block, rows[inside], np.flatnonzero(inside)

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        if batch.data.ndim != 3:
            raise ValueError(f"Conv1D: expected data of shape (N, T, F), got {batch.data.shape}")
        N, T, F = batch.data.shape
        self.build(F)
        handle = self._handle_for(training)
        refused = None if batch.resets is None else self.refuses_resets()
        if refused is not None:
            raise ValueError(f"resets: expected {refused}")
        rows = rows_of(batch, self.dtype)
        windows = self._windows(rows._replace(counts=segment_counts(batch)))
        y = np.empty((len(windows.first), self.filters), self.dtype)
        for block, ids, places in self._blocks(windows, F):
            gathered = _gather(rows.data, ids, places, (block.stop - block.start, self.kernel_size * F))
            handle.apply(gathered, y[block], kernels.get_num_threads())
        leading = (N, int(self._outputs(T)))
        out = self._steps_of(batch, np.empty((*leading, 0)), windows.counts)
        valid = out.valid
        out = out.with_data(from_valid_rows(y, leading, valid))
        penalty, d_penalty = self._activity(out.data, valid, training)
        tape = _Tape(handle, rows, windows, y, leading, valid, d_penalty) if training else None
        return out, None, penalty, tape

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        d, threads, route = self._before_activation(d_out, tape), kernels.get_num_threads(), tape.handle.route
        kernel, (N, T, F) = tape.handle.kernel, tape.rows.shape
        d_kernel = np.zeros_like(kernel)
        dx = np.zeros_like(tape.rows.data) if need_dx else None
        for block, ids, places in self._blocks(tape.windows, F):
            # (size F, K) += (size F, outputs)(outputs, K)
            if need_grads:
                gathered = _gather(tape.rows.data, ids, places, (block.stop - block.start, len(kernel)))
                kernels.multiply(gathered.T, d[block], d_kernel, None, True, route, threads)
            if dx is not None:
                gathered = np.empty((block.stop - block.start, len(kernel)), self.dtype)
                kernels.multiply(d[block], kernel.T, gathered, None, False, route, threads)
                kernels.scatter_add(dx, ids, places, gathered.reshape(-1, F), threads)
        grads = {"kernel": d_kernel.reshape(self.kernel_size, F, self.filters)} if need_grads else {}
        if self.use_bias and need_grads:
            grads["bias"] = column_sums(d)
        return None if dx is None else from_valid_rows(dx, (N, T), tape.rows.valid), None, grads

    # -- step by step

    def step(self, x_t: ArrayLike, state: Array | None = None) -> tuple[Array, Array]:
        """One time step of a causal layer: return its output, and the state after it.

        Parameters
        ----------
        x_t : array_like of shape (N, F)
        state : ndarray of shape (N, reach - 1, F), optional
            The inputs that later windows hold, the last one last; None is the start of the sequences.

        Returns
        -------
        y_t : ndarray of shape (N, filters)
            To the bit what a call on the whole sequence gives.
        state : ndarray

        Raises
        ------
        TypeError, ValueError
            If strides is not 1, or padding not "causal" where a window is more than its step, or an argument does not
            fit.
        """
        reason = self.refuses_steps()
        if reason is not None:
            raise ValueError(f"step: expected {reason}")
        x = as_numeric(x_t, self.dtype, "x_t")
        if x.ndim != 2 or not x.shape[1] or (self.built and x.shape[1] != self.input_size):
            raise ValueError(f"x_t: expected shape (N, {self.input_size or 'F'}), got {x.shape}")
        self.build(x.shape[1])
        N, F = x.shape
        shape = (N, self._reach - 1, F)
        if state is None:
            state = np.zeros(shape, self.dtype)
        state = as_numeric(state, self.dtype, "state")
        if state.shape != shape:
            raise ValueError(f"state: expected shape {shape}, got {state.shape}")
        rows = np.concatenate([state, x[:, None]], axis=1)
        y = np.empty((N, self.filters), self.dtype)
        window = np.ascontiguousarray(rows[:, :: self.dilation_rate]).reshape(N, self.kernel_size * F)
        if not self._ready().apply(window, y, kernels.get_num_threads()):
            raise ValueError(f"x_t: expected rows of shape (N, {F}), got {x.shape}")
        return y, rows[:, 1:]

    def refuses_steps(self) -> str | None:
        if self.strides == 1 and (self.padding == "causal" or self._reach == 1):
            return None
        return f'padding="causal" and strides=1, got {self._unlike()}'

    def _unlike(self) -> str:
        return f"strides={self.strides}" if self.strides != 1 else f"padding={self.padding!r}"

    def refuses_resets(self) -> str | None:
        return None if self.keeps_steps else f"an output for each step, strides=1 and padding, got {self._unlike()}"

    def restarted(self, state: Array | None, resets: BoolArray) -> Array | None:
        return state if state is None else np.where(resets[:, None, None], 0, state)


def _one(value: Any) -> Any:
    """The number in a tuple of one, as Keras' configurations have it."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def _gather(rows: Array, ids: IntArray, places: IntArray | None, shape: Shape) -> Array:
    """The windows (outputs, size * F): row ids[i] at places[i] of them, zeros elsewhere."""
    windows = (np.empty if places is None else np.zeros)(shape, rows.dtype)
    flat = windows.reshape(-1, rows.shape[1])
    kernels.gather(rows, np.ascontiguousarray(ids, np.intp), places, flat, kernels.get_num_threads())
    return windows
