"""AttentionPooling: one vector of a sequence, the mean of its steps with weights that are learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import kernels
from cgru.checks import check_bool, check_int
from cgru.layers.affine import ACTIVATIONS
from cgru.layers.base import check_gradient, expected_sequences
from cgru.layers.rows import Rows, column_sums, from_valid_rows, row_sums, rows_of, sums_by_owner
from cgru.layers.stateless import Stateless
from cgru.sequences import Batch, last_segments
from cgru.typing import Array, ConstraintLike, DType, InitializerLike, Key, RegularizerLike, Shape


class _Tape(NamedTuple):
    rows: Rows
    hidden: Array  # (M, U): what the query is compared with
    weights: Array  # (M, 1)
    query: Array  # (U, 1)
    handle: kernels.DenseHandle | None  # which has the kernel


class AttentionPooling(Stateless):
    """The mean of the valid steps, weighted by how well they answer a learned query: (N, T, F) to (N, F).

    With `units` as in hierarchical attention networks (Z. Yang et al., 2016)::

        a = softmax over t of (tanh(x_t W + b) . query)         y = sum over t of a_t x_t

    Without, the steps themselves are compared: ``a = softmax of (x_t . query / sqrt(F))``.

    Parameters
    ----------
    units : int, optional
        Size of the query; None compares it with the inputs.
    use_bias : bool
        Whether there is a bias b.
    query_initializer, kernel_initializer, bias_initializer : str, Initializer or callable
        From `cgru.initializers`.
    query_regularizer, kernel_regularizer, bias_regularizer : str or Regularizer, optional
        From `cgru.regularizers`.
    query_constraint, kernel_constraint, bias_constraint : str, Constraint or callable, optional
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
    Parameters: `query` (units,), `kernel` (F, units) and `bias` (units,); without `units` only `query` (F,). Steps
    outside of lengths or mask and before the last reset are not read, and a sequence without any step gives zeros.
    `attention` returns the weights.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.AttentionPooling(8, seed=0)
    >>> layer(np.ones((2, 10, 5))).shape
    (2, 5)
    """

    dtype: np.dtype[Any]
    _options = (
        *("units", "use_bias", "query_initializer", "kernel_initializer", "bias_initializer", "query_regularizer"),
        *("kernel_regularizer", "bias_regularizer", "query_constraint", "kernel_constraint", "bias_constraint"),
    )
    _takes_sequences = True

    def __init__(
        self,
        units: SupportsIndex | None = None,
        *,
        use_bias: bool = True,
        query_initializer: InitializerLike = "glorot_uniform",
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        query_regularizer: RegularizerLike = None,
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        query_constraint: ConstraintLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.units = None if units is None else check_int(units, "units", 1)
        self.use_bias = check_bool(use_bias, "use_bias")
        self._keep(query_initializer=query_initializer, query_regularizer=query_regularizer)
        self._keep(kernel_initializer=kernel_initializer, kernel_regularizer=kernel_regularizer)
        self._keep(bias_initializer=bias_initializer, bias_regularizer=bias_regularizer)
        self._keep(query_constraint=query_constraint, kernel_constraint=kernel_constraint)
        self._keep(bias_constraint=bias_constraint)
        self._check_axes()

    @property
    def draws(self) -> bool:
        return type(self).forward_batch is not AttentionPooling.forward_batch  # whatever that does in training

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        yield "query", (self.units or input_size,)
        if self.units is not None:
            yield "kernel", (input_size, self.units)
            if self.use_bias:
                yield "bias", (self.units,)

    def output_size(self, input_size: Any) -> Any:
        return input_size

    def output_shape(self, shape: Shape) -> Shape:
        return (shape[0], shape[-1])

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_sequences(shape, self.input_size)

    def output_steps(self, batch: Batch) -> Batch:
        return Batch(np.empty((len(batch.data), 0)))

    def refuses_steps(self) -> str | None:
        return "layers that need no later steps, got AttentionPooling, whose weights change with each step"

    def attention(
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: Any = None,
    ) -> Array:
        """Return the weights that the layer gives to the steps of `x`, (N, T): at the valid steps of a sequence they
        add up to 1, elsewhere they are 0.

        Parameters
        ----------
        x, lengths, mask, resets
            As in a call.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type, shape or range; the message names it.
        """
        batch = last_segments(self._checked(x, lengths, mask, resets))
        self.build(batch.data.shape[-1])
        tape = self._weighted(rows_of(batch, self.dtype))
        return from_valid_rows(tape.weights, batch.data.shape[:2], batch.valid)[..., 0]

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        if batch.data.ndim != 3:
            raise ValueError(f"AttentionPooling: expected data of shape (N, T, F), got {batch.data.shape}")
        self.build(batch.data.shape[-1])
        rows = rows_of(last_segments(batch), self.dtype)
        tape = self._weighted(rows)
        y = sums_by_owner(rows.data * tape.weights, rows.owners, rows.shape[0])
        return batch.with_vectors(y), None, 0.0, tape if training else None

    def _weighted(self, rows: Rows) -> _Tape:
        parameters, threads = self._built_parameters(), kernels.get_num_threads()
        query, M = parameters["query"].reshape(-1, 1), len(rows.data)
        hidden, handle = rows.data, None
        if self.units is not None:
            handle = kernels.DenseHandle(
                parameters["kernel"], parameters.get("bias"), ACTIVATIONS["tanh"], False, threads
            )
            hidden = np.empty((M, self.units), self.dtype)
            handle.apply(rows.data, hidden, threads)
        scores = np.empty((M, 1), self.dtype)
        compare = kernels.DenseHandle(query, None, ACTIVATIONS["linear"], False, threads)
        compare.apply(hidden, scores, threads)
        if self.units is None:
            scores *= self._scale(rows)
        return _Tape(rows, hidden, _softmax(scores, rows), query, handle)

    def _scale(self, rows: Rows) -> Any:
        return self.dtype.type(1 / math.sqrt(rows.shape[2]))

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        rows, weights, N = tape.rows, tape.weights, tape.rows.shape[0]
        check_gradient(d_out, (N, rows.shape[2]))
        owners = rows.owners
        d = np.asarray(d_out, self.dtype)[owners]  # (M, F)
        d_weights = row_sums(d * rows.data)
        d_scores = weights * (d_weights - sums_by_owner(weights * d_weights, owners, N)[owners])
        if self.units is None:
            d_scores *= self._scale(rows)
        grads = {"query": column_sums(tape.hidden * d_scores)} if need_grads else {}
        dx = d * weights
        d_hidden = d_scores * tape.query.T
        if self.units is None:
            dx += d_hidden
        elif len(d):
            threads, route, kernel = kernels.get_num_threads(), tape.handle.route, tape.handle.kernel
            kernels.activation_gradient(tape.hidden, d_hidden, d_hidden, ACTIVATIONS["tanh"], threads)
            if need_grads:
                grads["kernel"] = np.empty_like(kernel)
                kernels.multiply(rows.data.T, d_hidden, grads["kernel"], None, False, route, threads)
                grads["bias"] = column_sums(d_hidden)
            if need_dx:
                through = np.empty_like(dx)
                kernels.multiply(d_hidden, kernel.T, through, None, False, route, threads)
                dx += through
        if need_grads:
            grads = {name: grads.get(name, np.zeros_like(p)) for name, p in self._built_parameters().items()}
        return from_valid_rows(dx, rows.shape[:2], rows.valid) if need_dx else None, None, grads


def _softmax(scores: Array, rows: Rows) -> Array:
    """The weights (M, 1): exp of the scores (M, 1), scaled to a sum of 1 in each sequence."""
    if not len(scores):
        return scores
    owners, filled = rows.owners, rows.counts > 0
    largest = np.zeros((len(rows.counts), 1), scores.dtype)
    largest[filled] = np.maximum.reduceat(scores, rows.starts[filled], axis=0)
    with np.errstate(invalid="ignore"):  # inf - inf, which is NaN in its own sequence
        terms = _exp(scores - largest[owners])
        return terms / sums_by_owner(terms, owners, len(largest))[owners]


def _exp(x: Array) -> Array:
    """exp of x <= 0 by the kernels' own sigmoid, which has the same bits everywhere: sigmoid(x) / sigmoid(-x)."""
    below, above = np.empty(x.size, x.dtype), np.empty(x.size, x.dtype)
    kernels.activate(ACTIVATIONS["sigmoid"], x.reshape(-1), below)
    kernels.activate(ACTIVATIONS["sigmoid"], -x.reshape(-1), above)
    return (below / above).reshape(x.shape)
