"""Attention: beside every step of one sequence, the mean of those steps of another one that answer it.

Each pair of sequences is worked on by itself, its valid steps alone, so results depend on no padding and no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import initializers, kernels
from cgru.checks import check_bool, check_int, check_name, shape_text
from cgru.layers.affine import ACTIVATIONS
from cgru.layers.base import Layer, check_gradient
from cgru.layers.rows import from_valid_rows, product, valid_rows
from cgru.sequences import Batch, as_batch, as_numeric
from cgru.typing import AnyArray, Array, BoolArray, DType, Initializer, IntArray, Shape

SCORES = ("dot", "general", "additive")
_WEIGHTS, _STEPS, _MEMORY = 0, 1, 2  # what `kernels.multiply_pairs` writes


class Rows(NamedTuple):
    """The M valid steps of N sequences, one sequence after the other."""

    data: Array  # (M, F)
    ends: IntArray  # (N + 1,): rows ends[i] to ends[i + 1] are those of sequence i
    leading: Shape  # (N, T)
    valid: BoolArray | None  # (N, T); None means every step

    def of(self, i: int) -> slice:
        """Where the rows of sequence i are."""
        return slice(self.ends[i], self.ends[i + 1])


class Memory(NamedTuple):
    """Sequences that are attended to."""

    rows: Rows
    keys: Array  # (M, E): what the steps of others are compared with


class Prepared(NamedTuple):
    """The same, made ready to be attended to by one step after the other."""

    memory: Memory
    scores: list[Any]  # of each sequence what gives weights of its steps; None without steps, and for "additive"
    values: list[Any]  # of each sequence what gives means of its steps; None without steps


class _Tape(NamedTuple):
    layer: Attention
    rows: Rows
    memory: Memory
    queries: Array  # (M, E): what is compared with the keys
    weights: Array  # of each pair of sequences (m, l), one after the other
    places: IntArray  # (N + 1,): those of pair i are weights[places[i] : places[i + 1]]


class Attention(Layer):
    """Beside each step h of a sequence, a mean of the steps e of another one: (N, T, H) and (N, S, F) to (N, T, H + F).

    The weights of the mean are a softmax of scores, which are (M.-T. Luong, H. Pham, C. Manning 2015, arXiv:1508.04025;
    D. Bahdanau, K. Cho, Y. Bengio 2014, arXiv:1409.0473)::

        dot         h . e                             for H = F
        general     h . (e W)
        additive    v . tanh(h W + e V)

    Parameters
    ----------
    score : {"dot", "general", "additive"}
    units : int, optional
        Number of columns of W and V for "additive"; None is H.
    memory_size : int, optional
        F; with None it is that of the first memory.
    trainable : bool
        Whether `fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, unknown or out of range; the message names it.

    Notes
    -----
    Parameters: "general": `kernel` (F, H). "additive": `kernel` (H, units), `memory_kernel` (F, units) and
    `score_kernel` (units, 1). It is no layer of a `Sequential`, whose layers have one input: `Seq2Seq` takes it.

    What lies outside of lengths or mask is not read. Of a memory without any step the mean is zero.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.layers.Attention("general", seed=0)
    >>> steps, memory = np.ones((2, 5, 3)), np.ones((2, 7, 4))
    >>> layer(steps, memory, memory_lengths=[7, 3]).shape
    (2, 5, 7)
    >>> weights = layer.weights(steps, memory, memory_lengths=[7, 3])
    >>> [round(weight, 2) for weight in weights[1, 0].tolist()]
    [0.33, 0.33, 0.33, 0.0, 0.0, 0.0, 0.0]
    """

    dtype: np.dtype[Any]
    _options = ("score", "units", "memory_size")

    def __init__(
        self,
        score: str = "dot",
        *,
        units: SupportsIndex | None = None,
        memory_size: SupportsIndex | None = None,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.score = check_name(score, "score", SCORES)
        self.units = None if units is None else check_int(units, "units", 1)
        if units is not None and self.score != "additive":
            raise ValueError(f"units: expected None for the score {self.score!r}, which has none, got {units}")
        self._memory_size = None if memory_size is None else check_int(memory_size, "memory_size", 1)

    @property
    def memory_size(self) -> int | None:
        """Number of features of the memory; None before it is known."""
        return self._memory_size

    # -- parameters

    @property
    def draws(self) -> bool:
        return False

    def output_size(self, input_size: Any) -> Any:
        F = self.memory_size
        return input_size + F if F is not None and isinstance(input_size, int) else f"{input_size} + {F or 'F'}"

    def expected_shape(self, shape: Shape) -> str:
        return "two inputs: Attention belongs into a Seq2Seq"

    def build(self, input_size: SupportsIndex, memory_size: SupportsIndex | None = None) -> None:
        """Create the parameters for steps of `input_size` features and a memory of `memory_size`, once.

        Raises
        ------
        TypeError, ValueError
            If a size is not a positive integer, or the layer was made for another one.
        """
        H = check_int(input_size, "input_size", 1)
        F = self.memory_size if memory_size is None else check_int(memory_size, "memory_size", 1)
        if F is None:
            raise ValueError("memory_size: expected the number of features of the memory, got None")
        if self.memory_size not in (None, F):
            raise ValueError(f"memory: expected {self.memory_size} features, as the layer was made for, got {F}")
        with self._lock:
            self._memory_size = F
            self.check_size(H)
            super().build(H)

    def check_size(self, input_size: int) -> None:
        """ValueError unless steps of `input_size` features can be compared with the memory."""
        if self.score == "dot" and input_size != self.memory_size:
            raise ValueError(
                f"memory: expected {input_size} features, as many as the steps that 'dot' compares it with, got "
                f"{self.memory_size}; 'general' and 'additive' compare any sizes"
            )

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        F, A = self.memory_size, self.units or input_size
        if self.score == "general":
            yield "kernel", (F, input_size)
        elif self.score == "additive":
            yield "kernel", (input_size, A)
            yield "memory_kernel", (F, A)
            yield "score_kernel", (A, 1)

    def _initial(self, name: str) -> Initializer:
        return initializers.get("glorot_uniform")

    # -- calls

    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
    ) -> Array:
        """Return the steps of `x` and beside them what they got of the memory.

        Parameters
        ----------
        x : array_like of shape (N, T, H), or list of N arrays (T_i, H)
        memory : array_like of shape (N, S, F), or list of N arrays (S_i, F)
        lengths, memory_lengths : array_like of N ints, optional
            How many steps of each row count; the others are not read, and zero in the result.

        Returns
        -------
        ndarray of shape (N, T, H + F)

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape; the message names it.
        """
        return self.forward(x, memory, lengths=lengths, memory_lengths=memory_lengths)[0]

    def weights(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
    ) -> Array:
        """Return the weight of each step of the memory for each step of `x`, (N, T, S): they add up to 1 where there
        are steps, and are 0 elsewhere. Arguments and errors as in a call."""
        batch, other = self._checked(x, memory, lengths, memory_lengths)
        with np.errstate(all="ignore"):  # inf - inf is NaN in its own sequence, here and below
            return self.weights_of(self.attend_batch(batch, self.remember(other))[1])

    def forward(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
        training: bool = False,
    ) -> tuple[Array, Any]:
        """Return (y, tape): what a call returns, and what `backward` needs; None unless `training`. Errors as there."""
        training = check_bool(training, "training")
        batch, other = self._checked(x, memory, lengths, memory_lengths)
        with np.errstate(all="ignore"):
            out, tape = self.attend_batch(batch, self.remember(other))
        return out.data, tape if training else None

    def backward(self, dy: ArrayLike, tape: Any) -> tuple[Array, Array, dict[str, Array]]:
        """Return (dx, d_memory, grads): the gradients of both inputs, padded, and of the parameters.

        Parameters
        ----------
        dy : array_like of the shape of y
            Not read at steps that do not count.
        tape : object
            From ``forward(..., training=True)``. It is only read: backward may be called again.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or shape; the message names it.
        """
        if not isinstance(tape, _Tape) or tape.layer is not self:
            raise TypeError("tape: expected what this layer's forward(..., training=True) returned")
        d_out = as_numeric(dy, self.dtype, "dy")
        with np.errstate(all="ignore"):
            return self.attend_backward(d_out, tape)

    def _checked(
        self, x: ArrayLike, memory: ArrayLike, lengths: ArrayLike | None, memory_lengths: ArrayLike | None
    ) -> tuple[Batch, Batch]:
        batch = as_batch(x, lengths, dtype=self.dtype)
        other = as_batch(memory, memory_lengths, dtype=self.dtype, name="memory", prefix="memory_")
        for name, data in (("x", batch.data), ("memory", other.data)):
            if data.ndim != 3:
                raise ValueError(f"{name}: expected shape (N, T, F), got {shape_text(data.shape)}")
        if len(batch.data) != len(other.data):
            raise ValueError(f"memory: expected {len(batch.data)} rows, as x has, got {len(other.data)}")
        self.build(batch.data.shape[-1], other.data.shape[-1])
        return batch, other

    # -- what a model uses

    def forward_batch(self, *arguments: Any, **options: Any) -> NoReturn:
        raise ValueError("Attention: expected a Seq2Seq around it, which gives it two inputs")

    backward_batch = forward_batch

    def remember(self, batch: Batch) -> Memory:
        """Return sequences (N, S, F) in the form in which they are attended to; the layer is built."""
        rows = rows_of(batch, self.dtype)
        name = {"general": "kernel", "additive": "memory_kernel"}.get(self.score)
        keys = rows.data if name is None else product(rows.data, self._built_parameters()[name])
        return Memory(rows, keys)

    def attend_batch(self, batch: Batch, memory: Memory) -> tuple[Batch, _Tape]:
        """Return (Batch of outputs (N, T, H + F), tape) for a batch (N, T, H)."""
        rows = rows_of(batch, self.dtype)
        queries = self._queries(rows.data)
        H = rows.data.shape[1]
        out = np.empty((len(rows.data), H + memory.rows.data.shape[1]), self.dtype)
        out[:, :H] = rows.data
        counts = np.diff(rows.ends) * np.diff(memory.rows.ends)
        places = np.concatenate([[0], np.cumsum(counts)])
        weights = np.empty(places[-1], self.dtype)
        if self.score == "additive":
            for i in range(rows.leading[0]):
                own = self._weights(queries[rows.of(i)], memory.keys[memory.rows.of(i)])
                weights[places[i] : places[i + 1]] = own.ravel()
        else:
            _multiply_pairs(_WEIGHTS, rows, queries, memory, memory.keys, weights, places)
        _multiply_pairs(_STEPS, rows, out[:, H:], memory, memory.rows.data, weights, places)
        data = from_valid_rows(out, rows.leading, rows.valid)
        return batch.with_data(data), _Tape(self, rows, memory, queries, weights, places)

    def prepared(self, memory: Memory) -> Prepared:
        """Return a memory for `attend_rows`."""
        threads, linear, softmax = kernels.get_num_threads(), ACTIVATIONS["linear"], ACTIVATIONS["softmax"]
        scores: list[Any] = [None] * memory.rows.leading[0]
        values: list[Any] = [None] * memory.rows.leading[0]
        for i in np.flatnonzero(np.diff(memory.rows.ends)).tolist():  # the others have no steps
            own = memory.rows.of(i)
            values[i] = kernels.DenseHandle(memory.rows.data[own], None, linear, True, threads)
            if self.score != "additive":
                keys = np.ascontiguousarray(memory.keys[own].T)
                scores[i] = kernels.DenseHandle(keys, None, softmax, True, threads)
        return Prepared(memory, scores, values)

    def attend_rows(self, h: Array, prepared: Prepared, owners: IntArray) -> Array:
        """Return (n, H + F) for one step each: `h` (n, H) of the sequences `owners`, in their order."""
        queries, H, threads = self._queries(h), h.shape[1], kernels.get_num_threads()
        memory = prepared.memory
        out = np.empty((len(h), H + memory.rows.data.shape[1]), self.dtype)
        out[:, :H], out[:, H:] = h, 0
        starts = [0, *(np.flatnonzero(owners[1:] != owners[:-1]) + 1).tolist(), len(owners)]
        ends = memory.rows.ends.tolist()
        for owner, (start, stop) in zip(owners[starts[:-1]].tolist(), pairwise(starts), strict=True):
            steps = ends[owner + 1] - ends[owner]
            if not steps:
                continue
            if self.score == "additive":
                weights = self._weights(queries[start:stop], memory.keys[ends[owner] : ends[owner + 1]])
            else:
                weights = np.empty((stop - start, steps), self.dtype)
                prepared.scores[owner].apply(queries[start:stop], weights, threads)
            prepared.values[owner].apply(weights, out[start:stop, H:], threads)
        return out

    def weights_of(self, tape: Any) -> Array:
        """Return the weights (N, T, S) of a pass; zero where there are no steps."""
        rows, other = tape.rows, tape.memory.rows
        found = np.zeros((*rows.leading, other.leading[1]), self.dtype)
        for i in range(rows.leading[0]):
            own, others = steps_of(rows, i), steps_of(other, i)
            weights = tape.weights[tape.places[i] : tape.places[i + 1]]
            found[i][np.ix_(own, others)] = weights.reshape(len(own), len(others))
        return found

    def attend_backward(
        self, d_out: AnyArray, tape: _Tape, need_grads: bool = True
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Return (gradient of the steps, gradient of the memory, gradients of the parameters)."""
        rows, memory = tape.rows, tape.memory
        H, F, places = rows.data.shape[1], memory.rows.data.shape[1], tape.places
        check_gradient(d_out, (*rows.leading, H + F))
        d = valid_rows(d_out, rows.valid, self.dtype)
        dx, d_context = d[:, :H].copy(), d[:, H:]
        d_memory, d_scores = np.empty_like(memory.rows.data), np.empty_like(tape.weights)
        d_queries, d_keys = np.zeros_like(tape.queries), np.zeros_like(memory.keys)
        grads = {name: np.zeros_like(p) for name, p in self._built_parameters().items()} if need_grads else {}
        _multiply_pairs(_MEMORY, rows, d_context, memory, d_memory, tape.weights, places)
        _multiply_pairs(_WEIGHTS, rows, d_context, memory, memory.rows.data, d_scores, places, tape.weights)
        if self.score == "additive":
            for i in np.flatnonzero(np.diff(places)).tolist():
                own, other = rows.of(i), memory.rows.of(i)
                pair = d_scores[places[i] : places[i + 1]]
                self._pull_scores(tape.queries[own], memory.keys[other], pair, d_queries[own], d_keys[other], grads)
        else:
            _multiply_pairs(_STEPS, rows, d_queries, memory, memory.keys, d_scores, places)
            _multiply_pairs(_MEMORY, rows, tape.queries, memory, d_keys, d_scores, places)
        parameters = self._built_parameters()
        if self.score == "additive":
            dx += product(d_queries, parameters["kernel"].T)
            self._sum_up(grads, "kernel", rows.data, d_queries)
        else:
            dx += d_queries
        if self.score == "dot":
            d_memory += d_keys
        else:
            name = "kernel" if self.score == "general" else "memory_kernel"
            d_memory += product(d_keys, parameters[name].T)
            self._sum_up(grads, name, memory.rows.data, d_keys)
        return (
            from_valid_rows(dx, rows.leading, rows.valid),
            from_valid_rows(d_memory, memory.rows.leading, memory.rows.valid),
            grads,
        )

    # -- the scores

    def _queries(self, rows: Array) -> Array:
        return product(rows, self._built_parameters()["kernel"]) if self.score == "additive" else rows

    def _weights(self, queries: Array, keys: Array) -> Array:
        """The weights (m, l) of the keys (l, units) for queries (m, units), by the score "additive"."""
        scores = product(_hidden(queries, keys), self._built_parameters()["score_kernel"])
        return activated(scores.reshape(len(queries), len(keys)), "softmax")

    def _pull_scores(
        self, queries: Array, keys: Array, d_scores: Array, d_queries: Array, d_keys: Array, grads: dict[str, Array]
    ) -> None:
        """Write the gradients of one pair of sequences, and add that of the score's kernel."""
        # Computed anew: kept, it would be (T, S, units) for each pair.
        hidden, score = _hidden(queries, keys), self._built_parameters()["score_kernel"]
        d = d_scores.reshape(-1, 1)
        self._sum_up(grads, "score_kernel", hidden, d)
        d_hidden = d * score.T
        kernels.activation_gradient(hidden, d_hidden, d_hidden, ACTIVATIONS["tanh"], kernels.get_num_threads())
        d_hidden = d_hidden.reshape(len(queries), len(keys), -1)
        np.add.reduce(d_hidden, axis=1, out=d_queries)
        np.add.reduce(d_hidden, axis=0, out=d_keys)

    @staticmethod
    def _sum_up(grads: dict[str, Array], name: str, rows: Array, d: Array) -> None:
        """Add the gradient of a kernel, whose inputs were `rows`, from that of its outputs."""
        if name in grads:
            grads[name] += product(rows.T, d)


def rows_of(batch: Batch, dtype: np.dtype[Any]) -> Rows:
    """Return the rows of a batch (N, T, F); what is not valid is not read."""
    N, T = batch.data.shape[:2]
    valid = batch.valid
    counts = np.full(N, T) if valid is None else valid.sum(axis=1)
    return Rows(valid_rows(batch.data, valid, dtype), np.concatenate([[0], np.cumsum(counts)]), (N, T), valid)


def steps_of(rows: Rows, i: int) -> IntArray:
    """The steps of sequence i that are valid."""
    return np.arange(rows.leading[1]) if rows.valid is None else np.flatnonzero(rows.valid[i])


def _multiply_pairs(
    what: int,
    rows: Rows,
    steps: Array,
    memory: Memory,
    data: Array,
    weights: Array,
    places: IntArray,
    outputs: Array | None = None,
) -> None:
    """Write `steps`, `data` (the memory's rows) or `weights` of each pair of sequences from the other two."""
    threads = kernels.get_num_threads()
    kernels.multiply_pairs(what, steps, rows.ends, data, memory.rows.ends, weights, places, outputs, threads)


def activated(rows: Array, activation: str) -> Array:
    """The rows (m, n), activated in their place."""
    if rows.size:
        none = np.zeros(rows.shape[1], rows.dtype)
        kernels.activate_rows(rows, none, ACTIVATIONS[activation], kernels.get_num_threads())
    return rows


def _hidden(queries: Array, keys: Array) -> Array:
    """tanh of the sum of each query (m, A) and each key (l, A), (m l, A)."""
    return activated((queries[:, None] + keys).reshape(-1, keys.shape[1]), "tanh")
