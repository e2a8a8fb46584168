"""Embedding: a vector for every id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from cgru import initializers, kernels
from cgru.checks import check_bool, check_int
from cgru.layers.base import check_gradient
from cgru.layers.stateless import Stateless
from cgru.sequences import Batch, with_mask
from cgru.typing import (
    AnyArray,
    Array,
    ConstraintLike,
    DType,
    Initializer,
    InitializerLike,
    IntArray,
    Key,
    RegularizerLike,
    Shape,
)


class Embedding(Stateless):
    """Rows of a table, chosen by integer ids: (N, T) ids to (N, T, output_dim), or (N,) to (N, output_dim).

    Parameters
    ----------
    input_dim : int
        Number of ids; an id is at least 0 and less than this.
    output_dim : int
        Number of output features.
    mask_zero : bool
        Whether the id 0 means that there is nothing: such a step is not valid, for this layer and all behind it.
    embeddings_initializer : str, Initializer or callable
        From `cgru.initializers`.
    embeddings_regularizer, activity_regularizer : str or Regularizer, optional
        From `cgru.regularizers`: what table and outputs add to the loss of a model.
    embeddings_constraint : str, Constraint or callable, optional
        From `cgru.constraints`: what is done with the table after each update.
    trainable : bool
        Whether `Sequential.fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; at use, if the ids are not integers or one of them, at a
        valid step, is out of range. What lies outside lengths or mask may hold anything.

    Notes
    -----
    Parameter: `embeddings` (input_dim, output_dim).
    """

    dtype: np.dtype[Any]
    _options: tuple[str, ...] = (
        *("input_dim", "output_dim", "mask_zero", "embeddings_initializer", "embeddings_regularizer"),
        *("activity_regularizer", "embeddings_constraint"),
    )

    _takes_ids = True

    def __init__(
        self,
        input_dim: SupportsIndex,
        output_dim: SupportsIndex,
        *,
        mask_zero: bool = False,
        embeddings_initializer: InitializerLike = "uniform",
        embeddings_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        embeddings_constraint: ConstraintLike = None,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.input_dim = check_int(input_dim, "input_dim", 1)
        self.output_dim = check_int(output_dim, "output_dim", 1)
        self.mask_zero = check_bool(mask_zero, "mask_zero")
        self._keep(embeddings_initializer=embeddings_initializer, embeddings_regularizer=embeddings_regularizer)
        self._keep(activity_regularizer=activity_regularizer, embeddings_constraint=embeddings_constraint)
        self._check_axes()

    def build(self, input_size: SupportsIndex | None = None) -> None:
        """Create the table, once; an id has no features, so `input_size` does not matter."""
        super().build(1)

    def _adopt(self, input_size: int | None, parameters: dict[str, Array]) -> None:
        super()._adopt(1, parameters)  # whatever a file says

    @property
    def draws(self) -> bool:
        return type(self).forward_batch is not Embedding.forward_batch  # whatever that does in training

    def output_size(self, input_size: Any) -> int:
        return self.output_dim

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape, self.output_dim)

    def expected_shape(self, shape: Shape) -> str | None:
        return None if len(shape) in (1, 2) else "(N, T) or (N,), of ids, or a list of (T_i,) arrays"

    def check_values(self, batch: Batch, name: str) -> None:
        ids = batch.data
        if ids.dtype.kind not in "iu" and (ids.size or ids.dtype.kind != "f"):  # NumPy calls empty lists floats
            raise TypeError(f"{name}: expected integer ids, got dtype {ids.dtype}")
        if not ids.size or (ids.min() >= 0 and ids.max() < self.input_dim):  # ids may be more than the memory holds
            return
        wrong = (ids < 0) | (ids >= self.input_dim)
        if wrong.any():
            valid = batch.valid
            places = np.argwhere(wrong if valid is None else wrong & valid)
            if len(places):
                place = tuple(places[0].tolist())
                where = f"row {place[0]}" + (f", step {place[1]}" if len(place) == 2 else "")
                raise ValueError(
                    f"{name}: expected ids of at least 0 and less than input_dim = {self.input_dim}, "
                    f"got {ids[place]} in {where}"
                )

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        yield "embeddings", (self.input_dim, self.output_dim)

    def _initial(self, name: str) -> Initializer:
        initial = super()._initial(name)
        if isinstance(initial, initializers.PyTorch) and initial.n is None:
            return initializers.RandomNormal(stddev=1.0, seed=initial.seed)
        return initial

    def masked(self, batch: Batch) -> Batch:
        return with_mask(batch, batch.data != 0) if self.mask_zero and batch.data.ndim == 2 else batch

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        if batch.data.ndim not in (1, 2):
            raise ValueError(f"Embedding: expected ids of shape (N,) or (N, T), got {batch.data.shape}")
        self.check_values(batch, "ids")
        self.build()
        batch = self.masked(batch)
        leading, valid = batch.data.shape, batch.valid
        ids, places = batch.data.reshape(-1), None
        if valid is not None:
            places = np.flatnonzero(valid)
            ids = ids[places]
        ids = np.ascontiguousarray(ids, np.intp)
        out = (np.empty if places is None else np.zeros)((*leading, self.output_dim), self.dtype)
        self._gather(ids, places, out.reshape(-1, self.output_dim))
        penalty, d_penalty = self._activity(out, valid, training)
        return batch.with_data(out), None, penalty, (ids, places, leading, d_penalty)

    def _gather(self, ids: IntArray, places: IntArray | None, out: Array) -> None:
        """out[places[i]] = the vector of ids[i]; places None: 0, 1, ..."""
        kernels.gather(self._built_parameters()["embeddings"], ids, places, out, kernels.get_num_threads())

    def _rows_of(self, ids: IntArray) -> Array:
        return self._built_parameters()["embeddings"][ids]

    def record_batch(self, batch: Batch, state: Array | None = None) -> tuple[Batch, None, float, Any]:
        return self.forward_batch(batch)

    def step_rows(self, x: AnyArray) -> Array:
        self.check_values(Batch(x), "ids")
        if self.mask_zero and (x == 0).any():
            row = int(np.flatnonzero(x == 0)[0])
            raise ValueError(f"x_t: expected ids of a step, because mask_zero=True, got 0 in row {row}: leave it out")
        return self._rows_of(x.astype(np.intp, copy=False))  # an empty x may be of floats

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[None, None, dict[str, Array]]:
        """As `Layer.backward_batch`; ids have no gradient, so the first result is always None."""
        ids, places, leading, d_penalty = tape
        check_gradient(d_out, (*leading, self.output_dim))
        if not need_grads:
            return None, None, {}
        if d_penalty is not None:
            d_out = d_out + d_penalty
        d = np.ascontiguousarray(d_out, self.dtype).reshape(-1, self.output_dim)
        gradient = np.zeros((self.input_dim, self.output_dim), self.dtype)
        kernels.scatter_add(gradient, ids, places, d, kernels.get_num_threads())
        return None, None, {"embeddings": gradient}
