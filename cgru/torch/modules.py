"""The modules: torch.nn.GRU and torch.nn.GRUCell with another `forward`."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch.nn.utils.rnn import PackedSequence

from cgru.torch import serving, steps, weights
from cgru.torch.layer import Layer
from cgru.torch.memory import records
from cgru.torch.resets import run as with_resets
from cgru.torch.sequences import Packed, Padded


class GRU(torch.nn.GRU):
    """torch.nn.GRU with another `forward`: arguments, parameters, results and errors are those of torch.nn.GRU.

    Served are float32 and float64 on the CPU: padded input in either order, unbatched input and PackedSequence, with
    gradients of the input, the initial state and every weight. Tensors are read and written where they are, without
    copies, if their features are contiguous. Time and memory for a PackedSequence are linear in its steps.

    Weights are brought into the kernels' form at every call, because some changes of a parameter cannot be seen
    (`.data`, fused optimizers); `freeze` keeps that form between calls. Where a call has so few time steps that this
    does not pay, it is left to PyTorch's operation; for a single step small weights are compared with those of the call
    before.

    A call uses as many threads as `cgru.get_num_threads()` and `torch.get_num_threads()` both allow; results are the
    same bits for any number.

    Notes
    -----
    What the kernels do not serve is passed to `torch.nn.GRU.forward`, which computes it or says in its own words what
    is wrong:

    * other devices and dtypes (half, bfloat16), sparse tensors, subclasses of Tensor;
    * calls under autocast, in forward-mode differentiation and in the transforms of torch.func (grad, vmap, jvp);
    * calls that somebody looks into: torch.compile, torch.export, torch.jit.trace, torch.onnx.export, a
      TorchDispatchMode;
    * empty batches, and wrong arguments.

    With `resets` the rows are cut into segments, which go through the GRU as the rows of a PackedSequence: each has the
    bits of a call by itself, and a few long rows become many short ones.

    Gradients that are to be differentiated again (`create_graph=True`) or that come in batches
    (`is_grads_batched=True`) are computed by PyTorch's operations from the inputs. torch.jit.script is refused: it
    takes torch.nn.GRU alone, see `restore_gru`.

    Examples
    --------
    >>> import cgru.torch, torch
    >>> gru = cgru.torch.GRU(3, 4, batch_first=True)
    >>> y, h = gru(torch.zeros(2, 5, 3))
    >>> y.shape, h.shape
    (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
    """

    __module__ = "cgru.torch"

    _kept = None  # weights.Kept, by `freeze`
    _step = None  # steps.Step, after a call of few time steps

    def forward(self, input: Any, hx: torch.Tensor | None = None, *, resets: Any = None) -> tuple[Any, torch.Tensor]:
        """Return (output, h_n), as torch.nn.GRU does.

        Parameters
        ----------
        input : Tensor of shape (T, N, D), (N, T, D) with batch_first, or (T, D); or PackedSequence
        hx : Tensor of shape (num_layers * directions, N, H), or without N; optional
        resets : bool tensor or array of the shape of input without its features, or PackedSequence; optional
            Before each step at which it is True (or 1) the state of its row becomes zero, and no gradient passes: rows
            hold several episodes. hx is where rows start, and a reset at the first step overrides it. In the direction
            from the end to the start a reset acts between the same two steps.
        """
        if resets is not None:
            return with_resets(self, input, hx, resets)
        stepped = None if self._step is None else steps.step_gru(self, input, hx)
        return self._forward(input, hx) if stepped is None else stepped

    def _forward(self, input: Any, hx: torch.Tensor | None) -> tuple[Any, torch.Tensor]:
        is_packed = isinstance(input, PackedSequence)
        x, sequences = input.data if is_packed else input, None
        cells = serving.cells_of_gru(self, x, hx)
        if cells is not None:
            sequences = Packed.of(input) if is_packed else Padded.of(x, self.batch_first)
        if sequences is None or (hx is not None and hx.shape != sequences.state(len(cells), self.hidden_size)):
            return super().forward(input, hx)
        flat = [w for cell in cells for w in cell]
        kept = weights.kept(self, flat)
        T, rows = sequences.T, sequences.steps / sequences.T
        is_worth = weights.worth_packing(T, rows, weights.per_cell(flat, len(cells)))
        if not is_packed and (T == 1 or not is_worth) and (self._step is None or not self._step.is_of(self)):
            steps.learn(self, cells, kept)
        if kept is None and not is_worth:
            return super().forward(input, hx)
        if not is_packed:
            return _run_layers(self, sequences, x, hx, cells, kept)
        hx = hx if hx is None else self.permute_hidden(hx, input.sorted_indices)
        y, h = _run_layers(self, sequences, x, hx, cells, kept)
        y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return y, self.permute_hidden(h, input.unsorted_indices)

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError("torch.jit.script compiles torch.nn.GRU alone: call cgru.torch.restore_gru(model) before")


class GRUCell(torch.nn.GRUCell):
    """torch.nn.GRUCell with another `forward`: arguments, parameters, results and errors are those of torch.nn.GRUCell.

    Served are float32 and float64 on the CPU where no gradients are recorded, with weights that are frozen or small.
    Everything else, training among it, is passed to `torch.nn.GRUCell.forward`: packing weights for one step costs more
    than the kernels gain. A loop over a whole sequence is best written as one call of a `GRU`.

    Examples
    --------
    >>> import cgru.torch, torch
    >>> cell = cgru.torch.GRUCell(3, 4)
    >>> with torch.inference_mode():
    ...     h = cell(torch.zeros(2, 3))
    >>> h.shape
    torch.Size([2, 4])
    """

    __module__ = "cgru.torch"

    _kept = None  # weights.Kept, by `freeze`
    _step = None  # steps.Step, after a call of one time step

    def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state, as torch.nn.GRUCell does."""
        if records(*self._parameters.values()):
            if self._kept is not None:
                self._kept.forget()
            return super().forward(input, hx)
        h = None if self._step is None else steps.step_cell(self, input, hx)
        if h is None and (self._step is None or not self._step.is_of(self)):
            cells = serving.cell_of_cell(self, input, hx)
            if cells is not None:
                steps.learn(self, cells, weights.kept(self, cells[0]))
            h = None if self._step is None else steps.step_cell(self, input, hx)
        return super().forward(input, hx) if h is None else h

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            "torch.jit.script compiles torch.nn.GRUCell alone: call cgru.torch.restore_gru(model) before"
        )


def _run_layers(gru, sequences, x, hx, cells, kept):
    """(output, h_n) of all layers."""
    directions = 2 if gru.bidirectional else 1
    plans = [sequences.plan(reverse) for reverse in (False, True)[:directions]]
    between = sequences.time_major()  # as in torch.nn.GRU: with one seed dropout draws the same values
    threads = torch.get_num_threads()
    states = [hx] * len(cells) if hx is None or directions == len(cells) else hx.split(directions)
    packed = kept and kept.form(cells, records(x, hx), threads).weights
    finals = []
    for first in range(0, len(cells), directions):
        last = first + directions == len(cells)
        own, h0 = cells[first : first + directions], states[len(finals)]
        flat = [w for cell in own for w in cell]
        ready = packed[first : first + directions] if packed else weights.pack(own, records(x, h0, *flat), threads)
        form = between if first else sequences, sequences if last else between
        x, h = Layer(*form, plans, ready, gru.bias, threads).run(x, h0, *flat)
        finals.append(h)
        if gru.dropout and gru.training and not last:
            x = torch.nn.functional.dropout(x, gru.dropout)
    return x, h if len(finals) == 1 else torch.cat(finals)
