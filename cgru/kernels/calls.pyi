from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar, final

from cgru.recurrence import Weights
from cgru.typing import Array, IntArray

_Function = TypeVar("_Function", bound=Callable[..., Any])

class _Typed(Generic[_Function]):
    """A function that is compiled for each of two types."""

    def __getitem__(self, ctype: Literal["float", "double"]) -> _Function: ...

BLAS_MOST: int

activate: _Typed[Callable[[int, Array, Array], None]]
backward: _Typed[Callable[..., Call]]
forward: _Typed[Callable[..., Call]]
multiply: _Multiply
pack: _Typed[Callable[..., None]]

class _Multiply(_Typed[Callable[..., None]]):
    def __call__(
        self, a: Array, b: Array, c: Array, sums: Array | None, accumulate: bool, route: int, threads: int
    ) -> None: ...

@final
class Call: ...

@final
class DenseHandle:
    kernel: Array
    bias: Array
    route: int
    backend: str | None
    def __init__(
        self, kernel: Array | None, bias: Array | None, activation: int, packed: bool, threads: int, route: int = -1,
        blob: Array | None = None, shape: tuple[int, ...] | None = None,
    ) -> None: ...
    def apply(self, x: object, out: object, threads: int, raw: bool = False) -> bool: ...

@final
class Handle:
    def __init__(self, cells: Sequence[Weights], learned: Array | None = None) -> None: ...
    def step(self, x: object, h: object, out: object, threads: int) -> Array | Any: ...
    def step_at(self, x: int, h: int, out: int, N: int, threads: int) -> bool: ...
    def sequence(self, x: object, y: object, h: object, started: bool, threads: int) -> bool: ...

def use(capsule: object) -> None: ...
def fuses() -> bool: ...
def gemm(
    a: Array,
    b: Array,
    out: Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> Array: ...
def multiply_pairs(
    what: int,
    steps: Array,
    steps_ends: IntArray,
    memory: Array,
    memory_ends: IntArray,
    weights: Array,
    places: IntArray,
    outputs: Array | None,
    threads: int,
) -> None: ...
def activate_rows(y: Array, bias: Array, activation: int, threads: int) -> None: ...
def activation_gradient(y: Array, d: Array, out: Array, activation: int, threads: int) -> None: ...
def softmax_crossentropy(
    y: Array,
    bias: Array,
    labels: IntArray,
    scales: Array,
    seen: Array,
    best: IntArray | None,
    threads: int,
) -> None: ...
def gather(table: Array, ids: IntArray, places: IntArray | None, out: Array, threads: int) -> None: ...
def scatter_add(table: Array, ids: IntArray, places: IntArray | None, d: Array, threads: int) -> None: ...
def update(
    method: int,
    p: Array,
    g: Array,
    slots: Sequence[Array],
    new_p: Array,
    new_slots: Sequence[Array],
    terms: Sequence[float],
    threads: int,
) -> bool: ...
def random_rows(
    key_0: int,
    key_1: int,
    examples: IntArray,
    per_example: int,
    first: int,
    steps: IntArray | None,
    out: Array,
    kind: int,
    threshold: int,
    scale: float,
    threads: int,
) -> None: ...
def squares_sum(g: Array, threads: int) -> float: ...
def gradient_in_panels(rows: int, itemsize: int, route: int) -> bool: ...
def padded_units(n: int, itemsize: int) -> int: ...
def panel_elements(itemsize: int) -> int: ...
def gates_row(H: int, reset_after: bool, normed: bool, itemsize: int) -> int: ...
def forward_work(
    N: int,
    M: int,
    D: int,
    H: int,
    reset_after: bool,
    normed: bool,
    masked: bool,
    training: bool,
    itemsize: int,
    route: int,
    threads: int,
) -> int: ...
def backward_rows(N: int, M: int, route: int) -> int: ...
def backward_work(
    N: int,
    M: int,
    D: int,
    H: int,
    reset_after: bool,
    normed: bool,
    masked: bool,
    zones: bool,
    itemsize: int,
    route: int,
    threads: int,
) -> int: ...
def run_calls(calls: list[Call], threads: int) -> None: ...
def memory_holds(address: int, content: bytes) -> bool: ...
def tune(**changes: int) -> dict[str, int]: ...
def forget() -> None: ...
def length_key(steps: int, enough: int, ready: bool) -> int: ...
def rehearse(
    time_of: Callable[[int, int], float],
    calls: int,
    first: int,
    threads: int,
    *,
    by_units: bool = False,
    by_rows: bool = False,
    pair: bool = False,
) -> list[int]: ...
