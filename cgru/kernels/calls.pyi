from collections.abc import Callable, Sequence
from typing import Any, final

from cgru.recurrence import Weights
from cgru.typing import Array, IntArray

BLAS_MOST: int

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
def multiply(
    a: Array, b: Array, c: Array, sums: Array | None, accumulate: bool, route: int, threads: int
) -> None: ...
def activate(activation: int, x: Array, out: Array) -> None: ...
def pack(
    array: Array,
    matrix: Array,
    starts: Sequence[int],
    places: Sequence[int],
    below: bool,
    negate: bool,
    columns: int,
    ld: int,
    threads: int,
    inverse: bool = False,
) -> None: ...
def forward(
    x: Any,
    h0: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    gain: Array | None,
    zoneout: float,
    taken: Any,
    mask: Array | None,
    rows: IntArray | None,
    offsets: IntArray | None,
    times: IntArray | None,
    y: Array | None,
    h: Array,
    gates: Array | None,
    states: Array | None,
    work: Array,
    reset_after: bool,
    recurrent_activation: int,
    activation: int,
    route: int,
    threads: int,
) -> Call: ...
def backward(
    dy: Array | None,
    dh: Array | None,
    x: Any,
    kernel: Array,
    recurrent_kernel: Array,
    gain: Array | None,
    zoneout: float,
    taken: Any,
    mask: Array | None,
    gates: Array,
    states: Array,
    rows: IntArray | None,
    offsets: IntArray | None,
    times: IntArray | None,
    dx: Array | None,
    dh0: Array,
    dkernel: Array | None,
    drecurrent_kernel: Array | None,
    dbias: Array | None,
    dgain: Array | None,
    work: Array,
    reset_after: bool,
    recurrent_activation: int,
    activation: int,
    route: int,
    threads: int,
) -> Call: ...
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
