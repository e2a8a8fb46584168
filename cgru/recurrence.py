"""The functional core: one layer in one direction over prepared weights. Arrays in, arrays out; no parameters are held
here.

`prepare` brings the weights into the form that the kernels read, a `Schedule` says which rows take a step when, and
`forward_pass` and `backward_pass` allocate what the compiled kernels write. Callers (layers/stack.py, torch/) have
checked their arrays; what this module asks of them is said at each function.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cgru import aligned, kernels
from cgru.kernels.calls import Call
from cgru.scheduling import Schedule
from cgru.small import SmallMatrix
from cgru.typing import Activation, Array, BackendName

Matrix: TypeAlias = Array | SmallMatrix
Bias: TypeAlias = Array | Sequence[Array] | None  # (3H,), or two of them with reset_after
Backward: TypeAlias = Literal["later", "now", "never"]
Result = TypeVar("Result")

ACTIVATIONS = {  # codes of kernels/activations.pxd
    "sigmoid": 0,
    "tanh": 1,
    "relu": 2,
    "linear": 3,
    "hard_sigmoid": 4,
    "hard_sigmoid_keras2": 5,
}

_ROUTES = {"native": 0, "blas": 1}  # of the backends, kernels/jobs.pxd; those of small weights are small.KINDS


class Layout(NamedTuple):
    """How weights that come in, and gradients that go out, hold the gates in their columns. Rows for columns need no
    word: transposed views are read and written as they are."""

    gates: str = "rzn"  # the order of the blocks
    z: str = "new"  # which of candidate and state z weighs; "old" has the z blocks negated, since f(-a) = 1 - f(a)

    def pack(
        self,
        array: Array,
        matrix: Array,
        places: tuple[int, int, int],
        columns: int,
        ld: int,
        threads: int | None,
        below: bool = False,
        inverse: bool = False,
    ) -> None:
        """kernels.pack with an array of this layout."""
        starts = [self.gates.index(gate) for gate in "rzn"]
        kernels.pack(
            array, matrix, starts, places, below, self.z == "old", columns, ld, _most(threads), inverse
        )


OWN = Layout()
_SYMMETRIC = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")  # f(-a) = 1 - f(a)


class Weights:
    """Weights of one cell in the form that the kernels read: copies, never written again, so threads may share them.

    Attributes
    ----------
    kernel, recurrent_kernel : ndarray
        W and U by their routes: in panels or row-major, units padded to whole vectors; or the bytes of small ones.
    backend : str or None
        Whose products these weights are for; None, of small ones: whatever the backend is.
    bias : ndarray of shape (4Hp,)
        r z n q; biases that share a sum are added up.
    gain : ndarray of shape (6Hp,), or None
        Of the normalised products: of the input r z n, of the state r z n. None: they are not normalised.
    zoneout : float
        The probability with which a unit keeps its old state at a step.
    layout : Layout
        Of what this was made from, and of the gradients.
    """

    __slots__ = (
        "D", "H", "Hp", "_back", "_sources", "activation", "backend", "bias", "dtype", "gain", "kernel", "layout",
        "recurrent_activation", "recurrent_kernel", "reset_after", "route", "row", "zoneout",
    )  # fmt: skip

    def __init__(
        self, kernel: Matrix, recurrent_kernel: Matrix, bias: Bias, reset_after: bool, activation: Activation,
        recurrent_activation: Activation, backend: BackendName, layout: Layout, backward: Backward, threads: int | None,
        gain: Array | None, zoneout: float,
    ) -> None:  # fmt: skip
        self.D, self.H = len(kernel), len(recurrent_kernel)
        self.dtype = kernel.dtype
        self.Hp = kernels.padded_units(self.H, self.dtype.itemsize)
        self.layout, self.reset_after = layout, reset_after
        self.activation, self.recurrent_activation = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
        self.backend: BackendName | None = backend
        self.route = _ROUTES[backend]
        self._back: tuple[Array, Array] | None = None
        self._sources: Any = None
        if isinstance(kernel, SmallMatrix) or isinstance(recurrent_kernel, SmallMatrix):
            assert isinstance(kernel, SmallMatrix) and isinstance(recurrent_kernel, SmallMatrix)
            self.backend, self.route = None, kernel.route
            self.kernel, self.recurrent_kernel = kernel.blob, recurrent_kernel.blob
        else:
            self.kernel = self._side_by_side(kernel, threads)
            self.recurrent_kernel = self._side_by_side(recurrent_kernel, threads)
            self._sources = (kernel, recurrent_kernel) if backward == "later" else None
            self._back = self._transposes(kernel, recurrent_kernel, threads) if backward == "now" else None
        self.bias = self._sums(bias)
        self.gain, self.zoneout = None if gain is None else self._padded(gain), zoneout
        self.row = kernels.gates_row(self.H, reset_after, gain is not None, self.dtype.itemsize)

    def back(self, threads: int | None = None) -> tuple[Array, Array]:
        """The transposes that backward reads: (W^T with rows n r z, U^T with rows r z n)."""
        if self._back is None:
            kernel, recurrent_kernel = self._sources
            self._back = self._transposes(kernel, recurrent_kernel, threads)
        return self._back

    def _transposes(self, kernel: Array, recurrent_kernel: Array, threads: int | None) -> tuple[Array, Array]:
        return (
            self._below(kernel, (1, 2, 0), threads),
            self._below(recurrent_kernel, (0, 1, 2), threads),
        )

    def _side_by_side(self, array: Array, threads: int | None) -> Array:
        matrix = _blank(len(array) * 3 * self.Hp, array)
        self.layout.pack(array, matrix, (0, 1, 2), self.Hp, 3 * self.Hp if self.route else 0, threads)
        return matrix

    def _below(self, array: Array, places: tuple[int, int, int], threads: int | None) -> Array:
        columns = kernels.padded_units(len(array), self.dtype.itemsize)
        matrix = _blank(3 * self.Hp * columns, array)
        self.layout.pack(array, matrix, places, columns, columns if self.route else 0, threads, below=True)
        return matrix

    def _padded(self, gain: Array) -> Array:
        padded = aligned.zeros((2, 3, self.Hp), self.dtype)
        padded[:, :, : self.H] = gain.reshape(2, 3, self.H)
        return padded.reshape(-1)

    def _sums(self, bias: Bias) -> Array:
        sums = aligned.zeros((4 * self.Hp,), self.dtype)
        vectors = () if bias is None else bias if self.reset_after else (bias,)
        for vector, n in zip(vectors, (2, 3), strict=False):
            terms = np.zeros_like(sums)
            self.layout.pack(vector[None], terms, (0, 1, n), self.Hp, len(terms), None)
            sums += terms
        return sums


def _blank(size: int, array: Array) -> Array:
    """Memory for a matrix that takes an array: zero, unless the array fills it."""
    return (aligned.empty if size == array.size else aligned.zeros)((size,), array.dtype)


def prepare(
    kernel: Matrix, recurrent_kernel: Matrix, bias: Bias = None, *,
    reset_after: bool, activation: Activation = "tanh", recurrent_activation: Activation = "sigmoid",
    backend: BackendName | None = None, layout: Layout = OWN, backward: Backward = "later", threads: int | None = None,
    gain: Array | None = None, zoneout: float = 0.0,
) -> Weights:  # fmt: skip
    """Return the `Weights` of parameters as a `GRU` has them; bias None is zero.

    Parameters
    ----------
    kernel, recurrent_kernel : ndarrays of shape (D, 3H) and (H, 3H), float32 or float64, any strides
        Or both a `SmallMatrix`: for inference alone, in the layout OWN.
    bias : ndarray of shape (3H,), or two of them with reset_after; optional
    backend : {"native", "blas"}, optional
        What computes the products; None is that in use (`kernels.get_backend`).
    layout : Layout
        Of the three arrays.
    backward : {"later", "now", "never"}
        When what backward reads is made: when it first asks, from the arrays themselves, which must keep their values
        until then; at once; or not at all.
    threads : int, optional
        Limits those of this call, as `kernels.get_num_threads` limits those of all.
    gain : ndarray of shape (2, 3H), optional
        With it the products are normalised, of the input and of the state; in the layout OWN alone.
    zoneout : float
        The probability with which a unit keeps its old state at a step; without `Noise` as it is to be expected.
    """
    if max(4 * len(recurrent_kernel), len(kernel)) > kernels.BLAS_MOST:
        raise ValueError(f"kernel: expected sizes that BLAS' integers hold, got {kernel.shape}")
    if layout.z == "old" and recurrent_activation not in _SYMMETRIC:
        raise ValueError(
            f"recurrent_activation: expected one of {', '.join(_SYMMETRIC)} where z weighs the old state, "
            f"got {recurrent_activation!r}"
        )
    return Weights(
        kernel, recurrent_kernel, bias, reset_after, activation, recurrent_activation,
        backend or kernels.get_backend(), layout, backward, threads, gain, zoneout,
    )  # fmt: skip


class Noise(NamedTuple):
    """What chance has chosen for one pass in training."""

    mask: Array | None = None  # (N, H), C-contiguous: factors of the states as the products read them
    # (M, H), C-contiguous: 0 where a unit keeps its old state; or what draws that for some of the M packed rows
    taken: NDArray[np.uint8] | Callable[[slice], NDArray[np.uint8]] | None = None

    def drawn(self, rows: slice = slice(None)) -> Noise:
        """What chance has chosen for these packed rows."""
        return self._replace(taken=self.taken(rows)) if callable(self.taken) else self


NO_NOISE = Noise()


class Tape(NamedTuple):
    """What `backward` needs of a `forward`; x is the array that was given, not a copy, and must keep its values."""

    weights: Weights
    x: Array
    plan: Schedule | Any  # with resets segments.Cut
    gates: Array | Any  # (M, weights.row): r z n q, or r z n when the reset comes before; then products
    states: Array | Any  # (N + M, Hp) h0, then the state after each packed row
    noise: Noise = NO_NOISE


class Gradients(NamedTuple):
    """Of one pass; those of the weights in the layout that `prepare` was given, None where they were not wanted."""

    dx: Array | None  # (N, T, D)
    dh0: Array | Any  # (N, H)
    kernel: Array | Any  # (D, 3H)
    recurrent_kernel: Array | Any  # (H, 3H)
    bias: Array | Any  # (3H,), or (2, 3H) with reset_after
    gain: Array | Any = None  # (2, 3H), where products are normalised
    initial: Array | Any = None  # (H,), of the state after resets (segments.py)


def readable(x: Array) -> Array:
    """x, or a copy of it where the kernels cannot read it: features must be contiguous, elements aligned and whole
    strides apart."""
    if x.flags.c_contiguous and x.flags.aligned:
        return x
    contiguous = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    if contiguous and x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides):
        return x
    return x.copy(order="C")  # not ascontiguousarray: it keeps odd strides of axes of size one


def run(*passes: Generator[Call, None, Result], threads: int | None = None) -> list[Result]:
    """Run one pass, or two that do not depend on each other, and return the result of each.

    A pass is a generator: `forward_pass` or `backward_pass`, or several of them in a row. It allocates and yields what
    the kernels are to run, and comes back with the result; until then it keeps the arrays alive.
    """
    results: list[Any] = [None] * len(passes)
    running = dict(enumerate(passes))
    while True:
        calls = []
        for i, p in list(running.items()):
            try:
                calls.append(next(p))
            except StopIteration as end:
                results[i] = end.value
                del running[i]
        if not calls:
            return results
        kernels.run_calls(calls, _most(threads))


def forward(*args: Any, **kwargs: Any) -> tuple[Array, Tape | None]:
    """Run a `forward_pass` and return its result."""
    return run(forward_pass(*args, **kwargs))[0]


def backward(*args: Any, **kwargs: Any) -> Gradients:
    """Run a `backward_pass` and return its result."""
    return run(backward_pass(*args, **kwargs))[0]


def forward_pass(
    weights: Weights,
    x: Array,
    h0: Array,
    plan: Schedule,
    y: Array | None = None,
    training: bool = False,
    h: Array | None = None,
    threads: int | None = None,
    noise: Noise = NO_NOISE,
    memory: tuple[Array, Array] | None = None,
) -> Generator[Call, None, tuple[Array, Tape | None]]:
    """All steps of one cell; the result is (final state, Tape or None).

    Parameters
    ----------
    weights : Weights
    x : ndarray of shape (N, T, D), the weights' dtype, `readable`
    h0 : ndarray of shape (N, H), the weights' dtype, C-contiguous
    plan : Schedule
    y : ndarray of shape (N, T, H), optional
        Written where a row takes a step, left alone elsewhere; contiguous in its features.
    training : bool
        Whether the tape is kept.
    h : ndarray of shape (N, H), C-contiguous, optional
        Where the final state goes: that after each row's last step, h0 where there is none.
    threads : int, optional
        As in `prepare`.
    noise : Noise
        Of training, whether the tape is kept or not.
    memory : tuple of ndarray, optional
        From `tape_memory`: where the tape goes.
    """
    N, threads = len(h0), _threads(weights, threads)
    h = np.empty((N, weights.H), x.dtype) if h is None else h
    gates = states = None
    if training:
        gates, states = tape_memory(weights, N, plan.steps) if memory is None else memory
        gates, states = gates[: plan.steps], states[: N + plan.steps]
    size = kernels.forward_work(
        N, plan.steps, weights.D, weights.H, weights.reset_after, weights.gain is not None, noise.mask is not None,
        training, x.itemsize, weights.route, threads,
    )  # fmt: skip
    work = np.empty(size, x.dtype)
    yield kernels.forward(
        _in_order(x, plan), h0, weights.kernel, weights.recurrent_kernel, weights.bias,
        weights.gain, weights.zoneout, noise.taken, noise.mask,
        plan.rows, plan.offsets, plan.times, _in_order(y, plan), h, gates, states, work,
        weights.reset_after, weights.recurrent_activation, weights.activation, weights.route, threads,
    )  # fmt: skip
    return h, Tape(weights, x, plan, gates, states, noise) if training else None


def tape_memory(weights: Weights, N: int, steps: int) -> tuple[Array, Array]:
    """Memory for the gates and the states of N rows and so many packed ones."""
    return aligned.empty((steps, weights.row), weights.dtype), aligned.empty((N + steps, weights.Hp), weights.dtype)


class Sums(NamedTuple):
    """Gradients of weights as the kernels add to them."""

    kernel: Array  # (D, 3Hp) n r z, or that in panels
    recurrent_kernel: Array  # (H, 3Hp) r z n, the same
    bias: Array  # (4Hp,) n r z q, or (3Hp,) n r z
    gain: Array | None  # (6Hp,)


def zeros(weights: Weights) -> Sums:
    """The `Sums` of a pass that begins."""
    columns, dtype = 3 * weights.Hp, weights.dtype
    return Sums(
        aligned.zeros((weights.D, columns), dtype), aligned.zeros((weights.H, columns), dtype),
        aligned.zeros(((4 if weights.reset_after else 3) * weights.Hp,), dtype),
        None if weights.gain is None else aligned.zeros((6 * weights.Hp,), dtype),
    )  # fmt: skip


def backward_pass(
    dy: Array | None,
    dh: Array | None,
    tape: Tape,
    need_dx: bool = True,
    out: Gradients | None = None,
    threads: int | None = None,
    need_grads: bool = True,
    sums: Sums | None = None,
) -> Generator[Call, None, Gradients]:
    """The gradients of one forward pass; the result is `Gradients`, and the tape is only read.

    Parameters
    ----------
    dy : ndarray of shape (N, T, H), `readable`, or None
        Gradient of the outputs; read where a row takes a step.
    dh : ndarray of shape (N, H), or None
        Gradient of the final state.
    out : Gradients, optional
        Arrays to write, any strides for those of the weights; where one is None, a new one is made. `dx` is written
        where a row takes a step, is contiguous in its features, and counts only if it is needed.
    threads : int, optional
        As in `prepare`.
    need_grads : bool
        Whether the gradients of the weights are wanted; without them their products are left out.
    sums : Sums, optional
        Of the steps behind these, if they were another pass: those of these steps are added, and it is left to the
        caller to make gradients of them (`of_weights`).
    """
    weights, x, plan, gates, states, noise = tape
    N, H, dtype, threads = len(x), weights.H, x.dtype, _threads(weights, threads)
    dx, dh0 = out[:2] if out else (None, None)
    dx = (input_gradient(x, plan) if dx is None else dx) if need_dx else None
    dh0 = np.empty((N, H), dtype) if dh0 is None else dh0
    own = zeros(weights) if sums is None and need_grads else sums
    dkernel, drecurrent_kernel, dbias, dgain = (None,) * 4 if own is None else own
    dh = None if dh is None else np.ascontiguousarray(dh)
    size = kernels.backward_work(
        N, plan.steps, weights.D, H, weights.reset_after, weights.gain is not None, noise.mask is not None,
        weights.zoneout > 0, x.itemsize, weights.route, threads,
    )  # fmt: skip
    work = np.empty(size, dtype)
    W_back, U_back = weights.back(threads)
    yield kernels.backward(
        _in_order(dy, plan), dh, _in_order(x, plan), W_back, U_back,
        weights.gain, weights.zoneout, noise.taken, noise.mask, gates, states,
        plan.rows, plan.offsets, plan.times, _in_order(dx, plan), dh0,
        dkernel, drecurrent_kernel, dbias, dgain, work,
        weights.reset_after, weights.recurrent_activation, weights.activation,
        weights.route, threads,
    )  # fmt: skip
    if own is None or sums is not None:
        return Gradients(dx, dh0, None, None, None)
    return of_weights(own, weights, Gradients(dx, dh0, *(out[2:5] if out else (None,) * 3)), threads)


def input_gradient(x: Array, plan: Schedule) -> Array:
    """Memory for the gradient of x: zero, unless every row takes all steps."""
    return (np.empty if plan.steps == len(x) * x.shape[1] else np.zeros)(x.shape, x.dtype)


def of_weights(sums: Sums, weights: Weights, out: Gradients, threads: int | None = None) -> Gradients:
    """`out` with the gradients that `sums` are, in its arrays, or in new ones where these are None."""
    D, H, Hp, dtype, threads = weights.D, weights.H, weights.Hp, weights.dtype, _threads(weights, threads)
    _, _, kernel, recurrent_kernel, bias = out[:5]
    kernel = np.empty((D, 3 * H), dtype) if kernel is None else kernel
    recurrent_kernel = np.empty((H, 3 * H), dtype) if recurrent_kernel is None else recurrent_kernel
    bias = np.empty((2, 3 * H) if weights.reset_after else 3 * H, dtype) if bias is None else bias

    def write(array: Array, matrix: Array, places: tuple[int, int, int]) -> None:
        in_panels = kernels.gradient_in_panels(len(matrix), dtype.itemsize, weights.route)
        ld = 0 if in_panels else matrix.shape[1]
        weights.layout.pack(array, matrix.ravel(), places, Hp, ld, threads, inverse=True)

    write(kernel, sums.kernel, (1, 2, 0))
    write(recurrent_kernel, sums.recurrent_kernel, (0, 1, 2))
    for vector, n in zip(bias if weights.reset_after else (bias,), (0, 3), strict=False):  # of the second one n is q's
        write(vector[None], sums.bias[None], (1, 2, n))
    gain = None
    if sums.gain is not None:
        gain = np.ascontiguousarray(sums.gain.reshape(2, 3, Hp)[:, :, :H]).reshape(2, 3 * H)
    return Gradients(out.dx, out.dh0, kernel, recurrent_kernel, bias, gain)


def _most(threads: int | None) -> int:
    """The most threads that a call uses which was given this limit, or None."""
    most = kernels.get_num_threads()
    return most if threads is None else min(most, threads)


def _threads(weights: Weights, threads: int | None) -> int:
    """BLAS has threads of its own, and calls from two of ours would disturb each other."""
    return 1 if weights.backend == "blas" else _most(threads)


def _in_order(array: Array | None, plan: Schedule) -> Array | None:
    """A batch array with its time axis in processing order."""
    return array[:, ::-1] if plan.flip and array is not None else array
