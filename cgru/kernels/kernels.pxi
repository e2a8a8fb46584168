# The entry points of the compiled kernels; included by one stub for each instruction set.
#
# Design: one layer, one direction. A step writes x W into the rows of its gates, adds h U to them (projection.pxd:
# packed tile or BLAS) and transforms them in place, row by row (gates.pxd). The rows of a batch do not depend on each
# other, and the units of a step only through the state, so a part of the work is a range of rows and a range of units:
# with many rows each thread takes rows through all steps and meets nobody (forward_rows), with few rows each takes
# units, keeps their weights in its own cache, and the team meets once or twice a step (forward_units). Both run the
# same step. Backward walks blocks of steps from the last to the first: first the gradients of a block's gates, by rows
# or by units as above, then the large products of the block, cut by their output, so that every sum has one order
# whatever the number of threads.
#
# Nothing here allocates or checks: recurrence.py does. Arrays of the batch (x, y, dx, dy) may have any stride for rows
# and times (a negative time stride is the reverse direction), only their features are contiguous. A debug build asserts
# all of it. Inside, units are padded to whole vectors, Hp; nobody reads what the padding of a state holds. Packed rows,
# M of them, are those of schedule.pxd.

import numpy as np

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cython cimport floating
from libc.string cimport memcpy, memset

from blas cimport gemm as blas_gemm
from cgru.kernels.runtime cimport awake, run
from gates cimport (
    add,
    candidate_backward,
    candidate_forward,
    gates_forward,
    reset_after_backward,
    reset_after_forward,
    reset_before_backward,
    reset_before_forward,
    slope_terms,
)
from projection cimport BLAS, CGRU_TILE_ROWS, PACKED, Matrix, Route, lanes, multiply, padded, panel_width
from schedule cimport Schedule, batch_row, block_end, block_start_before, count, offset, place

cdef extern from "team.h" nogil:
    ctypedef struct cgru_team:
        int size
    ctypedef struct cgru_member:
        cgru_team *team
        int id
        int turn
    void cgru_clear(cgru_team *team, int wanted) noexcept
    int cgru_join(cgru_team *team, int wanted, int patience) noexcept
    void cgru_arrive(cgru_member *me) noexcept
    void cgru_await(const cgru_member *me) noexcept

cdef extern from "platform.h" nogil:
    unsigned cgru_flush_denormals() noexcept
    void cgru_restore_denormals(unsigned was) noexcept

BLAS_MOST = 2**31 - 1  # sizes and strides that BLAS' integers hold

# Where one way of working ends and another begins. They stand in one place so that `tune` can move them.
cdef struct Limits:
    Py_ssize_t signal_work  # multiplications between two looks for signals: some 10 to 100 ms
    Py_ssize_t gil_work     # multiplications below which a step keeps the GIL: some 20 us; taking it back can cost 5 ms
    Py_ssize_t thread_work  # multiplications of a call from which a second thread pays
    Py_ssize_t small_work   # the same where that thread is awake
    Py_ssize_t team_work    # multiplications of a step from which a second thread pays though they meet at every step
    Py_ssize_t few_rows     # rows from which threads share a batch by rows; below, by units
    Py_ssize_t step_rows    # rows from which a step reads its own input; below, the steps of a block do it together
    Py_ssize_t block_rows   # packed rows of such a block
    Py_ssize_t large_rows   # packed rows of a block in backward
    Py_ssize_t dx_rows      # packed rows of a task of dx

cdef Limits limits
limits.signal_work = 1_000_000_000
limits.gil_work = 500_000
limits.thread_work = 2_000_000
limits.small_work = 90_000
limits.team_work = 15_000
limits.few_rows = 8
limits.step_rows = 4
limits.block_rows = 64
limits.large_rows = 512
limits.dx_rows = 48


def tune(**changes):
    """Set limits by name and return what all of them were; for tests and benchmarks, between calls and for all
    threads."""
    global limits
    before = limits
    after = dict(before)
    for name, value in changes.items():
        if name not in after:
            raise ValueError(f"{name}: expected one of {', '.join(after)}")
        after[name] = value
    limits = after
    return before


# Bytes of workspace that a handle keeps between calls.
cdef Py_ssize_t KEPT_BYTES = 1 << 18
# Elements by which the parts of a workspace are aligned: 64 bytes of float.
cdef enum:
    ALIGN = 16


cdef inline Py_ssize_t aligned(Py_ssize_t n) noexcept nogil:
    return (n + ALIGN - 1) // ALIGN * ALIGN


cdef inline floating *first_aligned(floating *work) noexcept nogil:
    """The first 64-byte boundary of a workspace, which is ALIGN elements longer than its parts."""
    return <floating *>((<size_t>work + 63) // 64 * 64)


cdef inline floating *carve(floating **work, Py_ssize_t n) noexcept nogil:
    """The next n elements of the workspace."""
    cdef floating *part = work[0]
    work[0] += aligned(n)
    return part


cdef inline int worth(Py_ssize_t work, int threads) noexcept nogil:
    """How many of the threads a call of this many multiplications uses."""
    return threads if work >= limits.thread_work else 1


cdef Schedule schedule_of(
    Py_ssize_t N, Py_ssize_t T, const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times
) noexcept:
    cdef Schedule s
    s.N = N
    s.K = T if offsets is None else offsets.shape[0] - 1
    s.rows = s.offsets = s.times = NULL
    if rows is not None and N > 0:
        s.rows = &rows[0]
    if offsets is not None:
        s.offsets = &offsets[0]
    if times is not None and times.shape[0] > 0:
        s.times = &times[0]
    return s


def _assert_schedule(Py_ssize_t N, Py_ssize_t T, rows, offsets, times):
    """Debug builds: the schedule names existing rows and times, and its counts never grow."""
    assert rows is None or sorted(rows) == list(range(N))
    counts = [N] * T if offsets is None else [offsets[k + 1] - offsets[k] for k in range(len(offsets) - 1)]
    assert len(counts) <= T and all(N >= a >= b >= min(N, 1) for a, b in zip([N] + counts, counts))
    assert times is None or (len(times) == sum(counts) and all(0 <= t < T for t in times))
    return True


include "products.pxi"
include "jobs.pxi"
include "forward.pxi"
include "backward.pxi"
include "calls.pxi"
include "handle.pxi"
