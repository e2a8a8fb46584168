"""The two passes through the layers and directions of a GRU. The arithmetic of one cell is in recurrence.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cgru import masks, recurrence, segments
from cgru.checks import sequence_advice
from cgru.layers import noise
from cgru.layers.base import Layer, check_gradient
from cgru.layers.cells import Cells
from cgru.layers.steps import flipped, gather_repeated, repeat_last
from cgru.recomputing import Every
from cgru.scheduling import Schedule, schedule
from cgru.sequences import Batch, as_numeric
from cgru.typing import AnyArray, Array, Key, Shape


class Tape(NamedTuple):
    """What backward needs of one forward pass. It belongs to the caller and is only read."""

    layer: Layer  # whose forward pass it was
    batch: Batch  # as the stack saw it
    cells: list[Any]  # recurrence.Tape, or recomputing.Outline, in the order of the state
    outputs: list[
        Sequence[Array] | None
    ]  # per layer: the outputs of its directions where the merge needs them, else None
    factors: list[Array | None]  # per layer: what its input was multiplied with
    learned: bool  # the initial state came from the parameters
    output_shape: Shape  # of the gradient that backward takes
    d_penalty: Array | None  # gradient of the penalty on the outputs, of their shape
    penalty: float  # of the outputs and the parameters


class Stack(Cells):
    """Layers and directions of the recurrence, batch-major throughout; `Calls` is its face."""

    # -- the passes

    def _build_for(self, x: AnyArray, name: str) -> None:
        if x.shape[-1] < 1:
            raise ValueError(f"{name}: expected at least one feature, got shape {x.shape}")
        if self.built and x.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: expected {self.input_size} features, as the layer was built for, got {x.shape[-1]}"
            )
        self.build(x.shape[-1])

    def _run(
        self, batch: Batch, initial_state: ArrayLike | None, record: bool, key: Key = None, every: Every = None
    ) -> tuple[Array, Array, float, Tape | None]:
        """Return (y, h, penalty, tape); y is (N, T, F), or (N, F) without return_sequences. The tape is kept if
        `record`, with `every` that of so many steps at a time; only with a key (see `_chance`) anything is left to
        chance."""
        x: Any = batch.data
        if x.ndim != 3:
            raise self._wrong_shape((x.swapaxes(0, 1) if self.time_major and x.ndim > 1 else x).shape)
        self._build_for(x, "x")
        N, T, _ = x.shape
        weights, learned, _ = self._ready()
        h0, is_learned = self._initial_state(initial_state, N, learned)
        if self.go_backwards:
            batch = flipped(batch)
        plans: list[Any] = self._plans(batch)
        h = np.empty((len(weights), N, self.units), self.dtype)
        cells: list[Any] = []
        outputs: list[Sequence[Array] | None] = []
        factors: list[Array | None] = []
        x = recurrence.readable(batch.data)
        ys: list[Any]
        for layer in range(self.num_layers):
            last = layer == self.num_layers - 1
            wanted = self.return_sequences or not last
            y, ys = None, [None] * len(plans)
            if wanted:
                y, ys = self._allocate_outputs(N, T, plans[0].steps == N * T)
            factor = None
            if key is not None:
                factor = noise.input_factors(self, key, layer, x, masks.steps_of(batch.mask))
            factors.append(factor)
            if factor is not None:
                with np.errstate(all="ignore"):  # steps that are not valid may hold anything
                    x = x * factor
            first = layer * len(plans)
            results = recurrence.run(
                *(
                    segments.forward_pass(
                        weights[first + d], x, h0[first + d], plan, ys[d], record, h[first + d],
                        noise=recurrence.NO_NOISE if key is None else noise.of_cell(self, key, layer, d, plan, N),
                        initial=None if learned is None else learned[first + d], every=every,
                    )
                    for d, plan in enumerate(plans)
                )
            )  # fmt: skip
            cells += [tape for _, tape in results]
            if last and wanted and not self.zero_output_for_mask and batch.valid is not None:
                for d, y_d in enumerate(ys):
                    repeat_last(y_d, batch.valid, backwards=d == 1 or self.reverse)
            x = self._merge(y, ys) if wanted else None
            outputs.append(ys if self.merge_mode == "mul" and self.bidirectional else None)
        if not self.return_sequences:
            finals = list(h[-len(plans) :])
            x = self._merge(None, finals)
            if outputs[-1] is not None:
                outputs[-1] = [final.copy() for final in finals]  # h is the caller's
        state = h[0] if self._state_is_flat else h
        if not self.return_sequences and x.base is not None:
            x = x.copy()  # y and h are the caller's, one each
        penalty, d_penalty = self._activity(x, batch.valid if self.return_sequences else None, record)
        if not record:
            return x, state, penalty, None
        whole = penalty + self.penalty()
        return x, state, penalty, Tape(self, batch, cells, outputs, factors, is_learned, x.shape, d_penalty, whole)

    def _chance(self, key: Key) -> Key:
        """The key of a pass in training, one of the layer's own if none is given; None if nothing is left to chance."""
        if not self._chooses:
            return None
        return self._next_key() if key is None else key

    @cached_property
    def _chooses(self) -> bool:
        return any(getattr(self, name) for name in noise.RATES)

    def _wrong_shape(self, given: Shape) -> ValueError:
        shape = "(T, N, D)" if self.time_major else "(N, T, D)"
        advice = sequence_advice(given, self.input_size, self.time_major)
        return ValueError(f"x: expected shape {shape} or a list of (T_i, D) arrays, got {given}{advice}")

    def _pull(
        self, dy: Array | None, dh: Array | None, tape: Tape, need_dx: bool, need_grads: bool = True
    ) -> tuple[Array | None, Array, dict[str, Array]]:
        """Return (dx, dh0, grads) for gradients in batch-major order; without `need_grads` the last is empty."""
        directions = len(self._directions)
        N = len(tape.batch.data)
        if tape.d_penalty is not None:
            dy = tape.d_penalty if dy is None else dy + tape.d_penalty
        shape = (len(tape.cells), N, self.units)
        dh = np.zeros(shape, self.dtype) if dh is None else dh.reshape(shape).copy()
        dh0 = np.empty_like(dh)
        grads = {}
        if dy is not None and not self.return_sequences:
            for d, term in enumerate(self._split(dy, tape.outputs[-1])):
                dh[len(tape.cells) - directions + d] += term
            dy = None
        for layer in reversed(range(self.num_layers)):
            dys: list[Any] = [None] * directions if dy is None else self._split(dy, tape.outputs[layer])
            last = layer == self.num_layers - 1
            dx = None
            if last and dy is not None and not self.zero_output_for_mask and tape.batch.valid is not None:
                dys = [
                    gather_repeated(d_out, tape.batch.valid, backwards=d == 1 or self.reverse)
                    for d, d_out in enumerate(dys)
                ]
            dys = [d_out if d_out is None else recurrence.readable(d_out) for d_out in dys]
            first = layer * directions
            results = recurrence.run(
                *(
                    segments.backward_pass(
                        dys[d], dh[first + d], tape.cells[first + d], need_dx or layer > 0, need_grads=need_grads
                    )
                    for d in range(directions)
                )
            )
            for cell, g in enumerate(results, start=first):
                dh0[cell] = g.dh0
                if g.dx is not None:
                    dx = g.dx if dx is None else np.add(dx, g.dx, out=dx)
                if not need_grads:
                    continue
                prefix = self._prefixes[cell]
                grads[prefix + "kernel"] = g.kernel
                grads[prefix + "recurrent_kernel"] = g.recurrent_kernel
                if self.use_bias:
                    grads[prefix + "bias"] = g.bias
                if self.layer_norm:
                    grads[prefix + "gain"] = g.gain
                if self.learn_initial_state:
                    used = g.dh0 if tape.learned else g.dh0[:0]
                    grads[prefix + "initial_state"] = used.sum(axis=0)
                    if g.initial is not None:
                        grads[prefix + "initial_state"] += g.initial
            if dx is not None and (factor := tape.factors[layer]) is not None:
                np.multiply(dx, factor, out=dx)
            dy = dx
        if self.go_backwards and dx is not None:
            dx = dx[:, ::-1]
        grads = {name: grads[name] for name in self._built_parameters() if need_grads}
        return dx, dh0[0] if self._state_is_flat else dh0, grads

    # -- the layer protocol

    @property
    def draws(self) -> bool:
        return self._chooses or type(self).forward_batch is not Stack.forward_batch

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False,
        recompute: Every = None,
    ) -> tuple[Batch, Array, float, Tape | None]:  # fmt: skip
        return self._protocol(batch, state, training, self._chance(key) if training else None, recompute)

    @property
    def recomputes(self) -> bool:
        return type(self).forward_batch is Stack.forward_batch

    def record_batch(self, batch: Batch, state: Array | None = None) -> tuple[Batch, Array, float, Any]:
        out, after, _, tape = self._protocol(batch, state, record=True, key=None)
        return out, after, 0.0, tape and tape._replace(d_penalty=None)

    def _protocol(
        self, batch: Batch, state: Array | None, record: bool, key: Key, every: Every = None
    ) -> tuple[Batch, Array, float, Tape | None]:
        data = batch.data
        if data.dtype != self.dtype:
            data = as_numeric(data, self.dtype)
        y, h, penalty, tape = self._run(batch.with_data(data), state, record, key, every)
        if not self.return_sequences:
            return Batch(y), h, penalty, tape
        return (flipped(batch) if self.go_backwards else batch).with_data(y), h, penalty, tape

    def output_steps(self, batch: Batch) -> Batch:
        if not self.return_sequences:
            return Batch(np.empty((len(batch.data), 0)))
        return super().output_steps(flipped(batch) if self.go_backwards else batch)

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Tape, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, Array, dict[str, Array]]:
        self._check_tape(tape)
        check_gradient(d_out, tape.output_shape)
        return self._pull(np.asarray(d_out, self.dtype), d_state, tape, need_dx, need_grads)

    def _check_tape(self, tape: Tape) -> None:
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected what forward(..., training=True) returned, got {type(tape).__name__}")
        if tape.layer is not self:
            raise ValueError("tape: expected one of this layer's forward passes, got another layer's")

    # -- directions

    def _plans(self, batch: Batch) -> list[Schedule] | list[segments.Cut]:
        """What rows do in each direction."""
        N, T, _ = batch.data.shape
        reverses = (False, True) if self.bidirectional else (self.reverse,)
        if batch.resets is not None:
            parts = segments.segments(batch.resets, batch.valid, self.time_major)
            return [segments.cut(parts, reverse) for reverse in reverses]
        return [schedule(N, T, batch.lengths, batch.mask, reverse) for reverse in reverses]

    def _allocate_outputs(self, N: int, T: int, all_valid: bool) -> tuple[Array | None, list[Array]]:
        """(y or None, the array that each direction writes): halves of y for "concat", y itself for one direction."""
        empty = np.empty if all_valid else np.zeros
        H = self.units
        if not (self.bidirectional or self.time_major):
            y = empty((N, T, H), self.dtype)
            return y, [y]
        shape = (T, N) if self.time_major else (N, T)
        if self.bidirectional and self.merge_mode != "concat":
            ys = [empty((*shape, H), self.dtype) for _ in self._directions]
            return None, [y.swapaxes(0, 1) for y in ys] if self.time_major else ys
        y = empty((*shape, len(self._directions) * H), self.dtype)
        y = y.swapaxes(0, 1) if self.time_major else y
        return y, [y[:, :, d * H : (d + 1) * H] for d in range(len(self._directions))]

    def _merge(self, y: Array | None, ys: Sequence[Array]) -> Array:
        """One array of the directions' arrays; y is the one that already holds them, if any."""
        if y is not None:
            return y
        if len(ys) == 1:
            return ys[0]
        if self.merge_mode == "concat":
            return np.concatenate(ys, axis=-1)
        with np.errstate(all="ignore"):  # inf - inf is NaN in its own row
            if self.merge_mode == "mul":
                return ys[0] * ys[1]
            total = ys[0] + ys[1]
            return total if self.merge_mode == "sum" else total / 2

    def _split(self, dy: Array, ys: Any) -> list[Array]:
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
