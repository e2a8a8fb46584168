"""Packed weights: made for a call, or kept from call to call by a frozen module."""

from cgru import kernels, recurrence
from cgru.torch.memory import array, records

_LAYOUT = recurrence.Layout("rzn", "old")  # of weight_ih.T and weight_hh.T


def pack(cells, training, threads):
    """recurrence.Weights of cells: (weight_ih, weight_hh), or these and (bias_ih, bias_hh)."""
    packed = []
    for W, U, *biases in cells:
        packed.append(
            recurrence.prepare(
                array(W).T, array(U).T, [array(b) for b in biases] or None, reset_after=True,
                layout=_LAYOUT, backward="now" if training else "never", threads=threads,
            )
        )  # fmt: skip
    return packed


def per_cell(flat, cells):
    """How many weights a cell has, on average."""
    return sum(w.numel() for w in flat) / cells


def worth_packing(steps, rows, per_cell):
    """Whether packing weights for a call costs less than the kernels gain: PyTorch loses some 20 us at each time step,
    and packing takes about 1 ns for each weight (benchmarks/torch_drop_in.py)."""
    return steps >= 4 + per_cell / (50_000 * (1 + rows / 16))


def kept(module, flat):
    """The `Kept` of a frozen module if this call may use it; a call that may not, drops what it holds."""
    own = module._kept
    if own is not None and (module.training or records(*flat)):
        own.forget()
        return None
    return own


class Kept:
    """What a frozen module keeps; copies and pickles start empty."""

    def __init__(self):
        self._form = None

    def __deepcopy__(self, memo):
        return Kept()

    def __reduce__(self):
        return Kept, ()

    def forget(self):
        self._form = None

    def holds(self, form):
        return self._form is form

    def form(self, cells, training, threads):
        """The `Form` of the cells of a module that is kept, or a new one if the parameters look different by now."""
        flat = [w for cell in cells for w in cell]
        looks = [*map(look, flat)]
        form = self._form
        if form is None or form.looks != looks or training > form.training:
            # Packed after the look, so that what changes meanwhile will look different.
            form = self._form = Form(looks, [w.detach() for w in flat], training, pack(cells, training, threads))
        return form


def look(weight):
    """What changes with a tensor's values, but for changes that PyTorch does not count."""
    return weight.data_ptr(), weight.dtype, None if weight.is_inference() else weight._version


class Form:
    """The packed weights of all cells of a module."""

    def __init__(self, looks, memory, training, weights):
        self.looks = looks
        self.memory = memory  # holds the memory of the tensors, so that no other tensor gets its address
        self.training = training  # whether backward can use them
        self.weights = weights
        self._handle = None

    def handle(self):
        """A kernels.Handle of them."""
        if self._handle is None:
            self._handle = kernels.Handle(self.weights)
        return self._handle
