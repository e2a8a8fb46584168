"""What is computed: a `Case` names sizes, form and mode, `draw` makes its arrays, the same for every contestant."""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """One cell of a benchmark. Training is forward and backward with the gradients of x and of all weights."""

    N: int
    T: int
    D: int
    H: int
    mode: str = "inference"  # "gemm": one product (N x D)(D x H)
    reset_after: bool = True
    layout: str = "batch"  # x and y are (N, T, .), or (T, N, .) with "time"
    dtype: str = "float32"
    layers: int = 1
    bidirectional: bool = False
    shortest: int | None = None  # lengths are drawn from here to T; None: all are T
    padded: bool = False  # the contestant is not told the lengths

    @property
    def directions(self):
        return ("forward", "backward") if self.bidirectional else ("forward",)

    @property
    def size(self):
        return f"{self.N},{1 if self.mode == 'step' else self.T},{self.D},{self.H}"

    @property
    def flops(self):
        """Operations of the matrix products; backward has twice those of forward."""
        if self.mode == "gemm":
            return 2 * self.N * self.D * self.H
        steps = self.N * self.T if self.shortest is None else int(_lengths(self).sum())
        above = (self.layers - 1) * self.H * len(self.directions)  # features of the layers above the first
        macs = steps * 3 * self.H * len(self.directions) * (self.D + above + self.layers * self.H)
        return 2 * macs * (3 if self.mode == "training" else 1)

    def as_dict(self):
        return asdict(self)


def oriented(array, case):
    """A batch-major array in the layout of the case, contiguous."""
    return np.ascontiguousarray(array.swapaxes(0, 1)) if case.layout == "time" else array


def weight_names(case):
    """Names of the weights in order: layers, directions, then kernel, recurrent_kernel, bias."""
    cells = [f"l{layer}.{direction}" for layer in range(case.layers) for direction in case.directions]
    return [f"{cell}.{name}" for cell in cells for name in ("kernel", "recurrent_kernel", "bias")]


def draw(case, seed=0):
    """Return dict name -> array: x (N, T, D), dy (N, T, F), lengths where the case has them, and the weights under
    `weight_names`, as cgru has them: gates r, z, n in columns, z weighing the new candidate."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape, case.dtype)

    def uniform(*shape):
        return rng.uniform(-1, 1, shape).astype(case.dtype) / np.asarray(case.H**0.5, case.dtype)

    if case.mode == "gemm":
        return {"x": normal(case.N, case.D), "kernel": normal(case.D, case.H)}
    width = case.H * len(case.directions)
    arrays = {"x": normal(case.N, case.T, case.D)}
    if case.mode == "training":
        arrays["dy"] = normal(case.N, case.T, width)
    if case.shortest is not None:
        arrays["lengths"] = _lengths(case)
        if "dy" in arrays:
            arrays["dy"][~valid(arrays["lengths"], case.T)] = 0
    for name in weight_names(case):
        features = case.D if name.startswith("l0.") else width
        shape = {
            "kernel": (features, 3 * case.H),
            "recurrent_kernel": (case.H, 3 * case.H),
            "bias": (2, 3 * case.H) if case.reset_after else (3 * case.H,),
        }
        arrays[name] = uniform(*shape[name.rpartition(".")[2]])
    return arrays


def valid(lengths, T):
    """Bool array (N, T), True where a row has a step."""
    return np.arange(T) < lengths[:, None]


def _lengths(case):
    lengths = np.random.default_rng(case.N).integers(case.shortest, case.T + 1, case.N)
    lengths[0] = case.T
    return lengths.astype(np.int32)
