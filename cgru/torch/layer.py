"""One layer of one call, its directions at once, forward and backward."""

from typing import NamedTuple

import numpy as np
import torch

from cgru import recurrence
from cgru.torch.memory import array, is_plain, records
from cgru.torch.sequences import Packed, Padded


class Layer(NamedTuple):
    """One layer of one call, its directions at once."""

    inputs: Padded | Packed
    outputs: Padded | Packed
    plans: list  # Schedule of each direction
    weights: list  # recurrence.Weights of each direction
    bias: bool
    threads: int

    def run(self, x, h0, *parameters):
        """Return y, h, recorded for gradients where something requires them."""
        if records(x, h0, *parameters):
            return _Gradients.apply(self, x, h0, *parameters)
        return self.forward(x, h0)[:2]

    def forward(self, x, h0, training=False):
        """Return y, h, and (gates, states) of each direction's tape."""
        features = self._read(x)
        directions, N, H = len(self.weights), len(features), self.weights[0].H
        y = x.new_empty(self.outputs.shape(directions * H))
        h = x.new_empty(self.outputs.state(directions, H))
        y_array, h_array = array(y), array(h).reshape(directions, N, H)
        h0 = np.zeros_like(h_array) if h0 is None else np.ascontiguousarray(array(h0)).reshape(h_array.shape)
        results = recurrence.run(
            *(
                recurrence.forward_pass(
                    weights, features, h0[d], plan, self._half(y_array, d), training, h_array[d], self.threads
                )
                for d, (weights, plan) in enumerate(zip(self.weights, self.plans, strict=True))
            ),
            threads=self.threads,
        )
        tapes = [torch.from_numpy(part) for _, tape in results if training for part in (tape.gates, tape.states)]
        return y, h, tapes

    def backward(self, x, tapes, dy, dh, need_dx):
        """Return the gradients of x, h0 and the weights, for those of y and h, arrays or None."""
        features = self._read(x)
        N, D, H = len(features), features.shape[2], self.weights[0].H
        dh0 = x.new_empty(self.outputs.state(len(self.weights), H))
        dh0_array = array(dh0).reshape(-1, N, H)
        dh = [None] * len(self.weights) if dh is None else dh.reshape(dh0_array.shape)
        dxs, flat, passes = [], [], []
        for d, (weights, plan) in enumerate(zip(self.weights, self.plans, strict=True)):
            tape = recurrence.Tape(weights, features, plan, *map(array, tapes[2 * d : 2 * d + 2]))
            new = [x.new_empty(shape) for shape in ((3 * H, D), (3 * H, H), (3 * H,), (3 * H,))]
            dW, dU, *biases = map(array, new)
            dxs.append(x.new_empty(self.inputs.shape(D)) if need_dx else None)
            out = recurrence.Gradients(
                self.inputs.batch(array(dxs[d])) if need_dx else None, dh0_array[d], dW.T, dU.T, biases
            )
            dy_half = dy if dy is None else recurrence.readable(self._half(dy, d))
            passes.append(recurrence.backward_pass(dy_half, dh[d], tape, need_dx, out, self.threads))
            flat += new if self.bias else new[:2]
        recurrence.run(*passes, threads=self.threads)
        dx = dxs[0] if len(dxs) == 1 or not need_dx else dxs[0].add_(dxs[1])
        return [dx, dh0, *flat]

    def backward_by_torch(self, x, h0, flat, dy, dh, needed):
        """The same gradients by PyTorch's operations, which know their own derivatives and take batches of dy."""
        create_graph, directions, H = torch.is_grad_enabled(), len(self.weights), self.weights[0].H
        with torch.enable_grad():
            # Other names for the tensors, or gradients would run on through them into what they were made from.
            inputs = [t if t is None else t.view_as(t) for t in (x, h0, *flat)]
            x, h0, *flat = inputs
            state = (directions, self.inputs.N, H)
            h0 = x.new_zeros(state) if h0 is None else h0.reshape(state)
            y, h = self.inputs.by_torch(self.outputs, x, h0, flat, self.bias, 1, 0.0, False, directions == 2)
            given = [(y, dy), (h.reshape(self.outputs.state(directions, H)), dh)]
            results, gradients = zip(*(pair for pair in given if pair[1] is not None), strict=True)
            wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
            found = torch.autograd.grad(results, wanted, gradients, create_graph=create_graph)
        found = iter(found)
        return [next(found) if need else None for need in needed]

    def _read(self, x):
        return recurrence.readable(self.inputs.batch(array(x)))

    def _half(self, features, direction):
        """The features of one direction in an array of outputs, (N, T, H)."""
        H = self.weights[0].H
        return self.outputs.batch(features)[:, :, direction * H : (direction + 1) * H]


class _Gradients(torch.autograd.Function):
    """A layer whose gradients are wanted."""

    @staticmethod
    def forward(ctx, layer, x, h0, *flat):
        y, h, tapes = layer.forward(x, h0, training=True)
        ctx.set_materialize_grads(False)
        ctx.layer = layer
        ctx.save_for_backward(x, h0, *flat, *tapes)  # PyTorch frees them, or sees to it that they are not changed
        return y, h

    @staticmethod
    def backward(ctx, dy, dh):
        x, h0, *saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        flat, tapes = saved[: len(needed) - 2], saved[len(needed) - 2 :]
        given = _arrays(dy, dh)
        if torch.is_grad_enabled() or given is None:
            return None, *ctx.layer.backward_by_torch(x, h0, flat, dy, dh, needed)
        found = ctx.layer.backward(x, tapes, *given, needed[0])
        return None, *(gradient if need else None for gradient, need in zip(found, needed, strict=True))


def _arrays(*gradients):
    """The arrays of gradients that may be None; None for all if one has no memory of its own, as a batch under vmap."""
    arrays = []
    for gradient in gradients:
        if gradient is None:
            arrays.append(None)
            continue
        try:
            gradient = gradient.resolve_neg()
            if not is_plain(gradient):
                return None
            arrays.append(array(gradient))
        except RuntimeError:
            return None
    return arrays
