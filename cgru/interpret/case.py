"""A model, inputs for it, and the output that is looked at: forward and backward, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cgru.checks import as_array, check_bool, check_int, model_text, shape_text, whole_numbers
from cgru.layers import Dense, Embedding, Masking
from cgru.layers.rows import from_valid_rows, valid_rows
from cgru.models import Sequential, examples, stateful
from cgru.sequences import Batch, unpad
from cgru.typing import AnyArray, Array, ArrayOrList, BoolArray, IntArray


class Chunk:
    """Some rows of the inputs, and which output of each is explained."""

    steps: IntArray | None = None  # (n,) of the outputs, where they have steps
    target: IntArray | Any = None  # (n,), once it is known

    def __init__(self, rows: IntArray, part: Batch, inputs: Batch) -> None:
        self.rows, self.part, self.inputs = rows, part, inputs

    def pick(self, places: IntArray, data: Array) -> Chunk:
        """The chunk of these of its rows, which may come more than once, with other inputs."""
        picked = Chunk(self.rows[places], self.part, self.inputs.part(places).with_data(data))
        picked.target = self.target[places]
        picked.steps = None if self.steps is None else self.steps[places]
        return picked

    def place(self) -> tuple[IntArray, ...]:
        """Index of the explained outputs."""
        steps = () if self.steps is None else (self.steps,)
        return (np.arange(len(self.rows)), *steps, self.target)

    def chosen(self, outputs: Batch) -> Array:
        """The explained output of each row, float64; 0 where there is none."""
        if not outputs.data.size:
            return np.zeros(len(self.rows))
        return outputs.data[self.place()].astype(np.float64)


class Case:
    """A model, inputs for it, and which of its outputs is looked at."""

    def __init__(self, model: Sequential, x: Any, lengths: Any, mask: Any, batch_size: Any) -> None:
        if not isinstance(model, Sequential):
            raise TypeError(f"model: expected a Sequential, got {model_text(model)}")
        self.model, self.layers = model, model.layers
        self.batch_size = check_int(batch_size, "batch_size", 1)
        self.batch, self.shape = examples.inputs(self.layers, x, lengths, mask)
        self.listed = lengths is None and self.batch.lengths is not None
        self.embeds = isinstance(self.layers[0], Embedding)
        # What is explained are the inputs of this layer: ids have no gradient, and what is padding follows from x.
        self.first = int(isinstance(self.layers[0], (Embedding, Masking)))

    def choose(self, target: Any, step: Any, logits: bool) -> None:
        """Check and keep what is explained; see `saliency`."""
        self.model._check_trainable("model", "; the float32 layer has the gradients that explain")
        K = self.shape[-1]
        self._target: IntArray | None = None
        if target is not None:
            found = whole_numbers(as_array(target, "target"), "target")
            if found.shape not in ((), (len(self.batch.data),)):
                raise ValueError(
                    f"target: expected an integer, or shape ({len(self.batch.data)},), one for each sequence, got "
                    f"{shape_text(found.shape)}"
                )
            wrong = found[(found < 0) | (found >= K)]
            if wrong.size:
                got = f"the number of outputs, got {wrong[0]}"
                raise ValueError(f"target: expected at least 0 and less than {K}, {got}")
            self._target = np.broadcast_to(found, (len(self.batch.data),))
        self._step = None
        if step is not None:
            if len(self.shape) != 3:
                raise ValueError(f"step: expected None for a model with one output for each sequence, got {step!r}")
            self._step = check_int(step, "step")
            valid = examples.output_steps(self.layers, self.batch, masked=True).valid
            taken = np.broadcast_to(np.arange(self.shape[1]) == self._step, self.shape[:2])
            missing = np.flatnonzero(~(taken if valid is None else taken & valid).any(axis=1))
            if len(missing):
                got = f"got {step}, which row {missing[0]} lacks"
                raise ValueError(f"step: expected a step that every sequence has, {got}")
        self._logits = check_bool(logits, "logits")
        last = self.layers[-1]
        if self._logits and not isinstance(last, Dense):
            raise ValueError(f"logits: expected False unless the last layer is a Dense, got {type(last).__name__}")

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows, some at a time; none if there are none."""
        self.model._build_for(self.batch)
        for rows in self.model._chunks(self.batch, self.batch_size):
            if not len(rows):
                continue
            part = examples.taken(self.layers, self.batch, rows)
            inputs = self.layers[0].record_batch(part)[0] if self.first else part
            yield Chunk(rows, part, inputs)

    def forward(self, chunk: Chunk) -> tuple[Batch, list[Any]]:
        """Return (outputs, or logits; tapes of the layers) for the inputs of a chunk, which is told which outputs are
        explained, if it does not know."""
        states = stateful.first_states(self.layers, len(chunk.rows))
        tapes: list[Any] = []
        batch, last = chunk.inputs, len(self.layers) - 1
        for i, layer in enumerate(self.layers[self.first :], start=self.first):
            if self._logits and i == last:
                batch, tape = self._last(batch)
            else:
                batch, _, _, tape = layer.record_batch(batch, states[i])
            tapes.append(tape)
        if chunk.target is None:
            self._settle(batch, chunk)
        return batch, tapes

    def _last(self, hidden: Batch) -> tuple[Batch, Any]:
        last, leading, valid = self.layers[-1], hidden.data.shape[:-1], hidden.valid
        count = np.prod(leading, dtype=int) if valid is None else np.count_nonzero(valid)
        logits = np.empty((count, last.units), last.dtype)
        bias, tape = last.forward_logits(hidden, logits)
        return hidden.with_data(from_valid_rows(logits + bias, leading, valid)), tape

    def gradient(self, chunk: Chunk, outputs: Batch, tapes: list[Any]) -> Array:
        """Return the gradient of the explained outputs with respect to the inputs of `forward`, zero at steps that are
        not valid."""
        d = np.zeros(outputs.data.shape, outputs.data.dtype)
        if d.size:
            d[chunk.place()] = 1
        layers = list(zip(self.layers[self.first :], tapes, strict=True))
        if self._logits:
            last, tape = layers.pop()
            d, _ = last.backward_logits(valid_rows(d, outputs.valid, last.dtype), tape, need_grads=False)
        for layer, tape in reversed(layers):
            d = layer.backward_batch(d, None, tape, need_grads=False)[0]
        return d

    def _settle(self, outputs: Batch, chunk: Chunk) -> None:
        at = data = outputs.data
        rows = np.arange(len(chunk.rows))
        if data.ndim == 3:
            T = data.shape[1]
            if self._step is not None:
                first = examples.steps_of(self.layers, chunk.part, self.shape[1]).start or 0
                chunk.steps = np.full(len(rows), self._step - first)
            elif outputs.valid is None or not T:
                chunk.steps = np.full(len(rows), T - 1)
            else:  # in a row without steps the last one, whose gradient goes nowhere
                chunk.steps = T - 1 - outputs.valid[:, ::-1].argmax(axis=1)
            at = data[rows, chunk.steps] if T else np.zeros((len(rows), data.shape[2]))
        chunk.target = at.argmax(axis=1) if self._target is None else self._target[chunk.rows]

    def input_steps(self, chunk: Chunk) -> IntArray | None:
        """The step of the input at which the explained output of each row stands, if `step` says which output."""
        if self._step is None or chunk.steps is None:
            return None
        if not all(getattr(layer, "keeps_steps", True) for layer in self.layers):
            raise ValueError(f"step: expected None where a Conv1D leaves steps out, got {self._step}")
        return chunk.part.data.shape[1] - 1 - chunk.steps if examples.padding_first(self.layers) else chunk.steps

    def spread(self, parts: Iterable[tuple[IntArray, Array]]) -> ArrayOrList:
        """Put (rows, values for them) where they belong: an array of the shape of the inputs, or a list of arrays."""
        whole: Any = None
        for rows, part in parts:
            if whole is None:
                whole = np.zeros(self.batch.data.shape, part.dtype)
            if whole.ndim == 1:
                whole[rows] = part
            else:  # cut to the longest of them
                whole[rows, : part.shape[1]] = part
        if whole is None:
            whole = np.zeros(self.batch.data.shape, self.layers[0].dtype or np.float32)
        return unpad(whole, self.batch.lengths) if self.listed else whole

    def outputs(self, change: Callable[[AnyArray, IntArray], AnyArray] | None = None) -> Array:
        """Return the outputs for all rows; `change` may put other numbers into a copy of the inputs of some rows."""
        outputs: Any = None
        self.model._build_for(self.batch)
        for rows in self.model._chunks(self.batch, self.batch_size):
            part = examples.taken(self.layers, self.batch, rows)
            if change is not None:
                part = part.with_data(change(part.data, rows))
            y = self.model._forward(part, stateful.first_states(self.layers, len(rows)))[0].data
            if outputs is None:
                outputs = np.zeros((len(self.batch.data), *self.shape[1:]), y.dtype)
            if y.ndim == 3:
                outputs[rows, examples.steps_of(self.layers, part, outputs.shape[1])] = y
            else:
                outputs[rows] = y
        return outputs


def cleaned(data: AnyArray, valid: BoolArray | None) -> Array:
    """The data in floating point, zero at steps that are not valid."""
    if data.dtype.kind != "f":
        data = data.astype(np.float32)
    return data if valid is None else from_valid_rows(data[valid], valid.shape, valid)
