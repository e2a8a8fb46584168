"""Compiled kernels. One build of them is chosen here, once, at import: the best that the CPU can run, or CGRU_ISA's.

`available` lists the builds that are installed and that this CPU can run, best first; `isa` is the one in use, and
`fuses` says whether it fuses multiplications with additions (platform.h): all builds that do give the same bits.
"""

import importlib
import importlib.util
import os

from cgru.kernels import calls, products, runtime

_BUILDS = ("avx512", "avx2", "baseline")


def _installed(isa: str) -> bool:
    return importlib.util.find_spec(f"cgru.kernels.{isa}") is not None


def _choose() -> str:
    """The name of the build to use."""
    if not available:
        raise ImportError(f"no build of the kernels is for this CPU, which runs {', '.join(runtime.supported_isas())}")
    wanted = os.environ.get("CGRU_ISA", "")
    if not wanted:
        return available[0]
    if wanted not in _BUILDS:
        raise ImportError(f"CGRU_ISA: expected one of {', '.join(_BUILDS)}, got {wanted!r}")
    if wanted not in available:
        why = "this CPU lacks it" if _installed(wanted) else "it was not built for this platform"
        raise ImportError(f"CGRU_ISA={wanted}: {why}; available here: {', '.join(available)}")
    return wanted


available = tuple(isa for isa in runtime.supported_isas() if _installed(isa))
isa = _choose()
calls.use(importlib.import_module(f"cgru.kernels.{isa}").build)
fuses = calls.fuses()

BLAS_MOST = calls.BLAS_MOST
activate = calls.activate
activate_rows = calls.activate_rows
activation_gradient = calls.activation_gradient
backward = calls.backward
backward_rows = calls.backward_rows
backward_work = calls.backward_work
forward = calls.forward
forward_work = calls.forward_work
gates_row = calls.gates_row
gather = calls.gather
gemm = products.gemm
gradient_in_panels = calls.gradient_in_panels
memory_holds = calls.memory_holds
multiply = calls.multiply
multiply_pairs = calls.multiply_pairs
pack = calls.pack
padded_units = calls.padded_units
panel_width = calls.panel_elements
random_rows = calls.random_rows
run_calls = calls.run_calls
scatter_add = calls.scatter_add
softmax_crossentropy = calls.softmax_crossentropy
squares_sum = calls.squares_sum
update = calls.update
DenseHandle = calls.DenseHandle
Handle = calls.Handle
tune = calls.tune
forget = calls.forget
length_key = calls.length_key
rehearse = calls.rehearse
get_num_threads = runtime.get_num_threads
set_num_threads = runtime.set_num_threads
swap_thread_limit = runtime.swap_thread_limit
BACKENDS = runtime.BACKENDS
get_backend = runtime.get_backend
set_backend = runtime.set_backend
swap_backend = runtime.swap_backend
read_quota = runtime.read_quota
